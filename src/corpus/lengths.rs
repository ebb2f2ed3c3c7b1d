//! How long the documents or the chunks of a source are: counted exactly, summed up for people.
//!
//! Lengths are in tokens. Pure, and bounded in memory: a table for the short lengths, which are
//! nearly all, and a map for the few distinct long ones.

use std::collections::BTreeMap;

use serde::Serialize;

/// Lengths below it are counted in a table; every chunk's is one of them.
const SHORT_END: u64 = 1 << 16;

/// How many things have which length.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LengthCounts {
    /// By length, as far as any was seen.
    short: Vec<u64>,
    long: BTreeMap<u64, u64>,
    count: u64,
    tokens: u64,
}

/// What is said of a distribution of lengths.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LengthSummary {
    pub mean: f64,
    pub median: u64,
    pub p95: u64,
    pub longest: u64,
    /// Without gaps, from the shortest that occurs to the longest.
    pub histogram: Vec<Bin>,
}

/// The lengths from a power of two up to the next one, which is not among them; 0 counts as 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Bin {
    pub from: u64,
    pub count: u64,
    /// Tokens of all things of these lengths together.
    pub tokens: u64,
}

impl LengthCounts {
    /// Counts one thing.
    pub fn add(&mut self, length: u64) {
        self.count += 1;
        self.tokens += length;
        if length >= SHORT_END {
            *self.long.entry(length).or_default() += 1;
            return;
        }
        let place = length as usize;
        if place >= self.short.len() {
            let size = (place + 1).next_power_of_two();
            self.short.resize(size, 0);
        }
        self.short[place] += 1;
    }

    pub fn count(&self) -> u64 {
        self.count
    }

    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// The summary; none where nothing was counted.
    pub fn summary(&self) -> Option<LengthSummary> {
        let (longest, _) = self.occurring().last()?;
        Some(LengthSummary {
            mean: self.tokens as f64 / self.count as f64,
            median: self.quantile(50),
            p95: self.quantile(95),
            longest,
            histogram: self.histogram(),
        })
    }

    /// The smallest length that is not exceeded by this percentage of all (the inverse of the
    /// distribution function: Hyndman and Fan 1996, definition 1).
    fn quantile(&self, percent: u64) -> u64 {
        let wanted = (u128::from(self.count) * u128::from(percent)).div_ceil(100);
        let mut seen = 0;
        for (length, count) in self.occurring() {
            seen += u128::from(count);
            if seen >= wanted {
                return length;
            }
        }
        0
    }

    fn histogram(&self) -> Vec<Bin> {
        let mut bins: Vec<Bin> = Vec::new();
        for (length, count) in self.occurring() {
            let from = 1 << length.max(1).ilog2();
            while bins.last().is_none_or(|bin| bin.from < from) {
                bins.push(Bin {
                    from: bins.last().map_or(from, |bin| bin.from * 2),
                    count: 0,
                    tokens: 0,
                });
            }
            if let Some(bin) = bins.last_mut() {
                bin.count += count;
                bin.tokens += length * count;
            }
        }
        bins
    }

    /// Every length that occurs, from the shortest on, and how often.
    fn occurring(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let short = (0..).zip(self.short.iter().copied());
        let short = short.filter(|(_, count)| *count > 0);
        short.chain(self.long.iter().map(|(length, count)| (*length, *count)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn counts(lengths: &[u64]) -> LengthCounts {
        let mut counts = LengthCounts::default();
        for length in lengths {
            counts.add(*length);
        }
        counts
    }

    #[test]
    fn a_summary_says_what_the_lengths_are() {
        assert_eq!(LengthCounts::default().summary(), None);
        let summary = counts(&[3, 4, 7, 8, 70_000]).summary();
        let bin = |from, count, tokens| Bin {
            from,
            count,
            tokens,
        };
        let mut histogram = vec![bin(2, 1, 3), bin(4, 2, 11), bin(8, 1, 8)];
        histogram.extend((4..16).map(|power| bin(1 << power, 0, 0)));
        histogram.push(bin(65_536, 1, 70_000));
        let expected = LengthSummary {
            mean: 14_004.4,
            median: 7,
            p95: 70_000,
            longest: 70_000,
            histogram,
        };
        assert_eq!(summary, Some(expected));
    }

    proptest! {
        #[test]
        fn quantiles_are_those_of_the_sorted_list(
            mut lengths in prop::collection::vec(1..200_000_u64, 1..200)
        ) {
            let summary = counts(&lengths).summary().expect("there is a length");
            lengths.sort_unstable();
            let rank = |percent: usize| lengths[(lengths.len() * percent).div_ceil(100) - 1];
            prop_assert_eq!((summary.median, summary.p95), (rank(50), rank(95)));
            prop_assert_eq!(summary.longest, lengths[lengths.len() - 1]);
            let bins = &summary.histogram;
            for bin in bins {
                let range = bin.from..bin.from * 2;
                let inside = lengths.iter().filter(|length| range.contains(length));
                prop_assert_eq!(bin.tokens, inside.clone().sum::<u64>());
                prop_assert_eq!(bin.count, inside.count() as u64);
            }
            prop_assert_eq!(bins.iter().map(|bin| bin.count).sum::<u64>(), lengths.len() as u64);
            prop_assert!(bins[0].count > 0 && bins[bins.len() - 1].count > 0);
        }
    }
}
