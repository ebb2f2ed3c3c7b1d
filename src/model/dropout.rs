//! Dropout whose mask is a function of (seed, row, layer, place in the row) alone: neither the
//! micro-batch, nor the rank, nor the device decides what is dropped.
//!
//! The random bits come from `SplitMix64` (Steele, Lea, Flood 2014,
//! <https://doi.org/10.1145/2660193.2660195>) used as a counter-based generator, in integer tensor
//! operations, which are exact everywhere. Each 64-bit output decides four numbers with 16 bits
//! each.

use std::ops::Range;

use tch::{Device, Kind, Tensor};

const GOLDEN_GAMMA: u64 = 0x9E37_79B9_7F4A_7C15;
const FIRST_FACTOR: u64 = 0xBF58_476D_1CE4_E5B9;
const SECOND_FACTOR: u64 = 0x94D0_49BB_1331_11EB;
const LANES: i64 = 4;
const LANE_BITS: i64 = 16;

/// Dropout of one forward pass.
#[derive(Clone, Debug)]
pub struct Dropout {
    threshold: i64,
    seed: u64,
    rows: Vec<DroppedRow>,
}

/// The tokens of a pack that belong to one row of the plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DroppedRow {
    /// The row's index in the plan.
    pub row: u64,
    /// Its tokens in the pack.
    pub tokens: Range<i64>,
}

impl Dropout {
    /// Drops numbers with `probability`, rounded to a multiple of 2^-16. `rows` must cover the pack
    /// in order and without gaps.
    ///
    /// # Panics
    /// If `rows` have gaps or `probability` is not in 0..1.
    pub fn new(probability: f64, seed: u64, rows: Vec<DroppedRow>) -> Self {
        assert!(
            (0.0..1.0).contains(&probability),
            "dropout probability {probability}"
        );
        let mut end = 0;
        for row in &rows {
            assert!(
                row.tokens.start == end && row.tokens.end > end,
                "gap before row {}",
                row.row
            );
            end = row.tokens.end;
        }
        let scale = (1i64 << LANE_BITS) as f64;
        Self {
            threshold: (probability * scale).round() as i64,
            seed,
            rows,
        }
    }

    /// Zeroes a share of `[n, width]` and scales up the rest, as layer `layer` does. The result is
    /// fp32: a factor of 1/0.9 rounded to bf16 would shrink every layer's output.
    ///
    /// # Panics
    /// If the rows do not cover n tokens.
    pub fn apply(&self, numbers: &Tensor, layer: i64) -> Tensor {
        if self.threshold == 0 {
            return numbers.shallow_clone();
        }
        let (tokens, width) = (numbers.size()[0], numbers.size()[1]);
        assert_eq!(
            self.rows.last().map_or(0, |row| row.tokens.end),
            tokens,
            "tokens of all rows"
        );
        let masks: Vec<Tensor> = self
            .rows
            .iter()
            .map(|row| {
                let length = row.tokens.end - row.tokens.start;
                self.keep(row.row, layer, [length, width], numbers.device())
            })
            .collect();
        let kept_share = 1.0 - self.threshold as f64 / (1i64 << LANE_BITS) as f64;
        let factors = Tensor::cat(&masks, 0).to_kind(Kind::Float) / kept_share;
        numbers.to_kind(Kind::Float) * factors
    }

    /// Which numbers of one row survive: bool `[tokens, width]`.
    fn keep(&self, row: u64, layer: i64, shape: [i64; 2], device: Device) -> Tensor {
        let key = [row, layer as u64]
            .into_iter()
            .fold(mix(self.seed), |key, part| mix(key ^ mix(part)));
        let numbers = shape[0] * shape[1];
        let words = (numbers + LANES - 1) / LANES;
        let counters = Tensor::arange_start(1, words + 1, (Kind::Int64, device));
        let bits = mix_tensor(&(counters * GOLDEN_GAMMA as i64 + key as i64));
        let lanes: Vec<Tensor> = (0..LANES)
            .map(|lane| {
                bits.bitwise_right_shift_tensor_scalar(lane * LANE_BITS)
                    .bitwise_and((1i64 << LANE_BITS) - 1)
                    .ge(self.threshold)
            })
            .collect();
        Tensor::stack(&lanes, 1)
            .view(-1i64)
            .narrow(0, 0, numbers)
            .view(shape)
    }
}

/// `SplitMix64`'s output function of a state that has been advanced.
fn mix(word: u64) -> u64 {
    let word = word.wrapping_add(GOLDEN_GAMMA);
    let word = (word ^ (word >> 30)).wrapping_mul(FIRST_FACTOR);
    let word = (word ^ (word >> 27)).wrapping_mul(SECOND_FACTOR);
    word ^ (word >> 31)
}

/// The same without advancing, on int64 tensors; their shift is arithmetic, so the sign bits that
/// it brings in are masked off.
fn mix_tensor(words: &Tensor) -> Tensor {
    let shifted = |words: &Tensor, by: i64| {
        words
            .bitwise_right_shift_tensor_scalar(by)
            .bitwise_and((1i64 << (64 - by)) - 1)
    };
    let words = words.bitwise_xor_tensor(&shifted(words, 30)) * FIRST_FACTOR as i64;
    let words = words.bitwise_xor_tensor(&shifted(&words, 27)) * SECOND_FACTOR as i64;
    words.bitwise_xor_tensor(&shifted(&words, 31))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(row: u64, tokens: Range<i64>) -> DroppedRow {
        DroppedRow { row, tokens }
    }

    #[test]
    fn tensor_bits_are_splitmix64() {
        // The first outputs of SplitMix64 seeded with 1234567, as published with the generator.
        let published = [6_457_827_717_110_365_317u64, 3_203_168_211_198_807_973];
        let counters = Tensor::arange_start(1, 3, (Kind::Int64, Device::Cpu));
        let words = mix_tensor(&(counters * GOLDEN_GAMMA as i64 + 1_234_567));
        for (index, wanted) in published.into_iter().enumerate() {
            assert_eq!(words.int64_value(&[index as i64]) as u64, wanted);
            let state = 1_234_567u64.wrapping_add(GOLDEN_GAMMA.wrapping_mul(index as u64));
            assert_eq!(mix(state), wanted);
        }
    }

    #[test]
    fn a_row_loses_the_same_numbers_wherever_it_is() {
        let numbers = Tensor::ones([60, 30], (Kind::Float, Device::Cpu));
        let alone = Dropout::new(0.1, 9, vec![row(7, 0..25)]).apply(&numbers.narrow(0, 0, 25), 3);
        let packed = Dropout::new(0.1, 9, vec![row(6, 0..35), row(7, 35..60)]).apply(&numbers, 3);
        assert!(packed.narrow(0, 35, 25).equal(&alone));
        assert!(!packed.narrow(0, 0, 25).equal(&alone));
        let other_layer = Dropout::new(0.1, 9, vec![row(7, 0..25)]);
        assert!(
            !other_layer
                .apply(&numbers.narrow(0, 0, 25), 4)
                .equal(&alone)
        );
    }

    /// 0.1 of a million numbers is 100,000 ± 300 (one standard deviation); the mean stays 1.
    #[test]
    fn the_share_dropped_is_the_probability() {
        let numbers = Tensor::ones([1000, 1000], (Kind::Float, Device::Cpu));
        let output = Dropout::new(0.1, 1, vec![row(0, 0..1000)]).apply(&numbers, 0);
        let dropped = output.eq(0.0).sum(Kind::Int64).int64_value(&[]);
        assert!((98_500..101_500).contains(&dropped), "{dropped}");
        let mean = output.mean(Kind::Float).double_value(&[]);
        assert!((mean - 1.0).abs() < 0.002, "{mean}");
        let by_column = output
            .eq(0.0)
            .sum_dim_intlist([0i64].as_slice(), false, Kind::Int64);
        assert!(
            by_column.max().int64_value(&[]) < 160,
            "a column is dropped too often"
        );
    }
}
