//! From a source to its documents, one after the other, in a fixed order.
//!
//! A reader streams: it holds one document at a time. It hands on text exactly as it stands in the
//! field, line ends normalized; it never drops, joins or repairs a document. No error and no
//! `Debug` output carries text, or a field's or column's name found in a file (a table without a
//! header line has text for names).

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use anyhow::Result;

use crate::prepare::config::{InstitutionConfig, ReadConfig, SourceConfig};
use crate::prepare::inputs::InputFile;
use crate::prepare::synthetic::Notes;

pub mod csv_table;
pub mod json_lines;
pub mod text_files;

/// One document as its source has it.
pub struct Document {
    pub text: String,
    pub place: Place,
}

/// Where a document stands, for errors.
#[derive(Clone, Debug)]
pub struct Place {
    pub file: Arc<Path>,
    /// Line in the file, from 1; 0 where the whole file is the document.
    pub line: u64,
}

pub type Documents = Box<dyn Iterator<Item = Result<Document>> + Send>;

/// Opens a source; `bytes_read` grows with the bytes taken from `files`.
pub fn open(
    institution: &InstitutionConfig,
    source: &SourceConfig,
    files: Vec<InputFile>,
    bytes_read: Arc<AtomicU64>,
) -> Documents {
    let paths = files.into_iter().map(|file| Arc::<Path>::from(file.path));
    match &source.read {
        ReadConfig::JsonLines(config) => {
            let fields = config.text.names.clone();
            chain(paths, move |path| {
                json_lines::read(path, &fields, &bytes_read)
            })
        }
        ReadConfig::Csv(config) => {
            let fields = config.text.names.clone();
            chain(paths, move |path| {
                csv_table::read(path, &fields, &bytes_read)
            })
        }
        ReadConfig::TextFiles(_) => {
            Box::new(paths.map(move |path| text_files::read(path, &bytes_read)))
        }
        ReadConfig::Synthetic(config) => {
            let notes = Notes::new(config.style, &institution.id, &source.id);
            let file: Arc<Path> = Path::new("synthetic").into();
            Box::new((0..config.documents).map(move |number| {
                let place = Place {
                    file: Arc::clone(&file),
                    line: number + 1,
                };
                Ok(Document {
                    text: notes.note(number),
                    place,
                })
            }))
        }
    }
}

/// The documents of one file after the other; a file that does not open is one error.
fn chain<I, F>(paths: I, mut read: F) -> Documents
where
    I: Iterator<Item = Arc<Path>> + Send + 'static,
    F: FnMut(Arc<Path>) -> Result<Documents> + Send + 'static,
{
    Box::new(paths.flat_map(move |path| match read(path) {
        Ok(documents) => documents,
        Err(error) => Box::new(std::iter::once(Err(error))) as Documents,
    }))
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}", self.file.display()),
            line => write!(f, "{}, line {line}", self.file.display()),
        }
    }
}
