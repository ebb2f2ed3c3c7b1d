//! The same run with its store on a real S3 server.

use serde_json::json;

use crate::support::run::{Chance, Run, assert_same_bits, wait_for};
use crate::support::s3::S3Server;

#[test]
fn a_run_in_s3_is_the_run_in_a_folder_also_when_killed() {
    let mut chance = Chance::new();
    let settings = json!({"ranks": 2, "checkpoints": {"every_steps": 9, "keep": {"keep_last": 2}}});
    let in_folder = Run::new(settings.clone());
    in_folder.train();

    let server = wait_for(S3Server::start());
    let run = Run::on_s3(&server, settings);
    let mut life = run.start_training();
    run.await_step(&mut life, chance.between(10, 30));
    let said = run.operate(&["status"]).good().stdout;
    assert!(said.contains("s3://cohort-test/some/runs/"), "{said}");
    println!("killed at step {}", run.kill(life));
    run.train();
    assert_same_bits(&in_folder, &run);
    assert!(run.manifests().len() <= 3, "the retention rule holds in S3");
    let said = run.operate(&["verify"]).good().stdout;
    assert!(said.lines().all(|line| line.ends_with(": good")), "{said}");
}
