//! `cohort chaos`, the drill that an operator runs on a live run.

use serde_json::json;

use crate::support::run::{Run, assert_steps_are_whole, stable};
use crate::support::skipped;

#[test]
fn a_drill_kills_cuts_and_judges() {
    let run = Run::new(json!({
        "ranks": 3,
        "phases": [stable(1_000_000_000)],
        "checkpoints": {"every_steps": 50},
        "recovery": {"restarts_max": 1000, "compare_every_steps": 20},
    }));
    let mut life = run.start_training();
    run.await_step(&mut life, 3);
    let wrong = run.operate(&["chaos", "--name", "another"]);
    assert!(
        wrong.error().contains("is \"run-") && wrong.error().contains("--name"),
        "{}",
        wrong.stderr
    );
    let may_cut = rustix::process::geteuid().is_root();
    if !may_cut {
        skipped("only root may cut off another process's connections");
    }
    let drill = [
        "chaos",
        "--name",
        &run.name,
        "--faults",
        "8",
        "--every",
        "300ms",
        "--seed",
        "5",
        "--only",
        if may_cut {
            "kill-rank,kill-lead,cut-rank,kill-coordinator"
        } else {
            "kill-rank,kill-lead,kill-coordinator"
        },
    ];
    let said = run.operate(&drill);
    println!("{}", said.stdout);
    let said = said.good().stdout;
    assert!(said.contains("fault 8 of 8: "), "{said}");
    assert!(
        said.contains("8 of 8 faults; the run stands at step "),
        "{said}"
    );
    assert_eq!(said.contains("a rank cut off"), may_cut, "{said}");
    life.signal("INT");
    life.wait().good();
    assert_steps_are_whole(&run);
}
