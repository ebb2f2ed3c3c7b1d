//! Documents without end: refused at the limit, whatever the format.

use std::io::{self, Read, Write};

use parquet::basic::Compression;

use super::{columns, refused};

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
            "medquad_xml: {path: a.zst}",
            "<Document>\n<QAPairs>\n<QAPair><Answer>",
            3,
        ),
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

#[test]
fn members_of_archives() {
    let read = "text_files: {path: a.tar.zst, members: \"*\"}";
    let told = "a document of more than 64 MiB begins here\n  hint: the limit guards the memory; \
                look for a quote that is not closed, a file without line ends, or another format";
    let mut header = tar::Header::new_gnu();
    header.set_path("a.txt").unwrap();
    header.set_size(1 << 30);
    header.set_cksum();
    let head = String::from_utf8(header.as_bytes().to_vec()).unwrap();
    assert_eq!(
        refused(read, &[("a.tar.zst", endless(&head))]),
        format!("DIR/a.tar.zst/a.txt, line 1: {told}")
    );
    // A member that is short as long as it is packed.
    let packed = endless("\n");
    let mut builder = tar::Builder::new(Vec::new());
    header.set_size(packed.len() as u64);
    header.set_cksum();
    builder.append(&header, &packed[..]).unwrap();
    let archive = builder.into_inner().unwrap();
    assert_eq!(
        refused(read, &[("a.tar.zst", archive)]),
        format!("DIR/a.tar.zst/a.txt, line 1: {told}")
    );
}

#[test]
fn values_of_parquet() {
    let long = vec![b'a'; (64 << 20) + 1];
    let rows = [(&b"b"[..], None, None), (&long, None, None)];
    let file = columns::table(&rows, 1, Compression::SNAPPY);
    insta::assert_snapshot!(refused("parquet: {path: f, text: note}", &[("f", file)]), @r#"
    DIR/f, row 2: the column "note" has more than 64 MiB
      hint: the limit guards the memory; cut such documents
    "#);
}
