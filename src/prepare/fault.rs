//! Why a file cannot be read as text, and how that is told.
//!
//! A fault names the place and the next step and never carries text.

use std::io;
use std::path::Path;

use anyhow::{Error, anyhow};
use thiserror::Error as ThisError;

use crate::store::error::StoreError;

/// The longest document, in bytes of UTF-8: far beyond any record of a patient or any book, and
/// little enough that a file without line ends does not take the machine's memory.
pub const DOCUMENT_BYTES_MAX: u64 = 64 << 20;

/// Why a file is no text. Travels inside an [`io::Error`] through the parsers above.
#[derive(Clone, Debug, ThisError, PartialEq, Eq)]
pub enum Fault {
    #[error(
        "line {line}, byte {byte}: not valid {encoding}\n  hint: convert the file to UTF-8, for \
         example with iconv, or name its encoding with `encoding`"
    )]
    Encoding {
        encoding: &'static str,
        line: u64,
        byte: u64,
    },
    #[error(
        "line {line}, byte {byte}: UTF-8 here and Windows-1252 before\n  hint: convert the file \
         to one encoding, or name the right one with `encoding`"
    )]
    Mixed { line: u64, byte: u64 },
    #[error(
        "line {line}, byte {byte}: a NUL character, so this is no text\n  hint: take the file out \
         of `path`; UTF-16 without a byte-order mark needs `encoding: utf-16`"
    )]
    Nul { line: u64, byte: u64 },
    #[error("{kind}, not a text\n  hint: {hint}")]
    NotText {
        kind: &'static str,
        hint: &'static str,
    },
    #[error(
        "line {line}: a document of more than {} MiB begins here\n  hint: the limit guards the \
         memory; look for a quote that is not closed, a file without line ends, or another format",
        DOCUMENT_BYTES_MAX >> 20
    )]
    TooLong { line: u64 },
    #[error(
        "line {line}: the quote that opens here is never closed\n  hint: close or double it; where \
         quotes mean nothing, set `quoted: false`"
    )]
    OpenQuote { line: u64 },
    #[error(
        "line {line}: text after a closing quote, in a field that begins on line {field_line}\n  \
         hint: double the quotes within a field; where quotes mean nothing, set `quoted: false`"
    )]
    StrayQuote { line: u64, field_line: u64 },
    #[error("the {format} data ends early\n  hint: the file is incomplete; copy it again")]
    EndsEarly { format: &'static str },
    #[error("the {format} data is damaged\n  hint: copy the file again")]
    Damaged { format: &'static str },
    #[error(
        "the {format} data needs more memory than is given to decompress it\n  hint: compress the \
         file anew, with zstd without --long or with xz -9 at most"
    )]
    Memory { format: &'static str },
}

impl Fault {
    /// The same fault told of a file.
    pub fn of(&self, path: &Path) -> Error {
        let path = path.display();
        match self {
            Self::Encoding { .. }
            | Self::Mixed { .. }
            | Self::Nul { .. }
            | Self::TooLong { .. }
            | Self::OpenQuote { .. }
            | Self::StrayQuote { .. } => anyhow!("{path}, {self}"),
            Self::NotText { .. }
            | Self::EndsEarly { .. }
            | Self::Damaged { .. }
            | Self::Memory { .. } => anyhow!("{path}: {self}"),
        }
    }
}

impl From<Fault> for io::Error {
    fn from(fault: Fault) -> Self {
        Self::other(fault)
    }
}

/// Names the file in an error of its reader.
pub fn file_error(path: &Path, error: &io::Error) -> Error {
    let inner = error.get_ref();
    // It names its object itself.
    if let Some(error) = inner.and_then(|inner| inner.downcast_ref::<StoreError>()) {
        return anyhow!("{error}");
    }
    match inner.and_then(|inner| inner.downcast_ref::<Fault>()) {
        Some(fault) => fault.of(path),
        None => anyhow!("cannot read {}: {error}", path.display()),
    }
}
