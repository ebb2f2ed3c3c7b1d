//! What a checkpoint says of itself: `MANIFEST.json`, the file whose existence makes it one.
//!
//! Pure. Versioned: another version is refused, never guessed at. A manifest names every other file
//! of its folder with length and digest, and ends with a digest of itself; it holds no text of any
//! document.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ids::{Epoch, Generation, Step};
use crate::run::schedule::PhaseKind;
use crate::store::address::CheckpointAddress;
use crate::store::layout;

/// The layout that this code reads and writes.
pub const MANIFEST_VERSION: u32 = 1;

/// What stands between the text that a manifest's own digest is of, and that digest. No string in
/// JSON has a line end, and deeper lines begin with more spaces.
const OWN_DIGEST: &str = ",\n  \"digest\": \"";

/// The content of `MANIFEST.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointManifest {
    pub version: u32,
    /// The run's name.
    pub run: String,
    pub step: Step,
    /// The coordinator's epoch that published it.
    pub epoch: Epoch,
    pub generation: Generation,
    /// The phase's name in the run's configuration.
    pub phase: String,
    pub phase_kind: PhaseKind,
    /// Tokens that the weights have seen, over all phases, padding not counted.
    pub tokens: u64,
    /// Rows that the weights have seen, over all phases.
    pub rows: u64,
    /// RFC 3339, UTC.
    pub created_at: String,
    pub reason: Reason,
    /// Of a run that branched off: the checkpoint that it began from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<CheckpointAddress>,
    /// Never removed by retention.
    pub pinned: bool,
    /// Every other file of the folder, sorted by name.
    pub files: Vec<FileEntry>,
}

/// What asked for a checkpoint. Where several did at one step, the last of these is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The untrained or loaded state before the first step.
    Start,
    /// The configured number of steps.
    Interval,
    /// The configured span of time.
    Time,
    /// An operator.
    Command,
    Stop,
    PhaseEnd,
}

/// One file of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FileEntry {
    pub name: String,
    pub bytes: u64,
    /// blake3, in hexadecimal.
    pub digest: String,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Start => "start",
            Self::Interval => "step interval",
            Self::Time => "time interval",
            Self::Command => "command",
            Self::Stop => "stop",
            Self::PhaseEnd => "phase end",
        })
    }
}

impl Reason {
    /// Whether another checkpoint soon after serves as well.
    pub fn is_regular(self) -> bool {
        matches!(self, Self::Interval | Self::Time)
    }
}

impl CheckpointManifest {
    /// Reads a manifest; the error says what is wrong without quoting it.
    pub fn parse(text: &[u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        let found: Version =
            serde_json::from_slice(text).map_err(|error| format!("no manifest: {error}"))?;
        if found.version != MANIFEST_VERSION {
            return Err(format!(
                "it is of version {}, this program reads version {MANIFEST_VERSION}",
                found.version
            ));
        }
        let manifest: Self = serde_json::from_slice(text).map_err(|error| error.to_string())?;
        manifest.check()?;
        check_own_digest(text)?;
        Ok(manifest)
    }

    pub fn to_json(&self) -> Vec<u8> {
        let text =
            serde_json::to_string_pretty(self).expect("a manifest is made of strings and numbers");
        let told = text.strip_suffix("\n}").expect("it is an object");
        let own = digest(told.as_bytes());
        format!("{told}{OWN_DIGEST}{own}\"\n}}").into_bytes()
    }

    /// What a manifest of the right shape must still obey: plain names, each once, none of them
    /// the manifest's own, digests of 64 hexadecimal digits.
    pub fn check(&self) -> Result<(), String> {
        let mut names = BTreeSet::new();
        for file in &self.files {
            if !layout::plain_name(&file.name) || file.name == layout::MANIFEST_FILE {
                return Err(format!("files: {:?} is no name of a file", file.name));
            }
            if !names.insert(&file.name) {
                return Err(format!("files: {} is named twice", file.name));
            }
            if file.digest.len() != 64 || !file.digest.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(format!("files: {} has no blake3 digest", file.name));
            }
        }
        if names.is_empty() {
            return Err("files: it names none".to_owned());
        }
        Ok(())
    }

    pub fn file(&self, name: &str) -> Option<&FileEntry> {
        self.files.iter().find(|file| file.name == name)
    }

    /// Whether this checkpoint says of itself that it must stay. The end of a stable phase always
    /// does: decays of other lengths or data branch from there.
    pub fn must_stay(&self) -> bool {
        self.pinned || (self.reason == Reason::PhaseEnd && self.phase_kind == PhaseKind::Stable)
    }

    /// Whether both name the same state: the same step of the same run with the same files. When
    /// it was published, and by whom, may differ.
    pub fn same_state(&self, other: &Self) -> bool {
        let sorted = |manifest: &Self| {
            let mut files = manifest.files.clone();
            files.sort_unstable();
            files
        };
        self.run == other.run && self.step == other.step && sorted(self) == sorted(other)
    }
}

/// That a manifest is as it was written. Early ones have no digest of their own.
fn check_own_digest(text: &[u8]) -> Result<(), String> {
    let text = str::from_utf8(text).map_err(|error| error.to_string())?;
    match text.rsplit_once(OWN_DIGEST) {
        Some((told, own)) if !own.starts_with(&digest(told.as_bytes())) => {
            Err("its own digest does not agree with it".to_owned())
        }
        _ => Ok(()),
    }
}

/// The digest of a checkpoint's file: blake3, in hexadecimal.
pub fn digest(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> CheckpointManifest {
        CheckpointManifest {
            version: MANIFEST_VERSION,
            run: "trial".to_owned(),
            step: Step(12),
            epoch: Epoch(3),
            generation: Generation(2),
            phase: "stable".to_owned(),
            phase_kind: PhaseKind::Stable,
            tokens: 1_000,
            rows: 24,
            created_at: "2026-11-21T10:00:00Z".to_owned(),
            reason: Reason::PhaseEnd,
            parent: None,
            pinned: false,
            files: vec![FileEntry {
                name: "state.json".to_owned(),
                bytes: 2,
                digest: digest(b"{}"),
            }],
        }
    }

    #[test]
    fn a_manifest_reads_back_as_written() {
        let mut manifest = example();
        manifest.parent = Some(CheckpointAddress {
            run_url: "s3://trunk/run".to_owned(),
            step: Step(4),
        });
        assert_eq!(CheckpointManifest::parse(&manifest.to_json()), Ok(manifest));
    }

    #[test]
    fn wrong_manifests_are_refused_with_the_reason() {
        let wrong = |change: fn(&mut CheckpointManifest)| {
            let mut manifest = example();
            change(&mut manifest);
            CheckpointManifest::parse(&manifest.to_json()).unwrap_err()
        };
        assert_eq!(
            wrong(|m| m.version = 2),
            "it is of version 2, this program reads version 1"
        );
        assert_eq!(
            wrong(|m| m.files[0].name = "../x".to_owned()),
            "files: \"../x\" is no name of a file"
        );
        assert_eq!(
            wrong(|m| m.files.push(m.files[0].clone())),
            "files: state.json is named twice"
        );
        assert_eq!(
            wrong(|m| m.files[0].digest = "12".to_owned()),
            "files: state.json has no blake3 digest"
        );
        assert_eq!(wrong(|m| m.files.clear()), "files: it names none");
        assert!(CheckpointManifest::parse(b"{\"version\": 1").is_err());
        assert!(
            CheckpointManifest::parse(b"{\"version\": 1}")
                .unwrap_err()
                .contains("run")
        );
    }

    #[test]
    fn the_end_of_a_stable_phase_must_stay() {
        assert!(example().must_stay());
        assert!(
            !CheckpointManifest {
                phase_kind: PhaseKind::Decay,
                ..example()
            }
            .must_stay()
        );
        assert!(
            !CheckpointManifest {
                reason: Reason::Stop,
                ..example()
            }
            .must_stay()
        );
        assert!(
            CheckpointManifest {
                reason: Reason::Stop,
                pinned: true,
                ..example()
            }
            .must_stay()
        );
    }
}
