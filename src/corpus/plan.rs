//! The plan of one phase: an endless sequence of rows, by random access.
//!
//! The plan is a pure function of chunk lengths, seed, phase and mixture. A pass of the mixture is
//! cut into blocks. Each takes from each source the chunks between two stream positions that its
//! rate gives exactly; the block's chunks are pooled, packed into rows, and the rows shuffled. So a
//! run has no data state but one row index, and any rank computes any row. No block lies in two
//! passes, so that a phase of whole passes reads whole epochs, whatever the size of a block.
//!
//! Invariants: each source's chunks appear exactly once per epoch of that source; no row exceeds
//! `row_tokens`; [`PhasePlan::row`] gives the same row whatever was asked before. The memory kept
//! between calls only saves time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use rayon::prelude::*;

use crate::corpus::order::{OrderKey, ShardSize, SourceOrder};
use crate::corpus::packing::{PackedRows, pack};
use crate::corpus::plan_spec::{PlanError, PlanSpec};
use crate::corpus::random::{keyed_stream, shuffle};
use crate::ids::{RowIndex, SourceIndex};

/// Packed blocks kept in memory. Neighboring rows share a block; a step touches two at most.
const BLOCKS_KEPT_MAX: usize = 4;
/// Blocks counted at once when the wanted row is far ahead.
const BLOCKS_AHEAD_MAX: u64 = 512;

/// Where a chunk lies, and its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ChunkRef {
    pub source: SourceIndex,
    /// The shard's place in its source's split.
    pub shard: u32,
    /// The chunk's place in its shard.
    pub chunk: u32,
    /// Tokens, `[CLS]` and `[SEP]` included.
    pub length: u32,
}

/// The chunks that lie back to back in one row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    pub chunks: Vec<ChunkRef>,
    /// The sum of the chunks' lengths, at most `row_tokens`.
    pub tokens: u32,
}

/// The rows of one phase. Shared by reference between threads.
#[derive(Debug)]
pub struct PhasePlan {
    spec: PlanSpec,
    /// Blocks of one pass.
    pass_blocks: u64,
    orders: Vec<SourceOrder>,
    memory: Mutex<Memory>,
    /// Made when first asked for, and then kept: it reads the lengths of all chunks, and every
    /// checkpoint names it.
    digest: OnceLock<String>,
}

#[derive(Debug, Default)]
struct Memory {
    /// `ends[k]` is the number of rows in blocks 0 to k.
    ends: Vec<u64>,
    blocks: BTreeMap<u64, Arc<Block>>,
}

#[derive(Debug)]
struct Block {
    chunks: Vec<ChunkRef>,
    rows: PackedRows,
    /// Which packed row stands at each place of the block.
    order: Vec<u32>,
}

impl Block {
    fn row(&self, place: u64) -> Row {
        let packed = self.rows.row(self.order[place as usize] as usize);
        let chunks: Vec<ChunkRef> = packed
            .iter()
            .map(|&index| self.chunks[index as usize])
            .collect();
        let tokens = chunks.iter().map(|chunk| chunk.length).sum();
        Row { chunks, tokens }
    }
}

impl PhasePlan {
    /// Checks every chunk length once; packs nothing yet.
    pub fn new(spec: PlanSpec) -> Result<Self, PlanError> {
        spec.check()?;
        let orders = spec
            .sources
            .iter()
            .map(|source| {
                let key = OrderKey {
                    seed: spec.seed,
                    phase: spec.phase,
                    source: source.source.0,
                };
                let shards = source.shards.iter();
                let sizes = shards.map(|lengths| ShardSize::of(lengths)).collect();
                SourceOrder::new(key, sizes, spec.shuffle_chunks)
            })
            .collect();
        Ok(Self {
            pass_blocks: spec.pass_blocks(),
            spec,
            orders,
            memory: Mutex::default(),
            digest: OnceLock::new(),
        })
    }

    pub fn seed(&self) -> u64 {
        self.spec.seed
    }

    pub fn phase(&self) -> u32 {
        self.spec.phase
    }

    pub fn row_tokens(&self) -> u32 {
        self.spec.row_tokens
    }

    /// A digest of all that the plan is a function of, in hexadecimal. Ranks whose digests are
    /// equal read the same rows.
    pub fn digest(&self) -> &str {
        self.digest.get_or_init(|| self.spec.digest())
    }

    /// The row at an index.
    ///
    /// The first call for a row far ahead of every row asked so far packs all blocks before it, on
    /// all cores; after that a call costs a look-up, or the packing of one block.
    pub fn row(&self, row: RowIndex) -> Row {
        let (block, start) = self.block_of(row.0);
        self.block(block).row(row.0 - start)
    }

    /// The block that a row stands in.
    pub fn block_at(&self, row: RowIndex) -> u64 {
        self.block_of(row.0).0
    }

    /// The shards that the rows of one block are read from, with their sources.
    pub fn shards(&self, block: u64) -> BTreeSet<(SourceIndex, u32)> {
        let chunks = self.pool(block);
        chunks
            .iter()
            .map(|chunk| (chunk.source, chunk.shard))
            .collect()
    }

    /// Tokens in the rows of one block, over what those rows could hold: between 0 and 1.
    pub fn fill(&self, block: u64) -> f64 {
        let block = self.block(block);
        let tokens: u64 = block
            .chunks
            .iter()
            .map(|chunk| u64::from(chunk.length))
            .sum();
        tokens as f64 / (block.rows.len() as f64 * f64::from(self.spec.row_tokens))
    }

    /// The block that holds a row, and the index of the block's first row.
    fn block_of(&self, row: u64) -> (u64, u64) {
        loop {
            let (known, rows_known) = {
                let memory = self.lock();
                let block = memory.ends.partition_point(|&end| end <= row);
                if block < memory.ends.len() {
                    let start = if block == 0 {
                        0
                    } else {
                        memory.ends[block - 1]
                    };
                    return (block as u64, start);
                }
                (block as u64, memory.ends.last().copied().unwrap_or(0))
            };
            // The lock is not held while packing: rayon may run another caller's work, which may
            // ask this plan for a row, on the thread that waits here.
            let missing_tokens = (row - rows_known).saturating_mul(u64::from(self.spec.row_tokens));
            let block_tokens = (self.spec.pass_tokens / self.pass_blocks).max(1);
            let ahead = (missing_tokens / block_tokens).clamp(1, BLOCKS_AHEAD_MAX);
            let counts: Vec<u64> = if ahead == 1 {
                vec![self.block(known).rows.len() as u64]
            } else {
                (known..known + ahead)
                    .into_par_iter()
                    .map(|block| self.pack_block(block).rows.len() as u64)
                    .collect()
            };
            let mut memory = self.lock();
            // Another thread may have counted some of these blocks too; equal work, equal counts.
            for (block, count) in (known..).zip(counts) {
                if block == memory.ends.len() as u64 {
                    let end = memory.ends.last().copied().unwrap_or(0) + count;
                    memory.ends.push(end);
                }
            }
        }
    }

    fn block(&self, index: u64) -> Arc<Block> {
        if let Some(block) = self.lock().blocks.get(&index) {
            return Arc::clone(block);
        }
        let block = Arc::new(self.pack_block(index));
        let mut memory = self.lock();
        memory.blocks.insert(index, Arc::clone(&block));
        while memory.blocks.len() > BLOCKS_KEPT_MAX {
            let farthest = memory
                .blocks
                .keys()
                .copied()
                .max_by_key(|kept| kept.abs_diff(index));
            memory
                .blocks
                .remove(&farthest.expect("the map is not empty"));
        }
        block
    }

    fn pack_block(&self, index: u64) -> Block {
        let numbers = [u64::from(self.spec.phase), index];
        let mut chunks = self.pool(index);
        // Equal lengths are packed in the pool's order, so the sources must be mixed in it.
        shuffle(
            &mut chunks,
            &mut keyed_stream(self.spec.seed, "pool order", &numbers),
        );
        let lengths: Vec<u16> = chunks.iter().map(|chunk| chunk.length as u16).collect();
        let rows = pack(&lengths, self.spec.row_tokens);
        let mut order: Vec<u32> = (0..rows.len() as u32).collect();
        shuffle(
            &mut order,
            &mut keyed_stream(self.spec.seed, "row order", &numbers),
        );
        Block {
            chunks,
            rows,
            order,
        }
    }

    /// The chunks of a block, source by source in stream order.
    fn pool(&self, index: u64) -> Vec<ChunkRef> {
        let mut chunks = Vec::new();
        for (source, order) in self.spec.sources.iter().zip(&self.orders) {
            let position = |block: u64| {
                let tokens = self.spec.block_start(block);
                source
                    .rate
                    .chunks_in(tokens)
                    .expect("a run is shorter than 2^57 tokens")
            };
            let stretch = position(index)..position(index + 1);
            chunks.extend(order.range(stretch).map(|(shard, chunk)| ChunkRef {
                source: source.source,
                shard,
                chunk,
                length: u32::from(source.shards[shard as usize][chunk as usize]),
            }));
        }
        chunks
    }

    fn lock(&self) -> MutexGuard<'_, Memory> {
        self.memory
            .lock()
            .expect("nothing panics while it holds the memory")
    }
}
