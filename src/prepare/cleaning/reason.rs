//! The reasons for which documents are dropped, and their names.

use serde::{Deserialize, Serialize};

/// Why a document was dropped; the first of these that holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// No character but white space, or no token.
    Empty,
    /// Fewer characters than the configuration asks for.
    Short,
    /// An earlier document has the same text.
    Duplicate,
    /// An earlier document has nearly the same text.
    NearDuplicate,
}

impl Reason {
    /// The name in manifests.
    pub fn name(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::Short => "short",
            Self::Duplicate => "duplicate",
            Self::NearDuplicate => "near_duplicate",
        }
    }
}
