//! Shards as pyarrow opens them, decoded by the Python package tokenizers.

use std::fmt::Write;

use super::{CORPUS_FILE, Workspace};
use crate::support::python;

const SOURCES: &str = "  - id: notes
    licence: none
    read: {json_lines: {path: \"notes-*.jsonl\", text: text}}
  - id: letters
    licence: none
    read: {csv: {path: letters.csv, text: [greeting, {join: [subject, body]}]}}
";

/// Many documents of one chunk and some of several, an empty one, letters that NFC composes.
fn workspace() -> Workspace {
    let workspace = Workspace::new("max_length: 48\nheld_out: 0.2\nshard_bytes: 2048", SOURCES);
    for file in 0..2 {
        let mut lines = String::new();
        for line in 0..30 {
            let text = format!("Patient {file}{line}\\r\\nfelt we\u{301}ll. ").repeat(line);
            writeln!(lines, "{{\"text\": \"{text}\"}}").unwrap();
        }
        workspace.write(&format!("notes-{file}.jsonl"), lines.as_bytes());
    }
    let mut letters = "greeting,subject,body\n".to_owned();
    for row in 0..20 {
        writeln!(
            letters,
            "Dear {row},\"on \"\"{row}\"\"\",\"line\nand {row}\""
        )
        .unwrap();
    }
    workspace.write("letters.csv", letters.as_bytes());
    workspace
}

#[test]
fn pyarrow_reads_the_texts_back() {
    if !python::has("pyarrow") {
        return;
    }
    let workspace = workspace();
    workspace.prepare().unwrap();
    let arguments = [workspace.path(CORPUS_FILE)];
    python::run_script("check-shards", &arguments);

    // The check sees a single letter.
    let letters = std::fs::read_to_string(workspace.path("letters.csv")).unwrap();
    let other = letters.replace("and 7", "and seven");
    workspace.write("letters.csv", other.as_bytes());
    let told = python::script_error("check-shards", &arguments);
    assert!(
        told.contains("document 15 does not decode to its text"),
        "{told}"
    );
}
