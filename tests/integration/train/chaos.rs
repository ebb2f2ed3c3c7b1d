//! One run that everything happens to: its processes are killed and stopped at random moments, also
//! while others recover, while checkpoints are uploaded, and while it goes over to its decay.

use std::collections::BTreeMap;
use std::thread::sleep;
use std::time::Duration;

use cohort::telemetry::StatusView;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::recovery::{assert_all_alike, assert_as_undisturbed, step, working};
use crate::support::process::{Process, signal};
use crate::support::run::{Chance, Run, decay, stable};
use crate::train::inspect::assert_recounted;

/// Far above what any takes, so that a slow machine fails nothing.
const RECOVERY_MAX: Duration = Duration::from_mins(1);
/// Of a recovery that is worth a look.
const LONG: Duration = Duration::from_secs(5);
/// Long enough for the last faults.
const DECAY_TOKENS: u64 = 600_000;
/// For the steps that are taken between two faults, and again in the run without faults.
const LIMIT_PER_FAULT: Duration = Duration::from_secs(4);
/// Of all faults, those after the switch to the decay.
const IN_DECAY: u32 = 3;
/// How long a stopped process stands still that goes on by itself.
const STANDSTILL: Duration = Duration::from_secs(3);

/// What is done to a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    KilledRank,
    KilledLead,
    KilledCoordinator,
    /// For good: its supervisor kills it.
    StoppedRank,
    /// For a while.
    StoppedCoordinator,
}

/// A stable phase without an end, so slow that the rounding of thousands of steps does not pile up.
fn settings(ranks: u32, stable_tokens: u64) -> Value {
    let slow = |mut phase: Value| {
        phase["learning_rate"] = json!(0.0004);
        phase
    };
    json!({
        "ranks": ranks,
        "phases": [slow(stable(stable_tokens)), slow(decay(DECAY_TOKENS))],
        "checkpoints": {"every_steps": 50},
        "recovery": {"restarts_max": 1000, "compare_every_steps": 20},
    })
}

struct Chaos {
    run: Run,
    life: Process,
    chance: Chance,
    /// Milliseconds to the next step, by what happened.
    recoveries: BTreeMap<Fault, Vec<u128>>,
}

impl Chaos {
    /// Draws a fault, and its victim where there is one now.
    fn draw(&mut self, view: &StatusView) -> Option<(Fault, u32)> {
        let seats = working(view);
        let fault = match self.chance.between(0, 30) {
            0..14 => Fault::KilledRank,
            14..20 => Fault::KilledLead,
            20..27 => Fault::KilledCoordinator,
            27 => Fault::StoppedRank,
            _ => Fault::StoppedCoordinator,
        };
        let victim = match fault {
            Fault::KilledCoordinator | Fault::StoppedCoordinator => self.run.coordinator(),
            Fault::KilledLead => seats.first().map(|member| member.process),
            Fault::KilledRank | Fault::StoppedRank => {
                let count = seats.len() as u64;
                let place = (count > 0).then(|| self.chance.between(0, count) as usize);
                place.map(|place| seats[place].process)
            }
        };
        Some((fault, victim?))
    }

    /// Does something to a process, and mostly waits until the run is a step further.
    fn strike(&mut self, number: u32) {
        let (view, fault, victim) = loop {
            let drawn = self.run.status().and_then(|view| {
                let (fault, victim) = self.draw(&view)?;
                Some((view, fault, victim))
            });
            if let Some(drawn) = drawn {
                break drawn;
            }
        };
        assert!(!self.life.has_ended(), "{}", self.life.stderr());
        let struck = Instant::now();
        match fault {
            Fault::StoppedRank => signal(victim, "STOP"),
            Fault::StoppedCoordinator => {
                signal(victim, "STOP");
                sleep(STANDSTILL);
                signal(victim, "CONT");
            }
            _ => signal(victim, "KILL"),
        }
        let recovers_alone = self.chance.between(0, 4) > 0;
        if !recovers_alone {
            // The next one meets a run that is still busy with this one.
            sleep(Duration::from_millis(self.chance.between(0, 120)));
            return;
        }
        let at = step(&view);
        // A step that was under way when the fault came does not count.
        let recovered = |now: &StatusView| {
            let is_found = match fault {
                Fault::KilledCoordinator => now.epoch > view.epoch,
                Fault::StoppedCoordinator => true,
                _ => now.generation > view.generation,
            };
            is_found && step(now) > at
        };
        while !self.life.has_ended() && !self.run.status().is_some_and(|now| recovered(&now)) {
            assert!(
                struck.elapsed() < RECOVERY_MAX,
                "no step after step {at}\n{:#?}\n{}",
                self.run.status(),
                self.life.stderr()
            );
        }
        let lasted = struck.elapsed();
        if lasted > LONG {
            println!("{fault:?}, number {number}: {} ms", lasted.as_millis());
            let said = self.life.stderr();
            let lines: Vec<&str> = said
                .lines()
                .filter(|line| !line.contains("training") && !line.contains("checkpoint"))
                .collect();
            println!("{}", lines[lines.len().saturating_sub(12)..].join("\n"));
        }
        let recoveries = self.recoveries.entry(fault).or_default();
        recoveries.push(lasted.as_millis());
    }

    fn show(&mut self) {
        for (fault, lasted) in &mut self.recoveries {
            lasted.sort_unstable();
            let at = |share: usize| lasted[(lasted.len() - 1) * share / 100];
            println!(
                "{fault:?}: {} times; milliseconds to the next step: median {}, 90 % {}, worst {}",
                lasted.len(),
                at(50),
                at(90),
                at(100)
            );
        }
    }
}

fn chaos(ranks: u32, faults: u32) {
    let run = Run::new(settings(ranks, 1_000_000_000));
    let mut chaos = Chaos {
        life: run.start_training(),
        run,
        chance: Chance::new(),
        recoveries: BTreeMap::new(),
    };
    chaos.run.await_step(&mut chaos.life, 1);
    for number in 0..faults - IN_DECAY {
        sleep(Duration::from_millis(chaos.chance.between(50, 900)));
        chaos.strike(number);
    }
    // The command is given, and then something dies that it depends on.
    chaos
        .run
        .await_status(&mut chaos.life, "a generation", |view| {
            !working(view).is_empty()
        });
    let address = chaos.run.store().address().to_owned();
    let command = chaos.run.start(&["decay", "--run", &address]);
    sleep(Duration::from_millis(chaos.chance.between(10, 60)));
    for number in faults - IN_DECAY..faults {
        chaos.strike(number);
        sleep(Duration::from_millis(chaos.chance.between(0, 300)));
    }
    drop(command);
    // Where it died before it was accepted it is given again, as an operator would.
    let began = |view: &StatusView| {
        view.commands
            .iter()
            .any(|record| record.refusal().is_none())
    };
    if !chaos.life.has_ended() && chaos.run.status().is_none_or(|view| !began(&view)) {
        chaos
            .run
            .await_status(&mut chaos.life, "a generation", |view| {
                !working(view).is_empty()
            });
        chaos.run.operate(&["decay"]);
    }
    chaos.show();
    let Chaos { run, life, .. } = chaos;
    let limit = LIMIT_PER_FAULT * (faults + 30);
    let ended = life.wait_at_most(limit).good();
    assert_all_alike(&ended);
    assert_recounted(&run);
    let metrics = run.metrics();
    let last_stable = metrics.iter().rfind(|line| line.phase == "stable").unwrap();
    println!(
        "{} steps in {} generations, the decay after step {}",
        metrics.len(),
        run.generations().len(),
        last_stable.step
    );
    let undisturbed = Run::new(settings(ranks, last_stable.phase_tokens));
    undisturbed.start_training().wait_at_most(limit).good();
    assert_as_undisturbed(&run, &undisturbed);
}

/// Thirty, or as many as `COHORT_FAULTS` says.
#[expect(
    clippy::disallowed_methods,
    reason = "the number of faults is no part of a run"
)]
#[test]
fn faults_change_nothing() {
    let faults = std::env::var("COHORT_FAULTS").map(|count| count.parse().unwrap());
    chaos(3, faults.unwrap_or(30));
}
