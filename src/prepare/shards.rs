//! Token shards: Arrow IPC files, uncompressed, for reading through a memory map.
//!
//! A shard is one record batch with the columns that [`crate::corpus::Shard`] names; no column has
//! nulls. The bytes depend on the chunks alone: no time, no version, no metadata. Memory holds the
//! shard that is being filled as its file will have it, and once more while it is written.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use arrow_array::{
    ArrayRef, BooleanArray, ListArray, RecordBatch, UInt16Array, UInt32Array, UInt64Array,
};
use arrow_buffer::{BooleanBufferBuilder, OffsetBuffer, ScalarBuffer};
use arrow_ipc::writer::FileWriter;
use arrow_schema::{DataType, Field, Schema};
use rayon::prelude::{IntoParallelRefIterator, ParallelIterator};

use crate::corpus::{Shard, Split, StoredFile};
use crate::data::shard::{ShardCounts, TokenShard};
use crate::prepare::files;
use crate::prepare::save_point::{Position, SeriesPoint};

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
    point: SeriesPoint,
    /// How often each id occurs in the finished shards.
    unigrams: Vec<u64>,
}

/// A finished series.
pub struct Series {
    pub split: Split,
    /// How often each id occurs in it.
    pub unigrams: Vec<u64>,
}

/// The chunks of the shard that is being filled.
struct Pending {
    ids: Ids,
    /// Where each chunk begins among the ids, then where the last one ends.
    offsets: Vec<i32>,
    document: Vec<u64>,
    first: BooleanBufferBuilder,
}

enum Ids {
    Narrow(Vec<u16>),
    Wide(Vec<u32>),
}

impl<'a> ShardSeries<'a> {
    /// Goes on after the finished shards of `point`; from the default one on, begins.
    ///
    /// # Errors
    /// A finished shard is not there any more as it was written.
    pub fn resume(options: SeriesOptions<'a>, point: SeriesPoint) -> Result<Self> {
        Ok(Self {
            pending: Pending::new(options.vocab_size),
            unigrams: count_all(&options, &point.shards)?,
            options,
            point,
        })
    }

    /// How far the series is.
    pub fn point(&self) -> &SeriesPoint {
        &self.point
    }

    /// Adds chunks of a document, the first of which stands `at`. Returns whether shards were
    /// finished.
    pub fn add(&mut self, at: Position, chunks: &[Vec<u32>]) -> Result<bool> {
        let before = self.point.shards.len();
        for (chunk, number) in chunks.iter().zip(at.chunk..) {
            let ids_after = (self.pending.tokens() + chunk.len()) as u64;
            if ids_after * self.id_bytes() > self.options.shard_bytes {
                self.write_pending()?;
                self.point.next = Position {
                    chunk: number,
                    ..at
                };
            }
            let known = |id: &u32| *id < self.options.vocab_size;
            assert!(chunk.iter().all(known), "the tokenizer gave an unknown id");
            self.pending.add(chunk, at.document, number == 0);
        }
        Ok(self.point.shards.len() > before)
    }

    /// Writes what is left, then the lengths, and accounts for the whole series.
    pub fn finish(mut self) -> Result<Series> {
        self.write_pending()?;
        let mut split = Split::default();
        for shard in &self.point.shards {
            split.chunks += shard.chunks;
            split.tokens += shard.tokens;
            split.documents += shard.documents;
        }
        split.shards = self.point.shards;
        if !split.shards.is_empty() {
            let file = format!("{}-lengths.arrow", self.options.stem);
            let lengths = write_lengths(self.options.root, &file, &split.shards)?;
            split.lengths = Some(lengths);
        }
        let counted: u64 = self.unigrams.iter().sum();
        assert_eq!(counted, split.tokens, "every token is counted once");
        Ok(Series {
            split,
            unigrams: self.unigrams,
        })
    }

    fn id_bytes(&self) -> u64 {
        if self.options.vocab_size <= NARROW_VOCAB_MAX {
            2
        } else {
            4
        }
    }

    fn write_pending(&mut self) -> Result<()> {
        let new = Pending::new(self.options.vocab_size);
        let pending = std::mem::replace(&mut self.pending, new);
        if pending.document.is_empty() {
            return Ok(());
        }
        let chunks = pending.document.len() as u64;
        let tokens = pending.tokens() as u64;
        pending.count(&mut self.unigrams);
        let file = format!("{}-{:05}.arrow", self.options.stem, self.point.shards.len());
        let (batch, documents) = pending.into_batch()?;
        let stored = write_batch(self.options.root, &file, &batch)?;
        self.point.shards.push(Shard {
            stored,
            chunks,
            tokens,
            documents,
        });
        Ok(())
    }
}

impl Pending {
    fn new(vocab_size: u32) -> Self {
        Self {
            ids: if vocab_size <= NARROW_VOCAB_MAX {
                Ids::Narrow(Vec::new())
            } else {
                Ids::Wide(Vec::new())
            },
            offsets: vec![0],
            document: Vec::new(),
            first: BooleanBufferBuilder::new(0),
        }
    }

    fn tokens(&self) -> usize {
        match &self.ids {
            Ids::Narrow(ids) => ids.len(),
            Ids::Wide(ids) => ids.len(),
        }
    }

    fn add(&mut self, chunk: &[u32], document: u64, first: bool) {
        match &mut self.ids {
            Ids::Narrow(ids) => ids.extend(chunk.iter().map(|id| *id as u16)),
            Ids::Wide(ids) => ids.extend_from_slice(chunk),
        }
        let end = i32::try_from(self.tokens()).expect("the limit of a shard's bytes is below");
        self.offsets.push(end);
        self.document.push(document);
        self.first.append(first);
    }

    fn count(&self, unigrams: &mut [u64]) {
        let mut count = |id: usize| unigrams[id] += 1;
        match &self.ids {
            Ids::Narrow(ids) => ids.iter().for_each(|id| count(usize::from(*id))),
            Ids::Wide(ids) => ids.iter().for_each(|id| count(*id as usize)),
        }
    }

    /// The shard, and the documents that begin in it.
    fn into_batch(mut self) -> Result<(RecordBatch, u64)> {
        let (item, ids): (DataType, ArrayRef) = match self.ids {
            Ids::Narrow(ids) => (DataType::UInt16, Arc::new(UInt16Array::from(ids))),
            Ids::Wide(ids) => (DataType::UInt32, Arc::new(UInt32Array::from(ids))),
        };
        let item = Arc::new(Field::new("item", item, false));
        let offsets = OffsetBuffer::new(ScalarBuffer::from(self.offsets));
        let list = ListArray::try_new(Arc::clone(&item), offsets, ids, None)?;
        let first = self.first.finish();
        let documents = first.count_set_bits() as u64;
        let schema = Schema::new(vec![
            Field::new("input_ids", DataType::List(item), false),
            Field::new("document", DataType::UInt64, false),
            Field::new("first", DataType::Boolean, false),
        ]);
        let columns: Vec<ArrayRef> = vec![
            Arc::new(list),
            Arc::new(UInt64Array::from(self.document)),
            Arc::new(BooleanArray::new(first, None)),
        ];
        let batch = RecordBatch::try_new(Arc::new(schema), columns)?;
        Ok((batch, documents))
    }
}

/// How often each id occurs in shards that were written before, each checked to be the one that it
/// was.
fn count_all(options: &SeriesOptions<'_>, shards: &[Shard]) -> Result<Vec<u64>> {
    let zeros = || vec![0; options.vocab_size as usize];
    let count = |mut unigrams: Vec<u64>, shard: &Shard| {
        files::expect(options.root, &shard.stored)?;
        count(&options.root.join(&shard.stored.file), shard, &mut unigrams)
            .with_context(|| shard.stored.file.clone())?;
        Ok(unigrams)
    };
    let sum = |mut left: Vec<u64>, right: Vec<u64>| {
        for (count, more) in left.iter_mut().zip(right) {
            *count += more;
        }
        Ok(left)
    };
    shards
        .par_iter()
        .try_fold(zeros, count)
        .try_reduce(zeros, sum)
}

fn count(path: &Path, shard: &Shard, unigrams: &mut [u64]) -> Result<()> {
    let opened = TokenShard::open(path)?;
    let described = ShardCounts {
        chunks: shard.chunks,
        tokens: shard.tokens,
        documents: shard.documents,
    };
    ensure!(opened.counts() == described, "it holds other chunks");
    let mut ids = Vec::new();
    for chunk in 0..shard.chunks {
        opened.append(chunk as u32, &mut ids);
        for id in ids.drain(..) {
            *unigrams
                .get_mut(id as usize)
                .context("it holds unknown ids")? += 1;
        }
    }
    Ok(())
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
