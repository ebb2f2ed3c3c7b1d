//! `cohort coordinate` and `cohort work`, started by hand on the loopback.

use cohort::run::state::Stage;
use serde_json::json;

use crate::support::process::poll;
use crate::support::run::{Run, assert_same_bits, stable};

#[test]
fn a_coordinator_and_its_ranks_by_hand_are_the_same_run() {
    let settings = json!({"ranks": 2, "phases": [stable(60_000)]});
    let together = Run::new(settings.clone());
    together.train();

    let run = Run::new(settings);
    let mut coordinator = run.start(&["coordinate", run.yaml().to_str().unwrap()]);
    let url = poll("the coordinator's address", || {
        let said = coordinator.stdout();
        said.strip_suffix('\n').map(str::to_owned)
    });
    assert!(url.starts_with("http://127.0.0.1:"), "{url}");
    run.await_status(&mut coordinator, "nobody yet", |view| {
        view.stage == Stage::Gathering && view.reason == "waiting for 2 ranks to join, 0 are here"
    });
    let refused = run.operate(&["decay"]);
    assert_eq!(
        refused.error(),
        "decay refused: the run has not started training: waiting for 2 ranks to join, 0 are here"
    );

    let mut ranks = run.start(&["work", "--coordinator", &url, "--ranks", "2"]);
    run.await_status(&mut ranks, "training", |view| view.stage == Stage::Training);
    let spare = run.start(&["work", "--coordinator", &url]);
    ranks.wait().good();
    spare.wait().good();
    coordinator.wait().good();
    assert_same_bits(&together, &run);
}
