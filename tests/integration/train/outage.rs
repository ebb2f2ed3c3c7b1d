//! A store that is away for a while, during a run.

use std::thread::sleep;
use std::time::Duration;

use cohort::run::state::Stage;
use serde_json::{Value, json};

use crate::support::process::{Process, poll, signal};
use crate::support::proxy::{Faults, Proxy};
use crate::support::run::{Run, assert_steps_are_whole, stable, wait_for};
use crate::support::s3::S3Server;

/// Every request is answered with an error.
const AWAY: Faults = Faults {
    seed: 0,
    errors: 1_000,
    cut: 0,
    stalled: 0,
    flipped: 0,
    lost: 0,
    torn: 0,
    lies: 0,
    altered: 0,
};

fn begin(server: &S3Server, proxy: &Proxy) -> (Run, Process) {
    let mut run = Run::on_s3(
        server,
        json!({
            "ranks": 2,
            "phases": [stable(1_000_000_000)],
            "checkpoints": {"every_steps": 20, "keep": {"keep_last": 2}},
        }),
    );
    run.change(json!({"store": {"endpoint": proxy.endpoint, "retry_timeout": "500ms"}}));
    let mut life = run.start_training();
    run.await_status(&mut life, "a checkpoint", |view| {
        view.last_checkpoint.is_some()
    });
    (run, life)
}

/// Waits for words in the log.
fn stderr_has(life: &Process, words: &str) {
    poll(words, || life.stderr().contains(words).then_some(()));
}

#[test]
fn a_run_steps_on_while_its_store_is_away() {
    let server = wait_for(S3Server::start());
    let proxy = wait_for(Proxy::start(&server, Faults::default()));
    let (run, mut life) = begin(&server, &proxy);
    let before = run.status().unwrap();
    let address: Value = serde_json::from_slice(&run.read("coordinator.json")).unwrap();
    let url = address["url"].as_str().unwrap().to_owned();
    proxy.set(AWAY);
    stderr_has(&life, "the run goes on, but ");
    let at = run.metrics().len() as u64;
    sleep(Duration::from_secs(3));
    let view = run.status().unwrap();
    let step = view.last_step.as_ref().unwrap().step;
    assert!(step > before.last_step.unwrap().step);
    assert_eq!(view.stage, Stage::Training);
    let why = view.store_fails.clone().unwrap();
    assert!(why.contains("cannot"), "{why}");
    // Where the coordinator is stands in the store.
    let said = run.start(&["status", "--run", &url]).wait().good();
    assert!(said.stdout.contains("\nstore       "), "{}", said.stdout);
    assert!(run.metrics().len() as u64 <= at + 1, "nothing is stored");
    proxy.set(Faults::default());
    run.await_status(&mut life, "the store's return", |view| {
        view.store_fails.is_none() && view.last_checkpoint >= Some(step)
    });
    life.signal("INT");
    life.wait().good();
    assert_steps_are_whole(&run);
    let said = run.operate(&["verify"]).good().stdout;
    assert!(said.lines().all(|line| line.ends_with(": good")), "{said}");
}

/// Whoever is lost meanwhile is replaced when the store is back: a generation has to be written
/// down before it begins.
#[test]
fn ranks_and_coordinators_that_die_while_the_store_is_away_are_replaced_afterwards() {
    let server = wait_for(S3Server::start());
    let proxy = wait_for(Proxy::start(&server, Faults::default()));
    let (run, mut life) = begin(&server, &proxy);
    let view = run.status().unwrap();
    proxy.set(AWAY);
    signal(run.coordinator().unwrap(), "KILL");
    stderr_has(&life, "the coordinator died and starts anew");
    stderr_has(&life, "the coordinator starts anew");
    proxy.set(Faults::default());
    let at = view.last_step.unwrap().step;
    let view = run.await_status(&mut life, "another coordinator", |next| {
        next.epoch > view.epoch && next.stage == Stage::Training
    });
    assert_eq!(view.generation.0, 1, "the ranks stepped on");
    run.await_step(&mut life, at.0 + 5);

    proxy.set(AWAY);
    stderr_has(&life, "the run goes on, but ");
    signal(view.members[1].process, "KILL");
    stderr_has(&life, "WARN the metrics cannot be stored");
    proxy.set(Faults::default());
    run.await_status(&mut life, "another generation", |view| {
        view.generation.0 >= 2 && view.stage == Stage::Training && view.members.len() == 2
    });
    life.signal("INT");
    life.wait().good();
    assert_steps_are_whole(&run);
}
