//! Directories of MosaicML's streaming: written here by hand, and by the library itself.

use std::fs;
use std::path::Path;

use cohort::prepare;
use cohort::prepare::held_out::ids_are_held_out;
use proptest::prelude::*;
use serde_json::Value;

use super::{PRIVATE, documents, gzip, texts};
use crate::prepare::{Workspace, only_source, synthetic};
use crate::support::python;
use fixture::{Column, IDS, Writing, array, flat};

pub mod fixture;

const READ: &str = "mds: {path: m}";
const WAYS: [&str; 9] = [
    "plain", "hashed", "zstd", "gz", "fixed", "wide", "untyped", "merged", "texts",
];

/// The documents of a directory, or why there are none; `read` names the folder `m`. They are the
/// same by the address of the folder.
fn read(read: &str, files: &[(String, Vec<u8>)]) -> Result<Vec<String>, String> {
    let files: Vec<(&str, Vec<u8>)> = files
        .iter()
        .map(|(name, bytes)| (name.as_str(), bytes.clone()))
        .collect();
    let by_path = texts(read, &files);
    let read = read.replace("path: m", "path: ROOT/m");
    let by_address = texts(&read.replace("path: \"", "path: \"ROOT/"), &files);
    if let (Err(by_path), Err(by_address)) = (&by_path, &by_address) {
        let what = |error: &str| {
            let what = error.split_once('\n').map_or(error, |(what, _)| what);
            what.replace("file://", "").replace("no object", "no file")
        };
        assert_eq!(what(by_path), what(by_address));
    } else {
        assert_eq!(by_path, by_address);
    }
    by_path
}

#[track_caller]
fn refusal(files: &[(String, Vec<u8>)]) -> String {
    read(READ, files).expect_err("the directory is bad")
}

/// A directory of one column of ids, in shards of these samples.
fn directory(writing: &Writing, shards: &[&[&[u16]]]) -> Vec<(String, Vec<u8>)> {
    let sample = |ids: &&[u16]| writing.sample(&[array(ids)]);
    let shards: Vec<Vec<Vec<u8>>> = shards
        .iter()
        .map(|samples| samples.iter().map(sample).collect())
        .collect();
    writing.directory("m", &shards)
}

fn change(files: &mut [(String, Vec<u8>)], name: &str, from: &str, to: &str) {
    let file = files
        .iter_mut()
        .find(|file| file.0.ends_with(name))
        .unwrap();
    let text = String::from_utf8(file.1.clone()).unwrap();
    assert!(text.contains(from), "{from}");
    file.1 = text.replace(from, to).into_bytes();
}

#[test]
fn ids_of_every_shape() {
    let long: Vec<u16> = (0..300).collect();
    let writing = Writing::plain(&[IDS]);
    let files = directory(&writing, &[&[&[5, 7], &[65_535]], &[&long]]);
    let list = long
        .iter()
        .map(u16::to_string)
        .collect::<Vec<_>>()
        .join(" ");
    assert_eq!(read(READ, &files).unwrap(), ["5 7", "65535", &list]);
    let named = files
        .iter()
        .map(|(name, bytes)| (name.as_str(), bytes.clone()));
    let places: Vec<String> = documents(READ, &named.collect::<Vec<_>>())
        .unwrap()
        .into_iter()
        .map(|(place, _)| place)
        .collect();
    let place = |shard: u8, row: u8| format!("DIR/m/shard.0000{shard}.mds, row {row}");
    assert_eq!(places, [place(0, 1), place(0, 2), place(1, 1)]);

    let fixed = Writing::plain(&[("input_ids", "ndarray:uint16:3", Some(6))]);
    let sample = |ids: &[u16]| fixed.sample(&[flat(ids).collect()]);
    let files = fixed.directory("m", &[vec![sample(&[1, 2, 3]), sample(&[4, 5, 6])]]);
    assert_eq!(read(READ, &files).unwrap(), ["1 2 3", "4 5 6"]);

    let untyped = Writing::plain(&[("input_ids", "ndarray", None)]);
    let wide = [65, 4, 1, 200, 0, 0, 0, 0, 0, 0, 0].to_vec();
    let files = untyped.directory("m", &[vec![untyped.sample(&[wide])]]);
    assert_eq!(read(READ, &files).unwrap(), ["200"]);
}

#[test]
fn shards_are_compressed_or_not() {
    let mut writing = Writing::plain(&[IDS]);
    writing.hashes = vec!["sha1", "xxh64"];
    for compression in ["zstd", "zstd:7", "gz", "gz:9"] {
        writing.compression = Some(compression);
        let mut files = directory(&writing, &[&[&[1, 2]], &[&[3]]]);
        assert_eq!(read(READ, &files).unwrap(), ["1 2", "3"], "{compression}");
        // The library leaves a shard that it decompressed beside the one that it got.
        let raw = writing.shard(&[writing.sample(&[array(&[1, 2])])]);
        files.push(("m/shard.00000.mds".to_owned(), raw));
        assert_eq!(read(READ, &files).unwrap(), ["1 2", "3"], "{compression}");
    }
    writing.compression = Some("br:11");
    insta::assert_snapshot!(refusal(&directory(&writing, &[&[&[1]]])), @r"
    DIR/m/index.json, shard 1: DIR/m/shard.00000.mds.br is compressed in a way that is not read
      hint: decompress the shards, or write the directory anew with zstd
    ");
    // So many samples that the shard begins like a gzip file.
    let plain = Writing::plain(&[IDS]);
    let samples = vec![&[9_u16][..]; 0x8b1f];
    let files = directory(&plain, &[&samples]);
    assert!(files[0].1.starts_with(&gzip(&[b""])[..2]));
    assert_eq!(read(READ, &files).unwrap().len(), 0x8b1f);
}

#[test]
fn one_index_for_several_folders() {
    let writing = Writing::plain(&[IDS]);
    let mut files = directory(&writing, &[&[&[1]], &[&[2]]]);
    for file in &mut files {
        file.0 = file.0.replace("m/shard", "m/a/shard");
    }
    change(&mut files, "index.json", "\"shard.", "\"a/shard.");
    assert_eq!(read(READ, &files).unwrap(), ["1", "2"]);
    // The folder that was merged is a directory of its own.
    let folders = directory(&writing, &[&[&[1]], &[&[2]]]);
    let folders = folders.into_iter();
    files.extend(folders.map(|(name, bytes)| (name.replace("m/", "m/a/"), bytes)));
    assert_eq!(read(READ, &files).unwrap(), ["1", "2"]);
    insta::assert_snapshot!(read("mds: {path: \"m/**\"}", &files).unwrap_err(), @r"
    DIR/m/a/shard.00000.mds is a shard of both DIR/m/a/index.json and DIR/m/index.json
      hint: let `path` name the folder of one of them, or a pattern for those that name each shard once
    ");
    let pattern = "mds: {path: \"*/train\"}";
    let of = |folder: &str, id: u16| {
        let sample = writing.sample(&[array(&[id])]);
        writing.directory(folder, &[vec![sample]])
    };
    let files = [of("b/train", 2), of("a/train", 1), of("a/eval", 3)].concat();
    assert_eq!(read(pattern, &files).unwrap(), ["1", "2"]);
}

#[test]
fn texts_of_named_columns() {
    let columns: [Column; 4] = [
        ("body", "str", None),
        ("id", "int", Some(8)),
        IDS,
        ("title", "str", None),
    ];
    let writing = Writing::plain(&columns);
    let sample = |title: &str, body: &str| {
        let id = 7_i64.to_le_bytes().to_vec();
        writing.sample(&[body.into(), id, array(&[1, 2]), title.into()])
    };
    let samples = vec![sample("T", "na\u{ef}ve\r\nb"), sample("", "c")];
    let files = writing.directory("m", &[samples]);
    let joined = "mds: {path: m, text: {join: [title, body]}}";
    assert_eq!(read(joined, &files).unwrap(), ["T\nna\u{ef}ve\nb", "c"]);
    assert_eq!(read(READ, &files).unwrap(), ["1 2", "1 2"]);
    insta::assert_snapshot!(read("mds: {path: m, text: id}", &files).unwrap_err(), @r#"
    DIR/m/shard.00000.mds: the column "id" holds no text
      hint: set `text` to a column of the encoding `str`
    "#);
    insta::assert_snapshot!(read("mds: {path: m, text: note}", &files).unwrap_err(), @r#"
    DIR/m/shard.00000.mds: no column "note" among 4
      hint: set `text` to a column of the encoding `str`
    "#);
    let only = Writing::plain(&columns[..1]);
    let files = only.directory("m", &[vec![only.sample(&[PRIVATE.into()])]]);
    insta::assert_snapshot!(refusal(&files), @r#"
    DIR/m/shard.00000.mds: no column "input_ids"
      hint: read text columns by setting `text` to their names
    "#);
    let nul = only.directory("m", &[vec![only.sample(&[format!("{PRIVATE}\0").into()])]]);
    insta::assert_snapshot!(read("mds: {path: m, text: body}", &nul).unwrap_err(), @r#"
    DIR/m/shard.00000.mds, row 1: a NUL character in the field "body", so this is no text
      hint: set `text` to the field that holds the document, or write the file anew
    "#);
    let binary = only.directory("m", &[vec![only.sample(&[b"\xff\xfe".to_vec()])]]);
    insta::assert_snapshot!(read("mds: {path: m, text: body}", &binary).unwrap_err(), @r"
    DIR/m/shard.00000.mds, row 1: a text is not valid UTF-8
      hint: copy the directory again, or write it anew
    ");
}

#[test]
fn files_that_are_not_what_the_index_says() {
    let writing = Writing::plain(&[IDS]);
    let whole = directory(&writing, &[&[&[1, 2], &[3]]]);
    let changed = |from: &str, to: &str| {
        let mut files = whole.clone();
        change(&mut files, "index.json", from, to);
        refusal(&files)
    };
    insta::assert_snapshot!(refusal(&whole[..1]), @r"
    no file at DIR/m/index.json
      hint: relative paths start at the folder of the configuration
    ");
    insta::assert_snapshot!(refusal(&whole[1..]), @r"
    DIR/m/index.json, shard 1: no file at DIR/m/shard.00000.mds
      hint: relative paths start at the folder of the configuration
    ");
    insta::assert_snapshot!(refusal(&[("m/index.json".into(), PRIVATE.into())]), @r"
    DIR/m/index.json: no index of an MDS directory, or a damaged one
      hint: `path` is the folder that holds index.json, as streaming writes it; copy it again
    ");
    insta::assert_snapshot!(changed("\"shard.", "\"../m/shard."), @r"
    DIR/m/index.json, shard 1: its file is not in the folder of the index
      hint: look where the directory comes from
    ");
    insta::assert_snapshot!(changed("\"format\":\"mds\"", "\"format\":\"csv\""), @r"
    DIR/m/index.json, shard 1: not of the format MDS, version 2
      hint: read directories of CSV or JSON shards with `csv` or `json_lines`
    ");
    insta::assert_snapshot!(changed("\"samples\":2", "\"samples\":3"), @r"
    DIR/m/shard.00000.mds: no MDS shard as the index describes it, or a damaged one
      hint: copy the directory again
    ");
    insta::assert_snapshot!(changed("ndarray:uint16", "ndarray:float32"), @r#"
    DIR/m/shard.00000.mds: the column "input_ids" holds no list of token ids
      hint: read text columns by setting `text` to their names
    "#);
    insta::assert_snapshot!(changed("[null]", "[4]"), @r"
    DIR/m/shard.00000.mds, row 1: the sample is damaged
      hint: copy the directory again, or write it anew
    ");
    let index = String::from_utf8(whole[1].1.clone()).unwrap();
    let entry = &index[index.find("[{").unwrap() + 1..=index.rfind("}]").unwrap()];
    insta::assert_snapshot!(changed(entry, &format!("{entry},{entry}")), @r"
    DIR/m/index.json, shard 2: named twice
      hint: merge the indexes of the folders anew
    ");
    let mut cut = whole.clone();
    cut[0].1.pop();
    let bytes = whole[0].1.len();
    assert_eq!(
        refusal(&cut),
        format!(
            "DIR/m/index.json, shard 1: DIR/m/shard.00000.mds has {} bytes, where the index says \
             {bytes}\n  hint: copy the shard again",
            bytes - 1
        )
    );
}

#[test]
fn shards_with_other_hashes() {
    let mut writing = Writing::plain(&[IDS]);
    for hash in ["sha1", "xxh64"] {
        writing.hashes = vec![hash];
        for compression in [None, Some("zstd")] {
            writing.compression = compression;
            let mut files = directory(&writing, &[&[&[1, 2], &[3]]]);
            assert_eq!(read(READ, &files).unwrap(), ["1 2", "3"]);
            let json: Value = serde_json::from_slice(&files[1].1).unwrap();
            let known = json["shards"][0]["raw_data"]["hashes"][hash]
                .as_str()
                .unwrap();
            let other = known.replace(&known[..1], "x");
            change(&mut files, "index.json", known, &other);
            assert_eq!(
                refusal(&files),
                format!(
                    "DIR/m/shard.00000.mds{}: its {hash} is not the one in the index\n  hint: copy \
                     the shard again",
                    compression.map_or("", |_| ".zstd")
                )
            );
        }
    }
    // A hash that nobody here knows is passed over.
    writing.hashes = vec!["blake2b"];
    assert!(read(READ, &directory(&writing, &[&[&[1]]])).is_ok());
}

#[derive(Clone, Debug)]
struct Change {
    file: usize,
    place: f64,
    byte: u8,
    kind: u8,
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let change = (0_usize..2, 0.0..1.0, any::<u8>(), 0_u8..3);
    let change = change.prop_map(|(file, place, byte, kind)| Change {
        file,
        place,
        byte,
        kind,
    });
    prop::collection::vec(change, 1..5)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Lengths that the index repeats are mended, so that not all is refused at once.
    #[test]
    fn changed_directories_are_read_or_refused(changes in changes(), packed in any::<bool>()) {
        let mut writing = Writing::plain(&[IDS, ("text", "str", None)]);
        writing.compression = packed.then_some("zstd");
        let sample = |id| writing.sample(&[array(&[id; 3]), PRIVATE.into()]);
        let mut files = writing.directory("m", &[vec![sample(1), sample(2)]]);
        let before = files[0].1.len();
        for change in changes {
            let bytes = &mut files[change.file].1;
            let place = (change.place * bytes.len() as f64) as usize;
            match change.kind {
                _ if bytes.is_empty() => {}
                0 => bytes[place] = change.byte,
                1 => bytes.insert(place, change.byte),
                _ => bytes.truncate(place),
            }
        }
        let (before, after) = (format!(":{before},"), format!(":{},", files[0].1.len()));
        if let Ok(index) = String::from_utf8(files[1].1.clone()) {
            files[1].1 = index.replace(&before, &after).into_bytes();
        }
        for how in [READ, "mds: {path: m, text: text}"] {
            let _ = read(how, &files);
        }
    }
}

/// A corpus of invented notes, and its training chunks as a directory.
fn exported(max_length: u32) -> (Workspace, Vec<Vec<u16>>) {
    let notes = Workspace::new("max_length: 64\nheld_out: 0", &synthetic("triage_line", 60));
    let manifest = notes.prepare().unwrap();
    let chunks = notes.shard_chunks(&only_source(&manifest).train.shards);
    let chunks: Vec<Vec<u16>> = chunks
        .into_iter()
        .map(|chunk| chunk.ids.into_iter().map(|id| id as u16).collect())
        .collect();
    let mut writing = Writing::plain(&[IDS]);
    writing.compression = Some("zstd");
    let samples: Vec<Vec<u8>> = chunks
        .iter()
        .map(|ids| writing.sample(&[array(ids)]))
        .collect();
    let shards: Vec<Vec<Vec<u8>>> = samples.chunks(25).map(<[_]>::to_vec).collect();
    let source = "  - {id: mds, licence: x, read: {mds: {path: m}}}";
    let settings = format!("max_length: {max_length}\nheld_out: 0.2");
    let imported = Workspace::new(&settings, source);
    for (name, bytes) in writing.directory("m", &shards) {
        imported.write(&name, &bytes);
    }
    let tokenizer = fs::read(notes.path("out/tokenizer.json")).unwrap();
    imported.write("tokenizer.json", &tokenizer);
    (imported, chunks)
}

fn use_tokenizer(workspace: &Workspace, file: &str) {
    let yaml = fs::read_to_string(workspace.path("corpus.yaml")).unwrap();
    let yaml = yaml.replace("{train: {vocab_size: 600}}", &format!("{{file: {file}}}"));
    workspace.write("corpus.yaml", yaml.as_bytes());
}

#[test]
fn chunks_are_imported_as_they_stand() {
    let (imported, chunks) = exported(64);
    insta::assert_snapshot!(imported.shown(&imported.prepare().unwrap_err()), @r"
    clinic/mds: no tokenizer can be trained on token ids
      hint: set `tokenizer: {file: …}` to the tokenizer that made them
    ");
    use_tokenizer(&imported, "tokenizer.json");
    let manifest = imported.prepare().unwrap();
    let source = only_source(&manifest);
    for (split, held_out) in [(&source.train, false), (&source.held_out, true)] {
        let expected = chunks.iter().enumerate().filter(|(_, ids)| {
            let ids: Vec<u32> = ids.iter().map(|id| u32::from(*id)).collect();
            ids_are_held_out(&ids, 200) == held_out
        });
        let expected: Vec<(u64, Vec<u32>)> = expected
            .map(|(number, ids)| (number as u64, ids.iter().map(|id| u32::from(*id)).collect()))
            .collect();
        assert!(expected.len() > 3);
        let found = imported.shard_chunks(&split.shards).into_iter();
        let found: Vec<(u64, Vec<u32>)> = found
            .inspect(|chunk| assert!(chunk.first))
            .map(|chunk| (chunk.document, chunk.ids))
            .collect();
        assert_eq!(found, expected);
    }
    assert_eq!(
        source.train.documents + source.held_out.documents,
        chunks.len() as u64
    );
}

#[test]
fn chunks_of_another_corpus_are_refused() {
    let (short, chunks) = exported(8);
    use_tokenizer(&short, "tokenizer.json");
    let length = chunks[0].len();
    assert_eq!(
        short.shown(&short.prepare().unwrap_err()),
        format!(
            "clinic/mds: DIR/m/shard.00000.mds.zstd, row 1: a sample of {length} tokens, where \
             `max_length` is 8\n  hint: raise `max_length` to that of the directory"
        )
    );
    let (other, _) = exported(64);
    let text = Workspace::new("max_length: 64", &synthetic("triage_line", 60));
    let mut config = text.config();
    if let prepare::config::TokenizerConfig::Train(train) = &mut config.tokenizer {
        train.vocab_size = 512;
    }
    prepare::run(
        &config,
        &text.path("corpus.yaml"),
        &mut prepare::progress::Silent,
    )
    .unwrap();
    let smaller = fs::read(text.path("out/tokenizer.json")).unwrap();
    other.write("smaller.json", &smaller);
    use_tokenizer(&other, "smaller.json");
    let error = other.shown(&other.prepare().unwrap_err());
    let (place, rest) = error.split_once(", row ").unwrap();
    assert_eq!(place, "clinic/mds: DIR/m/shard.00000.mds.zstd");
    let (_, rest) = rest.split_once(": ").unwrap();
    insta::assert_snapshot!(rest, @r"
    a token id beyond the 512 of the tokenizer
      hint: set `tokenizer: {file: …}` to the tokenizer that made the directory
    ");
}

#[test]
fn directories_of_the_library_itself() {
    if !python::has("streaming") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    python::run_script("make-mds-directories", &[folder.path()]);
    let expected = fs::read(folder.path().join("expected.json")).unwrap();
    let expected: Value = serde_json::from_slice(&expected).unwrap();
    for name in WAYS {
        let how = match name {
            "texts" => "mds: {path: m, text: text}",
            _ => READ,
        };
        let files = files(&folder.path().join(name), "m");
        let shown = |document: &Value| match document {
            Value::String(text) => text.replace("\r\n", "\n"),
            ids => {
                let ids = ids.as_array().unwrap().iter().map(Value::to_string);
                ids.collect::<Vec<_>>().join(" ")
            }
        };
        let documents = expected[name].as_array().unwrap().iter().map(shown);
        assert_eq!(
            read(how, &files).unwrap(),
            documents.collect::<Vec<_>>(),
            "{name}"
        );
    }
    // What this test writes by hand is what the library writes.
    let mut writing = Writing::plain(&[IDS]);
    writing.hashes = vec!["sha1", "xxh64"];
    writing.size_limit = 2000;
    let ids = expected["hashed"].as_array().unwrap().iter();
    let ids: Vec<Vec<u16>> = ids
        .map(|ids| serde_json::from_value(ids.clone()).unwrap())
        .collect();
    let first = fs::read(folder.path().join("hashed/shard.00000.mds")).unwrap();
    let samples = first[0] as usize;
    let ids: Vec<&[u16]> = ids[..samples].iter().map(Vec::as_slice).collect();
    let files = directory(&writing, &[&ids]);
    assert_eq!(files[0].1, first);
    let index = fs::read(folder.path().join("hashed/index.json")).unwrap();
    let index: Value = serde_json::from_slice(&index).unwrap();
    let own: Value = serde_json::from_slice(&files[1].1).unwrap();
    assert_eq!(own["shards"][0], index["shards"][0]);
}

/// The files of a folder and those below, as files of the folder `name`.
fn files(folder: &Path, name: &str) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = format!("{name}/{}", path.file_name().unwrap().to_str().unwrap());
        if path.is_dir() {
            found.extend(files(&path, &name));
        } else {
            found.push((name, fs::read(path).unwrap()));
        }
    }
    found
}
