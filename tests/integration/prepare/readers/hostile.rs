//! Files with bytes changed, cut and added anywhere: read or refused, never a panic, and never a
//! word of them in an error.

use parquet::basic::Compression;
use proptest::prelude::*;

use super::{PRIVATE, columns, gzip, refused, texts, xz};

const JATS: &str = "<!DOCTYPE article [<!ENTITY e \"x\">]><article><front><article-meta>\
    <title-group><article-title>Przewalski</article-title></title-group><abstract a='b'><p>A&#x3c;\
    <sup><xref ref-type='bibr'>1</xref></sup></p></abstract></article-meta></front><body><sec>\
    <title>T</title><p>Przewalski<![CDATA[c]]><!-- d --></p></sec></body></article>";
const GRID: &str = "\"ooTextFile\" \"TextGrid\" 0 1 <exists> 1 \"IntervalTier\" \"s\" 0 1 2 0 0.5 \
    \"Przewalski <UNIN/>\" 0.5 1 \"\"";

/// Each format with a file that it reads.
fn formats() -> Vec<(&'static str, Vec<u8>)> {
    let json = "{\"t\": \"Przewalski\", \"u\": [1, {\"t\": null}]}\n".repeat(3);
    let citation = "<PubmedArticleSet><PubmedArticle><Article><ArticleTitle>Przewalski\
        </ArticleTitle><Abstract><AbstractText Label='L'>a<sup>2</sup></AbstractText></Abstract>\
        </Article></PubmedArticle></PubmedArticleSet>";
    let page = "<Document><QAPairs><QAPair><Question>Q</Question><Answer>Przewalski</Answer>\
        </QAPair></QAPairs></Document>";
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(PRIVATE.len() as u64);
    let long = format!("{}.txt", "n".repeat(120));
    builder
        .append_data(&mut header, &long, PRIVATE.as_bytes())
        .unwrap();
    let rows = [
        (PRIVATE.as_bytes(), Some("t"), None),
        (b"b", None, Some("i")),
    ];
    vec![
        ("json_lines: {path: f, text: t}", json.clone().into_bytes()),
        ("json_lines: {path: f, text: t}", gzip(&[json.as_bytes()])),
        ("json_lines: {path: f, text: t}", xz(json.as_bytes())),
        (
            "json_lines: {path: f, text: t}",
            zstd::encode_all(json.as_bytes(), 3).unwrap(),
        ),
        (
            "csv: {path: f, text: t}",
            b"i,t\n1,\"Przewalski\n\"\"x\"\"\"\n".to_vec(),
        ),
        ("jats: {path: f}", JATS.into()),
        ("pubmed_xml: {path: f}", citation.into()),
        ("medquad_xml: {path: f}", page.into()),
        ("text_grid: {path: f, speakers: {s: S}}", GRID.into()),
        (
            "text_files: {path: f, members: \"*\"}",
            builder.into_inner().unwrap(),
        ),
        (
            "parquet: {path: f, text: [note, title]}",
            columns::table(&rows, 1, Compression::SNAPPY),
        ),
    ]
}

/// Changes to a file: where, as a share of its length, and what.
#[derive(Clone, Debug)]
enum Change {
    Set(f64, u8),
    Insert(f64, u8),
    Remove(f64, usize),
    Cut(f64),
}

fn change() -> impl Strategy<Value = Change> {
    let markup = prop::sample::select(b"<>&;\"'/![]{},\n\0\xff\xc3".to_vec());
    let byte = prop_oneof![any::<u8>(), markup];
    prop_oneof![
        4 => (0.0..1.0, byte.clone()).prop_map(|(at, byte)| Change::Set(at, byte)),
        3 => (0.0..1.0, byte).prop_map(|(at, byte)| Change::Insert(at, byte)),
        2 => (0.0..1.0, 1_usize..20).prop_map(|(at, count)| Change::Remove(at, count)),
        1 => (0.0..1.0).prop_map(Change::Cut),
    ]
}

fn apply(bytes: &mut Vec<u8>, change: &Change) {
    let place = |share: f64| (share * bytes.len() as f64) as usize;
    match *change {
        _ if bytes.is_empty() => {}
        Change::Set(at, byte) => {
            let at = place(at);
            bytes[at] = byte;
        }
        Change::Insert(at, byte) => bytes.insert(place(at), byte),
        Change::Remove(at, count) => {
            let at = place(at);
            bytes.drain(at..(at + count).min(bytes.len()));
        }
        Change::Cut(at) => bytes.truncate(place(at)),
    }
}

#[test]
fn every_format_reads_its_whole_file() {
    for (read, bytes) in formats() {
        let read_texts = texts(read, &[("f", bytes)]).unwrap();
        let all = read_texts.concat();
        assert!(all.contains(PRIVATE), "{read}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn changed_files_are_read_or_refused(changes in prop::collection::vec(change(), 1..4)) {
        for (read, mut bytes) in formats() {
            for change in &changes {
                apply(&mut bytes, change);
            }
            // The helper looks that no error repeats text.
            let _ = texts(read, &[("f", bytes)]);
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        for (read, whole) in formats() {
            let _ = texts(read, &[("f", bytes.clone())]);
            let _ = texts(read, &[("f", [whole, bytes.clone()].concat())]);
        }
    }
}

/// The Parquet library panics on some of these.
#[test]
fn a_parquet_file_with_any_byte_changed_is_read_or_refused() {
    let (read, whole) = formats().pop().expect("Parquet is the last of them");
    assert!(read.starts_with("parquet"));
    let rarely = whole.len().div_ceil(400);
    for at in (0..whole.len()).step_by(rarely) {
        for byte in [0, 60, 255, whole[at] ^ 1] {
            let mut bytes = whole.clone();
            bytes[at] = byte;
            let _ = texts(read, &[("f", bytes)]);
        }
        let _ = texts(read, &[("f", whole[..at].to_vec())]);
    }
}

#[test]
fn formats_of_others_are_refused() {
    let formats = formats();
    for (read, own) in &formats {
        for (other, bytes) in &formats {
            let is_text = other.starts_with("json") && read.starts_with("json");
            if own != bytes && read != other && !is_text {
                refused(read, &[("f", bytes.clone())]);
            }
        }
    }
}
