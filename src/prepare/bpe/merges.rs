//! A word's bytes into ids by the ranked merges of a BPE (Sennrich et al. 2016).
//!
//! Of all neighbors that a merge joins, those of the lowest rank are joined first, the leftmost of
//! equals before the others, until no merge is left. Long words go through a heap, so that a text
//! without a space costs n log n.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Longer words, in bytes, go through the heap.
const SCANNED_BYTES: usize = 48;
/// Symbols that memory is kept for from one long word to the next.
const KEPT_SYMBOLS: usize = 1 << 16;
/// No rank is as high.
const NO_RANK: u32 = u32::MAX;
/// No symbol of a word stands there.
const NOWHERE: usize = usize::MAX;

/// A merge: of two tokens, under a rank, into a third.
#[derive(Clone, Copy, Debug)]
pub struct Merge {
    pub left: u32,
    pub right: u32,
    pub rank: u32,
    pub id: u32,
}

/// What becomes of two neighbors.
#[derive(Clone, Copy)]
struct Joined {
    rank: u32,
    id: u32,
}

const NOT_JOINED: Joined = Joined {
    rank: NO_RANK,
    id: 0,
};

/// All merges, in a hash table with linear probing; it is only ever looked up.
pub struct Merges {
    byte_ids: [u32; 256],
    slots: Vec<Slot>,
    shift: u32,
}

#[derive(Clone, Copy)]
struct Slot {
    pair: u64,
    /// [`NOT_JOINED`] where the slot is free.
    joined: Joined,
}

impl Merges {
    /// `byte_ids` are the tokens of single bytes. Of two merges of one pair the later holds.
    pub fn new(byte_ids: [u32; 256], merges: &[Merge]) -> Self {
        let count = (2 * merges.len()).next_power_of_two().max(2);
        let free = Slot {
            pair: 0,
            joined: NOT_JOINED,
        };
        let mut table = Self {
            byte_ids,
            slots: vec![free; count],
            shift: 64 - count.ilog2(),
        };
        for merge in merges {
            assert!(merge.rank < NO_RANK, "ranks count the merges");
            let pair = pair_of(merge.left, merge.right);
            let slot = table.slot(pair);
            table.slots[slot] = Slot {
                pair,
                joined: Joined {
                    rank: merge.rank,
                    id: merge.id,
                },
            };
        }
        table
    }

    /// The pair's slot, or the free one where it would stand.
    #[inline]
    fn slot(&self, pair: u64) -> usize {
        // Fibonacci hashing (Knuth, TAOCP vol. 3, section 6.4).
        let mut slot = (pair.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> self.shift) as usize;
        loop {
            let found = &self.slots[slot];
            if found.pair == pair || found.joined.rank == NO_RANK {
                return slot;
            }
            slot = (slot + 1) & (self.slots.len() - 1);
        }
    }

    #[inline]
    fn join(&self, left: u32, right: u32) -> Joined {
        self.slots[self.slot(pair_of(left, right))].joined
    }
}

fn pair_of(left: u32, right: u32) -> u64 {
    u64::from(left) << 32 | u64::from(right)
}

/// Merges one word after the other, in memory that it keeps, up to a limit.
#[derive(Default)]
pub struct Merger {
    scanned: Vec<Scanned>,
    linked: Vec<Linked>,
    heap: BinaryHeap<Reverse<(u32, usize)>>,
}

#[derive(Clone, Copy)]
struct Scanned {
    id: u32,
    /// With the symbol behind it.
    joined: Joined,
}

#[derive(Clone, Copy)]
struct Linked {
    id: u32,
    before: usize,
    behind: usize,
    joined: Joined,
}

impl Merger {
    /// Appends the ids of a word.
    pub fn merge(&mut self, merges: &Merges, word: &[u8], ids: &mut Vec<u32>) {
        if word.len() <= SCANNED_BYTES {
            self.scan(merges, word, ids);
        } else {
            self.link(merges, word, ids);
        }
    }

    fn scan(&mut self, merges: &Merges, word: &[u8], ids: &mut Vec<u32>) {
        let symbols = &mut self.scanned;
        symbols.clear();
        symbols.extend(word.iter().map(|byte| Scanned {
            id: merges.byte_ids[usize::from(*byte)],
            joined: NOT_JOINED,
        }));
        for at in 1..symbols.len() {
            symbols[at - 1].joined = merges.join(symbols[at - 1].id, symbols[at].id);
        }
        loop {
            let (mut best, mut rank) = (0, NO_RANK);
            for (at, symbol) in symbols.iter().enumerate() {
                if symbol.joined.rank < rank {
                    (best, rank) = (at, symbol.joined.rank);
                }
            }
            if rank == NO_RANK {
                break;
            }
            symbols[best].id = symbols[best].joined.id;
            symbols.remove(best + 1);
            let joined = |left: usize| match symbols.get(left + 1) {
                Some(right) => merges.join(symbols[left].id, right.id),
                None => NOT_JOINED,
            };
            let behind = joined(best);
            let before = best.checked_sub(1).map(|left| (left, joined(left)));
            symbols[best].joined = behind;
            if let Some((left, before)) = before {
                symbols[left].joined = before;
            }
        }
        ids.extend(symbols.iter().map(|symbol| symbol.id));
    }

    fn link(&mut self, merges: &Merges, word: &[u8], ids: &mut Vec<u32>) {
        self.linked.clear();
        self.heap.clear();
        let last = word.len() - 1;
        self.linked
            .extend(word.iter().enumerate().map(|(at, byte)| Linked {
                id: merges.byte_ids[usize::from(*byte)],
                before: at.checked_sub(1).unwrap_or(NOWHERE),
                behind: if at == last { NOWHERE } else { at + 1 },
                joined: NOT_JOINED,
            }));
        for at in 0..last {
            self.offer(merges, at);
        }
        while let Some(Reverse((rank, at))) = self.heap.pop() {
            // Of an entry that was overtaken the rank is another: a pair's rank is its own, and
            // neighbors only ever grow.
            if self.linked[at].joined.rank != rank {
                continue;
            }
            let behind = self.linked[at].behind;
            self.linked[at].id = self.linked[at].joined.id;
            self.linked[at].behind = self.linked[behind].behind;
            self.linked[behind].joined = NOT_JOINED;
            let next = self.linked[at].behind;
            if let Some(next) = self.linked.get_mut(next) {
                next.before = at;
            }
            self.offer(merges, at);
            if self.linked[at].before != NOWHERE {
                self.offer(merges, self.linked[at].before);
            }
        }
        let mut at = 0;
        while let Some(symbol) = self.linked.get(at) {
            ids.push(symbol.id);
            at = symbol.behind;
        }
        self.linked.shrink_to(KEPT_SYMBOLS);
        self.heap.shrink_to(KEPT_SYMBOLS);
    }

    /// Looks up what the symbol at `at` joins with the one behind it.
    fn offer(&mut self, merges: &Merges, at: usize) {
        let Linked { id, behind, .. } = self.linked[at];
        let behind = self.linked.get(behind);
        let joined = behind.map_or(NOT_JOINED, |behind| merges.join(id, behind.id));
        self.linked[at].joined = joined;
        if joined.rank != NO_RANK {
            self.heap.push(Reverse((joined.rank, at)));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Merges over the letters a to d in an order of the test's choosing.
    fn merges(pairs: &[(u32, u32)]) -> Merges {
        let byte_ids = std::array::from_fn(|byte| byte as u32);
        let merges: Vec<Merge> = pairs
            .iter()
            .enumerate()
            .map(|(rank, (left, right))| Merge {
                left: *left,
                right: *right,
                rank: rank as u32,
                id: 256 + rank as u32,
            })
            .collect();
        Merges::new(byte_ids, &merges)
    }

    proptest! {
        /// Two ways to one result: the scan, which is the definition, and the heap.
        #[test]
        fn the_heap_merges_as_the_scan(
            word in "[a-d]{1,120}",
            seeds in proptest::collection::vec((0_usize..40, 0_usize..40), 0..40),
        ) {
            let mut symbols: Vec<u32> = (b'a'..=b'd').map(u32::from).collect();
            let mut pairs = Vec::new();
            for (left, right) in seeds {
                let pair = (symbols[left % symbols.len()], symbols[right % symbols.len()]);
                if !pairs.contains(&pair) {
                    symbols.push(256 + pairs.len() as u32);
                    pairs.push(pair);
                }
            }
            let merges = merges(&pairs);
            let (mut scanned, mut linked) = (Vec::new(), Vec::new());
            Merger::default().scan(&merges, word.as_bytes(), &mut scanned);
            Merger::default().link(&merges, word.as_bytes(), &mut linked);
            prop_assert_eq!(scanned, linked);
        }
    }

    #[test]
    fn the_leftmost_of_equal_ranks_merges_first() {
        let a = u32::from(b'a');
        let mut ids = Vec::new();
        Merger::default().merge(&merges(&[(a, a)]), b"aaaaa", &mut ids);
        assert_eq!(ids, [256, 256, a]);
    }
}
