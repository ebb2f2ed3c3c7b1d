//! Packing chunks into rows: best fit, longest chunks first, no chunk cut.
//!
//! Chunk lengths are small whole numbers, so both the sort and the search for the best row go by
//! counting: packing takes time linear in the chunks. Invariants: every chunk is in exactly one
//! row, no row exceeds its size, and equal input gives equal output.

/// Rows of chunks: which chunks of the pool lie in which row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PackedRows {
    /// Indices into the pool, row after row; inside a row, longest chunk first.
    members: Vec<u32>,
    /// Where each row begins in `members`, then its length.
    starts: Vec<u32>,
}

impl PackedRows {
    pub fn len(&self) -> usize {
        self.starts.len().saturating_sub(1)
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Indices into the pool of the chunks of a row, which must exist.
    pub fn row(&self, row: usize) -> &[u32] {
        &self.members[self.starts[row] as usize..self.starts[row + 1] as usize]
    }
}

/// Packs a pool of chunks into rows of at most `row_tokens` tokens by best-fit decreasing
/// (Johnson et al. 1974): the longest chunk left goes to the fullest row that still takes it.
///
/// `lengths` are the pool's chunk lengths in tokens. A chunk longer than a row is a bug: the plan
/// refuses such a corpus before it packs.
pub fn pack(lengths: &[u16], row_tokens: u32) -> PackedRows {
    let mut space = FreeSpace::new(row_tokens);
    let mut row_of = vec![0_u32; lengths.len()];
    let mut row_sizes: Vec<u32> = Vec::new();
    let by_length = longest_first(lengths);
    for &index in &by_length {
        let length = u32::from(lengths[index as usize]);
        assert!(
            length <= row_tokens,
            "a chunk of {length} tokens in a row of {row_tokens}"
        );
        let (row, free) = space.take(length).unwrap_or_else(|| {
            row_sizes.push(0);
            (row_sizes.len() as u32 - 1, row_tokens)
        });
        space.put(row, free - length);
        row_sizes[row as usize] += 1;
        row_of[index as usize] = row;
    }
    gather(&by_length, &row_of, &row_sizes)
}

/// Indices in the order of falling length; equal lengths keep the pool's order.
fn longest_first(lengths: &[u16]) -> Vec<u32> {
    let longest = lengths.iter().copied().max().map_or(0, usize::from);
    let mut places = vec![0_u32; longest + 2];
    for &length in lengths {
        places[longest - usize::from(length) + 1] += 1;
    }
    for rank in 1..places.len() {
        places[rank] += places[rank - 1];
    }
    let mut order = vec![0_u32; lengths.len()];
    for (index, &length) in (0_u32..).zip(lengths) {
        let place = &mut places[longest - usize::from(length)];
        order[*place as usize] = index;
        *place += 1;
    }
    order
}

fn gather(by_length: &[u32], row_of: &[u32], row_sizes: &[u32]) -> PackedRows {
    let mut starts = Vec::with_capacity(row_sizes.len() + 1);
    let mut total = 0;
    for &size in row_sizes {
        starts.push(total);
        total += size;
    }
    let mut next = starts.clone();
    starts.push(total);
    let mut members = vec![0_u32; by_length.len()];
    for &index in by_length {
        let place = &mut next[row_of[index as usize] as usize];
        members[*place as usize] = index;
        *place += 1;
    }
    PackedRows { members, starts }
}

const NO_ROW: u32 = u32::MAX;

/// Open rows by free tokens: a stack of rows for each number of free tokens, and a bitmap of two
/// levels over the stacks that are not empty.
struct FreeSpace {
    /// Top of the stack of rows with so many free tokens.
    heads: Vec<u32>,
    /// The row below each row in its stack.
    below: Vec<u32>,
    words: Vec<u64>,
    summary: Vec<u64>,
}

impl FreeSpace {
    fn new(row_tokens: u32) -> Self {
        let stacks = row_tokens as usize + 1;
        let words = stacks.div_ceil(64);
        Self {
            heads: vec![NO_ROW; stacks],
            below: Vec::new(),
            words: vec![0; words],
            summary: vec![0; words.div_ceil(64)],
        }
    }

    /// Takes a row with the fewest free tokens, but at least `length`; and says how many.
    fn take(&mut self, length: u32) -> Option<(u32, u32)> {
        let free = self.first_stack(length as usize)?;
        let row = self.heads[free];
        self.heads[free] = self.below[row as usize];
        if self.heads[free] == NO_ROW {
            let word = free / 64;
            self.words[word] &= !(1 << (free % 64));
            if self.words[word] == 0 {
                self.summary[word / 64] &= !(1 << (word % 64));
            }
        }
        Some((row, free as u32))
    }

    fn put(&mut self, row: u32, free: u32) {
        let (row, free) = (row as usize, free as usize);
        if self.below.len() <= row {
            self.below.resize(row + 1, NO_ROW);
        }
        self.below[row] = self.heads[free];
        self.heads[free] = row as u32;
        self.words[free / 64] |= 1 << (free % 64);
        self.summary[free / 4096] |= 1 << (free / 64 % 64);
    }

    fn first_stack(&self, from: usize) -> Option<usize> {
        let word = from / 64;
        let here = self.words[word] & (u64::MAX << (from % 64));
        if here != 0 {
            return Some(word * 64 + here.trailing_zeros() as usize);
        }
        let mut index = (word + 1) / 64;
        let mut mask = u64::MAX << ((word + 1) % 64);
        while let Some(summary) = self.summary.get(index) {
            let later = summary & mask;
            if later != 0 {
                let word = index * 64 + later.trailing_zeros() as usize;
                return Some(word * 64 + self.words[word].trailing_zeros() as usize);
            }
            index += 1;
            mask = u64::MAX;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::Rng;

    use super::*;
    use crate::corpus::random::{keyed_stream, unit_interval};

    /// Best-fit decreasing as the text books have it, in quadratic time.
    fn rows_of_reference(lengths: &[u16], row_tokens: u32) -> Vec<u32> {
        let mut sorted: Vec<u32> = lengths.iter().map(|&length| u32::from(length)).collect();
        sorted.sort_unstable_by(|a, b| b.cmp(a));
        let mut free: Vec<u32> = Vec::new();
        for length in sorted {
            match free.iter_mut().filter(|free| **free >= length).min() {
                Some(best) => *best -= length,
                None => free.push(row_tokens - length),
            }
        }
        free.sort_unstable();
        free
    }

    proptest! {
        #[test]
        fn packs_as_the_reference_does(
            lengths in prop::collection::vec(1_u16..300, 0..400),
            row_tokens in 300_u32..9_000,
        ) {
            let packed = pack(&lengths, row_tokens);
            let mut seen = vec![false; lengths.len()];
            let mut free = Vec::new();
            for row in 0..packed.len() {
                let mut tokens = 0;
                for &index in packed.row(row) {
                    prop_assert!(!seen[index as usize]);
                    seen[index as usize] = true;
                    tokens += u32::from(lengths[index as usize]);
                }
                prop_assert!(tokens <= row_tokens);
                free.push(row_tokens - tokens);
            }
            prop_assert!(seen.iter().all(|&seen| seen));
            free.sort_unstable();
            prop_assert_eq!(free, rows_of_reference(&lengths, row_tokens));
        }
    }

    #[test]
    fn nothing_packs_into_no_rows() {
        assert!(pack(&[], 8192).is_empty());
    }

    #[test]
    fn realistic_lengths_fill_the_rows() {
        // Log-normal documents around 400 tokens (abstracts and notes), and one in ten a full-text
        // article cut into full chunks and a rest: about 2,000 rows of 8,192.
        let mut stream = keyed_stream(5, "test lengths", &[]);
        let mut lengths: Vec<u16> = Vec::new();
        let mut tokens = 0_u64;
        while tokens < 2_048 * 8_192 {
            let (a, b) = (
                unit_interval(stream.next_u64()),
                unit_interval(stream.next_u64()),
            );
            let normal = (-2.0 * (1.0 - a).ln()).sqrt() * (std::f64::consts::TAU * b).cos();
            let center: f64 = if stream.next_u64().is_multiple_of(10) {
                6_000.0
            } else {
                400.0
            };
            let mut left = (center.ln() + 0.6 * normal).exp() as u64 + 3;
            while left > 0 {
                let length = left.min(8_192);
                lengths.push(length as u16);
                tokens += length;
                left -= length;
            }
        }
        let packed = pack(&lengths, 8_192);
        let filled = tokens as f64 / (packed.len() as f64 * 8_192.0);
        println!(
            "{} chunks in {} rows, {:.4} filled",
            lengths.len(),
            packed.len(),
            filled
        );
        assert!(filled >= 0.995, "{filled}");
    }
}
