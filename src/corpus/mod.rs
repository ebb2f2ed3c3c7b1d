//! What a prepared corpus is: institutions, their sources, and the token shards of each.
//!
//! Pure: no I/O, no clock, no logs. `prepare` writes a [`Manifest`], everything else reads it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::ids::SourceIndex;

pub mod lengths;
pub mod masking;
pub mod mixture;
pub mod new_tokens;
pub mod order;
pub mod packing;
pub mod plan;
pub mod plan_spec;
pub mod random;
pub mod rate;

/// The layout that this code reads and writes; another number is refused.
pub const MANIFEST_VERSION: u32 = 2;
/// The manifest's file name inside a corpus folder. A corpus exists when this file does.
pub const MANIFEST_FILE: &str = "manifest.json";
/// The tokenizer's file name inside a corpus folder, a Hugging Face `tokenizer.json`.
pub const TOKENIZER_FILE: &str = "tokenizer.json";

/// A prepared corpus: `<corpus>/manifest.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    pub version: u32,
    pub name: String,
    pub tokenizer: TokenizerInfo,
    /// Tokens of the longest possible chunk, `[CLS]` and `[SEP]` included.
    pub max_length: u32,
    /// Share of the documents held out from training, in thousandths, chosen by document hash.
    pub held_out_permille: u32,
    pub institutions: Vec<Institution>,
}

/// What training must know of the tokenizer without loading it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenizerInfo {
    /// blake3 of `tokenizer.json`, in hexadecimal.
    pub digest: String,
    /// blake3 of `new_tokens.json` beside it, where the tokenizer was given new tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new_tokens: Option<String>,
    /// Rows of the embedding matrix: one more than the highest id.
    pub vocab_size: u32,
    pub cls: u32,
    pub sep: u32,
    pub pad: u32,
    pub mask: u32,
    pub unk: u32,
    /// Random replacements are drawn from ids below this one: all but the `[unused…]` ids at the
    /// end.
    pub random_ids_end: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Institution {
    /// Short name, unique in the corpus; also the folder of its shards.
    pub id: String,
    pub name: String,
    pub country: Option<String>,
    pub sources: Vec<Source>,
}

/// One data set of one institution.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// Short name, unique within its institution.
    pub id: String,
    pub licence: String,
    pub train: Split,
    pub held_out: Split,
    /// Documents dropped while preparing, by reason.
    pub dropped: BTreeMap<String, u64>,
    /// How often each token id occurs in the training split: an Arrow file with one `count: uint64`
    /// column of `vocab_size` rows. The unigram baseline comes from it.
    pub unigrams: StoredFile,
}

/// The documents of one source that training, or the held-out evaluation, reads.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Split {
    pub documents: u64,
    pub chunks: u64,
    /// Tokens, `[CLS]` and `[SEP]` of every chunk included.
    pub tokens: u64,
    pub shards: Vec<Shard>,
    /// Tokens of each chunk, so that a plan opens no shard: an Arrow file with one
    /// `length: uint16` column and a record batch for each shard. None where there is no chunk.
    pub lengths: Option<StoredFile>,
}

/// One Arrow IPC file of chunks: `input_ids: list<uint16 | uint32>`, `document: uint64` (the
/// document's number in its source, from 0), `first: bool` (the document's first chunk).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shard {
    #[serde(flatten)]
    pub stored: StoredFile,
    pub chunks: u64,
    pub tokens: u64,
    /// Documents whose first chunk is in this shard.
    pub documents: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredFile {
    /// Path relative to the corpus folder, with forward slashes.
    pub file: String,
    pub bytes: u64,
    /// blake3 of the file, in hexadecimal.
    pub digest: String,
}

impl Institution {
    /// A source's name across the corpus: `institution/source`.
    pub fn name_of(&self, source: &Source) -> String {
        format!("{}/{}", self.id, source.id)
    }
}

impl Source {
    /// Every file of the source, those of the training split first.
    pub fn files(&self) -> impl Iterator<Item = &StoredFile> {
        let splits = [&self.train, &self.held_out].into_iter();
        let of_splits = splits.flat_map(|split| {
            let shards = split.shards.iter().map(|shard| &shard.stored);
            shards.chain(&split.lengths)
        });
        of_splits.chain([&self.unigrams])
    }
}

impl Manifest {
    /// Every source in manifest order, with its institution; [`SourceIndex`] counts along this.
    pub fn sources(&self) -> impl Iterator<Item = (SourceIndex, &Institution, &Source)> {
        self.institutions
            .iter()
            .flat_map(|institution| institution.sources.iter().map(move |s| (institution, s)))
            .enumerate()
            .map(|(index, (institution, source))| (SourceIndex(index as u32), institution, source))
    }

    /// The source's name across the corpus: `institution/source`.
    pub fn source_name(&self, wanted: SourceIndex) -> Option<String> {
        self.sources()
            .find(|(index, _, _)| *index == wanted)
            .map(|(_, institution, source)| institution.name_of(source))
    }
}
