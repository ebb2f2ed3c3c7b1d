//! What a corpus is made from, in digests: whether one that is there is the one that is asked for,
//! and how much of an interrupted preparation still holds.
//!
//! The fingerprint covers the configuration, the tokenizer's bytes, and name, size and time of
//! every input file. It says nothing about the shards: a corpus is believed only where its manifest
//! stands, every file in it has its size, and the tokenizer its digest.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::corpus::new_tokens::NEW_TOKENS_FILE;
use crate::corpus::{MANIFEST_FILE, MANIFEST_VERSION, Manifest, StoredFile, TOKENIZER_FILE};
use crate::prepare::config::{CorpusConfig, SourceConfig, TokenizerConfig};
use crate::prepare::files;
use crate::prepare::inputs::InputFile;
use crate::prepare::source::SourceJob;
use crate::prepare::tokenizer::TOKENIZER_CONFIG_FILE;

/// Raised whenever the same inputs come to other shards than before.
const PREPARATION_VERSION: u32 = 4;
/// Stands beside the manifest.
pub const FINGERPRINT_FILE: &str = "prepared.json";

/// blake3 over everything that decides the shards, in hexadecimal.
#[derive(Clone, Debug)]
pub struct Fingerprint {
    /// Of the whole corpus.
    whole: Prepared,
    /// Of what all sources have in common; of everything, where the tokenizer is trained on all.
    pub common: String,
    /// Of what each source is made from, in the configuration's order. Covers what is common and
    /// the sources before it, on which a source may depend.
    pub sources: Vec<String>,
}

/// `<corpus>/prepared.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Prepared {
    digest: String,
}

#[derive(Serialize)]
struct Inputs<'a> {
    preparation_version: u32,
    manifest_version: u32,
    config: CorpusConfig,
    tokenizer: Option<&'a str>,
    files: Vec<InputFile>,
}

#[derive(Serialize)]
struct SourceInputs<'a> {
    before: &'a str,
    institution: &'a str,
    source: &'a SourceConfig,
    files: Vec<InputFile>,
}

impl Fingerprint {
    /// `tokenizer` is the digest of an existing tokenizer; paths count relative to `folder`, so
    /// that the place from which a run is started does not.
    pub fn new(
        config: &CorpusConfig,
        folder: &Path,
        tokenizer: Option<&str>,
        jobs: &[SourceJob<'_>],
    ) -> Result<Self> {
        let relative = |file: &InputFile| {
            let path = file.path.strip_prefix(folder).unwrap_or(&file.path);
            InputFile {
                path: path.to_owned(),
                ..file.clone()
            }
        };
        let mut inputs = Inputs {
            preparation_version: PREPARATION_VERSION,
            manifest_version: MANIFEST_VERSION,
            config: CorpusConfig {
                output: PathBuf::new(),
                ..config.clone()
            },
            tokenizer,
            files: jobs
                .iter()
                .flat_map(|job| job.files.iter().map(relative))
                .collect(),
        };
        let whole = digest(&inputs)?;
        if matches!(config.tokenizer, TokenizerConfig::File(_)) {
            inputs.files.clear();
            inputs.config.institutions.clear();
        }
        let common = digest(&inputs)?;
        let mut sources: Vec<String> = Vec::new();
        for job in jobs {
            sources.push(digest(&SourceInputs {
                before: sources.last().unwrap_or(&common),
                institution: &job.institution.id,
                source: job.source,
                files: job.files.iter().map(relative).collect(),
            })?);
        }
        Ok(Self {
            whole: Prepared { digest: whole },
            common,
            sources,
        })
    }

    pub fn write(&self, root: &Path) -> Result<StoredFile> {
        files::write_json(root, FINGERPRINT_FILE, &self.whole)
    }

    /// Of everything.
    pub fn whole(&self) -> &str {
        &self.whole.digest
    }

    /// The corpus in `root`, if it is complete and was made from these inputs.
    pub fn find(&self, root: &Path) -> Option<Manifest> {
        let found: Prepared = files::read_json(&root.join(FINGERPRINT_FILE)).ok()?;
        let manifest: Manifest = files::read_json(&root.join(MANIFEST_FILE)).ok()?;
        (found == self.whole && is_complete(root, &manifest)).then_some(manifest)
    }
}

fn digest<T: Serialize>(inputs: &T) -> Result<String> {
    let bytes = serde_json::to_vec(inputs).context("cannot fingerprint the inputs")?;
    Ok(blake3::hash(&bytes).to_hex().to_string())
}

fn is_complete(root: &Path, manifest: &Manifest) -> bool {
    let tokenizer = fs::read(root.join(TOKENIZER_FILE)).unwrap_or_default();
    manifest.version == MANIFEST_VERSION
        && blake3::hash(&tokenizer).to_hex().as_str() == manifest.tokenizer.digest
        && root.join(TOKENIZER_CONFIG_FILE).exists()
        && manifest.tokenizer.new_tokens.as_ref().is_none_or(|digest| {
            let record = fs::read(root.join(NEW_TOKENS_FILE)).unwrap_or_default();
            blake3::hash(&record).to_hex().as_str() == digest
        })
        && manifest.sources().all(|(_, _, source)| {
            let mut stored = source.files();
            stored.all(|stored| files::has_size(root, stored))
        })
}
