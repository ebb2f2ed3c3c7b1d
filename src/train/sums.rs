//! The statistics of a step that ranks add up: one small float64 all-reduce that is also the
//! boundary at which all ranks agree. Counts stay exact up to 2^53.

use anyhow::Result;
use tch::Tensor;

use crate::collective::Collective;
use crate::data::batch::{Batch, SourceCounts};
use crate::ids::RowIndex;
use crate::run::command::{DIRECTIVE_SLOTS, Directive, decode_directive, encode_directive};

/// What one rank saw in its share of a step; after [`Sums::agree`], what all of them saw.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sums {
    /// Cross-entropy summed over masked tokens.
    pub loss: f64,
    pub masked: u64,
    pub correct: u64,
    /// By source, in manifest order.
    pub sources: Vec<SourceCounts>,
    /// Rows of the first micro-batch with a non-finite loss, by rank: first row and how many.
    pub bad_rows: Vec<Option<(RowIndex, u64)>>,
    /// The lead rank's for this boundary.
    pub directive: Option<Directive>,
}

const FIXED: usize = 3 + DIRECTIVE_SLOTS;
const BY_RANK: usize = 2;
const BY_SOURCE: usize = 3;

impl Sums {
    /// Nothing yet, for a run of so many sources and ranks.
    pub fn new(sources: usize, world: u32) -> Self {
        Self {
            sources: vec![SourceCounts::default(); sources],
            bad_rows: vec![None; world as usize],
            ..Self::default()
        }
    }

    /// Enters what a batch holds of each source.
    pub fn count(&mut self, batch: &Batch) {
        for (source, counts) in &batch.counts {
            let sum = &mut self.sources[source.0 as usize];
            sum.tokens += counts.tokens;
            sum.documents += counts.documents;
            sum.chunks += counts.chunks;
        }
    }

    pub fn tokens(&self) -> u64 {
        self.sources.iter().map(|source| source.tokens).sum()
    }

    /// Mean cross-entropy over the masked tokens, in nats.
    pub fn mean_loss(&self) -> f64 {
        self.loss / self.masked.max(1) as f64
    }

    /// Adds up over all ranks. Every rank returns the same sums, or all fail.
    pub fn agree(&self, collective: &dyn Collective) -> Result<Self> {
        let tensor = Tensor::from_slice(&self.encode());
        collective.all_reduce_sum(&tensor)?;
        Ok(self.decode(&Vec::<f64>::try_from(&tensor)?))
    }

    fn encode(&self) -> Vec<f64> {
        let mut numbers = vec![self.loss, self.masked as f64, self.correct as f64];
        numbers.extend(encode_directive(self.directive));
        for bad in &self.bad_rows {
            let (row, count) = bad.map_or((0, 0), |(row, count)| (row.0, count));
            numbers.extend([row as f64, count as f64]);
        }
        for source in &self.sources {
            numbers.extend([source.tokens, source.documents, source.chunks].map(|n| n as f64));
        }
        numbers
    }

    /// `self` gives the shape only.
    fn decode(&self, numbers: &[f64]) -> Self {
        let (fixed, rest) = numbers.split_at(FIXED);
        let (by_rank, by_source) = rest.split_at(self.bad_rows.len() * BY_RANK);
        Self {
            loss: fixed[0],
            masked: fixed[1] as u64,
            correct: fixed[2] as u64,
            directive: decode_directive(&fixed[3..]),
            bad_rows: by_rank
                .chunks_exact(BY_RANK)
                .map(|bad| (bad[1] > 0.0).then(|| (RowIndex(bad[0] as u64), bad[1] as u64)))
                .collect(),
            sources: by_source
                .chunks_exact(BY_SOURCE)
                .map(|counts| SourceCounts {
                    tokens: counts[0] as u64,
                    documents: counts[1] as u64,
                    chunks: counts[2] as u64,
                })
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::CommandId;
    use crate::run::command::{Command, CommandKind};

    #[test]
    fn what_is_encoded_is_decoded() {
        let mut sums = Sums::new(2, 3);
        sums.loss = 12.5;
        sums.masked = 40;
        sums.correct = 7;
        sums.sources[1] = SourceCounts {
            tokens: 100,
            documents: 2,
            chunks: 3,
        };
        sums.bad_rows[2] = Some((RowIndex(0), 4));
        sums.directive = Some(Directive::Command(Command {
            id: CommandId(3),
            kind: CommandKind::Stop,
        }));
        assert_eq!(Sums::new(2, 3).decode(&sums.encode()), sums);
    }
}
