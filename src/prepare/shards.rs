//! Token shards: Arrow IPC files, uncompressed, for reading through a memory map.
//!
//! A shard is one record batch with the columns that [`crate::corpus::Shard`] names; no column has
//! nulls. The bytes depend on the chunks alone: no time, no version, no metadata.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use arrow_array::{
    ArrayRef, BooleanArray, ListArray, RecordBatch, UInt16Array, UInt32Array, UInt64Array,
};
use arrow_buffer::OffsetBuffer;
use arrow_ipc::writer::FileWriter;
use arrow_schema::{DataType, Field, Schema};

use crate::corpus::{Shard, Split, StoredFile};
use crate::data::shard::TokenShard;
use crate::prepare::files;

/// Vocabularies up to this size are stored as `uint16`.
const NARROW_VOCAB_MAX: u32 = 1 << 16;

/// Where and how a series of shards is written.
#[derive(Clone, Debug)]
pub struct SeriesOptions<'a> {
    pub root: &'a Path,
    /// Path of the shards without number and ending, relative to `root`: `nlm/pmc/train`.
    pub stem: String,
    pub vocab_size: u32,
    /// Bytes of token ids in one shard, at most; a single chunk may exceed it.
    pub shard_bytes: u64,
}

/// Writes chunks to one numbered shard after the other.
pub struct ShardSeries<'a> {
    options: SeriesOptions<'a>,
    pending: Pending,
    split: Split,
}

/// The chunks of the shard that is being filled.
#[derive(Default)]
struct Pending {
    ids: Vec<u32>,
    lengths: Vec<usize>,
    document: Vec<u64>,
    first: Vec<bool>,
}

impl<'a> ShardSeries<'a> {
    pub fn new(options: SeriesOptions<'a>) -> Self {
        Self {
            options,
            pending: Pending::default(),
            split: Split::default(),
        }
    }

    /// Adds the chunks of document number `document`.
    pub fn add(&mut self, document: u64, chunks: &[Vec<u32>]) -> Result<()> {
        for (index, chunk) in chunks.iter().enumerate() {
            let ids_after = (self.pending.ids.len() + chunk.len()) as u64;
            if ids_after * self.id_bytes() > self.options.shard_bytes {
                self.write_pending()?;
            }
            self.pending.ids.extend_from_slice(chunk);
            self.pending.lengths.push(chunk.len());
            self.pending.document.push(document);
            self.pending.first.push(index == 0);
        }
        Ok(())
    }

    /// Writes what is left, then the lengths, and accounts for the whole series.
    pub fn finish(mut self) -> Result<Split> {
        self.write_pending()?;
        if !self.split.shards.is_empty() {
            let file = format!("{}-lengths.arrow", self.options.stem);
            let lengths = write_lengths(self.options.root, &file, &self.split.shards)?;
            self.split.lengths = Some(lengths);
        }
        Ok(self.split)
    }

    fn id_bytes(&self) -> u64 {
        if self.options.vocab_size <= NARROW_VOCAB_MAX {
            2
        } else {
            4
        }
    }

    fn write_pending(&mut self) -> Result<()> {
        if self.pending.lengths.is_empty() {
            return Ok(());
        }
        let pending = std::mem::take(&mut self.pending);
        let chunks = pending.lengths.len() as u64;
        let tokens = pending.ids.len() as u64;
        let documents = pending.first.iter().filter(|first| **first).count() as u64;
        let file = format!("{}-{:05}.arrow", self.options.stem, self.split.shards.len());
        let batch = pending.into_batch(self.options.vocab_size)?;
        let stored = write_batch(self.options.root, &file, &batch)?;
        self.split.chunks += chunks;
        self.split.tokens += tokens;
        self.split.documents += documents;
        self.split.shards.push(Shard {
            stored,
            chunks,
            tokens,
            documents,
        });
        Ok(())
    }
}

impl Pending {
    fn into_batch(self, vocab_size: u32) -> Result<RecordBatch> {
        assert!(
            self.ids.iter().all(|id| *id < vocab_size),
            "the tokenizer gave an unknown id"
        );
        let (item, ids): (DataType, ArrayRef) = if vocab_size <= NARROW_VOCAB_MAX {
            let narrow = self.ids.iter().map(|id| *id as u16);
            (
                DataType::UInt16,
                Arc::new(UInt16Array::from_iter_values(narrow)),
            )
        } else {
            (DataType::UInt32, Arc::new(UInt32Array::from(self.ids)))
        };
        let item = Arc::new(Field::new("item", item, false));
        let offsets = OffsetBuffer::from_lengths(self.lengths);
        let list = ListArray::try_new(Arc::clone(&item), offsets, ids, None)?;
        let schema = Schema::new(vec![
            Field::new("input_ids", DataType::List(item), false),
            Field::new("document", DataType::UInt64, false),
            Field::new("first", DataType::Boolean, false),
        ]);
        let columns: Vec<ArrayRef> = vec![
            Arc::new(list),
            Arc::new(UInt64Array::from(self.document)),
            Arc::new(BooleanArray::from(self.first)),
        ];
        Ok(RecordBatch::try_new(Arc::new(schema), columns)?)
    }
}

/// Writes how often each id occurs: one `count: uint64` column, one row an id.
pub fn write_unigrams(root: &Path, file: &str, counts: Vec<u64>) -> Result<StoredFile> {
    let schema = Schema::new(vec![Field::new("count", DataType::UInt64, false)]);
    let column: ArrayRef = Arc::new(UInt64Array::from(counts));
    write_batch(
        root,
        file,
        &RecordBatch::try_new(Arc::new(schema), vec![column])?,
    )
}

/// Writes the lengths of the chunks as the shards have them, which is also a look at each shard as
/// its readers will see it.
fn write_lengths(root: &Path, file: &str, shards: &[Shard]) -> Result<StoredFile> {
    let schema = Arc::new(Schema::new(vec![Field::new(
        "length",
        DataType::UInt16,
        false,
    )]));
    files::write(root, file, |output| {
        let mut writer = FileWriter::try_new(output, &schema)?;
        for shard in shards {
            let path = root.join(&shard.stored.file);
            let lengths = TokenShard::open(&path)
                .with_context(|| path.display().to_string())?
                .lengths();
            let column: ArrayRef = Arc::new(UInt16Array::from(lengths.to_vec()));
            writer.write(&RecordBatch::try_new(Arc::clone(&schema), vec![column])?)?;
        }
        writer.finish()?;
        Ok(())
    })
}

fn write_batch(root: &Path, file: &str, batch: &RecordBatch) -> Result<StoredFile> {
    files::write(root, file, |output| {
        let mut writer = FileWriter::try_new(output, &batch.schema())?;
        writer.write(batch)?;
        writer.finish()?;
        Ok(())
    })
}
