//! The held-out rows of a corpus: a fixed test of the encoder, for each institution.
//!
//! Which chunks are taken and how each is masked depends on the source's name and the chunk alone,
//! never on the run, the row size or the other sources: the held-out loss of two runs, or of two
//! checkpoints, is over the same predictions. Masks follow the evaluation of the recipe: 15 % of
//! the positions, special tokens protected.

use anyhow::{Context, Result, ensure};

use crate::corpus::masking::{MaskRule, RowKey, mask_row};
use crate::corpus::order::{OrderKey, ShardSize, SourceOrder};
use crate::corpus::packing::pack;
use crate::corpus::plan::ChunkRef;
use crate::corpus::random::keyed_number;
use crate::data::batch::{PackedRow, read_row};
use crate::data::{Corpus, SplitName};
use crate::ids::{RowIndex, SourceIndex};

/// The seed of every held-out evaluation. Never edit it: losses would stop being comparable.
pub const EVALUATION_SEED: u64 = 15;
/// How held-out rows are masked.
pub const EVALUATION_RULE: MaskRule = MaskRule {
    rate: 0.15,
    protect_special: true,
};

/// How much of the held-out split is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeldOutSpec {
    /// Tokens that a row holds at most.
    pub row_tokens: u32,
    /// Chunks of a source are taken, in a fixed random order, until they have this many tokens.
    pub tokens_max_per_source: u64,
}

/// The held-out rows of one institution.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldOutRows {
    /// The institution's id.
    pub institution: String,
    /// Numbered from 0 over all institutions.
    pub rows: Vec<PackedRow>,
}

/// Reads, packs and masks the held-out chunks of the given sources, institution by institution in
/// manifest order. An institution without held-out chunks is left out.
pub fn held_out_rows(
    corpus: &Corpus,
    sources: &[SourceIndex],
    spec: HeldOutSpec,
) -> Result<Vec<HeldOutRows>> {
    let mut institutions: Vec<(String, Vec<ChunkRef>)> = Vec::new();
    for (index, institution, _) in corpus.manifest().sources() {
        if !sources.contains(&index) {
            continue;
        }
        let chunks = sample(corpus, index, spec)?;
        match institutions.last_mut() {
            Some((id, taken)) if *id == institution.id => taken.extend(chunks),
            _ => institutions.push((institution.id.clone(), chunks)),
        }
    }
    let wanted = institutions.iter().flat_map(|(_, chunks)| chunks).copied();
    corpus.foresee_chunks(SplitName::HeldOut, wanted);
    let mut next_row = 0;
    let mut all = Vec::new();
    for (institution, chunks) in institutions {
        let lengths: Vec<u16> = chunks.iter().map(|chunk| chunk.length as u16).collect();
        let packed = pack(&lengths, spec.row_tokens);
        let mut rows = Vec::with_capacity(packed.len());
        for place in 0..packed.len() {
            let members = packed
                .row(place)
                .iter()
                .map(|&index| chunks[index as usize])
                .collect();
            rows.push(read_masked(corpus, RowIndex(next_row), members)?);
            next_row += 1;
        }
        if !rows.is_empty() {
            all.push(HeldOutRows { institution, rows });
        }
    }
    Ok(all)
}

fn sample(corpus: &Corpus, source: SourceIndex, spec: HeldOutSpec) -> Result<Vec<ChunkRef>> {
    let name = corpus.source_name(source)?;
    let shards = corpus.lengths(source, SplitName::HeldOut)?;
    let sizes = shards.iter().map(|lengths| ShardSize::of(lengths));
    let key = OrderKey {
        seed: evaluation_seed(name),
        phase: 0,
        source: 0,
    };
    let order = SourceOrder::new(key, sizes.collect(), u64::MAX);
    let mut chunks = Vec::new();
    let mut tokens = 0;
    if order.chunks() == 0 {
        return Ok(chunks);
    }
    for (shard, chunk) in order.range(0..order.chunks()) {
        if tokens >= spec.tokens_max_per_source {
            break;
        }
        let length = u32::from(shards[shard as usize][chunk as usize]);
        ensure!(
            length <= spec.row_tokens,
            "source `{name}` has a held-out chunk of {length} tokens (shard {shard}, chunk \
             {chunk}), but a row holds {}\n  hint: raise the row's tokens",
            spec.row_tokens
        );
        tokens += u64::from(length);
        chunks.push(ChunkRef {
            source,
            shard,
            chunk,
            length,
        });
    }
    Ok(chunks)
}

fn read_masked(corpus: &Corpus, row: RowIndex, chunks: Vec<ChunkRef>) -> Result<PackedRow> {
    let contents = read_row(corpus, SplitName::HeldOut, &chunks)
        .with_context(|| format!("held-out row {row}"))?;
    let mut input_ids = Vec::with_capacity(contents.input_ids.len());
    let mut labels = Vec::with_capacity(contents.input_ids.len());
    for (chunk, ends) in chunks.iter().zip(contents.cu_seqlens.windows(2)) {
        // Each chunk is masked by itself, under its own name in place of a row's.
        let key = RowKey {
            seed: evaluation_seed(corpus.source_name(chunk.source)?),
            phase: chunk.shard,
            row: RowIndex(u64::from(chunk.chunk)),
        };
        let ids = &contents.input_ids[ends[0] as usize..ends[1] as usize];
        let masked = mask_row(key, ids, &EVALUATION_RULE, &corpus.manifest().tokenizer);
        input_ids.extend(masked.input_ids);
        labels.extend(masked.labels);
    }
    Ok(PackedRow {
        row,
        input_ids,
        labels,
        cu_seqlens: contents.cu_seqlens,
        chunks,
    })
}

fn evaluation_seed(source_name: &str) -> u64 {
    keyed_number(EVALUATION_SEED, source_name, &[])
}
