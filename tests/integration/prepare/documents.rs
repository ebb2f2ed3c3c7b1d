//! From documents to chunks: every format, every chunk, nothing lost and nothing forged.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;

use arrow_array::cast::AsArray;
use arrow_array::types::{UInt32Type, UInt64Type};
use arrow_ipc::reader::FileReader;
use cohort::corpus::Source;
use cohort::prepare::save_point::{Position, SeriesPoint};
use cohort::prepare::shards::{SeriesOptions, ShardSeries};
use cohort::prepare::synthetic::{Notes, Style};

use super::{Workspace, gzip, only_source, synthetic};

fn utf16(text: &str, mark: [u8; 2], bytes: fn(u16) -> [u8; 2]) -> Vec<u8> {
    mark.into_iter()
        .chain(text.encode_utf16().flat_map(bytes))
        .collect()
}

#[test]
fn every_format_gives_the_same_documents() {
    let texts = [
        "first \"note\", with\ntwo lines",
        "naïve café, 38.5 °C",
        "third 😀 note\n",
    ];
    let lines: Vec<String> = texts
        .iter()
        .map(|text| serde_json::json!({"id": 1, "text": text}).to_string())
        .collect();
    let json = lines.join("\n");
    let pretty: String = texts
        .iter()
        .map(|text| serde_json::to_string_pretty(&serde_json::json!({"text": text})).unwrap())
        .collect();
    let row = |text: &&str| {
        format!(
            "7,\"{}\"\r\n",
            text.replace('"', "\"\"").replace('\n', "\r\n")
        )
    };
    let csv = format!(
        "\u{feff}id,text\r\n{}",
        texts.iter().map(row).collect::<String>()
    );
    let source = |id: &str, read: &str| format!("  - {{id: {id}, licence: x, read: {{{read}}}}}\n");
    let sources = [
        source("plain", "json_lines: {path: plain.jsonl, text: text}"),
        source("gzip", "json_lines: {path: notes.jsonl.gz, text: [text]}"),
        source("zstd", "json_lines: {path: notes.jsonl.zst, text: text}"),
        source("objects", "json_lines: {path: pretty.json, text: text}"),
        source("csv", "csv: {path: table.csv, text: text}"),
        source("csv-gzip", "csv: {path: table.csv.gz, text: text}"),
        source("files", "text_files: {path: \"files/*.txt\"}"),
    ];
    let workspace = Workspace::new(
        "max_length: 32\nheld_out: 0\ncleaning: none",
        &sources.concat(),
    );
    workspace.write("plain.jsonl", json.as_bytes());
    let (head, tail) = json.as_bytes().split_at(40);
    workspace.write("notes.jsonl.gz", &gzip(&[head, tail]));
    workspace.write(
        "notes.jsonl.zst",
        &zstd::encode_all(json.as_bytes(), 3).unwrap(),
    );
    workspace.write("pretty.json", pretty.as_bytes());
    workspace.write("table.csv", csv.as_bytes());
    workspace.write("table.csv.gz", &gzip(&[csv.as_bytes()]));
    let windows = texts[1].replace('\n', "\r\n");
    workspace.write(
        "files/1.txt",
        &utf16(texts[0], [0xff, 0xfe], u16::to_le_bytes),
    );
    workspace.write("files/2.txt", format!("\u{feff}{windows}").as_bytes());
    workspace.write(
        "files/3.txt",
        &utf16(texts[2], [0xfe, 0xff], u16::to_be_bytes),
    );
    let manifest = workspace.prepare().unwrap();
    let chunks = |source: &Source| workspace.shard_chunks(&source.train.shards);
    let sources = &manifest.institutions[0].sources;
    let expected = chunks(&sources[0]);
    let tokenizer = workspace.tokenizer();
    let decoded: Vec<String> = expected
        .iter()
        .map(|chunk| tokenizer.decode(&chunk.ids, true).unwrap())
        .collect();
    assert_eq!(decoded, texts.map(|text| format!(" {text}")));
    for source in sources {
        assert_eq!(chunks(source), expected, "{}", source.id);
    }
}

#[test]
fn several_fields_are_documents_of_their_own_and_empty_ones_are_counted() {
    let workspace = Workspace::new(
        "max_length: 64\nheld_out: 0",
        "  - {id: a, licence: x, read: {csv: {path: a.csv, text: [dialogue, note]}}}",
    );
    workspace.write("a.csv", b"note,dialogue\nn1,d1\n , d2\nn3,\n");
    let manifest = workspace.prepare().unwrap();
    let source = only_source(&manifest);
    let tokenizer = workspace.tokenizer();
    let texts: Vec<(u64, String)> = workspace
        .shard_chunks(&source.train.shards)
        .iter()
        .map(|chunk| (chunk.document, tokenizer.decode(&chunk.ids, true).unwrap()))
        .collect();
    let expected = [(0, " d1"), (1, " n1"), (2, " d2"), (5, " n3")];
    assert_eq!(
        texts,
        expected.map(|(number, text)| (number, text.to_owned()))
    );
    assert_eq!(source.dropped, BTreeMap::from([("empty".to_owned(), 2)]));
}

#[test]
fn chunks_add_up_to_the_tokenizers_ids() {
    let workspace = Workspace::new(
        "max_length: 64\nheld_out: 0\nshard_bytes: 20_000",
        &synthetic("discharge_summary", 40),
    );
    let manifest = workspace.prepare().unwrap();
    let source = only_source(&manifest);
    assert!(
        source.train.shards.len() > 3,
        "the limit must cut this source into several shards"
    );
    assert!(
        source
            .train
            .shards
            .iter()
            .all(|shard| shard.tokens * 2 <= 20_000)
    );
    let mut documents: BTreeMap<u64, Vec<u32>> = BTreeMap::new();
    let mut counts = vec![0; manifest.tokenizer.vocab_size as usize];
    for chunk in workspace.shard_chunks(&source.train.shards) {
        assert_eq!(chunk.first, !documents.contains_key(&chunk.document));
        assert!(chunk.ids.len() <= 64);
        assert_eq!(chunk.ids[0], manifest.tokenizer.cls);
        assert_eq!(chunk.ids.last(), Some(&manifest.tokenizer.sep));
        let body = documents.entry(chunk.document).or_default();
        assert_eq!(
            body.len() % 62,
            0,
            "only a document's last chunk may be short"
        );
        body.extend_from_slice(&chunk.ids[1..chunk.ids.len() - 1]);
        chunk.ids.iter().for_each(|id| counts[*id as usize] += 1);
    }
    let tokenizer = workspace.tokenizer();
    let style = Style::DischargeSummary;
    let notes = Notes::new(style, "clinic", "notes");
    assert_eq!(documents.len(), 40);
    for (number, ids) in documents {
        let text = format!(" {}", notes.note(number));
        assert_eq!(ids, tokenizer.encode(text, false).unwrap().get_ids());
    }
    assert_eq!(source.train.documents, 40);
    let file = File::open(workspace.path("out").join(&source.unigrams.file)).unwrap();
    let batch = FileReader::try_new(file, None)
        .unwrap()
        .next()
        .unwrap()
        .unwrap();
    let stored = batch
        .column_by_name("count")
        .unwrap()
        .as_primitive::<UInt64Type>();
    assert_eq!(stored.values().to_vec(), counts);
}

#[test]
fn text_cannot_forge_special_tokens() {
    let workspace = Workspace::new(
        "max_length: 64\nheld_out: 0",
        "  - {id: a, licence: x, read: {text_files: {path: a.txt}}}",
    );
    workspace.write("a.txt", b"before [SEP] and [MASK] and [PAD] after");
    let manifest = workspace.prepare().unwrap();
    let chunks = workspace.shard_chunks(&only_source(&manifest).train.shards);
    let info = &manifest.tokenizer;
    let body = &chunks[0].ids[1..chunks[0].ids.len() - 1];
    let special = [info.cls, info.sep, info.pad, info.mask, info.unk];
    assert!(body.iter().all(|id| !special.contains(id)));
}

#[test]
fn a_document_keeps_its_side_when_others_come_and_go() {
    let texts: Vec<String> = (0..400)
        .map(|number| format!("note number {number}"))
        .collect();
    let held_out = |texts: &[String]| -> BTreeSet<String> {
        let workspace = Workspace::new(
            "max_length: 64\nheld_out: 0.1\ncleaning: none",
            "  - {id: a, licence: x, read: {json_lines: {path: a.jsonl, text: text}}}",
        );
        let line = |text: &String| serde_json::json!({"text": text}).to_string() + "\n";
        workspace.write(
            "a.jsonl",
            texts.iter().map(line).collect::<String>().as_bytes(),
        );
        let manifest = workspace.prepare().unwrap();
        let source = only_source(&manifest);
        assert_eq!(
            source.train.documents + source.held_out.documents,
            texts.len() as u64
        );
        let tokenizer = workspace.tokenizer();
        let chunks = workspace.shard_chunks(&source.held_out.shards);
        chunks
            .iter()
            .map(|chunk| tokenizer.decode(&chunk.ids, true).unwrap())
            .collect()
    };
    let all = held_out(&texts);
    assert!(
        (20..60).contains(&all.len()),
        "{} of 400 at a share of 0.1",
        all.len()
    );
    let mut half: Vec<String> = texts[..200].to_vec();
    half.reverse();
    half.extend_from_slice(&texts[..200]);
    let early = |text: &&String| half.iter().any(|other| text.trim() == other);
    assert_eq!(held_out(&half), all.iter().filter(early).cloned().collect());
}

#[test]
fn wide_vocabularies_are_stored_as_uint32() {
    let folder = tempfile::tempdir().unwrap();
    let series = |point: &SeriesPoint| {
        let options = SeriesOptions {
            root: folder.path(),
            stem: "a/b/train".to_owned(),
            vocab_size: 70_000,
            shard_bytes: 1024,
        };
        ShardSeries::resume(options, point.clone()).unwrap()
    };
    let at = |document, chunk| Position { document, chunk };
    let mut first = series(&SeriesPoint::default());
    assert!(!first.add(at(3, 0), &[vec![69_999, 1], vec![2]]).unwrap());
    assert!(first.add(at(7, 0), &[vec![5; 100], vec![6; 200]]).unwrap());
    let point = first.point().clone();
    assert_eq!((point.shards.len(), point.next), (1, at(7, 1)));
    // Goes on in the middle of the document where the shard was finished.
    let mut resumed = series(&point);
    resumed.add(point.next, &[vec![6; 200]]).unwrap();
    let finished = resumed.finish().unwrap();
    let split = finished.split;
    let file = File::open(folder.path().join(&split.shards[0].stored.file)).unwrap();
    let batch = FileReader::try_new(file, None)
        .unwrap()
        .next()
        .unwrap()
        .unwrap();
    let ids = batch.column(0).as_list::<i32>().values();
    let ids = ids.as_primitive::<UInt32Type>();
    assert_eq!(ids.values()[..4], [69_999, 1, 2, 5]);
    assert_eq!((split.documents, split.chunks, split.tokens), (2, 4, 303));
    let counted = [1, 2, 5, 6, 69_999].map(|id| finished.unigrams[id]);
    assert_eq!(counted, [1, 1, 100, 200, 1]);
}
