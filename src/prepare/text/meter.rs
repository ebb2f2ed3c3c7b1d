//! Where a parser stands in a text, and how long the document is that it reads.
//!
//! The parser owns the reader and tells neither; the reader counts here what it hands out, and the
//! owner of the parser looks.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::prepare::fault::{DOCUMENT_BYTES_MAX, Fault};

/// Lives beside the reader. Reader and parser are on one thread at any time: nothing is counted
/// twice or lost although no addition is atomic.
#[derive(Debug, Default)]
pub struct Meter {
    lines: AtomicU64,
    /// Bytes handed out since the current document began, and the line of that.
    document_bytes: AtomicU64,
    document_line: AtomicU64,
}

impl Meter {
    /// The line on which the next byte stands, from 1.
    pub fn line(&self) -> u64 {
        self.lines.load(Ordering::Relaxed) + 1
    }

    /// The next document begins on `line`; its bytes count from here.
    pub fn begin_document(&self, line: u64) {
        self.document_line.store(line, Ordering::Relaxed);
        self.document_bytes.store(0, Ordering::Relaxed);
    }

    /// Some parsers take byte by byte, so this has to be cheap.
    pub fn advance(&self, bytes: &[u8]) {
        add(&self.lines, newlines(bytes));
        add(&self.document_bytes, bytes.len() as u64);
    }

    pub fn check(&self) -> Result<(), Fault> {
        if self.document_bytes.load(Ordering::Relaxed) <= DOCUMENT_BYTES_MAX {
            return Ok(());
        }
        let line = self.document_line.load(Ordering::Relaxed).max(1);
        Err(Fault::TooLong { line })
    }
}

/// Without the lock on the bus that an atomic addition takes.
fn add(counter: &AtomicU64, count: u64) {
    let before = counter.load(Ordering::Relaxed);
    counter.store(before + count, Ordering::Relaxed);
}

/// The line ends in `bytes`.
pub fn newlines(bytes: &[u8]) -> u64 {
    bytes.iter().map(|byte| u64::from(*byte == b'\n')).sum()
}
