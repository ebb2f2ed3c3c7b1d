//! The plan at the size of the published corpus, 53.5 billion tokens in 130 million chunks.
//! `scripts/bench-plan` runs it.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark prints what it measures, and may end where it cannot go on"
)]

use std::fs;
use std::sync::Arc;

use cohort::corpus::plan::PhasePlan;
use cohort::corpus::plan_spec::{
    BLOCK_ROWS_DEFAULT, PlanSpec, SHUFFLE_CHUNKS_DEFAULT, SourceLengths,
};
use cohort::corpus::random::{below, keyed_stream};
use cohort::corpus::rate::Rate;
use cohort::ids::{RowIndex, SourceIndex};
use cohort::telemetry::Stopwatch;
use rand::Rng;

const ROW_TOKENS: u32 = 8192;
/// Passes over everything that the published stable phase makes.
const EPOCHS: u64 = 3;
/// Token ids of a shard in `cohort prepare`'s default.
const SHARD_TOKENS: u64 = 32 << 20;
const LOOK_UPS: u64 = 2_000;

/// A source: its chunks, and the deciles of their lengths in tokens (at most 8192), measured on
/// real text with ModernBERT's tokenizer.
struct Shape {
    name: &'static str,
    chunks: u64,
    deciles: [u16; 11],
}

const SHAPES: [Shape; 4] = [
    // Title and abstract; a third of the articles of PubMed have none.
    Shape {
        name: "pubmed",
        chunks: 105_000_000,
        deciles: [12, 24, 41, 301, 350, 390, 420, 459, 500, 560, 1418],
    },
    Shape {
        name: "pmc",
        chunks: 2_900_000,
        deciles: [
            5, 1030, 2973, 4168, 5061, 5775, 6561, 7405, 8192, 8192, 8192,
        ],
    },
    Shape {
        name: "sections",
        chunks: 20_000_000,
        deciles: [3, 8, 17, 26, 41, 57, 78, 112, 163, 266, 2228],
    },
    Shape {
        name: "visits",
        chunks: 2_100_000,
        deciles: [215, 491, 578, 661, 778, 955, 1179, 1378, 1613, 1938, 3628],
    },
];

/// Lengths drawn evenly between neighboring deciles, in shards of the usual size.
fn draw(shape: &Shape) -> Vec<Arc<[u16]>> {
    let mut stream = keyed_stream(5, shape.name, &[]);
    let (mut shards, mut shard, mut tokens) = (Vec::new(), Vec::new(), 0);
    for _ in 0..shape.chunks {
        let tenth = below(stream.next_u64(), 10) as usize;
        let (low, high) = (shape.deciles[tenth], shape.deciles[tenth + 1]);
        let length = low + below(stream.next_u64(), u64::from(high - low) + 1) as u16;
        shard.push(length);
        tokens += u64::from(length);
        if tokens >= SHARD_TOKENS {
            shards.push(Arc::from(std::mem::take(&mut shard)));
            tokens = 0;
        }
    }
    shards.push(Arc::from(shard));
    shards
}

fn specification() -> PlanSpec {
    let drawn: Vec<Vec<Arc<[u16]>>> = SHAPES.iter().map(draw).collect();
    let total: u64 = drawn
        .iter()
        .flatten()
        .flat_map(|shard| shard.iter())
        .map(|&length| u64::from(length))
        .sum();
    let sources = SHAPES.iter().zip(drawn).zip(0..);
    let sources = sources.map(|((shape, shards), number)| SourceLengths {
        source: SourceIndex(number),
        name: shape.name.to_owned(),
        rate: Rate::new(u128::from(shape.chunks), u128::from(total)),
        shards,
    });
    PlanSpec {
        seed: 17,
        phase: 1,
        row_tokens: ROW_TOKENS,
        block_tokens: BLOCK_ROWS_DEFAULT * u64::from(ROW_TOKENS),
        shuffle_chunks: SHUFFLE_CHUNKS_DEFAULT,
        pass_tokens: total,
        sources: sources.collect(),
    }
}

/// The process's largest resident set so far.
fn peak_mib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    let kib: u64 = line
        .unwrap()
        .split_whitespace()
        .nth(1)
        .unwrap()
        .parse()
        .unwrap();
    kib / 1024
}

fn main() {
    let specification = specification();
    let tokens = specification.pass_tokens;
    let chunks: u64 = SHAPES.iter().map(|shape| shape.chunks).sum();
    println!(
        "{chunks} chunks, {tokens} tokens; lengths drawn, {} MiB peak",
        peak_mib()
    );

    let watch = Stopwatch::start();
    let plan = PhasePlan::new(specification).unwrap();
    let digest = plan.digest()[..12].to_owned();
    println!("plan {digest} made in {:.1} s", watch.seconds());
    let mut last = 0;
    for epoch in 1..=EPOCHS {
        let watch = Stopwatch::start();
        // Fill is so near to 1 that this is within a block of the epoch's end.
        last = epoch * tokens / u64::from(ROW_TOKENS);
        plan.row(RowIndex(last));
        println!("rows of epoch {epoch} counted in {:.1} s", watch.seconds());
    }
    let fill: f64 = (0..64).map(|block| plan.fill(block * 40)).sum::<f64>() / 64.0;
    println!("rows {:.3} % full, over 64 blocks", fill * 100.0);

    let mut stream = keyed_stream(7, "look-ups", &[]);
    let mut seconds: Vec<f64> = (0..LOOK_UPS)
        .map(|_| {
            let row = RowIndex(below(stream.next_u64(), last));
            let watch = Stopwatch::start();
            assert!(!plan.row(row).chunks.is_empty());
            watch.seconds()
        })
        .collect();
    seconds.sort_by(f64::total_cmp);
    let at = |share: f64| seconds[(share * (LOOK_UPS - 1) as f64) as usize] * 1e3;
    println!(
        "a row at random in {:.2} ms (median), {:.2} ms (99 %), {:.2} ms (worst of {LOOK_UPS})",
        at(0.5),
        at(0.99),
        at(1.0)
    );
    println!("{} MiB peak", peak_mib());
}
