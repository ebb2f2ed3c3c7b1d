//! The endless order in which one source's chunks are read: epoch 0, epoch 1, and so on.
//!
//! Inside an epoch the shards stand in a seeded permutation; consecutive shards form groups, and
//! the chunks of a group are permuted among themselves. So a reader touches the few shards of one
//! group at a time, and yet any position leads to its chunk in O(log shards) time with no table of
//! chunks. Invariants: each epoch visits every chunk of the source exactly once; a group has less
//! than twice [`GROUP_TOKENS`] tokens but for one shard, however long the chunks are.

use std::ops::Range;

use crate::corpus::random::{keyed_number, keyed_stream, shuffle};

/// Rounds of the Feistel network. Four make a network of strong round functions a
/// pseudo-random permutation (Luby and Rackoff 1988); two more make up for halves of a few bits.
const FEISTEL_ROUNDS: usize = 6;
/// Smaller domains mix badly; a group of fewer chunks walks a few cycles more instead.
const FEISTEL_BITS_MIN: u32 = 6;

/// A group of so many tokens is large enough, however few its chunks: eight shards of the usual
/// size, half a gigabyte that has to be at hand.
pub const GROUP_TOKENS: u64 = 1 << 28;

/// What the order of one source is keyed by.
#[derive(Clone, Copy, Debug)]
pub struct OrderKey {
    pub seed: u64,
    /// What tells the phase from the run's others: a key of its name.
    pub phase: u32,
    /// The source's number in the manifest.
    pub source: u32,
}

/// What a shard holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardSize {
    pub chunks: u32,
    pub tokens: u64,
}

impl ShardSize {
    /// Of the shard whose chunks have these lengths.
    pub fn of(lengths: &[u16]) -> Self {
        Self {
            chunks: lengths.len() as u32,
            tokens: lengths.iter().map(|&length| u64::from(length)).sum(),
        }
    }
}

/// The endless chunk order of one source.
#[derive(Clone, Debug)]
pub struct SourceOrder {
    key: OrderKey,
    shards: Vec<ShardSize>,
    chunks: u64,
    shuffle_chunks: u64,
}

impl SourceOrder {
    /// `shards` in manifest order. `shuffle_chunks` is the least number of chunks in a group, met
    /// by every group of a source that has so many and has them in [`GROUP_TOKENS`] tokens.
    pub fn new(key: OrderKey, shards: Vec<ShardSize>, shuffle_chunks: u64) -> Self {
        let chunks = shards.iter().map(|shard| u64::from(shard.chunks)).sum();
        Self {
            key,
            shards,
            chunks,
            shuffle_chunks,
        }
    }

    /// Chunks of one epoch.
    pub fn chunks(&self) -> u64 {
        self.chunks
    }

    /// The order of one epoch. Costs time and memory in the number of shards.
    pub fn epoch(&self, epoch: u64) -> EpochOrder {
        let numbers = [u64::from(self.key.phase), u64::from(self.key.source), epoch];
        let size = |shard: u32| self.shards[shard as usize];
        let mut shards: Vec<u32> = (0..self.shards.len() as u32)
            .filter(|&shard| size(shard).chunks > 0)
            .collect();
        shuffle(
            &mut shards,
            &mut keyed_stream(self.key.seed, "shard order", &numbers),
        );
        let mut starts = Vec::with_capacity(shards.len() + 1);
        let mut total = 0;
        for &shard in &shards {
            starts.push(total);
            total += u64::from(size(shard).chunks);
        }
        starts.push(total);
        let group_key = keyed_number(self.key.seed, "chunk order", &numbers);
        let sizes: Vec<ShardSize> = shards.iter().map(|&shard| size(shard)).collect();
        let groups = groups_of(&sizes, self.shuffle_chunks, group_key);
        EpochOrder {
            shards,
            starts,
            groups,
        }
    }

    /// The `(shard, chunk)` at each stream position of the range, across epochs.
    ///
    /// # Panics
    /// If the source has no chunk: an endless stream of nothing is a bug of the caller.
    pub fn range(&self, positions: Range<u64>) -> impl Iterator<Item = (u32, u32)> + '_ {
        assert!(self.chunks > 0, "a source without chunks has no order");
        let mut current: Option<(u64, EpochOrder)> = None;
        positions.map(move |position| {
            let epoch = position / self.chunks;
            if current.as_ref().is_none_or(|(number, _)| *number != epoch) {
                current = Some((epoch, self.epoch(epoch)));
            }
            let (_, order) = current.as_ref().expect("set just above");
            order.chunk(position % self.chunks)
        })
    }
}

/// One epoch of one source: a permutation of its chunks.
#[derive(Clone, Debug)]
pub struct EpochOrder {
    /// The shards that hold chunks, in this epoch's order.
    shards: Vec<u32>,
    /// Position of each shard's first chunk before the permutation inside groups, then the total.
    starts: Vec<u64>,
    groups: Vec<Group>,
}

#[derive(Clone, Copy, Debug)]
struct Group {
    start: u64,
    permutation: Permutation,
}

impl EpochOrder {
    /// The `(shard, chunk)` at a position below the source's number of chunks.
    pub fn chunk(&self, position: u64) -> (u32, u32) {
        let group = self.groups[self.groups.partition_point(|g| g.start <= position) - 1];
        let place = group.start + group.permutation.at(position - group.start);
        let index = self.starts.partition_point(|&start| start <= place) - 1;
        (self.shards[index], (place - self.starts[index]) as u32)
    }
}

/// Cuts shards, in their order, into groups. None of them is empty.
fn groups_of(shards: &[ShardSize], shuffle_chunks: u64, key: u64) -> Vec<Group> {
    let is_large = |(chunks, tokens)| chunks >= shuffle_chunks || tokens >= GROUP_TOKENS;
    let mut rest = shards.iter().fold((0, 0), |sum, shard| add(sum, *shard));
    let mut groups = Vec::new();
    let (mut start, mut group) = (0, (0, 0));
    for &shard in shards {
        group = add(group, shard);
        rest = (rest.0 - u64::from(shard.chunks), rest.1 - shard.tokens);
        // A tail that is too small for a group of its own joins the group before it.
        if rest.0 == 0 || (is_large(group) && is_large(rest)) {
            let permutation = Permutation::new(group.0, mix(key ^ mix(start)));
            groups.push(Group { start, permutation });
            start += group.0;
            group = (0, 0);
        }
    }
    groups
}

fn add((chunks, tokens): (u64, u64), shard: ShardSize) -> (u64, u64) {
    (chunks + u64::from(shard.chunks), tokens + shard.tokens)
}

/// A keyed permutation of `0..size` in O(1) memory: a Feistel network over the next power of two,
/// walked along its cycle until it falls inside (Black and Rogaway 2002, "cycle walking").
#[derive(Clone, Copy, Debug)]
pub struct Permutation {
    size: u64,
    right_bits: u32,
    left_mask: u64,
    right_mask: u64,
    keys: [u64; FEISTEL_ROUNDS],
}

impl Permutation {
    /// `size` is at least 1.
    pub fn new(size: u64, key: u64) -> Self {
        assert!(size > 0, "a permutation of nothing");
        let bits = (u64::BITS - (size - 1).leading_zeros()).max(FEISTEL_BITS_MIN);
        assert!(bits < u64::BITS, "a permutation this large is a bug");
        let left_bits = bits / 2;
        let right_bits = bits - left_bits;
        let mut state = key;
        let keys = std::array::from_fn(|_| {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            mix(state)
        });
        Self {
            size,
            right_bits,
            left_mask: (1 << left_bits) - 1,
            right_mask: (1 << right_bits) - 1,
            keys,
        }
    }

    /// Where `index` (below the size) goes.
    pub fn at(&self, index: u64) -> u64 {
        debug_assert!(index < self.size);
        let mut value = index;
        loop {
            value = self.network(value);
            if value < self.size {
                return value;
            }
        }
    }

    fn network(&self, value: u64) -> u64 {
        let mut left = value >> self.right_bits;
        let mut right = value & self.right_mask;
        for pair in self.keys.chunks_exact(2) {
            left ^= mix(pair[0] ^ right) & self.left_mask;
            right ^= mix(pair[1] ^ left) & self.right_mask;
        }
        (left << self.right_bits) | right
    }
}

/// The finalizer of `SplitMix64` (Steele, Lea and Flood 2014): a fixed bijection of 64-bit words.
fn mix(word: u64) -> u64 {
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const KEY: OrderKey = OrderKey {
        seed: 17,
        phase: 0,
        source: 3,
    };

    fn sizes(chunks: &[u32], tokens_of_chunk: u64) -> Vec<ShardSize> {
        let size = |&chunks: &u32| ShardSize {
            chunks,
            tokens: u64::from(chunks) * tokens_of_chunk,
        };
        chunks.iter().map(size).collect()
    }

    proptest! {
        #[test]
        fn a_permutation_is_a_bijection(size in 1_u64..5_000, key: u64) {
            let permutation = Permutation::new(size, key);
            let seen: BTreeSet<u64> = (0..size).map(|index| permutation.at(index)).collect();
            prop_assert_eq!(seen.len() as u64, size);
            prop_assert!(seen.last().is_some_and(|&last| last < size));
        }

        #[test]
        fn every_epoch_visits_every_chunk_once(
            shards in prop::collection::vec(0_u32..40, 1..12),
            shuffle_chunks in 1_u64..200,
            seed: u64,
        ) {
            prop_assume!(shards.iter().any(|&count| count > 0));
            let sizes = sizes(&shards, 1 << 24);
            let order = SourceOrder::new(OrderKey { seed, ..KEY }, sizes, shuffle_chunks);
            let all: BTreeSet<(u32, u32)> = (0_u32..)
                .zip(&shards)
                .flat_map(|(shard, &count)| (0..count).map(move |chunk| (shard, chunk)))
                .collect();
            let chunks = order.chunks();
            for epoch in 0..3 {
                let stretch = epoch * chunks..(epoch + 1) * chunks;
                let seen: BTreeSet<_> = order.range(stretch).collect();
                prop_assert_eq!(&seen, &all);
            }
        }
    }

    #[test]
    fn first_places_are_uniform() {
        // 4,000 keys send index 0 of 10 somewhere: each place is hit 400 times on average, with a
        // standard deviation of 19; five of them bound every place.
        let mut hits = [0_i32; 10];
        for key in 0..4_000 {
            hits[Permutation::new(10, mix(key)).at(0) as usize] += 1;
        }
        assert!(hits.iter().all(|hit| (hit - 400).abs() < 95), "{hits:?}");
    }

    #[test]
    fn a_group_holds_enough_chunks_and_keeps_to_its_shards() {
        let order = SourceOrder::new(KEY, sizes(&[10; 11], 100), 30);
        let group_sizes = |order: &SourceOrder| -> Vec<u64> {
            let groups = order.epoch(0).groups;
            groups.iter().map(|group| group.permutation.size).collect()
        };
        assert_eq!(group_sizes(&order), [30, 30, 50]);
        // Chunks so long that two shards are as much as a group may bring to hand.
        let long = SourceOrder::new(KEY, sizes(&[10; 11], GROUP_TOKENS / 20 + 1), 1_000);
        assert_eq!(group_sizes(&long), [20, 20, 20, 20, 30]);
        let epoch = order.epoch(0);
        let shards: BTreeSet<u32> = (0..30).map(|position| epoch.chunk(position).0).collect();
        assert_eq!(shards.len(), 3);
    }

    #[test]
    fn epochs_and_sources_are_ordered_differently() {
        let order =
            |source| SourceOrder::new(OrderKey { source, ..KEY }, sizes(&[100, 100], 9), 1_000);
        let first: Vec<_> = order(0).range(0..200).collect();
        let second: Vec<_> = order(0).range(200..400).collect();
        let other: Vec<_> = order(1).range(0..200).collect();
        assert_ne!(first, second);
        assert_ne!(first, other);
    }
}
