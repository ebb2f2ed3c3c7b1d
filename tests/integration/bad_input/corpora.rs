//! Corpus files and sources that are wrong: no manifest is left beside them.

use std::fs;

use super::{CORPUS, Outcome, PRIVATE, Place, gzip};

/// What `cohort prepare` does with a corpus of one source, read by `read` from the given files.
fn prepare(read: &str, files: &[(&str, Vec<u8>)]) -> (Place, Outcome) {
    let place = Place::with_corpus();
    let yaml = CORPUS
        .replace(
            "{train: {vocab_size: 512}}",
            "{file: corpus/tokenizer.json}",
        )
        .replace("output: corpus", "output: prepared")
        .replace("{synthetic: {style: triage_line, documents: 200}}", read);
    place.write("corpus.yaml", yaml);
    for (name, content) in files {
        place.write(name, content);
    }
    let outcome = place.cohort(&["prepare", "corpus.yaml"]);
    (place, outcome)
}

/// What it says where it fails.
fn prepare_error(read: &str, files: &[(&str, Vec<u8>)]) -> String {
    let (place, outcome) = prepare(read, files);
    assert_eq!(outcome.code, Some(1), "{}", outcome.stderr);
    assert_eq!(outcome.stdout, "");
    assert!(!outcome.stderr.contains(PRIVATE), "an error repeats text");
    assert!(!place.path("prepared/manifest.json").exists());
    outcome.stderr
}

const LINES: &str = "{json_lines: {path: notes.jsonl.gz, text: text}}";

#[test]
fn corpus_files() {
    let place = Place::new();
    let error = |from: &str, to: &str| {
        assert!(CORPUS.contains(from));
        place.write("corpus.yaml", CORPUS.replace(from, to));
        place.refused(&["prepare", "corpus.yaml"])
    };
    insta::assert_snapshot!(error("licence", "license"), @r"
    error: corpus.yaml:10:9: unknown field `license`, expected one of id, licence, homepage, read
       |
    10 |         license: none needed
       |         ^
    ");
    insta::assert_snapshot!(error("max_length: 64", "max_length: [64]"), @r"
    error: corpus.yaml:4:13: expected a single value
      |
    4 | max_length: [64]
      |             ^
    ");
    insta::assert_snapshot!(error("documents: 200", "documents: 0"), @r"
    error: corpus.yaml:11:15: institutions[0].sources[0].read[0].documents: must be at least 1
       |
    11 |         read: {synthetic: {style: triage_line, documents: 0}}
       |               ^
    ");
}

#[test]
fn sources() {
    insta::assert_snapshot!(prepare_error(LINES, &[]), @r"
    error: one source is not there:
      clinic/notes: no file at notes.jsonl.gz
      hint: relative paths start at the folder of the configuration
    ");
    let empty = vec![("notes.jsonl.gz", gzip(""))];
    insta::assert_snapshot!(prepare_error(LINES, &empty), @r"
    error: clinic/notes: no document in 1 file
      hint: check `path` and the `text` field of this source
    ");
    let line = format!("{{\"text\": \"{PRIVATE}\"}}\n");
    let other = format!("{line}{{\"body\": \"{PRIVATE}\"}}\n");
    let absent = vec![("notes.jsonl.gz", gzip(&other))];
    insta::assert_snapshot!(prepare_error(LINES, &absent), @r#"
    error: clinic/notes: notes.jsonl.gz, line 2: no field "text"
      hint: set `text` to the field that holds the document
    "#);
    let whole = gzip(&line.repeat(500));
    let truncated = vec![("notes.jsonl.gz", whole[..whole.len() / 2].to_vec())];
    insta::assert_snapshot!(prepare_error(LINES, &truncated), @r"
    error: clinic/notes: notes.jsonl.gz: the gzip data ends early
      hint: the file is incomplete; copy it again
    ");
    let mixed = [line.as_bytes(), b"{\"text\": \"na\xefve caf\xc3\xa9\"}\n"].concat();
    let files = vec![("notes.jsonl", mixed)];
    let plain = LINES.replace(".gz", "");
    insta::assert_snapshot!(prepare_error(&plain, &files), @r"
    error: clinic/notes: notes.jsonl, line 2, byte 42: UTF-8 here and Windows-1252 before
      hint: convert the file to one encoding, or name the right one with `encoding`
    ");
}

#[test]
fn a_guessed_encoding_is_told_once() {
    let files: Vec<(String, Vec<u8>)> = (0..9)
        .map(|number| (format!("{number}.txt"), b"na\xefve note".to_vec()))
        .collect();
    let files: Vec<(&str, Vec<u8>)> = files
        .iter()
        .map(|(name, bytes)| (name.as_str(), bytes.clone()))
        .collect();
    let warnings = |read: &str| {
        let (_place, outcome) = prepare(read, &files);
        assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
        let lines = outcome.stderr.lines().filter(|line| line.contains("WARN"));
        lines.map(str::to_owned).collect::<Vec<String>>()
    };
    let guessed = warnings("{text_files: {path: \"*.txt\"}}");
    assert_eq!(guessed.len(), 1, "{guessed:?}");
    assert!(
        guessed[0].ends_with("source=clinic/notes files=9 first=0.txt"),
        "{guessed:?}"
    );
    let told = warnings("{text_files: {path: \"*.txt\", encoding: windows-1252}}");
    assert!(told.is_empty(), "{told:?}");
}

const CATALOG: &str = "\
name: tiny
output: corpus
tokenizer: {train: {vocab_size: 512}}
max_length: 64
institutions:
  - id: clinic
    name: Clinic
    sources:
      - id: letters
        licence: by agreement
        homepage: https://clinic.example/letters
        read: {text_files: {path: \"letters/*.txt\"}}
      - id: notes
        licence: none needed
        read: {synthetic: {style: triage_line, documents: 200}}
  - id: ward
    name: Ward
    sources:
      - id: calls
        licence: none needed
        read: {text_grid: {path: \"calls/*_{speaker}.TextGrid\", speakers: {a: A, b: B}}}
";

#[test]
fn sources_that_are_not_there() {
    let place = Place::new();
    place.write("corpus.yaml", CATALOG);
    insta::assert_snapshot!(place.refused(&["prepare", "corpus.yaml"]), @r"
    error: 2 sources are not there:
      clinic/letters: no file matches letters/*.txt
        from https://clinic.example/letters (by agreement)
      ward/calls: no file matches calls/*_a.TextGrid
      hint: relative paths start at the folder of the configuration; `--available` prepares the others alone
    ");
    let prepared = place.cohort(&["prepare", "corpus.yaml", "--available"]);
    assert_eq!(prepared.code, Some(0), "{}", prepared.stderr);
    let said: Vec<&str> = prepared.stdout.lines().collect();
    assert_eq!(said[0], "2 sources are not there:");
    assert_eq!(said[1], "  clinic/letters: no file matches letters/*.txt");
    assert!(said.iter().any(|line| line.starts_with("clinic/notes ")));
    let manifest =
        String::from_utf8(fs::read(place.path("corpus/manifest.json")).unwrap()).unwrap();
    assert!(!manifest.contains("letters") && !manifest.contains("ward"));

    // What is there in part is not left out.
    fs::create_dir(place.path("calls")).unwrap();
    place.write("calls/1_a.TextGrid", "");
    insta::assert_snapshot!(place.refused(&["prepare", "corpus.yaml", "--available"]), @r"
    error: ward/calls: no file matches calls/*_b.TextGrid
      hint: relative paths start at the folder of the configuration
    ");
    fs::remove_dir_all(place.path("calls")).unwrap();

    // Nor is what is there and not as it must be.
    fs::create_dir(place.path("letters")).unwrap();
    let unlike = CATALOG.replace("letters/*.txt", "letters");
    place.write("corpus.yaml", unlike);
    insta::assert_snapshot!(place.refused(&["prepare", "corpus.yaml", "--available"]), @r"
    error: clinic/letters: letters is a folder, not a file
      hint: name its files with a pattern such as letters/*.txt
    ");
}
