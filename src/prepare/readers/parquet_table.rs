//! Text columns of Parquet files, read row by row: memory holds the pages in which the values of
//! one row stand.
//!
//! A column holds text where its values are byte arrays: Arrow's kinds of strings are all stored
//! so, and there are writers that do not mark them as text. Every value is checked to be UTF-8. A
//! null counts as an empty text. Columns of a group are named with dots, as in `note.text`.
//!
//! The Parquet library asserts what a damaged file does not keep; its panics are caught here and
//! become the error that the file is damaged.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::{Context, Error, Result, anyhow};
use parquet::basic::Type;
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::file::reader::{FileReader, Length, SerializedFileReader};
use parquet::schema::types::ColumnDescriptor;

use crate::prepare::compression::ReadCounts;
use crate::prepare::fault::DOCUMENT_BYTES_MAX;
use crate::prepare::fields::Fields;
use crate::prepare::readers::layout::Layout;
use crate::prepare::readers::panics::unless_it_panics;
use crate::prepare::readers::parquet_input::ParquetInput;
use crate::prepare::readers::{At, Document, Documents, Place, rows};

/// The documents of every row of a file.
pub fn read(path: Arc<Path>, fields: &Fields, counts: &Arc<ReadCounts>) -> Result<Documents> {
    let object = counts.object(&path);
    let input = match object {
        Some(object) => ParquetInput::Object(Arc::new(object.blocks())),
        None => ParquetInput::File(
            File::open(&path).with_context(|| format!("cannot open {}", path.display()))?,
        ),
    };
    let bytes = input.len();
    let opened = guarded(|| SerializedFileReader::new(input).map_err(|_| Incomplete));
    let file = opened.map_err(|Incomplete| {
        if let Some(failure) = object.and_then(|object| object.failure()) {
            return anyhow!("{failure}");
        }
        anyhow!(
            "{}: no Parquet file, or a damaged one\n  hint: the format is not detected; look \
             whether the files are Parquet, and copy them again if they are",
            path.display()
        )
    })?;
    let layout = Layout::new(fields);
    let columns = find_columns(&path, &file, &layout.names)?;
    let mut table = Table {
        path,
        layout,
        columns,
        groups: 0..file.metadata().num_row_groups(),
        file,
        group: None,
        row: 0,
        counts: Arc::clone(counts),
        bytes_left: bytes,
    };
    Ok(rows::documents(move || table.next_row()))
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
    file: &SerializedFileReader<ParquetInput>,
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
        let same = schema
            .columns()
            .iter()
            .filter(|column| is_it(column))
            .count();
        if same > 1 {
            return Err(anyhow!(
                "{}: {same} columns {name:?}\n  hint: give the columns names of their own",
                path.display()
            ));
        }
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

struct Table {
    path: Arc<Path>,
    layout: Layout,
    columns: Vec<Column>,
    file: SerializedFileReader<ParquetInput>,
    /// Row groups that are still to come.
    groups: std::ops::Range<usize>,
    group: Option<Group>,
    /// Rows handed out.
    row: u64,
    counts: Arc<ReadCounts>,
    bytes_left: u64,
}

/// The row group that is being read.
struct Group {
    rows_left: usize,
    bytes: u64,
    readers: Vec<ColumnReaderImpl<ByteArrayType>>,
}

impl Table {
    fn next_row(&mut self) -> Result<Option<Vec<Document>>> {
        let Some(values) = self.decode_row()? else {
            self.count(self.bytes_left);
            return Ok(None);
        };
        self.row += 1;
        let place = Place {
            file: Arc::clone(&self.path),
            at: At::Row(self.row),
        };
        let named = values.iter().zip(&self.columns);
        let texts = named.map(|(value, column)| text(value.as_ref(), column, &place));
        let texts = texts.collect::<Result<Vec<&str>>>()?;
        self.layout.documents(&texts, &place).map(Some)
    }

    /// The values of the next row's columns; none at the end of the file. One row at a time: rows
    /// may be long, and how long is known only once they are decoded.
    fn decode_row(&mut self) -> Result<Option<Vec<Option<ByteArray>>>> {
        let mut group = loop {
            match self.group.take() {
                Some(group) if group.rows_left > 0 => break group,
                Some(group) => self.count(group.bytes),
                None => {
                    let Some(number) = self.groups.next() else {
                        return Ok(None);
                    };
                    self.group = Some(self.open_group(number)?);
                }
            }
        };
        group.rows_left -= 1;
        let readers = group.readers.iter_mut().zip(&self.columns);
        let values = readers.map(|(reader, column)| guarded(|| read_value(reader, column)));
        let values: Result<Vec<_>, Incomplete> = values.collect();
        let values = values.map_err(|Incomplete| self.damaged())?;
        self.group = Some(group);
        Ok(Some(values))
    }

    fn open_group(&self, number: usize) -> Result<Group> {
        let opened = guarded(|| {
            let reader = self.file.get_row_group(number).map_err(|_| Incomplete)?;
            let column = |column: &Column| match reader.get_column_reader(column.place) {
                Ok(ColumnReader::ByteArrayColumnReader(reader)) => Ok(reader),
                _ => Err(Incomplete),
            };
            let about = self.file.metadata().row_group(number);
            Ok(Group {
                bytes: about.compressed_size().max(0) as u64,
                rows_left: usize::try_from(about.num_rows()).map_err(|_| Incomplete)?,
                readers: self.columns.iter().map(column).collect::<Result<_, _>>()?,
            })
        });
        opened.map_err(|Incomplete| self.damaged())
    }

    /// Bytes of columns that are not read count too, or progress would never be complete.
    fn count(&mut self, bytes: u64) {
        let bytes = bytes.min(self.bytes_left);
        self.bytes_left -= bytes;
        self.counts.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn damaged(&self) -> Error {
        let object = self.counts.object(&self.path);
        if let Some(failure) = object.and_then(|object| object.failure()) {
            return anyhow!("{failure}");
        }
        anyhow!(
            "{}, after row {}: the Parquet data is damaged\n  hint: copy the file again",
            self.path.display(),
            self.row
        )
    }
}

/// A value as text, in the row at `place`.
fn text<'a>(value: Option<&'a ByteArray>, column: &Column, place: &Place) -> Result<&'a str> {
    let bytes = value.map_or(&[][..], ByteArray::data);
    if bytes.len() as u64 > DOCUMENT_BYTES_MAX {
        return Err(anyhow!(
            "{place}: the column {:?} has more than {} MiB\n  hint: the limit guards the memory; \
             cut such documents",
            column.name,
            DOCUMENT_BYTES_MAX >> 20
        ));
    }
    std::str::from_utf8(bytes).map_err(|_| {
        anyhow!(
            "{place}: the column {:?} is not valid UTF-8\n  hint: set `text` to the column that \
             holds the document, or write the file anew",
            column.name
        )
    })
}

/// The data is not as it says.
struct Incomplete;

/// What the library gives, or nothing where it panics. What it was reading is not read again.
fn guarded<T>(read: impl FnOnce() -> Result<T, Incomplete>) -> Result<T, Incomplete> {
    unless_it_panics(read).unwrap_or(Err(Incomplete))
}

/// The next value of a column, if it is not null.
fn read_value(
    reader: &mut ColumnReaderImpl<ByteArrayType>,
    column: &Column,
) -> Result<Option<ByteArray>, Incomplete> {
    let (mut levels, mut values) = (Vec::new(), Vec::new());
    let read = reader.read_records(1, Some(&mut levels), None, &mut values);
    let (records, _, _) = read.map_err(|_| Incomplete)?;
    let is_there = column.defined == 0 || levels == [column.defined];
    if records != 1 || values.len() != usize::from(is_there) {
        return Err(Incomplete);
    }
    Ok(values.pop())
}
