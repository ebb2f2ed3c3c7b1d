//! Separated values with a line of column names (RFC 4180: quoted fields may hold separators,
//! doubled quotes and line ends), separated by commas, tabulators, semicolons or bars.
//!
//! Every row must have as many fields as the line of names has: a row that does not is a broken
//! quote more often than a short row, and would join two patients' notes. [`quotes`] refuses those
//! that leave the number of fields as it is.

use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Error, Result, anyhow};
use csv::{ErrorKind, Reader, ReaderBuilder, StringRecord};

use crate::prepare::config::readers::CsvConfig;
use crate::prepare::fault::file_error;
use crate::prepare::readers::csv_table::quotes::Quotes;
use crate::prepare::readers::layout::Layout;
use crate::prepare::readers::{At, Document, Documents, Place, rows};
use crate::prepare::text::TextFile;
use crate::prepare::text::meter::Meter;

mod quotes;

/// The documents of every row of a file.
pub fn read(file: TextFile, config: &CsvConfig) -> Result<Documents> {
    let TextFile { path, reader } = file;
    let meter = reader.meter();
    let separator = config.separator.byte();
    let input: Box<dyn Read + Send> = if config.quoted {
        Box::new(Quotes::new(reader, separator))
    } else {
        Box::new(reader)
    };
    let mut rows = ReaderBuilder::new()
        .delimiter(separator)
        .quoting(config.quoted)
        .from_reader(input);
    let names = rows.headers().map_err(|error| table_error(&path, error))?;
    if names.is_empty() {
        return Err(anyhow!(
            "{}: no line of column names, as the file is empty\n  hint: take it out of `path`, or \
             copy it again",
            path.display()
        ));
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
    for field in &layout.names {
        let same = names.iter().filter(|name| name.trim() == field).count();
        if same > 1 {
            return Err(anyhow!(
                "{}, line 1: {same} columns {field:?}\n  hint: give the columns names of their own",
                path.display()
            ));
        }
    }
    let columns = layout
        .names
        .iter()
        .map(column)
        .collect::<Result<Vec<usize>>>()?;
    let mut table = Table {
        path,
        columns,
        layout,
        rows,
        meter,
        row: StringRecord::new(),
    };
    Ok(rows::documents(move || table.next_row()))
}

struct Table {
    path: Arc<Path>,
    /// Where in a row the fields of the layout stand.
    columns: Vec<usize>,
    layout: Layout,
    rows: Reader<Box<dyn Read + Send>>,
    meter: Arc<Meter>,
    row: StringRecord,
}

impl Table {
    fn next_row(&mut self) -> Result<Option<Vec<Document>>> {
        self.meter.begin_document(self.rows.position().line());
        let read = self.rows.read_record(&mut self.row);
        if !read.map_err(|error| table_error(&self.path, error))? {
            return Ok(None);
        }
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
        self.layout.documents(&values, &place).map(Some)
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
