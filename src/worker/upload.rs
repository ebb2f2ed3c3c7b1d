//! Uploads a lead rank's snapshots, one after the other, while training goes on.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tracing::info;

use crate::config::RunConfig;
use crate::store::Store;
use crate::store::checkpoint::Checkpoints;
use crate::store::error::CheckpointError;
use crate::telemetry::Stopwatch;
use crate::train::compute::Outbox;
use crate::train::snapshot::Snapshot;

/// Snapshots in memory beside the one being uploaded.
const WAITING_MAX: usize = 1;

/// An uploader, where snapshots are handed to it, and how many it has yet to store.
type Started = (
    JoinHandle<Result<()>>,
    mpsc::Sender<Snapshot>,
    Arc<AtomicU64>,
);

/// Starts the uploader; it ends when the returned sender is dropped, with its first error if it has
/// one.
pub(super) fn start(config: &RunConfig, outbox: mpsc::Sender<Outbox>) -> Result<Started> {
    let store = Store::open(&config.store)?.child(&config.name)?;
    let (sender, mut receiver) = mpsc::channel(WAITING_MAX);
    let in_flight = Arc::<AtomicU64>::default();
    let counter = Arc::clone(&in_flight);
    let uploader = tokio::spawn(async move {
        let checkpoints = Checkpoints::new(store);
        while let Some(snapshot) = receiver.recv().await {
            upload(&checkpoints, snapshot, &outbox).await?;
            counter.fetch_sub(1, Ordering::SeqCst);
        }
        Ok(())
    });
    Ok((uploader, sender, in_flight))
}

async fn upload(
    checkpoints: &Checkpoints,
    snapshot: Snapshot,
    outbox: &mpsc::Sender<Outbox>,
) -> Result<()> {
    let Snapshot {
        mut manifest,
        files,
    } = snapshot;
    let watch = Stopwatch::start();
    let step = manifest.step;
    let mut bytes = 0;
    checkpoints
        .clear_damaged(step)
        .await
        .with_context(|| format!("checkpoint {step} cannot be written"))?;
    for (name, content) in files {
        bytes += content.len();
        let entry = checkpoints.write_file(step, &name, content).await;
        if let Err(CheckpointError::AlreadyPublished { url }) = &entry {
            // By a lead that was lost right after, with the same rows in another order of sums.
            info!(%url, "a checkpoint of this step exists and stays");
            return Ok(());
        }
        let entry = entry.with_context(|| format!("checkpoint {step} cannot be written"))?;
        manifest.files.push(entry);
    }
    manifest.files.sort_unstable();
    info!(%step, bytes, seconds = watch.seconds(), "checkpoint uploaded");
    outbox
        .send(Outbox::Stored(Box::new(manifest)))
        .await
        .context("the rank's shell has ended")
}
