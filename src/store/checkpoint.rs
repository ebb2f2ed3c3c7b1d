//! Writing, listing and deleting checkpoints.
//!
//! Everything is bytes here; what they mean is for `train` to know. The order of writes is the
//! whole protocol: files first, the manifest last and only once, by a coordinator that still holds
//! the newest epoch; on deletion the manifest first. So at any point of time, and whatever process
//! dies, a folder with a manifest is a whole checkpoint and one without is none.
//!
//! One window stays open: a coordinator that is fenced off between its check and its write still
//! publishes. That is harmless, for what it publishes is whole and is a state that training was in;
//! the next coordinator either finds it or is told `AlreadyPublished` at that step.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::ids::{Epoch, Step};
use crate::store::error::{CheckpointError, StoreError};
use crate::store::manifest::{CheckpointManifest, FileEntry, digest};
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
    /// left. Of a published checkpoint, only content that its manifest names is accepted; writing
    /// it again repairs a damaged file.
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
        if let Some(published) = self.published(step).await?
            && published.file(name) != Some(&entry)
        {
            return Err(CheckpointError::AlreadyPublished {
                url: self.url(step),
            });
        }
        self.store
            .put_large(&layout::checkpoint_file(step, name), bytes)
            .await?;
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
        let url = self.url(manifest.step);
        match epoch::newest(&self.store).await? {
            Some(newest) if newest == manifest.epoch => {}
            newest => {
                let newest = newest.unwrap_or(Epoch(0));
                return Err(CheckpointError::Fenced {
                    ours: manifest.epoch,
                    newest,
                    url,
                });
            }
        }
        self.check_written(manifest).await?;
        let key = layout::checkpoint_file(manifest.step, layout::MANIFEST_FILE);
        let text = Bytes::from(manifest.to_json());
        for _ in 0..PUBLISH_ATTEMPTS_MAX {
            match self.store.put_new(&key, text.clone()).await {
                Ok(()) => return Ok(Published::New),
                Err(StoreError::AlreadyExists { .. }) => {}
                Err(error) => return Err(error.into()),
            }
            // Somebody's, or our own after a lost answer.
            if let Some(published) = self.published(manifest.step).await? {
                return if published.same_state(manifest) {
                    Ok(Published::Already)
                } else {
                    Err(CheckpointError::AlreadyPublished { url })
                };
            }
        }
        Err(StoreError::AlreadyExists {
            url: self.store.url(&key),
        }
        .into())
    }

    /// That each file is there with its length. Content is for [`Checkpoints::verify`].
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

    /// Deletes a checkpoint or the files of an unfinished one, the manifest first. Deleting again
    /// what was deleted halfway finishes it. Refuses a branch's parent.
    pub async fn delete(&self, step: Step) -> Result<(), CheckpointError> {
        if self.branch_parents().await?.contains(&step) {
            return Err(CheckpointError::Kept {
                url: self.url(step),
                reason: "a branch grows from it".to_owned(),
            });
        }
        self.store
            .delete(&layout::checkpoint_file(step, layout::MANIFEST_FILE))
            .await?;
        for object in self.store.list(&layout::checkpoint_folder(step)).await? {
            self.store.delete(&object.key).await?;
        }
        Ok(())
    }
}

/// The digest of a whole file, off the threads that serve the network.
pub(super) async fn digest_of(bytes: Bytes) -> String {
    tokio::task::spawn_blocking(move || digest(&bytes))
        .await
        .expect("a digest neither panics nor is cancelled")
}
