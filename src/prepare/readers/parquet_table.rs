//! Text columns of Parquet files, read page by page.
//!
//! A column holds text where its values are byte arrays: Arrow's kinds of strings are all stored
//! so, and there are writers that do not mark them as text. Every value is checked to be UTF-8. A
//! null counts as an empty text. Columns of a group are named with dots, as in `note.text`.
//!
//! The Parquet library asserts what a damaged file does not keep; its panics are caught here and
//! become the error that the file is damaged.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::vec;

use anyhow::{Context, Error, Result, anyhow};
use parquet::basic::Type;
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::schema::types::ColumnDescriptor;

use crate::prepare::compression::ReadCounts;
use crate::prepare::fault::DOCUMENT_BYTES_MAX;
use crate::prepare::fields::Fields;
use crate::prepare::readers::layout::Layout;
use crate::prepare::readers::{At, Document, Documents, Place};

/// Rows that are decoded at once, from pages that are in memory anyway.
const ROWS: usize = 64;

/// The documents of every row of a file.
pub fn read(path: Arc<Path>, fields: &Fields, counts: &Arc<ReadCounts>) -> Result<Documents> {
    let file = File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
    let bytes = file.metadata().map_or(0, |metadata| metadata.len());
    let opened = unless_it_panics(|| SerializedFileReader::new(file).ok());
    let file = opened.ok_or_else(|| {
        anyhow!(
            "{}: no Parquet file, or a damaged one\n  hint: the format is not detected; look \
             whether the files are Parquet, and copy them again if they are",
            path.display()
        )
    })?;
    let layout = Layout::new(fields);
    let columns = find_columns(&path, &file, &layout.names)?;
    let table = Table {
        path,
        layout,
        columns,
        groups: 0..file.metadata().num_row_groups(),
        file,
        group: None,
        rows: Vec::new().into_iter(),
        row: 0,
        counts: Arc::clone(counts),
        bytes_left: bytes,
        failed: false,
    };
    Ok(Box::new(table.flatten()))
}

/// A text column of the file.
struct Column {
    name: String,
    /// Its place among the file's columns.
    place: usize,
    /// The definition level of a value that is there.
    defined: i16,
}

fn find_columns(
    path: &Path,
    file: &SerializedFileReader<File>,
    names: &[String],
) -> Result<Vec<Column>> {
    let schema = file.metadata().file_metadata().schema_descr();
    let column = |name: &String| {
        let is_it = |column: &Arc<ColumnDescriptor>| column.path().string() == *name;
        let Some(place) = schema.columns().iter().position(is_it) else {
            return Err(anyhow!(
                "{}: no column {name:?} among {}\n  hint: set `text` to the column that holds the \
                 document",
                path.display(),
                schema.num_columns()
            ));
        };
        let found = schema.column(place);
        if found.physical_type() != Type::BYTE_ARRAY || found.max_rep_level() > 0 {
            return Err(anyhow!(
                "{}: the column {name:?} holds no text\n  hint: set `text` to the column that \
                 holds the document; lists are not read",
                path.display()
            ));
        }
        Ok(Column {
            name: name.clone(),
            place,
            defined: found.max_def_level(),
        })
    };
    names.iter().map(column).collect()
}

/// One item a row: its documents, or the error that ends the file.
struct Table {
    path: Arc<Path>,
    layout: Layout,
    columns: Vec<Column>,
    file: SerializedFileReader<File>,
    /// Row groups that are still to come.
    groups: std::ops::Range<usize>,
    group: Option<Group>,
    /// Rows that are decoded: the values of their columns.
    rows: vec::IntoIter<Vec<Option<ByteArray>>>,
    /// Rows handed out.
    row: u64,
    counts: Arc<ReadCounts>,
    bytes_left: u64,
    failed: bool,
}

/// The row group that is being read.
struct Group {
    rows_left: usize,
    readers: Vec<ColumnReaderImpl<ByteArrayType>>,
}

impl Iterator for Table {
    type Item = Vec<Result<Document>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let documents = self.next_row().transpose()?;
        self.failed = documents.is_err();
        Some(match documents {
            Ok(documents) => documents.into_iter().map(Ok).collect(),
            Err(error) => vec![Err(error)],
        })
    }
}

impl Table {
    fn next_row(&mut self) -> Result<Option<Vec<Document>>> {
        let values = loop {
            if let Some(values) = self.rows.next() {
                break values;
            }
            if !self.decode()? {
                return Ok(None);
            }
        };
        self.row += 1;
        let place = Place {
            file: Arc::clone(&self.path),
            at: At::Row(self.row),
        };
        let named = values.iter().zip(&self.columns);
        let text = |(value, column): (&Option<ByteArray>, &Column)| {
            let bytes = value.as_ref().map_or(&[][..], ByteArray::data);
            if bytes.len() as u64 > DOCUMENT_BYTES_MAX {
                return Err(anyhow!(
                    "{place}: the column {:?} has more than {} MiB\n  hint: the limit guards the \
                     memory; cut such documents",
                    column.name,
                    DOCUMENT_BYTES_MAX >> 20
                ));
            }
            let text = std::str::from_utf8(bytes).map(str::to_owned);
            text.map_err(|_| {
                anyhow!(
                    "{place}: the column {:?} is not valid UTF-8\n  hint: set `text` to the \
                     column that holds the document, or write the file anew",
                    column.name
                )
            })
        };
        let values = named.map(text).collect::<Result<Vec<String>>>()?;
        let document = |text| Document {
            text,
            place: place.clone(),
        };
        let texts = self.layout.texts(&values).into_iter();
        Ok(Some(texts.map(document).collect()))
    }

    /// Decodes the next rows; false at the end of the file.
    fn decode(&mut self) -> Result<bool> {
        let Some(group) = &mut self.group else {
            let Some(number) = self.groups.next() else {
                self.count(self.bytes_left);
                return Ok(false);
            };
            self.group = Some(self.open_group(number)?);
            return Ok(true);
        };
        let wanted = group.rows_left.min(ROWS);
        group.rows_left -= wanted;
        let mut rows: Vec<Vec<Option<ByteArray>>> = vec![Vec::new(); wanted];
        for (reader, column) in group.readers.iter_mut().zip(&self.columns) {
            let read = unless_it_panics(|| read_column(reader, column, wanted));
            let Some(values) = read else {
                return Err(self.damaged());
            };
            for (row, value) in rows.iter_mut().zip(values) {
                row.push(value);
            }
        }
        self.rows = rows.into_iter();
        if group.rows_left == 0 {
            self.group = None;
            let number = self.groups.start.saturating_sub(1);
            let bytes = self.file.metadata().row_group(number).compressed_size();
            self.count(bytes.max(0) as u64);
        }
        Ok(true)
    }

    fn open_group(&self, number: usize) -> Result<Group> {
        unless_it_panics(|| {
            let reader = self.file.get_row_group(number).ok()?;
            let rows = self.file.metadata().row_group(number).num_rows();
            let column = |column: &Column| match reader.get_column_reader(column.place) {
                Ok(ColumnReader::ByteArrayColumnReader(reader)) => Some(reader),
                _ => None,
            };
            Some(Group {
                rows_left: usize::try_from(rows).ok()?,
                readers: self.columns.iter().map(column).collect::<Option<_>>()?,
            })
        })
        .ok_or_else(|| self.damaged())
    }

    /// Bytes of columns that are not read count too, or progress would never be complete.
    fn count(&mut self, bytes: u64) {
        let bytes = bytes.min(self.bytes_left);
        self.bytes_left -= bytes;
        self.counts.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn damaged(&self) -> Error {
        anyhow!(
            "{}, after row {}: the Parquet data is damaged\n  hint: copy the file again",
            self.path.display(),
            self.row
        )
    }
}

/// What the library gives; none where it panics. What it was reading is not read again.
fn unless_it_panics<T>(read: impl FnOnce() -> Option<T>) -> Option<T> {
    catch_unwind(AssertUnwindSafe(read)).unwrap_or_default()
}

/// The next `wanted` values of a column; none where the data does not hold them.
fn read_column(
    reader: &mut ColumnReaderImpl<ByteArrayType>,
    column: &Column,
    wanted: usize,
) -> Option<Vec<Option<ByteArray>>> {
    let (mut levels, mut values) = (Vec::new(), Vec::new());
    let read = reader.read_records(wanted, Some(&mut levels), None, &mut values);
    let (records, _, _) = read.ok()?;
    if records != wanted {
        return None;
    }
    let mut values = values.into_iter();
    if column.defined == 0 {
        return (values.len() == wanted).then(|| values.map(Some).collect());
    }
    let value = |level: &i16| {
        if *level == column.defined {
            values.next().map(Some)
        } else {
            Some(None)
        }
    };
    let read: Option<Vec<_>> = levels.iter().map(value).collect();
    read.filter(|read| read.len() == wanted)
}
