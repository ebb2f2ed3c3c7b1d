//! JSON objects one after the other: one a line, or one to a file over many lines.
//!
//! Only the named fields are looked at. A field that is `null` counts as an empty text; one that is
//! absent or no text is refused, as a sign that the wrong field was named.

use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Error, Result, anyhow};
use serde_json::de::IoRead;
use serde_json::{Deserializer, StreamDeserializer, Value};

use crate::prepare::readers::{Document, Documents, Place};
use crate::prepare::text::{TextReader, file_error, newlines, normalize_line_ends, open};

type Objects = StreamDeserializer<'static, IoRead<LineCounter>, Value>;

/// The texts of `fields` in every object of a file, each a document.
pub fn read(path: Arc<Path>, fields: &[String], bytes_read: &Arc<AtomicU64>) -> Result<Documents> {
    let lines_read = Arc::new(AtomicU64::new(0));
    let reader = LineCounter {
        reader: open(&path, bytes_read)?,
        lines_read: lines_read.clone(),
    };
    let objects = Deserializer::from_reader(reader).into_iter();
    let file = JsonLines {
        path,
        fields: fields.to_vec(),
        objects,
        lines_read,
        failed: false,
    };
    Ok(Box::new(file.flatten()))
}

/// One item an object: its documents, or the error that ends the file.
struct JsonLines {
    path: Arc<Path>,
    fields: Vec<String>,
    objects: Objects,
    lines_read: Arc<AtomicU64>,
    failed: bool,
}

impl Iterator for JsonLines {
    type Item = Vec<Result<Document>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let documents: Vec<Result<Document>> = match self.objects.next()? {
            Ok(value) => self.documents(value),
            Err(error) => vec![Err(self.parse_error(error))],
        };
        self.failed = documents.iter().any(Result::is_err);
        Some(documents)
    }
}

impl JsonLines {
    fn documents(&self, value: Value) -> Vec<Result<Document>> {
        let line = self.lines_read.load(Ordering::Relaxed) + 1;
        let place = Place {
            file: Arc::clone(&self.path),
            line,
        };
        let Value::Object(mut object) = value else {
            return vec![Err(anyhow!(
                "{place}: {}, not a JSON object\n  hint: the format is one object a line",
                kind(&value)
            ))];
        };
        let document = |field: &String| match object.remove(field) {
            Some(Value::String(text)) => Ok(Document {
                text: normalize_line_ends(text),
                place: place.clone(),
            }),
            Some(Value::Null) => Ok(Document {
                text: String::new(),
                place: place.clone(),
            }),
            Some(other) => Err(anyhow!(
                "{place}: the field {field:?} is {}, not text\n  hint: set `text` to the field \
                 that holds the document",
                kind(&other)
            )),
            None => Err(anyhow!(
                "{place}: no field {field:?}\n  hint: set `text` to the field that holds the \
                 document"
            )),
        };
        self.fields.iter().map(document).collect()
    }

    fn parse_error(&self, error: serde_json::Error) -> Error {
        if error.is_io() {
            return file_error(&self.path, io::Error::from(error));
        }
        let what = if error.is_eof() {
            "the JSON ends early"
        } else {
            "not valid JSON"
        };
        let (path, line, column) = (self.path.display(), error.line(), error.column());
        anyhow!("{path}, line {line}, column {column}: {what}\n  hint: mend or remove this line")
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a truth value",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// Counts the line ends that the parser has taken. The parser reads byte by byte, so the count is
/// the line it stands on.
struct LineCounter {
    reader: TextReader,
    lines_read: Arc<AtomicU64>,
}

impl Read for LineCounter {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(buffer)?;
        let lines = newlines(&buffer[..count]);
        if lines > 0 {
            self.lines_read.fetch_add(lines, Ordering::Relaxed);
        }
        Ok(count)
    }
}
