//! `cohort tokenizer`: folders that everybody opens, terms as tokens, and runs that start with
//! them.

#![expect(
    clippy::unwrap_used,
    reason = "in a test, a step that fails is a panic"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use cohort::prepare::bpe::Encoder;
use cohort::prepare::train_tokenizer;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokenizers::Tokenizer;

mod grow;
mod start;
mod train;

const PRIVATE: &str = "Przewalski";

/// A folder in which `cohort` is run.
struct Place {
    folder: TempDir,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn run(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_cohort"))
            .args(arguments)
            .current_dir(self.folder.path())
            .output()
            .unwrap()
    }

    #[track_caller]
    fn good(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{stderr}");
        String::from_utf8(output.stdout).unwrap()
    }

    #[track_caller]
    fn refused(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(!stderr.contains(PRIVATE), "an error repeats text");
        stderr
    }

    /// A tokenizer in both engines.
    fn tokenizer(&self, name: &str) -> (Tokenizer, Encoder) {
        open(&self.path(name))
    }

    fn record(&self, name: &str) -> Value {
        let text = fs::read(self.path(name).join("new_tokens.json")).unwrap();
        serde_json::from_slice(&text).unwrap()
    }
}

fn open(folder: &Path) -> (Tokenizer, Encoder) {
    let text = fs::read(folder.join("tokenizer.json")).unwrap();
    let mut library = Tokenizer::from_bytes(&text).unwrap();
    library.set_encode_special_tokens(true);
    let json = serde_json::from_slice(&text).unwrap();
    let fast = Encoder::new(&library, &json).unwrap();
    (library, fast)
}

/// A small tokenizer of 512 ids without free ones.
fn small() -> Vec<u8> {
    let text = "fever and pain, feverish nights, painful days".to_owned();
    train_tokenizer::train(&vec![text; 9], 512).unwrap()
}

/// The real tokenizer, where it is.
fn modernbert() -> Option<PathBuf> {
    let project = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = project.join("../shared/data/tokenizer/modernbert");
    if !folder.exists() {
        crate::support::skipped("no ../shared/data");
        return None;
    }
    Some(folder)
}
