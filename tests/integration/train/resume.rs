//! A run that dies or is stopped anywhere, however often, ends with the bits of one that was not.

use std::collections::BTreeSet;

use cohort::run::state::Stage;
use cohort::store::manifest::Reason;
use serde_json::json;

use crate::support::run::{Chance, Run, assert_same_bits, decay, stable};

#[test]
fn killed_at_random_steps_and_resumed_on_one_rank() {
    killed_and_resumed(1);
}

#[test]
fn killed_at_random_steps_and_resumed_on_two_ranks() {
    killed_and_resumed(2);
}

/// Kills the coordinator three times, each in a life of its own; its ranks then end by themselves.
fn killed_and_resumed(ranks: u32) {
    let mut chance = Chance::new();
    let settings = json!({"ranks": ranks, "checkpoints": {"every_steps": 7}});
    let uninterrupted = Run::new(settings.clone());
    uninterrupted.train();
    let steps = uninterrupted.metrics().len() as u64;
    assert!(steps > 100, "{steps} steps");

    let run = Run::new(settings);
    for from in [1, steps / 4, steps / 2] {
        let mut life = run.start_training();
        run.await_step(&mut life, chance.between(from, from + steps / 5));
        let at = run.kill(life);
        println!("{ranks} ranks: the coordinator was killed at step {at}");
        assert!(at < steps);
    }
    run.train();
    assert_same_bits(&uninterrupted, &run);
}

#[test]
fn stopped_by_command_and_by_signals_and_resumed() {
    let settings = json!({
        "ranks": 2,
        "phases": [stable(60_000), decay(30_000)],
        "checkpoints": {"every_steps": null},
    });
    let uninterrupted = Run::new(settings.clone());
    uninterrupted.train();

    let run = Run::new(settings);
    for (step, by) in [(12, "INT"), (24, "TERM"), (36, "stop"), (44, "USR1")] {
        let mut life = run.start_training();
        run.await_step(&mut life, step);
        if by == "stop" {
            let said = run.operate(&["stop"]).good().stdout;
            assert!(said.starts_with("stop "), "{said}");
        } else {
            life.signal(by);
        }
        let ended = life.wait();
        let said = match by {
            // A scheduler's signal: the job wants to be queued again.
            "TERM" | "USR1" => ended.interrupted(),
            _ => ended.good(),
        };
        assert!(
            said.stderr.contains("stopped on command"),
            "{}",
            said.stderr
        );
        let newest = run.manifests().pop().unwrap();
        // A stop that comes with the last step of a phase has its checkpoint for two reasons.
        assert!(matches!(newest.reason, Reason::Stop | Reason::PhaseEnd));
        assert_eq!(newest.step.0, run.metrics().len() as u64, "no step is lost");
    }
    run.train();
    assert_same_bits(&uninterrupted, &run);

    // A run that is over stays as it is.
    let before = run.trace();
    let said = run.train();
    assert!(
        said.stderr.contains("all phases are done"),
        "{}",
        said.stderr
    );
    assert_eq!(before, run.trace());
    assert_same_bits(&uninterrupted, &run);
}

#[test]
fn paused_with_a_checkpoint_stopped_and_resumed() {
    let settings = json!({"phases": [stable(60_000), decay(30_000)]});
    let uninterrupted = Run::new(settings.clone());
    uninterrupted.train();

    let run = Run::new(settings);
    let mut life = run.start_training();
    run.await_step(&mut life, 15);
    let said = run.operate(&["pause"]).good().stdout;
    let paused = run.await_status(&mut life, "the pause", |view| view.stage == Stage::Paused);
    let at = paused.last_step.unwrap().step;
    assert_eq!(
        said,
        format!("pause took effect after step {at} (command 1)\n")
    );
    // Each of them would take a checkpoint of the same step.
    for _ in 0..2 {
        run.operate(&["checkpoint"]).good();
    }
    assert_eq!(
        run.status().unwrap().last_step.unwrap().step,
        at,
        "it holds"
    );
    run.operate(&["stop"]).good();
    life.wait().good();
    assert_eq!(run.manifests().pop().unwrap().step, at);

    // The next life does not begin paused; a pause at its very beginning is one all the same.
    let mut life = run.start_training();
    run.await_status(&mut life, "the start", |view| view.stage == Stage::Training);
    run.operate(&["pause"]).good();
    run.operate(&["checkpoint"]).good();
    run.operate(&["resume"]).good();
    life.wait().good();
    assert_same_bits(&uninterrupted, &run);
    let steps: BTreeSet<_> = run.manifests().iter().map(|each| each.step).collect();
    assert!(steps.contains(&at));
}
