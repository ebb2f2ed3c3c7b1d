//! Machines that are taken away: SIGTERM and SIGUSR1 to ranks and coordinators.

use cohort::ids::{Generation, Rank};
use cohort::run::state::{Place, Stage};
use cohort::store::manifest::Reason;
use cohort::telemetry::StatusView;
use serde_json::{Value, json};

use crate::support::process::{Process, is_rank, poll, signal};
use crate::support::run::{Run, assert_steps_are_whole, decay, stable};

fn settings(ranks: u32) -> Value {
    json!({
        "ranks": ranks,
        "phases": [stable(200_000), decay(30_000)],
        "checkpoints": {"every_steps": null},
    })
}

fn working(view: &StatusView) -> usize {
    let works = |place| place == Place::Working;
    view.members.iter().filter(|each| works(each.place)).count()
}

#[test]
fn a_rank_that_has_to_leave_does_so_between_two_steps() {
    let run = Run::new(settings(3));
    let mut life = run.start_training();
    for (left, name) in [(2, "TERM"), (1, "USR1")] {
        let view = run.await_step(&mut life, 5);
        let lead = view.members.iter().find(|each| each.rank == Some(Rank(0)));
        let lead = lead.unwrap().process;
        signal(lead, name);
        let view = run.await_status(&mut life, "the others go on", |view| {
            view.stage == Stage::Training && view.members.len() == left && working(view) == left
        });
        assert_eq!(view.generation, Generation(4 - left as u64));
        poll("the end of the process", || (!is_rank(lead)).then_some(()));
    }
    let said = life.wait().good().stderr;
    assert!(!said.contains("starts anew"), "{said}");
    assert!(said.contains("leaves: SIGTERM"), "{said}");
    assert_steps_are_whole(&run);
    // Nobody died: each generation begins where the one before it ended, and no step is lost.
    for record in run.generations() {
        assert_eq!(record.lineage, Generation(1));
    }
}

fn coordinate(run: &Run) -> (Process, String) {
    let coordinator = run.start(&["coordinate", run.yaml().to_str().unwrap()]);
    let url = poll("the coordinator's address", || {
        let said = coordinator.stdout();
        said.strip_suffix('\n').map(str::to_owned)
    });
    (coordinator, url)
}

#[test]
fn the_last_ranks_leave_a_checkpoint_and_others_go_on_from_it() {
    let mut settings = settings(2);
    settings["phases"] = json!([stable(1_000_000_000)]);
    let run = Run::new(settings);
    let (mut coordinator, url) = coordinate(&run);
    let work = |ranks: &str| run.start(&["work", "--coordinator", &url, "--ranks", ranks]);
    let one = work("1");
    let mut other = work("1");
    run.await_step(&mut other, 5);
    one.signal("USR1");
    one.wait().interrupted();
    let view = run.await_status(&mut other, "one rank goes on", |view| {
        view.stage == Stage::Training && working(view) == 1
    });
    let step = view.last_step.unwrap().step;
    run.await_step(&mut other, step.0 + 3);
    other.signal("TERM");
    other.wait().interrupted();
    let newest = run.manifests().pop().unwrap();
    // It stepped on while that was uploaded.
    assert_eq!(newest.reason, Reason::Command);
    assert!(newest.step >= step);
    let view = run.status().unwrap();
    assert_eq!((view.stage, view.members.len()), (Stage::Gathering, 0));
    assert!(!coordinator.has_ended());

    let mut third = work("2");
    run.await_status(&mut third, "two others go on", |view| {
        view.stage == Stage::Training && working(view) == 2
    });
    coordinator.signal("TERM");
    let said = coordinator.wait().interrupted().stderr;
    assert!(said.contains("the run goes on when"), "{said}");
    third.wait().good();
    let newest = run.manifests().pop().unwrap();
    assert_eq!(newest.reason, Reason::Stop);
    assert_eq!(newest.step.0, run.metrics().len() as u64, "no step is lost");
    assert_steps_are_whole(&run);
}

#[test]
fn a_run_whose_ranks_all_have_to_leave_ends_to_be_queued_again() {
    let run = Run::new(settings(2));
    let mut life = run.start_training();
    let view = run.await_step(&mut life, 5);
    for member in &view.members {
        signal(member.process, "TERM");
    }
    let said = life.wait().interrupted().stderr;
    assert!(said.contains("all ranks have left (SIGTERM)"), "{said}");
    assert_eq!(run.manifests().pop().unwrap().reason, Reason::Command);
    run.train();
    assert_steps_are_whole(&run);
}

#[test]
fn the_time_of_grace_is_kept_also_when_a_rank_hangs() {
    let mut settings = settings(1);
    settings["timeouts"] = json!({"grace": "1s"});
    settings["checkpoints"] = json!({"every_steps": 5});
    let run = Run::new(settings);
    let mut life = run.start_training();
    let view = run.await_step(&mut life, 10);
    let rank = view.members[0].process;
    signal(rank, "STOP");
    let stopped = tokio::time::Instant::now();
    life.signal("TERM");
    let ended = life.wait().interrupted();
    assert!(ended.stderr.contains("the time to stop in is over"));
    assert!(stopped.elapsed().as_secs() < 60);
    run.train();
    assert_steps_are_whole(&run);
}
