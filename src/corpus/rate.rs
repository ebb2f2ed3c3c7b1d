//! How fast a phase reads a source, as an exact fraction.
//!
//! Invariant: stream positions computed from a rate are exact at any distance, so the proportion of
//! a mixture never drifts and every machine computes the same positions.

/// Chunks per token of the mixture, as an exact fraction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    numerator: u128,
    denominator: u128,
}

impl Rate {
    /// `numerator` chunks for every `denominator` tokens of the mixture. Both must be positive.
    pub fn new(numerator: u128, denominator: u128) -> Self {
        assert!(
            numerator > 0 && denominator > 0,
            "a rate of {numerator}/{denominator}"
        );
        let divisor = greatest_common_divisor(numerator, denominator);
        Self {
            numerator: numerator / divisor,
            denominator: denominator / divisor,
        }
    }

    /// Whole chunks in the first `tokens` tokens of the mixture, `floor(rate * tokens)` exactly.
    ///
    /// `None` where a product leaves 128 bits or the result 64. A mixture's numerator is below
    /// 2^71 even for 10^11 chunks read 10^4 times, so no run of fewer than 10^17 tokens gets there.
    pub fn chunks_in(&self, tokens: u128) -> Option<u64> {
        // The whole and the rest are multiplied apart so that no product leaves 128 bits.
        let whole = (tokens / self.denominator).checked_mul(self.numerator)?;
        let rest = (tokens % self.denominator).checked_mul(self.numerator)?;
        u64::try_from(whole.checked_add(rest / self.denominator)?).ok()
    }

    /// Both numbers of the reduced fraction, for digests.
    pub fn to_le_bytes(&self) -> [u8; 32] {
        let mut bytes = [0; 32];
        bytes[..16].copy_from_slice(&self.numerator.to_le_bytes());
        bytes[16..].copy_from_slice(&self.denominator.to_le_bytes());
        bytes
    }

    /// The rate as a number, for showing.
    pub fn chunks_per_token(&self) -> f64 {
        self.numerator as f64 / self.denominator as f64
    }
}

fn greatest_common_divisor(a: u128, b: u128) -> u128 {
    if b == 0 {
        a
    } else {
        greatest_common_divisor(b, a % b)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_stay_exact_far_out() {
        let third = Rate::new(1, 3);
        assert_eq!(
            third.chunks_in(3_000_000_000_000_000_000),
            Some(1_000_000_000_000_000_000)
        );
        assert_eq!(
            third.chunks_in(2_999_999_999_999_999_999),
            Some(999_999_999_999_999_999)
        );
        let awkward = Rate::new((1 << 70) + 1, (1 << 70) - 1);
        assert_eq!(awkward.chunks_in(1 << 56), Some(1 << 56));
        assert_eq!(third.chunks_in(u128::MAX), None);
    }

    #[test]
    fn equal_fractions_are_equal_rates() {
        assert_eq!(Rate::new(6, 8), Rate::new(3, 4));
        assert_eq!(Rate::new(6, 8).to_le_bytes(), Rate::new(3, 4).to_le_bytes());
    }
}
