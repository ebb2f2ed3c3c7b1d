//! The frame of the XML formats: elements that are documents, one after the other, in a file of
//! any length.
//!
//! No document type definition is read: its entities stay unknown and nothing is fetched, so that a
//! file can neither reach out nor grow beyond its own length. Known are the entities of XML and the
//! named characters of HTML, which hold those of the ISO sets that publishers use.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Error, Result, anyhow};
use quick_xml::Reader;
use quick_xml::events::{BytesDecl, BytesStart, Event};

use crate::prepare::fault::file_error;
use crate::prepare::readers::xml::element::{Element, Flaw, local_name, resolve};
use crate::prepare::readers::{At, Content, Document, Place};
use crate::prepare::text::meter::Meter;
use crate::prepare::text::{TextFile, TextReader};

pub mod element;

/// Elements within each other, at most; articles need some twenty.
const DEPTH_MAX: usize = 256;
/// Encodings a file may declare: those that a text is decoded from, whatever is declared.
const ENCODINGS: [&str; 8] = [
    "utf-8",
    "utf8",
    "utf-16",
    "us-ascii",
    "ascii",
    "iso-8859-1",
    "latin1",
    "windows-1252",
];

/// Takes the text out of one document; made anew for each.
pub trait Extract: Default + Send {
    /// The format's name, for errors.
    const FORMAT: &'static str;
    /// Elements of which a file of this format has one at least.
    const SIGNS: &'static [&'static str];
    /// Elements that are documents.
    const DOCUMENTS: &'static [&'static str];

    /// An element begins; `open` names those around it within the document, the document's own
    /// first.
    ///
    /// # Errors
    /// An attribute that is asked for cannot be read.
    fn start(&mut self, element: &Element<'_>, open: &[String]) -> Result<(), Flaw>;
    fn text(&mut self, text: &str);
    /// The element `name` ends; `open` names those around it.
    fn end(&mut self, name: &str, open: &[String]);
    /// The document, if the format counts it as one.
    fn finish(self) -> Option<String>;
}

/// The documents of one file.
pub struct XmlDocuments<E> {
    path: Arc<Path>,
    xml: Reader<TextReader>,
    meter: Arc<Meter>,
    buffer: Vec<u8>,
    /// Elements around the documents that are open.
    outside: usize,
    current: Option<Current<E>>,
    is_format: bool,
    ended: bool,
}

/// The document that is being read.
struct Current<E> {
    extract: E,
    open: Vec<String>,
    line: u64,
}

impl<E: Extract> XmlDocuments<E> {
    pub fn new(file: TextFile) -> Self {
        let meter = file.reader.meter();
        meter.begin_document(1);
        let mut xml = Reader::from_reader(file.reader);
        xml.config_mut().expand_empty_elements = true;
        Self {
            path: file.path,
            xml,
            meter,
            buffer: Vec::new(),
            outside: 0,
            current: None,
            is_format: false,
            ended: false,
        }
    }

    /// Reads up to the end of the next document.
    fn read(&mut self) -> Result<Option<Document>> {
        loop {
            let mut buffer = std::mem::take(&mut self.buffer);
            buffer.clear();
            let event = self.xml.read_event_into(&mut buffer);
            let event = event.map_err(|error| self.xml_error(&error))?;
            let document = match event {
                Event::Start(start) => self.start(&start).map(|()| None)?,
                Event::End(end) => self.end(local_name(end.name().as_ref())),
                Event::Text(text) => self.text(&text).map(|()| None)?,
                Event::CData(data) => self.text(&data).map(|()| None)?,
                Event::GeneralRef(reference) => {
                    let resolved = resolve(&reference);
                    let text = resolved.ok_or_else(|| self.flawed(Flaw::Entity))?;
                    self.text(text.as_bytes()).map(|()| None)?
                }
                Event::Decl(declaration) => self.check_encoding(&declaration).map(|()| None)?,
                Event::Eof => return self.at_end().map(|()| None),
                Event::Empty(_) | Event::Comment(_) | Event::PI(_) | Event::DocType(_) => None,
            };
            self.buffer = buffer;
            if document.is_some() {
                return Ok(document);
            }
        }
    }

    fn start(&mut self, start: &BytesStart<'_>) -> Result<()> {
        let name = start.local_name();
        let Ok(name) = std::str::from_utf8(name.as_ref()) else {
            return Err(self.malformed());
        };
        self.is_format = self.is_format || E::SIGNS.contains(&name);
        match &mut self.current {
            Some(current) => {
                let element = Element { name, start };
                let started = current.extract.start(&element, &current.open);
                current.open.push(name.to_owned());
                started.map_err(|flaw| self.flawed(flaw))?;
            }
            None if E::DOCUMENTS.contains(&name) => {
                let line = self.meter.line();
                self.meter.begin_document(line);
                self.current = Some(Current {
                    extract: E::default(),
                    open: vec![name.to_owned()],
                    line,
                });
            }
            None => self.outside += 1,
        }
        let inside = self
            .current
            .as_ref()
            .map_or(0, |current| current.open.len());
        if self.outside + inside > DEPTH_MAX {
            let most = format!("more than {DEPTH_MAX} elements within each other");
            return Err(self.refused(&most, "look whether it is of this format"));
        }
        Ok(())
    }

    fn end(&mut self, name: &str) -> Option<Document> {
        let Some(mut current) = self.current.take() else {
            // The parser refuses an end without a start.
            self.outside = self.outside.saturating_sub(1);
            return None;
        };
        current.open.pop();
        if !current.open.is_empty() {
            current.extract.end(name, &current.open);
            self.current = Some(current);
            return None;
        }
        self.meter.begin_document(self.meter.line());
        let place = Place {
            file: Arc::clone(&self.path),
            at: At::Line(current.line),
        };
        let content = Content::Text(current.extract.finish()?);
        Some(Document { content, place })
    }

    fn text(&mut self, text: &[u8]) -> Result<()> {
        let Ok(text) = std::str::from_utf8(text) else {
            return Err(self.malformed());
        };
        match &mut self.current {
            Some(current) => current.extract.text(text),
            None if self.outside > 0 || text.trim().is_empty() => {}
            None => return Err(self.malformed()),
        }
        Ok(())
    }

    fn check_encoding(&self, declaration: &BytesDecl<'_>) -> Result<()> {
        let Some(Ok(name)) = declaration.encoding() else {
            return Ok(());
        };
        let name = String::from_utf8_lossy(&name).to_lowercase();
        if ENCODINGS.contains(&name.as_str()) {
            return Ok(());
        }
        Err(self.refused(
            "an encoding is declared that is not read here",
            "convert the file to UTF-8, for example with iconv",
        ))
    }

    fn at_end(&self) -> Result<()> {
        if self.outside > 0 || self.current.is_some() {
            return Err(self.refused(
                "the XML ends early",
                "the file is incomplete; copy it again",
            ));
        }
        if !self.is_format {
            let [first, ..] = E::SIGNS else {
                return Ok(());
            };
            return Err(anyhow!(
                "{}: no element <{first}>, so this is no {}\n  hint: look whether the files are \
                 of this format",
                self.path.display(),
                E::FORMAT
            ));
        }
        Ok(())
    }

    fn xml_error(&self, error: &quick_xml::Error) -> Error {
        match error {
            quick_xml::Error::Io(error) => file_error(&self.path, error),
            // The messages of others may carry names and text of the file.
            _ => self.malformed(),
        }
    }

    fn malformed(&self) -> Error {
        self.flawed(Flaw::Malformed)
    }

    fn flawed(&self, flaw: Flaw) -> Error {
        let (what, hint) = match flaw {
            Flaw::Malformed => (
                "not well-formed XML",
                "mend this place, or copy the file again",
            ),
            Flaw::Entity => (
                "an entity that XML does not know",
                "write the character itself; entities of a document type are not read",
            ),
        };
        self.refused(what, hint)
    }

    fn refused(&self, what: &str, hint: &str) -> Error {
        let (path, line) = (self.path.display(), self.meter.line());
        anyhow!("{path}, line {line}: {what}\n  hint: {hint}")
    }
}

impl<E: Extract> Iterator for XmlDocuments<E> {
    type Item = Result<Document>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let read = self.read().transpose();
        self.ended = !matches!(read, Some(Ok(_)));
        read
    }
}
