//! A source that changes between planning and reading, or while it is read.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cohort::prepare;
use cohort::prepare::progress::{Done, Progress, Stage};

use super::super::folders::contents;
use super::super::{CORPUS_FILE, Workspace};
use super::assert_same;

/// More than are read before the first are tokenized.
const DOCUMENTS: usize = 30_000;

#[derive(Clone, Copy, Debug)]
enum Change {
    Grows,
    Shrinks,
    /// In the middle of a document.
    IsCut,
    /// The same size, another time.
    IsTouched,
    Vanishes,
    IsReplaced,
}

impl Change {
    fn make(self, path: &Path) {
        let open = || OpenOptions::new().append(true).open(path).unwrap();
        let bytes = fs::metadata(path).unwrap().len();
        match self {
            Self::Grows => open().write_all(b"{\"text\": \"more\"}\n").unwrap(),
            Self::Shrinks => open().set_len(17).unwrap(),
            Self::IsCut => open().set_len(bytes - 9).unwrap(),
            Self::IsTouched => {
                let file = open();
                let time = file.metadata().unwrap().modified().unwrap();
                file.set_modified(time + Duration::from_nanos(1)).unwrap();
            }
            Self::Vanishes => fs::remove_file(path).unwrap(),
            Self::IsReplaced => {
                let other = path.with_extension("new");
                fs::write(&other, "{\"text\": \"others\"}\n").unwrap();
                fs::rename(other, path).unwrap();
            }
        }
    }
}

/// Changes a file at the beginning of its source, or after the first documents of it.
struct Meddler {
    path: PathBuf,
    change: Option<Change>,
    while_read: bool,
    in_source: bool,
}

impl Meddler {
    fn meddle(&mut self) {
        if let Some(change) = self.change.take() {
            change.make(&self.path);
        }
    }
}

impl Progress for Meddler {
    fn expect(&mut self, _bytes: u64) {}
    fn begin(&mut self, stage: &Stage) {
        self.in_source = stage.name == "clinic/later";
        if self.in_source && !self.while_read {
            self.meddle();
        }
    }
    fn advance(&mut self, _done: &Done) {
        if self.in_source && self.while_read {
            self.meddle();
        }
    }
    fn end(&mut self) {}
    fn kept(&mut self, _folder: &Path) {}
}

fn workspace() -> Workspace {
    let sources =
        "  - {id: notes, licence: x, read: {synthetic: {style: triage_line, documents: 9}}}
  - {id: later, licence: x, read: {json_lines: {path: later.jsonl, text: text}}}";
    Workspace::new("max_length: 64\nshard_bytes: 65536", sources)
}

fn lines(text: &str) -> Vec<u8> {
    format!("{{\"text\": \"{text}\"}}\n")
        .repeat(DOCUMENTS)
        .into_bytes()
}

/// The error of a preparation during which the source changes. An older corpus must stay.
fn failure(change: Change, while_read: bool) -> String {
    let workspace = workspace();
    workspace.write("later.jsonl", b"{\"text\": \"an older corpus\"}\n");
    workspace.prepare().unwrap();
    let older = contents(&workspace.path("out"));
    workspace.write("later.jsonl", &lines("no fever"));
    let mut meddler = Meddler {
        path: workspace.path("later.jsonl"),
        change: Some(change),
        while_read,
        in_source: false,
    };
    let origin = workspace.path(CORPUS_FILE);
    let error = prepare::run(&workspace.config(), &origin, &mut meddler).unwrap_err();
    assert!(meddler.change.is_none(), "{change:?}");
    let mut left = contents(&workspace.path("out"));
    left.retain(|name, _| !name.starts_with(super::STAGING));
    assert_same(&left, &older);

    // The next run sees the file as it is by then, and takes nothing of what was read before.
    workspace.write("later.jsonl", b"{\"text\": \"at last\"}\n");
    workspace.prepare().unwrap();
    let after = contents(&workspace.path("out"));
    fs::remove_dir_all(workspace.path("out")).unwrap();
    workspace.prepare().unwrap();
    assert_same(&after, &contents(&workspace.path("out")));
    format!("{error:#}").replace(&workspace.folder.path().display().to_string(), "DIR")
}

#[test]
fn between_planning_and_reading() {
    insta::assert_snapshot!(failure(Change::Grows, false), @r"
    clinic/later: DIR/later.jsonl has changed since the preparation began: 630017 bytes, not 630000
      hint: run again when nothing writes to the source any more
    ");
    insta::assert_snapshot!(failure(Change::IsTouched, false), @r"
    clinic/later: DIR/later.jsonl was written to since the preparation began
      hint: run again when nothing writes to the source any more
    ");
    insta::assert_snapshot!(failure(Change::Vanishes, false), @r"
    clinic/later: DIR/later.jsonl is gone since the preparation began
      hint: run again when nothing writes to the source any more
    ");
}

#[test]
fn while_it_is_read() {
    insta::assert_snapshot!(failure(Change::Grows, true), @r"
    clinic/later: DIR/later.jsonl has changed since the preparation began: 630017 bytes, not 630000
      hint: run again when nothing writes to the source any more
    ");
    insta::assert_snapshot!(failure(Change::Shrinks, true), @r"
    clinic/later: DIR/later.jsonl has changed since the preparation began: 17 bytes, not 630000
      hint: run again when nothing writes to the source any more
    ");
    insta::assert_snapshot!(failure(Change::IsCut, true), @r"
    clinic/later: DIR/later.jsonl has changed since the preparation began: 629991 bytes, not 630000
      hint: run again when nothing writes to the source any more
    ");
    insta::assert_snapshot!(failure(Change::IsTouched, true), @r"
    clinic/later: DIR/later.jsonl was written to since the preparation began
      hint: run again when nothing writes to the source any more
    ");
    insta::assert_snapshot!(failure(Change::Vanishes, true), @r"
    clinic/later: DIR/later.jsonl is gone since the preparation began
      hint: run again when nothing writes to the source any more
    ");
    insta::assert_snapshot!(failure(Change::IsReplaced, true), @r"
    clinic/later: DIR/later.jsonl has changed since the preparation began: 19 bytes, not 630000
      hint: run again when nothing writes to the source any more
    ");
}

#[test]
fn one_changed_source_costs_only_what_comes_after_it() {
    // With a given tokenizer; one that is trained depends on every source.
    let workspace = workspace();
    workspace.write("later.jsonl", &lines("no fever"));
    workspace.prepare().unwrap();
    fs::copy(
        workspace.path("out/tokenizer.json"),
        workspace.path("given.json"),
    )
    .unwrap();
    let yaml = fs::read_to_string(workspace.path(CORPUS_FILE)).unwrap();
    let yaml = yaml.replace("{train: {vocab_size: 600}}", "{file: given.json}");
    workspace.write(CORPUS_FILE, yaml.as_bytes());
    workspace.write("later.jsonl", b"{\"text\": \"cut");
    workspace.prepare().unwrap_err();
    let shard = workspace.path("out/.preparing/clinic/notes/train-00000.arrow");
    let kept = File::open(&shard)
        .unwrap()
        .metadata()
        .unwrap()
        .modified()
        .unwrap();
    workspace.write("later.jsonl", &lines("mended"));
    let manifest = workspace.prepare().unwrap();
    let shard = workspace.path("out").join(
        &manifest.institutions[0].sources[0].train.shards[0]
            .stored
            .file,
    );
    assert_eq!(
        File::open(&shard)
            .unwrap()
            .metadata()
            .unwrap()
            .modified()
            .unwrap(),
        kept
    );
    let after = contents(&workspace.path("out"));
    fs::remove_dir_all(workspace.path("out")).unwrap();
    workspace.prepare().unwrap();
    assert_same(&after, &contents(&workspace.path("out")));
}
