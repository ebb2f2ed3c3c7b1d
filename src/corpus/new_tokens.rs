//! What a tokenizer that was given new tokens says of them: which pieces each was made of before.
//!
//! The record stands beside `tokenizer.json`, travels with the corpus, and tells a run that starts
//! from an older model where the rows of its new tokens come from. Pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The record's file name, beside the tokenizer's.
pub const NEW_TOKENS_FILE: &str = "new_tokens.json";
/// The layout that this code reads and writes; another number is refused.
pub const NEW_TOKENS_VERSION: u32 = 1;

/// `new_tokens.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewTokens {
    pub version: u32,
    /// blake3 of the `tokenizer.json` that has the tokens, in hexadecimal.
    pub tokenizer: String,
    /// By id of the new token, the ids that stood for its text before: old ones, or new ones with a
    /// lower id. None for an `[unused…]` id, which stands for no text, and for a text of which the
    /// tokenizer knew nothing.
    pub pieces: BTreeMap<u32, Vec<u32>>,
}

/// Why a record is not used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NewTokensError {
    #[error("it is no record of new tokens: {0}")]
    Malformed(String),
    #[error("it has version {0}, this program reads version {NEW_TOKENS_VERSION}")]
    Version(u32),
    #[error("it belongs to tokenizer {found}, not to {expected}")]
    OtherTokenizer { found: String, expected: String },
    #[error("its token {id} is made of {piece}, which is no older token")]
    Pieces { id: u32, piece: u32 },
}

impl NewTokens {
    /// Reads the record of the tokenizer with this digest.
    pub fn parse(text: &[u8], tokenizer: &str) -> Result<Self, NewTokensError> {
        let record: Self = serde_json::from_slice(text)
            .map_err(|error| NewTokensError::Malformed(error.to_string()))?;
        if record.version != NEW_TOKENS_VERSION {
            return Err(NewTokensError::Version(record.version));
        }
        if record.tokenizer != tokenizer {
            return Err(NewTokensError::OtherTokenizer {
                found: record.tokenizer,
                expected: tokenizer.to_owned(),
            });
        }
        for (&id, pieces) in &record.pieces {
            let younger = |piece: &&u32| record.pieces.contains_key(piece) && **piece >= id;
            if let Some(&piece) = pieces.iter().find(younger) {
                return Err(NewTokensError::Pieces { id, piece });
            }
        }
        Ok(record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<NewTokens, String> {
        NewTokens::parse(text.as_bytes(), "abc").map_err(|error| error.to_string())
    }

    #[test]
    fn a_record_says_what_tokens_were_made_of() {
        let text = r#"{"version": 1, "tokenizer": "abc", "pieces": {"9": [3, 4], "10": [9, 2],
                       "11": []}}"#;
        let pieces = BTreeMap::from([(9, vec![3, 4]), (10, vec![9, 2]), (11, vec![])]);
        let record = NewTokens {
            version: 1,
            tokenizer: "abc".to_owned(),
            pieces,
        };
        assert_eq!(parse(text), Ok(record));
    }

    #[test]
    fn what_is_no_record_is_refused() {
        for (text, wanted) in [
            ("[", "it is no record of new tokens"),
            (
                r#"{"version": 2, "tokenizer": "abc", "pieces": {}}"#,
                "it has version 2",
            ),
            (
                r#"{"version": 1, "tokenizer": "abd", "pieces": {}}"#,
                "it belongs to tokenizer abd, not to abc",
            ),
            (
                r#"{"version": 1, "tokenizer": "abc", "pieces": {"9": [3, 10], "10": [3, 4]}}"#,
                "its token 9 is made of 10, which is no older token",
            ),
            (
                r#"{"version": 1, "tokenizer": "abc", "pieces": {"9": [9, 4]}}"#,
                "its token 9 is made of 9",
            ),
        ] {
            let error = parse(text).expect_err(wanted);
            assert!(error.starts_with(wanted), "{error}");
        }
    }
}
