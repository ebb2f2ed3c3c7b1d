//! The data path of one rank: plan, shards, rows, masks. `scripts/bench-loader` runs it.
//!
//! Without an argument it prepares a corpus of invented notes in a temporary folder; with one, it
//! reads the prepared corpus in that folder.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark prints what it measures, and may end where it cannot go on"
)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use cohort::config;
use cohort::corpus::masking::{MaskRule, RowKey, mask_row};
use cohort::data::Corpus;
use cohort::data::blueprint::{Blueprint, BlueprintSpec};
use cohort::data::location::{CorpusLocation, CorpusStore};
use cohort::data::prefetch::BatchRequest;
use cohort::ids::RowIndex;
use cohort::prepare;
use cohort::prepare::config::CorpusConfig;
use cohort::prepare::progress::Silent;
use cohort::run::schedule::PhaseSettings;
use cohort::store::backend::Credentials;
use cohort::telemetry::Stopwatch;
use tempfile::TempDir;

const ROW_TOKENS: u32 = 8192;
/// Rows of one rank's share of a step.
const ROWS: u64 = 16;
const ROUNDS: u32 = 3;
const BUILDS: u64 = 150;

const CORPUS: &str = "
name: bench
output: corpus
tokenizer: {train: {vocab_size: 16384, sample_bytes: 4_000_000}}
max_length: 8192
held_out: 0.002
institutions:
  - id: invented
    name: Nobody
    sources:
      - {id: summaries, licence: none, read: {synthetic: {style: discharge_summary, documents: 60_000}}}
      - {id: notes, licence: none, read: {synthetic: {style: progress_note, documents: 60_000}}}
      - {id: visits, licence: none, read: {synthetic: {style: dialogue, documents: 30_000}}}
";

const PHASE: &str = "
name: stable
mixture: all
mask_rate: 0.3
learning_rate: 1.0e-3
";

fn prepared(folder: &Path) -> PathBuf {
    let origin = folder.join("corpus.yaml");
    std::fs::write(&origin, CORPUS).unwrap();
    let config: CorpusConfig = config::load(&origin).unwrap();
    let watch = Stopwatch::start();
    prepare::run(&config, &origin, &mut Silent).unwrap();
    println!(
        "corpus of invented notes prepared in {:.0} s",
        watch.seconds()
    );
    folder.join("corpus")
}

fn draw(corpus: Corpus) -> Blueprint {
    let phase: PhaseSettings = config::parse(PHASE, "the phase").unwrap();
    let spec = BlueprintSpec {
        seed: 17,
        row_tokens: ROW_TOKENS.max(corpus.manifest().max_length),
        rows: ROWS as u32,
        protect_special: false,
        phases: vec![phase],
    };
    Blueprint::draw(Arc::new(corpus), &spec).unwrap()
}

/// Builds batches until `tokens` have come, and returns how many and in how many seconds.
fn read(blueprint: &Blueprint, tokens: u64) -> (u64, f64) {
    let watch = Stopwatch::start();
    let (mut read, mut first) = (0, 0);
    while read < tokens {
        let rows = (first..first + ROWS).map(RowIndex).collect();
        let batch = blueprint.build(&BatchRequest { phase: 0, rows }).unwrap();
        read += batch
            .counts
            .values()
            .map(|counts| counts.tokens)
            .sum::<u64>();
        first += ROWS;
    }
    (read, watch.seconds())
}

fn in_pool<T: Send>(threads: usize, work: impl FnOnce() -> T + Send) -> T {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
    pool.build().unwrap().install(work)
}

/// Takes a folder's files out of the page cache.
fn cool(folder: &Path) {
    let command = "find \"$0\" -type f -exec dd if={} iflag=nocache count=0 status=none ';'";
    let status = Command::new("sh")
        .args(["-c", command])
        .arg(folder)
        .status();
    assert!(status.unwrap().success());
}

fn corpus_bytes(corpus: &Corpus) -> u64 {
    let sources = corpus.manifest().sources();
    sources
        .flat_map(|(_, _, source)| &source.train.shards)
        .map(|shard| shard.stored.bytes)
        .sum()
}

fn warm(folder: &Path, threads: usize) {
    let blueprint = draw(Corpus::open(folder).unwrap());
    let tokens = blueprint.schedule.lengths_tokens[0];
    let mut best: f64 = 0.0;
    in_pool(threads, || {
        read(&blueprint, tokens);
        for _ in 0..ROUNDS {
            let (read, seconds) = read(&blueprint, tokens.min(BUILDS * ROWS * 8192));
            best = best.max(read as f64 / seconds);
        }
    });
    println!(
        "warm, {threads} threads: {:.1} million tokens/s",
        best / 1e6
    );
}

/// What each part of the path takes, on one thread.
fn parts(folder: &Path) {
    let blueprint = draw(Corpus::open(folder).unwrap());
    let (plan, corpus) = (&blueprint.phases[0].builder.plan, &blueprint.corpus);
    let last = BUILDS * ROWS;
    let mut tokens = 0;
    let watch = Stopwatch::start();
    for row in 0..last {
        tokens += u64::from(plan.row(RowIndex(row)).tokens);
    }
    let planned = watch.seconds();
    let rule = MaskRule {
        rate: 0.3,
        protect_special: false,
    };
    let ids: Vec<u32> = (0..ROW_TOKENS).map(|index| index % 16_000).collect();
    let watch = Stopwatch::start();
    for row in 0..last {
        let key = RowKey {
            seed: 17,
            phase: 1,
            row: RowIndex(row),
        };
        let masked = mask_row(key, &ids, &rule, &corpus.manifest().tokenizer);
        assert_eq!(masked.labels.len(), ids.len());
    }
    let masked = watch.seconds() * tokens as f64 / (last * u64::from(ROW_TOKENS)) as f64;
    let whole = in_pool(1, || {
        read(&blueprint, tokens);
        read(&blueprint, tokens).1
    });
    let nanoseconds = |seconds: f64| seconds / tokens as f64 * 1e9;
    println!(
        "one thread, ns a token: {:.2} all, of which {:.2} plan, {:.2} masks",
        nanoseconds(whole),
        nanoseconds(planned),
        nanoseconds(masked)
    );
}

/// Every shard once, hashed and read: from the disk, and through a cache that is empty.
fn cold(folder: &Path) {
    let cache = TempDir::new().unwrap();
    let store = CorpusLocation::Store(CorpusStore {
        cache: Some(cache.path().to_owned()),
        ..CorpusStore::at(format!("file://{}", folder.display()))
    });
    let plain = CorpusLocation::Folder(folder.to_owned());
    for (what, location) in [
        ("cold from disk", &plain),
        ("through an empty cache", &store),
        ("through the cache, first open", &store),
    ] {
        cool(folder);
        let watch = Stopwatch::start();
        let corpus = Corpus::open_at(location, &Credentials::Environment).unwrap();
        let bytes = corpus_bytes(&corpus);
        let blueprint = draw(corpus);
        read(&blueprint, blueprint.schedule.lengths_tokens[0]);
        println!("{what}: {:.0} MB/s", bytes as f64 / 1e6 / watch.seconds());
    }
}

fn main() {
    let temporary = TempDir::new().unwrap();
    let given = std::env::args().skip(1).find(|word| !word.starts_with('-'));
    let folder = given.map_or_else(|| prepared(temporary.path()), PathBuf::from);
    let folder = std::path::absolute(folder).unwrap();
    let corpus = Corpus::open(&folder).unwrap();
    println!(
        "{:.0} MB in shards, rows of {ROW_TOKENS} tokens, {ROWS} a batch",
        corpus_bytes(&corpus) as f64 / 1e6
    );
    drop(corpus);
    cold(&folder);
    parts(&folder);
    for threads in [1, 2] {
        warm(&folder, threads);
    }
}
