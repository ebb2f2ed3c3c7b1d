//! How often a phase may read a source: the cap that keeps a small source of a heavy weight, or a
//! phase longer than its corpus, from becoming hundreds of epochs unnoticed.

use std::collections::{BTreeMap, BTreeSet};

use crate::corpus::Manifest;
use crate::corpus::mixture::{MixedSource, MixtureError, ResolvedMixture, patterns_of};

/// How long a phase may be, and the source that would be read too often if it were longer.
#[derive(Clone, Debug, PartialEq)]
pub struct EpochLimit {
    /// `institution/source`.
    pub source: String,
    pub cap: f64,
    /// Tokens of the longest phase that the cap allows.
    pub tokens_max: u64,
    epochs_per_token: f64,
}

impl EpochLimit {
    /// Epochs are compared to two decimals, so that a length in round tokens passes.
    fn new(mixed: &MixedSource, cap: f64) -> Self {
        let epochs_per_token = mixed.epochs_over(1);
        let epochs_end = ((cap * 100.0).round() + 0.5) / 100.0;
        Self {
            source: mixed.name.clone(),
            cap,
            tokens_max: ((epochs_end / epochs_per_token).ceil() as u64).saturating_sub(1),
            epochs_per_token,
        }
    }

    /// Epochs that the source makes in a phase of `tokens` tokens.
    pub fn epochs_over(&self, tokens: u64) -> f64 {
        self.epochs_per_token * tokens as f64
    }

    /// Refuses a phase of `tokens` tokens that reads the source more often than the cap allows.
    pub fn expect_within(&self, tokens: u64) -> Result<(), MixtureError> {
        if tokens <= self.tokens_max {
            return Ok(());
        }
        Err(MixtureError::TooManyEpochs {
            name: self.source.clone(),
            epochs: self.epochs_over(tokens),
            cap: self.cap,
        })
    }
}

/// What the caps of a phase come to; nothing where none of them is on a source that it reads.
/// Patterns are those of a mixture.
pub fn limit(
    caps: &BTreeMap<String, f64>,
    mixture: &ResolvedMixture,
    manifest: &Manifest,
) -> Result<Option<EpochLimit>, MixtureError> {
    let mut matched: BTreeSet<&str> = BTreeSet::new();
    let mut limits = Vec::new();
    for (index, institution, source) in manifest.sources() {
        let patterns = patterns_of(caps, institution, source);
        matched.extend(&patterns);
        let mixed = mixture.sources.iter().find(|mixed| mixed.source == index);
        if let (Some(mixed), Some(pattern)) = (mixed, patterns.first()) {
            limits.push(EpochLimit::new(mixed, caps[*pattern]));
        }
    }
    match caps
        .keys()
        .find(|pattern| !matched.contains(pattern.as_str()))
    {
        Some(pattern) => Err(MixtureError::CapOfNoSource {
            pattern: pattern.clone(),
            corpus: manifest.name.clone(),
        }),
        None => Ok(limits.into_iter().min_by_key(|limit| limit.tokens_max)),
    }
}
