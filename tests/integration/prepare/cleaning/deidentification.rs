//! De-identification marks that become one token.

use cohort::prepare::cleaning::report::CleaningReport;
use serde_json::json;

use super::super::{Workspace, only_source};

const READ: &str = "  - {id: a, licence: x, read: {json_lines: {path: a.jsonl, text: text}}}";

fn workspace(cleaning: &str, texts: &[&str]) -> Workspace {
    let settings =
        format!("max_length: 128\nheld_out: 0\ncleaning: {{deidentification: {cleaning}}}");
    let workspace = Workspace::new(&settings, READ);
    let lines = texts
        .iter()
        .map(|text| json!({"text": text}).to_string() + "\n");
    workspace.write("a.jsonl", lines.collect::<String>().as_bytes());
    workspace
}

const NOTES: [&str; 4] = [
    "Mr. [**Known\nlastname 7**] was seen on [**2151-7-16**] by Dr. ___.",
    "Mr. ___ was seen on ______ by Dr. [**Name (NI) **].",
    "Seen on ___ in XXXX and [**unclosed",
    "No mark in [* this *] snake_case __ text",
];

#[test]
fn marks_of_all_kinds_become_one_token() {
    let workspace = workspace("{replace_with: \"~\", patterns: ['\\bX{4}\\b']}", &NOTES);
    let manifest = workspace.prepare().unwrap();
    let tokenizer = workspace.tokenizer();
    let mark = tokenizer.encode("~", false).unwrap();
    assert_eq!(mark.len(), 1);
    let chunks = workspace.shard_chunks(&only_source(&manifest).train.shards);
    let texts: Vec<String> = chunks
        .iter()
        .map(|chunk| tokenizer.decode(&chunk.ids, true).unwrap())
        .collect();
    // The second note has become equal to the first.
    assert_eq!(
        texts,
        [
            " Mr. ~ was seen on ~ by Dr. ~.",
            " Seen on ~ in ~ and [**unclosed",
            " No mark in [* this *] snake_case __ text",
        ]
    );
    let report = CleaningReport::find(&workspace.path("out")).unwrap();
    assert_eq!(report.sources[0].marks_replaced, 3 + 3 + 2);
    assert_eq!(json!(report.sources[0].dropped), json!({"duplicate": 1}));
}

#[test]
fn marks_are_kept_unless_named() {
    let kept = workspace("{replace_with: \"~\", marks: [underscores]}", &NOTES[..1]);
    let manifest = kept.prepare().unwrap();
    let chunks = kept.shard_chunks(&only_source(&manifest).train.shards);
    assert_eq!(
        kept.tokenizer().decode(&chunks[0].ids, true).unwrap(),
        " Mr. [**Known\nlastname 7**] was seen on [**2151-7-16**] by Dr. ~."
    );
}

#[test]
fn what_is_not_one_token_is_refused() {
    let refusal = |replace_with: &str| {
        let cleaning = format!("{{replace_with: {replace_with:?}}}");
        let workspace = workspace(&cleaning, &NOTES[3..]);
        let error = format!("{:#}", workspace.prepare().unwrap_err());
        assert!(!workspace.path("out/manifest.json").exists());
        error
    };
    insta::assert_snapshot!(refusal("qzq"), @r#"
    `cleaning.deidentification.replace_with`: "qzq" is 3 tokens, not one token of this tokenizer
      hint: name a token of its vocabulary, such as an added one that is not special
    "#);
    insta::assert_snapshot!(refusal("[MASK]"), @r#"
    `cleaning.deidentification.replace_with`: "[MASK]" is 6 tokens, not one token of this tokenizer
      hint: name a token of its vocabulary, such as an added one that is not special
    "#);
}
