//! `cohort plan` against what a real run then does: the steps of each phase to the step, the memory
//! of a rank by its peak.

#![expect(
    clippy::unwrap_used,
    reason = "in a test, a step that fails is a panic"
)]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

/// Peaks lie this far from the estimate at most, either way.
const MEMORY_FACTOR: f64 = 2.0;

const CORPUS: &str = "\
name: tiny
output: corpus
tokenizer: {train: {vocab_size: 512}}
max_length: 64
institutions:
  - id: clinic
    name: Clinic
    sources:
      - id: notes
        licence: none needed
        read: {synthetic: {style: triage_line, documents: 300}}
      - id: stays
        licence: none needed
        read: {synthetic: {style: discharge_summary, documents: 20}}
";

const RUN: &str = "\
name: tiny
store: {url: runs}
corpus: corpus
seed: 1
ranks: 1
threads_per_rank: 1
model:
  preset: modernbert-base
  layers: 2
  hidden_size: 32
  attention_heads: 2
  intermediate_size: 48
  sliding_window: 16
  max_positions: 128
batch: {row_tokens: 64, rows: 8, micro_rows: 8}
phases:
  - name: grow
    tokens: 4_000
    mixture: {weights: {clinic/notes: 1, clinic/stays: 3}}
    mask_rate: 0.3
    learning_rate: 1.0e-3
    rows_warmup: {from_rows: 2, tokens: 2_000}
  - name: decay
    tokens: 2_500
    mixture: {epochs: {clinic/stays: 0.5}}
    mask_rate: 0.15
    learning_rate: 1.0e-3
    shape: one_minus_sqrt
evaluation: {tokens_per_source: 256}
";

fn cohort(folder: &TempDir, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cohort"));
    command.args(arguments).current_dir(folder.path());
    command
}

/// The number that stands before a word of a text, such as `12` in `in 12 steps`.
fn number_before(text: &str, word: &str) -> u64 {
    let before = text.split(word).next().unwrap().trim_end();
    let digits = before.rsplit(' ').next().unwrap().replace(',', "");
    digits.parse().unwrap()
}

/// The highest resident memory of a process's children so far, in bytes.
fn children_peak(process: u32) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{process}/task"))
        .into_iter()
        .flatten();
    let children = tasks
        .filter_map(|task| fs::read_to_string(task.ok()?.path().join("children")).ok())
        .collect::<String>();
    children
        .split_whitespace()
        .filter_map(|child| {
            let status = fs::read_to_string(Path::new("/proc").join(child).join("status")).ok()?;
            let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
            Some(number_before(line, " kB") << 10)
        })
        .max()
        .unwrap_or(0)
}

#[test]
fn a_run_does_what_its_plan_says() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("corpus.yaml"), CORPUS).unwrap();
    fs::write(folder.path().join("run.yaml"), RUN).unwrap();
    let prepared = cohort(&folder, &["prepare", "corpus.yaml"])
        .output()
        .unwrap();
    assert!(prepared.status.success());
    let planned = cohort(&folder, &["plan", "run.yaml"]).output().unwrap();
    let planned = String::from_utf8(planned.stdout).unwrap();

    let mut training = cohort(&folder, &["train", "run.yaml"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut peak = 0;
    let status = loop {
        peak = peak.max(children_peak(training.id()));
        if let Some(status) = training.try_wait().unwrap() {
            break status;
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    assert!(status.success());

    let mut steps: BTreeMap<String, u64> = BTreeMap::new();
    let metrics = fs::read_to_string(folder.path().join("runs/tiny/metrics.jsonl")).unwrap();
    for line in metrics.lines() {
        let step: serde_json::Value = serde_json::from_str(line).unwrap();
        *steps
            .entry(step["phase"].as_str().unwrap().to_owned())
            .or_default() += 1;
    }
    let mut planned_steps = BTreeMap::new();
    for line in planned.lines().filter(|line| line.starts_with("phase ")) {
        let name = line.split('"').nth(1).unwrap().to_owned();
        planned_steps.insert(name, number_before(line, " steps"));
    }
    assert_eq!(steps, planned_steps, "{planned}");

    let memory = planned
        .lines()
        .find(|line| line.starts_with("memory"))
        .unwrap();
    let estimate = (number_before(memory, " MiB a rank") << 20) as f64;
    let factor = peak as f64 / estimate;
    println!("peak {} MiB, {factor:.2} of the estimate", peak >> 20);
    assert!(
        (1.0 / MEMORY_FACTOR..MEMORY_FACTOR).contains(&factor),
        "{factor:.2} of {memory:?}"
    );
}
