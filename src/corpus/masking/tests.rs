//! The shares of the recipe, what is protected, and a stream that never changes.

use proptest::prelude::*;

use super::*;
use crate::corpus::random::unit_interval;

const TOKENIZER: TokenizerInfo = TokenizerInfo {
    digest: String::new(),
    new_tokens: None,
    vocab_size: 50_368,
    cls: 50_281,
    sep: 50_282,
    pad: 50_283,
    mask: 50_284,
    unk: 50_280,
    random_ids_end: 50_285,
};
const KEY: RowKey = RowKey {
    seed: 17,
    phase: 1,
    row: RowIndex(123_456_789_012),
};

fn rule(rate: f64, protect_special: bool) -> MaskRule {
    MaskRule {
        rate,
        protect_special,
    }
}

/// Chunks of 100 ids between `[CLS]` and `[SEP]`, and some padding.
fn ids(chunks: u32) -> Vec<u32> {
    let mut ids = Vec::new();
    for chunk in 0..chunks {
        ids.push(TOKENIZER.cls);
        ids.extend((0..100).map(|index| (chunk * 977 + index * 31) % 50_000));
        ids.push(TOKENIZER.sep);
    }
    ids.extend([TOKENIZER.pad; 50]);
    ids
}

/// Whether a count is within five standard deviations of a binomial's mean.
fn plausible(count: usize, of: usize, share: f64) -> bool {
    let deviation = (of as f64 * share * (1.0 - share)).sqrt();
    (count as f64 - of as f64 * share).abs() <= 5.0 * deviation
}

#[test]
fn shares_are_those_of_the_recipe() {
    let ids = ids(2_000);
    let positions = ids.len() - 50;
    let masked = mask_row(KEY, &ids, &rule(0.3, false), &TOKENIZER);
    let mut counts = [0_usize; 3];
    for ((&before, &after), &label) in ids.iter().zip(&masked.input_ids).zip(&masked.labels) {
        if label == NOT_PREDICTED {
            assert_eq!(before, after);
            continue;
        }
        assert_eq!(label, i64::from(before));
        assert_ne!(before, TOKENIZER.pad);
        let kind = if after == TOKENIZER.mask {
            0
        } else {
            usize::from(after == before) + 1
        };
        assert!(after < TOKENIZER.random_ids_end);
        counts[kind] += 1;
    }
    let predicted = counts.iter().sum();
    println!("{predicted} of {positions} predicted; mask, random, kept: {counts:?}");
    assert!(
        plausible(predicted, positions, 0.3),
        "{predicted} of {positions}"
    );
    for (count, share) in counts.into_iter().zip([0.8, 0.1, 0.1]) {
        assert!(plausible(count, predicted, share), "{counts:?}");
    }
    let special = ids.iter().zip(&masked.labels).filter(|(id, label)| {
        (**id == TOKENIZER.cls || **id == TOKENIZER.sep) && **label != NOT_PREDICTED
    });
    assert!(plausible(special.count(), 4_000, 0.3));
}

#[test]
fn protected_tokens_are_never_chosen_and_change_nothing_else() {
    let ids = ids(200);
    let free = mask_row(KEY, &ids, &rule(0.5, false), &TOKENIZER);
    let protected = mask_row(KEY, &ids, &rule(0.5, true), &TOKENIZER);
    for (position, &id) in ids.iter().enumerate() {
        let (label, input) = (protected.labels[position], protected.input_ids[position]);
        if id == TOKENIZER.cls || id == TOKENIZER.sep {
            assert_eq!((label, input), (NOT_PREDICTED, id));
        } else {
            assert_eq!(
                (label, input),
                (free.labels[position], free.input_ids[position])
            );
        }
    }
}

#[test]
fn a_higher_rate_keeps_every_target_of_a_lower_one() {
    let ids = ids(50);
    let low = mask_row(KEY, &ids, &rule(0.15, false), &TOKENIZER);
    let high = mask_row(KEY, &ids, &rule(0.3, false), &TOKENIZER);
    let chosen = |masked: &Masked| -> Vec<usize> {
        (0..ids.len())
            .filter(|&index| masked.labels[index] != NOT_PREDICTED)
            .collect()
    };
    let (low, high) = (chosen(&low), chosen(&high));
    assert!(low.len() < high.len());
    assert!(low.iter().all(|position| high.contains(position)));
}

#[test]
fn rates_at_the_ends_choose_nothing_and_everything() {
    let ids = ids(3);
    let none = mask_row(KEY, &ids, &rule(0.0, false), &TOKENIZER);
    assert_eq!(none.input_ids, ids);
    assert!(none.labels.iter().all(|&label| label == NOT_PREDICTED));
    let all = mask_row(KEY, &ids, &rule(1.0, false), &TOKENIZER);
    let (text, padding) = all.labels.split_at(ids.len() - 50);
    assert!(text.iter().all(|&label| label != NOT_PREDICTED));
    assert!(padding.iter().all(|&label| label == NOT_PREDICTED));
}

/// The recipe word by word, one position after the other.
fn plainly(key: RowKey, ids: &[u32], rule: &MaskRule) -> Masked {
    let mut stream = keyed_stream(key.seed, "mask", &[u64::from(key.phase), key.row.0]);
    let (mut input_ids, mut labels) = (ids.to_vec(), vec![NOT_PREDICTED; ids.len()]);
    for (id, label) in input_ids.iter_mut().zip(&mut labels) {
        let (choice, replacement) = (unit_interval(stream.next_u64()), stream.next_u64());
        let special = *id == TOKENIZER.cls || *id == TOKENIZER.sep;
        if choice >= rule.rate || *id == TOKENIZER.pad || (rule.protect_special && special) {
            continue;
        }
        *label = i64::from(*id);
        if choice < MASK_SHARE * rule.rate {
            *id = TOKENIZER.mask;
        } else if choice < REPLACED_SHARE * rule.rate {
            *id = below(replacement, u64::from(TOKENIZER.random_ids_end)) as u32;
        }
    }
    Masked { input_ids, labels }
}

proptest! {
    #[test]
    fn blocks_come_to_what_single_positions_do(
        rate in prop_oneof![Just(0.0), Just(1.0), Just(0.3), 0.0..1.0_f64],
        protect_special: bool,
        row: u64,
        chunks in 0_u32..6,
        cut in 0_usize..300,
    ) {
        let key = RowKey { row: RowIndex(row), ..KEY };
        let rule = rule(rate, protect_special);
        let all = ids(chunks);
        let ids = &all[cut.min(all.len())..];
        prop_assert_eq!(mask_row(key, ids, &rule, &TOKENIZER), plainly(key, ids, &rule));
    }
}

#[test]
fn a_threshold_is_the_comparison_it_stands_for() {
    for rate in [0.3, 0.15, 0.05, 1.0 / 3.0, 0.1, f64::MIN_POSITIVE, 1.0] {
        let threshold = Thresholds::new(&rule(rate, false)).chosen;
        for draw in [threshold.saturating_sub(1), threshold, threshold + 1] {
            if draw < 1 << 53 {
                assert_eq!(draw < threshold, unit_interval(draw << 11) < rate, "{rate}");
            }
        }
    }
}

#[test]
fn the_stream_never_changes() {
    let ids: Vec<u32> = (1_000..1_024).collect();
    let masked = mask_row(KEY, &ids, &rule(0.9, false), &TOKENIZER);
    // From an independent implementation: blake3's reference package and ChaCha8 in Python.
    let expected = [
        50_284, 50_284, 1_002, 1_003, 50_284, 1_005, 1_006, 50_284, 50_284, 43_398, 50_284, 1_011,
        50_284, 50_284, 50_284, 50_284, 1_016, 50_284, 50_284, 50_284, 50_284, 50_284, 48_364,
        1_023,
    ];
    assert_eq!(masked.input_ids, expected);
    for (position, &label) in masked.labels.iter().enumerate() {
        let chosen = position != 6;
        assert_eq!(
            label,
            if chosen {
                i64::from(ids[position])
            } else {
                NOT_PREDICTED
            }
        );
    }
    let next = RowKey {
        row: RowIndex(KEY.row.0 + 1),
        ..KEY
    };
    assert_ne!(mask_row(next, &ids, &rule(0.9, false), &TOKENIZER), masked);
}
