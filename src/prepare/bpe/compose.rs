//! Text into NFC, touching only what needs it.
//!
//! The library composes whole pieces; here only the stretches around characters that may change do,
//! each from the last ASCII character before to the next one behind. An ASCII character is a
//! starter that nothing before it composes with, so what is on both its sides composes apart.

use unicode_normalization_alignments::UnicodeNormalization;

use crate::prepare::bpe::characters::Characters;

/// First bytes below it belong to characters before U+0300, which NFC leaves alone.
const LEAD_FROM: u8 = 0xcc;

/// `text` in NFC, in `buffer` unless it is so already.
pub fn compose<'a>(text: &'a str, characters: &Characters, buffer: &'a mut String) -> &'a str {
    let Some(mut at) = next_composing(text, 0, characters) else {
        return text;
    };
    buffer.clear();
    let mut done = 0;
    loop {
        let is_ascii = |byte: &u8| byte.is_ascii();
        let (before, after) = (&text.as_bytes()[done..at], &text.as_bytes()[at..]);
        let start = before.iter().rposition(is_ascii).map_or(done, |i| done + i);
        let end = after.iter().position(is_ascii);
        let end = end.map_or(text.len(), |i| at + i);
        buffer.push_str(&text[done..start]);
        let stretch = &text[start..end];
        buffer.extend(stretch.nfc().map(|(character, _)| character));
        done = end;
        match next_composing(text, end, characters) {
            Some(next) => at = next,
            None => break,
        }
    }
    buffer.push_str(&text[done..]);
    buffer
}

/// The place of the first character from `at` on that may compose.
fn next_composing(text: &str, mut at: usize, characters: &Characters) -> Option<usize> {
    let bytes = text.as_bytes();
    loop {
        at += bytes[at..].iter().position(|byte| *byte >= LEAD_FROM)?;
        let character = text[at..].chars().next()?;
        if characters.composes(character) {
            return Some(at);
        }
        at += character.len_utf8();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Letters, marks and syllables that compose, decompose or change places.
    const TEXTS: &str = concat!(
        "([a-z éñÅ豈\u{2000}]|[\u{300}-\u{345}]|[\u{5b0}-\u{5c7}]",
        "|[\u{1100}-\u{11ff}]|[각-갛]|[क-य\u{93c}]){0,24}",
    );

    fn expected(text: &str) -> String {
        text.nfc().map(|(character, _)| character).collect()
    }

    #[test]
    fn every_character_composes_as_in_the_library() {
        let characters = Characters::new();
        let mut buffer = String::new();
        let mut text = String::new();
        for c in '\0'..=char::MAX {
            text.clear();
            text.extend(['x', c, 'é', c, '\u{301}', c]);
            assert_eq!(
                compose(&text, &characters, &mut buffer),
                expected(&text),
                "{c:?}"
            );
        }
    }

    proptest! {
        #[test]
        fn stretches_compose_as_the_whole(
            text in TEXTS
        ) {
            let mut buffer = "left over".to_owned();
            let characters = Characters::new();
            prop_assert_eq!(compose(&text, &characters, &mut buffer), expected(&text));
        }
    }
}
