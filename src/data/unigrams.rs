//! How often each token occurs in the training text: the baseline that any model must beat.

use std::io::Cursor;

use anyhow::{Context, Result, ensure};
use arrow_array::UInt64Array;
use arrow_array::cast::AsArray;
use arrow_ipc::reader::FileReader;

use crate::corpus::StoredFile;
use crate::data::{Corpus, PREPARE_AGAIN};

/// The unigram distribution over a corpus's training split, with one added to each count so that no
/// token is impossible.
#[derive(Clone, Debug, PartialEq)]
pub struct Unigrams {
    /// -ln p of each token id.
    surprisal: Vec<f64>,
    most_frequent: usize,
}

impl Unigrams {
    /// Sums the counts of all sources of a corpus.
    pub fn read(corpus: &Corpus) -> Result<Self> {
        let mut counts = vec![0_u64; corpus.manifest().tokenizer.vocab_size as usize];
        for (_, _, source) in corpus.manifest().sources() {
            let found = read_counts(corpus, &source.unigrams)
                .with_context(|| format!("source `{}`", source.id))?;
            ensure!(
                found.len() == counts.len(),
                "source `{}` counts {} tokens, the tokenizer has {}",
                source.id,
                found.len(),
                counts.len()
            );
            for (count, more) in counts.iter_mut().zip(found) {
                *count += more;
            }
        }
        Ok(Self::new(&counts))
    }

    pub fn new(counts: &[u64]) -> Self {
        let total = counts.iter().sum::<u64>() + counts.len() as u64;
        let surprisal = counts
            .iter()
            .map(|&count| (total as f64 / (count + 1) as f64).ln())
            .collect();
        let most_frequent = (0..counts.len())
            .rev()
            .max_by_key(|&id| counts[id])
            .unwrap_or(0);
        Self {
            surprisal,
            most_frequent,
        }
    }

    /// Cross-entropy of predicting `id`, in nats, and whether the most frequent token is right.
    pub fn score(&self, id: usize) -> (f64, bool) {
        (self.surprisal[id], id == self.most_frequent)
    }
}

fn read_counts(corpus: &Corpus, stored: &StoredFile) -> Result<Vec<u64>> {
    let bytes = corpus.files.read_checked(stored)?;
    let mut counts = Vec::new();
    for batch in FileReader::try_new(Cursor::new(bytes), None)? {
        let batch = batch?;
        let column: &UInt64Array = batch
            .column_by_name("count")
            .and_then(|column| column.as_primitive_opt())
            .with_context(|| format!("there is no uint64 column `count`{PREPARE_AGAIN}"))?;
        counts.extend_from_slice(column.values());
    }
    Ok(counts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn add_one_smoothing_by_hand() {
        let unigrams = Unigrams::new(&[0, 5, 2]);
        let expected = [
            (10.0_f64 / 1.0).ln(),
            (10.0_f64 / 6.0).ln(),
            (10.0_f64 / 3.0).ln(),
        ];
        for (id, expected) in expected.into_iter().enumerate() {
            let (loss, right) = unigrams.score(id);
            assert!((loss - expected).abs() < 1e-12);
            assert_eq!(right, id == 1);
        }
    }
}
