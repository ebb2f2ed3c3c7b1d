//! A decay from an earlier checkpoint as a run of its own.

use std::collections::BTreeMap;

use cohort::ids::Step;
use cohort::run::schedule::PhaseKind;
use cohort::store::layout;
use serde_json::json;

use crate::support::run::{Run, assert_same_weights, checkpoint_path, decay, stable};

fn branch(checkpoint: &str, run: &Run, more: &[&str]) -> crate::support::process::Process {
    let yaml = run.yaml();
    let arguments = [&["branch", checkpoint, yaml.to_str().unwrap()], more].concat();
    run.start(&arguments)
}

/// What lies in a run's store but for the marks that branches leave.
fn content(run: &Run) -> BTreeMap<String, bytes::Bytes> {
    let keys = run
        .keys()
        .into_iter()
        .filter(|key| layout::parse_pin(key).is_none());
    keys.map(|key| (key.clone(), run.read(&key))).collect()
}

#[test]
fn from_a_stable_checkpoint_it_takes_the_trunks_own_decay() {
    let settings = json!({"ranks": 2, "checkpoints": {"every_steps": 9}});
    let trunk = Run::new(settings.clone());
    trunk.train();
    let before = content(&trunk);
    let manifests = trunk.manifests();
    let stable_end = manifests
        .iter()
        .rfind(|manifest| manifest.phase_kind == PhaseKind::Stable)
        .unwrap()
        .step;

    // Killed before its first checkpoint, it still knows what it is a branch of.
    let run = Run::new(settings);
    let mut life = branch(&checkpoint_path(&trunk, stable_end), &run, &[]);
    run.await_step(&mut life, stable_end.0 + 3);
    run.kill(life);
    run.train();

    assert!(content(&trunk) == before, "the trunk is untouched");
    let pin = layout::pin(stable_end, &run.name);
    assert!(trunk.keys().contains(&pin), "its parent is kept");
    let decay = trunk.trace().split_off(stable_end.0 as usize);
    assert_eq!(run.trace(), decay);
    assert_same_weights(&trunk, &run);
    let parent = run.manifests().pop().unwrap().parent.unwrap();
    assert_eq!(parent.to_string(), checkpoint_path(&trunk, stable_end));
}

#[track_caller]
fn a_run_that_began_elsewhere_is_no_branch(checkpoint: &str) {
    let mut own = stable(1_000);
    own["name"] = json!("own");
    let run = Run::new(json!({"phases": [own]}));
    run.train();
    let newest = run.manifests().pop().unwrap().step;
    let before = content(&run);
    assert_eq!(
        branch(checkpoint, &run, &[]).wait().error(),
        format!(
            "run \"{}\" has checkpoints already, the newest of step {newest}, and did not begin \
             from {checkpoint}\n  \
             hint: give the branch another name, or continue that run with `cohort train`",
            run.name
        )
    );
    assert!(content(&run) == before, "nothing was recorded");
}

#[test]
fn from_a_decayed_or_damaged_checkpoint_it_is_refused() {
    let trunk = Run::new(json!({"checkpoints": {"every_steps": 30}}));
    trunk.train();
    let decayed = trunk.manifests().pop().unwrap().step;
    let path = checkpoint_path(&trunk, decayed);
    let mut run = Run::new(json!({"phases": [stable(30_000), decay(30_000)]}));
    assert_eq!(
        branch(&path, &run, &[]).wait().error(),
        format!(
            "{path} has decayed already (phase \"decay\"): its learning rate has been at the \
             floor\n  \
             hint: branch from a stable checkpoint, or insist with --from-decayed"
        )
    );
    let insist = ["--from-decayed"];
    assert_eq!(
        branch(&path, &run, &insist).wait().error(),
        format!(
            "{path} has the phases of {} behind it\n  \
             hint: a branch begins with its first phase, or else with its first decay, if the \
             trunk has read in none of that name; the name decides which rows it reads",
            run.yaml().display()
        )
    );
    assert!(run.keys().is_empty(), "nothing was begun");
    let mut again = decay(10_000);
    again["name"] = json!("second-decay");
    run.change(json!({"phases": [stable(30_000), again]}));
    branch(&path, &run, &insist).wait().good();
    assert_eq!(run.metrics()[0].step, Step(decayed.0 + 1));

    let other = checkpoint_path(&trunk, Step(30));
    a_run_that_began_elsewhere_is_no_branch(&other);
    assert_eq!(
        branch(&other, &run, &[]).wait().error(),
        format!(
            "this run is a branch of {path} already, not of {other}\n  \
             hint: give the new branch another name"
        )
    );
    run.change(json!({"name": trunk.name}));
    assert_eq!(
        branch(&other, &run, &[]).wait().error(),
        format!(
            "{} names the run \"{}\" that the checkpoint belongs to\n  \
             hint: give the branch a name of its own",
            run.yaml().display(),
            trunk.name
        )
    );
    trunk.damage(&layout::checkpoint_file(Step(30), layout::STATE_FILE));
    assert_eq!(
        branch(&other, &run, &[]).wait().error(),
        format!(
            "{other} is damaged: state.json has other content than was written\n  \
             hint: branch from another checkpoint"
        )
    );
}
