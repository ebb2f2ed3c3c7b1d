//! The corpus folder: the same bytes every time, and never a manifest beside half of them.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;

use cohort::corpus::MANIFEST_FILE;
use cohort::prepare;
use cohort::prepare::progress::{Done, Progress, Stage};

use super::{CORPUS_FILE, Workspace, only_source, synthetic};

/// Every file below a folder with its bytes.
pub fn contents(root: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(root).unwrap().display().to_string();
                found.insert(name, fs::read(path).unwrap());
            }
        }
    }
    found
}

/// Counts what it is told.
#[derive(Default)]
pub struct Recorder {
    pub begun: Vec<String>,
    kept: usize,
}

impl Progress for Recorder {
    fn expect(&mut self, _bytes: u64) {}
    fn begin(&mut self, stage: &Stage) {
        self.begun.push(stage.name.clone());
    }
    fn advance(&mut self, _done: &Done) {}
    fn end(&mut self) {}
    fn kept(&mut self, _folder: &Path) {
        self.kept += 1;
    }
}

#[test]
fn threads_and_reruns_do_not_change_a_byte() {
    let sources = [
        "  - {id: stays, licence: x, read: {synthetic: {style: discharge_summary, documents: 60}}}",
        "  - {id: talks, licence: x, read: {synthetic: {style: dialogue, documents: 40}}}",
    ];
    let corpus = |threads: usize| {
        let workspace = Workspace::new("max_length: 128", &sources.join("\n"));
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        pool.install(|| workspace.prepare().unwrap());
        contents(&workspace.path("out"))
    };
    let one = corpus(1);
    assert!(one.contains_key(MANIFEST_FILE) && one.contains_key("clinic/talks/unigrams.arrow"));
    let two = corpus(2);
    let names = |files: &BTreeMap<String, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&one), names(&two));
    for (name, bytes) in &one {
        assert_eq!(Some(bytes), two.get(name), "{name}");
    }
}

#[test]
fn a_complete_corpus_is_kept_and_a_changed_one_is_made_anew() {
    let workspace = Workspace::new("max_length: 64", &synthetic("triage_line", 50));
    let run = || {
        let mut recorder = Recorder::default();
        let origin = workspace.path(CORPUS_FILE);
        let manifest = prepare::run(&workspace.config(), &origin, &mut recorder).unwrap();
        (manifest, recorder.begun, recorder.kept)
    };
    let begun = vec!["tokenizer".to_owned(), "clinic/notes".to_owned()];
    let (first, stages, kept) = run();
    assert_eq!((stages, kept), (begun.clone(), 0));
    let before = contents(&workspace.path("out"));
    let (again, stages, kept) = run();
    assert_eq!((again, stages, kept), (first.clone(), vec![], 1));
    assert_eq!(contents(&workspace.path("out")), before);

    let shard = workspace
        .path("out")
        .join(&only_source(&first).train.shards[0].stored.file);
    fs::write(&shard, "cut short").unwrap();
    let (mended, stages, _) = run();
    assert_eq!((mended, stages), (first, begun.clone()));
    assert_eq!(contents(&workspace.path("out")), before);

    workspace.write(
        "out/clinic/notes/train-00009.arrow.tmp",
        b"left by a killed run",
    );
    workspace.configure("max_length: 32", &synthetic("triage_line", 50));
    let (changed, stages, _) = run();
    assert_eq!((changed.max_length, stages), (32, begun));
    let files = contents(&workspace.path("out"));
    assert!(
        !files.keys().any(|name| name.contains(".tmp")),
        "{:?}",
        files.keys()
    );
}

#[test]
fn a_failed_run_leaves_the_older_corpus() {
    let sources = |file: &str| {
        format!(
            "{}\n  - {{id: bad, licence: x, read: {{json_lines: {{path: {file}, text: text}}}}}}",
            synthetic("triage_line", 20)
        )
    };
    let workspace = Workspace::new("max_length: 64", &sources("bad.jsonl"));
    workspace.write("good.jsonl", b"{\"text\": \"some words here\"}\n");
    workspace.write("bad.jsonl", b"{\"text\": \"some words here\"}\n{\"text\": ");
    workspace.prepare().unwrap_err();
    assert!(!workspace.path("out").join(MANIFEST_FILE).exists());

    workspace.configure("max_length: 64", &sources("good.jsonl"));
    workspace.prepare().unwrap();
    let older = contents(&workspace.path("out"));
    workspace.configure("max_length: 64", &sources("bad.jsonl"));
    workspace.prepare().unwrap_err();
    let mut after = contents(&workspace.path("out"));
    after.retain(|name, _| !name.starts_with(".preparing/"));
    assert_eq!(after, older);

    // The older corpus is still the one of its configuration, whatever lies beside it.
    workspace.configure("max_length: 64", &sources("good.jsonl"));
    workspace.prepare().unwrap();
    workspace.configure("max_length: 32", &sources("good.jsonl"));
    workspace.prepare().unwrap();
    assert!(!workspace.path("out/.preparing").exists());
}

#[test]
fn a_changed_tokenizer_config_is_taken_over() {
    let workspace = Workspace::new("max_length: 64", &synthetic("triage_line", 20));
    let trained = workspace.prepare().unwrap().tokenizer.digest;
    fs::create_dir(workspace.path("given")).unwrap();
    let [tokenizer, config] = ["tokenizer.json", "tokenizer_config.json"];
    for file in [tokenizer, config] {
        let out = workspace.path("out").join(file);
        fs::copy(out, workspace.path("given").join(file)).unwrap();
    }
    let yaml = fs::read_to_string(workspace.path(CORPUS_FILE)).unwrap();
    let yaml = yaml.replace("{train: {vocab_size: 600}}", "{file: given}");
    workspace.write(CORPUS_FILE, yaml.as_bytes());
    assert_eq!(workspace.prepare().unwrap().tokenizer.digest, trained);
    let before = contents(&workspace.path("out"));

    let changed = String::from_utf8(before[config].clone()).unwrap();
    let changed = changed.replace("\"model_max_length\": 64", "\"model_max_length\": 63");
    workspace.write("given/tokenizer_config.json", changed.as_bytes());
    assert_eq!(workspace.prepare().unwrap().tokenizer.digest, trained);
    let after = contents(&workspace.path("out"));
    assert_eq!(after[config], changed.as_bytes());
    assert_ne!(after[config], before[config]);
    assert_eq!(after[MANIFEST_FILE], before[MANIFEST_FILE]);
}

#[test]
fn a_folder_on_another_file_system_is_refused_before_the_work() {
    let workspace = Workspace::new("max_length: 64", &synthetic("triage_line", 20));
    workspace.prepare().unwrap();
    let device = |path: &Path| fs::metadata(path).map(|found| found.dev()).ok();
    let Ok(other) = tempfile::tempdir_in("/dev/shm") else {
        return crate::support::skipped("no folder in /dev/shm");
    };
    if device(other.path()) == device(workspace.folder.path()) {
        return crate::support::skipped("no second file system");
    }
    let institution = workspace.path("out/clinic");
    let elsewhere = other.path().join("notes");
    fs::create_dir(&elsewhere).unwrap();
    for (name, bytes) in contents(&institution.join("notes")) {
        fs::write(elsewhere.join(name), bytes).unwrap();
    }
    fs::remove_dir_all(&institution).unwrap();
    symlink(other.path(), &institution).unwrap();
    let older = contents(&workspace.path("out"));

    workspace.configure("max_length: 32", &synthetic("triage_line", 20));
    let mut recorder = Recorder::default();
    let origin = workspace.path(CORPUS_FILE);
    let error = prepare::run(&workspace.config(), &origin, &mut recorder).unwrap_err();
    insta::assert_snapshot!(workspace.shown(&error), @r"
    DIR/out/clinic/notes is on another file system than DIR/out/.preparing, from where a finished corpus is moved in
      hint: set `output` to a folder that has all of its folders on one file system
    ");
    assert!(recorder.begun.is_empty());
    assert_eq!(contents(&workspace.path("out")), older);
}

#[test]
fn two_preparations_of_one_folder_do_not_mix() {
    let workspace = Workspace::new("max_length: 64", &synthetic("triage_line", 5));
    workspace.write("out/.prepare.lock", b"");
    let held = File::open(workspace.path("out/.prepare.lock")).unwrap();
    held.lock().unwrap();
    let error = workspace.prepare().unwrap_err().to_string();
    assert!(
        error.starts_with("another process is preparing "),
        "{error}"
    );
    held.unlock().unwrap();
    workspace.prepare().unwrap();
}
