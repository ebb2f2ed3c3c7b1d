//! The quick start as far as its first steps: interrupted, and gone on with. `scripts/quickstart`
//! runs it to the end.

#![allow(
    clippy::unwrap_used,
    reason = "all of it is test code, also outside the functions that are marked as tests"
)]

use std::fs;
use std::path::Path;

use cohort::telemetry::StepMetrics;

use crate::support::process::{Process, poll};

/// The steps that the run's metrics tell of.
fn steps(folder: &Path) -> Vec<u64> {
    let text = fs::read_to_string(folder.join("runs/quickstart/metrics.jsonl")).unwrap();
    let step = |line: &str| serde_json::from_str::<StepMetrics>(line).unwrap().step.0;
    text.lines().map(step).collect()
}

#[test]
fn it_stops_in_order_and_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let mut taken = 0;
    for life in 0..2 {
        let output = path.join(format!("life-{life}"));
        let process = Process::start(&["quickstart", path.to_str().unwrap()], &[], &output);
        poll("a first step", || {
            process.stderr().contains("training step=").then_some(())
        });
        process.signal("INT");
        assert_eq!(
            process.wait().error(),
            "stopped\n  hint: the same command goes on from the checkpoint"
        );
        let steps = steps(path);
        assert!(steps.len() > taken, "life {life} took no step");
        assert!(steps.iter().copied().eq(1..=steps.len() as u64));
        taken = steps.len();
    }
}
