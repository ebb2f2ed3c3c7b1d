//! What a user reads when an input is bad: the exact words, and never a word of the text.

use cohort::config;
use cohort::prepare::config::CorpusConfig;

use super::{PRIVATE, Workspace, gzip};

/// The error of preparing one source, with the workspace's folder as `DIR`.
fn failure(read: &str, files: &[(&str, Vec<u8>)]) -> String {
    let source = format!("  - {{id: notes, licence: x, read: {{{read}}}}}");
    let workspace = Workspace::new("max_length: 64\nheld_out: 0", &source);
    for (name, bytes) in files {
        workspace.write(name, bytes);
    }
    let error = workspace.prepare().expect_err("the input is bad");
    assert!(!workspace.path("out/manifest.json").exists());
    workspace.shown(&error)
}

const JSON: &str = "json_lines: {path: notes.jsonl, text: text}";
const CSV: &str = "csv: {path: notes.csv, text: text}";
const FILES: &str = "text_files: {path: \"*.txt\"}";

#[test]
fn missing_files() {
    insta::assert_snapshot!(failure(JSON, &[]), @r"
    clinic/notes: no file at DIR/notes.jsonl
      hint: relative paths start at the folder of the configuration
    ");
    insta::assert_snapshot!(failure(FILES, &[]), @r"
    clinic/notes: no file matches DIR/*.txt
      hint: relative paths start at the folder of the configuration
    ");
    insta::assert_snapshot!(failure("text_files: {path: notes}", &[("notes/1.txt", vec![])]), @r"
    clinic/notes: DIR/notes is a folder, not a file
      hint: name its files with a pattern such as DIR/notes/*.txt
    ");
}

#[test]
fn empty_sources() {
    insta::assert_snapshot!(failure(JSON, &[("notes.jsonl", vec![])]), @r"
    clinic/notes: no document in 1 file
      hint: check `path` and the `text` field of this source
    ");
    insta::assert_snapshot!(failure(CSV, &[("notes.csv", vec![])]), @r"
    clinic/notes: DIR/notes.csv: no line of column names, as the file is empty
      hint: take it out of `path`, or copy it again
    ");
    insta::assert_snapshot!(failure(CSV, &[("notes.csv", b"id,text\n".to_vec())]), @r"
    clinic/notes: no document in 1 file
      hint: check `path` and the `text` field of this source
    ");
    let blank = [("1.txt", b" \n".to_vec()), ("2.txt", vec![])];
    insta::assert_snapshot!(failure(FILES, &blank), @r"
    clinic/notes: no document in 2 files
      hint: check `path` and the `text` field of this source
    ");
}

#[test]
fn absent_fields() {
    let lines = format!("{{\"text\": \"{PRIVATE}\"}}\n{{\"body\": \"{PRIVATE}\"}}\n");
    insta::assert_snapshot!(failure(JSON, &[("notes.jsonl", lines.into_bytes())]), @r#"
    clinic/notes: DIR/notes.jsonl, line 2: no field "text"
      hint: set `text` to the field that holds the document
    "#);
    let number = format!("{{\"text\": 7, \"{PRIVATE}\": 1}}\n");
    insta::assert_snapshot!(failure(JSON, &[("notes.jsonl", number.into_bytes())]), @r#"
    clinic/notes: DIR/notes.jsonl, line 1: the field "text" is a number, not text
      hint: set `text` to the field that holds the document
    "#);
    let list = format!("[\"{PRIVATE}\"]");
    insta::assert_snapshot!(failure(JSON, &[("notes.jsonl", list.into_bytes())]), @r"
    clinic/notes: DIR/notes.jsonl, line 1: a list, not a JSON object
      hint: the format is one object a line
    ");
    let table = format!("id,{PRIVATE}\n1,2\n");
    insta::assert_snapshot!(failure(CSV, &[("notes.csv", table.into_bytes())]), @r#"
    clinic/notes: DIR/notes.csv, line 1: no column "text" among 2
      hint: the first line names the columns; set `text` to the one that holds the document, and `separator` to what stands between them
    "#);
}

#[test]
fn broken_lines_and_rows() {
    let cut = format!("{{\"text\": \"{PRIVATE}\"}}\n{{\"text\": \"{PRIVATE}");
    insta::assert_snapshot!(failure(JSON, &[("notes.jsonl", cut.into_bytes())]), @r"
    clinic/notes: DIR/notes.jsonl, line 2, column 20: the JSON ends early
      hint: mend or remove this line
    ");
    let open = format!("{{\"text\": \"{PRIVATE}\n{{\"text\": \"b\"}}\n");
    insta::assert_snapshot!(failure(JSON, &[("notes.jsonl", open.into_bytes())]), @r"
    clinic/notes: DIR/notes.jsonl, at the end of line 1: not valid JSON
      hint: mend or remove this line
    ");
    let broken = format!("{{\"text\": \"a\"}}\n{{\"text\": {PRIVATE}}}\n");
    insta::assert_snapshot!(failure(JSON, &[("notes.jsonl", broken.into_bytes())]), @r"
    clinic/notes: DIR/notes.jsonl, line 2, column 10: not valid JSON
      hint: mend or remove this line
    ");
    let row = format!("id,text\n1,\"a\nb\"\n2,{PRIVATE},{PRIVATE}\n");
    insta::assert_snapshot!(failure(CSV, &[("notes.csv", row.into_bytes())]), @r"
    clinic/notes: DIR/notes.csv, line 4: 3 fields where the first line names 2 columns
      hint: look for a quote that is not closed, or not doubled, in or before this row
    ");
}

#[test]
fn truncated_and_damaged_compression() {
    let line = format!("{{\"text\": \"{PRIVATE}\"}}\n").repeat(500);
    let whole = gzip(&[line.as_bytes()]);
    let half = whole[..whole.len() / 2].to_vec();
    insta::assert_snapshot!(failure(JSON, &[("notes.jsonl", half)]), @r"
    clinic/notes: DIR/notes.jsonl: the gzip data ends early
      hint: the file is incomplete; copy it again
    ");
    let mut damaged = whole.clone();
    let at = damaged.len() - 6;
    damaged[at] ^= 0xff;
    insta::assert_snapshot!(failure(JSON, &[("notes.jsonl", damaged)]), @r"
    clinic/notes: DIR/notes.jsonl: the gzip data is damaged
      hint: copy the file again
    ");
    let whole = zstd::encode_all(line.as_bytes(), 3).unwrap();
    let half = whole[..whole.len() / 2].to_vec();
    insta::assert_snapshot!(failure(JSON, &[("notes.jsonl", half)]), @r"
    clinic/notes: DIR/notes.jsonl: the zstd data ends early
      hint: the file is incomplete; copy it again
    ");
    let table = gzip(&[format!("id,text\n{}", format!("1,{PRIVATE}\n").repeat(500)).as_bytes()]);
    let half = table[..table.len() - 9].to_vec();
    insta::assert_snapshot!(failure(CSV, &[("notes.csv", half)]), @r"
    clinic/notes: DIR/notes.csv: the gzip data ends early
      hint: the file is incomplete; copy it again
    ");
}

#[test]
fn invalid_encodings() {
    let latin = |text: &str| [PRIVATE.as_bytes(), b"\n", text.as_bytes(), b"na\xefve"].concat();
    let told = |read: &str| read.replace('}', ", encoding: utf-8}");
    insta::assert_snapshot!(failure(&told(FILES), &[("1.txt", latin(""))]), @r"
    clinic/notes: DIR/1.txt, line 2, byte 13: not valid UTF-8
      hint: convert the file to UTF-8, for example with iconv, or name its encoding with `encoding`
    ");
    let json = [
        b"{\"text\": \"a\"}\n\n{\"text\": \"".to_vec(),
        b"na\xefve\"}".to_vec(),
    ]
    .concat();
    insta::assert_snapshot!(failure(&told(JSON), &[("notes.jsonl", json)]), @r"
    clinic/notes: DIR/notes.jsonl, line 3, byte 27: not valid UTF-8
      hint: convert the file to UTF-8, for example with iconv, or name its encoding with `encoding`
    ");
    let table = [b"id,text\n1,".to_vec(), latin("2,")].concat();
    insta::assert_snapshot!(failure(&told(CSV), &[("notes.csv", table)]), @r"
    clinic/notes: DIR/notes.csv, line 3, byte 25: not valid UTF-8
      hint: convert the file to UTF-8, for example with iconv, or name its encoding with `encoding`
    ");
    let nul = format!("{PRIVATE}\0").into_bytes();
    insta::assert_snapshot!(failure(FILES, &[("1.txt", nul)]), @r"
    clinic/notes: DIR/1.txt, line 1, byte 10: a NUL character, so this is no text
      hint: take the file out of `path`; UTF-16 without a byte-order mark needs `encoding: utf-16`
    ");
}

#[test]
fn a_tokenizer_without_special_tokens() {
    let workspace = Workspace::new("max_length: 64", &super::synthetic("triage_line", 5));
    workspace.prepare().unwrap();
    let path = workspace.path("out/tokenizer.json");
    let json = std::fs::read_to_string(path).unwrap();
    let without = json
        .replace("\"[MASK]\"", "\"[mask]\"")
        .replace("\"[PAD]\"", "\"[pad]\"");
    workspace.write("bare.json", without.as_bytes());
    let yaml = std::fs::read_to_string(workspace.path("corpus.yaml")).unwrap();
    for (file, dropout) in [
        ("bare.json", false),
        ("none.json", false),
        ("drop.json", true),
    ] {
        if dropout {
            let with = json.replace("\"dropout\": null", "\"dropout\": 0.1");
            assert_ne!(with, json);
            workspace.write(file, with.as_bytes());
        }
        let named = yaml.replace("{train: {vocab_size: 600}}", &format!("{{file: {file}}}"));
        workspace.write("corpus.yaml", named.as_bytes());
        let shown = workspace.shown(&workspace.prepare().unwrap_err());
        insta::allow_duplicates! {
            match file {
                "bare.json" => insta::assert_snapshot!(shown, @r"
                `tokenizer`: the tokenizer has no [PAD], [MASK]
                  hint: a masked language model needs all of [UNK], [CLS], [SEP], [PAD], [MASK]
                "),
                "none.json" => insta::assert_snapshot!(shown, @r"
                no tokenizer at DIR/none.json
                  hint: name a tokenizer.json of Hugging Face, or the folder that holds it
                "),
                _ => insta::assert_snapshot!(shown, @r"
                `tokenizer`: the tokenizer has BPE dropout, its ids change from run to run
                  hint: set `dropout` to null in tokenizer.json
                "),
            }
        }
    }
}

#[test]
fn a_source_of_which_nothing_is_left_to_train_on() {
    let source = "  - {id: a, licence: x, read: {json_lines: {path: a.jsonl, text: text}}}";
    let workspace = Workspace::new("max_length: 64\nheld_out: 0.5", source);
    // The first of these texts whose hash falls to the held-out half.
    let text = (0..64)
        .map(|number| format!("note {number}"))
        .find(|text| cohort::prepare::held_out::is_held_out(text, 500))
        .unwrap();
    workspace.write(
        "a.jsonl",
        serde_json::json!({ "text": text }).to_string().as_bytes(),
    );
    insta::assert_snapshot!(format!("{:#}", workspace.prepare().unwrap_err()), @r"
    clinic/a: every document (1) is held out, none is left to train on
      hint: lower `held_out`, or join this source with another
    ");
}

fn config_failure(yaml: &str) -> String {
    let error = config::parse::<CorpusConfig>(yaml, "corpus.yaml").expect_err("the YAML is bad");
    format!("{error:#}")
}

const GOOD: &str = "\
name: test
output: out
tokenizer: {file: tokenizer.json}
max_length: 512
institutions:
  - id: clinic
    name: Clinic
    sources:
      - id: notes
        licence: CC BY 4.0
        read:
          csv:
            path: notes.csv
            text: note
";

#[test]
fn misspelled_fields_and_wrong_types() {
    config::parse::<CorpusConfig>(GOOD, "corpus.yaml").unwrap();
    let changed = |from: &str, to: &str| {
        assert!(GOOD.contains(from));
        config_failure(&GOOD.replace(from, to))
    };
    insta::assert_snapshot!(changed("            text: note", "            txt: note"), @r"
    corpus.yaml:14:13: unknown field `txt`, expected one of path, text, separator, quoted, encoding
       |
    14 |             txt: note
       |             ^
    ");
    insta::assert_snapshot!(changed("licence:", "license:"), @r"
    corpus.yaml:10:9: unknown field `license`, expected one of id, licence, homepage, read
       |
    10 |         license: CC BY 4.0
       |         ^
    ");
    insta::assert_snapshot!(changed("csv:", "cvs:"), @r"
    corpus.yaml:12:11: unknown variant `cvs`, expected one of json_lines, csv, parquet, text_files, pubmed_xml, jats, medquad_xml, text_grid, mds, synthetic
       |
    12 |           cvs:
       |           ^
    ");
    insta::assert_snapshot!(changed("max_length: 512", "max_length: long"), @r"
    corpus.yaml:4:13: expected a whole number, 0 or more
      |
    4 | max_length: long
      |             ^
    ");
    insta::assert_snapshot!(changed("text: note", "text: {joined: [a]}"), @r"
    corpus.yaml:14:20: unknown field `joined`, expected one of join
       |
    14 |             text: {joined: [a]}
       |                    ^
    ");
    insta::assert_snapshot!(changed("text: note", "text: {join: []}"), @r"
    corpus.yaml:12:11: institutions[0].sources[0].read[0].text.documents[0]: its length must be at least 1
       |
    12 |           csv:
       |           ^
    ");
    let grid = "text_grid: {path: \"{speaker}/{speaker}.TextGrid\", speakers: {a: A}}";
    let csv = &GOOD[GOOD.find("csv:").unwrap()..];
    insta::assert_snapshot!(changed(csv, grid), @r#"
    corpus.yaml:12:11: institutions[0].sources[0].read[0].path: {speaker} must stand in the name of the file alone, and once
       |
    12 |           text_grid: {path: "{speaker}/{speaker}.TextGrid", speakers: {a: A}}
       |           ^
    "#);
    let unknown = "text: note\n            encoding: latin1";
    insta::assert_snapshot!(changed("text: note", unknown), @r"
    corpus.yaml:15:23: unknown variant `latin1`, expected one of auto, utf-8, utf-16, windows-1252
       |
    15 |             encoding: latin1
       |                       ^
    ");
    insta::assert_snapshot!(changed("text: note", "text: 7"), @r"
    corpus.yaml:14:13: invalid type: integer `7`, expected a field name, {join: [field names]}, or a list of these
       |
    14 |             text: 7
       |             ^
    ");
}

#[test]
fn values_out_of_range() {
    let changed = |from: &str, to: &str| config_failure(&GOOD.replace(from, to));
    insta::assert_snapshot!(changed("id: clinic", "id: ../clinic"), @r"
    corpus.yaml:6:9: institutions[0].id: must be 1 to 64 lower-case letters, digits, '.', '_' or '-', and begin with a letter or a digit
      |
    6 |   - id: ../clinic
      |         ^
    ");
    insta::assert_snapshot!(changed("max_length: 512", "max_length: 2"), @r"
    corpus.yaml:4:13: max_length: must be at least 8
      |
    4 | max_length: 2
      |             ^
    ");
    insta::assert_snapshot!(changed("max_length: 512", "max_length: 512\nheld_out: 0.7"), @r"
    corpus.yaml:5:11: held_out: must lie between 0 and 0.5
      |
    5 | held_out: 0.7
      |           ^
    ");
    let twice = GOOD.replace(
        "      - id: notes",
        "      - {id: notes, licence: x, read: {text_files: {path: a}}}\n      - id: notes",
    );
    insta::assert_snapshot!(config_failure(&twice), @r#"
    corpus.yaml:9:7: institutions[0].sources: the id "notes" is used twice
      |
    9 |       - {id: notes, licence: x, read: {text_files: {path: a}}}
      |       ^
    "#);
}
