//! Preparing corpora from real files on disk.

#![expect(
    clippy::unwrap_used,
    reason = "in a test, a step that fails is a panic"
)]

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use arrow_array::cast::AsArray;
use arrow_array::types::{UInt16Type, UInt64Type};
use arrow_ipc::reader::FileReader;
use cohort::config;
use cohort::corpus::{Manifest, Shard, Source};
use cohort::prepare;
use cohort::prepare::config::CorpusConfig;
use cohort::prepare::progress::Silent;
use cohort::prepare::readers::{Content, Document};
use flate2::Compression;
use flate2::write::GzEncoder;
use tempfile::TempDir;
use tokenizers::Tokenizer;
use tokio::time::Instant;

mod bpe;
mod cleaning;
mod documents;
mod errors;
mod folders;
mod interrupted;
mod objects;
mod pyarrow;
mod readers;
mod shared_data;

const CORPUS_FILE: &str = "corpus.yaml";
/// Stands in every bad input where text stands; no error may repeat it.
const PRIVATE: &str = "Przewalski";

/// A folder with a corpus YAML and its inputs.
struct Workspace {
    folder: TempDir,
}

impl Workspace {
    /// `sources` is the YAML of the sources of one institution, `settings` that of the top level.
    fn new(settings: &str, sources: &str) -> Self {
        let workspace = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        workspace.configure(settings, sources);
        workspace
    }

    fn configure(&self, settings: &str, sources: &str) {
        let yaml = format!(
            "name: test\noutput: out\ntokenizer: {{train: {{vocab_size: 600}}}}\n{settings}\n\
             institutions:\n- id: clinic\n  name: Clinic\n  sources:\n{sources}\n"
        );
        self.write(CORPUS_FILE, yaml.as_bytes());
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    fn config(&self) -> CorpusConfig {
        config::load(&self.path(CORPUS_FILE)).unwrap()
    }

    fn prepare(&self) -> anyhow::Result<Manifest> {
        prepare::run(&self.config(), &self.path(CORPUS_FILE), &mut Silent)
    }

    /// A text with this folder as `DIR`.
    fn shorten(&self, text: &str) -> String {
        text.replace(&self.folder.path().display().to_string(), "DIR")
    }

    /// What a user reads of an error, which must repeat no text.
    #[track_caller]
    fn shown(&self, error: &anyhow::Error) -> String {
        for shown in [format!("{error:#}"), format!("{error:?}")] {
            assert!(!shown.contains(PRIVATE), "an error repeats text: {shown}");
        }
        self.shorten(&format!("{error:#}"))
    }

    fn shard_chunks(&self, shards: &[Shard]) -> Vec<Chunk> {
        shards
            .iter()
            .flat_map(|shard| read_shard(&self.path("out"), shard))
            .collect()
    }

    fn tokenizer(&self) -> Tokenizer {
        Tokenizer::from_file(self.path("out/tokenizer.json")).unwrap()
    }
}

/// A row of a shard.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Chunk {
    document: u64,
    first: bool,
    ids: Vec<u32>,
}

/// Reads a shard with the columns that the manifest promises.
fn read_shard(root: &Path, shard: &Shard) -> Vec<Chunk> {
    let bytes = fs::read(root.join(&shard.stored.file)).unwrap();
    assert_eq!(bytes.len() as u64, shard.stored.bytes);
    assert_eq!(
        blake3::hash(&bytes).to_hex().to_string(),
        shard.stored.digest
    );
    let file = File::open(root.join(&shard.stored.file)).unwrap();
    let batches: Vec<_> = FileReader::try_new(file, None)
        .unwrap()
        .map(Result::unwrap)
        .collect();
    let mut chunks = Vec::new();
    for batch in batches {
        let lists = batch.column_by_name("input_ids").unwrap().as_list::<i32>();
        let documents = batch
            .column_by_name("document")
            .unwrap()
            .as_primitive::<UInt64Type>();
        let first = batch.column_by_name("first").unwrap().as_boolean();
        for row in 0..batch.num_rows() {
            let ids = lists.value(row);
            let ids = ids
                .as_primitive::<UInt16Type>()
                .values()
                .iter()
                .map(|id| u32::from(*id));
            let (document, first) = (documents.value(row), first.value(row));
            chunks.push(Chunk {
                document,
                first,
                ids: ids.collect(),
            });
        }
    }
    assert_eq!(chunks.len() as u64, shard.chunks);
    assert_eq!(
        chunks
            .iter()
            .map(|chunk| chunk.ids.len() as u64)
            .sum::<u64>(),
        shard.tokens
    );
    assert_eq!(
        chunks.iter().filter(|chunk| chunk.first).count() as u64,
        shard.documents
    );
    chunks
}

/// The corpus of the real text beside the project and its file; says so where there is none.
fn shared_corpus() -> Option<(CorpusConfig, PathBuf)> {
    let project = Path::new(env!("CARGO_MANIFEST_DIR"));
    let origin = project.join("configs/corpus/shared.yaml");
    let config = config::load(&origin).unwrap();
    if project.join("../shared/data").exists() {
        return Some((config, origin));
    }
    crate::support::skipped("no ../shared/data");
    None
}

pub fn text_of(document: Document) -> String {
    match document.content {
        Content::Text(text) => text,
        Content::Tokens(_) => unreachable!("these sources are text"),
    }
}

fn only_source(manifest: &Manifest) -> &Source {
    &manifest.institutions[0].sources[0]
}

fn synthetic(style: &str, documents: u64) -> String {
    format!(
        "  - id: notes\n    licence: none\n    read: {{synthetic: {{style: {style}, documents: \
         {documents}}}}}"
    )
}

fn gzip(parts: &[&[u8]]) -> Vec<u8> {
    let member = |part: &&[u8]| {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(part).unwrap();
        encoder.finish().unwrap()
    };
    parts.iter().flat_map(member).collect()
}

#[test]
fn the_synthetic_corpus_prepares() {
    let origin = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/corpus/synthetic.yaml");
    let mut config: CorpusConfig = config::load(&origin).unwrap();
    let folder = tempfile::tempdir().unwrap();
    config.output = folder.path().join("corpus");
    let started = Instant::now();
    let manifest = prepare::run(&config, &origin, &mut Silent).unwrap();
    shared_data::report(&manifest, started.elapsed());
    assert_eq!(manifest.institutions.len(), 4);
    assert_eq!(manifest.tokenizer.vocab_size, 4096);
    assert_eq!(manifest.tokenizer.random_ids_end, 4096);
    let tokens: u64 = manifest
        .sources()
        .map(|(_, _, source)| source.train.tokens)
        .sum();
    assert!((400_000..2_000_000).contains(&tokens), "{tokens} tokens");
    let longest = manifest
        .sources()
        .map(|(_, _, s)| s.train.chunks - s.train.documents)
        .max();
    assert!(
        longest > Some(50),
        "some documents must be longer than the context"
    );
}
