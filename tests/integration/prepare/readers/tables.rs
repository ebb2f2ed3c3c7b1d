//! Separated values and JSON: separators, quotes, joined fields.

use super::{PRIVATE, documents, refused, texts};

#[test]
fn separators_and_quotes() {
    let note = "a \"quoted\" word,\nand; more";
    let quoted = format!("\"{}\"", note.replace('"', "\"\""));
    for (name, separator) in [
        ("tab", '\t'),
        ("semicolon", ';'),
        ("bar", '|'),
        ("comma", ','),
    ] {
        let read = format!("csv: {{path: notes.csv, text: note, separator: {name}}}");
        let table = format!("id{separator}note\n1{separator}{quoted}\n2{separator}b\n");
        let read = texts(&read, &[("notes.csv", table.into_bytes())]).unwrap();
        assert_eq!(read, [note, "b"], "{name}");
    }
    // Where quotes mean nothing, one that is not closed swallows no rows.
    let read = "csv: {path: notes.tsv, text: note, separator: tab, quoted: false}";
    let table = b"id\tnote\n1\t\"so he said\n2\tb\n".to_vec();
    assert_eq!(
        texts(read, &[("notes.tsv", table)]).unwrap(),
        ["\"so he said", "b"]
    );
    let read = "csv: {path: notes.csv, text: note}";
    let table = format!("id\tnote\n1\t{PRIVATE}\n");
    insta::assert_snapshot!(refused(read, &[("notes.csv", table.into_bytes())]), @r#"
    DIR/notes.csv, line 1: no column "note" among 1
      hint: the first line names the columns; set `text` to the one that holds the document, and `separator` to what stands between them
    "#);
}

#[test]
fn broken_quotes_join_no_rows() {
    let read = "csv: {path: notes.csv, text: note}";
    let unquoted = "csv: {path: notes.csv, text: note, quoted: false}";
    let file = |rows: &str| [("notes.csv", format!("id,note\n{rows}").into_bytes())];
    let open = file(&format!("1,a\n2,\"{PRIVATE}\n3,b\n4,c\n"));
    insta::assert_snapshot!(refused(read, &open), @r"
    DIR/notes.csv, line 3: the quote that opens here is never closed
      hint: close or double it; where quotes mean nothing, set `quoted: false`
    ");
    let quote = format!("\"{PRIVATE}");
    assert_eq!(texts(unquoted, &open).unwrap(), ["a", &quote, "b", "c"]);
    // The next quote closes it, in the middle of a field.
    let next = file(&format!("1,a\n2,\"{PRIVATE}\n3,\"{PRIVATE}\"\n"));
    insta::assert_snapshot!(refused(read, &next), @r"
    DIR/notes.csv, line 4: text after a closing quote, in a field that begins on line 3
      hint: double the quotes within a field; where quotes mean nothing, set `quoted: false`
    ");
    let stray = file(&format!("1,\"{PRIVATE}\" {PRIVATE}\n"));
    insta::assert_snapshot!(refused(read, &stray), @r"
    DIR/notes.csv, line 2: text after a closing quote, in a field that begins on line 2
      hint: double the quotes within a field; where quotes mean nothing, set `quoted: false`
    ");
    for (rows, expected) in [
        ("1,\"a\"", &["a"][..]),
        ("1,\"a\"\r\n\r\n2,\"\"\r3,\"\"\"\"\n", &["a", "", "\""]),
        ("\"1\",a \"b\" c\n", &["a \"b\" c"]),
    ] {
        assert_eq!(texts(read, &file(rows)).unwrap(), expected, "{rows:?}");
    }
}

#[test]
fn fields_are_joined_or_documents_of_their_own() {
    let table = b"q,a,note\nWhy?,So.,n1\nHow?,,n2\n,,n3\n".to_vec();
    let lines = [
        serde_json::json!({"q": "Why?", "a": "So.", "note": "n1", "tags": [{"x": [1, "q"]}]}),
        serde_json::json!({"note": "n2", "a": null, "q": "How?", "nested": {"q": "no"}}),
        serde_json::json!({"q": "", "a": "", "note": "n3"}),
    ];
    let lines = lines.map(|line| line.to_string()).join("\n");
    for (text, expected) in [
        ("note", &["n1", "n2", "n3"][..]),
        ("{join: [q, a]}", &["Why?\nSo.", "How?", ""]),
        (
            "[note, {join: [q, a]}]",
            &["n1", "Why?\nSo.", "n2", "How?", "n3", ""],
        ),
    ] {
        let csv = format!("csv: {{path: t.csv, text: {text}}}");
        assert_eq!(texts(&csv, &[("t.csv", table.clone())]).unwrap(), expected);
        let json = format!("json_lines: {{path: t.jsonl, text: {text}}}");
        let file = [("t.jsonl", lines.clone().into_bytes())];
        assert_eq!(texts(&json, &file).unwrap(), expected);
    }
}

#[test]
fn objects_keep_their_lines() {
    let read = "json_lines: {path: t.json, text: t}";
    let objects = b"\n{\"t\": \"a\"}\n\n{\n\"t\": \"b\"\n} {\"t\": \"c\"}  \n".to_vec();
    let read = documents(read, &[("t.json", objects)]).unwrap();
    let place = |line: u32| format!("DIR/t.json, line {line}");
    let expected = [(place(2), "a"), (place(4), "b"), (place(6), "c")];
    assert_eq!(read, expected.map(|(place, text)| (place, text.to_owned())));
}

#[test]
fn values_that_are_no_objects() {
    let read = "json_lines: {path: t.json, text: t}";
    for (json, kind) in [
        (format!("\"{PRIVATE}\""), "a text"),
        ("7".to_owned(), "a number"),
        ("-7.5".to_owned(), "a number"),
        ("true".to_owned(), "a truth value"),
        ("null".to_owned(), "null"),
        (format!("[[\"{PRIVATE}\"], 1]"), "a list"),
    ] {
        // A number is known to end only by what follows it.
        for file in [json.clone(), format!("{json}\n")] {
            assert_eq!(
                refused(read, &[("t.json", file.into_bytes())]),
                format!(
                    "DIR/t.json, line 1: {kind}, not a JSON object\n  hint: the format is one \
                     object a line"
                )
            );
        }
        let field = format!("{{\"t\": {json}}}");
        match texts(read, &[("t.json", field.into_bytes())]) {
            Ok(read) => assert!(matches!(kind, "a text" | "null"), "{read:?}"),
            Err(error) => assert!(error.contains(&format!("is {kind}, not text")), "{error}"),
        }
    }
}

#[test]
fn lines_count_whatever_ends_them() {
    let csv = "csv: {path: t.csv, text: t}";
    let json = "json_lines: {path: t.json, text: t}";
    for end in ["\n", "\r\n", "\r"] {
        let table = "i,t\n1,\"two\nlines\"\n2,b\n".replace('\n', end);
        let read = documents(csv, &[("t.csv", table.into_bytes())]).unwrap();
        let place = |line: u32| format!("DIR/t.csv, line {line}");
        let expected = [(place(2), "two\nlines"), (place(4), "b")];
        assert_eq!(read, expected.map(|(place, text)| (place, text.to_owned())));
        let stray = format!("i,t\n1,\"two\nlines\"\n2,\"b\"{PRIVATE}\n").replace('\n', end);
        let error = refused(csv, &[("t.csv", stray.into_bytes())]);
        assert!(
            error.starts_with("DIR/t.csv, line 4: text after"),
            "{error}"
        );
        let objects = "{\"t\": \"a\"}\n\n{\"t\": 7}\n".replace('\n', end);
        let error = refused(json, &[("t.json", objects.into_bytes())]);
        assert!(
            error.starts_with("DIR/t.json, line 3: the field"),
            "{error}"
        );
    }
}

#[test]
fn fields_that_are_ambiguous_or_no_text() {
    let json = "json_lines: {path: t.json, text: t}";
    let twice = format!("{{\"t\": \"a\"}}\n{{\"t\": null, \"u\": 1, \"t\": \"{PRIVATE}\"}}\n");
    insta::assert_snapshot!(refused(json, &[("t.json", twice.into_bytes())]), @r#"
    DIR/t.json, line 2: the field "t" stands there twice
      hint: give the fields names of their own
    "#);
    let other = "{\"u\": 1, \"t\": \"a\", \"u\": 2, \"v\": {\"t\": 1, \"t\": 2}}\n";
    assert_eq!(texts(json, &[("t.json", other.into())]).unwrap(), ["a"]);
    let nul = format!("{{\"t\": \"{PRIVATE}\\u0000\", \"u\": \"\"}}\n");
    let joined = "json_lines: {path: t.json, text: {join: [u, t]}}";
    insta::assert_snapshot!(refused(joined, &[("t.json", nul.into_bytes())]), @r#"
    DIR/t.json, line 1: a NUL character in the field "t", so this is no text
      hint: set `text` to the field that holds the document, or write the file anew
    "#);
    let csv = "csv: {path: \"*.csv\", text: t}";
    let files = [("a.csv", b"i,t\n1,a\n".to_vec()), ("b.csv", Vec::new())];
    insta::assert_snapshot!(refused(csv, &files), @r"
    DIR/b.csv: no line of column names, as the file is empty
      hint: take it out of `path`, or copy it again
    ");
}
