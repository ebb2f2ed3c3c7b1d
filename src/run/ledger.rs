//! Whose text is in the weights: tokens, chunks and documents per source. Pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::run::schedule::{PhaseKind, PhaseSettings};

/// What one source has given so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Consumed {
    /// Tokens seen by the model, `[CLS]` and `[SEP]` included, padding not; a token seen twice
    /// counts twice.
    pub tokens: u64,
    pub chunks: u64,
    /// Documents whose first chunk was seen; a document seen twice counts twice.
    pub documents: u64,
    /// Tokens and chunks of rows that were read or passed over and changed no weights. None of the
    /// other numbers counts them.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub skipped_tokens: u64,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub skipped_chunks: u64,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "the signature that serde calls"
)]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl Consumed {
    /// Whether any of it is in the weights.
    pub fn was_seen(&self) -> bool {
        self.tokens > 0
    }

    /// The same as skipped.
    #[must_use]
    pub fn skipped(self) -> Self {
        Self {
            skipped_tokens: self.tokens,
            skipped_chunks: self.chunks,
            ..Self::default()
        }
    }

    fn add(&mut self, other: Self) {
        self.tokens += other.tokens;
        self.chunks += other.chunks;
        self.documents += other.documents;
        self.skipped_tokens += other.skipped_tokens;
        self.skipped_chunks += other.skipped_chunks;
    }
}

/// The phase under which a ledger holds what was in the weights that a run started from. No phase
/// of a run has such a name.
const START: &str = "(start)";

/// `ledger.json` of a checkpoint: phase name, then source name, then what it gave.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Ledger {
    phases: BTreeMap<String, BTreeMap<String, Consumed>>,
}

impl Ledger {
    /// Enters what a step took from a source, or skipped of it.
    pub fn add(&mut self, phase: &str, source: &str, step: Consumed) {
        if step == Consumed::default() {
            return;
        }
        self.phases
            .entry(phase.to_owned())
            .or_default()
            .entry(source.to_owned())
            .or_default()
            .add(step);
    }

    /// What a run has behind it that starts from the weights of a checkpoint with this ledger.
    #[must_use]
    pub fn of_start(&self) -> Self {
        let seen = self.by_source().into_iter().filter_map(|(source, all)| {
            let seen = Consumed {
                skipped_tokens: 0,
                skipped_chunks: 0,
                ..all
            };
            seen.was_seen().then_some((source, seen))
        });
        let sources: BTreeMap<String, Consumed> = seen.collect();
        let phases = [(START.to_owned(), sources)].into_iter();
        Self {
            phases: phases.filter(|(_, sources)| !sources.is_empty()).collect(),
        }
    }

    /// Tokens read in a phase.
    pub fn tokens_in(&self, phase: &str) -> u64 {
        let sources = self.phases.get(phase).into_iter().flatten();
        sources.map(|(_, consumed)| consumed.tokens).sum()
    }

    /// Whether anything was read in a phase of that name.
    pub fn has_phase(&self, phase: &str) -> bool {
        self.phases.contains_key(phase)
    }

    /// Which of a branch's phases is its first: the schedule's first, where the branch brings one
    /// of its own, or else the first decay. Phases that the trunk has read in lie behind the
    /// branch, for a phase's name decides which rows it reads.
    pub fn first_of_branch(&self, phases: &[PhaseSettings]) -> Option<usize> {
        let is_new = |phase: &PhaseSettings| !self.has_phase(&phase.name);
        if phases.first().is_some_and(is_new) {
            return Some(0);
        }
        phases
            .iter()
            .position(|phase| is_new(phase) && phase.kind() == PhaseKind::Decay)
    }

    /// Per source over all phases.
    pub fn by_source(&self) -> BTreeMap<String, Consumed> {
        self.summed(|source| source)
    }

    /// Per institution over all phases; a source's name is `institution/source`.
    pub fn by_institution(&self) -> BTreeMap<String, Consumed> {
        self.summed(|source| source.split('/').next().unwrap_or(source))
    }

    fn summed(&self, key: impl Fn(&str) -> &str) -> BTreeMap<String, Consumed> {
        let mut sums: BTreeMap<String, Consumed> = BTreeMap::new();
        for (source, consumed) in self.phases.values().flatten() {
            let sum = sums.entry(key(source).to_owned()).or_default();
            sum.add(*consumed);
        }
        sums
    }
}

#[cfg(test)]
mod tests {
    use crate::corpus::mixture::Mixture;
    use crate::run::schedule::Shape;

    use super::*;

    #[test]
    fn sums_by_source_and_by_institution() {
        let one = Consumed {
            tokens: 10,
            chunks: 2,
            documents: 1,
            ..Consumed::default()
        };
        let mut ledger = Ledger::default();
        ledger.add("stable", "north/notes", one);
        ledger.add("stable", "north/letters", one);
        ledger.add("decay", "north/notes", one);
        ledger.add("decay", "south/notes", Consumed::default());
        assert_eq!(ledger.by_source()["north/notes"].tokens, 20);
        assert_eq!(
            ledger.by_institution(),
            BTreeMap::from([(
                "north".to_owned(),
                Consumed {
                    tokens: 30,
                    chunks: 6,
                    documents: 3,
                    ..Consumed::default()
                }
            )])
        );
    }

    #[test]
    fn what_was_skipped_is_kept_apart() {
        let one = Consumed {
            tokens: 10,
            chunks: 2,
            documents: 1,
            ..Consumed::default()
        };
        let mut ledger = Ledger::default();
        ledger.add("stable", "north/notes", one);
        let before = serde_json::to_string(&ledger).unwrap();
        assert!(!before.contains("skipped"), "as ledgers were before");
        ledger.add("stable", "north/notes", one.skipped());
        ledger.add("stable", "south/notes", one.skipped());
        assert_eq!(ledger.tokens_in("stable"), 10);
        let sums = ledger.by_institution();
        assert_eq!(
            (sums["north"].tokens, sums["north"].skipped_tokens),
            (10, 10)
        );
        assert_eq!(
            (sums["north"].documents, sums["north"].skipped_chunks),
            (1, 2)
        );
        assert!(!sums["south"].was_seen());
        let text = serde_json::to_string(&ledger).unwrap();
        assert_eq!(serde_json::from_str::<Ledger>(&text).unwrap(), ledger);
        let start = ledger.of_start();
        assert_eq!(
            start.by_source(),
            BTreeMap::from([("north/notes".to_owned(), one)])
        );
    }

    /// Phases, which of them the trunk has read in, and the branch's first.
    #[test]
    fn a_branch_begins_where_its_trunk_has_not_been() {
        let phase = |name: &str, shape: Shape| PhaseSettings {
            name: name.to_owned(),
            tokens: None,
            mixture: Mixture::All,
            max_epochs: BTreeMap::new(),
            mask_rate: 0.3,
            learning_rate: 1e-3,
            warmup_tokens: 0,
            shape,
            decay_tokens: None,
            floor: 0.0,
            rows_warmup: None,
        };
        let stable = |name: &str| phase(name, Shape::Constant);
        let decay = |name: &str| phase(name, Shape::OneMinusSqrt);
        let one = Consumed {
            tokens: 1,
            chunks: 1,
            documents: 1,
            ..Consumed::default()
        };
        let mut ledger = Ledger::default();
        ledger.add("one", "north/notes", one);
        let first = |ledger: &Ledger, phases: &[PhaseSettings]| ledger.first_of_branch(phases);
        assert_eq!(first(&ledger, &[stable("one"), decay("two")]), Some(1));
        let further = [stable("one"), stable("more"), decay("two")];
        assert_eq!(first(&ledger, &further), Some(2), "a decay, as a rule");
        assert_eq!(first(&ledger, &[stable("own"), decay("two")]), Some(0));
        ledger.add("two", "north/notes", one);
        assert_eq!(first(&ledger, &[stable("one"), decay("two")]), None);
    }
}
