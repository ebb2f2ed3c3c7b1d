//! A file that is one document.

use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use anyhow::Result;

use crate::prepare::readers::{Document, Place};
use crate::prepare::text::{file_error, normalize_line_ends, open};

/// The whole text of a file.
pub fn read(path: Arc<Path>, bytes_read: &Arc<AtomicU64>) -> Result<Document> {
    let mut text = String::new();
    open(&path, bytes_read)?
        .read_to_string(&mut text)
        .map_err(|error| file_error(&path, error))?;
    Ok(Document {
        text: normalize_line_ends(text),
        place: Place {
            file: path,
            line: 0,
        },
    })
}
