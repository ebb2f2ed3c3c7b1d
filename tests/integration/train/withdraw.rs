//! An institution withdraws its text: which checkpoints it is in, and a run that goes on without
//! it.

use std::fs;

use cohort::ids::Step;
use cohort::run::ledger::Ledger;
use cohort::store::checkpoint::Checkpoints;
use cohort::store::settings::StoreSettings;
use cohort::store::{Store, layout};
use serde_json::{Value, json};

use crate::support::run::{Run, checkpoint_path, stable, wait_for};

/// A phase that reads from some sources.
fn phase(name: &str, tokens: u64, sources: &Value) -> Value {
    let mut phase = stable(tokens);
    phase["name"] = json!(name);
    phase["mixture"] = json!({"weights": sources});
    phase
}

fn ledger(run: &Run, step: Step) -> Ledger {
    let bytes = run.read(&layout::checkpoint_file(step, layout::LEDGER_FILE));
    serde_json::from_slice(&bytes).unwrap()
}

#[test]
fn a_withdrawal_names_the_checkpoints_and_goes_on_from_a_clean_one() {
    let mut first = phase("first", 6_000, &json!({"north/*": 1, "south/*": 1}));
    first["warmup_tokens"] = json!(0);
    let second = phase("second", 12_000, &json!({"*": 1}));
    let run = Run::new(json!({"phases": [first, second], "checkpoints": {"every_steps": 6}}));
    run.train();
    let yaml = run.yaml();
    let yaml = yaml.to_str().unwrap();

    let unknown = run.start(&["ledger", yaml, "--withdraw", "west"]).wait();
    assert_eq!(
        unknown.error(),
        format!(
            "no checkpoint of {yaml} has read text of an institution `west`\n  \
             hint: their ledgers name east, north, south"
        )
    );
    let everywhere = run
        .start(&["ledger", yaml, "--withdraw", "north"])
        .wait()
        .good();
    let ending = "No checkpoint is without it: a run without north begins anew.\n";
    assert!(everywhere.stdout.ends_with(ending), "{}", everywhere.stdout);

    let new = yaml.replace("run.yaml", "without.yaml");
    let told = run
        .start(&["ledger", yaml, "--withdraw", "east", "--write", &new])
        .wait()
        .good();
    let (with, without): (Vec<Step>, Vec<Step>) = run
        .manifests()
        .iter()
        .map(|manifest| manifest.step)
        .partition(|&step| ledger(&run, step).by_institution().contains_key("east"));
    for &step in &with {
        assert!(told.stdout.contains(&checkpoint_path(&run, step)));
    }
    let clean = *without.last().unwrap();
    assert!(clean < with[0]);
    let command = format!("cohort branch {} {new}\n", checkpoint_path(&run, clean));
    assert!(told.stdout.ends_with(&command), "{}", told.stdout);

    run.start(&["branch", &checkpoint_path(&run, clean), &new])
        .wait()
        .good();
    let name = format!("{}-without-east", run.name);
    let (runs, _) = run.store().address().rsplit_once('/').unwrap();
    let store = Store::open_existing(&StoreSettings::at(format!("{runs}/{name}"))).unwrap();
    let steps = wait_for(Checkpoints::new(store.clone()).steps()).unwrap();
    let last = *steps.published.last().unwrap();
    let key = layout::checkpoint_file(last, layout::LEDGER_FILE);
    let bytes = wait_for(store.get(&key)).unwrap();
    let ledger_without: Ledger = serde_json::from_slice(&bytes).unwrap();
    let institutions: Vec<String> = ledger_without.by_institution().into_keys().collect();
    assert_eq!(institutions, ["north", "south"]);
    assert_eq!(
        ledger_without.tokens_in("first"),
        ledger(&run, clean).tokens_in("first"),
        "what the trunk read before stays on record"
    );
    assert!(ledger_without.tokens_in("second-without-east") >= 12_000);
    assert!(fs::read_to_string(&new).unwrap().contains("east/*"));
}
