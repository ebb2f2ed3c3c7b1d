//! What the plan of a phase is a function of, and what cannot be planned.

use std::sync::Arc;

use thiserror::Error;

use crate::corpus::mixture::MixedSource;
use crate::corpus::rate::Rate;
use crate::ids::SourceIndex;

/// Rows' worth of tokens in a block, unless the specification says otherwise: large enough that
/// packing leaves less than a thousandth empty, small enough to pack in well under a second.
pub const BLOCK_ROWS_DEFAULT: u64 = 2_048;
/// Chunks of a source that are permuted among themselves, unless the specification says otherwise.
pub const SHUFFLE_CHUNKS_DEFAULT: u64 = 262_144;
/// The lengths of one source's chunks, and how fast the phase reads them.
#[derive(Clone, Debug)]
pub struct SourceLengths {
    pub source: SourceIndex,
    /// `institution/source`, for errors.
    pub name: String,
    pub rate: Rate,
    /// Tokens of each chunk of each shard, in manifest order; two bytes a chunk.
    pub shards: Vec<Arc<[u16]>>,
}

impl SourceLengths {
    pub fn new(mixed: &MixedSource, shards: Vec<Arc<[u16]>>) -> Self {
        Self {
            source: mixed.source,
            name: mixed.name.clone(),
            rate: mixed.rate,
            shards,
        }
    }
}

/// All that a plan is a function of.
#[derive(Clone, Debug)]
pub struct PlanSpec {
    /// The run's seed.
    pub seed: u64,
    /// What tells the phase from the run's others: a key of its name.
    pub phase: u32,
    /// Tokens that a row holds at most.
    pub row_tokens: u32,
    /// Tokens pooled before packing, at most.
    pub block_tokens: u64,
    /// The least number of chunks of a source that are permuted among themselves.
    pub shuffle_chunks: u64,
    /// Tokens of one pass of the mixture, which is cut into blocks of equal size.
    pub pass_tokens: u64,
    pub sources: Vec<SourceLengths>,
}

/// Why there is no plan. All of it is the operator's to fix.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum PlanError {
    #[error(
        "source `{source_name}` has a chunk of {length} tokens (shard {shard}, chunk {chunk}), \
         but a \
         row holds {row_tokens}\n  \
         hint: raise the row's tokens, or prepare the corpus with a smaller max_length"
    )]
    ChunkTooLong {
        source_name: String,
        shard: usize,
        chunk: usize,
        length: u16,
        row_tokens: u32,
    },
    #[error(
        "source `{source_name}` has a chunk without tokens (shard {shard}, chunk {chunk})\n  \
         hint: run cohort prepare again"
    )]
    ChunkEmpty {
        source_name: String,
        shard: usize,
        chunk: usize,
    },
    #[error("source `{source_name}` has no chunks\n  hint: leave it out of the mixture")]
    SourceEmpty { source_name: String },
    #[error("the phase has no sources\n  hint: name at least one source in its mixture")]
    NoSources,
    #[error("`{field}` is 0\n  hint: leave it out to use the default")]
    Zero { field: &'static str },
}

impl PlanSpec {
    /// The blocks that a pass is cut into.
    pub fn pass_blocks(&self) -> u64 {
        self.pass_tokens.div_ceil(self.block_tokens)
    }

    /// Tokens of the mixture before a block, exact where a pass ends.
    pub fn block_start(&self, block: u64) -> u128 {
        let (pass, blocks) = (u128::from(self.pass_tokens), u128::from(self.pass_blocks()));
        let (passes, within) = (u128::from(block) / blocks, u128::from(block) % blocks);
        passes * pass + within * pass / blocks
    }

    /// Refuses what cannot be planned. Looks at every chunk length once.
    pub fn check(&self) -> Result<(), PlanError> {
        for (field, value) in [
            ("row_tokens", u64::from(self.row_tokens)),
            ("block_tokens", self.block_tokens),
            ("shuffle_chunks", self.shuffle_chunks),
            ("pass_tokens", self.pass_tokens),
        ] {
            if value == 0 {
                return Err(PlanError::Zero { field });
            }
        }
        if self.sources.is_empty() {
            return Err(PlanError::NoSources);
        }
        self.sources
            .iter()
            .try_for_each(|source| check_lengths(source, self.row_tokens))
    }

    /// A digest of all that the plan is a function of, in hexadecimal.
    pub fn digest(&self) -> String {
        let mut hasher = blake3::Hasher::new_derive_key("cohort 2026 phase plan v2");
        for number in [
            self.seed,
            u64::from(self.phase),
            u64::from(self.row_tokens),
            self.block_tokens,
            self.pass_tokens,
            self.shuffle_chunks,
            self.sources.len() as u64,
        ] {
            hasher.update(&number.to_le_bytes());
        }
        let mut bytes = Vec::new();
        for source in &self.sources {
            hasher.update(&source.source.0.to_le_bytes());
            hasher.update(&source.rate.to_le_bytes());
            hasher.update(&(source.shards.len() as u64).to_le_bytes());
            for shard in &source.shards {
                hasher.update(&(shard.len() as u64).to_le_bytes());
                bytes.clear();
                bytes.extend(shard.iter().flat_map(|length| length.to_le_bytes()));
                hasher.update(&bytes);
            }
        }
        hasher.finalize().to_hex().to_string()
    }
}

fn check_lengths(source: &SourceLengths, row_tokens: u32) -> Result<(), PlanError> {
    let source_name = || source.name.clone();
    if source.shards.iter().all(|shard| shard.is_empty()) {
        return Err(PlanError::SourceEmpty {
            source_name: source_name(),
        });
    }
    for (shard, lengths) in source.shards.iter().enumerate() {
        for (chunk, &length) in lengths.iter().enumerate() {
            if length == 0 {
                return Err(PlanError::ChunkEmpty {
                    source_name: source_name(),
                    shard,
                    chunk,
                });
            }
            if u32::from(length) > row_tokens {
                let source_name = source_name();
                return Err(PlanError::ChunkTooLong {
                    source_name,
                    shard,
                    chunk,
                    length,
                    row_tokens,
                });
            }
        }
    }
    Ok(())
}
