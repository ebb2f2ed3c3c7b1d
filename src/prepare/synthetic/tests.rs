//! The invented notes: reproducible, varied, and of the shape that their style promises.

use std::collections::BTreeSet;

use super::*;

const STYLES: [Style; 5] = [
    Style::DischargeSummary,
    Style::RadiologyReport,
    Style::TriageLine,
    Style::Dialogue,
    Style::ProgressNote,
];

#[test]
fn notes_are_a_function_of_their_place() {
    for style in STYLES {
        let note = |institution, number| Notes::new(style, institution, "notes").note(number);
        assert_eq!(note("north", 7), note("north", 7));
        assert_ne!(note("north", 7), note("north", 8));
        assert_ne!(note("north", 7), note("south", 7));
    }
}

#[test]
fn notes_are_varied_and_fully_filled_in() {
    for style in STYLES {
        for institution in ["north", "south", "east", "west"] {
            let notes = Notes::new(style, institution, "notes");
            let texts: BTreeSet<String> = (0..200).map(|number| notes.note(number)).collect();
            assert_eq!(texts.len(), 200, "{style:?} repeats itself");
            for text in &texts {
                assert!(
                    !text.contains(['{', '}']),
                    "{style:?} left a slot open: {text}"
                );
            }
        }
    }
}

#[test]
fn some_stays_and_visits_outgrow_a_context_of_512_tokens() {
    for style in [Style::DischargeSummary, Style::Dialogue] {
        let notes = Notes::new(style, "north", "notes");
        let long = (0..200)
            .filter(|number| notes.note(*number).len() > 4096)
            .count();
        assert!(
            (20..100).contains(&long),
            "{style:?}: {long} of 200 are long"
        );
    }
}

#[test]
fn what_a_note_says_follows_from_its_condition() {
    let notes = Notes::new(Style::DischargeSummary, "north", "notes");
    let texts: Vec<String> = (0..500).map(|number| notes.note(number)).collect();
    let with = |word: &str| texts.iter().filter(|text| text.contains(word)).count();
    let both = |one: &str, other: &str| {
        texts
            .iter()
            .filter(|text| text.contains(one) && text.contains(other))
            .count()
    };
    assert!(with("lipase") + with("Lip") > 0);
    assert_eq!(both("apixaban", "appendix"), 0);
    assert!(both("pneumonia", "crackles") * 3 > with("lower lobe pneumonia"));
}

/// The notes are part of what a fingerprint stands for: whoever changes them raises
/// `PREPARATION_VERSION`, then this digest.
#[test]
fn notes_are_the_same_on_every_machine() {
    let mut hasher = blake3::Hasher::new();
    for style in STYLES {
        let notes = Notes::new(style, "north", "notes");
        for number in 0..20 {
            hasher.update(notes.note(number).as_bytes());
        }
    }
    assert_eq!(
        hasher.finalize().to_hex().as_str(),
        "542ed4dddacd383bf741b2090798e3c4a3b948854244a4553507d7479731f009"
    );
}
