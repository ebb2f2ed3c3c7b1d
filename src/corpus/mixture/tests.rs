//! Mixtures as they stand in a run's YAML, and the exact numbers they come to.

use std::collections::BTreeMap;

use garde::Validate;
use serde::Deserialize;

use super::{Mixture, MixtureError, repeats};
use crate::config;
use crate::corpus::{Institution, Manifest, Source, Split, StoredFile, TokenizerInfo};

fn source(id: &str, chunks: u64, tokens: u64) -> Source {
    Source {
        id: id.to_owned(),
        licence: "CC BY 4.0".to_owned(),
        train: Split {
            documents: chunks,
            chunks,
            tokens,
            ..Split::default()
        },
        held_out: Split::default(),
        dropped: BTreeMap::new(),
        unigrams: StoredFile {
            file: String::new(),
            bytes: 0,
            digest: String::new(),
        },
    }
}

fn institution(id: &str, sources: Vec<Source>) -> Institution {
    Institution {
        id: id.to_owned(),
        name: id.to_owned(),
        country: None,
        sources,
    }
}

fn manifest() -> Manifest {
    Manifest {
        version: 1,
        name: "test".to_owned(),
        tokenizer: TokenizerInfo {
            digest: String::new(),
            new_tokens: None,
            vocab_size: 100,
            cls: 1,
            sep: 2,
            pad: 3,
            mask: 4,
            unk: 5,
            random_ids_end: 90,
        },
        max_length: 512,
        held_out_permille: 0,
        institutions: vec![
            institution("pmc", vec![source("articles", 1_000, 400_000)]),
            institution(
                "us",
                vec![source("notes", 300, 30_000), source("reports", 500, 70_000)],
            ),
            institution("uk", vec![source("empty", 0, 0)]),
        ],
    }
}

#[derive(Debug, Deserialize, Validate)]
#[serde(deny_unknown_fields)]
struct Phase {
    #[garde(dive)]
    mixture: Mixture,
}

fn parse(yaml: &str) -> Result<Mixture, String> {
    config::parse::<Phase>(yaml, "run.yaml")
        .map(|phase| phase.mixture)
        .map_err(|error| error.to_string())
}

fn resolve(yaml: &str) -> Result<super::ResolvedMixture, MixtureError> {
    parse(yaml).expect("the YAML is valid").resolve(&manifest())
}

#[test]
fn all_reads_every_source_once_per_pass() {
    let mixture = resolve("mixture: all").unwrap();
    assert_eq!(mixture.pass_tokens, 500_000);
    let names: Vec<&str> = mixture
        .sources
        .iter()
        .map(|source| source.name.as_str())
        .collect();
    assert_eq!(names, ["pmc/articles", "us/notes", "us/reports"]);
    for source in &mixture.sources {
        assert_eq!(source.rate.chunks_in(500_000), Some(source.chunks));
        assert_eq!(
            source.rate.chunks_in(5_000_000_000_000),
            Some(source.chunks * 10_000_000)
        );
        assert!((source.epochs_over(1_000_000) - 2.0).abs() < 1e-12);
    }
}

#[test]
fn epochs_multiply_and_the_most_specific_pattern_decides() {
    let mixture = resolve("mixture: {epochs: {\"*\": 0.5, \"us/*\": 3, \"us/notes\": 2}}").unwrap();
    // 0.5 * 400,000 + 2 * 30,000 + 3 * 70,000
    assert_eq!(mixture.pass_tokens, 470_000);
    let chunks: Vec<_> = mixture
        .sources
        .iter()
        .map(|source| source.rate.chunks_in(470_000))
        .collect();
    assert_eq!(chunks, [Some(500), Some(600), Some(1_500)]);
}

#[test]
fn weights_are_shares_of_tokens() {
    let mixture = resolve("mixture: {weights: {\"pmc/articles\": 1, \"us/*\": 3}}").unwrap();
    assert_eq!(mixture.pass_tokens, 500_000);
    let shares: Vec<f64> = mixture
        .sources
        .iter()
        .map(super::MixedSource::share)
        .collect();
    for (share, expected) in shares.iter().zip([0.25, 0.225, 0.525]) {
        assert!((share - expected).abs() < 1e-12, "{shares:?}");
    }
    // 100,000 of 400,000 tokens: a quarter epoch of the articles, three epochs of the others.
    assert_eq!(mixture.sources[0].rate.chunks_in(400_000), Some(250));
    assert_eq!(mixture.sources[1].rate.chunks_in(400_000), Some(900));
    assert_eq!(mixture.sources[2].rate.chunks_in(400_000), Some(1_500));
}

#[test]
fn a_zero_leaves_its_sources_out() {
    let mixture = resolve("mixture: {epochs: {\"*\": 1, \"us/reports\": 0}}").unwrap();
    assert_eq!(mixture.sources.len(), 2);
    assert_eq!(mixture.pass_tokens, 430_000);
}

#[test]
fn wrong_mixtures_are_refused_with_what_exists() {
    let wrong = |yaml| resolve(yaml).unwrap_err().to_string();
    assert_eq!(
        wrong("mixture: {epochs: {\"pmc/*\": 1, \"usa/*\": 1}}"),
        "the mixture names `usa/*`, which no source of corpus `test` matches\n  hint: the corpus \
         has `pmc/articles`, `us/notes`, `us/reports`, `uk/empty`; a pattern is \
         `institution/source`, `institution/*` or `*`"
    );
    assert_eq!(
        wrong("mixture: {weights: {\"pmc/articles\": 1, \"pmc/*\": 2}}"),
        "the mixture names `pmc/*`, but more specific patterns already name all of its sources\n  \
         hint: remove `pmc/*`"
    );
    assert!(wrong("mixture: {epochs: {\"uk/*\": 1}}").contains("have no training chunks"));
    assert!(
        wrong("mixture: {epochs: {\"uk/*\": 1, \"us/notes\": 0}}").contains("no training chunks")
    );
}

#[test]
fn wrong_values_are_refused_in_the_yaml() {
    for (yaml, expected) in [
        (
            "mixture: {epochs: {\"*\": -1}}",
            "must be between 0 and 10000",
        ),
        (
            "mixture: {epochs: {\"*\": .nan}}",
            "must be between 0 and 10000",
        ),
        (
            "mixture: {weights: {\"*\": 1e-9}}",
            "smallest value is 0.000001",
        ),
        (
            "mixture: {weights: {\"*\": 0}}",
            "names no source with a value above 0",
        ),
        (
            "mixture: {weights: {}}",
            "names no source with a value above 0",
        ),
        ("mixture: {epoch: {\"*\": 1}}", "epoch"),
        ("mixture: some", "some"),
    ] {
        let error = parse(yaml).unwrap_err();
        assert!(error.contains(expected), "{yaml}: {error}");
    }
    // A mixture that did not come from a file is held to the same rules.
    let direct = Mixture::Epochs(BTreeMap::from([("*".to_owned(), f64::INFINITY)]));
    assert!(matches!(
        direct.resolve(&manifest()),
        Err(MixtureError::Value { .. })
    ));
}

/// What a cap says of a phase of `tokens` tokens.
fn within(caps: &[(&str, f64)], yaml: &str, tokens: u64) -> Result<(), MixtureError> {
    let caps = caps
        .iter()
        .map(|(pattern, cap)| ((*pattern).to_owned(), *cap));
    let mixture = resolve(yaml).expect("the mixture fits");
    match repeats::limit(&caps.collect(), &mixture, &manifest())? {
        Some(limit) => limit.expect_within(tokens),
        None => Ok(()),
    }
}

#[test]
fn the_longest_phase_is_the_last_that_the_caps_allow() {
    let halves = "mixture: {weights: {pmc/*: 1, us/*: 1}}";
    let mixture = resolve(halves).unwrap();
    let caps = BTreeMap::from([("*".to_owned(), 9.0), ("us/reports".to_owned(), 4.5)]);
    let limit = repeats::limit(&caps, &mixture, &manifest()).unwrap();
    let limit = limit.expect("a cap is on a source of the mixture");
    assert_eq!(limit.source, "us/reports");
    // A length that is rounded to 4.50 epochs still passes; 4.505 is not.
    assert!((900_999..=901_000).contains(&limit.tokens_max), "{limit:?}");
    assert_eq!(limit.expect_within(limit.tokens_max), Ok(()));
    assert!(limit.expect_within(limit.tokens_max + 1).is_err());
    assert_eq!(
        repeats::limit(&BTreeMap::new(), &mixture, &manifest()),
        Ok(None)
    );
    let endless = BTreeMap::from([("*".to_owned(), f64::INFINITY)]);
    let limit = repeats::limit(&endless, &mixture, &manifest()).unwrap();
    assert_eq!(limit.unwrap().expect_within(u64::MAX - 1), Ok(()));
}

#[test]
fn a_cap_refuses_what_repeats_too_often() {
    // Equal weights: half of the tokens are of `us`, whose 100,000 are thus read 5 times.
    let halves = "mixture: {weights: {pmc/*: 1, us/*: 1}}";
    assert_eq!(within(&[], halves, 1_000_000), Ok(()));
    assert_eq!(within(&[("*", 5.0)], halves, 1_000_000), Ok(()));
    assert_eq!(
        within(&[("*", 2.0), ("us/*", 5.0)], halves, 1_000_000),
        Ok(())
    );
    // Four thousandths of an epoch more are rounded away, two hundredths are not.
    assert_eq!(within(&[("*", 5.0)], halves, 1_000_800), Ok(()));
    let told = within(&[("*", 5.0)], halves, 1_004_000)
        .unwrap_err()
        .to_string();
    let expected = "source `us/notes` would be read 5.02 times, more often than `max_epochs` \
                    allows, 5\n  hint: shorten the phase, give the source a smaller part of the \
                    mixture, or raise `max_epochs`";
    assert_eq!(told, expected);
    let told = within(&[("us/*", 9.0), ("us/reports", 4.5)], halves, 1_000_000);
    assert!(told.unwrap_err().to_string().contains("`us/reports`"));
    let told = within(&[("uk/*", 1.0), ("fr/*", 1.0)], halves, 1_000_000);
    assert!(
        told.unwrap_err()
            .to_string()
            .contains("`max_epochs` names `fr/*`")
    );
}
