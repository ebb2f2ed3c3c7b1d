//! Cutting a text into words as GPT-2's pattern does.
//!
//! The pattern, of which the first alternative that matches wins:
//! `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`
//! (GPT-2, `src/encoder.py`). Every character belongs to one word; a text's words depend on nothing
//! outside it.

use crate::prepare::bpe::characters::{Characters, Class};

/// Where the word ends that begins at byte `at`, a character's first byte.
#[inline]
pub fn word_end(text: &str, at: usize, characters: &Characters) -> usize {
    let bytes = text.as_bytes();
    if bytes[at] == b'\'' {
        let length = contraction_length(&bytes[at + 1..]);
        if length > 0 {
            return at + 1 + length;
        }
    }
    // One space goes with the letters, digits or signs behind it.
    let start = at + usize::from(bytes[at] == b' ');
    if let Some((class, length)) = class_at(text, start, characters)
        && class != Class::Space
    {
        return run_end(text, start + length, class, characters);
    }
    white_space_end(text, at, characters)
}

/// The letters of an English contraction after its apostrophe; 0 where there is none.
fn contraction_length(after: &[u8]) -> usize {
    match after {
        [b's' | b't' | b'm' | b'd', ..] => 1,
        [b'r' | b'v', b'e', ..] | [b'l', b'l', ..] => 2,
        _ => 0,
    }
}

/// The class of the character at `at` and its bytes; none at the end.
#[inline]
fn class_at(text: &str, at: usize, characters: &Characters) -> Option<(Class, usize)> {
    let byte = *text.as_bytes().get(at)?;
    if byte.is_ascii() {
        return Some((characters.ascii(byte), 1));
    }
    let character = text[at..].chars().next()?;
    Some((characters.class(character), character.len_utf8()))
}

#[inline]
fn run_end(text: &str, mut at: usize, class: Class, characters: &Characters) -> usize {
    while let Some((found, length)) = class_at(text, at, characters) {
        if found != class {
            break;
        }
        at += length;
    }
    at
}

/// White space before something else leaves its last character to the next word, if it has more
/// than that one: `\s+(?!\S)|\s+`.
fn white_space_end(text: &str, start: usize, characters: &Characters) -> usize {
    let mut at = start;
    let mut last = start;
    while let Some((Class::Space, length)) = class_at(text, at, characters) {
        last = at;
        at += length;
    }
    if at == text.len() || last == start {
        at
    } else {
        last
    }
}

#[cfg(test)]
mod tests {
    use onig::Regex;
    use tokenizers::pre_tokenizers::byte_level::ByteLevel;
    use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer};

    use super::*;

    /// Where the library's words end.
    fn expected(text: &str) -> Vec<usize> {
        let mut words = PreTokenizedString::from(text);
        let pattern = ByteLevel::new(false, true, true);
        pattern.pre_tokenize(&mut words).expect("any text is fine");
        words
            .get_splits(OffsetReferential::Original, OffsetType::Byte)
            .into_iter()
            .map(|(_, (_, end), _)| end)
            .collect()
    }

    fn found(text: &str, characters: &Characters) -> Vec<usize> {
        let mut ends = Vec::new();
        while ends.last().copied().unwrap_or(0) < text.len() {
            let at = ends.last().copied().unwrap_or(0);
            ends.push(word_end(text, at, characters));
        }
        ends
    }

    /// Every scalar value of Unicode, doubled and beside each class. Most are compared with the
    /// library's own engine on its pattern, which takes a tenth of the library's time.
    #[test]
    fn every_character_falls_into_the_words_of_the_library() {
        let pattern = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
        let pattern = Regex::new(pattern).expect("the pattern is valid");
        let characters = Characters::new();
        let (mut all, mut some) = (String::new(), String::new());
        for c in '\0'..=char::MAX {
            all.extend([c, 'a', c, c, '1', ' ', c, '.', c, '\u{a0}', c, ' ', ' ']);
            let is_edge = c < '\u{250}' || characters.class(c) == Class::Space;
            if is_edge || (c as u32).is_multiple_of(97) {
                some.extend([
                    '\'', c, ' ', c, '\'', 's', '\n', c, '9', c, 'é', ' ', '\t', c,
                ]);
            }
        }
        let ends: Vec<usize> = pattern.find_iter(&all).map(|(_, end)| end).collect();
        assert!(found(&all, &characters) == ends);
        assert!(found(&some, &characters) == expected(&some));
        for c in '\0'..'\u{3100}' {
            let text = c.to_string();
            assert_eq!(found(&text, &characters), expected(&text), "{text:?}");
        }
    }

    #[test]
    fn contractions_and_white_space_end_where_the_library_ends_them() {
        let characters = Characters::new();
        let parts = [
            "'", "'s", "'S", "'re", "'r", "'ll", "'l", "'ve", "'d", "'m", "'t", "’s", " ", "  ",
            "\n", "\t\n", "\u{a0}", "\u{2028}", "\u{85}", "\u{200b}", "a", "é", "7", "½", ".", "",
        ];
        for first in parts {
            for second in parts {
                for third in parts {
                    let text = [first, second, third].concat();
                    assert_eq!(found(&text, &characters), expected(&text), "{text:?}");
                }
            }
        }
    }
}
