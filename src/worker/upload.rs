//! Uploads a lead rank's snapshots, one after the other, while training goes on.
//!
//! A store that fails stops nobody. A regular checkpoint that cannot be stored is given up, and the
//! compute thread takes a newer one; one that somebody asked for, or that ends a phase or the run,
//! is tried until the run's patience with its store is at its end.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tracing::{info, warn};

use crate::config::RunConfig;
use crate::ids::Step;
use crate::store::Store;
use crate::store::checkpoint::Checkpoints;
use crate::store::error::CheckpointError;
use crate::store::manifest::{CheckpointManifest, FileEntry};
use crate::store::persistence::Persistence;
use crate::telemetry::Stopwatch;
use crate::train::compute::Outbox;
use crate::train::snapshot::{Snapshot, Uploads};

/// Snapshots in memory beside the one being uploaded: a regular one waits alone, others may wait
/// behind each other.
const WAITING_MAX: usize = 3;

/// An uploader, where snapshots are handed to it, and what became of them.
pub(super) type Started = (JoinHandle<Result<()>>, mpsc::Sender<Snapshot>, Uploads);

/// Starts the uploader; it ends when the returned sender is dropped, or with an error when one that
/// has to be stored cannot be.
pub(super) fn start(config: &RunConfig, outbox: mpsc::Sender<Outbox>) -> Result<Started> {
    let store = Store::open(&config.store)?.child(&config.name)?;
    let (sender, mut receiver) = mpsc::channel(WAITING_MAX);
    let uploads = Uploads::default();
    let mut uploader = Uploader {
        checkpoints: Checkpoints::new(store),
        outbox,
        uploads: uploads.clone(),
        patience: config.timeouts.store,
        newest: None,
    };
    let working = tokio::spawn(async move {
        while let Some(snapshot) = receiver.recv().await {
            uploader.store(snapshot).await?;
        }
        Ok(())
    });
    Ok((working, sender, uploads))
}

struct Uploader {
    checkpoints: Checkpoints,
    outbox: mpsc::Sender<Outbox>,
    uploads: Uploads,
    /// How long one that has to be stored is tried.
    patience: Duration,
    /// The last one that was uploaded.
    newest: Option<CheckpointManifest>,
}

impl Uploader {
    async fn store(&mut self, snapshot: Snapshot) -> Result<()> {
        let (step, reason) = (snapshot.manifest.step, snapshot.manifest.reason);
        let mut persistence = Persistence::new(self.patience);
        loop {
            let error = match self.attempt(&snapshot).await {
                Ok(manifest) => {
                    if let Some(manifest) = manifest {
                        self.newest = Some(manifest.clone());
                        self.tell(Outbox::Stored(Box::new(manifest))).await?;
                    }
                    self.uploads.stored();
                    return Ok(());
                }
                Err(error) => error,
            };
            let trouble = format!("checkpoint {step} ({reason}) cannot be stored: {error}");
            self.tell(Outbox::NotStored {
                step,
                error: error.to_string(),
            })
            .await?;
            if reason.is_regular() {
                warn!("{trouble}; a newer one is tried");
                self.uploads.given_up(step, reason);
                return Ok(());
            }
            if !persistence.goes_on(&trouble).await {
                bail!(trouble);
            }
        }
    }

    async fn tell(&self, message: Outbox) -> Result<()> {
        self.outbox
            .send(message)
            .await
            .context("the rank's shell has ended")
    }

    /// Uploads a snapshot once. Nothing where another one of its step exists.
    async fn attempt(
        &self,
        snapshot: &Snapshot,
    ) -> Result<Option<CheckpointManifest>, CheckpointError> {
        let mut manifest = snapshot.manifest.clone();
        let step = manifest.step;
        let Some(files) = &snapshot.files else {
            manifest.files = match self.files_of(step).await? {
                Some(files) => files,
                None => return Ok(None),
            };
            return Ok(Some(manifest));
        };
        let watch = Stopwatch::start();
        let mut bytes = 0;
        self.checkpoints.clear_damaged(step).await?;
        for (name, content) in files {
            bytes += content.len();
            let entry = self.checkpoints.write_file(step, name, content.clone());
            match entry.await {
                Ok(entry) => manifest.files.push(entry),
                Err(CheckpointError::AlreadyPublished { url }) => {
                    // By a lead that was lost right after, with the same rows in another order of
                    // sums.
                    info!(%url, "a checkpoint of this step exists and stays");
                    return Ok(None);
                }
                Err(error) => return Err(error),
            }
        }
        manifest.files.sort_unstable();
        info!(%step, bytes, seconds = watch.seconds(), "checkpoint uploaded");
        Ok(Some(manifest))
    }

    /// The files of a step that was uploaded before.
    async fn files_of(&self, step: Step) -> Result<Option<Vec<FileEntry>>, CheckpointError> {
        match self.checkpoints.manifest(step).await {
            Ok(published) => return Ok(Some(published.files)),
            // It may be about to be published.
            Err(CheckpointError::Unusable { .. }) => {}
            Err(error) => return Err(error),
        }
        let newest = self.newest.as_ref().filter(|newest| newest.step == step);
        Ok(newest.map(|newest| newest.files.clone()))
    }
}
