//! How alike two texts are, from 256 bytes each.
//!
//! The share of equal places in two signatures estimates the Jaccard similarity of the sets of
//! shingles (Broder, "On the resemblance and containment of documents", 1997): place i has the
//! shingle that comes first in the i-th of 128 orders, and the first of a union lies in the
//! intersection with the probability of the similarity s. The estimate's standard deviation is
//! sqrt(s (1 - s) / 128). Of each shingle 16 bits are kept (Li and König, "b-bit minwise hashing",
//! 2010), which makes unequal places equal once in 65,536.
//!
//! Pairs that may be alike are found by bands (Leskovec, Rajaraman, Ullman, "Mining of massive
//! datasets", chapter 3.4): of b bands of r places each, one or more are equal with the probability
//! 1 - (1 - s^r)^b.

use crate::prepare::cleaning::shingles::{self, mix};

/// Places of a signature.
pub const PLACES: usize = 128;
/// A pair whose similarity is the threshold itself is found with this probability, at least; a
/// pair that is more alike, with a higher one.
const FOUND_MIN: f64 = 0.99;

/// The orders: x becomes a x + b modulo 2^64, a odd.
const ORDERS: [(u64, u64); PLACES] = orders();

pub type Signature = [u16; PLACES];

/// How signatures are cut for finding pairs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bands {
    pub bands: usize,
    pub places: usize,
}

/// The signature of a text; none where there is no word.
pub fn signature(text: &str) -> Option<Signature> {
    let mut first = [u64::MAX; PLACES];
    let mut empty = true;
    shingles::for_each(text, |shingle| {
        empty = false;
        for (least, (factor, shift)) in first.iter_mut().zip(&ORDERS) {
            *least = (*least).min(shingle.wrapping_mul(*factor).wrapping_add(*shift));
        }
    });
    (!empty).then(|| first.map(|least| mix(least) as u16))
}

/// Equal places of two signatures, of [`PLACES`].
pub fn equal_places(one: &Signature, other: &Signature) -> usize {
    one.iter()
        .zip(other)
        .filter(|(one, other)| one == other)
        .count()
}

impl Bands {
    /// The longest bands, so those that fewest unlike pairs share, with which pairs at the
    /// threshold are still found.
    pub fn for_threshold(threshold: f64) -> Self {
        let candidates = (1..=PLACES).rev().map(|places| Self {
            bands: PLACES / places,
            places,
        });
        candidates
            .into_iter()
            .find(|bands| bands.probability(threshold) >= FOUND_MIN)
            .expect("128 bands of one place find everything from a similarity of 0.04")
    }

    /// The probability that a pair of this similarity shares a band.
    pub fn probability(self, similarity: f64) -> f64 {
        let unequal = 1.0 - similarity.powi(self.places as i32);
        1.0 - unequal.powi(self.bands as i32)
    }

    /// A hash of each band; equal bands of two signatures have equal keys if their numbers are.
    pub fn keys(self, signature: &Signature) -> Vec<u64> {
        let bands = signature.chunks_exact(self.places).enumerate();
        bands
            .map(|(number, band)| {
                let start = mix(number as u64 + 1);
                band.iter()
                    .fold(start, |key, place| mix(key ^ u64::from(*place)))
            })
            .collect()
    }
}

const fn orders() -> [(u64, u64); PLACES] {
    let mut orders = [(0, 0); PLACES];
    let mut place = 0;
    while place < PLACES {
        let number = 2 * place as u64;
        orders[place] = (mix(number + 1) | 1, mix(number + 2));
        place += 1;
    }
    orders
}

#[cfg(test)]
mod tests;
