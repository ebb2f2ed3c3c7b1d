//! Cutting a text at its added tokens: the leftmost first, of those the longest.
//!
//! A special token is found like the others and then left in the text, so that `[SEP]` written in a
//! note becomes ordinary tokens, and so does what it covers of others. A token that must be a word
//! of its own, and is found inside another, is left in the text in the same way.

use std::sync::LazyLock;

use regex::Regex;

/// A character of a word, as the `tokenizers` library asks for it.
static WORD: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"^\w").expect("the pattern is valid"));

/// Bits for every pair of bytes.
const PAIR_WORDS: usize = (1 << 16) / 64;

/// An added token as the text has it.
#[derive(Clone, Debug)]
pub struct AddedToken {
    pub text: String,
    pub id: u32,
    pub special: bool,
    /// Whether no character of a word may stand right before or after it.
    pub single_word: bool,
}

/// A piece of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// An added token's id.
    Token(u32),
    /// What stands between them, never empty.
    Text(&'a str),
}

/// A set of added tokens, as a tree of bytes.
pub struct AddedTokens {
    /// Node 0 is the root.
    nodes: Vec<Node>,
    /// Pairs of bytes with which a token can begin, at bit first × 256 + second.
    pairs: Vec<u64>,
}

#[derive(Default)]
struct Node {
    children: Vec<(u8, usize)>,
    end: Option<End>,
}

/// A token ends here.
#[derive(Clone, Copy)]
struct End {
    id: u32,
    special: bool,
    single_word: bool,
}

impl AddedTokens {
    /// None where no token of the set can come from text. Tokens are not empty and differ.
    pub fn new(tokens: &[AddedToken]) -> Option<Self> {
        if tokens.iter().all(|token| token.special) {
            return None;
        }
        let mut set = Self {
            nodes: vec![Node::default()],
            pairs: vec![0; PAIR_WORDS],
        };
        for token in tokens {
            set.insert(token);
        }
        Some(set)
    }

    fn insert(&mut self, token: &AddedToken) {
        match token.text.as_bytes() {
            [first] => (0..=u8::MAX).for_each(|second| self.allow(*first, second)),
            [first, second, ..] => self.allow(*first, *second),
            [] => return,
        }
        let mut node = 0;
        for byte in token.text.bytes() {
            node = self.child(node, byte).unwrap_or_else(|| {
                let new = self.nodes.len();
                self.nodes[node].children.push((byte, new));
                self.nodes.push(Node::default());
                new
            });
        }
        self.nodes[node].end = Some(End {
            id: token.id,
            special: token.special,
            single_word: token.single_word,
        });
    }

    fn allow(&mut self, first: u8, second: u8) {
        let pair = u16::from_be_bytes([first, second]);
        self.pairs[usize::from(pair / 64)] |= 1 << (pair % 64);
    }

    fn child(&self, node: usize, byte: u8) -> Option<usize> {
        let mut children = self.nodes[node].children.iter();
        children
            .find(|(own, _)| *own == byte)
            .map(|(_, node)| *node)
    }

    /// The pieces of a text, in order; together they are the text.
    pub fn pieces<'a>(&'a self, text: &'a str) -> Pieces<'a> {
        Pieces {
            tokens: self,
            text,
            done: 0,
            token: None,
        }
    }

    /// The next token from `at` on that is not to be left in the text: its place and id.
    fn next(&self, text: &str, mut at: usize) -> Option<(usize, usize, u32)> {
        let bytes = text.as_bytes();
        loop {
            at = self.next_candidate(bytes, at)?;
            match self.longest(&bytes[at..]) {
                Some((length, end)) if end.special => at += length,
                Some((length, end)) if end.single_word && !stands_alone(text, at, length) => {
                    at += length;
                }
                Some((length, end)) => return Some((at, at + length, end.id)),
                None => at += 1,
            }
        }
    }

    /// The next place at which a token may begin.
    fn next_candidate(&self, bytes: &[u8], at: usize) -> Option<usize> {
        let is_allowed = |pair: &[u8]| {
            let pair = u16::from_be_bytes([pair[0], pair[1]]);
            self.pairs[usize::from(pair / 64)] >> (pair % 64) & 1 == 1
        };
        let rest = bytes.get(at..)?;
        match rest.windows(2).position(is_allowed) {
            Some(further) => Some(at + further),
            // The last byte has no pair.
            None => (!rest.is_empty()).then(|| bytes.len() - 1),
        }
    }

    /// The longest token at the beginning, with its bytes.
    fn longest(&self, bytes: &[u8]) -> Option<(usize, End)> {
        let mut node = 0;
        let mut longest = None;
        for (index, byte) in bytes.iter().enumerate() {
            let Some(next) = self.child(node, *byte) else {
                break;
            };
            node = next;
            if let Some(end) = self.nodes[node].end {
                longest = Some((index + 1, end));
            }
        }
        longest
    }
}

/// Whether no character of a word stands right before or after this part of a text.
fn stands_alone(text: &str, at: usize, length: usize) -> bool {
    let before = text[..at].chars().next_back();
    let after = text[at + length..].chars().next();
    !before.is_some_and(is_of_word) && !after.is_some_and(is_of_word)
}

fn is_of_word(character: char) -> bool {
    if character.is_ascii() {
        return character.is_ascii_alphanumeric() || character == '_';
    }
    WORD.is_match(character.encode_utf8(&mut [0; 4]))
}

/// Iterates over the pieces of a text.
pub struct Pieces<'a> {
    tokens: &'a AddedTokens,
    text: &'a str,
    done: usize,
    /// Comes after the text before it.
    token: Option<u32>,
}

impl<'a> Iterator for Pieces<'a> {
    type Item = Piece<'a>;

    fn next(&mut self) -> Option<Piece<'a>> {
        if let Some(id) = self.token.take() {
            return Some(Piece::Token(id));
        }
        let from = self.done;
        let Some((start, end, id)) = self.tokens.next(self.text, from) else {
            self.done = self.text.len();
            let rest = &self.text[from..];
            return (!rest.is_empty()).then_some(Piece::Text(rest));
        };
        self.done = end;
        if start == from {
            return Some(Piece::Token(id));
        }
        self.token = Some(id);
        Some(Piece::Text(&self.text[from..start]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_of_the_leftmost_wins() {
        let token = |(text, id, special): &(&str, u32, bool)| AddedToken {
            text: (*text).to_owned(),
            id: *id,
            special: *special,
            single_word: false,
        };
        let set = |tokens: &[(&str, u32, bool)]| {
            AddedTokens::new(&tokens.iter().map(token).collect::<Vec<_>>())
        };
        let tokens = set(&[
            ("  ", 2, false),
            ("   ", 3, false),
            ("[SEP]", 4, true),
            ("]x", 5, false),
            ("é", 6, false),
            ("|", 7, false),
        ]);
        let tokens = tokens.expect("some are not special");
        let pieces = |text| tokens.pieces(text).collect::<Vec<_>>();
        assert_eq!(pieces(""), []);
        assert_eq!(pieces(" a "), [Piece::Text(" a ")]);
        assert_eq!(
            pieces("a      b  "),
            [
                Piece::Text("a"),
                Piece::Token(3),
                Piece::Token(3),
                Piece::Text("b"),
                Piece::Token(2)
            ]
        );
        // The special token keeps its bracket from the token that begins with it.
        assert_eq!(
            pieces("[SEP]x]x|"),
            [Piece::Text("[SEP]x"), Piece::Token(5), Piece::Token(7)]
        );
        assert_eq!(pieces("ü[SEPé"), [Piece::Text("ü[SEP"), Piece::Token(6)]);
        assert!(set(&[("[CLS]", 0, true)]).is_none());
    }

    #[test]
    fn words_of_their_own_are_not_found_inside_others() {
        let token = |(text, id): (&str, u32)| AddedToken {
            text: text.to_owned(),
            id,
            special: false,
            single_word: true,
        };
        let tokens = AddedTokens::new(&[("MI", 1), ("MI pain", 2), ("+", 3)].map(token));
        let tokens = tokens.expect("none is special");
        let pieces = |text| tokens.pieces(text).collect::<Vec<_>>();
        for whole in ["MIT", "éMI", "MI_", "4MI", "MI\u{301}", "MI pains", "a+ +b"] {
            assert_eq!(pieces(whole), [Piece::Text(whole)]);
        }
        assert_eq!(
            pieces("(MI) MI pain+"),
            [
                Piece::Text("("),
                Piece::Token(1),
                Piece::Text(") "),
                Piece::Token(2),
                Piece::Text("+")
            ]
        );
    }
}
