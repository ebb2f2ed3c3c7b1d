//! A Bloom filter for keys that are hashes already: whether a key may be in a set.
//!
//! Blocked (Putze, Sanders, Singler 2007): all bits of a key lie in one cache line of 512, chosen
//! by the key's upper bits; its lower bits give six places in it. With 12 bits a key, about one in
//! a hundred other keys is not turned away. A key that was added always is found.

const BITS_PER_KEY: u64 = 12;
const BLOCK_WORDS: usize = 8;
const BLOCK_BITS: u64 = 512;
const PROBES: u32 = 6;
/// Bits of a key that name a place in a block.
const PLACE_BITS: u32 = 9;

pub struct Filter {
    blocks: Vec<[u64; BLOCK_WORDS]>,
}

impl Filter {
    /// The size of a filter for so many keys.
    pub fn bytes_for(keys: u64) -> usize {
        blocks_for(keys) * size_of::<[u64; BLOCK_WORDS]>()
    }

    pub fn for_keys(keys: u64) -> Self {
        Self {
            blocks: vec![[0; BLOCK_WORDS]; blocks_for(keys)],
        }
    }

    pub fn bytes(&self) -> usize {
        self.blocks.len() * size_of::<[u64; BLOCK_WORDS]>()
    }

    pub fn add(&mut self, key: u64) {
        let block = self.block(key);
        for (word, bit) in places(key) {
            self.blocks[block][word] |= bit;
        }
    }

    pub fn may_hold(&self, key: u64) -> bool {
        let block = &self.blocks[self.block(key)];
        places(key).all(|(word, bit)| block[word] & bit != 0)
    }

    fn block(&self, key: u64) -> usize {
        ((u128::from(key) * self.blocks.len() as u128) >> 64) as usize
    }
}

fn blocks_for(keys: u64) -> usize {
    ((keys * BITS_PER_KEY).div_ceil(BLOCK_BITS) as usize).max(1)
}

fn places(key: u64) -> impl Iterator<Item = (usize, u64)> {
    (0..PROBES).map(move |probe| {
        let place = (key >> (probe * PLACE_BITS)) % BLOCK_BITS;
        ((place / 64) as usize, 1 << (place % 64))
    })
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    #[test]
    fn what_was_added_is_found_and_little_else() {
        let mut random = ChaCha8Rng::seed_from_u64(3);
        let mut filter = Filter::for_keys(20_000);
        assert_eq!(filter.bytes(), Filter::bytes_for(20_000));
        let keys: Vec<u64> = (0..20_000).map(|_| random.next_u64()).collect();
        for key in &keys {
            filter.add(*key);
        }
        assert!(keys.iter().all(|key| filter.may_hold(*key)));
        let others = (0..100_000).filter(|_| filter.may_hold(random.next_u64()));
        let share = others.count() as f64 / 1e5;
        assert!((0.001..0.02).contains(&share), "{share}");
    }
}
