//! Checkpoints that rot: the run continues from the newest that verifies, and replaces the others
//! when it comes to their steps again.

use cohort::ids::Step;
use cohort::store::layout;
use cohort::store::manifest::{CheckpointManifest, Reason};
use serde_json::{Value, json};

use crate::support::run::{Run, assert_same_bits, assert_steps_are_whole, decay, stable, wait_for};

fn on_two_ranks() -> Value {
    json!({"ranks": 2})
}

/// A run that was stopped some steps after `after`.
fn stopped(settings: Value, after: u64) -> Run {
    let run = Run::new(settings);
    let mut life = run.start_training();
    run.await_step(&mut life, after);
    run.operate(&["stop"]).good();
    life.wait().good();
    run
}

/// A stopped run, its newest two checkpoints damaged in two ways, and where the good one before
/// them lies.
fn with_damage(settings: Value, after: u64) -> (Run, Step) {
    let run = stopped(settings, after);
    let mut steps: Vec<Step> = run.manifests().iter().map(|each| each.step).collect();
    let (stop, newest) = (steps.pop().unwrap(), steps.pop().unwrap());
    run.damage(&layout::checkpoint_file(stop, layout::OPTIMIZER_FILE));
    let manifest = layout::checkpoint_file(newest, layout::MANIFEST_FILE);
    let text = run.read(&manifest);
    wait_for(run.store().put(&manifest, text.slice(..text.len() / 2))).unwrap();
    let good = steps.pop().unwrap();
    println!("damaged: {stop} and {newest}, good: {good}");
    (run, good)
}

#[test]
fn the_newest_that_verifies_is_continued_with_the_same_bits() {
    let uninterrupted = Run::new(on_two_ranks());
    uninterrupted.train();
    let (run, good) = with_damage(on_two_ranks(), 31);
    let said = run.operate(&["verify"]);
    assert!(
        said.stdout
            .contains("optimizer.safetensors has other content")
    );
    assert_eq!(
        said.error(),
        "2 checkpoints are damaged\n  hint: runs continue from the newest good one"
    );
    let said = run.operate(&["checkpoints"]).good().stdout;
    let steps: Vec<Step> = wait_for(run.checkpoints().steps()).unwrap().published;
    for step in &steps {
        let row = format!("\n{:>4}  ", step.0);
        assert!(said.contains(&row), "step {step} is listed: {said}");
    }
    let newest = steps[steps.len() - 2];
    assert!(
        said.contains(&format!("\n\nstep {newest} is unreadable: no manifest: ")),
        "{said}"
    );
    let said = run.train();
    let continued = format!("continuing from the newest checkpoint that verifies step={good}");
    assert!(said.stderr.contains(&continued), "{}", said.stderr);
    assert_eq!(
        said.stderr
            .matches("a newer checkpoint is damaged and passed over")
            .count(),
        2
    );
    assert_same_bits(&uninterrupted, &run);
}

#[test]
fn a_damaged_checkpoint_gives_way_to_other_bits_at_its_step() {
    let phases = [stable(10_000), decay(60_000)];
    let mut run = stopped(json!({"ranks": 2, "phases": phases}), 22);
    let before = run.manifests();
    let at_end = |manifest: &&CheckpointManifest| manifest.reason == Reason::PhaseEnd;
    let stable_end = before.iter().find(at_end).unwrap();
    for manifest in &before {
        if manifest.step >= stable_end.step {
            run.damage(&layout::checkpoint_file(manifest.step, layout::MODEL_FILE));
        }
    }
    // On one rank the sums round otherwise, so the end of the phase has other weights.
    run.change(json!({"ranks": 1}));
    run.train();
    assert_steps_are_whole(&run);
    let checkpoints = run.checkpoints();
    let again = wait_for(checkpoints.verify(stable_end.step)).unwrap();
    assert!(again.is_good(), "{:?}", again.complaint());
    assert!(!again.manifest.same_state(stable_end));
}

#[test]
fn retention_does_not_count_a_damaged_checkpoint_that_is_newer() {
    // In the decay, where no rule keeps the end of the phase but that it is the newest.
    let phases = [stable(10_000), decay(100_000)];
    let (mut run, good) = with_damage(json!({"phases": phases}), 51);
    run.change(json!({
        "phases": [stable(10_000), decay(1_000)],
        "checkpoints": {"keep": {"keep_last": 1}},
    }));
    run.train();
    let checkpoints = run.checkpoints();
    let newest = wait_for(checkpoints.newest_verified()).unwrap();
    assert_eq!(newest.found.unwrap().step, Step(good.0 + 1));
    assert_eq!(newest.skipped.len(), 2, "the damaged ones are left alone");
}
