//! Which shards are open: those used last, up to a bound.
//!
//! A corpus of thousands of shards is read a few hundred at a time, and a mapped file of the cache
//! keeps its space on the disk even when the cache has removed it. Closing takes a shard out of its
//! slot; who still reads in it keeps it mapped until done.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use crate::data::SplitName;
use crate::data::shard::TokenShard;
use crate::ids::SourceIndex;

/// A process may map 65,530 files on Linux by default, far more than one moment needs.
const OPEN_MAX: usize = 4096;

/// One shard's place, open or not.
#[derive(Debug, Default)]
pub(super) struct Slot {
    pub(super) state: Mutex<SlotState>,
    /// When it was last read in, in reads.
    used: AtomicU64,
}

#[derive(Debug, Default)]
pub(super) struct SlotState {
    pub(super) shard: Option<Arc<TokenShard>>,
    /// Whether this process has hashed it once.
    pub(super) checked: bool,
}

/// Where a shard stands in its corpus.
pub(super) type ShardAt = (SourceIndex, SplitName, u32);

#[derive(Debug)]
pub(super) struct OpenShards {
    bytes_max: u64,
    open_max: usize,
    reads: AtomicU64,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    shards: Vec<(ShardAt, u64)>,
    bytes: u64,
}

impl OpenShards {
    pub(super) fn new(bytes_max: u64) -> Self {
        Self {
            bytes_max,
            open_max: OPEN_MAX,
            reads: AtomicU64::new(0),
            open: Mutex::default(),
        }
    }

    /// Notes a read in a slot.
    pub(super) fn touch(&self, slot: &Slot) {
        let now = self.reads.fetch_add(1, Ordering::Relaxed);
        slot.used.store(now, Ordering::Relaxed);
    }

    /// Notes a shard that was opened, and closes those read longest ago until the bound holds. The
    /// caller holds no slot.
    pub(super) fn opened<'a>(&self, at: ShardAt, bytes: u64, slot: impl Fn(ShardAt) -> &'a Slot) {
        let mut open = self.open.lock().expect("nothing panics while it holds it");
        open.shards.push((at, bytes));
        open.bytes += bytes;
        if open.bytes <= self.bytes_max && open.shards.len() <= self.open_max {
            return;
        }
        open.shards
            .sort_by_cached_key(|&(at, _)| slot(at).used.load(Ordering::Relaxed));
        let newest = at;
        let (mut count, mut total) = (open.shards.len(), open.bytes);
        open.shards.retain(|&(at, bytes)| {
            if at == newest || (total <= self.bytes_max && count <= self.open_max) {
                return true;
            }
            // One that is being opened or looked up at this moment stays.
            let Ok(mut state) = slot(at).state.try_lock() else {
                return true;
            };
            state.shard = None;
            (count, total) = (count - 1, total - bytes);
            false
        });
        open.bytes = total;
    }

    /// Shards that are open.
    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        let open = self.open.lock();
        open.expect("nothing panics while it holds it").shards.len()
    }
}
