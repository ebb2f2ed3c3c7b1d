//! Ranks and coordinators are killed and stopped while a run trains, and the run goes on.

use std::collections::BTreeSet;
use std::thread::sleep;
use std::time::Duration;

use cohort::ids::{Generation, Rank};
use cohort::run::goodput::Cause;
use cohort::run::state::{Member, Place, Stage};
use cohort::telemetry::{StatusView, StepMetrics};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::support::process::{Ended, Process, poll, signal};
use crate::support::run::{Run, assert_same_bits, assert_steps_are_whole, decay, stable};

/// As between runs of different numbers of ranks, of which the steps after a fault have others.
const LOSS_DIFFERENCE_MAX: f64 = 1e-3;

fn settings(ranks: u32, tokens: u64) -> Value {
    json!({
        "ranks": ranks,
        "phases": [stable(tokens), decay(tokens / 4)],
        "checkpoints": {"every_steps": 50},
        "recovery": {"restarts_max": 1000, "compare_every_steps": 20},
    })
}

pub fn working(view: &StatusView) -> Vec<&Member> {
    let works = |member: &&Member| member.rank.is_some() && member.place == Place::Working;
    view.members.iter().filter(works).collect()
}

pub fn step(view: &StatusView) -> u64 {
    view.last_step.as_ref().map_or(0, |step| step.step.0)
}

/// Waits until all ranks have seats again and step.
#[track_caller]
fn await_all(run: &Run, process: &mut Process, ranks: u32) -> StatusView {
    run.await_status(process, "all ranks are back", |view| {
        view.stage == Stage::Training && working(view).len() as u32 == ranks
    })
}

/// That no comparison found a rank whose state is another one.
#[track_caller]
pub fn assert_all_alike(ended: &Ended) {
    for words in [
        "other weights",
        "are not those of the other ranks",
        "weights of the ranks differ",
    ] {
        assert!(!ended.stderr.contains(words), "{}", ended.stderr);
    }
}

/// That every row was read once and in order, and that all is as in a run without faults but for
/// the rounding of sums.
#[track_caller]
pub fn assert_as_undisturbed(run: &Run, undisturbed: &Run) {
    assert_steps_are_whole(run);
    let (lines, wanted) = (run.metrics(), undisturbed.metrics());
    assert_eq!(lines.len(), wanted.len());
    let read = |line: &StepMetrics| {
        let sources = line.sources.clone();
        (
            line.phase.clone(),
            line.first_row,
            line.rows,
            line.tokens,
            line.masked_tokens,
            sources,
        )
    };
    let mut worst: f64 = 0.0;
    for (line, wanted) in lines.iter().zip(&wanted) {
        assert_eq!(read(line), read(wanted), "step {}", line.step);
        let difference = (line.loss - wanted.loss).abs() / wanted.loss;
        if difference > 10.0 * worst {
            println!(
                "step {}: {difference:.1e}, generation {} of {} ranks",
                line.step, line.generation, line.ranks
            );
        }
        worst = worst.max(difference);
    }
    println!("losses differ by {worst:.1e} at most");
    assert!(worst <= LOSS_DIFFERENCE_MAX, "losses differ by {worst:e}");
}

#[test]
fn a_killed_rank_is_replaced_without_a_checkpoint() {
    let undisturbed = Run::new(settings(3, 120_000));
    undisturbed.train();
    let run = Run::new(settings(3, 120_000));
    let mut life = run.start_training();
    // The lead, another one, and the lead of the generation after.
    for victim in [0, 2, 0] {
        let view = await_all(&run, &mut life, 3);
        let at = step(&view);
        let view = run.await_step(&mut life, at + 5);
        let member = working(&view)
            .into_iter()
            .find(|member| member.rank == Some(Rank(victim)))
            .unwrap()
            .process;
        signal(member, "KILL");
        let killed = Instant::now();
        let generation = view.generation;
        let view = run.await_status(&mut life, "the others go on", |view| {
            view.generation > generation && view.stage == Stage::Training
        });
        println!(
            "rank {victim} killed at step {}, generation {} trains after {} ms",
            step(&view),
            view.generation,
            killed.elapsed().as_millis()
        );
    }
    assert_all_alike(&life.wait().good());
    assert_as_undisturbed(&run, &undisturbed);
    let generations = run.generations();
    assert!(generations.len() >= 4, "{generations:?}");
    for record in &generations {
        assert_eq!(record.lineage, Generation(1), "no checkpoint was read");
    }
    // A rank that was killed, and one that came in its place, perhaps before a step was taken.
    let recoveries = run.recoveries();
    let ended: u32 = recoveries.iter().map(|recovery| recovery.attempts).sum();
    assert_eq!(ended as usize + 1, generations.len());
    for recovery in &recoveries {
        println!("{}: {}", recovery.reason, recovery.describe());
        assert!(!recovery.from_store);
        assert!(recovery.seconds() < 60.0);
    }
}

/// What is shown is all the time there was, and the most of it was not lost.
#[test]
fn every_second_of_a_run_is_accounted_for() {
    let run = Run::new(settings(2, 1_000_000_000));
    let begun = Instant::now();
    let mut life = run.start_training();
    let first = run.await_step(&mut life, 3);
    let starting = begun.elapsed().as_secs_f64();
    run.operate(&["pause"]).good();
    sleep(Duration::from_secs(2));
    run.operate(&["resume"]).good();
    signal(working(&first)[1].process, "KILL");
    run.await_status(&mut life, "all ranks are back", |view| {
        view.generation > Generation(2) && step(view) > 0 && working(view).len() == 2
    });
    let coordinator = run.coordinator().unwrap();
    let killed = Instant::now();
    signal(coordinator, "KILL");
    let view = run.await_status(&mut life, "another coordinator", |view| {
        view.stage == Stage::Training && run.coordinator() != Some(coordinator)
    });
    let away = killed.elapsed().as_secs_f64();
    let at = step(&view);
    let view = run.await_step(&mut life, at + 20);
    let lasted = begun.elapsed().as_secs_f64();
    println!("{:#?} of {lasted:.2} s", view.account);
    let total = view.account.total();
    // The first coordinator had to start, and the second one to be started; a killed one takes with
    // it what it noted since it last wrote, every five seconds.
    let least = lasted - starting - away - 5.5;
    assert!(total < lasted + 0.5 && total > least, "{total} s");
    for cause in [Cause::Useful, Cause::Starting, Cause::Recovering] {
        assert!(view.account.seconds[&cause] > 0.0, "{cause:?}");
    }
    assert!(view.account.seconds[&Cause::Paused] > 1.5);
    let said = run.operate(&["status"]).good().stdout;
    assert!(said.contains("\ntime        "), "{said}");
    life.signal("INT");
    life.wait().good();
}

/// Ranks come and go while the run trains, and the losses are those of two ranks throughout.
#[test]
fn one_four_two_and_three_ranks_take_the_steps_of_two() {
    // So slow that the rounding of hundreds of steps does not pile up.
    let slow = |tokens| {
        let mut phase = stable(tokens);
        phase["learning_rate"] = json!(0.0004);
        json!([phase])
    };
    let mut settings = settings(4, 1_000_000_000);
    settings["phases"] = slow(1_000_000_000);
    settings["timeouts"] = json!({"gather": "5s"});
    let run = Run::new(settings);
    let mut coordinator = run.start(&["coordinate", run.yaml().to_str().unwrap()]);
    let url = poll("the coordinator's address", || {
        let said = coordinator.stdout();
        said.strip_suffix('\n').map(str::to_owned)
    });
    let work = |ranks: &str| run.start(&["work", "--coordinator", &url, "--ranks", ranks]);
    let mut trains = |ranks: u32| {
        let view = run.await_status(&mut coordinator, "so many ranks", |view| {
            view.stage == Stage::Training && working(view).len() as u32 == ranks
        });
        let at = step(&view);
        run.await_step(&mut coordinator, at + 20);
    };
    let one = work("1");
    trains(1);
    let two = work("2");
    let three = work("1");
    trains(4);
    two.signal("TERM");
    trains(2);
    let four = work("1");
    trains(3);
    run.operate(&["stop"]).good();
    coordinator.wait().good();
    for ranks in [one, three, four] {
        ranks.wait().good();
    }
    two.wait().interrupted();
    let worlds: BTreeSet<u32> = run.metrics().iter().map(|line| line.ranks).collect();
    assert_eq!(worlds, BTreeSet::from([1, 2, 3, 4]));
    let tokens = run.metrics().last().unwrap().phase_tokens;
    let mut fixed = self::settings(2, tokens);
    fixed["phases"] = slow(tokens);
    let fixed = Run::new(fixed);
    fixed.train();
    assert_as_undisturbed(&run, &fixed);
}

/// On two ranks in one generation, so that not a bit is another one.
#[test]
fn ranks_step_on_while_their_coordinator_is_dead() {
    let undisturbed = Run::new(settings(2, 120_000));
    undisturbed.train();
    let run = Run::new(settings(2, 120_000));
    let mut life = run.start_training();
    let mut at = 3;
    for _ in 0..3 {
        at = step(&run.await_step(&mut life, at));
        let coordinator = run.coordinator().unwrap();
        signal(coordinator, "KILL");
        let killed = Instant::now();
        let view = run.await_status(&mut life, "another coordinator", |view| {
            view.stage == Stage::Training && run.coordinator() != Some(coordinator)
        });
        println!(
            "epoch {} after {} ms",
            view.epoch,
            killed.elapsed().as_millis()
        );
        assert_eq!(view.generation, Generation(1));
        at += 10;
    }
    life.wait().good();
    assert_same_bits(&run, &undisturbed);
    assert_eq!(run.generations().len(), 1);
}

#[test]
fn a_stopped_rank_is_found_and_replaced() {
    let run = Run::new(settings(3, 400_000));
    let mut life = run.start_training();
    await_all(&run, &mut life, 3);
    let view = run.await_step(&mut life, 5);
    let member = working(&view)[1].process;
    signal(member, "STOP");
    let stopped = Instant::now();
    let generation = view.generation;
    let view = run.await_status(&mut life, "the others go on", |view| {
        view.generation > generation && view.stage == Stage::Training
    });
    let seconds = stopped.elapsed().as_secs_f64();
    println!(
        "a stopped rank was found after {seconds:.1} s, at step {}",
        step(&view)
    );
    assert!(seconds < 60.0, "{seconds} s");
    // Its supervisor has killed it by then, or will.
    await_all(&run, &mut life, 3);
    life.signal("INT");
    life.wait().good();
    assert_steps_are_whole(&run);
}
