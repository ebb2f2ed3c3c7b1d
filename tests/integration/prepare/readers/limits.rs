//! Documents without end: refused at the limit, whatever the format.

use std::io::{self, Read, Write};

use super::refused;

/// A gigabyte of one letter between a head and nothing, compressed.
fn endless(head: &str) -> Vec<u8> {
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
    encoder.write_all(head.as_bytes()).unwrap();
    io::copy(&mut io::repeat(b'a').take(1 << 30), &mut encoder).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn a_gigabyte_without_a_line_end() {
    let cases = [
        ("text_files: {path: a.zst}", "", 1),
        (
            "json_lines: {path: a.zst, text: t}",
            "{\"t\": \"b\"}\n{\"t\": \"",
            2,
        ),
        (
            "json_lines: {path: a.zst, text: t}",
            "{\"t\": \"b\", \"u\": \"",
            1,
        ),
        ("csv: {path: a.zst, text: t}", "t\nb\nc\n\"", 4),
        ("csv: {path: a.zst, text: t}", "", 1),
        ("jats: {path: a.zst}", "<set>\n<article><body><p>", 2),
        ("jats: {path: a.zst}", "<set>\n<!--", 1),
        ("pubmed_xml: {path: a.zst}", "<PubmedArticleSet>", 1),
        (
            "text_grid: {path: a.zst, speakers: {a: A}}",
            "\"ooTextFile\" \"",
            1,
        ),
    ];
    for (read, head, line) in cases {
        assert_eq!(
            refused(read, &[("a.zst", endless(head))]),
            format!(
                "DIR/a.zst, line {line}: a document of more than 64 MiB begins here\n  hint: the \
                 limit guards the memory; look for a quote that is not closed, a file without line \
                 ends, or another format"
            ),
            "{read}"
        );
    }
}
