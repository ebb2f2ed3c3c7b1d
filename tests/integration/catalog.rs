//! The recipe as shipped: the catalog of its sources, and its run files.

#![expect(
    clippy::unwrap_used,
    reason = "in a test, a step that fails is a panic"
)]

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use cohort::config;
use cohort::corpus::Manifest;
use cohort::prepare;
use cohort::prepare::available;
use cohort::prepare::config::CorpusConfig;
use cohort::prepare::progress::Silent;
use flate2::Compression;
use flate2::write::GzEncoder;
use tempfile::TempDir;

mod published;
mod steps;

fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A folder laid out as the catalog's paths say, and the catalog in it.
struct Library {
    folder: TempDir,
}

impl Library {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("configs/corpus")).unwrap();
        Self { folder }
    }

    fn write(&self, file: &Path, content: &[u8]) {
        let path = self.path(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn write_gzip(&self, file: &str, content: &[u8]) {
        let mut packer = GzEncoder::new(Vec::new(), Compression::fast());
        packer.write_all(content).unwrap();
        self.write(Path::new(file), &packer.finish().unwrap());
    }

    fn path(&self, file: impl AsRef<Path>) -> PathBuf {
        self.folder.path().join("sources").join(file)
    }

    /// The catalog, with a small tokenizer of its own.
    fn catalog(&self) -> (CorpusConfig, PathBuf) {
        let mut config: CorpusConfig =
            config::load(&project().join("configs/corpus/bioclinical.yaml")).unwrap();
        config.tokenizer = serde_json::from_str(r#"{"train": {"vocab_size": 600}}"#).unwrap();
        let origin = self.folder.path().join("configs/corpus/bioclinical.yaml");
        (config, origin)
    }

    /// Prepares what is there; documents by source, and the names of what is not there.
    fn prepare(&self) -> (BTreeMap<String, u64>, Vec<String>) {
        let (mut config, origin) = self.catalog();
        let folder = origin.parent().unwrap();
        let absent = available::take_out_absent(&mut config, folder).unwrap();
        let manifest = prepare::run(&config, &origin, &mut Silent).unwrap();
        let absent = absent.into_iter().map(|source| source.name).collect();
        (documents(&manifest), absent)
    }
}

fn documents(manifest: &Manifest) -> BTreeMap<String, u64> {
    let sources = manifest.sources();
    let read = sources.map(|(_, institution, source)| {
        let documents = source.train.documents + source.held_out.documents;
        (institution.name_of(source), documents)
    });
    read.collect()
}
