//! One token shard: an Arrow IPC file mapped into memory, read without copying.
//!
//! The columns are those that [`crate::corpus::Shard`] describes. Invariant: a file of any bytes
//! gives an error or a shard whose every access stays in bounds; it never panics.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use arrow_array::{
    Array, BooleanArray, ListArray, RecordBatch, UInt16Array, UInt32Array, UInt64Array,
};
use arrow_buffer::{BooleanBuffer, Buffer, OffsetBuffer, ScalarBuffer};
use arrow_ipc::convert::try_fb_to_schema;
use arrow_ipc::reader::{FileDecoder, read_footer_length};
use arrow_ipc::{Block, root_as_footer, root_as_message};
use bytes::Bytes;

use crate::data::ChunkOrigin;

/// The end of an Arrow IPC file: the footer's length (4 bytes) and the magic word (6 bytes).
const TRAILER_BYTES: usize = 10;
/// What stands before a message: a continuation mark and the message's length.
const MESSAGE_PREFIX_BYTES: usize = 8;

/// A mapped shard. Empty of chunks until [`TokenShard::decode`] has run.
#[derive(Debug)]
pub struct TokenShard {
    file: Bytes,
    batches: Vec<ChunkBatch>,
    /// The first chunk of each batch, then the number of chunks.
    starts: Vec<u32>,
}

/// One record batch, its columns taken out of their Arrow wrapping.
#[derive(Debug)]
struct ChunkBatch {
    ids: Ids,
    offsets: OffsetBuffer<i32>,
    documents: ScalarBuffer<u64>,
    first: BooleanBuffer,
}

#[derive(Debug)]
enum Ids {
    Short(ScalarBuffer<u16>),
    Long(ScalarBuffer<u32>),
}

/// What a shard holds, to be compared with the manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardCounts {
    pub chunks: u64,
    pub tokens: u64,
    /// Chunks that are the first of their document.
    pub documents: u64,
}

impl TokenShard {
    /// Maps a file; looks at nothing in it. It stays readable when the file is removed.
    pub fn map(file: &File) -> Result<Self> {
        #[expect(unsafe_code, reason = "memory-mapping is what the shard format is for")]
        // SAFETY: memmap2 requires that nobody changes or truncates the file while it is mapped.
        // `cohort prepare` writes shards under another name and renames them when complete, and
        // never writes to a shard again; the corpus folder is documented as read-only for runs. The
        // cache of a corpus in object storage does the same with what it downloads.
        let mapped = unsafe { memmap2::Mmap::map(file)? };
        Ok(Self {
            file: Bytes::from_owner(mapped),
            batches: Vec::new(),
            starts: vec![0],
        })
    }

    /// Maps a file and finds its record batches.
    pub fn open(path: &Path) -> Result<Self> {
        let mut shard = Self::map(&File::open(path)?)?;
        shard.decode()?;
        Ok(shard)
    }

    /// The whole file.
    pub fn bytes(&self) -> &[u8] {
        &self.file
    }

    /// Finds the record batches and checks their columns; copies no ids.
    pub fn decode(&mut self) -> Result<()> {
        let file = Buffer::from(self.file.clone());
        let footer = footer_of(&file)?;
        let schema = footer.schema().context("the Arrow file has no schema")?;
        let schema = try_fb_to_schema(schema).context("the Arrow file's schema is unreadable")?;
        let decoder = FileDecoder::new(Arc::new(schema), footer.version());
        let blocks = footer
            .recordBatches()
            .context("the Arrow file lists no record batches")?;
        for block in blocks {
            let data = block_of(&file, block)?;
            let batch = decoder
                .read_record_batch(block, &data)
                .context("the Arrow file has an unreadable record batch")?
                .context("the Arrow file has an empty record batch message")?;
            let batch = ChunkBatch::new(&batch)?;
            let chunks = self.starts[self.starts.len() - 1] as usize + batch.documents.len();
            self.starts
                .push(u32::try_from(chunks).context("the shard has too many chunks")?);
            self.batches.push(batch);
        }
        Ok(())
    }

    pub fn counts(&self) -> ShardCounts {
        let chunks = u64::from(self.starts[self.starts.len() - 1]);
        let tokens = self.batches.iter().map(ChunkBatch::tokens).sum();
        let documents = self
            .batches
            .iter()
            .map(|batch| batch.first.count_set_bits() as u64)
            .sum();
        ShardCounts {
            chunks,
            tokens,
            documents,
        }
    }

    /// Tokens of each chunk.
    pub fn lengths(&self) -> Arc<[u16]> {
        self.batches
            .iter()
            .flat_map(|batch| batch.offsets.windows(2))
            .map(|pair| (pair[1] - pair[0]) as u16)
            .collect()
    }

    /// The number of a chunk's document in its source; `None` where there is no such chunk.
    pub fn document(&self, chunk: u32) -> Option<u64> {
        let (batch, place) = self.place(chunk)?;
        Some(batch.documents[place])
    }

    /// The number of the last chunk's document; `None` where there is no chunk.
    pub fn last_document(&self) -> Option<u64> {
        self.document(self.starts[self.starts.len() - 1].checked_sub(1)?)
    }

    /// Whether a chunk is the first of its document; not where there is no such chunk.
    pub fn is_first(&self, chunk: u32) -> bool {
        self.place(chunk)
            .is_some_and(|(batch, place)| batch.first.value(place))
    }

    /// Appends a chunk's ids; `None` where there is no such chunk.
    pub fn append(&self, chunk: u32, into: &mut Vec<u32>) -> Option<ChunkOrigin> {
        let (batch, place) = self.place(chunk)?;
        let ids = batch.offsets[place] as usize..batch.offsets[place + 1] as usize;
        match &batch.ids {
            Ids::Short(values) => into.extend(values[ids].iter().map(|&id| u32::from(id))),
            Ids::Long(values) => into.extend_from_slice(&values[ids]),
        }
        Some(ChunkOrigin {
            document: batch.documents[place],
            first: batch.first.value(place),
        })
    }

    /// The batch that a chunk is in, and its row there.
    fn place(&self, chunk: u32) -> Option<(&ChunkBatch, usize)> {
        let index = self.starts.partition_point(|&start| start <= chunk) - 1;
        let batch = self.batches.get(index)?;
        Some((batch, (chunk - self.starts[index]) as usize))
    }
}

impl ChunkBatch {
    fn new(batch: &RecordBatch) -> Result<Self> {
        let lists: &ListArray = column(batch, "input_ids", "list<uint16 or uint32>")?;
        let documents: &UInt64Array = column(batch, "document", "uint64")?;
        let first: &BooleanArray = column(batch, "first", "bool")?;
        let offsets = lists.offsets().clone();
        let values = lists.values();
        ensure!(
            values.null_count() == 0,
            "column `input_ids` has nulls among its ids"
        );
        let ids = if let Some(short) = values.as_any().downcast_ref::<UInt16Array>() {
            Ids::Short(short.values().clone())
        } else if let Some(long) = values.as_any().downcast_ref::<UInt32Array>() {
            Ids::Long(long.values().clone())
        } else {
            bail!(
                "column `input_ids` is a list of {}, expected uint16 or uint32",
                values.data_type()
            );
        };
        let longest = offsets
            .windows(2)
            .map(|pair| pair[1] - pair[0])
            .max()
            .unwrap_or(0);
        ensure!(
            longest <= i32::from(u16::MAX),
            "a chunk has {longest} tokens, at most {} can be read",
            u16::MAX
        );
        let (documents, first) = (documents.values().clone(), first.values().clone());
        Ok(Self {
            ids,
            offsets,
            documents,
            first,
        })
    }

    fn tokens(&self) -> u64 {
        (self.offsets.last() - self.offsets.first()) as u64
    }
}

fn column<'a, T: Array + 'static>(
    batch: &'a RecordBatch,
    name: &str,
    expected: &str,
) -> Result<&'a T> {
    let found = batch
        .column_by_name(name)
        .with_context(|| format!("the shard has no column `{name}` ({expected})"))?;
    let typed = found.as_any().downcast_ref::<T>().with_context(|| {
        format!(
            "column `{name}` is {}, expected {expected}",
            found.data_type()
        )
    })?;
    ensure!(typed.null_count() == 0, "column `{name}` has nulls");
    Ok(typed)
}

fn footer_of(file: &Buffer) -> Result<arrow_ipc::Footer<'_>> {
    const NOT_ARROW: &str = "the file is not an Arrow IPC file";
    let trailer = file.len().checked_sub(TRAILER_BYTES).context(NOT_ARROW)?;
    let trailer_bytes = file[trailer..]
        .try_into()
        .expect("cut to the trailer's size");
    let length = read_footer_length(trailer_bytes).context(NOT_ARROW)?;
    let start = trailer.checked_sub(length).context(NOT_ARROW)?;
    // The parser's own error quotes nothing but positions, yet says nothing to an operator.
    root_as_footer(&file[start..trailer])
        .ok()
        .context(NOT_ARROW)
}

/// The bytes of one record batch, after a check that every buffer it names lies inside: the
/// decoder slices them without asking.
fn block_of(file: &Buffer, block: &Block) -> Result<Buffer> {
    const DAMAGED: &str = "the Arrow file's record batches point outside of it";
    let metadata = usize::try_from(block.metaDataLength()).context(DAMAGED)?;
    let body = usize::try_from(block.bodyLength()).context(DAMAGED)?;
    let start = usize::try_from(block.offset()).context(DAMAGED)?;
    let length = metadata.checked_add(body).context(DAMAGED)?;
    let end = start.checked_add(length).context(DAMAGED)?;
    ensure!(
        end <= file.len() && metadata >= MESSAGE_PREFIX_BYTES,
        DAMAGED
    );
    let data = file.slice_with_length(start, length);
    let message = root_as_message(&data[MESSAGE_PREFIX_BYTES..metadata])
        .ok()
        .context(DAMAGED)?;
    let batch = message.header_as_record_batch().context(DAMAGED)?;
    ensure!(
        batch.compression().is_none(),
        "the shard is compressed; Cohort maps plain shards"
    );
    for buffer in batch.buffers().into_iter().flatten() {
        let end = buffer
            .offset()
            .checked_add(buffer.length())
            .context(DAMAGED)?;
        let inside = buffer.offset() >= 0 && buffer.length() >= 0 && end <= body as i64;
        ensure!(inside, DAMAGED);
    }
    Ok(data)
}
