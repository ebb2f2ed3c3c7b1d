//! What operators do to a live run: looking, pausing, checkpoints by command and by time, a second
//! coordinator by mistake.

use cohort::ids::Step;
use cohort::run::state::Stage;
use cohort::store::manifest::Reason;
use serde_json::{Value, json};

use crate::support::run::{Run, assert_steps_are_whole, stable};

#[test]
fn a_live_run_takes_commands_and_refuses_what_makes_no_sense() {
    let run = Run::new(json!({
        "ranks": 2,
        "phases": [stable(1_000_000_000)],
        "checkpoints": {"every_steps": null, "every": "300ms"},
    }));
    let mut life = run.start_training();
    run.await_status(&mut life, "a checkpoint by time", |view| {
        view.last_checkpoint.is_some()
    });
    assert_eq!(run.manifests()[0].reason, Reason::Time);
    assert_eq!(
        run.operate(&["resume"]).error(),
        "resume refused: the run is not paused"
    );
    assert_eq!(
        run.operate(&["decay"]).error(),
        "decay refused: the run's YAML has no decay phase"
    );

    run.operate(&["pause"]).good();
    let paused = run.await_status(&mut life, "the pause", |view| view.stage == Stage::Paused);
    assert_eq!(
        run.operate(&["pause"]).error(),
        "pause refused: the run is paused already"
    );
    refuse_second_coordinator(&run);

    let said: Value =
        serde_json::from_str(&run.operate(&["status", "--json"]).good().stdout).unwrap();
    assert_eq!(said["stage"], "paused");
    assert_eq!(
        said["last_step"]["step"],
        json!(paused.last_step.as_ref().unwrap().step)
    );
    let said = run.operate(&["status"]).good().stdout;
    assert!(
        said.contains("stage       paused: pause (command "),
        "{said}"
    );
    // The clock asks for none during a pause.
    let said = run.operate(&["checkpoint"]).good().stdout;
    let step = said
        .strip_prefix("checkpoint took effect after step ")
        .and_then(|rest| rest.split_once(' '))
        .map(|(step, _)| Step(step.parse().unwrap()))
        .unwrap();
    assert_eq!(step, paused.last_step.unwrap().step);
    run.operate(&["resume"]).good();

    run.operate(&["stop"]).good();
    life.wait().good();
    let manifests = run.manifests();
    let of_command = manifests.iter().find(|manifest| manifest.step == step);
    assert_eq!(of_command.unwrap().reason, Reason::Command);
    assert_eq!(manifests.last().unwrap().reason, Reason::Stop);
    assert_steps_are_whole(&run);

    let place = run.store().address().to_owned();
    assert_eq!(
        run.operate(&["decay"]).error(),
        format!(
            "the run at {place} is not running\n  hint: continue it with `cohort train RUN.yaml`"
        )
    );
    let said = run.operate(&["status"]).good().stdout;
    let newest = manifests.last().unwrap().step;
    assert_eq!(
        said,
        format!("not running; newest checkpoint: step {newest}\n")
    );
}

fn refuse_second_coordinator(run: &Run) {
    let first: Value = serde_json::from_slice(&run.read("coordinator.json")).unwrap();
    let second = run.start_training().wait();
    let (start, rest) = second.error().split_once(", since ").unwrap();
    assert_eq!(
        start,
        format!(
            "run \"{}\" has a coordinator already: process {} on {} at {}",
            run.name,
            first["process"],
            text(&first["host"]),
            text(&first["url"])
        )
    );
    let hint = rest.split_once('\n').unwrap().1;
    assert_eq!(
        hint,
        format!(
            "  hint: look with `cohort status --run {}`, or give this run another name",
            run.store().address()
        )
    );
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}
