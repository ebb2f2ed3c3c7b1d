//! Randomness that is a function of what it is for: the run's seed, a purpose and some numbers.
//!
//! Nothing here has state, so a resumed run, another rank or another machine draws the same
//! numbers. Invariant: the values never change between versions; tests pin them, since a change
//! would silently give every resumed run another data order.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// Separates these keys from every other use of blake3. Part of the stream: never edit it.
const KEY_CONTEXT: &str = "cohort 2026 keyed randomness v1";

/// A 256-bit key from `(seed, purpose, numbers)`, independent for each distinct triple.
///
/// The fields go through blake3's key derivation, each with its length in front, so that no two
/// triples feed it the same bytes.
pub fn keyed_seed(seed: u64, purpose: &str, numbers: &[u64]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key(KEY_CONTEXT);
    hasher.update(&seed.to_le_bytes());
    hasher.update(&(purpose.len() as u64).to_le_bytes());
    hasher.update(purpose.as_bytes());
    hasher.update(&(numbers.len() as u64).to_le_bytes());
    for number in numbers {
        hasher.update(&number.to_le_bytes());
    }
    *hasher.finalize().as_bytes()
}

/// The first eight bytes of [`keyed_seed`], little-endian, where one word is enough.
pub fn keyed_number(seed: u64, purpose: &str, numbers: &[u64]) -> u64 {
    let key = keyed_seed(seed, purpose, numbers);
    u64::from_le_bytes(key[..8].try_into().expect("the key has 32 bytes"))
}

/// A `ChaCha8` stream at its start, keyed by [`keyed_seed`]. The cipher is specified down to the
/// bit, so the stream is the same on every platform.
pub fn keyed_stream(seed: u64, purpose: &str, numbers: &[u64]) -> ChaCha8Rng {
    ChaCha8Rng::from_seed(keyed_seed(seed, purpose, numbers))
}

/// Maps a uniform 64-bit word to `0..end` by multiplication; the bias is below `end / 2^64`.
pub fn below(word: u64, end: u64) -> u64 {
    ((u128::from(word) * u128::from(end)) >> 64) as u64
}

/// Maps a uniform 64-bit word to `[0, 1)` with 53 bits, exactly.
pub fn unit_interval(word: u64) -> f64 {
    const STEP: f64 = 1.0 / (1_u64 << 53) as f64;
    (word >> 11) as f64 * STEP
}

/// Fisher-Yates over a whole slice.
pub fn shuffle<T>(items: &mut [T], stream: &mut impl rand::Rng) {
    for end in (2..=items.len()).rev() {
        items.swap(end - 1, below(stream.next_u64(), end as u64) as usize);
    }
}

#[cfg(test)]
mod tests {
    use rand::Rng;

    use super::*;

    #[test]
    fn keys_differ_in_every_part_and_never_change() {
        let base = keyed_number(17, "mask", &[1, 2]);
        for other in [
            keyed_number(18, "mask", &[1, 2]),
            keyed_number(17, "masl", &[1, 2]),
            keyed_number(17, "mask", &[1, 3]),
            keyed_number(17, "mask", &[1, 2, 0]),
            keyed_number(17, "mask", &[1]),
        ] {
            assert_ne!(base, other);
        }
        assert_eq!(base, GOLDEN_KEY);
        assert_eq!(keyed_stream(17, "mask", &[1, 2]).next_u64(), GOLDEN_WORD);
    }

    // From an independent implementation: blake3's reference package and ChaCha8 in plain Python.
    const GOLDEN_KEY: u64 = 12_476_980_301_100_788_325;
    const GOLDEN_WORD: u64 = 7_515_107_858_395_194_525;

    #[test]
    fn words_map_to_the_whole_range() {
        assert_eq!(below(0, 10), 0);
        assert_eq!(below(u64::MAX, 10), 9);
        assert_eq!(below(u64::MAX / 2 + 1, 10), 5);
        assert!(unit_interval(u64::MAX) < 1.0);
        assert_eq!(unit_interval(1 << 63).to_bits(), 0.5_f64.to_bits());
    }

    #[test]
    fn a_shuffle_keeps_every_item() {
        let mut items: Vec<u32> = (0..1_000).collect();
        shuffle(&mut items, &mut keyed_stream(1, "test", &[]));
        assert!(items.windows(2).any(|pair| pair[0] > pair[1]));
        items.sort_unstable();
        assert!(items.iter().copied().eq(0..1_000));
    }
}
