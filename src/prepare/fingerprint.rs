//! Whether a corpus that is already there is the one that is asked for.
//!
//! The fingerprint covers the configuration, the tokenizer's bytes, and name, size and time of
//! every input file. It says nothing about the shards: a corpus is believed only where its manifest
//! stands, every file in it has its size, and the tokenizer its digest.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use serde::{Deserialize, Serialize};

use crate::corpus::new_tokens::NEW_TOKENS_FILE;
use crate::corpus::{MANIFEST_FILE, MANIFEST_VERSION, Manifest, StoredFile, TOKENIZER_FILE};
use crate::prepare::config::{CorpusConfig, is_short_name};
use crate::prepare::files;
use crate::prepare::inputs::InputFile;
use crate::prepare::source::SourceJob;
use crate::prepare::tokenizer::TOKENIZER_CONFIG_FILE;

/// Raised whenever the same inputs come to other shards than before.
const PREPARATION_VERSION: u32 = 2;
const FINGERPRINT_FILE: &str = "prepared.json";

/// blake3 over everything that decides the shards, in hexadecimal: `<corpus>/prepared.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint {
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
            let path = file
                .path
                .strip_prefix(folder)
                .unwrap_or(&file.path)
                .to_owned();
            InputFile { path, ..*file }
        };
        let inputs = Inputs {
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
        let bytes = serde_json::to_vec(&inputs).context("cannot fingerprint the inputs")?;
        Ok(Self {
            digest: blake3::hash(&bytes).to_hex().to_string(),
        })
    }

    pub fn write(&self, root: &Path) -> Result<StoredFile> {
        write_json(root, FINGERPRINT_FILE, self)
    }

    /// The corpus in `root`, if it is complete and was made from these inputs.
    pub fn find(&self, root: &Path) -> Option<Manifest> {
        let found: Self = read_json(&root.join(FINGERPRINT_FILE)).ok()?;
        let manifest: Manifest = read_json(&root.join(MANIFEST_FILE)).ok()?;
        (found == *self && is_complete(root, &manifest)).then_some(manifest)
    }
}

/// Removes a corpus, its manifest first, so that no moment shows a manifest without its shards.
/// Touches only files that a preparation makes; `jobs` name the folders to look into.
pub fn clear(root: &Path, jobs: &[SourceJob<'_>]) -> Result<()> {
    let old: Option<Manifest> = read_json(&root.join(MANIFEST_FILE)).ok();
    remove(&root.join(MANIFEST_FILE))?;
    files::sync_folder(root)?;
    remove(&root.join(FINGERPRINT_FILE))?;
    remove(&root.join(NEW_TOKENS_FILE))?;
    let old_sources = old
        .iter()
        .flat_map(Manifest::sources)
        .filter(|(_, institution, source)| {
            is_short_name(&institution.id) && is_short_name(&source.id)
        });
    let mut folders: Vec<PathBuf> = old_sources
        .map(|(_, institution, source)| root.join(&institution.id).join(&source.id))
        .chain(jobs.iter().map(|job| root.join(job.name())))
        .collect();
    folders.sort();
    folders.dedup();
    for folder in folders.iter().filter(|folder| folder.is_dir()) {
        let context = || format!("cannot list the folder {}", folder.display());
        for entry in fs::read_dir(folder).with_context(context)? {
            let entry = entry.with_context(context)?;
            if is_ours(&entry.file_name().to_string_lossy()) {
                remove(&entry.path())?;
            }
        }
    }
    Ok(())
}

/// Writes a value as pretty JSON.
pub fn write_json<T: Serialize>(root: &Path, file: &str, value: &T) -> Result<StoredFile> {
    let mut json = serde_json::to_vec_pretty(value).context("cannot write JSON")?;
    json.push(b'\n');
    files::write(root, file, |output| {
        Ok(std::io::Write::write_all(output, &json)?)
    })
}

fn read_json<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<T> {
    Ok(serde_json::from_slice(&fs::read(path)?)?)
}

fn is_complete(root: &Path, manifest: &Manifest) -> bool {
    let there = |stored: &StoredFile| {
        fs::metadata(root.join(&stored.file)).is_ok_and(|found| found.len() == stored.bytes)
    };
    let tokenizer = fs::read(root.join(TOKENIZER_FILE)).unwrap_or_default();
    manifest.version == MANIFEST_VERSION
        && blake3::hash(&tokenizer).to_hex().as_str() == manifest.tokenizer.digest
        && root.join(TOKENIZER_CONFIG_FILE).exists()
        && manifest.tokenizer.new_tokens.as_ref().is_none_or(|digest| {
            let record = fs::read(root.join(NEW_TOKENS_FILE)).unwrap_or_default();
            blake3::hash(&record).to_hex().as_str() == digest
        })
        && manifest.sources().all(|(_, _, source)| {
            let splits = [&source.train, &source.held_out];
            let shards = splits.iter().flat_map(|split| &split.shards);
            let lengths = splits.iter().filter_map(|split| split.lengths.as_ref());
            shards.map(|shard| &shard.stored).chain(lengths).all(there) && there(&source.unigrams)
        })
}

fn is_ours(name: &str) -> bool {
    let stem = name
        .strip_suffix(&format!(".{}", files::TEMPORARY))
        .unwrap_or(name);
    let numbered = |prefix: &str| {
        stem.strip_prefix(prefix)
            .and_then(|rest| rest.strip_suffix(".arrow"))
            .is_some_and(|number| number.len() >= 5 && number.bytes().all(|b| b.is_ascii_digit()))
    };
    let single = [
        "unigrams.arrow",
        "train-lengths.arrow",
        "held-out-lengths.arrow",
    ];
    single.contains(&stem) || numbered("train-") || numbered("held-out-")
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(anyhow!("cannot remove {}: {error}", path.display()))
        }
        _ => Ok(()),
    }
}
