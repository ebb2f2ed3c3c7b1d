//! JSON objects one after the other: one a line, or one to a file over many lines.
//!
//! Only the named fields are looked at, and only they are kept in memory. A field that is `null`
//! counts as an empty text; one that is absent or no text is refused, as a sign that the wrong
//! field was named, and so is one that stands there twice.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Error, Result, anyhow};
use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Deserializer;
use serde_json::de::IoRead;

use crate::prepare::fault::file_error;
use crate::prepare::fields::Fields;
use crate::prepare::readers::layout::Layout;
use crate::prepare::readers::{At, Document, Documents, Place, rows};
use crate::prepare::text::meter::Meter;
use crate::prepare::text::{TextFile, TextReader};

/// The documents of every object of a file.
pub fn read(file: TextFile, fields: &Fields) -> Documents {
    let meter = file.reader.meter();
    let mut objects = JsonLines {
        path: file.path,
        layout: Layout::new(fields),
        objects: Deserializer::from_reader(file.reader),
        meter,
    };
    rows::documents(move || objects.next_object())
}

struct JsonLines {
    path: Arc<Path>,
    layout: Layout,
    objects: Deserializer<IoRead<TextReader>>,
    /// The parser reads byte by byte, so the meter tells where it stands.
    meter: Arc<Meter>,
}

impl JsonLines {
    fn next_object(&mut self) -> Result<Option<Vec<Document>>> {
        self.meter.begin_document(self.meter.line());
        // Passes over white space; an error that is none of the file's means that more follows.
        match self.objects.end() {
            Ok(()) => return Ok(None),
            Err(error) if error.is_io() => return Err(self.parse_error(error)),
            Err(_) => {}
        }
        // Before the value is read: the end of a number is known by what follows it.
        let line = self.meter.line();
        self.meter.begin_document(line);
        let wanted = Wanted(Some(&self.layout.names));
        let found = wanted.deserialize(&mut self.objects);
        let found = found.map_err(|error| self.parse_error(error))?;
        self.documents(found, line).map(Some)
    }

    fn documents(&self, found: Found, line: u64) -> Result<Vec<Document>> {
        let place = Place {
            file: Arc::clone(&self.path),
            at: At::Line(line),
        };
        let fields = match found {
            Found::Object(fields) => fields,
            other => {
                return Err(anyhow!(
                    "{place}: {}, not a JSON object\n  hint: the format is one object a line",
                    other.kind()
                ));
            }
        };
        let text = |(field, name): (Option<Found>, &String)| match field {
            Some(Found::Text(text)) => Ok(text),
            Some(Found::Null) => Ok(String::new()),
            Some(Found::Twice) => Err(anyhow!(
                "{place}: the field {name:?} stands there twice\n  hint: give the fields names of \
                 their own"
            )),
            Some(other) => Err(anyhow!(
                "{place}: the field {name:?} is {}, not text\n  hint: set `text` to the field \
                 that holds the document",
                other.kind()
            )),
            None => Err(anyhow!(
                "{place}: no field {name:?}\n  hint: set `text` to the field that holds the \
                 document"
            )),
        };
        let named = fields.into_iter().zip(&self.layout.names);
        let values = named.map(text).collect::<Result<Vec<String>>>()?;
        self.layout.documents(&values, &place)
    }

    fn parse_error(&self, error: serde_json::Error) -> Error {
        if error.is_io() {
            return file_error(&self.path, &io::Error::from(error));
        }
        let what = if error.is_eof() {
            "the JSON ends early"
        } else {
            "not valid JSON"
        };
        let path = self.path.display();
        let (line, column) = (error.line(), error.column());
        // The parser stands at the beginning of a line when it meets the end of the one before.
        let place = if column == 0 && line > 1 {
            format!("at the end of line {}", line - 1)
        } else {
            format!("line {line}, column {column}")
        };
        anyhow!("{path}, {place}: {what}\n  hint: mend or remove this line")
    }
}

/// A value as far as it matters here.
enum Found {
    /// The wanted fields, in their order; none where the object has no such field.
    Object(Vec<Option<Found>>),
    Text(String),
    Null,
    /// A field of which there are two, whatever they are.
    Twice,
    /// Anything else, by the kind of thing that it is.
    Other(&'static str),
}

impl Found {
    fn kind(&self) -> &'static str {
        match self {
            Self::Object(_) => "an object",
            Self::Text(_) => "a text",
            Self::Null => "null",
            Self::Twice => "there twice",
            Self::Other(kind) => kind,
        }
    }
}

/// Reads a value; of an object at the top the named fields.
struct Wanted<'a>(Option<&'a [String]>);

impl<'de> DeserializeSeed<'de> for Wanted<'_> {
    type Value = Found;

    fn deserialize<D: serde::Deserializer<'de>>(self, source: D) -> Result<Found, D::Error> {
        source.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Wanted<'_> {
    type Value = Found;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Found, A::Error> {
        let names = self.0.unwrap_or_default();
        let mut fields: Vec<Option<Found>> = names.iter().map(|_| None).collect();
        while let Some(name) = map.next_key::<String>()? {
            match names.iter().position(|wanted| *wanted == name) {
                Some(place) => {
                    let value = map.next_value_seed(Wanted(None))?;
                    let is_second = fields[place].is_some();
                    fields[place] = Some(if is_second { Found::Twice } else { value });
                }
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(Found::Object(fields))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Found, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Found::Other("a list"))
    }

    fn visit_str<E>(self, text: &str) -> Result<Found, E> {
        Ok(Found::Text(text.to_owned()))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Found, E> {
        Ok(Found::Other("a truth value"))
    }

    fn visit_u64<E>(self, _: u64) -> Result<Found, E> {
        Ok(Found::Other("a number"))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Found, E> {
        Ok(Found::Other("a number"))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Found, E> {
        Ok(Found::Other("a number"))
    }

    fn visit_unit<E>(self) -> Result<Found, E> {
        Ok(Found::Null)
    }
}
