//! The decay on command: at one step on all ranks, as the schedule's closed form has it, once, also
//! where the run dies right after.

use cohort::ids::Step;
use cohort::run::schedule::PhaseKind;
use cohort::store::layout;
use cohort::store::manifest::Reason;
use cohort::telemetry::{Evaluation, EvaluationMoment, StepMetrics};
use serde_json::json;

use crate::support::run::{
    Run, assert_same_weights, assert_steps_are_whole, decay, stable, wait_for,
};

/// Far beyond what a test waits for: only a command ends this phase.
const ENDLESS_TOKENS: u64 = 1_000_000_000;

fn commanded() -> Run {
    Run::new(json!({
        "ranks": 2,
        "phases": [stable(ENDLESS_TOKENS), decay(20_000)],
        "checkpoints": {"every_steps": 8, "keep": {"keep_last": 2}},
    }))
}

/// The step that `cohort decay` names.
fn switch_step(said: &str) -> Step {
    said.strip_prefix("decay took effect after step ")
        .and_then(|rest| rest.split_once(' '))
        .map(|(step, _)| Step(step.parse().unwrap()))
        .unwrap()
}

/// The run whose YAML has the decay where `run` had it on command.
fn configured_as(run: &Run, decay_tokens: u64) -> Run {
    let metrics = run.metrics();
    let last_stable = metrics.iter().rfind(|line| line.phase == "stable").unwrap();
    let configured = Run::new(json!({
        "ranks": 2,
        "phases": [stable(last_stable.phase_tokens), decay(decay_tokens)],
        "checkpoints": {"every_steps": 8, "keep": {"keep_last": 2}},
    }));
    configured.train();
    configured
}

/// That both took the same steps to the bit; what they expected to come may differ.
#[track_caller]
fn assert_same_steps(run: &Run, configured: &Run) {
    let taken = |run: &Run| -> Vec<String> {
        let fields = |line: &StepMetrics| {
            json!([
                line.step,
                line.phase,
                line.loss,
                line.accuracy,
                line.grad_norm,
                line.learning_rate,
                line.mask_rate,
                line.first_row,
                line.rows,
                line.masked_tokens,
                line.tokens,
                line.phase_tokens,
                line.sources,
            ])
            .to_string()
        };
        run.metrics().iter().map(fields).collect()
    };
    assert_eq!(taken(run), taken(configured));
    assert_steps_are_whole(run);
    assert_eq!(run.evaluations(), configured.evaluations());
    assert_same_weights(run, configured);
}

#[test]
fn on_command_while_running_it_agrees_with_the_closed_form() {
    let run = commanded();
    let mut life = run.start_training();
    run.await_step(&mut life, 60);
    let said = run.operate(&["decay"]).good().stdout;
    life.wait().good();

    let metrics = run.metrics();
    let switch = metrics
        .iter()
        .rposition(|line| line.phase == "stable")
        .unwrap();
    let switch_step = metrics[switch].step;
    assert_eq!(
        said,
        format!("decay took effect after step {switch_step} (command 1)\n")
    );
    assert!(switch_step >= Step(60));
    check_closed_form(&metrics);
    check_mixture(&metrics);
    check_scores(&run.evaluations(), switch_step);
    check_retention(&run, switch_step);
    assert_same_steps(&run, &configured_as(&run, 20_000));
}

/// Learning rate, mask rate and phase of every step, from nothing but the settings and the tokens
/// before the step. Formula: 1-sqrt of `MB:src/scheduler.py`.
fn check_closed_form(metrics: &[StepMetrics]) {
    let peak: f64 = 0.004;
    for line in metrics {
        let before = (line.phase_tokens - line.step_tokens) as f64;
        let (rate, mask_rate) = match line.phase_kind {
            PhaseKind::Stable => (peak * (before / 3_000.0).min(1.0), 0.3),
            PhaseKind::Decay => {
                let left = 1.0 - (before / 20_000.0).sqrt();
                (peak * (0.01 + 0.99 * left), 0.15)
            }
        };
        let off = (line.learning_rate - rate).abs();
        assert!(
            off <= 1e-12,
            "step {}: {} not {rate}",
            line.step,
            line.learning_rate
        );
        assert!((line.mask_rate - mask_rate).abs() < f64::EPSILON);
    }
    // The masks follow: each token is drawn by itself, so the share is within five deviations.
    for (kind, rate) in [(PhaseKind::Stable, 0.3), (PhaseKind::Decay, 0.15)] {
        let of_kind = metrics.iter().filter(|line| line.phase_kind == kind);
        let (masked, tokens) = of_kind.fold((0, 0), |(masked, tokens), line| {
            (masked + line.masked_tokens, tokens + line.step_tokens)
        });
        let share = masked as f64 / tokens as f64;
        let deviation = (rate * (1.0 - rate) / tokens as f64).sqrt();
        assert!(
            (share - rate).abs() < 5.0 * deviation,
            "{kind}: {share} masked"
        );
    }
    let decayed: u64 = metrics
        .iter()
        .filter(|line| line.phase_kind == PhaseKind::Decay)
        .map(|line| line.step_tokens)
        .sum();
    assert!(
        (20_000..20_000 + 5 * 128).contains(&decayed),
        "{decayed} tokens"
    );
}

/// The stable phase reads every source; from its first step on the decay leaves one out and has
/// the others in the shares of its mixture.
fn check_mixture(metrics: &[StepMetrics]) {
    let tokens = |kind: PhaseKind, source: &str| -> u64 {
        let of_kind = metrics.iter().filter(|line| line.phase_kind == kind);
        of_kind.filter_map(|line| line.sources.get(source)).sum()
    };
    assert!(tokens(PhaseKind::Stable, "north/progress") > 0);
    assert_eq!(tokens(PhaseKind::Decay, "north/progress"), 0);
    let shares = [
        ("north/triage", 2.0 / 7.0),
        ("south/radiology", 2.0 / 7.0),
        ("east/visits", 3.0 / 7.0),
    ];
    let all: u64 = shares
        .iter()
        .map(|(source, _)| tokens(PhaseKind::Decay, source))
        .sum();
    for (source, wanted) in shares {
        let share = tokens(PhaseKind::Decay, source) as f64 / all as f64;
        assert!(
            (share - wanted).abs() < 0.05,
            "{source}: {share} of the decay"
        );
    }
}

/// The held-out loss falls from the stable end to the end of the decay.
fn check_scores(evaluations: &[Evaluation], switch: Step) {
    let [start, stable_end, decay_end] = evaluations else {
        panic!("{} evaluations", evaluations.len());
    };
    assert_eq!(
        (start.step, start.moment),
        (Step(0), EvaluationMoment::Start)
    );
    assert_eq!(
        (stable_end.step, stable_end.moment, stable_end.phase_kind),
        (switch, EvaluationMoment::PhaseEnd, PhaseKind::Stable)
    );
    assert_eq!(decay_end.phase_kind, PhaseKind::Decay);
    let mean = |evaluation: &Evaluation| -> f64 {
        let scores = evaluation.institutions.values();
        let tokens: u64 = scores.clone().map(|score| score.masked_tokens).sum();
        let losses = scores.map(|score| score.loss * score.masked_tokens as f64);
        losses.sum::<f64>() / tokens as f64
    };
    let [start, before, after] = [start, stable_end, decay_end].map(mean);
    println!("held-out loss: {start:.3} at the start, {before:.3} stable, {after:.3} decayed");
    assert!(after < before && before < start);
}

/// The two newest and the stable end; everything else is gone.
fn check_retention(run: &Run, switch: Step) {
    let manifests = run.manifests();
    let [stable_end, interval, end] = &manifests[..] else {
        panic!("{} checkpoints", manifests.len());
    };
    assert_eq!(
        (stable_end.step, stable_end.reason),
        (switch, Reason::PhaseEnd)
    );
    assert_eq!(stable_end.phase_kind, PhaseKind::Stable);
    let last = Step(run.metrics().len() as u64);
    assert_eq!((end.step, end.reason), (last, Reason::PhaseEnd));
    // One by interval may come late: it waits where an earlier one is still being written.
    assert_eq!(interval.reason, Reason::Interval);
    assert!(
        interval.step >= Step((last.0 - 1) / 8 * 8 - 8),
        "{}",
        interval.step
    );
    let said = run.operate(&["verify"]).good().stdout;
    assert_eq!(said.lines().count(), 3, "{said}");
}

#[test]
fn killed_right_after_it_was_applied_it_is_applied_again_at_the_same_step() {
    let run = commanded();
    let mut life = run.start_training();
    run.await_step(&mut life, 30);
    // Long enough that it is not over before the kill, on any machine.
    let said = run.operate(&["decay", "--tokens", "60000"]).good().stdout;
    run.kill(life);
    let switch = switch_step(&said);

    // Once as it is, and once without the checkpoint of the stable end or any after it, so that
    // the steps before the switch are taken again.
    let earlier = run.copy();
    for manifest in earlier.manifests() {
        if manifest.step >= switch {
            let name = layout::checkpoint_file(manifest.step, layout::MODEL_FILE);
            earlier.damage(&name);
        }
    }
    let mut configured = None;
    for run in [&run, &earlier] {
        run.train();
        let metrics = run.metrics();
        let last_stable = metrics.iter().rfind(|line| line.phase == "stable").unwrap();
        assert_eq!(last_stable.step, switch);
        let configured = configured.get_or_insert_with(|| configured_as(run, 60_000));
        assert_same_steps(run, configured);
    }
}

#[test]
fn longer_than_its_sources_may_be_repeated_it_is_refused() {
    let mut capped = decay(20_000);
    capped["max_epochs"] = json!({"east/*": 3});
    let run = Run::new(json!({"phases": [stable(ENDLESS_TOKENS), capped]}));
    let mut life = run.start_training();
    run.await_step(&mut life, 1);
    let refused = run.operate(&["decay", "--tokens", "90000000"]);
    let error = refused.error();
    let (start, rest) = error.split_once(" times in phase ").unwrap();
    assert!(
        start.starts_with("decay refused: source `east/visits` would be read "),
        "{error}"
    );
    let middle = "\"decay\", more often than `max_epochs` allows, 3; ";
    let most = rest.strip_prefix(middle).unwrap();
    let (most, _) = most.split_once(" tokens are the most").unwrap();
    let beyond = (most.parse::<u64>().unwrap() + 1).to_string();
    run.operate(&["decay", "--tokens", &beyond]).error();
    run.operate(&["decay", "--tokens", "2000"]).good();
    life.wait().good();
    let last = run.metrics().pop().unwrap();
    assert_eq!(
        (last.phase.as_str(), last.phase_length_tokens),
        ("decay", 2_000)
    );
}

#[test]
fn asked_twice_or_in_the_decay_it_is_refused_and_a_pause_changes_nothing() {
    let refusal = "decay refused: the run is already in its decay phase \"decay\"";
    let run = commanded();
    let mut life = run.start_training();
    run.await_step(&mut life, 20);
    run.operate(&["pause"]).good();
    let said = run.operate(&["decay", "--tokens", "80000"]).good().stdout;
    let switch = switch_step(&said);
    // The ranks refuse it: no step has told the coordinator of the new phase yet.
    assert_eq!(run.operate(&["decay"]).error(), refusal);
    run.operate(&["stop"]).good();
    life.wait().good();
    assert_eq!(run.metrics().last().unwrap().step, switch);

    let mut life = run.start_training();
    run.await_step(&mut life, switch.0 + 2);
    run.operate(&["pause"]).good();
    // Now the coordinator refuses it.
    assert_eq!(run.operate(&["decay", "--tokens", "1"]).error(), refusal);
    run.operate(&["resume"]).good();
    life.wait().good();
    assert_same_steps(&run, &configured_as(&run, 80_000));
}

/// The checkpoint of a pause becomes the end of the stable phase, which retention keeps.
#[test]
fn in_a_pause_the_checkpoint_that_exists_becomes_the_stable_end() {
    let run = commanded();
    let mut life = run.start_training();
    run.await_step(&mut life, 3);
    run.operate(&["pause"]).good();
    run.operate(&["checkpoint"]).good();
    let paused = run.await_status(&mut life, "the checkpoint", |view| {
        let last = view.last_step.as_ref().map(|last| last.step);
        view.last_checkpoint.is_some() && view.last_checkpoint == last
    });
    let at = paused.last_checkpoint.unwrap();
    let manifest = |step| wait_for(run.checkpoints().manifest(step)).unwrap();
    assert_eq!(manifest(at).reason, Reason::Command);
    assert_eq!(switch_step(&run.operate(&["decay"]).good().stdout), at);
    run.operate(&["resume"]).good();
    life.wait().good();
    assert_eq!(manifest(at).reason, Reason::PhaseEnd);
    assert_eq!(manifest(at).phase, "stable");
    let verified = wait_for(run.checkpoints().verify(at)).unwrap();
    assert_eq!(verified.complaint(), None);
}
