//! Masked-language-model targets of a row.
//!
//! The recipe is that of ModernBERT's training (`SequencePacker.mlm_masking` in the repository
//! `AnswerDotAI/ModernBERT`): one uniform draw r per position and a rate p; r < 0.8p becomes
//! `[MASK]`, r < 0.9p a random id, r < p stays as it is; all three are predicted.
//!
//! Invariants: the result is a function of the row's key, its ids and the rule alone; the draw at
//! one position does not depend on what happened at any other.

use garde::Validate;
use rand::Rng;
use serde::{Deserialize, Serialize};

use crate::corpus::TokenizerInfo;
use crate::corpus::random::{below, keyed_stream, unit_interval};
use crate::ids::RowIndex;

/// The label of a position that is not predicted, as PyTorch's cross entropy has it.
pub const NOT_PREDICTED: i64 = -100;

/// Of the predicted positions, up to this share become `[MASK]` (Devlin et al. 2019).
const MASK_SHARE: f64 = 0.8;
/// Up to this share become `[MASK]` or a random id; the rest keep their id.
const REPLACED_SHARE: f64 = 0.9;

/// How a phase masks.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, Validate)]
#[serde(deny_unknown_fields)]
pub struct MaskRule {
    /// Share of the positions that are predicted, between 0 and 1. ModernBERT trains with 0.3.
    #[garde(range(min = 0.0, max = 1.0))]
    pub rate: f64,
    /// Whether `[CLS]` and `[SEP]` are left alone. The recipe does not protect them in training.
    #[serde(default)]
    #[garde(skip)]
    pub protect_special: bool,
}

/// What the masks of one row are keyed by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowKey {
    /// The run's seed.
    pub seed: u64,
    /// What tells the phase from the run's others: a key of its name.
    pub phase: u32,
    pub row: RowIndex,
}

/// A row as the model sees it, and what it is to predict. Both have the row's length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Masked {
    pub input_ids: Vec<u32>,
    /// The original id at predicted positions, [`NOT_PREDICTED`] elsewhere.
    pub labels: Vec<i64>,
}

/// Masks one row. Padding is never chosen.
pub fn mask_row(
    key: RowKey,
    input_ids: &[u32],
    rule: &MaskRule,
    tokenizer: &TokenizerInfo,
) -> Masked {
    let numbers = [u64::from(key.phase), key.row.0];
    let mut stream = keyed_stream(key.seed, "mask", &numbers);
    let mut masked = Masked {
        input_ids: input_ids.to_vec(),
        labels: vec![NOT_PREDICTED; input_ids.len()],
    };
    for (id, label) in masked.input_ids.iter_mut().zip(&mut masked.labels) {
        // Both words are drawn at every position, so that position i always owns words 2i, 2i + 1.
        let (choice, replacement) = (unit_interval(stream.next_u64()), stream.next_u64());
        let special = *id == tokenizer.cls || *id == tokenizer.sep;
        if choice >= rule.rate || *id == tokenizer.pad || (rule.protect_special && special) {
            continue;
        }
        *label = i64::from(*id);
        if choice < MASK_SHARE * rule.rate {
            *id = tokenizer.mask;
        } else if choice < REPLACED_SHARE * rule.rate {
            *id = below(replacement, u64::from(tokenizer.random_ids_end)) as u32;
        }
    }
    masked
}

#[cfg(test)]
mod tests;
