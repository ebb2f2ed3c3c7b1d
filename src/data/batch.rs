//! Batches: the rows that one rank computes in one step, read, packed and masked.
//!
//! A row of a batch is a function of the corpus, the plan, the mask rule and its row index, never
//! of the rank, of the batch it stands in or of what was built before.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Result;
use rayon::prelude::*;

use crate::corpus::masking::{MaskRule, NOT_PREDICTED, RowKey, mask_row};
use crate::corpus::plan::{ChunkRef, PhasePlan};
use crate::data::{Corpus, SplitName};
use crate::ids::{RowIndex, SourceIndex};

/// A masked row. `input_ids` and `labels` have one entry per token; there is no padding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackedRow {
    pub row: RowIndex,
    /// Ids as the model sees them.
    pub input_ids: Vec<u32>,
    /// The original id where the position is predicted, -100 elsewhere.
    pub labels: Vec<i64>,
    /// Where each chunk begins, then the row's tokens: one more entry than chunks, from 0.
    pub cu_seqlens: Vec<u32>,
    pub chunks: Vec<ChunkRef>,
}

impl PackedRow {
    /// Positions that the loss counts.
    pub fn predicted(&self) -> u64 {
        self.labels
            .iter()
            .filter(|&&label| label != NOT_PREDICTED)
            .count() as u64
    }
}

/// What a batch holds of one source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SourceCounts {
    pub tokens: u64,
    /// Documents that begin in the batch, so that a document of many chunks counts once.
    pub documents: u64,
    pub chunks: u64,
}

/// The rows that one rank computes in one step.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// In the order asked for.
    pub rows: Vec<PackedRow>,
    pub counts: BTreeMap<SourceIndex, SourceCounts>,
    /// Positions that the loss counts, over all rows.
    pub predicted: u64,
}

/// Builds the batches of one phase.
#[derive(Clone, Debug)]
pub struct BatchBuilder {
    pub corpus: Arc<Corpus>,
    pub plan: Arc<PhasePlan>,
    pub rule: MaskRule,
}

impl BatchBuilder {
    /// Reads and masks rows of the plan, in parallel.
    pub fn build(&self, rows: &[RowIndex]) -> Result<Batch> {
        if let Some(&first) = rows.first() {
            self.corpus.foresee(&self.plan, first);
        }
        let read: Result<Vec<(PackedRow, Vec<bool>)>> =
            rows.par_iter().map(|&row| self.read(row)).collect();
        let mut batch = Batch::default();
        for (row, firsts) in read? {
            for (chunk, first) in row.chunks.iter().zip(firsts) {
                let counts = batch.counts.entry(chunk.source).or_default();
                counts.tokens += u64::from(chunk.length);
                counts.documents += u64::from(first);
                counts.chunks += 1;
            }
            batch.predicted += row.predicted();
            batch.rows.push(row);
        }
        Ok(batch)
    }

    fn read(&self, row: RowIndex) -> Result<(PackedRow, Vec<bool>)> {
        let planned = self.plan.row(row);
        let contents = read_row(&self.corpus, SplitName::Train, &planned.chunks)?;
        let key = RowKey {
            seed: self.plan.seed(),
            phase: self.plan.phase(),
            row,
        };
        let tokenizer = &self.corpus.manifest().tokenizer;
        let masked = mask_row(key, &contents.input_ids, &self.rule, tokenizer);
        let packed = PackedRow {
            row,
            input_ids: masked.input_ids,
            labels: masked.labels,
            cu_seqlens: contents.cu_seqlens,
            chunks: planned.chunks,
        };
        Ok((packed, contents.firsts))
    }
}

/// The unmasked chunks of a row, back to back.
pub(crate) struct RowContents {
    pub input_ids: Vec<u32>,
    pub cu_seqlens: Vec<u32>,
    /// Whether each chunk is the first of its document.
    pub firsts: Vec<bool>,
}

pub(crate) fn read_row(
    corpus: &Corpus,
    split: SplitName,
    chunks: &[ChunkRef],
) -> Result<RowContents> {
    let tokens: u32 = chunks.iter().map(|chunk| chunk.length).sum();
    let mut contents = RowContents {
        input_ids: Vec::with_capacity(tokens as usize),
        cu_seqlens: Vec::with_capacity(chunks.len() + 1),
        firsts: Vec::with_capacity(chunks.len()),
    };
    contents.cu_seqlens.push(0);
    for chunk in chunks {
        let origin = corpus.read_chunk(split, chunk, &mut contents.input_ids)?;
        contents.cu_seqlens.push(contents.input_ids.len() as u32);
        contents.firsts.push(origin.first);
    }
    Ok(contents)
}
