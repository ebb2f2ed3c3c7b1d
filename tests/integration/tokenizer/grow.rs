//! Terms as tokens of ModernBERT's tokenizer and of a small one.

use std::collections::BTreeMap;
use std::sync::Arc;

use cohort::config;
use cohort::prepare;
use cohort::prepare::config::CorpusConfig;

use crate::prepare::text_of;
use crate::support::python;

use super::*;

/// Terms of several words, with digits, with signs, with a letter beyond Latin-1.
const TERMS: [&str; 9] = [
    "metoprolol",
    "HbA1c",
    "COVID-19",
    "SARS-CoV-2",
    "atrial fibrillation",
    "dyspnea",
    "β-blocker",
    "tumor necrosis factor",
    "hydrochlorothiazide",
];

/// Sentences, and the tokens that they become.
const SENTENCES: [(&str, &[&str]); 6] = [
    (
        "On metoprolol daily.",
        &["On", "Ġ", "metoprolol", "Ġdaily", "."],
    ),
    ("metoprolol", &["metoprolol"]),
    (
        " metoprolol\nHbA1c\n",
        &["Ġ", "metoprolol", "Ċ", "HbA1c", "Ċ"],
    ),
    ("(HbA1c)", &["(", "HbA1c", ")"]),
    ("metoprolols", &["met", "op", "rol", "ols"]),
    (
        "post-COVID-19 COVID-190",
        &["post", "-", "COVID-19", "ĠCOVID", "-", "190"],
    ),
];

fn grow(place: &Place, from: &str, terms: &str, output: &str, grow: bool) -> String {
    place.write("terms.txt", terms);
    let mut arguments = vec![
        "tokenizer",
        "grow",
        from,
        "--terms",
        "terms.txt",
        "--output",
        output,
    ];
    arguments.extend(grow.then_some("--grow"));
    place.good(&arguments)
}

#[test]
fn terms_take_the_free_ids_of_modernbert() {
    let Some(real) = modernbert() else { return };
    let place = Place::new();
    let told = grow(
        &place,
        real.to_str().unwrap(),
        &TERMS.join("\n"),
        "grown",
        false,
    );
    assert_eq!(
        told,
        "9 terms made tokens; 50,368 ids, of which 74 [unused…] ones are free\nwritten to grown\n"
    );
    let ((old, old_fast), (library, fast)) = (open(&real), place.tokenizer("grown"));
    let record = place.record("grown");
    let digest = fs::read(place.path("grown/tokenizer.json")).unwrap();
    assert_eq!(record["tokenizer"], blake3::hash(&digest).to_hex().as_str());
    for (id, term) in (50_285..).zip(TERMS) {
        assert_eq!(library.token_to_id(term), Some(id));
        let before = old.encode_fast(format!(" {term}"), false).unwrap();
        assert_eq!(record["pieces"][id.to_string()], json!(before.get_ids()));
        // It stands for itself, wherever it stands, and decodes to itself.
        for text in [
            term.to_owned(),
            format!("with {term}, daily"),
            format!("\n{term}\n"),
        ] {
            let ids = fast.encode(&text);
            assert!(ids.contains(&id), "{text}");
            assert_eq!(library.decode(&ids, false).unwrap(), text);
        }
    }
    for (text, expected) in SENTENCES {
        let tokens = fast.encode(text).into_iter();
        let tokens: Vec<String> = tokens.map(|id| library.id_to_token(id).unwrap()).collect();
        assert_eq!(tokens, expected, "{text}");
    }
    compare(&place, &real, &old_fast, &fast);
}

/// Real documents: the library, Cohort and transformers give the same ids, and a text without any
/// term keeps those that it had.
fn compare(place: &Place, real: &Path, old: &Encoder, new: &Encoder) {
    let project = Path::new(env!("CARGO_MANIFEST_DIR"));
    let origin = project.join("configs/corpus/shared.yaml");
    let corpus: CorpusConfig = config::load(&origin).unwrap();
    let (library, _) = place.tokenizer("grown");
    let mut texts: Vec<String> = SENTENCES.map(|(text, _)| text.to_owned()).to_vec();
    for job in prepare::find_inputs(&corpus, origin.parent().unwrap()).unwrap() {
        let documents = job.documents(&Arc::default()).step_by(47).take(80);
        texts.extend(documents.map(|document| text_of(document.unwrap())));
    }
    let (mut cases, mut with_terms) = (Vec::new(), 0);
    for text in texts {
        let ids = new.encode(&text);
        let expected = library.encode_fast(text.as_str(), false).unwrap();
        assert!(ids == expected.get_ids());
        let unchanged = !TERMS.iter().any(|term| text.contains(term));
        with_terms += usize::from(!unchanged);
        assert!(!unchanged || ids == old.encode(&text));
        cases.push(json!({"text": text, "ids": ids, "unchanged": unchanged}));
    }
    assert!(
        with_terms > 10 && cases.len() - with_terms > 100,
        "{with_terms} with terms"
    );
    if python::has_transformers() {
        place.write("cases.json", Value::from(cases).to_string());
        let [grown, cases] = ["grown", "cases.json"].map(|name| place.path(name));
        python::run_script("check-tokenizer", &[grown.as_path(), &cases, real]);
    }
}

#[test]
fn the_vocabulary_grows_when_asked() {
    let place = Place::new();
    place.write("old/tokenizer.json", small());
    let terms: Vec<String> = (0..70).map(|number| format!("zqterm{number}x")).collect();
    let terms = terms.join("\n");
    place.write("terms.txt", &terms);
    let arguments = [
        "tokenizer",
        "grow",
        "old",
        "--terms",
        "terms.txt",
        "--output",
        "grown",
    ];
    assert_eq!(
        place.refused(&arguments),
        "error: cannot grow old: 70 terms would be new tokens, the tokenizer has 0 free \
         [unused…] ids\n  hint: `--grow` adds ids, up to a multiple of 64; or shorten the list\n"
    );
    assert!(!place.path("grown").exists());
    let (old, _) = place.tokenizer("old");
    let rows = old.get_vocab(true).into_values().max().unwrap() + 1;
    let after = (rows + 70).next_multiple_of(64);
    let told = grow(&place, "old", &terms, "grown", true);
    let free = after - rows - 70;
    assert!(
        told.contains(&format!("{after} ids, of which {free} [unused…]")),
        "{told}"
    );
    let (library, fast) = place.tokenizer("grown");
    let record: BTreeMap<u32, Vec<u32>> =
        serde_json::from_value(place.record("grown")["pieces"].clone()).unwrap();
    assert!(record.keys().copied().eq(rows..after));
    for id in rows..after {
        let token = library.id_to_token(id).unwrap();
        if id < rows + 70 {
            assert_eq!(token, format!("zqterm{}x", id - rows));
            assert_eq!(fast.encode(&token), [id]);
            assert!(record[&id].len() > 1);
        } else {
            assert_eq!(token, format!("[unused{}]", id - rows - 70));
            assert!(record[&id].is_empty());
        }
    }
    // Once more: a term made of an earlier one names it, and takes the first free id; what the
    // record had stays in it.
    let told = grow(&place, "grown", "zqterm3x fever\n", "again", false);
    assert!(told.starts_with("1 term made tokens"), "{told}");
    let id = rows + 70;
    let again: BTreeMap<u32, Vec<u32>> =
        serde_json::from_value(place.record("again")["pieces"].clone()).unwrap();
    assert!(again[&id].contains(&(rows + 3)));
    assert_eq!(again.len(), record.len());
    assert!(
        record
            .iter()
            .all(|(old, pieces)| *old == id || again[old] == *pieces)
    );
}

#[test]
fn terms_that_are_tokens_already_stay_as_they_are() {
    let place = Place::new();
    place.write("old/tokenizer.json", small());
    let told = grow(&place, "old", "fever\nzqx\npain\n", "grown", true);
    assert!(told.starts_with("1 term made tokens"), "{told}");
    assert!(told.contains("2 terms already one token, so left alone: lines 1, 3"));
}

/// A tokenizer that does not fall back to bytes has one token for all that it does not know.
#[test]
fn a_term_that_was_unknown_becomes_a_token() {
    let place = Place::new();
    let vocabulary = json!({"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "[PAD]": 3, "[MASK]": 4,
        "fever": 5, "meto": 6, "##pro": 7});
    let added: Vec<Value> = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"]
        .iter()
        .zip(0..)
        .map(|(content, id)| {
            json!({"id": id, "content": content, "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false, "special": true})
        })
        .collect();
    let old = json!({"version": "1.0", "truncation": null, "padding": null,
        "added_tokens": added, "normalizer": null,
        "pre_tokenizer": {"type": "BertPreTokenizer"}, "post_processor": null, "decoder": null,
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": vocabulary}});
    place.write("old/tokenizer.json", old.to_string());
    let told = grow(&place, "old", "fever\nHbA1c\nmetopro\n", "grown", true);
    assert!(told.starts_with("2 terms made tokens"), "{told}");
    assert!(
        told.contains("1 term already one token, so left alone: line 1"),
        "{told}"
    );
    // Of the first nothing was known; the second had pieces.
    let pieces = place.record("grown")["pieces"].clone();
    assert_eq!((&pieces["8"], &pieces["9"]), (&json!([]), &json!([6, 7])));
}

#[test]
fn what_cannot_be_a_term_is_refused_by_its_line() {
    let place = Place::new();
    place.write("old/tokenizer.json", small());
    let refused = |terms: &str| {
        place.write("terms.txt", terms);
        place.refused(&[
            "tokenizer",
            "grow",
            "old",
            "--terms",
            "terms.txt",
            "--output",
            "grown",
            "--grow",
        ])
    };
    let told = refused("a1b\n[CLS]\n");
    insta::assert_snapshot!(
        told,
        @"error: cannot grow old: the term of line 2 is a token already"
    );
    let told = refused("cafe\u{301} noir\ncaf\u{e9} noir\n");
    insta::assert_snapshot!(
        told,
        @"error: cannot grow old: to the tokenizer, the terms of lines 1 and 2 are the same"
    );
    insta::assert_snapshot!(refused("a1b\nna\u{ef}vet\u{e9}\n"), @r"
    error: cannot grow old: this tokenizer cannot turn the tokens of line 2 back into text: it takes some of their characters for bytes
      hint: leave out terms with letters such as é or µ
    ");
    let told = refused(&format!("{PRIVATE}\n{PRIVATE}\n"));
    insta::assert_snapshot!(
        told,
        @"error: the terms in terms.txt: line 2 is the term of line 1 once more"
    );
    let note = format!("{PRIVATE} said that {}", "it hurt ".repeat(40));
    insta::assert_snapshot!(refused(&note), @r"
    error: the terms in terms.txt: line 1 has 340 bytes, a term has at most 256
      hint: the file of `--terms` has one term a line
    ");
    assert!(!place.path("grown").exists());
    place.write("grown/tokenizer.json", "{}");
    insta::assert_snapshot!(refused("a1b\n"), @r"
    error: there is a tokenizer in grown already
      hint: name another folder
    ");
}

/// A record beside a tokenizer that it does not belong to would set wrong rows.
#[test]
fn a_record_of_another_tokenizer_is_refused() {
    let place = Place::new();
    place.write("old/tokenizer.json", small());
    grow(&place, "old", "zqx\n", "grown", true);
    fs::copy(
        place.path("old/tokenizer.json"),
        place.path("grown/tokenizer.json"),
    )
    .unwrap();
    place.write("terms.txt", "zqy\n");
    let error = place.refused(&[
        "tokenizer",
        "grow",
        "grown",
        "--terms",
        "terms.txt",
        "--output",
        "again",
        "--grow",
    ]);
    assert!(error.contains("it belongs to tokenizer"), "{error}");
}
