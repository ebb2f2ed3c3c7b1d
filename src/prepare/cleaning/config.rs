//! The `cleaning` of a corpus YAML: what is dropped and what is replaced.
//!
//! Says it and does nothing. `none` and the settings that come to the same are equal, to a
//! fingerprint too.

#![expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "garde passes its context by reference"
)]

use std::fmt;

use garde::Validate;
use regex::Regex;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};

/// The setting that drops nothing but empty documents.
const NONE: &str = "none";

/// What is done to documents before they are tokenized. Empty ones are always dropped.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, Validate)]
#[serde(deny_unknown_fields)]
pub struct CleaningConfig {
    /// Whether a document is dropped whose text an earlier one has, in any source of any
    /// institution. Texts are equal if nothing differs but the white space before and after them
    /// and the kind of their line ends.
    #[serde(default)]
    #[garde(skip)]
    pub duplicates: Duplicates,
    /// Drop documents that are nearly an earlier one; not done unless asked for.
    #[serde(default)]
    #[garde(dive)]
    pub near_duplicates: Option<NearDuplicatesConfig>,
    /// Drop documents with fewer characters (Unicode scalar values, without the white space before
    /// and after them).
    #[serde(default)]
    #[garde(skip)]
    pub minimum_characters: u64,
    /// Write one token for every mark of de-identification; without it they are kept as they are.
    #[serde(default)]
    #[garde(dive)]
    pub deidentification: Option<DeidentificationConfig>,
}

/// What becomes of documents with equal text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Duplicates {
    /// The first is kept, in the order of the configuration.
    #[default]
    Drop,
    /// All are kept.
    Keep,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Validate)]
#[serde(deny_unknown_fields)]
pub struct NearDuplicatesConfig {
    /// Two documents are nearly the same if they share this part of their runs of five words
    /// (Jaccard similarity, estimated; its standard deviation at 0.8 is 0.035).
    #[garde(custom(not_low))]
    pub threshold: f64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Validate)]
#[serde(deny_unknown_fields)]
pub struct DeidentificationConfig {
    /// What is written for each mark; must be one token of the corpus's tokenizer. Words beside it
    /// may make other tokens of it, unless it is one that was added to the vocabulary.
    #[garde(custom(bare))]
    pub replace_with: String,
    /// Which of the known marks are replaced; all unless said otherwise.
    #[serde(default = "all_marks")]
    #[garde(skip)]
    pub marks: Vec<MarkKind>,
    /// Regular expressions for marks of other kinds; what one matches is replaced whole.
    #[serde(default)]
    #[garde(inner(custom(pattern)))]
    pub patterns: Vec<String>,
}

/// A kind of mark that a de-identified text has in place of a name, a date or a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MarkKind {
    /// `[**Hospital1 18**]`, as in MIMIC-III: at most 200 characters, on one line or several,
    /// without another `[**` inside.
    Bracketed,
    /// Three or more underscores, as in MIMIC-IV and i2b2. The blanks of a form look the same.
    Underscores,
}

impl CleaningConfig {
    /// Nothing is dropped but empty documents.
    pub fn none() -> Self {
        Self {
            duplicates: Duplicates::Keep,
            ..Self::default()
        }
    }
}

/// For `deserialize_with`: `none`, or a mapping of settings.
pub fn none_or_settings<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<CleaningConfig, D::Error> {
    deserializer.deserialize_any(CleaningVisitor)
}

struct CleaningVisitor;

impl<'de> Visitor<'de> for CleaningVisitor {
    type Value = CleaningConfig;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("`none`, or a mapping of what is to be cleaned")
    }

    fn visit_str<E: serde::de::Error>(self, word: &str) -> Result<CleaningConfig, E> {
        if word == NONE {
            return Ok(CleaningConfig::none());
        }
        Err(E::invalid_value(serde::de::Unexpected::Str(word), &self))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<CleaningConfig, A::Error> {
        CleaningConfig::deserialize(MapAccessDeserializer::new(map))
    }
}

fn all_marks() -> Vec<MarkKind> {
    vec![MarkKind::Bracketed, MarkKind::Underscores]
}

fn not_low(threshold: &f64, _context: &()) -> garde::Result {
    if (0.5..=1.0).contains(threshold) {
        return Ok(());
    }
    Err(garde::Error::new("must lie between 0.5 and 1"))
}

fn bare(text: &str, _context: &()) -> garde::Result {
    if !text.is_empty() && text.trim() == text {
        return Ok(());
    }
    Err(garde::Error::new(
        "must neither be empty nor begin or end with white space",
    ))
}

fn pattern(pattern: &str, _context: &()) -> garde::Result {
    let compiled = Regex::new(pattern)
        .map_err(|error| garde::Error::new(format!("is no regular expression: {error}")))?;
    if compiled.is_match("") {
        return Err(garde::Error::new("matches where there is nothing"));
    }
    Ok(())
}
