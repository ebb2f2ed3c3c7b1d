//! What a character is to the tokenizer, as the libraries behind `tokenizers` see it.
//!
//! Nothing here knows Unicode: the classes are asked from the regular-expression library that runs
//! GPT-2's pattern there, the composing from the library that brings text into NFC there, which
//! follow different versions of Unicode. Asked once for each page of 256 code points that occurs.

use std::sync::OnceLock;

use onig::Regex;
use unicode_normalization_alignments::char::canonical_combining_class;
use unicode_normalization_alignments::{IsNormalized, is_nfc_quick};

const PAGE: usize = 256;
const PAGES: usize = (char::MAX as usize + 1) / PAGE;
/// Below it, no character changes under NFC, alone or with others (the first combining character).
pub const COMPOSING_FROM: char = '\u{300}';

/// The classes of GPT-2's pattern: `\p{L}`, `\p{N}`, `\s` and `[^\s\p{L}\p{N}]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    Letter,
    Number,
    Space,
    Other,
}

#[derive(Clone, Copy)]
struct Traits {
    class: Class,
    /// Whether NFC may change the character or its order among others.
    composes: bool,
}

/// The traits of every character, found as they are needed.
pub struct Characters {
    ascii: [Class; 128],
    pages: Vec<OnceLock<Box<[Traits; PAGE]>>>,
    classes: [(Regex, Class); 3],
}

impl Characters {
    pub fn new() -> Self {
        let regex = |pattern| Regex::new(pattern).expect("the pattern is valid");
        let mut characters = Self {
            ascii: [Class::Other; 128],
            pages: (0..PAGES).map(|_| OnceLock::new()).collect(),
            classes: [
                (regex(r"\p{L}"), Class::Letter),
                (regex(r"\p{N}"), Class::Number),
                (regex(r"\s"), Class::Space),
            ],
        };
        for byte in 0..128 {
            characters.ascii[usize::from(byte)] = characters.traits(char::from(byte)).class;
        }
        characters
    }

    /// The class of a byte below 128.
    #[inline]
    pub fn ascii(&self, byte: u8) -> Class {
        self.ascii[usize::from(byte)]
    }

    #[inline]
    pub fn class(&self, character: char) -> Class {
        self.traits(character).class
    }

    /// Whether NFC may change this character, put another in its place or move it. Text without
    /// such a character is in NFC (UAX #15, detecting normalization forms).
    #[inline]
    pub fn composes(&self, character: char) -> bool {
        character >= COMPOSING_FROM && self.traits(character).composes
    }

    #[inline]
    fn traits(&self, character: char) -> Traits {
        let code = character as usize;
        let page = self.pages[code / PAGE].get_or_init(|| self.page(code / PAGE));
        page[code % PAGE]
    }

    #[cold]
    fn page(&self, page: usize) -> Box<[Traits; PAGE]> {
        let unknown = Traits {
            class: Class::Other,
            composes: false,
        };
        let mut traits = Box::new([unknown; PAGE]);
        let first = (page * PAGE) as u32;
        let text: String = (first..first + PAGE as u32)
            .filter_map(char::from_u32)
            .collect();
        for character in text.chars() {
            traits[character as usize % PAGE].composes = canonical_combining_class(character) != 0
                || is_nfc_quick(std::iter::once(character)) != IsNormalized::Yes;
        }
        for (regex, class) in &self.classes {
            for (at, _) in regex.find_iter(&text) {
                let found = text[at..].chars().next().expect("a match has a character");
                traits[found as usize % PAGE].class = *class;
            }
        }
        traits
    }
}

impl Default for Characters {
    fn default() -> Self {
        Self::new()
    }
}
