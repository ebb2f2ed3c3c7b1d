//! Comma-separated values with a line of column names (RFC 4180: quoted fields may hold commas,
//! doubled quotes and line ends).
//!
//! Every row must have as many fields as the line of names has: a row that does not is a broken
//! quote more often than a short row, and would join two patients' notes.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use anyhow::{Error, Result, anyhow};
use csv::{ErrorKind, Reader, ReaderBuilder, StringRecord};

use crate::prepare::readers::{Document, Documents, Place};
use crate::prepare::text::{TextReader, file_error, normalize_line_ends, open};

/// The texts of the columns `fields` in every row of a file, each a document.
pub fn read(path: Arc<Path>, fields: &[String], bytes_read: &Arc<AtomicU64>) -> Result<Documents> {
    let mut rows = ReaderBuilder::new().from_reader(open(&path, bytes_read)?);
    let names = rows.headers().map_err(|error| table_error(&path, error))?;
    if names.is_empty() {
        return Ok(Box::new(std::iter::empty()));
    }
    let column =
        |field: &String| {
            names.iter().position(|name| name.trim() == field).ok_or_else(|| {
            anyhow!(
                "{}, line 1: no column {field:?} among {}\n  hint: the first line names the \
                 columns; set `text` to the one that holds the document",
                path.display(),
                names.len()
            )
        })
        };
    let columns = fields.iter().map(column).collect::<Result<Vec<usize>>>()?;
    let table = Table {
        path,
        columns,
        rows,
        row: StringRecord::new(),
        failed: false,
    };
    Ok(Box::new(table.flatten()))
}

/// One item a row: its documents, or the error that ends the file.
struct Table {
    path: Arc<Path>,
    columns: Vec<usize>,
    rows: Reader<TextReader>,
    row: StringRecord,
    failed: bool,
}

impl Iterator for Table {
    type Item = Vec<Result<Document>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        match self.rows.read_record(&mut self.row) {
            Ok(false) => None,
            Ok(true) => Some(
                self.columns
                    .iter()
                    .map(|column| Ok(self.document(*column)))
                    .collect(),
            ),
            Err(error) => {
                self.failed = true;
                Some(vec![Err(table_error(&self.path, error))])
            }
        }
    }
}

impl Table {
    fn document(&self, column: usize) -> Document {
        let line = self.row.position().map_or(0, csv::Position::line);
        Document {
            text: normalize_line_ends(self.row[column].to_owned()),
            place: Place {
                file: Arc::clone(&self.path),
                line,
            },
        }
    }
}

fn table_error(path: &Path, error: csv::Error) -> Error {
    let line = error.position().map_or(0, csv::Position::line);
    match error.into_kind() {
        ErrorKind::Io(error) => file_error(path, error),
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
