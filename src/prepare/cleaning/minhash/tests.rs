//! Signatures against similarities that are counted, and bands against their formula.

use std::collections::BTreeSet;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;

/// Jaccard similarity of the runs of five words, as sets of the words themselves.
fn jaccard(one: &str, other: &str) -> f64 {
    let runs = |text: &str| -> BTreeSet<Vec<String>> {
        let lower = text.to_lowercase();
        let words = lower.split(|c: char| !c.is_alphanumeric());
        let words: Vec<String> = words.filter(|w| !w.is_empty()).map(str::to_owned).collect();
        words.windows(5).map(<[String]>::to_vec).collect()
    };
    let (one, other) = (runs(one), runs(other));
    one.intersection(&other).count() as f64 / one.union(&other).count() as f64
}

fn word(random: &mut ChaCha8Rng) -> String {
    format!("word{}", random.next_u64() % 5000)
}

/// A text and one in which so many of its words, anywhere, are others.
fn pair(words: usize, edits: usize, random: &mut ChaCha8Rng) -> (String, String) {
    let one: Vec<String> = (0..words).map(|_| word(random)).collect();
    let mut other = one.clone();
    for _ in 0..edits {
        let place = random.next_u64() as usize % words;
        other[place] = word(random);
    }
    (one.join(" "), other.join(", "))
}

fn estimate(one: &str, other: &str) -> f64 {
    let [one, other] = [one, other].map(|text| signature(text).unwrap());
    equal_places(&one, &other) as f64 / PLACES as f64
}

#[test]
fn estimates_lie_about_the_counted_similarity() {
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let (mut sum, mut squares, mut pairs) = (0.0, 0.0, 0.0);
    for round in 0..400 {
        let (one, other) = pair(40 + round, round / 12 + 1, &mut random);
        let similarity = jaccard(&one, &other);
        let deviation = (similarity * (1.0 - similarity) / PLACES as f64).sqrt();
        let error = (estimate(&one, &other) - similarity) / deviation;
        assert!(error.abs() < 5.0, "{error} deviations at {similarity}");
        sum += error;
        squares += error * error;
        pairs += 1.0;
    }
    // Of 400 independent errors the mean deviates by 0.05 and the mean square by 0.07.
    let (mean, square) = (sum / pairs, squares / pairs);
    println!("mean error {mean:.3}, mean square {square:.3}, in standard deviations");
    assert!(mean.abs() < 0.2, "{mean}");
    assert!((0.7..1.3).contains(&square), "{square}");
    assert!(estimate("a b c d e f", "A, b; c d e\nf") >= 1.0);
    assert!(estimate("a b c d e f", "f e d c b a") < 0.1);
    assert!(signature(" … ").is_none());
}

// From an independent implementation in Python, which finds the words by a regular expression.
const STARTS: [u16; 8] = [12562, 28705, 18554, 37349, 5554, 62854, 25061, 4480];
const ENDS: [u16; 2] = [13297, 51655];
const FIRST_KEY: u64 = 18_431_887_811_756_403_600;

#[test]
fn signatures_never_change() {
    let text = "The patient denies chest pain, dyspnea, or fever; été 38.5 °C.";
    let signature = signature(text).unwrap();
    assert_eq!(signature[..8], STARTS);
    assert_eq!(signature[126..], ENDS);
    let bands = Bands {
        bands: 21,
        places: 6,
    };
    let keys = bands.keys(&signature);
    assert_eq!((keys.len(), keys[0]), (21, FIRST_KEY));
}

#[test]
fn bands_are_as_long_as_the_threshold_allows() {
    for (threshold, bands, places) in [(0.5, 42, 3), (0.8, 21, 6), (0.9, 12, 10), (1.0, 1, 128)] {
        let found = Bands::for_threshold(threshold);
        assert_eq!(found, Bands { bands, places }, "{threshold}");
        assert!(found.probability(threshold) >= FOUND_MIN);
    }
}

#[test]
fn pairs_share_a_band_as_often_as_the_formula_says() {
    let bands = Bands::for_threshold(0.8);
    let mut random = ChaCha8Rng::seed_from_u64(2);
    let (mut expected, mut found) = (0.0, 0.0);
    for _ in 0..600 {
        let (one, other) = pair(120, 12, &mut random);
        expected += bands.probability(jaccard(&one, &other));
        let [one, other] = [&one, &other].map(|text| bands.keys(&signature(text).unwrap()));
        found += f64::from(u8::from(
            one.iter().zip(&other).any(|(one, other)| one == other),
        ));
    }
    println!("{found} of 600 pairs share a band, {expected:.1} expected");
    assert!(
        (60.0..540.0).contains(&expected),
        "the pairs must lie where the formula is not flat"
    );
    // The standard deviation of the count is at most sqrt(600) / 2 = 12.2.
    assert!((found - expected).abs() < 50.0, "{found}, {expected}");
}
