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
use crate::corpus::random::{below, keyed_stream};
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

/// Positions whose random words are drawn at once.
const BLOCK: usize = 64;
/// Bytes of the two words that each position owns.
const POSITION_BYTES: usize = 16;

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
    let thresholds = Thresholds::new(rule);
    let mut drawn = [0; BLOCK * POSITION_BYTES];
    let blocks = masked.input_ids.chunks_mut(BLOCK);
    for (ids, labels) in blocks.zip(masked.labels.chunks_mut(BLOCK)) {
        // Both words are drawn at every position, so that position i always owns words 2i, 2i + 1.
        let drawn = &mut drawn[..ids.len() * POSITION_BYTES];
        stream.fill_bytes(drawn);
        let replaced = mask_block(ids, labels, drawn, (&thresholds, tokenizer));
        replace(ids, drawn, replaced, tokenizer.random_ids_end);
    }
    masked
}

/// The shares of a rule as numbers of 53 bits: `unit_interval(word) < share` is
/// `word >> 11 < threshold`, exactly, since scaling by a power of two rounds nothing.
struct Thresholds {
    chosen: u64,
    masked: u64,
    replaced: u64,
    protect_special: bool,
}

impl Thresholds {
    fn new(rule: &MaskRule) -> Self {
        let threshold = |share: f64| (share * (1_u64 << 53) as f64).ceil() as u64;
        Self {
            chosen: threshold(rule.rate),
            masked: threshold(MASK_SHARE * rule.rate),
            replaced: threshold(REPLACED_SHARE * rule.rate),
            protect_special: rule.protect_special,
        }
    }
}

/// Chooses among up to 64 positions, without a branch on what was drawn, and masks. The bits of the
/// positions that are to be replaced.
#[expect(
    clippy::needless_bitwise_bool,
    reason = "a branch would be predicted wrong at every third position"
)]
fn mask_block(
    ids: &mut [u32],
    labels: &mut [i64],
    drawn: &[u8],
    (thresholds, tokenizer): (&Thresholds, &TokenizerInfo),
) -> u64 {
    let mut replaced = 0;
    let words = drawn.chunks_exact(POSITION_BYTES);
    for (place, ((id, label), words)) in ids.iter_mut().zip(labels).zip(words).enumerate() {
        let draw = word(words, 0) >> 11;
        let special = (*id == tokenizer.cls) | (*id == tokenizer.sep);
        let kept = (*id == tokenizer.pad) | (thresholds.protect_special & special);
        let chosen = (draw < thresholds.chosen) & !kept;
        let masks = chosen & (draw < thresholds.masked);
        let random = chosen & !masks & (draw < thresholds.replaced);
        *label = if chosen { i64::from(*id) } else { *label };
        *id = if masks { tokenizer.mask } else { *id };
        replaced |= u64::from(random) << place;
    }
    replaced
}

fn replace(ids: &mut [u32], drawn: &[u8], mut replaced: u64, random_ids_end: u32) {
    while replaced != 0 {
        let place = replaced.trailing_zeros() as usize;
        let replacement = word(&drawn[place * POSITION_BYTES..], 1);
        ids[place] = below(replacement, u64::from(random_ids_end)) as u32;
        replaced &= replaced - 1;
    }
}

fn word(bytes: &[u8], index: usize) -> u64 {
    let bytes = &bytes[index * 8..index * 8 + 8];
    u64::from_le_bytes(bytes.try_into().expect("cut to eight bytes"))
}

#[cfg(test)]
mod tests;
