//! The set of a text's runs of five words, each as a 64-bit hash.
//!
//! A word is letters and digits that stand together, without regard to case; an ideograph or kana
//! is one by itself. White space, punctuation and layout do not count. A text of fewer words is one
//! run. The hashes are the same on every machine and in every version.

const WORDS: usize = 5;
/// FNV-1a, 64 bits (Fowler, Noll, Vo): its start and its factor.
const START: u64 = 0xcbf2_9ce4_8422_2325;
const FACTOR: u64 = 0x0000_0100_0000_01b3;

/// Gives the hash of each run to `found`, in the text's order; a run may come more than once. None
/// where there is no word.
pub fn for_each(text: &str, mut found: impl FnMut(u64)) {
    let mut last = [0; WORDS];
    let mut words = 0;
    for_each_word(text, |word| {
        last.rotate_left(1);
        last[WORDS - 1] = word;
        words += 1;
        if words >= WORDS {
            found(joined(&last));
        }
    });
    if (1..WORDS).contains(&words) {
        found(joined(&last[WORDS - words..]));
    }
}

/// A bijection of 64 bits after which every bit depends on every other (the finalizer of
/// `SplitMix64`: Steele, Lea, Flood 2014).
pub const fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

fn joined(words: &[u64]) -> u64 {
    mix(words.iter().fold(START, |hash, word| {
        (hash.rotate_left(23) ^ word).wrapping_mul(FACTOR)
    }))
}

fn for_each_word(text: &str, mut found: impl FnMut(u64)) {
    let add = |hash: u64, character: char| (hash ^ u64::from(character)).wrapping_mul(FACTOR);
    let mut word = None;
    for character in text.chars() {
        if character.is_ascii_alphanumeric() {
            word = Some(add(word.unwrap_or(START), character.to_ascii_lowercase()));
            continue;
        }
        let belongs = !character.is_ascii() && character.is_alphanumeric();
        if belongs && !stands_alone(character) {
            word = Some(character.to_lowercase().fold(word.unwrap_or(START), add));
            continue;
        }
        if let Some(word) = word.take() {
            found(mix(word));
        }
        if belongs {
            found(mix(add(START, character)));
        }
    }
    if let Some(word) = word {
        found(mix(word));
    }
}

/// Whether a character is written without spaces around its words: ideographs and kana.
fn stands_alone(character: char) -> bool {
    let blocks = [
        '\u{2e80}'..='\u{9fff}',
        '\u{f900}'..='\u{faff}',
        '\u{20000}'..='\u{3ffff}',
    ];
    blocks.iter().any(|block| block.contains(&character))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn runs(text: &str) -> Vec<u64> {
        let mut runs = Vec::new();
        for_each(text, |run| runs.push(run));
        runs
    }

    #[test]
    fn runs_are_five_words_whatever_stands_between() {
        assert_eq!(runs("one two three four five six").len(), 2);
        assert_eq!(
            runs("One, TWO\n(three) four-five; six."),
            runs("one two three four five six")
        );
        assert_eq!(
            runs("Ärztin läßt ÉTÉ 38.5 °C"),
            runs("ärztin läßt été 38,5 c")
        );
        let all: BTreeSet<u64> = [
            "a b c d e",
            "a b c d f",
            "b a c d e",
            "ab c d e",
            "a b c d",
            "a b c",
            "a b",
            "a",
            "b",
        ]
        .iter()
        .flat_map(|text| runs(text))
        .collect();
        assert_eq!(all.len(), 9);
        assert!(runs("- … ___ \n").is_empty());
        assert_eq!(runs("胃痛三天，无发热").len(), 3);
        assert_eq!(runs("胃痛 x三天").len(), 1);
    }
}
