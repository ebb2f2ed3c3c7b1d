//! `cohort inspect` of steps to come, where the run does not stand at its beginning: after a decay
//! on command, and in a branch. What it announces is what is then taken. And of whole runs.

use cohort::ids::Step;
use cohort::store::layout;
use cohort::telemetry::StepMetrics;
use serde_json::{Value, json};

use crate::support::run::{Run, checkpoint_path, decay, stable, wait_for};

fn inspect(run: &Run, step: Step) -> crate::support::process::Ended {
    let yaml = run.yaml();
    let step = step.to_string();
    let arguments = ["inspect", yaml.to_str().unwrap(), "--step", &step];
    run.start(&arguments).wait()
}

/// What is said of a step, but for its rows: how it begins, and its first row's number.
pub(super) fn announced(run: &Run, step: Step) -> (String, u64) {
    let said = inspect(run, step).good().stdout;
    let mut lines = said.lines();
    let head = lines.next().unwrap().to_owned();
    let first = lines.nth(2).unwrap().split_whitespace().next().unwrap();
    (head, first.parse().unwrap())
}

pub(super) fn taken(line: &StepMetrics) -> (String, u64) {
    let head = format!(
        "step {}, phase \"{}\", learning rate {:.6e}, mask rate {}, {} masked tokens",
        line.step, line.phase, line.learning_rate, line.mask_rate, line.masked_tokens
    );
    (head, line.first_row)
}

/// Stops a life of the run at some step of the phase, and gives the run's newest step.
fn stop_in(run: &Run, mut life: crate::support::process::Process, phase: &str) -> Step {
    run.await_status(&mut life, phase, |view| {
        let last = view.last_step.as_ref();
        last.is_some_and(|last| last.phase == phase)
    });
    run.operate(&["stop"]).good();
    life.wait().good();
    run.metrics().last().unwrap().step
}

#[test]
fn after_a_decay_on_command_it_shows_what_comes() {
    let run = Run::new(json!({"phases": [stable(1_000_000_000), decay(20_000)]}));
    let mut life = run.start_training();
    run.await_step(&mut life, 5);
    run.operate(&["decay", "--tokens", "60000"]).good();
    let last = stop_in(&run, life, "decay");
    let wanted = [Step(last.0 + 1), Step(last.0 + 4)];
    let told = wanted.map(|step| announced(&run, step));

    // The same from the end of the stable phase: the journal knows of the decay, the checkpoint
    // does not.
    let earlier = run.copy();
    for manifest in earlier.manifests() {
        if manifest.phase == "decay" {
            earlier.damage(&layout::checkpoint_file(manifest.step, layout::STATE_FILE));
        }
    }
    assert_eq!(announced(&earlier, wanted[1]), told[1]);

    run.train();
    let metrics = run.metrics();
    for (step, told) in wanted.iter().zip(&told) {
        assert_eq!(*told, taken(&metrics[step.0 as usize - 1]));
    }
    assert_recounted(&run);
    wait_for(run.store().delete(layout::METRICS_FILE)).unwrap();
    let newest = run.manifests().pop().unwrap().step;
    assert_eq!(
        inspect(&run, Step(3)).error(),
        format!(
            "which rows step 3 took is not known: the run has taken it, for it has a checkpoint \
             after step {newest}, but metrics.jsonl has no line of it\n  \
             hint: steps with a line there can be shown, and those after step {newest}"
        )
    );
}

#[test]
fn in_a_branch_it_begins_where_the_branch_does() {
    let trunk = Run::new(json!({"phases": [stable(5_000), decay(2_000)]}));
    trunk.train();
    let parent = trunk.manifests()[0].step;
    let path = checkpoint_path(&trunk, parent);
    let run = Run::new(json!({"phases": [stable(5_000), decay(60_000)]}));
    // Before its first step, as a branch that died at once.
    let record = json!({"run_url": trunk.store().address(), "step": parent});
    wait_for(run.store().put(layout::BRANCH_FILE, record.to_string())).unwrap();
    let early = [Step(parent.0 + 1), Step(parent.0 + 3)];
    let told = early.map(|step| announced(&run, step));
    assert_eq!(
        inspect(&run, parent).error(),
        format!(
            "step {parent} is none of this run's: it is a branch that begins after step {parent}\n  \
             hint: inspect it with the YAML of its trunk, whose folder is {}",
            trunk.store().address()
        )
    );

    let yaml = run.yaml();
    let life = run.start(&["branch", &path, yaml.to_str().unwrap()]);
    let last = stop_in(&run, life, "decay");
    let late = Step(last.0 + 2);
    let told_late = announced(&run, late);
    run.train();
    let metrics = run.metrics();
    let of_step = |step: Step| metrics.iter().find(|line| line.step == step).unwrap();
    for (step, told) in early.iter().zip(&told) {
        assert_eq!(*told, taken(of_step(*step)));
    }
    assert_eq!(told_late, taken(of_step(late)));
    assert_recounted(&run);
}

/// That the program finds every row of a run read once, all as recorded, and every ledger true.
#[track_caller]
pub(super) fn assert_recounted(run: &Run) {
    let said = run.recount().good().stdout;
    let (first, last) = (run.metrics()[0].step, run.metrics().pop().unwrap().step);
    let wanted = format!("\n\nsteps {first} to {last}: every row once and in order");
    assert!(said.contains(&wanted), "{said}");
    let wanted = format!("sum of these rows: {}\n", run.manifests().len());
    assert!(said.ends_with(&wanted), "{said}");
}

/// A change of a line of `metrics.jsonl`.
type Change = fn(&mut StepMetrics);

#[test]
fn a_run_that_is_not_as_it_says_is_found_out() {
    let run = Run::new(json!({"phases": [stable(5_000), decay(2_000)]}));
    assert!(run.recount().error().contains("has taken no step yet"));
    run.train();
    assert_recounted(&run);
    let said = run.recount().good().stdout;
    println!("{said}");
    let lines = run.metrics();
    let of_phase = |phase: &str| lines.iter().filter(|line| line.phase == phase).count();
    for (row, phase) in said.lines().skip(2).zip(["stable", "decay"]) {
        let cells: Vec<&str> = row.split_whitespace().collect();
        let steps = of_phase(phase).to_string();
        assert_eq!(cells[..2], [phase, &steps]);
    }
    let found_out = |change: Change| {
        let run = run.copy();
        let mut lines = run.metrics();
        change(&mut lines[4]);
        let text = lines
            .iter()
            .map(|line| serde_json::to_string(line).unwrap() + "\n");
        let text: String = text.collect();
        wait_for(run.store().put(layout::METRICS_FILE, text)).unwrap();
        run.recount().error().to_owned()
    };
    let changes: [(Change, &str); 7] = [
        (
            |line| line.first_row -= 1,
            "step 5 took 5 rows, 19 to 23, of ",
        ),
        (|line| line.rows -= 1, "step 5 took 4 rows, 20 to 23, of "),
        (
            |line| line.step = Step(4),
            "the run tells of step 4 where step 5 should be",
        ),
        (|line| line.masked_tokens += 1, " tokens and predicted "),
        (
            |line| {
                let tokens = line.sources.values_mut().next().unwrap();
                *tokens += 1;
            },
            " tokens of ",
        ),
        (|line| line.rows = 0, "step 5 took 0 rows, "),
        (|line| line.tokens += 1, "the run has read "),
    ];
    for (change, wanted) in changes {
        let error = found_out(change);
        println!("{error}");
        assert!(error.contains(wanted), "{error}");
    }
}

/// A ledger that counts a token too few, under a digest of its own.
#[test]
fn a_ledger_that_is_not_the_sum_is_found_out() {
    let run = Run::new(json!({"phases": [stable(2_000), decay(2_000)]}));
    run.train();
    let mut manifest = run.manifests().pop().unwrap();
    let key = layout::checkpoint_file(manifest.step, layout::LEDGER_FILE);
    let mut ledger: Value = serde_json::from_slice(&run.read(&key)).unwrap();
    let count = ledger["stable"]
        .as_object_mut()
        .unwrap()
        .values_mut()
        .next();
    let count = &mut count.unwrap()["tokens"];
    *count = json!(count.as_u64().unwrap() - 1);
    let text = ledger.to_string();
    for file in &mut manifest.files {
        if file.name == layout::LEDGER_FILE {
            file.bytes = text.len() as u64;
            file.digest = blake3::hash(text.as_bytes()).to_hex().to_string();
        }
    }
    wait_for(run.store().put(&key, text)).unwrap();
    let key = layout::checkpoint_file(manifest.step, layout::MANIFEST_FILE);
    wait_for(run.store().put(&key, manifest.to_json())).unwrap();
    let ended = run.recount();
    let error = ended.error();
    let wanted = format!(
        "the ledger of checkpoint {} is not what was read",
        manifest.step
    );
    assert!(error.starts_with(&wanted), "{error}");
}
