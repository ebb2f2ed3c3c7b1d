//! How often what happened, over all seeds: a simulation that does not meet a fault proves nothing
//! about it.

use std::collections::BTreeMap;

#[derive(Clone, Debug, Default)]
pub struct Tally(BTreeMap<&'static str, u64>);

impl Tally {
    pub fn count(&mut self, what: &'static str) {
        *self.0.entry(what).or_default() += 1;
    }

    pub fn add(&mut self, other: &Self) {
        for (what, number) in &other.0 {
            *self.0.entry(what).or_default() += number;
        }
    }

    pub fn of(&self, what: &str) -> u64 {
        self.0.get(what).copied().unwrap_or_default()
    }

    pub fn lines(&self) -> String {
        let lines = self
            .0
            .iter()
            .map(|(what, number)| format!("{number:>10} {what}"));
        lines.collect::<Vec<_>>().join("\n")
    }
}
