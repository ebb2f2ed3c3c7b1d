//! Sources in object storage come to the shards that the same files in folders come to.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use cohort::prepare;
use flate2::Compression;
use flate2::write::GzEncoder;
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;

use super::readers::mds::fixture::Writing;
use super::{CORPUS_FILE, Workspace};
use crate::support::process::{Ended, Process};
use crate::support::proxy::{Faults, Proxy};
use crate::support::run::{Chance, wait_for};
use crate::support::s3::S3Server;

const SETTINGS: &str = "max_length: 64";
const SOURCES: [&str; 6] = [
    "tables, licence: x, read: {csv: {path: ROOT/notes/**/*.csv.gz, text: note}}",
    "lines, licence: x, read: {json_lines: {path: ROOT/lines/part-?.jsonl.zst, text: text}}",
    "archive, licence: x, read: {text_files: {path: ROOT/all.tar.gz, members: '**/*.txt'}}",
    "columns, licence: x, read: {parquet: {path: ROOT/rows.parquet, text: note}}",
    "talk, licence: x, read: {text_grid: {path: 'ROOT/talks/*-{speaker}.TextGrid', \
     speakers: {a: 'A: ', b: 'B: '}}}",
    "streaming, licence: x, read: {mds: {path: 'ROOT/mds/*/train', text: note}}",
];

const GRID: &str = "File type = \"ooTextFile\"\nObject class = \"TextGrid\"\n\n0\n2\n<exists>\n1\n\
    \"IntervalTier\"\n\"speech\"\n0\n2\n1\n0\n2\n\"WORDS of this speaker\"\n";

/// The sources with their files in a folder, or below an address that ends with a slash.
fn sources(root: &str) -> String {
    let source = |read: &str| format!("  - {{id: {}}}\n", read.replace("ROOT/", root));
    SOURCES.iter().map(|read| source(read)).collect()
}

fn gz(text: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

fn note(number: u32) -> String {
    format!(
        "Note {number}: seen today, {} beats, to be seen again.",
        60 + number % 40
    )
}

fn parquet() -> Vec<u8> {
    let schema =
        Arc::new(parse_message_type("message m { required binary note (UTF8); }").unwrap());
    let properties = Arc::new(WriterProperties::builder().build());
    let mut file = SerializedFileWriter::new(Vec::new(), schema, properties).unwrap();
    for group in 0..3 {
        let mut writer = file.next_row_group().unwrap();
        let mut column = writer.next_column().unwrap().unwrap();
        let values: Vec<ByteArray> = (0..50)
            .map(|row| ByteArray::from(note(600 + group * 50 + row).as_bytes()))
            .collect();
        column
            .typed::<ByteArrayType>()
            .write_batch(&values, None, None)
            .unwrap();
        column.close().unwrap();
        writer.close().unwrap();
    }
    file.into_inner().unwrap()
}

fn tar() -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for number in 0..30 {
        let text = note(500 + number);
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o644);
        let name = format!("notes/{number}.txt");
        archive
            .append_data(&mut header, name, text.as_bytes())
            .unwrap();
    }
    // A member that does not match must be read too, and this one does not compress.
    let mut word = 1_u64;
    let mut filling = Vec::new();
    while filling.len() < 27 << 20 {
        word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        filling.extend_from_slice(&(word >> 16).to_le_bytes()[..6]);
    }
    let mut header = tar::Header::new_gnu();
    header.set_size(filling.len() as u64);
    header.set_mode(0o644);
    archive
        .append_data(&mut header, "filling.bin", &filling[..])
        .unwrap();
    archive.into_inner().unwrap()
}

/// The inputs by name; one is larger than a few of the parts that an object is read in.
fn inputs() -> Vec<(String, Vec<u8>)> {
    let csv = |from: u32| {
        let rows = (from..from + 40).map(|number| format!("{number},\"{}\"\n", note(number)));
        gz(format!("id,note\n{}", rows.collect::<String>()).as_bytes())
    };
    let lines = |from: u32| {
        let rows = (from..from + 40).map(|number| format!("{{\"text\": \"{}\"}}\n", note(number)));
        zstd::encode_all(rows.collect::<String>().as_bytes(), 1).unwrap()
    };
    let inputs = [
        ("notes/2024/b.csv.gz", csv(0)),
        ("notes/2024.old/a.csv.gz", csv(40)),
        ("notes/c.csv.gz", csv(80)),
        ("notes/c.csv", b"not matched".to_vec()),
        ("lines/part-1.jsonl.zst", lines(200)),
        ("lines/part-2.jsonl.zst", lines(300)),
        ("all.tar.gz", gz(&tar())),
        ("rows.parquet", parquet()),
        (
            "talks/1-a.TextGrid",
            GRID.replace("WORDS", "first").into_bytes(),
        ),
        (
            "talks/1-b.TextGrid",
            GRID.replace("WORDS", "second").into_bytes(),
        ),
    ];
    let mut inputs: Vec<(String, Vec<u8>)> = inputs
        .into_iter()
        .map(|(name, bytes)| (name.to_owned(), bytes))
        .collect();
    inputs.extend(mds("mds/2023/train", None, 800));
    inputs.extend(mds("mds/2024/train", Some("zstd"), 900));
    inputs.extend(mds("mds/2024/eval", None, 1000));
    inputs
}

/// A directory of three shards of notes.
fn mds(folder: &str, compression: Option<&'static str>, from: u32) -> Vec<(String, Vec<u8>)> {
    let mut writing = Writing::plain(&[("note", "str", None)]);
    writing.compression = compression;
    writing.hashes = vec!["xxh64"];
    let sample = |number: u32| writing.sample(&[note(from + number).into()]);
    let shards: Vec<Vec<Vec<u8>>> = (0..3)
        .map(|shard| (shard * 20..shard * 20 + 20).map(sample).collect())
        .collect();
    writing.directory(folder, &shards)
}

fn cohort_prepare(workspace: &Workspace, server: &S3Server) -> Ended {
    let yaml = workspace.path(CORPUS_FILE);
    let environment = server
        .environment()
        .map(|(name, value)| (name.to_owned(), value.to_owned()));
    let output = workspace.path("said");
    Process::start(&["prepare", yaml.to_str().unwrap()], &environment, &output).wait()
}

fn manifest(workspace: &Workspace) -> Vec<u8> {
    fs::read(workspace.path("out/manifest.json")).unwrap()
}

#[test]
fn objects_come_to_the_shards_of_files_also_from_a_bad_store() {
    let mut chance = Chance::new();
    let server = wait_for(S3Server::start());
    let store = server.store("inputs");
    let local = Workspace::new(SETTINGS, &sources(""));
    for (name, bytes) in inputs() {
        local.write(&name, &bytes);
        wait_for(store.put_large(&name, bytes.into())).unwrap();
    }
    cohort_prepare(&local, &server).good();
    let faults = Faults {
        seed: chance.between(0, 1_000_000),
        errors: 200,
        cut: 100,
        stalled: 30,
        flipped: 0,
        ..Faults::default()
    };
    let proxy = wait_for(Proxy::start(&server, faults));
    for endpoint in [&server.endpoint, &proxy.endpoint] {
        let settings = format!(
            "{SETTINGS}\nstore: {{endpoint: \"{endpoint}\", region: us-east-1, allow_http: true, \
             retry_timeout: 20s, stall_timeout: 1s}}"
        );
        let root = format!("s3://{}/inputs/", server.bucket);
        let remote = Workspace::new(&settings, &sources(&root));
        cohort_prepare(&remote, &server).good();
        assert!(
            manifest(&remote) == manifest(&local),
            "the manifests differ"
        );
        // Nothing has changed, so nothing is done again.
        let said = cohort_prepare(&remote, &server).good();
        assert!(
            said.stderr.contains("kept") || said.stdout.contains("kept"),
            "{said:?}"
        );
    }
    let seen = proxy.seen.lock().unwrap();
    println!("{} faults in {} requests", seen.faults, seen.requests);
    assert!(seen.faults > 0);
}

fn by_address(folder: &Path, read: &str) -> Workspace {
    let root = format!("file://{}/", folder.display());
    let source = format!("  - {{id: notes, licence: x, read: {{{read}}}}}");
    Workspace::new(SETTINGS, &source.replace("ROOT/", &root))
}

#[test]
fn an_object_that_changes_while_it_is_read_is_refused() {
    let one = |name: &str, bytes| vec![(name.to_owned(), bytes)];
    for (read, changed, files) in [
        (
            "csv: {path: ROOT/*.gz, text: note}",
            "a.csv.gz",
            one("a.csv.gz", gz(b"note\nx\n")),
        ),
        (
            "parquet: {path: ROOT/a.parquet, text: note}",
            "a.parquet",
            one("a.parquet", parquet()),
        ),
        (
            "mds: {path: ROOT/m, text: note}",
            "m/shard.00000.mds",
            mds("m", None, 0),
        ),
        (
            "mds: {path: ROOT/m, text: note}",
            "m/index.json",
            mds("m", None, 0),
        ),
    ] {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("m")).unwrap();
        for (name, bytes) in &files {
            fs::write(folder.path().join(name), bytes).unwrap();
        }
        let workspace = by_address(folder.path(), read);
        let config = workspace.config();
        let jobs = prepare::find_inputs(&config, folder.path()).unwrap();
        let path = folder.path().join(changed);
        let mut longer = fs::read(&path).unwrap();
        longer.push(0);
        fs::write(&path, &longer).unwrap();
        let error = jobs[0].documents(&Arc::default()).next().unwrap().err();
        let error = error.unwrap().to_string();
        assert!(
            error.contains("has changed since it was first looked at"),
            "{error}"
        );
        assert!(error.contains(changed), "{error}");
    }
}

#[test]
fn addresses_of_nothing_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    for (read, expected) in [
        (
            "csv: {path: ROOT/a.csv, text: note}",
            "no object at file://",
        ),
        (
            "csv: {path: ROOT/*.csv, text: note}",
            "no object matches file://",
        ),
        (
            "csv: {path: 'ftp://host/a.csv', text: note}",
            "no store is known by the address ftp://",
        ),
        (
            "csv: {path: 's3://bucket', text: note}",
            "s3://bucket names no object",
        ),
    ] {
        let error = format!(
            "{:#}",
            by_address(folder.path(), read).prepare().unwrap_err()
        );
        assert!(error.contains(expected), "{expected:?} in {error}");
        assert!(
            error.contains("clinic/notes") && error.contains("hint:"),
            "{error}"
        );
    }
}
