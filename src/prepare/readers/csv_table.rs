//! Separated values with a line of column names (RFC 4180: quoted fields may hold separators,
//! doubled quotes and line ends), separated by commas, tabulators, semicolons or bars.
//!
//! Every row must have as many fields as the line of names has: a row that does not is a broken
//! quote more often than a short row, and would join two patients' notes.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Error, Result, anyhow};
use csv::{ErrorKind, Reader, ReaderBuilder, StringRecord};

use crate::prepare::config::CsvConfig;
use crate::prepare::fault::file_error;
use crate::prepare::readers::layout::Layout;
use crate::prepare::readers::{At, Document, Documents, Place};
use crate::prepare::text::{Meter, TextFile, TextReader};

/// The documents of every row of a file.
pub fn read(file: TextFile, config: &CsvConfig) -> Result<Documents> {
    let TextFile { path, reader } = file;
    let meter = reader.meter();
    let mut rows = ReaderBuilder::new()
        .delimiter(config.separator.byte())
        .quoting(config.quoted)
        .from_reader(reader);
    let names = rows.headers().map_err(|error| table_error(&path, error))?;
    if names.is_empty() {
        return Ok(Box::new(std::iter::empty()));
    }
    let layout = Layout::new(&config.text);
    let column =
        |field: &String| {
            names.iter().position(|name| name.trim() == field).ok_or_else(|| {
            anyhow!(
                "{}, line 1: no column {field:?} among {}\n  hint: the first line names the \
                 columns; set `text` to the one that holds the document, and `separator` to what \
                 stands between them",
                path.display(),
                names.len()
            )
        })
        };
    let columns = layout
        .names
        .iter()
        .map(column)
        .collect::<Result<Vec<usize>>>()?;
    let table = Table {
        path,
        columns,
        layout,
        rows,
        meter,
        row: StringRecord::new(),
        failed: false,
    };
    Ok(Box::new(table.flatten()))
}

/// One item a row: its documents, or the error that ends the file.
struct Table {
    path: Arc<Path>,
    /// Where in a row the fields of the layout stand.
    columns: Vec<usize>,
    layout: Layout,
    rows: Reader<TextReader>,
    meter: Arc<Meter>,
    row: StringRecord,
    failed: bool,
}

impl Iterator for Table {
    type Item = Vec<Result<Document>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        self.meter.begin_document(self.rows.position().line());
        match self.rows.read_record(&mut self.row) {
            Ok(false) => None,
            Ok(true) => Some(self.documents().map(Ok).collect()),
            Err(error) => {
                self.failed = true;
                Some(vec![Err(table_error(&self.path, error))])
            }
        }
    }
}

impl Table {
    fn documents(&self) -> impl Iterator<Item = Document> {
        let line = self.row.position().map_or(0, csv::Position::line);
        let place = Place {
            file: Arc::clone(&self.path),
            at: At::Line(line),
        };
        let values: Vec<&str> = self
            .columns
            .iter()
            .map(|column| &self.row[*column])
            .collect();
        let texts = self.layout.texts(&values).into_iter();
        texts.map(move |text| Document {
            text,
            place: place.clone(),
        })
    }
}

fn table_error(path: &Path, error: csv::Error) -> Error {
    let line = error.position().map_or(0, csv::Position::line);
    match error.into_kind() {
        ErrorKind::Io(error) => file_error(path, &error),
        ErrorKind::UnequalLengths {
            expected_len, len, ..
        } => anyhow!(
            "{}, line {line}: {len} fields where the first line names {expected_len} columns\n  \
             hint: look for a quote that is not closed, or not doubled, in or before this row",
            path.display()
        ),
        _ => anyhow!("{}, line {line}: not a valid table", path.display()),
    }
}
