//! Proof that a checkpoint is what its manifest says, and reading that insists on it.
//!
//! Nothing is believed without its digest: a file is used only after its length and blake3 agree
//! with the manifest. A file that does not agree is read once more, since the way from the store
//! may be to blame. A store that cannot be reached is an error, never a reason to take an older
//! checkpoint for the newest.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures::TryStreamExt;
use tokio::io::AsyncWriteExt;

use crate::ids::Step;
use crate::store::checkpoint::{Checkpoints, digest_of};
use crate::store::error::{CheckpointError, StoreError};
use crate::store::layout;
use crate::store::manifest::{CheckpointManifest, FileEntry};

/// Readings of a file before it counts as damaged.
const READS_MAX: usize = 2;

/// What a look at every byte of a checkpoint showed.
#[derive(Clone, Debug)]
pub struct Verification {
    pub manifest: CheckpointManifest,
    /// One for each file of the manifest, in its order.
    pub files: Vec<(String, FileState)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileState {
    Good,
    Missing,
    WrongLength { found: u64 },
    WrongDigest { found: String },
}

/// The newest checkpoint that verifies, and why newer ones were passed over.
#[derive(Clone, Debug, Default)]
pub struct NewestVerified {
    pub found: Option<CheckpointManifest>,
    /// From the newest down.
    pub skipped: Vec<(Step, String)>,
}

impl Verification {
    pub fn is_good(&self) -> bool {
        self.files
            .iter()
            .all(|(_, state)| *state == FileState::Good)
    }

    /// What is wrong, each bad file by name; nothing where all is well.
    pub fn complaint(&self) -> Option<String> {
        let bad: Vec<_> = self
            .files
            .iter()
            .filter(|(_, state)| *state != FileState::Good)
            .map(|(name, state)| format!("{name} {}", state.words()))
            .collect();
        if bad.is_empty() {
            None
        } else {
            Some(bad.join(", "))
        }
    }
}

impl FileState {
    pub fn words(&self) -> String {
        match self {
            Self::Good => "is good".to_owned(),
            Self::Missing => "is missing".to_owned(),
            Self::WrongLength { found } => format!("has another length ({found} bytes)"),
            Self::WrongDigest { .. } => "has other content than was written".to_owned(),
        }
    }
}

impl Checkpoints {
    /// Reads every byte of a checkpoint, in chunks, and compares with the manifest.
    pub async fn verify(&self, step: Step) -> Result<Verification, CheckpointError> {
        let manifest = self.manifest(step).await?;
        let mut files = Vec::with_capacity(manifest.files.len());
        for entry in &manifest.files {
            let state = self.stream_file(step, entry, None).await?;
            files.push((entry.name.clone(), state));
        }
        Ok(Verification { manifest, files })
    }

    /// Walks from the newest checkpoint down to the first that verifies whole.
    pub async fn newest_verified(&self) -> Result<NewestVerified, CheckpointError> {
        let mut result = NewestVerified::default();
        for step in self.steps().await?.published.into_iter().rev() {
            let reason = match self.verify(step).await {
                Ok(verification) => match verification.complaint() {
                    None => {
                        result.found = Some(verification.manifest);
                        break;
                    }
                    Some(complaint) => complaint,
                },
                Err(CheckpointError::Unusable { reason, .. }) => reason,
                Err(error) => return Err(error),
            };
            result.skipped.push((step, reason));
        }
        Ok(result)
    }

    /// One whole file in memory, its digest checked.
    pub async fn read_file(
        &self,
        manifest: &CheckpointManifest,
        name: &str,
    ) -> Result<Bytes, CheckpointError> {
        let step = manifest.step;
        let Some(entry) = manifest.file(name) else {
            return Err(self.unusable(step, format!("it has no {name}")));
        };
        let key = layout::checkpoint_file(step, name);
        let mut state = FileState::Missing;
        for _ in 0..READS_MAX {
            let bytes = match self.store().get(&key).await {
                Ok(bytes) => bytes,
                Err(StoreError::NotFound { .. }) => break,
                Err(error) => return Err(error.into()),
            };
            let found = bytes.len() as u64;
            state = if found == entry.bytes {
                FileState::of_digest(digest_of(bytes.clone()).await, entry)
            } else {
                FileState::WrongLength { found }
            };
            if state == FileState::Good {
                return Ok(bytes);
            }
        }
        Err(self.unusable_file(step, name, &state))
    }

    /// Copies a checkpoint into a local folder, created where missing, as a Hugging Face model
    /// directory with the manifest last. A file gets its name only once its digest is checked.
    pub async fn download(
        &self,
        step: Step,
        folder: &Path,
    ) -> Result<CheckpointManifest, CheckpointError> {
        let manifest = self.manifest(step).await?;
        local(folder, tokio::fs::create_dir_all(folder).await)?;
        for entry in &manifest.files {
            let target = folder.join(&entry.name);
            let part = part_of(&target);
            match self.stream_file(step, entry, Some(&part)).await {
                Ok(FileState::Good) => {
                    local(&target, tokio::fs::rename(&part, &target).await)?;
                }
                Ok(bad) => {
                    drop(tokio::fs::remove_file(&part).await);
                    return Err(self.unusable_file(step, &entry.name, &bad));
                }
                Err(error) => {
                    drop(tokio::fs::remove_file(&part).await);
                    return Err(error);
                }
            }
        }
        let target = folder.join(layout::MANIFEST_FILE);
        local(&target, tokio::fs::write(&target, manifest.to_json()).await)?;
        Ok(manifest)
    }

    /// Reads a file in chunks, checks it, and writes it to `target` where there is one.
    async fn stream_file(
        &self,
        step: Step,
        entry: &FileEntry,
        target: Option<&Path>,
    ) -> Result<FileState, CheckpointError> {
        let mut state = FileState::Missing;
        for _ in 0..READS_MAX {
            state = match self.stream_once(step, entry, target).await {
                // Deleted while it was read.
                Err(CheckpointError::Store(StoreError::NotFound { .. })) => FileState::Missing,
                state => state?,
            };
            if state == FileState::Good {
                break;
            }
        }
        Ok(state)
    }

    async fn stream_once(
        &self,
        step: Step,
        entry: &FileEntry,
        target: Option<&Path>,
    ) -> Result<FileState, CheckpointError> {
        let key = layout::checkpoint_file(step, &entry.name);
        let Some(found) = self.store().size(&key).await? else {
            return Ok(FileState::Missing);
        };
        if found != entry.bytes {
            return Ok(FileState::WrongLength { found });
        }
        let mut file = match target {
            Some(path) => Some((path, local(path, tokio::fs::File::create(path).await)?)),
            None => None,
        };
        let mut hasher = blake3::Hasher::new();
        let mut chunks = self.store().chunks(&key, entry.bytes);
        while let Some(chunk) = chunks.try_next().await? {
            hasher.update(&chunk);
            if let Some((path, file)) = &mut file {
                local(path, file.write_all(&chunk).await)?;
            }
        }
        if let Some((path, mut file)) = file {
            local(path, file.flush().await)?;
            local(path, file.sync_all().await)?;
        }
        Ok(FileState::of_digest(
            hasher.finalize().to_hex().to_string(),
            entry,
        ))
    }

    fn unusable(&self, step: Step, reason: String) -> CheckpointError {
        CheckpointError::Unusable {
            url: self.url(step),
            reason,
        }
    }

    fn unusable_file(&self, step: Step, name: &str, state: &FileState) -> CheckpointError {
        self.unusable(step, format!("{name} {}", state.words()))
    }
}

impl FileState {
    fn of_digest(found: String, entry: &FileEntry) -> Self {
        if found == entry.digest {
            Self::Good
        } else {
            Self::WrongDigest { found }
        }
    }
}

fn part_of(target: &Path) -> PathBuf {
    let mut name = target.as_os_str().to_owned();
    name.push(".part");
    PathBuf::from(name)
}

fn local<T>(path: &Path, result: std::io::Result<T>) -> Result<T, CheckpointError> {
    result.map_err(|source| CheckpointError::Local {
        path: path.display().to_string(),
        source,
    })
}
