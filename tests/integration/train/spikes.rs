//! Steps whose loss is far above those before, or not finite: told, skipped, gone back from.
//!
//! The spikes are real ones: one source holds documents of characters that no other text has, and
//! each fills a row of its own, half of a step.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use cohort::config::RunConfig;
use cohort::corpus::random::keyed_number;
use cohort::ids::{Generation, RowIndex, Step};
use cohort::preflight::open_blueprint;
use cohort::run::event::Entry;
use cohort::run::ledger::{Consumed, Ledger};
use cohort::run::spike::{Detour, Handling, Spike, SpikeKind, detours};
use cohort::store::layout;
use cohort::telemetry::StepMetrics;
use serde_json::{Value, json};

use crate::support::process::signal;
use crate::support::run::{
    Chance, Corpus, Run, assert_same_bits, assert_same_weights, assert_steps_are_whole, decay,
    stable, wait_for,
};
use crate::train::inspect::{announced, assert_recounted, taken};
use crate::train::start::{near_overflow, trained};

const NOISE: &str = "west/scans";
/// As between runs of different numbers of ranks, over steps in which rounding has not grown yet.
const LOSS_DIFFERENCE_MAX: f64 = 1e-3;
const COMPARED_STEPS: u64 = 120;

/// Documents of ideographs in no order, of which the tokenizer knows the bytes alone.
fn corpus() -> Arc<Corpus> {
    let character = |document: u64, place: u64| {
        let number = keyed_number(1, "noise", &[document, place]) % 20_000;
        char::from_u32(0x4e00 + number as u32).unwrap()
    };
    let noise: Vec<String> = (0..8)
        .map(|document| (0..30).map(|place| character(document, place)).collect())
        .collect();
    Arc::new(Corpus::prepare_with_noise(&noise))
}

fn settings(ranks: u32, spikes: &Value) -> Value {
    let mut settings = json!({
        "ranks": ranks,
        "phases": [stable(60_000), decay(20_000)],
        "batch": {"row_tokens": 96, "rows": 2, "micro_rows": 2},
        "checkpoints": {"every_steps": 20},
        "loss_spikes": {"window_steps": 32, "threshold": 6},
    });
    for (key, value) in spikes.as_object().unwrap() {
        settings["loss_spikes"][key] = value.clone();
    }
    settings
}

fn goes_back() -> Value {
    json!({
        "spike": "go_back",
        "go_back": {"checkpoints": 2, "steps_before": 5, "times_max": 20},
    })
}

/// What the journal says of spikes, in order.
fn journaled(run: &Run) -> Vec<Spike> {
    let keys = run.keys();
    let entries = keys.iter().filter(|key| key.contains("/entry-"));
    let entry = |key: &String| serde_json::from_slice(&run.read(key)).unwrap();
    let spike = |entry| match entry {
        Entry::Spike(spike) => Some(spike),
        _ => None,
    };
    entries.map(entry).filter_map(spike).collect()
}

fn skipped(run: &Run) -> Vec<StepMetrics> {
    let mut lines = run.metrics();
    lines.retain(|line| line.skipped);
    lines
}

fn newest_file(run: &Run, name: &str) -> Value {
    let newest = run.manifests().pop().unwrap().step;
    serde_json::from_slice(&run.read(&layout::checkpoint_file(newest, name))).unwrap()
}

/// That the ledger is what a count of every row gives that the lines of the run name, that each row
/// was read at most once, and that every one that was not lies in a step that was skipped or in a
/// detour.
#[track_caller]
fn assert_ledger_is_true(run: &Run, passed_over: &[Detour]) {
    let blueprint = open_blueprint(&RunConfig::load(&run.yaml()).unwrap()).unwrap();
    let mut wanted: BTreeMap<String, BTreeMap<String, Consumed>> = BTreeMap::new();
    for (index, phase) in blueprint.schedule.phases.iter().enumerate() {
        let lines = run.metrics();
        let lines: Vec<_> = lines.iter().filter(|l| l.phase == phase.name).collect();
        let (mut seen, mut left) = (BTreeSet::new(), BTreeSet::new());
        for line in &lines {
            for row in line.first_row..line.first_row + u64::from(line.rows) {
                let of_kind = if line.skipped { &mut left } else { &mut seen };
                assert!(of_kind.insert(row), "row {row} is read once");
            }
        }
        let detours = passed_over.iter().filter(|each| each.phase == phase.name);
        for row in detours.clone().flat_map(|each| each.rows.clone()) {
            assert!(!seen.contains(&row), "row {row} is passed over");
            left.insert(row);
        }
        let end = seen.iter().chain(&left).max().unwrap() + 1;
        let plan = &blueprint.phases[index].builder.plan;
        for row in 0..end {
            assert!(seen.contains(&row) != left.contains(&row), "row {row}");
            for chunk in plan.row(RowIndex(row)).chunks {
                let name = blueprint.corpus.manifest().source_name(chunk.source);
                let of_phase = wanted.entry(phase.name.clone()).or_default();
                let sum = of_phase.entry(name.unwrap()).or_default();
                if seen.contains(&row) {
                    sum.tokens += u64::from(chunk.length);
                    sum.chunks += 1;
                } else {
                    sum.skipped_tokens += u64::from(chunk.length);
                    sum.skipped_chunks += 1;
                }
            }
        }
    }
    let ledger = newest_file(run, layout::LEDGER_FILE);
    let mut found: BTreeMap<String, BTreeMap<String, Consumed>> =
        serde_json::from_value(ledger).unwrap();
    for consumed in found.values_mut().flat_map(BTreeMap::values_mut) {
        consumed.documents = 0;
    }
    assert_eq!(found, wanted);
    let manifest = run.manifests().pop().unwrap();
    let seen: u64 = wanted.values().flatten().map(|(_, all)| all.tokens).sum();
    assert_eq!(run.metrics().last().unwrap().tokens, seen);
    assert_eq!(manifest.tokens, seen);
    assert_recounted(run);
}

#[test]
fn a_spike_is_told_and_the_step_is_taken() {
    let corpus = corpus();
    let run = Run::on(Arc::clone(&corpus), settings(1, &json!({})));
    let said = run.train().stderr;
    let silent = Run::on(corpus, settings(1, &json!({"spike": "ignore"})));
    assert!(!silent.train().stderr.contains("above the limit"));
    assert_same_weights(&run, &silent);

    let mut told = run.metrics();
    told.retain(|line| line.spike.is_some());
    println!("{} of {} steps", told.len(), run.metrics().len());
    assert!(told.len() >= 3, "the corpus has spikes");
    let journal = journaled(&run);
    assert_eq!(journal.len(), told.len());
    for (line, spike) in told.iter().zip(&journal) {
        assert!(line.sources.contains_key(NOISE) && !line.skipped);
        assert_eq!(line.spike, Some(SpikeKind::LossSpike));
        assert_eq!(spike.handling, Handling::Warned);
        assert_eq!((spike.step, spike.loss), (line.step, Some(line.loss)));
        let words = format!("{spike}");
        assert!(words.contains(NOISE), "{words}");
        assert_eq!(said.matches(&words).count(), 1, "{words}\n{said}");
    }
}

#[test]
fn a_skipped_step_leaves_rows_rates_and_phases_as_planned() {
    let corpus = corpus();
    let plain = Run::on(
        Arc::clone(&corpus),
        settings(1, &json!({"spike": "ignore"})),
    );
    plain.train();
    let skips = json!({"spike": "skip"});
    let runs = [1, 2].map(|ranks| {
        let run = Run::on(Arc::clone(&corpus), settings(ranks, &skips));
        run.train();
        assert_steps_are_whole(&run);
        assert_ledger_is_true(&run, &[]);
        run
    });
    // Rows, rates and phases are as planned.
    let course = |line: &StepMetrics| {
        let rate = line.learning_rate.to_bits();
        (
            line.step,
            line.phase.clone(),
            line.first_row,
            line.rows,
            rate,
        )
    };
    let courses = |run: &Run| run.metrics().iter().map(course).collect::<Vec<_>>();
    for run in &runs {
        assert_eq!(courses(run), courses(&plain));
        let lines = run.metrics();
        let skipped = skipped(run);
        assert!(skipped.len() >= 3);
        for line in &skipped {
            assert!(line.sources.contains_key(NOISE));
            assert!(line.loss > line.loss_limit.unwrap() && line.grad_norm.is_nan());
            let next = &lines[line.step.0 as usize];
            assert!(next.loss < line.loss_limit.unwrap(), "step {}", next.step);
        }
        let state = newest_file(run, layout::STATE_FILE);
        let updates = (lines.len() - skipped.len()) as u64;
        assert_eq!(state["optimizer_steps"], json!(updates));
        assert_eq!(state["rows"], json!(2 * updates));
        let journal = journaled(run);
        assert!(
            journal
                .iter()
                .all(|each| each.handling == Handling::Skipped)
        );
        assert_eq!(journal.len(), skipped.len());
    }
    for (one, two) in runs[0].metrics().iter().zip(runs[1].metrics()) {
        assert_eq!((one.skipped, one.tokens), (two.skipped, two.tokens));
        let apart = (one.loss - two.loss).abs() / one.loss;
        let alike = apart < LOSS_DIFFERENCE_MAX || one.step.0 > COMPARED_STEPS;
        assert!(alike, "step {}: {apart:e}", one.step);
    }

    let run = &runs[0];
    let step = skipped(run)[0].step.to_string();
    let yaml = run.yaml();
    let yaml = yaml.to_str().unwrap();
    let said = run.start(&["inspect", yaml, "--step", &step]).wait().good();
    assert!(
        said.stdout.contains("the step was skipped"),
        "{}",
        said.stdout
    );
    let said = run.start(&["ledger", yaml]).wait().good().stdout;
    assert!(said.contains("tokens skipped"), "{said}");
    let said = run.start(&["ledger", yaml, "--json"]).wait().good().stdout;
    let ledger: Value = serde_json::from_str(&said).unwrap();
    let noise: u64 = skipped(run).iter().map(|line| line.sources[NOISE]).sum();
    assert_eq!(ledger["sources"][NOISE]["skipped_tokens"], json!(noise));
}

#[test]
fn a_skipped_step_changes_no_weights() {
    let corpus = corpus();
    let skips = json!({"spike": "skip"});
    let run = Run::on(Arc::clone(&corpus), settings(1, &skips));
    run.train();
    // Runs that end behind the step, and before it.
    let lines = run.metrics();
    let last = skipped(&run)[0].step.0 as usize;
    let weights = [last, last - 1].map(|step| {
        let mut settings = settings(1, &skips);
        settings["phases"] = json!([stable(lines[step - 1].phase_tokens)]);
        let run = Run::on(Arc::clone(&corpus), settings);
        run.train();
        let newest = run.manifests().pop().unwrap().step;
        assert_eq!(newest.0 as usize, step);
        [layout::MODEL_FILE, layout::OPTIMIZER_FILE]
            .map(|name| run.read(&layout::checkpoint_file(newest, name)))
    });
    assert!(weights[0] == weights[1], "a skipped step changed weights");
}

#[test]
fn a_run_that_skips_is_killed_and_resumed() {
    let corpus = corpus();
    let skips = settings(2, &json!({"spike": "skip"}));
    let uninterrupted = Run::on(Arc::clone(&corpus), skips.clone());
    uninterrupted.train();
    let first = skipped(&uninterrupted)[0].step.0;
    let run = Run::on(corpus, skips);
    let mut chance = Chance::new();
    for from in [first - 5, first + 20] {
        let mut life = run.start_training();
        run.await_step(&mut life, chance.between(from, from + 30));
        run.kill(life);
    }
    run.train();
    assert_same_bits(&uninterrupted, &run);
}

#[test]
fn a_run_that_goes_back_passes_over_the_rows() {
    let corpus = corpus();
    let uninterrupted = Run::on(Arc::clone(&corpus), settings(2, &goes_back()));
    let said = uninterrupted.train().stderr;
    assert_steps_are_whole(&uninterrupted);
    let journal = journaled(&uninterrupted);
    let of_noise = |spike: &&Spike| spike.sources.iter().any(|source| source == NOISE);
    assert!(journal.iter().filter(of_noise).count() >= 3, "{said}");
    for spike in &journal {
        let Handling::WentBack { passed_over, to } = &spike.handling else {
            panic!("{spike:?}");
        };
        assert_eq!(passed_over.start, spike.rows.end - 12, "five steps more");
        assert!(to.unwrap() < spike.step);
    }
    assert_ledger_is_true(&uninterrupted, &detours(&journal));

    // Killed with all its ranks before and after, and once a rank alone.
    let run = Run::on(Arc::clone(&corpus), settings(2, &goes_back()));
    let mut chance = Chance::new();
    for times in [1, 3] {
        let mut life = run.start_training();
        let view = run.await_status(&mut life, "the run goes back", |view| {
            view.spikes.len() >= times && view.last_step.is_some()
        });
        let at = view.last_step.unwrap().step.0;
        run.await_step(&mut life, at + chance.between(1, 25));
        run.kill(life);
    }
    run.train();
    assert_same_bits(&uninterrupted, &run);
    assert_steps_are_foreseen(&run);
    assert_abandoned_checkpoints_are_none(&run);

    let run = Run::on(corpus, settings(2, &goes_back()));
    let mut life = run.start_training();
    let view = run.await_status(&mut life, "the run goes back", |view| {
        !view.spikes.is_empty() && view.last_step.is_some()
    });
    signal(view.members.last().unwrap().process, "KILL");
    life.wait().good();
    assert!(run.generations().len() > uninterrupted.generations().len());
    assert_steps_are_whole(&run);
    assert_ledger_is_true(&run, &detours(&journaled(&run)));
    let read = |run: &Run| {
        let lines = run.metrics();
        let rows = lines
            .iter()
            .map(|line| (line.phase.clone(), line.first_row));
        rows.collect::<Vec<_>>()
    };
    assert_eq!(read(&run), read(&uninterrupted));
}

/// What is known from the journal and an early checkpoint alone.
fn assert_steps_are_foreseen(run: &Run) {
    let copy = run.copy();
    let checkpoints = copy.checkpoints();
    for manifest in &copy.manifests()[1..] {
        wait_for(checkpoints.delete(manifest.step)).unwrap();
    }
    wait_for(copy.store().delete(layout::METRICS_FILE)).unwrap();
    let lines = run.metrics();
    let last = lines.len() as u64;
    for step in [last / 4, last / 2, last - 1] {
        let line = &lines[step as usize - 1];
        assert_eq!(announced(&copy, Step(step)), taken(line));
    }
}

/// A coordinator may die after it wrote down that the run went back, and before it removed what
/// lay after.
fn assert_abandoned_checkpoints_are_none(run: &Run) {
    let copy = run.copy();
    let mut manifest = copy.manifests().pop().unwrap();
    let (newest, later) = (manifest.step, Step(manifest.step.0 + 7));
    manifest.step = later;
    manifest.generation = Generation(1);
    for file in &manifest.files {
        let bytes = copy.read(&layout::checkpoint_file(newest, &file.name));
        let key = layout::checkpoint_file(later, &file.name);
        wait_for(copy.store().put_large(&key, bytes)).unwrap();
    }
    let key = layout::checkpoint_file(later, layout::MANIFEST_FILE);
    wait_for(copy.store().put(&key, manifest.to_json())).unwrap();
    assert_eq!(copy.manifests().pop().unwrap().step, later);
    let said = copy.train().stderr;
    assert_eq!(copy.manifests().pop().unwrap().step, newest, "{said}");
    assert_same_bits(run, &copy);
}

#[test]
fn a_spike_can_stop_the_run() {
    let corpus = corpus();
    let run = Run::on(Arc::clone(&corpus), settings(1, &json!({"spike": "stop"})));
    let error = run.error();
    let (what, hint) = error.split_once("\n  hint: ").unwrap();
    assert!(what.starts_with("the loss is ") && what.contains(", above the limit of "));
    assert!(what.contains("rows ") && what.contains(NOISE), "{what}");
    assert!(hint.contains("`loss_spikes`"), "{hint}");

    let mut back = goes_back();
    back["go_back"]["times_max"] = json!(1);
    let run = Run::on(corpus, settings(1, &back));
    let error = run.error();
    let said = "; the run went back 1 time, and `times_max` allows no more\n  hint: ";
    assert!(error.contains(said) && error.contains(NOISE), "{error}");
    assert_eq!(journaled(&run).len(), 1);
    // The journal knows of it in the next life too.
    let again = run.error();
    assert!(again.contains("`times_max` allows no more"), "{again}");
}

/// The weights make every step useless, so that a limit is reached.
#[test]
fn numbers_that_are_not_finite_are_skipped_so_often_and_not_more() {
    let (first, checkpoint) = trained();
    let place = |step: u64| {
        let (from, to) = (61 * step - 61, 61 * step - 1);
        format!("step {step}, rows {from} to {to} of phase \"stable\", sources ")
    };
    for (ranks, scale, what) in [(1, 6e36, "loss"), (2, 6e36, "loss"), (2, 5e35, "gradient")] {
        let folder = near_overflow(&first, &checkpoint, scale);
        let run = |spikes: Value| {
            let run = Run::new(json!({
                "start": {"hugging_face": folder.path()},
                "ranks": ranks,
                "batch": {"rows": 61, "micro_rows": 61},
                "loss_spikes": spikes,
            }));
            let error = run.error();
            (run, error)
        };
        let (skips, error) = run(json!({"not_finite": "skip", "skips_max": 2}));
        let start = format!("the {what} is not finite: {}", place(3));
        assert!(error.starts_with(&start), "{error}");
        let limit = "; 2 steps were skipped in a row, and `skips_max` allows no more\n  hint: ";
        assert!(error.contains(limit), "{error}");
        let lines = skips.metrics();
        assert_eq!(lines.len(), 2);
        assert!(lines.iter().all(|line| line.skipped && line.tokens == 0));
        assert_eq!(lines[0].loss.is_nan(), what == "loss");
        let yaml = skips.yaml();
        let arguments = ["inspect", yaml.to_str().unwrap(), "--step", "2"];
        let said = skips.start(&arguments).wait().good().stdout;
        assert!(said.contains("the step was skipped"), "{said}");

        let back = json!({"steps_before": 0, "times_max": 2});
        let (back, error) = run(json!({"not_finite": "go_back", "go_back": back}));
        // From the beginning each time, past the rows of one step more.
        let start = format!("the {what} is not finite: {}", place(3));
        let start = start.replace("step 3", "step 1");
        assert!(error.starts_with(&start), "{error}");
        let limit = "; the run went back 2 times, and `times_max` allows no more\n  hint: ";
        assert!(error.contains(limit), "{error}");
        let wanted = [0..61, 61..122].map(|passed_over| Handling::WentBack {
            passed_over,
            to: Some(Step(0)),
        });
        let found: Vec<_> = journaled(&back)
            .into_iter()
            .map(|each| each.handling)
            .collect();
        assert_eq!(found, wanted);
        let metrics = layout::METRICS_FILE.to_owned();
        assert!(!back.keys().contains(&metrics), "no step was taken");
    }
}

#[test]
fn an_institution_whose_text_was_skipped_is_in_no_weights() {
    let run = Run::on(corpus(), settings(1, &json!({"spike": "skip"})));
    run.train();
    let ledger: Ledger = serde_json::from_value(newest_file(&run, layout::LEDGER_FILE)).unwrap();
    let west = ledger.by_institution()["west"];
    assert!(west.skipped_tokens > 0 && !west.was_seen(), "{west:?}");
    let newest = run.manifests().pop().unwrap().step;
    let yaml = run.yaml();
    let arguments = ["ledger", yaml.to_str().unwrap(), "--withdraw", "west"];
    let said = run.start(&arguments).wait().good().stdout;
    let wanted = format!("The newest checkpoint without it, after step {newest} ");
    assert!(said.contains(&wanted), "{said}");
}
