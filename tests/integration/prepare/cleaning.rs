//! Cleaning, seen from outside: what is kept, what is counted, what is said.

use std::fs;
use std::process::Command;

use cohort::config;
use cohort::corpus::Manifest;
use cohort::prepare::cleaning::WORKING_FOLDER;
use cohort::prepare::cleaning::report::CleaningReport;
use cohort::prepare::config::CorpusConfig;
use serde_json::{Value, json};

use super::{Workspace, synthetic};

mod deidentification;
mod likeness;
mod shared_data;

const SETTINGS: &str = "max_length: 64\nheld_out: 0";

/// Sources `clinic/a`, `clinic/b` and `ward/c`, each with a line of JSON for each text.
fn three_sources(settings: &str, texts: [&[&str]; 3]) -> Workspace {
    let source = |id: &str| {
        format!(
            "  - {{id: {id}, licence: x, read: {{json_lines: {{path: {id}.jsonl, text: text}}}}}}"
        )
    };
    let sources = format!(
        "{}\n{}\n- id: ward\n  name: Ward\n  sources:\n{}",
        source("a"),
        source("b"),
        source("c")
    );
    let workspace = Workspace::new(&format!("{SETTINGS}\n{settings}"), &sources);
    for (id, texts) in ["a", "b", "c"].iter().zip(texts) {
        let lines = texts
            .iter()
            .map(|text| json!({"text": text}).to_string() + "\n");
        workspace.write(&format!("{id}.jsonl"), lines.collect::<String>().as_bytes());
    }
    workspace
}

const A: [&str; 4] = ["one and two", "three and four", " one and two\r\n", ""];
const B: [&str; 3] = ["five and six", "three and four", "three and Four"];
const C: [&str; 4] = [
    "five and six\n",
    "seven\r\neight",
    "one and two",
    "seven\neight",
];

/// The texts that training reads, by source.
fn kept(workspace: &Workspace, manifest: &Manifest) -> Vec<Vec<(u64, String)>> {
    let tokenizer = workspace.tokenizer();
    let sources = manifest.sources();
    sources
        .map(|(_, _, source)| {
            let chunks = workspace.shard_chunks(&source.train.shards);
            let texts = chunks.iter().map(|chunk| {
                let text = tokenizer.decode(&chunk.ids, true).unwrap();
                (chunk.document, text.trim().to_owned())
            });
            texts.collect()
        })
        .collect()
}

fn dropped(manifest: &Manifest) -> Vec<Value> {
    let sources = manifest.sources();
    sources
        .map(|(_, _, source)| json!(source.dropped))
        .collect()
}

#[test]
fn of_equal_texts_the_first_is_kept() {
    let workspace = three_sources("", [&A, &B, &C]);
    let manifest = workspace.prepare().unwrap();
    assert_eq!(
        dropped(&manifest),
        [
            json!({"duplicate": 1, "empty": 1}),
            json!({"duplicate": 1}),
            json!({"duplicate": 3}),
        ]
    );
    let text = |number: u64, text: &str| (number, text.to_owned());
    assert_eq!(
        kept(&workspace, &manifest),
        [
            vec![text(0, "one and two"), text(1, "three and four")],
            vec![text(0, "five and six"), text(2, "three and Four")],
            vec![text(1, "seven\neight")],
        ]
    );
    let report = CleaningReport::find(&workspace.path("out")).unwrap();
    let pairs: Vec<Value> = report
        .sources
        .iter()
        .map(|source| json!(source.first_in))
        .collect();
    let one = |count: u64| json!({"duplicate": count, "near_duplicate": 0});
    assert_eq!(
        pairs,
        [
            json!({"clinic/a": one(1)}),
            json!({"clinic/a": one(1)}),
            json!({"clinic/a": one(1), "clinic/b": one(1), "ward/c": one(1)}),
        ]
    );
    for (source, report) in manifest.sources().map(|(_, _, s)| s).zip(&report.sources) {
        let dropped: u64 = report.dropped.values().sum();
        assert_eq!(source.train.documents + dropped, report.documents);
        assert_eq!(json!(source.dropped), json!(report.dropped));
    }
    assert!(!workspace.path("out").join(WORKING_FOLDER).exists());
}

#[test]
fn without_cleaning_only_empty_documents_go() {
    for settings in ["cleaning: none", "cleaning: {duplicates: keep}"] {
        let workspace = three_sources(settings, [&A, &B, &C]);
        let manifest = workspace.prepare().unwrap();
        assert_eq!(
            dropped(&manifest),
            [json!({"empty": 1}), json!({}), json!({})]
        );
        let documents: u64 = manifest.sources().map(|(_, _, s)| s.train.documents).sum();
        assert_eq!(documents, 10);
    }
}

#[test]
fn every_reason_is_counted_in_its_order() {
    let text = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen";
    let near = text
        .replace("three", "THREE,")
        .replace("thirteen", "- thirteen");
    let texts = [
        &[text, " 38.5 °C ", "\n \n", "38.5 °C!"][..],
        &["38.5 °C!", text, &near, "none of these"],
        &["nothing of the above, not at all"],
    ];
    let settings = "cleaning: {minimum_characters: 8, near_duplicates: {threshold: 0.8}}";
    let manifest = three_sources(settings, texts).prepare().unwrap();
    assert_eq!(
        dropped(&manifest),
        [
            json!({"empty": 1, "short": 1}),
            json!({"duplicate": 2, "near_duplicate": 1}),
            json!({}),
        ]
    );
}

#[test]
fn a_source_of_which_nothing_is_left_is_an_error() {
    let error = three_sources("", [&A, &A, &C]).prepare().unwrap_err();
    insta::assert_snapshot!(format!("{error:#}"), @r"
    clinic/b: every document is dropped (3 duplicate, 1 empty)
      hint: remove this source, or change `cleaning`
    ");
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let shards = |threads: usize, settings: &str| {
        let sources = "  - {id: a, licence: x, read: {synthetic: {style: triage_line, documents: \
             6000}}}\n  - {id: b, licence: x, read: {synthetic: {style: progress_note, documents: \
             300}}}";
        let workspace = Workspace::new(&format!("{SETTINGS}\n{settings}"), sources);
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        let manifest = pool.install(|| workspace.prepare()).unwrap();
        (
            manifest,
            fs::read_to_string(workspace.path("out/cleaning.json")).unwrap(),
        )
    };
    for settings in ["", "cleaning: {near_duplicates: {threshold: 0.7}}"] {
        let (manifest, report) = shards(1, settings);
        assert_eq!(shards(3, settings), (manifest, report));
    }
}

#[test]
fn what_is_dropped_is_told() {
    let workspace = three_sources("", [&A, &B, &C]);
    let output = Command::new(env!("CARGO_BIN_EXE_cohort"))
        .arg("prepare")
        .arg(workspace.path("corpus.yaml"))
        .output()
        .unwrap();
    assert!(output.status.success());
    let shown = String::from_utf8(output.stdout).unwrap();
    let (_, dropped) = shown.split_once("training tokens\n").unwrap();
    insta::assert_snapshot!(dropped.trim(), @r"
    dropped from  empty  duplicate  of
    ------------  -----  ---------  --
    clinic/a          1          1   4
    clinic/b          0          1   3
    ward/c            0          3   4

    repeated in  first in  duplicate  near duplicate
    -----------  --------  ---------  --------------
    clinic/a     clinic/a          1               0
    clinic/b     clinic/a          1               0
    ward/c       clinic/a          1               0
    ward/c       clinic/b          1               0
    ward/c       ward/c            1               0
    ");
}

/// The error of a configuration, without its excerpt.
fn refusal(cleaning: &str) -> String {
    let workspace = Workspace::new(
        &format!("{SETTINGS}\ncleaning: {cleaning}"),
        &synthetic("triage_line", 3),
    );
    let error = config::load::<CorpusConfig>(&workspace.path("corpus.yaml")).unwrap_err();
    let shown = format!("{error:#}");
    let shown = shown.replace(&workspace.folder.path().display().to_string(), "DIR");
    shown.lines().next().unwrap().to_owned()
}

#[test]
fn settings_that_cannot_be_are_refused() {
    let refusals: Vec<String> = [
        "some",
        "{duplicate: drop}",
        "{duplicates: exact}",
        "{near_duplicates: {threshold: 0.3}}",
        "{near_duplicates: {}}",
        "{deidentification: {replace_with: \" \"}}",
        "{deidentification: {replace_with: x, patterns: [\"(\"]}}",
        "{deidentification: {replace_with: x, patterns: [\"a*\"]}}",
        "{deidentification: {replace_with: x, marks: [stars]}}",
    ]
    .map(refusal)
    .to_vec();
    insta::assert_snapshot!(refusals.join("\n"), @r#"
    DIR/corpus.yaml:6:1: invalid value: string "some", expected `none`, or a mapping of what is to be cleaned
    DIR/corpus.yaml:6:12: unknown field `duplicate`, expected one of duplicates, near_duplicates, minimum_characters, deidentification
    DIR/corpus.yaml:6:24: unknown variant `exact`, expected one of drop, keep
    DIR/corpus.yaml:6:41: cleaning.near_duplicates.threshold: must lie between 0.5 and 1
    DIR/corpus.yaml:6:29: `threshold` is missing from the fields that end here
    DIR/corpus.yaml:6:45: cleaning.deidentification.replace_with: must neither be empty nor begin or end with white space
    DIR/corpus.yaml:6:59: cleaning.deidentification.patterns[0]: is no regular expression: regex parse error:
    DIR/corpus.yaml:6:59: cleaning.deidentification.patterns[0]: matches where there is nothing
    DIR/corpus.yaml:6:56: unknown variant `stars`, expected one of bracketed, underscores
    "#);
}
