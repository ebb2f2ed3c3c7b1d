//! Writing and listing checkpoints.
//!
//! Everything is bytes here; what they mean is for `train` to know. The order of writes is the
//! whole protocol: files first, each read back, the manifest last and only once, by a coordinator
//! that still holds the newest epoch; on deletion the manifest first. So at any point of time,
//! whatever process dies and whatever the store said, a folder with a manifest is a whole
//! checkpoint and one without is none. What the store damages later is for `verify` to find.
//!
//! One window stays open: a coordinator that is fenced off between its check and its write still
//! publishes. That is harmless, for what it publishes is whole and is a state that training was in;
//! the next coordinator either finds it or is told `AlreadyPublished` at that step.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::ids::{Epoch, Step};
use crate::store::error::{CheckpointError, StoreError};
use crate::store::manifest::{CheckpointManifest, FileEntry, digest};
use crate::store::write::Held;
use crate::store::{Store, epoch, layout};

/// Conditional creates of one manifest. S3 may answer a create with a conflict while a rival's
/// create, which then fails, is in flight.
const PUBLISH_ATTEMPTS_MAX: u32 = 4;

/// The checkpoints of one run.
#[derive(Clone, Debug)]
pub struct Checkpoints {
    store: Store,
}

/// What [`Checkpoints::publish`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Published {
    New,
    /// The same state was published before.
    Already,
}

/// The steps that have a folder, each list sorted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckpointSteps {
    pub published: Vec<Step>,
    /// Files without a manifest: being written, or left by a process that died.
    pub unpublished: Vec<Step>,
}

impl Checkpoints {
    /// The checkpoints in a run's store.
    pub fn new(store: Store) -> Self {
        Self { store }
    }

    pub fn store(&self) -> &Store {
        &self.store
    }

    /// A checkpoint's address for messages.
    pub fn url(&self, step: Step) -> String {
        self.store.url(&layout::checkpoint_folder(step))
    }

    /// Writes one file of a checkpoint that is not published yet, over what an unfinished attempt
    /// left, and reads it back. Of a published checkpoint, only content that its manifest names is
    /// accepted: it repairs a damaged file and leaves a good one alone.
    pub async fn write_file(
        &self,
        step: Step,
        name: &str,
        bytes: Bytes,
    ) -> Result<FileEntry, CheckpointError> {
        assert!(
            layout::plain_name(name) && name != layout::MANIFEST_FILE,
            "a checkpoint's file cannot be named {name:?}"
        );
        let entry = FileEntry {
            name: name.to_owned(),
            bytes: bytes.len() as u64,
            digest: digest_of(bytes.clone()).await,
        };
        let key = layout::checkpoint_file(step, name);
        match self.published(step).await? {
            Some(published) if published.file(name) != Some(&entry) => {
                return Err(CheckpointError::AlreadyPublished {
                    url: self.url(step),
                });
            }
            Some(_) if self.store.held(&key, &bytes).await? == Held::Same => {}
            _ => self.store.put_proven(&key, bytes).await?,
        }
        Ok(entry)
    }

    /// Makes a checkpoint exist, if the manifest's epoch is still the newest. All its files must
    /// have been written.
    pub async fn publish(
        &self,
        manifest: &CheckpointManifest,
    ) -> Result<Published, CheckpointError> {
        assert_eq!(
            manifest.check(),
            Ok(()),
            "a manifest to publish breaks its own rules"
        );
        self.check_epoch(manifest).await?;
        self.check_written(manifest).await?;
        let key = layout::checkpoint_file(manifest.step, layout::MANIFEST_FILE);
        let text = Bytes::from(manifest.to_json());
        for _ in 0..PUBLISH_ATTEMPTS_MAX {
            match self.store.put_new(&key, text.clone()).await {
                Ok(()) => return Ok(Published::New),
                Err(StoreError::AlreadyExists { .. }) => {}
                Err(error) => return Err(error.into()),
            }
            match self.published(manifest.step).await {
                Ok(Some(published)) if published.same_state(manifest) => {
                    if published.reason < manifest.reason {
                        self.strengthen(published, manifest).await?;
                    }
                    return Ok(Published::Already);
                }
                Ok(Some(_)) => {
                    return Err(CheckpointError::AlreadyPublished {
                        url: self.url(manifest.step),
                    });
                }
                Ok(None) => {}
                // A torn or damaged one, which is none to anybody.
                Err(CheckpointError::Unusable { .. }) => {
                    self.check_epoch(manifest).await?;
                    self.store.delete_proven(&key).await?;
                }
                Err(error) => return Err(error),
            }
        }
        Err(StoreError::AlreadyExists {
            url: self.store.url(&key),
        }
        .into())
    }

    /// Enters a reason that came later into a published manifest: the end of a phase must stay.
    async fn strengthen(
        &self,
        mut published: CheckpointManifest,
        later: &CheckpointManifest,
    ) -> Result<(), CheckpointError> {
        published.reason = later.reason;
        published.phase.clone_from(&later.phase);
        published.phase_kind = later.phase_kind;
        let key = layout::checkpoint_file(published.step, layout::MANIFEST_FILE);
        self.check_epoch(later).await?;
        Ok(self.store.put_proven(&key, published.to_json()).await?)
    }

    /// That no later coordinator has claimed the run.
    async fn check_epoch(&self, manifest: &CheckpointManifest) -> Result<(), CheckpointError> {
        let newest = epoch::newest(&self.store).await?.unwrap_or(Epoch(0));
        if newest == manifest.epoch {
            return Ok(());
        }
        Err(CheckpointError::Fenced {
            ours: manifest.epoch,
            newest,
            url: self.url(manifest.step),
        })
    }

    /// That each file is there with its length. Who wrote it has read it back.
    async fn check_written(&self, manifest: &CheckpointManifest) -> Result<(), CheckpointError> {
        let objects = self
            .store
            .list_here(&layout::checkpoint_folder(manifest.step))
            .await?;
        let found: BTreeMap<_, _> = objects
            .iter()
            .filter_map(|object| {
                layout::parse_checkpoint_file(&object.key).map(|(_, name)| (name, object.bytes))
            })
            .collect();
        let lacking = manifest
            .files
            .iter()
            .find(|file| found.get(&*file.name) != Some(&file.bytes));
        match lacking {
            None => Ok(()),
            Some(file) => Err(CheckpointError::Incomplete {
                url: self.url(manifest.step),
                file: file.name.clone(),
            }),
        }
    }

    /// Which steps have a checkpoint, and which have only files.
    pub async fn steps(&self) -> Result<CheckpointSteps, StoreError> {
        let objects = self.store.list(layout::CHECKPOINTS_FOLDER).await?;
        let mut published_by_step: BTreeMap<Step, bool> = BTreeMap::new();
        for object in &objects {
            if let Some((step, name)) = layout::parse_checkpoint_file(&object.key) {
                *published_by_step.entry(step).or_default() |= name == layout::MANIFEST_FILE;
            }
        }
        let with = |wanted: bool| {
            published_by_step
                .iter()
                .filter(|(_, published)| **published == wanted)
                .map(|(step, _)| *step)
                .collect()
        };
        Ok(CheckpointSteps {
            published: with(true),
            unpublished: with(false),
        })
    }

    /// The manifest of a published checkpoint. `Unusable` where there is none or it is damaged.
    pub async fn manifest(&self, step: Step) -> Result<CheckpointManifest, CheckpointError> {
        self.published(step)
            .await?
            .ok_or_else(|| CheckpointError::Unusable {
                url: self.url(step),
                reason: format!("it has no {}", layout::MANIFEST_FILE),
            })
    }

    async fn published(&self, step: Step) -> Result<Option<CheckpointManifest>, CheckpointError> {
        let key = layout::checkpoint_file(step, layout::MANIFEST_FILE);
        let text = match self.store.get(&key).await {
            Ok(text) => text,
            Err(StoreError::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let unusable = |reason| CheckpointError::Unusable {
            url: self.url(step),
            reason,
        };
        let manifest = CheckpointManifest::parse(&text).map_err(unusable)?;
        if manifest.step != step {
            return Err(unusable(format!(
                "its manifest is that of step {}",
                manifest.step
            )));
        }
        Ok(Some(manifest))
    }
}

/// The digest of a whole file, off the threads that serve the network.
pub(super) async fn digest_of(bytes: Bytes) -> String {
    tokio::task::spawn_blocking(move || digest(&bytes))
        .await
        .expect("a digest neither panics nor is cancelled")
}
