//! From chunks back to documents: how long they are, and where one lies.
//!
//! The chunks of a document stand one after the other, and all but the last are as long as a chunk
//! may be. So lengths alone say where documents end, save where a document's last chunk is full
//! too. How many documents begin in a shard is in the manifest: only shards in which the two
//! disagree are opened, for their `first` column.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};

use crate::corpus::lengths::LengthCounts;
use crate::corpus::plan::ChunkRef;
use crate::corpus::{Shard, Split};
use crate::data::shard::TokenShard;
use crate::data::{Corpus, PREPARE_AGAIN, SplitName};
use crate::ids::SourceIndex;

/// The lengths of a split's documents and chunks, in tokens, `[CLS]` and `[SEP]` of every chunk
/// included.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SplitLengths {
    pub documents: LengthCounts,
    pub chunks: LengthCounts,
}

/// Where a document lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DocumentPlace {
    pub split: SplitName,
    /// Its chunks in order, at least one.
    pub chunks: Vec<ChunkRef>,
}

impl Corpus {
    /// Counts the lengths of a split.
    pub fn split_lengths(&self, index: SourceIndex, split: SplitName) -> Result<SplitLengths> {
        let source = self.source(index)?;
        let (described, _) = source.split(split);
        let shards = self.lengths(index, split)?;
        let mut walk = Walk::new(self.manifest.max_length);
        for (lengths, shard) in shards.iter().zip(&described.shards) {
            if walk.beginnings(lengths) == shard.documents {
                walk.by_length(lengths);
            } else {
                let marked = self
                    .marked(shard, lengths)
                    .with_context(|| self.about(source, &shard.stored))?;
                walk.by_marks(lengths, &marked);
            }
        }
        let counted = walk.finish();
        ensure!(
            counted.documents.count() == described.documents,
            "source `{}` has {} documents, the manifest says {}{PREPARE_AGAIN}",
            source.name,
            counted.documents.count(),
            described.documents
        );
        Ok(counted)
    }

    /// Opens a shard for its `first` column. Its ids are not looked at, nor hashed: tables of
    /// terabytes are to be had in seconds, and what is read is checked against the lengths.
    fn marked(&self, described: &Shard, lengths: &Arc<[u16]>) -> Result<TokenShard> {
        let mut shard = self.files.open_mapped(&described.stored, true)?;
        shard.decode()?;
        let same = shard.lengths() == *lengths && shard.counts().documents == described.documents;
        ensure!(same, "the shard is not that of the manifest{PREPARE_AGAIN}");
        Ok(shard)
    }

    /// The chunk of this number in a split, counted from 0 across its shards; none beyond the last.
    pub fn locate_chunk(
        &self,
        index: SourceIndex,
        split: SplitName,
        number: u64,
    ) -> Result<Option<ChunkRef>> {
        let mut rest = number;
        for (shard, lengths) in (0..).zip(self.lengths(index, split)?) {
            if let Some(length) = lengths.get(usize::try_from(rest).unwrap_or(usize::MAX)) {
                return Ok(Some(ChunkRef {
                    source: index,
                    shard,
                    chunk: rest as u32,
                    length: u32::from(*length),
                }));
            }
            rest -= lengths.len() as u64;
        }
        Ok(None)
    }

    /// The document of this number in its source; none where it was dropped or never was.
    pub fn locate_document(
        &self,
        index: SourceIndex,
        number: u64,
    ) -> Result<Option<DocumentPlace>> {
        let source = self.source(index)?;
        for split in [SplitName::Train, SplitName::HeldOut] {
            let (described, _) = source.split(split);
            let chunks = self.document_in(index, split, described, number)?;
            if !chunks.is_empty() {
                return Ok(Some(DocumentPlace { split, chunks }));
            }
        }
        Ok(None)
    }

    /// The chunks of a document in a split: documents stand in the order of their numbers.
    fn document_in(
        &self,
        index: SourceIndex,
        split: SplitName,
        described: &Split,
        number: u64,
    ) -> Result<Vec<ChunkRef>> {
        // The first shard whose last chunk is of this document or of a later one.
        let (mut low, mut high) = (0, described.shards.len());
        while low < high {
            let middle = low.midpoint(high);
            let shard = self.shard(index, split, middle as u32)?;
            if shard.last_document().is_some_and(|last| last < number) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        let lengths = self.lengths(index, split)?;
        let mut chunks = Vec::new();
        for (place, lengths) in lengths.iter().enumerate().skip(low) {
            let shard = self.shard(index, split, place as u32)?;
            let of_it = |chunk: &u32| shard.document(*chunk) == Some(number);
            let found = (0..lengths.len() as u32).filter(of_it);
            chunks.extend(found.map(|chunk| ChunkRef {
                source: index,
                shard: place as u32,
                chunk,
                length: u32::from(lengths[chunk as usize]),
            }));
            if shard.last_document() != Some(number) {
                break;
            }
        }
        Ok(chunks)
    }
}

/// Goes along the chunks of a split and counts its documents.
struct Walk {
    max_length: u16,
    /// Tokens of the document that the last chunk belongs to; 0 before the first.
    tokens: u64,
    /// Whether the last chunk was full, so that its document may go on.
    full: bool,
    counted: SplitLengths,
}

impl Walk {
    fn new(max_length: u32) -> Self {
        Self {
            max_length: u16::try_from(max_length).unwrap_or(u16::MAX),
            tokens: 0,
            full: false,
            counted: SplitLengths::default(),
        }
    }

    /// How many documents begin among the next chunks, if a full one is never a document's last.
    fn beginnings(&self, lengths: &[u16]) -> u64 {
        let Some((_, others)) = lengths.split_last() else {
            return 0;
        };
        let short = others.iter().filter(|length| **length != self.max_length);
        short.count() as u64 + u64::from(!self.full)
    }

    fn by_length(&mut self, lengths: &[u16]) {
        for length in lengths {
            self.chunk(*length, !self.full);
        }
    }

    fn by_marks(&mut self, lengths: &[u16], marked: &TokenShard) {
        for (chunk, length) in (0..).zip(lengths) {
            self.chunk(*length, marked.is_first(chunk));
        }
    }

    fn chunk(&mut self, length: u16, begins: bool) {
        if begins {
            self.end_document();
        }
        self.tokens += u64::from(length);
        self.full = length == self.max_length;
        self.counted.chunks.add(u64::from(length));
    }

    fn end_document(&mut self) {
        if self.tokens > 0 {
            self.counted.documents.add(self.tokens);
            self.tokens = 0;
        }
    }

    fn finish(mut self) -> SplitLengths {
        self.end_document();
        self.counted
    }
}
