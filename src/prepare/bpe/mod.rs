//! Byte-level BPE, many times faster than the `tokenizers` library and with the same ids.
//!
//! In reading order: [`support`] which tokenizers belong to the family and what they are made of;
//! [`added_tokens`] cuts a text at its added tokens; [`compose`] brings it into NFC; [`words`] cuts
//! it into words by the [`characters`] in them; [`merges`] turns a word into ids and [`word_cache`]
//! remembers them; [`sample`] says which documents of a run are compared with the library.
//!
//! The library defines what is right: its order of steps, its Unicode tables and its ranks are
//! followed to the letter, and a tokenizer that needs anything else is refused. Speed comes from
//! what is left out: the library carries an alignment of every byte through every step.

use std::collections::BTreeMap;
use std::sync::Mutex;

use anyhow::Result;
use serde_json::Value;
use tokenizers::Tokenizer;

use crate::prepare::bpe::added_tokens::{AddedTokens, Piece};
use crate::prepare::bpe::characters::Characters;
use crate::prepare::bpe::compose::compose;
use crate::prepare::bpe::merges::{Merger, Merges};
use crate::prepare::bpe::word_cache::{Key, WordCache};
use crate::prepare::bpe::words::word_end;

pub mod added_tokens;
pub mod characters;
pub mod compose;
pub mod merges;
pub mod sample;
pub mod support;
pub mod word_cache;
pub mod words;

/// Text that becomes one token, as a rule; the first guess of a document's number of ids.
const BYTES_PER_TOKEN: usize = 4;

/// Bytes that memory is kept for from one document to the next.
const KEPT_BYTES: usize = 1 << 20;

/// What a tokenizer of the family is made of.
pub struct Parts {
    /// Tokens looked for in the text as it stands.
    pub raw_tokens: Option<AddedTokens>,
    /// Whether the text between them is brought into NFC.
    pub composes: bool,
    /// Tokens looked for in what that leaves.
    pub composed_tokens: Option<AddedTokens>,
    /// Whether a piece between added tokens that begins with none gets a space.
    pub prefix_space: bool,
    /// Words that are one token whatever the merges say; empty as a rule.
    pub whole_words: BTreeMap<Vec<u8>, u32>,
    pub merges: Merges,
}

/// A tokenizer of the family, for any number of threads.
pub struct Encoder {
    parts: Parts,
    characters: Characters,
    /// One for every thread that has ever encoded at the same time, less those at work.
    idle: Mutex<Vec<Scratch>>,
}

/// What a thread needs to encode; says nothing about any text but how fast it goes.
#[derive(Default)]
struct Scratch {
    composed: String,
    cache: WordCache,
    merger: Merger,
}

impl Encoder {
    /// The tokenizer read from `json`, without the limits and paddings that it may carry.
    ///
    /// # Errors
    /// Why this tokenizer is of another kind, in words.
    pub fn new(tokenizer: &Tokenizer, json: &Value) -> Result<Self> {
        Ok(Self {
            parts: support::parts(tokenizer, json)?,
            characters: Characters::new(),
            idle: Mutex::new(Vec::new()),
        })
    }

    /// The ids of a text as `encode_fast(text, false)` of the library gives them, with
    /// `encode_special_tokens` on: no special token comes from text.
    pub fn encode(&self, text: &str) -> Vec<u32> {
        let lent = self.idle().pop();
        let mut scratch = lent.unwrap_or_default();
        let mut ids = Vec::with_capacity(text.len() / BYTES_PER_TOKEN);
        for piece in pieces(self.parts.raw_tokens.as_ref(), text) {
            match piece {
                Piece::Token(id) => ids.push(id),
                Piece::Text(raw) => self.encode_raw(raw, &mut scratch, &mut ids),
            }
        }
        self.idle().push(scratch);
        ids
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Scratch>> {
        self.idle
            .lock()
            .expect("nothing that can panic runs under the lock")
    }

    /// The ids of a piece in which no raw token stands.
    fn encode_raw(&self, raw: &str, scratch: &mut Scratch, ids: &mut Vec<u32>) {
        let mut buffer = std::mem::take(&mut scratch.composed);
        let composed = if self.parts.composes {
            compose(raw, &self.characters, &mut buffer)
        } else {
            raw
        };
        for piece in pieces(self.parts.composed_tokens.as_ref(), composed) {
            match piece {
                Piece::Token(id) => ids.push(id),
                Piece::Text(text) if self.parts.prefix_space && !text.starts_with(' ') => {
                    self.encode_words(&format!(" {text}"), scratch, ids);
                }
                Piece::Text(text) => self.encode_words(text, scratch, ids),
            }
        }
        buffer.shrink_to(KEPT_BYTES);
        scratch.composed = buffer;
    }

    fn encode_words(&self, text: &str, scratch: &mut Scratch, ids: &mut Vec<u32>) {
        let bytes = text.as_bytes();
        let mut at = 0;
        while at < text.len() {
            let end = word_end(text, at, &self.characters);
            let key = Key::of(bytes, at, end);
            if !key.is_some_and(|key| scratch.cache.recall(&key, ids)) {
                let first = ids.len();
                self.encode_word(&bytes[at..end], &mut scratch.merger, ids);
                if let Some(key) = key {
                    scratch.cache.remember(&key, &ids[first..]);
                }
            }
            at = end;
        }
    }

    #[inline(never)]
    fn encode_word(&self, word: &[u8], merger: &mut Merger, ids: &mut Vec<u32>) {
        if let Some(id) = self.parts.whole_words.get(word) {
            ids.push(*id);
        } else {
            merger.merge(&self.parts.merges, word, ids);
        }
    }
}

/// The pieces of a text, none of them empty.
fn pieces<'a>(
    tokens: Option<&'a AddedTokens>,
    text: &'a str,
) -> impl Iterator<Item = Piece<'a>> + 'a {
    let cut = tokens.map(|tokens| tokens.pieces(text));
    let whole = (tokens.is_none() && !text.is_empty()).then_some(Piece::Text(text));
    cut.into_iter().flatten().chain(whole)
}
