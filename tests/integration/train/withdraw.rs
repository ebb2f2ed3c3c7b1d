//! An institution withdraws its text: which checkpoints and branches it is in, and a run that goes
//! on without it.

use std::fs;
use std::path::{Path, PathBuf};

use cohort::config::RunConfig;
use cohort::ids::Step;
use cohort::run::ledger::Ledger;
use cohort::run::schedule::PhaseKind;
use cohort::store::checkpoint::Checkpoints;
use cohort::store::manifest::Reason;
use cohort::store::settings::StoreSettings;
use cohort::store::{Store, layout};
use serde_json::{Value, json};

use crate::support::process::Ended;
use crate::support::run::{Run, checkpoint_path, decay, stable, wait_for};
use crate::support::s3::S3Server;

/// A phase that reads from some sources.
fn phase(name: &str, tokens: u64, sources: &Value) -> Value {
    let mut phase = stable(tokens);
    phase["name"] = json!(name);
    phase["mixture"] = json!({"weights": sources});
    phase
}

/// A phase of one pass over a third of north and south, and one that reads east too.
fn phases() -> [Value; 2] {
    let mut first = phase("first", 1, &json!({}));
    first["tokens"] = json!(null);
    first["mixture"] = json!({"epochs": {"north/*": 0.15, "south/*": 0.15}});
    first["rows_warmup"] = json!({"from_rows": 2, "tokens": 1_000});
    [first, phase("second", 8_000, &json!({"*": 1}))]
}

fn trained() -> Run {
    let run = Run::new(json!({"phases": phases(), "checkpoints": {"every_steps": 6}}));
    run.train();
    run
}

fn ledger(run: &Run, step: Step) -> Ledger {
    let bytes = run.read(&layout::checkpoint_file(step, layout::LEDGER_FILE));
    serde_json::from_slice(&bytes).unwrap()
}

/// The steps of the checkpoints that have east's text, and of those that have not.
fn by_east(run: &Run) -> (Vec<Step>, Vec<Step>) {
    let steps = run.manifests().into_iter().map(|manifest| manifest.step);
    steps.partition(|&step| ledger(run, step).by_institution().contains_key("east"))
}

/// The YAML beside the run's, and what `--write` said.
fn written(run: &Run, institution: &str, name: &str) -> (PathBuf, Ended) {
    let yaml = run.yaml();
    let new = yaml.with_file_name(name);
    let arguments = [
        "ledger",
        yaml.to_str().unwrap(),
        "--withdraw",
        institution,
        "--write",
        new.to_str().unwrap(),
    ];
    let ended = run.start(&arguments).wait();
    (new, ended)
}

fn asked(run: &Run, institution: &str) -> Ended {
    let yaml = run.yaml();
    let yaml = yaml.to_str().unwrap();
    run.start(&["ledger", yaml, "--withdraw", institution])
        .wait()
}

/// Names and lengths of a YAML's phases.
fn lengths(yaml: &Path) -> Vec<(String, Option<u64>)> {
    let phases = RunConfig::load(yaml).unwrap().phases.into_iter();
    phases.map(|phase| (phase.name, phase.tokens)).collect()
}

#[test]
fn a_withdrawal_names_the_checkpoints_and_goes_on_from_a_clean_one() {
    let run = trained();
    let unknown = asked(&run, "west");
    assert_eq!(
        unknown.error(),
        format!(
            "an institution `west` is neither in a ledger of {} nor in its corpus nor in its \
             YAML\n  \
             hint: they name east, north, south",
            run.yaml().display()
        )
    );
    let everywhere = asked(&run, "north").good();
    let ending = format!(
        "No checkpoint is without it: a run without north begins anew.\n\nFor the YAML of that \
         run:\n  cohort ledger {} --withdraw north --write NEW.yaml\n",
        run.yaml().display()
    );
    assert!(
        everywhere.stdout.ends_with(&ending),
        "{}",
        everywhere.stdout
    );

    let (new, told) = written(&run, "east", "without.yaml");
    let told = told.good();
    let (with, without) = by_east(&run);
    for &step in &with {
        assert!(told.stdout.contains(&checkpoint_path(&run, step)));
    }
    let clean = *without.last().unwrap();
    assert!(clean < with[0]);
    let clean_path = checkpoint_path(&run, clean);
    let command = format!("cohort branch {clean_path} {}\n", new.display());
    assert!(told.stdout.ends_with(&command), "{}", told.stdout);
    // The first phase is over there, though the YAML gives it no length.
    let only = [("second-without-east".to_owned(), Some(8_000))];
    assert_eq!(lengths(&new), only);

    run.start(&["branch", &clean_path, new.to_str().unwrap()])
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
    assert!(ledger_without.tokens_in("second-without-east") >= 8_000);
    assert!(fs::read_to_string(&new).unwrap().contains("east/*"));
    let branches = asked(&run, "north").good().stdout;
    assert!(branches.contains(store.address()), "{branches}");
    let clean_branch = asked(&run, "east").good().stdout;
    assert!(!clean_branch.contains(store.address()), "{clean_branch}");
}

#[test]
fn damaged_checkpoints_are_told_and_not_recommended() {
    let run = trained();
    let (with, without) = by_east(&run);
    let [.., earlier, clean] = without[..] else {
        panic!("{without:?}");
    };
    let [rotten, cut, ..] = with[..] else {
        panic!("{with:?}");
    };
    run.damage(&layout::checkpoint_file(rotten, layout::LEDGER_FILE));
    let manifest = layout::checkpoint_file(cut, layout::MANIFEST_FILE);
    let text = run.read(&manifest);
    wait_for(run.store().put(&manifest, text.slice(..text.len() / 2))).unwrap();
    run.damage(&layout::checkpoint_file(clean, layout::MODEL_FILE));

    let (new, told) = written(&run, "east", "without.yaml");
    let told = told.good().stdout;
    let head = format!(
        "Text of east is in {} checkpoint{}, and may be in 2 checkpoints that cannot be read:\n",
        with.len() - 2,
        if with.len() == 3 { "" } else { "s" }
    );
    assert!(told.starts_with(&head), "{told}");
    for expected in [
        format!("\n  step {rotten}: ledger.json has other content than was written\n"),
        format!("\n  step {cut}: "),
        format!(
            "damaged and passed over:\n  {}: model.safetensors has other content than was \
             written\n",
            checkpoint_path(&run, clean)
        ),
    ] {
        assert!(told.contains(&expected), "{expected} in {told}");
    }
    // Half of the first phase is done there: the rest is trained, without the warm-ups.
    let path = checkpoint_path(&run, earlier);
    let command = format!("cohort branch {path} {}\n", new.display());
    assert!(told.ends_with(&command), "{told}");
    let metrics = run.metrics();
    let line = &metrics[earlier.0 as usize - 1];
    let rest = line.phase_length_tokens - line.phase_tokens;
    let expected = [
        ("first-without-east".to_owned(), Some(rest)),
        ("second-without-east".to_owned(), Some(8_000)),
    ];
    assert_eq!(lengths(&new), expected);
    let first = RunConfig::load(&new).unwrap().phases.swap_remove(0);
    assert_eq!((first.warmup_tokens, first.rows_warmup), (0, None));
}

#[test]
fn a_decay_on_command_keeps_its_length_and_none_is_gone_on_in() {
    let some = json!({"north/*": 1, "south/*": 1});
    let stable = phase("stable", 1_000_000_000, &some);
    let run = Run::new(json!({"phases": [stable, decay(20_000)]}));
    let mut life = run.start_training();
    run.await_step(&mut life, 5);
    run.operate(&["decay", "--tokens", "9000"]).good();
    life.wait().good();
    let (new, told) = written(&run, "east", "without.yaml");
    told.good();
    let expected = [("decay-without-east".to_owned(), Some(9_000))];
    assert_eq!(lengths(&new), expected);

    // One that no phase has read: the newest checkpoint is a decay's end, behind which is nothing.
    let mut decay = decay(4_000);
    decay["mixture"] = json!({"weights": some});
    let phases = [phase("stable", 3_000, &some), decay];
    let run = Run::new(json!({"phases": phases, "checkpoints": {"every_steps": 3}}));
    run.train();
    let newest = run.manifests().pop().unwrap().step;
    let told = asked(&run, "east").good().stdout;
    let path = checkpoint_path(&run, newest);
    assert_eq!(
        told,
        format!(
            "Text of east is in 0 checkpoints.\n\n\
             0 documents of other sources were dropped as repetitions of east's; preparing the \
             corpus again\nwithout east brings them back. 0 documents of east were dropped as \
             repetitions of\nothers', which are read on under those sources' names. As long as the \
             corpus has east, its\nheld-out documents are scored too, and never trained on.\n\n\
             The newest checkpoint without it, after step {newest} of phase \"decay\":\n  {path}\n\n\
             No run goes on from there: nothing is left to train: {path} has all phases of the \
             YAML behind it\n"
        )
    );
    let (_, nothing) = written(&run, "east", "without.yaml");
    assert_eq!(
        nothing.error(),
        format!("nothing is left to train: {path} has all phases of the YAML behind it")
    );
    // Without that end the newest stands inside the decay.
    run.damage(&layout::checkpoint_file(newest, layout::MODEL_FILE));
    let manifests = run.manifests();
    let stable_end = manifests
        .iter()
        .find(|manifest| manifest.reason == Reason::PhaseEnd)
        .unwrap();
    assert_eq!(stable_end.phase_kind, PhaseKind::Stable);
    let (new, told) = written(&run, "east", "without.yaml");
    let told = told.good().stdout;
    assert!(told.contains("stands inside a decay, which no other run can go on in"));
    let path = checkpoint_path(&run, stable_end.step);
    let command = format!("cohort branch {path} {}\n", new.display());
    assert!(told.ends_with(&command), "{told}");
    let expected = [("decay-without-east".to_owned(), Some(4_000))];
    assert_eq!(lengths(&new), expected);
}

/// The run's corpus as it is when it was prepared again without east: its files, with a manifest
/// that does not name it.
fn prepared_without_east(run: &Run, folder: &Path) {
    fn copy(from: &Path, to: &Path) {
        fs::create_dir_all(to).unwrap();
        for entry in fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            let target = to.join(entry.file_name());
            if entry.path().is_dir() {
                copy(&entry.path(), &target);
            } else {
                fs::copy(entry.path(), target).unwrap();
            }
        }
    }
    copy(&run.corpus().path(), folder);
    let path = folder.join("manifest.json");
    let mut manifest: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let institutions = manifest["institutions"].as_array_mut().unwrap();
    institutions.retain(|institution| institution["id"] != "east");
    fs::write(&path, manifest.to_string()).unwrap();
}

#[test]
fn what_is_written_passes_the_plan() {
    let mut phases = phases();
    let long = "a-phase-with-a-name-of-nearly-40-letters";
    phases[1]["name"] = json!(long);
    phases[1]["mixture"] = json!({"weights": {"*": 1, "north/*": 1, "south/*": 1}});
    phases[1]["max_epochs"] = json!({"east/*": 50, "*": 50});
    let mut run = Run::new(json!({"phases": phases, "checkpoints": {"every_steps": 6}}));
    run.train();
    let plan = |yaml: &Path| {
        let plan = run.start(&["plan", yaml.to_str().unwrap()]).wait();
        plan.good().stdout
    };
    let (new, told) = written(&run, "east", "named.yaml");
    told.good();
    assert!(!plan(&new).contains("east/"));
    let [(name, _)] = &lengths(&new)[..] else {
        panic!("one phase is left");
    };
    assert!(
        name.len() <= 40 && name.starts_with("a-phase-with-a-name"),
        "{name}"
    );

    run = run.copy();
    let corpus = run.yaml().with_file_name("corpus-again");
    prepared_without_east(&run, &corpus);
    run.change(json!({"corpus": corpus}));
    for mixture in [json!("all"), json!({"epochs": {"*": 1, "east/visits": 2}})] {
        let mut second = phases[1].clone();
        second["mixture"] = mixture;
        run.change(json!({"phases": [phases[0].clone(), second]}));
        let new = run.yaml().with_file_name("again.yaml");
        let _ = fs::remove_file(&new);
        let (new, told) = written(&run, "east", "again.yaml");
        told.good();
        assert!(!fs::read_to_string(&new).unwrap().contains("east/"));
        let plan = run.start(&["plan", new.to_str().unwrap()]).wait();
        plan.good();
    }
    // What the plan refuses is not written.
    let mut capped = phases[1].clone();
    capped["max_epochs"] = json!({"south/*": 0.02});
    run.change(json!({"phases": [phases[0].clone(), capped]}));
    let (refused, told) = written(&run, "east", "refused.yaml");
    let error = told.error();
    let start = "a run without east, of which nothing was written: phase ";
    assert!(error.starts_with(start), "{error}");
    assert!(!refused.exists());
}

#[test]
fn branches_are_followed_also_in_object_storage() {
    let server = wait_for(S3Server::start());
    let some = json!({"north/*": 1, "south/*": 1});
    let phases = [
        phase("clean", 2_000, &some),
        phase("mixed", 4_000, &json!({"*": 1})),
    ];
    let trunk = Run::on_s3(&server, json!({"phases": phases}));
    trunk.train();
    let manifests = trunk.manifests();
    let [clean, .., mixed] = &manifests[..] else {
        panic!("{} checkpoints", manifests.len());
    };
    let grow = |name: &str, from: Step, sources: &Value| {
        let phases = [phase(name, 1_500, sources)];
        let run = Run::on_s3(&server, json!({"phases": phases}));
        let yaml = run.yaml();
        let path = checkpoint_path(&trunk, from);
        let life = run.start(&["branch", &path, yaml.to_str().unwrap()]);
        life.wait().good();
        run
    };
    let spared = grow("spared", clean.step, &some);
    let touched = grow("touched", clean.step, &json!({"east/*": 1}));
    let heir = grow("heir", mixed.step, &some);

    let told = asked(&trunk, "east").good().stdout;
    let (_, branches) = told.split_once("Branches that it is in").unwrap();
    for run in [&touched, &heir] {
        assert!(branches.contains(run.store().address()), "{told}");
    }
    assert!(!branches.contains(&spared.name), "{told}");
    // From a branch, its trunk is reached with the branch's own settings of the store.
    let told = asked(&heir, "east").good().stdout;
    assert!(
        told.contains(&checkpoint_path(&trunk, mixed.step)),
        "{told}"
    );
    assert!(
        told.contains(&checkpoint_path(&trunk, clean.step)),
        "{told}"
    );

    // An early pin says nothing of where its branch is.
    let lost = layout::pin(mixed.step, "lost-branch");
    wait_for(trunk.store().put(&lost, "{}\n")).unwrap();
    let told = asked(&trunk, "east").good().stdout;
    let row = told.lines().find(|line| line.starts_with("lost-branch"));
    assert!(
        row.unwrap().ends_with("not found beside its trunk"),
        "{told}"
    );
    let hint = "Ask each of them:\n  cohort ledger BRANCH --withdraw east\n";
    assert!(told.contains(hint), "{told}");
}

#[test]
fn a_branch_without_a_checkpoint_is_what_it_began_from() {
    let trunk = trained();
    let parent = trunk.manifests().pop().unwrap().step;
    let run = Run::new(json!({}));
    let record = json!({"run_url": trunk.store().address(), "step": parent});
    wait_for(run.store().put(layout::BRANCH_FILE, record.to_string())).unwrap();
    let path = checkpoint_path(&trunk, parent);
    let yaml = run.yaml();
    let shown = run.start(&["ledger", yaml.to_str().unwrap()]).wait().good();
    assert!(shown.stdout.starts_with(&path), "{}", shown.stdout);
    let told = asked(&run, "east").good().stdout;
    assert!(told.contains(&path), "{told}");

    // One whose trunk is gone still answers for itself.
    let orphan = trunk.copy();
    let record = json!({"run_url": format!("{}-gone", trunk.store().address()), "step": 1});
    wait_for(orphan.store().put(layout::BRANCH_FILE, record.to_string())).unwrap();
    let told = asked(&orphan, "east").good().stdout;
    assert!(told.contains("cannot be looked into: "), "{told}");
    assert!(told.contains(&checkpoint_path(&orphan, parent)), "{told}");

    let trunk_yaml = trunk.yaml();
    let step = parent.to_string();
    let arguments = [
        "ledger",
        trunk_yaml.to_str().unwrap(),
        "--step",
        &step,
        "--json",
    ];
    let said = trunk.start(&arguments).wait().good().stdout;
    let said: Value = serde_json::from_str(&said).unwrap();
    let ledger = ledger(&trunk, parent);
    let wanted = json!({
        "checkpoint": path,
        "institutions": ledger.by_institution(),
        "sources": ledger.by_source(),
        "phases": ledger,
    });
    assert_eq!(said, wanted);
}

/// A phase that only the withdrawn institution fed is not there any more, and that is said.
#[test]
fn a_phase_that_reads_nothing_else_is_left_out_aloud() {
    let alone = |name: &str, source: &str| phase(name, 2_000, &json!({source: 1}));
    let phases = [
        alone("first", "north/*"),
        alone("second", "east/*"),
        alone("third", "south/*"),
    ];
    let run = Run::new(json!({"phases": phases, "checkpoints": {"every_steps": 2}}));
    run.train();
    let (yaml, ended) = written(&run, "east", "without.yaml");
    let said = ended.good().stdout;
    assert!(said.contains("Left out: phase \"second\""), "{said}");
    let names: Vec<String> = lengths(&yaml).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["third-without-east"]);
}
