//! Bad input at the command line: one error with its exact words, exit code 1, and not a byte
//! written. (What only a running process can meet stands with the tests of training.)

#![expect(
    clippy::unwrap_used,
    reason = "in a test, a step that fails is a panic"
)]

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use flate2::Compression;
use flate2::write::GzEncoder;
use tempfile::TempDir;

mod corpora;
mod runs;
mod usage;

/// Stands in every bad input where text stands; nothing that is printed may repeat it.
const PRIVATE: &str = "Przewalski";

const RUN: &str = "\
name: tiny
store: {url: runs}
corpus: corpus
seed: 1
ranks: 1
model:
  preset: modernbert-base
  layers: 2
  hidden_size: 32
  attention_heads: 2
  intermediate_size: 48
  sliding_window: 16
  max_positions: 128
batch: {row_tokens: 64, rows: 4, micro_rows: 2}
phases:
  - name: stable
    tokens: 10_000
    mixture: all
    mask_rate: 0.3
    learning_rate: 1.0e-3
";

const CORPUS: &str = "\
name: tiny
output: corpus
tokenizer: {train: {vocab_size: 512}}
max_length: 64
institutions:
  - id: clinic
    name: Clinic
    sources:
      - id: notes
        licence: none needed
        read: {synthetic: {style: triage_line, documents: 200}}
";

/// What a process left behind.
struct Outcome {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

/// A folder in which `cohort` is run, as a user would.
struct Place {
    folder: TempDir,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { folder }
    }

    /// With a prepared corpus in `corpus`.
    fn with_corpus() -> Self {
        static PREPARED: OnceLock<Place> = OnceLock::new();
        let prepared = PREPARED.get_or_init(|| {
            let place = Self::new();
            place.write("corpus.yaml", CORPUS);
            let outcome = place.cohort(&["prepare", "corpus.yaml"]);
            assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
            place
        });
        let place = Self::new();
        copy(&prepared.path("corpus"), &place.path("corpus"));
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        fs::write(self.path(name), content).unwrap();
    }

    /// Runs the program here; the folder's own path is shown as `DIR`.
    fn cohort(&self, arguments: &[&str]) -> Outcome {
        let output = Command::new(env!("CARGO_BIN_EXE_cohort"))
            .args(arguments)
            .current_dir(self.folder.path())
            .output()
            .unwrap();
        let folder = self.folder.path().display().to_string();
        let shown = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap().replace(&folder, "DIR");
        Outcome {
            code: output.status.code(),
            stdout: shown(output.stdout),
            stderr: shown(output.stderr),
        }
    }

    /// The whole of stderr of a command that must fail and must not change a file, nor repeat text.
    fn refused(&self, arguments: &[&str]) -> String {
        let before = files(self.folder.path());
        let Outcome {
            code,
            stdout,
            stderr,
        } = self.cohort(arguments);
        assert_eq!(code, Some(1), "{stderr}");
        assert_eq!(stdout, "");
        assert!(!stderr.contains(PRIVATE), "an error repeats text: {stderr}");
        assert!(before == files(self.folder.path()), "files have changed");
        stderr
    }
}

/// Every file and folder below a folder, with its content.
fn files(folder: &Path) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.append(&mut files(&path));
            found.insert(path, None);
        } else {
            let content = fs::read(&path).unwrap();
            found.insert(path, Some(content));
        }
    }
    found
}

fn copy(from: &Path, to: &Path) {
    for (path, content) in files(from) {
        let target = to.join(path.strip_prefix(from).unwrap());
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        if let Some(content) = content {
            fs::write(target, content).unwrap();
        }
    }
}

fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

/// `RUN` with one line changed.
fn run(from: &str, to: &str) -> String {
    assert_eq!(
        RUN.matches(from).count(),
        1,
        "{from:?} is not in the file once"
    );
    RUN.replace(from, to)
}
