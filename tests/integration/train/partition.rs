//! Networks that swallow packets, while all processes live.

use std::sync::Arc;
use std::thread::sleep;
use std::time::Duration;

use cohort::coordinator::claim::Address;
use cohort::ids::Generation;
use cohort::run::state::Stage;
use cohort::telemetry::StatusView;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::recovery::{step, working};
use crate::support::namespace::Namespace;
use crate::support::process::Process;
use crate::support::run::{Run, assert_steps_are_whole, stable};

/// Longer than a rank may be silent.
const CUT: Duration = Duration::from_secs(12);

fn settings(ranks: u32) -> Value {
    json!({
        "ranks": ranks,
        "phases": [stable(1_000_000_000)],
        "checkpoints": {"every_steps": 50},
        "recovery": {"compare_every_steps": 20},
    })
}

fn coordinator_port(run: &Run) -> u16 {
    let address: Address = serde_json::from_slice(&run.read("coordinator.json")).unwrap();
    let (_, port) = address.url.rsplit_once(':').unwrap();
    port.parse().unwrap()
}

/// That the run goes on from there, and no step or state was lost.
#[track_caller]
fn assert_goes_on(run: &Run, mut life: Process, view: &StatusView) {
    run.await_step(&mut life, step(view) + 10);
    life.signal("INT");
    life.wait().good();
    assert_steps_are_whole(run);
    for record in run.generations() {
        assert_eq!(record.lineage, Generation(1), "no checkpoint was read");
    }
}

#[test]
fn ranks_step_on_while_they_cannot_reach_their_coordinator() {
    let Some(namespace) = Namespace::make().map(Arc::new) else {
        return;
    };
    let mut run = Run::new(settings(2));
    run.put_into(&namespace);
    let mut life = run.start_training();
    let before = run.await_step(&mut life, 10);
    namespace.cut(coordinator_port(&run));
    sleep(CUT);
    assert!(run.status().is_none(), "it is out of reach");
    namespace.heal();
    let view = run.await_status(&mut life, "all are together again", |view| {
        view.stage == Stage::Training && working(view).len() == 2 && step(view) > step(&before)
    });
    println!(
        "from step {} of generation {} to step {} of generation {}",
        step(&before),
        before.generation,
        step(&view),
        view.generation
    );
    assert_goes_on(&run, life, &view);
    // Most of the steps of that time were taken without a coordinator.
    let metrics = run.metrics();
    let alone: f64 = metrics
        .iter()
        .filter(|line| line.generation == before.generation && line.step.0 > step(&before))
        .map(|line| line.seconds)
        .sum();
    println!("{alone:.1} s of steps without a coordinator");
    assert!(alone > 0.5 * CUT.as_secs_f64(), "{alone} s");
}

#[test]
fn ranks_that_cannot_reach_each_other_come_together_anew() {
    let Some(namespace) = Namespace::make().map(Arc::new) else {
        return;
    };
    let mut run = Run::new(settings(3));
    run.put_into(&namespace);
    let mut life = run.start_training();
    let view = run.await_step(&mut life, 10);
    let processes: Vec<u32> = working(&view).iter().map(|each| each.process).collect();
    assert_eq!(processes.len(), 3);
    let ports = namespace.ports_between(&processes[..2]);
    assert!(!ports.is_empty());
    for port in ports {
        namespace.cut(port);
    }
    let cut = Instant::now();
    let generation = view.generation;
    let view = run.await_status(&mut life, "another generation", |view| {
        view.stage == Stage::Training && view.generation > generation && working(view).len() == 3
    });
    let seconds = cut.elapsed().as_secs_f64();
    println!(
        "found and mended after {seconds:.1} s, at step {}",
        step(&view)
    );
    assert!(seconds < 60.0, "{seconds} s");
    namespace.heal();
    assert_goes_on(&run, life, &view);
}
