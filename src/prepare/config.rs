//! The corpus YAML: institutions, their sources, the tokenizer and the shape of the shards.
//!
//! Says what to read and never reads it. Every name that becomes a folder is checked here, so that
//! no configuration can write outside its output folder.

#![expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "garde passes its context by reference"
)]

use std::collections::BTreeSet;
use std::path::PathBuf;

use garde::Validate;
use serde::{Deserialize, Serialize};

use crate::prepare::cleaning::config::{CleaningConfig, none_or_settings};
use crate::prepare::config::readers::ReadConfig;
use crate::store::settings::ReadSettings;

pub mod readers;

/// A corpus to prepare. Relative paths start at the folder of the YAML file.
#[derive(Clone, Debug, Serialize, Deserialize, Validate)]
#[serde(deny_unknown_fields)]
pub struct CorpusConfig {
    /// The corpus's name in manifests and ledgers: lower-case letters, digits, `.`, `_`, `-`.
    #[garde(custom(short_name))]
    pub name: String,
    /// The folder that receives shards and manifest.
    #[garde(skip)]
    pub output: PathBuf,
    /// An existing tokenizer, or one to be trained on the corpus itself.
    #[garde(dive)]
    pub tokenizer: TokenizerConfig,
    /// What encodes the documents; the ids are the same.
    // Not written, so that a corpus is the same to its fingerprint whatever encoded it.
    #[serde(default, skip_serializing)]
    #[garde(skip)]
    pub tokenizer_engine: TokenizerEngine,
    /// Tokens of the longest chunk, `[CLS]` and `[SEP]` included.
    #[garde(range(min = 8, max = 65_535))]
    pub max_length: u32,
    /// Share of the documents kept out of training, chosen by the hash of their text, in steps of
    /// 0.001.
    #[serde(default = "default_held_out")]
    #[garde(custom(thousandths))]
    pub held_out: f64,
    /// Tokenize as if every document began with a space, as the `BioClinical` recipe does.
    #[serde(default = "default_prefix_space")]
    #[garde(skip)]
    pub prefix_space: bool,
    /// What is dropped and what is replaced: a mapping, or `none` for nothing but empty documents.
    /// Without it, documents are dropped whose text is that of an earlier one.
    #[serde(default, deserialize_with = "none_or_settings")]
    #[garde(dive)]
    pub cleaning: CleaningConfig,
    /// Bytes of token ids in one shard, at most.
    #[serde(default = "default_shard_bytes")]
    #[garde(range(min = 1024, max = 1_073_741_824))]
    pub shard_bytes: u64,
    /// How sources are reached whose paths are addresses, as `s3://bucket/folder/*.csv.gz`.
    /// Credentials come from the environment.
    // Not written: how an object was reached does not change what it is.
    #[serde(default, skip_serializing)]
    #[garde(dive)]
    pub store: ReadSettings,
    /// Whose text it is.
    #[garde(length(min = 1), custom(unique_institutions), dive)]
    pub institutions: Vec<InstitutionConfig>,
}

#[derive(Clone, Debug, Serialize, Deserialize, Validate)]
#[serde(rename_all = "snake_case")]
pub enum TokenizerConfig {
    /// A Hugging Face `tokenizer.json`, or the folder that holds it.
    File(#[garde(skip)] PathBuf),
    /// Train a byte-level BPE on the training documents.
    Train(#[garde(dive)] TrainConfig),
}

/// What encodes the documents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenizerEngine {
    /// Cohort's own byte-level BPE where it knows the tokenizer, compared with the reference on a
    /// sample of every source; the reference otherwise.
    #[default]
    Auto,
    /// The `tokenizers` library, for every document.
    Reference,
}

/// A byte-level BPE to be trained; the same sources give the same tokenizer.
#[derive(Clone, Debug, Serialize, Deserialize, Validate)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig {
    /// Tokens of the vocabulary, the five special ones included.
    #[garde(range(min = 512, max = 262_144))]
    pub vocab_size: u32,
    /// Bytes of text to learn from, at most; the sources get equal shares of it.
    #[serde(default = "default_sample_bytes")]
    #[garde(range(min = 1))]
    pub sample_bytes: u64,
}

/// Whose text it is.
#[derive(Clone, Debug, Serialize, Deserialize, Validate)]
#[serde(deny_unknown_fields)]
pub struct InstitutionConfig {
    /// Short name, unique in the corpus, also a folder: lower-case letters, digits, `.`, `_`, `-`.
    #[garde(custom(short_name))]
    pub id: String,
    /// The name in full, for people.
    #[garde(length(min = 1))]
    pub name: String,
    /// Country, for people.
    #[serde(default)]
    #[garde(skip)]
    pub country: Option<String>,
    /// The data sets of this institution.
    #[garde(length(min = 1), custom(unique_sources), dive)]
    pub sources: Vec<SourceConfig>,
}

/// One data set of one institution.
#[derive(Clone, Debug, Serialize, Deserialize, Validate)]
#[serde(deny_unknown_fields)]
pub struct SourceConfig {
    /// Short name, unique in its institution, also a folder.
    #[garde(custom(short_name))]
    pub id: String,
    /// The terms under which the text is used; goes into the manifest and every ledger.
    #[garde(length(min = 1))]
    pub licence: String,
    /// Where the files are had, for people; shown where they are missing.
    // Not written, so that a corpus is the same to its fingerprint wherever its files came from.
    #[serde(default, skip_serializing)]
    #[garde(inner(length(min = 1)))]
    pub homepage: Option<String>,
    /// Where the documents come from.
    #[garde(dive)]
    pub read: ReadConfig,
}

impl CorpusConfig {
    /// The held-out share in thousandths.
    pub fn held_out_permille(&self) -> u32 {
        (self.held_out * 1000.0).round() as u32
    }
}

fn default_held_out() -> f64 {
    0.02
}

fn default_prefix_space() -> bool {
    true
}

fn default_shard_bytes() -> u64 {
    64 << 20
}

fn default_sample_bytes() -> u64 {
    64 << 20
}

fn thousandths(share: &f64, _context: &()) -> garde::Result {
    let permille = share * 1000.0;
    if !(0.0..=500.0).contains(&permille) {
        return Err(garde::Error::new("must lie between 0 and 0.5"));
    }
    if (permille - permille.round()).abs() > 1e-6 {
        return Err(garde::Error::new("must be a multiple of 0.001"));
    }
    Ok(())
}

/// Whether a name can stand for a folder and in patterns: no separator, no leading dot.
pub fn is_short_name(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c);
    let starts_well = name.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
    starts_well && name.len() <= 64 && name.chars().all(allowed)
}

fn short_name(name: &str, _context: &()) -> garde::Result {
    if is_short_name(name) {
        return Ok(());
    }
    Err(garde::Error::new(
        "must be 1 to 64 lower-case letters, digits, '.', '_' or '-', and begin with a letter or \
         a digit",
    ))
}

fn unique_institutions(institutions: &[InstitutionConfig], _context: &()) -> garde::Result {
    unique(
        institutions
            .iter()
            .map(|institution| institution.id.as_str()),
    )
}

fn unique_sources(sources: &[SourceConfig], _context: &()) -> garde::Result {
    unique(sources.iter().map(|source| source.id.as_str()))
}

fn unique<'a>(ids: impl Iterator<Item = &'a str>) -> garde::Result {
    let mut seen = BTreeSet::new();
    for id in ids {
        if !seen.insert(id) {
            return Err(garde::Error::new(format!("the id {id:?} is used twice")));
        }
    }
    Ok(())
}
