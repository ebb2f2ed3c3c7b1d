//! How much of each source a phase reads: the mixture of a run's YAML, and what it comes to.
//!
//! A resolved mixture gives every source a rate, in chunks per token of the mixture, as an exact
//! fraction. Rates never pass through floating point after the YAML's numbers are read, so the
//! proportion neither drifts over billions of rows nor differs between machines.

use std::collections::{BTreeMap, BTreeSet};

use garde::Validate;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::corpus::rate::Rate;
use crate::corpus::{Institution, Manifest, Source};
use crate::ids::SourceIndex;

pub mod repeats;

/// Epochs and weights are read to this precision.
const PARTS: f64 = 1e6;
/// The largest number of epochs, or the largest weight, that a mixture may name. It keeps the
/// exact arithmetic of a [`Rate`] inside 128 bits.
const VALUE_MAX: f64 = 1e4;

/// The mixture of a phase. Sources that no pattern names are not in the phase.
///
/// A pattern is `institution/source`, `institution/*` or `*`; the most specific one that matches a
/// source decides. A value of 0 leaves its sources out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Validate)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Mixture {
    /// Every source once per pass.
    All,
    /// How often each source is read in one pass of the mixture.
    Epochs(#[garde(custom(check_values))] BTreeMap<String, f64>),
    /// Each pattern's share of the tokens, relative to the sum of all; among the sources of one
    /// pattern the share is split by their tokens.
    Weights(#[garde(custom(check_values))] BTreeMap<String, f64>),
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "the signature that garde calls"
)]
fn check_values(values: &BTreeMap<String, f64>, (): &()) -> garde::Result {
    for (pattern, &value) in values {
        check_value(value)
            .map_err(|problem| garde::Error::new(format!("`{pattern}` is {problem}")))?;
    }
    if values.values().all(|value| *value == 0.0) {
        return Err(garde::Error::new("names no source with a value above 0"));
    }
    Ok(())
}

fn check_value(value: f64) -> Result<(), String> {
    if !(0.0..=VALUE_MAX).contains(&value) {
        return Err(format!("{value}, but must be between 0 and {VALUE_MAX}"));
    }
    if value > 0.0 && parts(value) == 0 {
        return Err(format!("{value}, but the smallest value is 0.000001"));
    }
    Ok(())
}

/// What keeps a mixture from being read from a corpus. All of it is the operator's to fix.
#[derive(Debug, Error, PartialEq)]
pub enum MixtureError {
    #[error(
        "the mixture names `{pattern}`, which no source of corpus `{corpus}` matches\n  \
         hint: the corpus has {existing}; a pattern is `institution/source`, `institution/*` or `*`"
    )]
    NoMatch {
        pattern: String,
        corpus: String,
        existing: String,
    },
    #[error(
        "the mixture names `{pattern}`, but more specific patterns already name all of its \
         sources\n  \
         hint: remove `{pattern}`"
    )]
    Shadowed { pattern: String },
    #[error(
        "the mixture names `{pattern}`, but its sources have no training chunks\n  \
         hint: remove `{pattern}`, or prepare the corpus with a smaller held-out share"
    )]
    NoChunks { pattern: String },
    #[error("the mixture's value for `{pattern}` is {problem}")]
    Value { pattern: String, problem: String },
    #[error("the mixture leaves every source out\n  hint: give one pattern a value above 0")]
    Empty,
    #[error(
        "`max_epochs` names `{pattern}`, which no source of corpus `{corpus}` matches\n  \
         hint: a pattern is `institution/source`, `institution/*` or `*`"
    )]
    CapOfNoSource { pattern: String, corpus: String },
    #[error(
        "source `{name}` would be read {epochs:.2} times, more often than `max_epochs` allows, \
         {cap}\n  \
         hint: shorten the phase, give the source a smaller part of the mixture, or raise \
         `max_epochs`"
    )]
    TooManyEpochs { name: String, epochs: f64, cap: f64 },
}

/// One source of a resolved mixture.
#[derive(Clone, Debug, PartialEq)]
pub struct MixedSource {
    pub source: SourceIndex,
    /// `institution/source`.
    pub name: String,
    /// Documents, chunks and tokens of one epoch of the source.
    pub documents: u64,
    pub chunks: u64,
    pub tokens: u64,
    pub rate: Rate,
}

impl MixedSource {
    /// Epochs that the source makes while the mixture gives `tokens` tokens.
    pub fn epochs_over(&self, tokens: u64) -> f64 {
        self.rate.chunks_per_token() * tokens as f64 / self.chunks as f64
    }

    /// The source's expected share of the mixture's tokens, between 0 and 1.
    pub fn share(&self) -> f64 {
        self.rate.chunks_per_token() * self.tokens as f64 / self.chunks as f64
    }
}

/// A mixture fitted to a corpus, its sources in manifest order.
#[derive(Clone, Debug, PartialEq)]
pub struct ResolvedMixture {
    pub sources: Vec<MixedSource>,
    /// Tokens of one pass: with epochs, the sum of epochs times tokens; with weights, the tokens of
    /// the phase's sources taken once.
    pub pass_tokens: u64,
}

impl Mixture {
    /// Fits the mixture to the training splits of a corpus.
    pub fn resolve(&self, manifest: &Manifest) -> Result<ResolvedMixture, MixtureError> {
        let every = BTreeMap::from([("*".to_owned(), 1.0)]);
        let (values, weighted) = match self {
            Self::All => (&every, false),
            Self::Epochs(values) => (values, false),
            Self::Weights(values) => (values, true),
        };
        let taken = match_sources(values, manifest)?;
        let total: u128 = if weighted {
            let used: BTreeSet<&str> = taken.iter().map(|source| source.pattern).collect();
            used.iter()
                .map(|pattern| u128::from(parts(values[*pattern])))
                .sum()
        } else {
            taken
                .iter()
                .map(|source| u128::from(source.parts) * u128::from(source.tokens))
                .sum()
        };
        let mut pattern_tokens: BTreeMap<&str, u128> = BTreeMap::new();
        for source in &taken {
            *pattern_tokens.entry(source.pattern).or_default() += u128::from(source.tokens);
        }
        let sources = taken
            .iter()
            .map(|source| {
                let numerator = u128::from(source.parts) * u128::from(source.chunks);
                let denominator = if weighted {
                    total * pattern_tokens[source.pattern]
                } else {
                    total
                };
                MixedSource {
                    source: source.index,
                    name: source.name.clone(),
                    documents: source.documents,
                    chunks: source.chunks,
                    tokens: source.tokens,
                    rate: Rate::new(numerator, denominator),
                }
            })
            .collect();
        let pass_tokens = if weighted {
            taken.iter().map(|source| source.tokens).sum()
        } else {
            ((total + PARTS as u128 / 2) / PARTS as u128).max(1) as u64
        };
        Ok(ResolvedMixture {
            sources,
            pass_tokens,
        })
    }
}

struct Taken<'a> {
    index: SourceIndex,
    name: String,
    documents: u64,
    chunks: u64,
    tokens: u64,
    pattern: &'a str,
    /// The pattern's value in millionths.
    parts: u64,
}

fn match_sources<'a>(
    values: &'a BTreeMap<String, f64>,
    manifest: &Manifest,
) -> Result<Vec<Taken<'a>>, MixtureError> {
    for (pattern, &value) in values {
        check_value(value).map_err(|problem| MixtureError::Value {
            pattern: pattern.clone(),
            problem,
        })?;
    }
    let mut taken = Vec::new();
    let mut matched: BTreeSet<&str> = BTreeSet::new();
    let mut decided: BTreeSet<&str> = BTreeSet::new();
    let mut filled: BTreeSet<&str> = BTreeSet::new();
    for (index, institution, source) in manifest.sources() {
        let matching = patterns_of(values, institution, source);
        matched.extend(&matching);
        let Some(&pattern) = matching.first() else {
            continue;
        };
        decided.insert(pattern);
        if source.train.chunks == 0 || source.train.tokens == 0 {
            continue;
        }
        filled.insert(pattern);
        let parts = parts(values[pattern]);
        if parts > 0 {
            taken.push(Taken {
                index,
                name: institution.name_of(source),
                documents: source.train.documents,
                chunks: source.train.chunks,
                tokens: source.train.tokens,
                pattern,
                parts,
            });
        }
    }
    for pattern in values.keys() {
        let pattern = pattern.clone();
        if !matched.contains(pattern.as_str()) {
            let corpus = manifest.name.clone();
            return Err(MixtureError::NoMatch {
                pattern,
                corpus,
                existing: existing(manifest),
            });
        }
        if !decided.contains(pattern.as_str()) {
            return Err(MixtureError::Shadowed { pattern });
        }
        if !filled.contains(pattern.as_str()) {
            return Err(MixtureError::NoChunks { pattern });
        }
    }
    if taken.is_empty() {
        return Err(MixtureError::Empty);
    }
    Ok(taken)
}

/// The patterns that match a source, the one that decides first.
fn patterns_of<'a>(
    values: &'a BTreeMap<String, f64>,
    institution: &Institution,
    source: &Source,
) -> Vec<&'a str> {
    let candidates = [
        institution.name_of(source),
        format!("{}/*", institution.id),
        "*".to_owned(),
    ];
    let known = |candidate| values.get_key_value(candidate);
    let found = candidates.iter().filter_map(known);
    found.map(|(pattern, _)| pattern.as_str()).collect()
}

fn parts(value: f64) -> u64 {
    (value * PARTS).round() as u64
}

fn existing(manifest: &Manifest) -> String {
    let names: Vec<String> = manifest
        .sources()
        .map(|(_, institution, source)| format!("`{}`", institution.name_of(source)))
        .collect();
    names.join(", ")
}

#[cfg(test)]
mod tests;
