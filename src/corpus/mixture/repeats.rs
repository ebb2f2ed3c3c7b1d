//! How often a phase may read a source: the cap that keeps a small source of a heavy weight, or a
//! phase longer than its corpus, from becoming hundreds of epochs unnoticed.

use std::collections::{BTreeMap, BTreeSet};

use crate::corpus::Manifest;
use crate::corpus::mixture::{MixtureError, ResolvedMixture, patterns_of};

/// Refuses a phase of `tokens` tokens that reads a source more often than `caps` allow. Patterns
/// are those of a mixture. Epochs are compared to two decimals, so that a length in round tokens
/// passes.
pub fn expect_within(
    caps: &BTreeMap<String, f64>,
    mixture: &ResolvedMixture,
    manifest: &Manifest,
    tokens: u64,
) -> Result<(), MixtureError> {
    let hundredths = |epochs: f64| (epochs * 100.0).round();
    let mut matched: BTreeSet<&str> = BTreeSet::new();
    for (index, institution, source) in manifest.sources() {
        let patterns = patterns_of(caps, institution, source);
        matched.extend(&patterns);
        let mixed = mixture.sources.iter().find(|mixed| mixed.source == index);
        let (Some(mixed), Some(cap)) = (mixed, patterns.first().map(|pattern| caps[*pattern]))
        else {
            continue;
        };
        let epochs = mixed.epochs_over(tokens);
        if hundredths(epochs) > hundredths(cap) {
            let name = mixed.name.clone();
            return Err(MixtureError::TooManyEpochs { name, epochs, cap });
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
        None => Ok(()),
    }
}
