//! A preparation that dies anywhere and is run again comes to the corpus of one that did not, byte
//! for byte, and does no finished shard twice.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use cohort::corpus::MANIFEST_FILE;
use cohort::prepare::synthetic::{Notes, Style};
use serde_json::{Value, json};

use crate::support::process::{Ended, Process};
use crate::support::run::Chance;

use super::folders::contents;
use super::{CORPUS_FILE, Workspace, gzip};

mod changes;
mod publishing;
mod reverted;
mod room;
mod save_points;

const KILLS: usize = 20;
const SIGKILL: i32 = 9;
/// Shorter than the writing of a shard.
const POLL_INTERVAL: Duration = Duration::from_millis(1);
const STAGING: &str = ".preparing";
const GOING_ON: &str = "going on with an interrupted preparation";

/// A corpus of four sources of different kinds and many small shards of both series.
fn workspace() -> Workspace {
    let sources =
        "  - {id: stays, licence: x, read: {json_lines: {path: stays.jsonl.gz, text: text}}}
  - {id: talks, licence: x, read: {text_files: {path: \"talks/*.txt\"}}}
  - {id: images, licence: x, read: {csv: {path: images.csv, text: report}}}
  - {id: ward, licence: x, read: {synthetic: {style: progress_note, documents: 120}}}";
    let settings = "max_length: 128\nheld_out: 0.2\nshard_bytes: 8192";
    let workspace = Workspace::new(settings, sources);
    let notes = |style, count| {
        let notes = Notes::new(style, "clinic", "files");
        (0..count).map(move |number| notes.note(number))
    };
    // A blank document after each: what is dropped has to be counted again.
    let lines: Vec<String> = notes(Style::DischargeSummary, 90)
        .flat_map(|note| [note, " ".to_owned()])
        .map(|text| json!({ "text": text }).to_string())
        .collect();
    workspace.write("stays.jsonl.gz", &gzip(&[lines.join("\n").as_bytes()]));
    for (number, talk) in notes(Style::Dialogue, 60).enumerate() {
        workspace.write(&format!("talks/{number:03}.txt"), talk.as_bytes());
    }
    let quoted = notes(Style::RadiologyReport, 200).map(|note| note.replace('"', "\"\""));
    let rows: Vec<String> = quoted.map(|note| format!("\"{note}\"")).collect();
    workspace.write(
        "images.csv",
        format!("report\n{}", rows.join("\n")).as_bytes(),
    );
    workspace
}

impl Workspace {
    /// Starts `cohort prepare` with the output in `folder`.
    fn start(&self, folder: &str, threads: u64) -> Process {
        let yaml = fs::read_to_string(self.path(CORPUS_FILE)).unwrap();
        let named = format!("{folder}.yaml");
        self.write(
            &named,
            yaml.replace("output: out\n", &format!("output: {folder}\n"))
                .as_bytes(),
        );
        let path = self.path(&named).display().to_string();
        let environment = [("RAYON_NUM_THREADS".to_owned(), threads.to_string())];
        Process::start(&["prepare", &path], &environment, &self.path(folder))
    }
}

/// The shards that the save points of a corpus in the making call finished.
fn finished_shards(root: &Path) -> Vec<String> {
    let staging = root.join(STAGING);
    let mut shards = Vec::new();
    for source in ["stays", "talks", "images", "ward"] {
        let path = staging.join(format!("clinic/{source}/save-point.json"));
        let Ok(json) = fs::read(path) else { continue };
        let point: Value = serde_json::from_slice(&json).unwrap();
        let state = point["state"].as_object().unwrap().values().next().unwrap();
        for series in ["train", "held_out"] {
            let list = state[series]["shards"].as_array().unwrap();
            shards.extend(
                list.iter()
                    .map(|shard| shard["file"].as_str().unwrap().to_owned()),
            );
        }
    }
    shards
}

/// What a file keeps as long as nobody writes it again, wherever it is moved.
fn identity(path: &Path) -> Option<(u64, i64, i64)> {
    let found = fs::metadata(path).ok()?;
    Some((found.ino(), found.mtime(), found.mtime_nsec()))
}

/// Shards that were finished when a run was killed, with their identity.
#[derive(Default)]
struct Finished(BTreeMap<String, (u64, i64, i64)>);

impl Finished {
    fn note(&mut self, root: &Path) {
        for shard in finished_shards(root) {
            let found = identity(&root.join(STAGING).join(&shard));
            let found = found.or_else(|| identity(&root.join(&shard))).unwrap();
            assert_eq!(
                *self.0.entry(shard.clone()).or_insert(found),
                found,
                "{shard} anew"
            );
        }
    }

    fn expect_published(&self, root: &Path) {
        for (shard, identity_then) in &self.0 {
            assert_eq!(
                identity(&root.join(shard)),
                Some(*identity_then),
                "{shard} anew"
            );
        }
    }
}

#[track_caller]
fn assert_same(found: &BTreeMap<String, Vec<u8>>, expected: &BTreeMap<String, Vec<u8>>) {
    let names = |files: &BTreeMap<String, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(found), names(expected));
    for (name, bytes) in found {
        assert!(bytes == &expected[name], "{name} differs");
    }
}

/// When to kill.
#[derive(Debug)]
enum Moment {
    After(Duration),
    /// As soon as that many shards are finished.
    Shards(usize),
}

/// Runs until the moment comes, or the end.
fn run_until(process: Process, root: &Path, moment: &Moment) -> Ended {
    let mut process = process;
    let mut waited = Duration::ZERO;
    loop {
        let come = match moment {
            Moment::After(time) => waited >= *time,
            Moment::Shards(count) => finished_shards(root).len() >= *count,
        };
        if process.has_ended() || come {
            return process.end();
        }
        sleep(POLL_INTERVAL);
        waited += POLL_INTERVAL;
    }
}

#[test]
fn killed_twenty_times_it_comes_to_the_same_bytes() {
    let workspace = workspace();
    let (one, two) = (workspace.start("one", 1), workspace.start("two", 2));
    one.wait().good();
    two.wait().good();
    let expected = contents(&workspace.path("one"));
    assert_same(&contents(&workspace.path("two")), &expected);
    let shards = expected.keys().filter(|name| name.contains("-0")).count();
    assert!(shards > 60, "{shards} shards");

    let mut chance = Chance::new();
    let root = workspace.path("killed");
    let (mut kills, mut went_on, mut kept, mut completed) = (0, 0, 0, 0);
    let mut finished = Finished::default();
    loop {
        let before = finished_shards(&root).len();
        let moment = match chance.between(0, 4) {
            _ if kills == KILLS => Moment::Shards(usize::MAX),
            0 => Moment::After(Duration::from_millis(chance.between(0, 400))),
            _ => Moment::Shards(before + chance.between(1, shards as u64 / 5) as usize),
        };
        let process = workspace.start("killed", chance.between(1, 3));
        let ended = run_until(process, &root, &moment);
        // The line is there unless the run was killed before it got so far.
        let line = ended.stderr.lines().find(|line| line.contains(GOING_ON));
        if let Some(line) = line {
            assert!(
                line.contains(&format!("shards={before} ")),
                "{before} shards: {line}"
            );
            went_on += usize::from(before > 0);
        }
        if ended.status.signal() == Some(SIGKILL) {
            kills += 1;
            finished.note(&root);
            let is_made = root.join(MANIFEST_FILE).exists();
            assert!(
                !is_made || contents_of_corpus(&root) == expected,
                "a manifest too early"
            );
            continue;
        }
        assert!(ended.good().stdout.contains("training tokens"));
        finished.expect_published(&root);
        assert_same(&contents(&root), &expected);
        kept += std::mem::take(&mut finished).0.len();
        completed += 1;
        if kills == KILLS {
            break;
        }
        fs::remove_dir_all(&root).unwrap();
    }
    println!(
        "{kills} kills, {completed} corpora of {shards} shards; {went_on} runs went on, {kept} \
         shards of the corpora were finished before their last run"
    );
    assert!(went_on >= KILLS / 3 && kept >= shards / 2);
}

/// The files of a corpus, without what its making has left.
fn contents_of_corpus(root: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = contents(root);
    files.retain(|name, _| !name.starts_with(STAGING));
    files
}

fn copy(from: &Path, to: &Path) {
    for (name, bytes) in contents(from) {
        let path: PathBuf = to.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}
