//! Seeded choices. Integers come from `ChaCha8` by multiplication alone, so that no release of a
//! random-number library can change a note.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

pub struct Dice {
    random: ChaCha8Rng,
}

impl Dice {
    pub fn new(seed: blake3::Hash) -> Self {
        Self {
            random: ChaCha8Rng::from_seed(*seed.as_bytes()),
        }
    }

    /// A number below `end`, which is not 0. The bias of at most end / 2^64 does not matter here.
    pub fn below(&mut self, end: usize) -> usize {
        assert!(end > 0, "nothing lies below 0");
        ((u128::from(self.random.next_u64()) * end as u128) >> 64) as usize
    }

    /// A number from `low` to `high`, both possible.
    pub fn range(&mut self, low: usize, high: usize) -> usize {
        low + self.below(high - low + 1)
    }

    /// A value from `low` to `high` with that many decimals, as written.
    pub fn decimal(&mut self, low: f64, high: f64, decimals: usize) -> String {
        let share = self.below(1001) as f64 / 1000.0;
        format!("{:.decimals$}", low + (high - low) * share)
    }

    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    /// One of a table that is not empty.
    pub fn pick<T: Copy>(&mut self, table: &[T]) -> T {
        table[self.below(table.len())]
    }

    /// `count` different ones of a table, or all, in random order.
    pub fn some<T: Copy>(&mut self, table: &[T], count: usize) -> Vec<T> {
        let mut rest = table.to_vec();
        let mut chosen = Vec::new();
        while chosen.len() < count && !rest.is_empty() {
            chosen.push(rest.swap_remove(self.below(rest.len())));
        }
        chosen
    }
}
