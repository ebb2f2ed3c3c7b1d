//! From a source to its documents, one after the other, in a fixed order.
//!
//! A reader streams: it holds one document at a time, of bounded length. It hands on text exactly
//! as it stands in the field, line ends normalized; markup formats say in their modules what of an
//! article is its text. It never drops or repairs a document, and joins only what the
//! configuration says. Token ids that others made are handed on as they are. No error and no
//! `Debug` output carries text, or a field's or column's name found in a file (a table without a
//! header line has text for names).

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use anyhow::Result;

use crate::prepare::compression::ReadCounts;
use crate::prepare::config::readers::{FilesConfig, ReadConfig};
use crate::prepare::config::{InstitutionConfig, SourceConfig};
use crate::prepare::encoding::Encoding;
use crate::prepare::inputs::{InputFile, Places};
use crate::prepare::readers::jats::Jats;
use crate::prepare::readers::medquad::MedQuad;
use crate::prepare::readers::pubmed::PubMed;
use crate::prepare::readers::xml::{Extract, XmlDocuments};
use crate::prepare::synthetic::Notes;
use crate::prepare::text::{Opening, TextFile};

pub mod csv_table;
pub mod jats;
pub mod json_lines;
pub mod layout;
pub mod mds;
pub mod medquad;
mod panics;
mod parquet_input;
pub mod parquet_table;
pub mod prose;
pub mod pubmed;
pub mod rows;
pub mod tar_archive;
pub mod text_grid;
pub mod xml;

/// One document as its source has it.
pub struct Document {
    pub content: Content,
    pub place: Place,
}

/// What a document is made of. No `Debug`: it would show the text.
pub enum Content {
    Text(String),
    /// One chunk, special tokens included, by whatever tokenizer its source was written with.
    Tokens(Vec<u32>),
}

/// Where a document stands, for errors.
#[derive(Clone, Debug)]
pub struct Place {
    pub file: Arc<Path>,
    pub at: At,
}

/// Where in its file a document stands; all count from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// The whole file is the document.
    File,
    Line(u64),
    Row(u64),
}

impl Content {
    /// Its length in memory.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Tokens(ids) => size_of_val(ids.as_slice()),
        }
    }
}

pub type Documents = Box<dyn Iterator<Item = Result<Document>> + Send>;
type Paths = std::vec::IntoIter<Arc<Path>>;

/// The files of a source, in the order in which they are read; at least one, except where the
/// source is invented.
pub fn find_files(read: &ReadConfig, places: &Places<'_>) -> Result<Vec<InputFile>> {
    let path = match read {
        ReadConfig::JsonLines(config) => &config.path,
        ReadConfig::Csv(config) => &config.path,
        ReadConfig::Parquet(config) => &config.path,
        ReadConfig::TextFiles(config)
        | ReadConfig::PubmedXml(config)
        | ReadConfig::Jats(config)
        | ReadConfig::MedquadXml(config) => &config.path,
        ReadConfig::TextGrid(config) => return text_grid::files::find_files(config, places),
        ReadConfig::Mds(config) => return mds::index::find_files(config, places),
        ReadConfig::Synthetic(_) => return Ok(Vec::new()),
    };
    places.expand(&places.resolve(path))
}

/// Opens a source; `counts` tells what is read of `files`.
pub fn open(
    institution: &InstitutionConfig,
    source: &SourceConfig,
    files: Vec<InputFile>,
    counts: Arc<ReadCounts>,
) -> Documents {
    counts.know(&files);
    let paths = files.iter().map(|file| file.path.as_path().into());
    let paths: Vec<Arc<Path>> = paths.collect();
    let opening = |encoding: Encoding| Opening {
        encoding,
        counts: Arc::clone(&counts),
    };
    match &source.read {
        ReadConfig::JsonLines(config) => {
            let texts = texts(paths.into_iter(), None, opening(config.encoding));
            let fields = config.text.clone();
            chain(texts, move |text| Ok(json_lines::read(text, &fields)))
        }
        ReadConfig::Csv(config) => {
            let texts = texts(paths.into_iter(), None, opening(config.encoding));
            let config = config.clone();
            chain(texts, move |text| csv_table::read(text, &config))
        }
        ReadConfig::Parquet(config) => {
            let fields = config.text.clone();
            chain(paths.into_iter().map(Ok), move |path| {
                parquet_table::read(path, &fields, &counts)
            })
        }
        ReadConfig::TextFiles(config) => {
            let files = texts(
                paths.into_iter(),
                config.members.clone(),
                opening(config.encoding),
            );
            Box::new(files.map(|file| whole(file?)))
        }
        ReadConfig::PubmedXml(config) => markup::<PubMed>(paths, config, opening(config.encoding)),
        ReadConfig::Jats(config) => markup::<Jats>(paths, config, opening(config.encoding)),
        ReadConfig::MedquadXml(config) => {
            markup::<MedQuad>(paths, config, opening(config.encoding))
        }
        ReadConfig::TextGrid(config) => {
            text_grid::read(&paths, config.clone(), opening(config.encoding))
        }
        ReadConfig::Mds(config) => mds::read(files, config, counts),
        ReadConfig::Synthetic(config) => {
            let notes = Notes::new(config.style, &institution.id, &source.id);
            let file: Arc<Path> = Path::new("synthetic").into();
            Box::new((0..config.documents).map(move |number| {
                let place = Place {
                    file: Arc::clone(&file),
                    at: At::Line(number + 1),
                };
                Ok(Document {
                    content: Content::Text(notes.note(number)),
                    place,
                })
            }))
        }
    }
}

/// The files, or the members of the archives that they are.
fn texts(
    paths: Paths,
    members: Option<String>,
    opening: Opening,
) -> Box<dyn Iterator<Item = Result<TextFile>> + Send> {
    let Some(pattern) = members else {
        return Box::new(paths.map(move |path| TextFile::open(path, &opening)));
    };
    Box::new(paths.flat_map(move |path| {
        match tar_archive::open(path, pattern.clone(), opening.clone()) {
            Ok(members) => Box::new(members) as Box<dyn Iterator<Item = _> + Send>,
            Err(error) => Box::new(std::iter::once(Err(error))),
        }
    }))
}

fn whole(file: TextFile) -> Result<Document> {
    let place = Place {
        file: Arc::clone(&file.path),
        at: At::File,
    };
    let content = Content::Text(file.read_whole()?);
    Ok(Document { content, place })
}

fn markup<E: Extract + 'static>(
    paths: Vec<Arc<Path>>,
    config: &FilesConfig,
    opening: Opening,
) -> Documents {
    let files = texts(paths.into_iter(), config.members.clone(), opening);
    chain(files, |file| Ok(Box::new(XmlDocuments::<E>::new(file))))
}

/// The documents of one file after the other; a file that does not open is one error.
fn chain<T, I, F>(files: I, mut read: F) -> Documents
where
    I: Iterator<Item = Result<T>> + Send + 'static,
    F: FnMut(T) -> Result<Documents> + Send + 'static,
{
    Box::new(files.flat_map(move |file| match file.and_then(&mut read) {
        Ok(documents) => documents,
        Err(error) => Box::new(std::iter::once(Err(error))) as Documents,
    }))
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = self.file.display();
        match self.at {
            At::File => write!(f, "{file}"),
            At::Line(line) => write!(f, "{file}, line {line}"),
            At::Row(row) => write!(f, "{file}, row {row}"),
        }
    }
}
