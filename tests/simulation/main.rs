//! Seeded simulations of a whole run: its coordinators, ranks, network, clocks and store in one
//! thread, with every fault that the design speaks of, and the design's invariants looked at after
//! every event.
//!
//! The state machines of coordinator and rank, the claim, the journal, the checkpoints' protocol,
//! progress and schedule are the program's own; what stands for processes, threads, sockets and
//! weights is here. `COHORT_SIMULATIONS` says how many seeds are tried, `COHORT_SEED` replays one.

#![expect(
    clippy::panic,
    reason = "in a test, a step that fails is a panic, and what it prints is shown"
)]

mod archive;
mod boundary;
mod checks;
mod compute;
mod coordinator;
mod dice;
mod effects;
mod faults;
mod groups;
mod handle;
mod mail;
mod objects;
mod publisher;
mod replica;
mod run;
mod scenario;
mod share;
mod shell;
mod spikes;
mod tally;
mod trainer;
mod upload;
mod world;

use run::{Outcome, simulate};
use tally::Tally;

/// What CI tries.
const SEEDS: u64 = 2_000;
/// The last events that a failure shows.
const SHOWN: usize = 60;
/// So many seeds meet everything that can happen.
const SEEDS_FOR_ALL: u64 = 1_000;

/// What must have happened, over all seeds.
const MUST_HAPPEN: [&str; 28] = [
    "ranks killed",
    "machines lost",
    "coordinators killed",
    "pauses",
    "compute threads that hang",
    "partitions",
    "connections broken",
    "clocks that jump",
    "second coordinators",
    "stalls of the store",
    "warnings",
    "ranks that left",
    "coordinators fenced off",
    "takeovers of a generation",
    "generations",
    "recoveries",
    "states copied from another rank",
    "lineages begun from a checkpoint",
    "states read from the store",
    "checkpoints published",
    "decays applied",
    "pauses applied",
    "resumes applied",
    "stops applied",
    "runs resumed",
    "steps told",
    "steps skipped",
    "ranks that went back",
];

#[expect(
    clippy::disallowed_methods,
    reason = "how many seeds are tried is no part of a run"
)]
fn setting(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    let number = text.replace('_', "").parse();
    Some(number.unwrap_or_else(|_| panic!("{name} is {text:?}, and should be a number")))
}

/// Fails with what was violated, what happened last, and how to see it again.
fn expect_sound(seed: u64, outcome: &Outcome) {
    let Some(violation) = &outcome.violation else {
        return;
    };
    let traced = simulate(seed, true);
    assert_eq!(
        traced.violation, outcome.violation,
        "seed {seed} does not replay"
    );
    let first = traced.trace.len().saturating_sub(SHOWN);
    let last: Vec<_> = traced.trace.iter().skip(first).cloned().collect();
    panic!(
        "{}\n\nseed {seed} violates {violation}\n\
         replay it with: COHORT_SEED={seed} cargo test --test simulation -- --nocapture\n",
        last.join("\n")
    );
}

#[test]
fn no_schedule_breaks_an_invariant() {
    if let Some(seed) = setting("COHORT_SEED") {
        let outcome = simulate(seed, true);
        for line in &outcome.trace {
            eprintln!("{line}");
        }
        return expect_sound(seed, &outcome);
    }
    let seeds = setting("COHORT_SIMULATIONS").unwrap_or(SEEDS);
    let first = setting("COHORT_FIRST_SEED").unwrap_or(0);
    let mut tally = Tally::default();
    for seed in first..first + seeds {
        let outcome = simulate(seed, false);
        expect_sound(seed, &outcome);
        tally.add(&outcome.tally);
    }
    eprintln!("{seeds} schedules\n{}", tally.lines());
    if seeds >= SEEDS_FOR_ALL {
        let blind: Vec<_> = MUST_HAPPEN
            .iter()
            .filter(|what| tally.of(what) == 0)
            .collect();
        assert!(blind.is_empty(), "never happened: {blind:?}");
    }
}

#[test]
fn a_seed_always_tells_the_same() {
    for seed in 0..20 {
        let (one, other) = (simulate(seed, true), simulate(seed, true));
        assert_eq!(one.trace, other.trace, "seed {seed}");
    }
}
