//! Nearly equal documents, against similarities counted by brute force.

use std::collections::BTreeSet;
use std::path::Path;

use cohort::prepare::cleaning::config::{CleaningConfig, NearDuplicatesConfig};
use cohort::prepare::cleaning::reason::Reason;
use cohort::prepare::cleaning::report::CleaningReport;
use cohort::prepare::cleaning::{CleanedSource, Cleaner};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

pub fn settings(threshold: f64) -> CleaningConfig {
    CleaningConfig {
        near_duplicates: Some(NearDuplicatesConfig { threshold }),
        ..CleaningConfig::default()
    }
}

/// The runs of five words of a text.
pub fn runs(text: &str) -> BTreeSet<Vec<String>> {
    let lower = text.to_lowercase();
    let words = lower.split(|c: char| !c.is_alphanumeric());
    let words: Vec<String> = words.filter(|w| !w.is_empty()).map(str::to_owned).collect();
    words.windows(5).map(<[String]>::to_vec).collect()
}

pub fn jaccard(one: &BTreeSet<Vec<String>>, other: &BTreeSet<Vec<String>>) -> f64 {
    let common = one.intersection(other).count();
    common as f64 / (one.len() + other.len() - common) as f64
}

/// The text with so many words, anywhere, replaced; equal runs of white space in between.
pub fn edited(text: &str, edits: usize, random: &mut ChaCha8Rng) -> String {
    let mut words: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
    for edit in 0..edits {
        let place = random.next_u64() as usize % words.len();
        words[place] = format!("edit{edit}");
    }
    words.join("  ")
}

/// Documents in families: each of a few texts, with more and more edits.
fn families(random: &mut ChaCha8Rng) -> Vec<String> {
    let mut documents = Vec::new();
    for family in 0..60_u64 {
        let word = |random: &mut ChaCha8Rng| format!("w{}", random.next_u64() % 900);
        let length = 60 + 4 * family;
        let text: Vec<String> = (0..length).map(|_| word(random)).collect();
        let text = text.join(" ");
        for edits in [0, 1, 2, 4, 7, 11, 16] {
            documents.push(edited(&text, edits, random));
        }
    }
    // Families apart, so that they meet across sources.
    let mut shuffled: Vec<(u64, String)> = documents
        .into_iter()
        .map(|text| (random.next_u64(), text))
        .collect();
    shuffled.sort();
    shuffled.into_iter().map(|(_, text)| text).collect()
}

/// Sources that are made from their names.
pub fn named(names: impl Iterator<Item = String>) -> Vec<CleanedSource> {
    let source = |name: String| CleanedSource {
        fingerprint: name.clone(),
        name,
    };
    names.map(source).collect()
}

/// Sends sources through a cleaner, batch by batch.
fn clean(
    root: &Path,
    sources: &[&[String]],
    batch: usize,
) -> (Vec<Option<Reason>>, CleaningReport) {
    let names = named((0..sources.len()).map(|number| format!("s/{number}")));
    let mut cleaner = Cleaner::open(&settings(0.8), root, names).unwrap();
    let mut verdicts = Vec::new();
    for (number, texts) in sources.iter().enumerate() {
        cleaner.begin_source(number as u32).unwrap();
        for batch in texts.chunks(batch) {
            let examined: Vec<_> = batch
                .iter()
                .map(|text| cleaner.examine(text).unwrap())
                .collect();
            verdicts.extend(cleaner.decide(&examined).unwrap());
        }
        cleaner.end_source().unwrap();
    }
    cleaner.finish(root).unwrap();
    (verdicts, CleaningReport::find(root).unwrap())
}

#[test]
fn those_above_the_threshold_are_found_and_those_below_are_not() {
    let mut random = ChaCha8Rng::seed_from_u64(11);
    let documents = families(&mut random);
    let folder = tempfile::tempdir().unwrap();
    let (verdicts, _) = clean(folder.path(), &[&documents], 4096);
    let mut kept: Vec<BTreeSet<Vec<String>>> = Vec::new();
    let (mut near, mut missed, mut far, mut wrong) = (0, 0, 0, 0);
    for (text, verdict) in documents.iter().zip(&verdicts) {
        let runs = runs(text);
        let likest = kept
            .iter()
            .map(|other| jaccard(other, &runs))
            .fold(0.0, f64::max);
        // Three standard deviations of the estimate on each side are left out.
        if likest >= 0.9 {
            near += 1;
            missed += u32::from(verdict.is_none());
        } else if likest <= 0.68 {
            far += 1;
            wrong += u32::from(verdict.is_some());
        }
        if verdict.is_none() {
            kept.push(runs);
        }
    }
    println!("{missed} of {near} missed, {wrong} of {far} wrong");
    assert!(near > 40 && far > 200, "{near} {far}");
    assert_eq!((missed, wrong), (0, 0));
}

#[test]
fn batches_and_processes_change_nothing() {
    let mut random = ChaCha8Rng::seed_from_u64(12);
    let documents = families(&mut random);
    let sources: [&[String]; 3] = [&documents[..150], &documents[150..151], &documents[151..]];
    let folder = tempfile::tempdir().unwrap();
    let expected = clean(folder.path(), &sources, 4096);
    for size in [1, 7, 100] {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(clean(folder.path(), &sources, size), expected);
    }
    // Processes that end at any point of the second and third source.
    let folder = tempfile::tempdir().unwrap();
    let names = named((0..3).map(|number| format!("s/{number}")));
    let mut verdicts: Vec<Vec<Option<Reason>>> = vec![Vec::new(); 3];
    for (source, until) in [
        (0, 150),
        (1, 0),
        (1, 1),
        (2, 0),
        (2, 120),
        (2, 200),
        (2, 269),
    ] {
        let mut cleaner = Cleaner::open(&settings(0.8), folder.path(), names.clone()).unwrap();
        cleaner.begin_source(source as u32).unwrap();
        verdicts[source].clear();
        for batch in sources[source][..until].chunks(50) {
            let examined: Vec<_> = batch
                .iter()
                .map(|text| cleaner.examine(text).unwrap())
                .collect();
            verdicts[source].extend(cleaner.decide(&examined).unwrap());
        }
        if until == sources[source].len() {
            cleaner.end_source().unwrap();
        }
    }
    // One goes back: what source 2 left is no part of what source 1 sees.
    let mut cleaner = Cleaner::open(&settings(0.8), folder.path(), names).unwrap();
    cleaner.begin_source(1).unwrap();
    let examined = cleaner.examine(&sources[1][0]).unwrap();
    assert_eq!(cleaner.decide(&[examined]).unwrap(), verdicts[1]);
    cleaner.end_source().unwrap();
    cleaner.finish(folder.path()).unwrap();
    let report = CleaningReport::find(folder.path()).unwrap();
    assert_eq!((verdicts.concat(), report), expected);
}

/// A remainder such as `[CLS] and so on. [SEP]` may end many documents.
#[test]
fn documents_of_token_ids_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let names = named(["s/0".to_owned()].into_iter());
    let mut cleaner = Cleaner::open(&settings(0.8), folder.path(), names).unwrap();
    cleaner.begin_source(0).unwrap();
    let batch = [&[5, 6, 7][..], &[], &[5, 6, 7]].map(Cleaner::examine_ids);
    let verdicts = cleaner.decide(&batch).unwrap();
    assert_eq!(verdicts, [None, Some(Reason::Empty), None]);
}
