//! Uploads the lead rank's snapshots, one after the other, while training goes on.

use anyhow::{Context, Result};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tracing::info;

use crate::config::RunConfig;
use crate::store::Store;
use crate::store::checkpoint::Checkpoints;
use crate::telemetry::Stopwatch;
use crate::train::snapshot::Snapshot;
use crate::wire::Report;

/// Snapshots in memory beside the one being uploaded.
const WAITING_MAX: usize = 1;

/// Starts the uploader; it ends when the returned sender is dropped, with its first error if it has
/// one.
pub(super) fn start(
    config: &RunConfig,
    reports: mpsc::Sender<Report>,
) -> Result<(JoinHandle<Result<()>>, mpsc::Sender<Snapshot>)> {
    let store = Store::open(&config.store)?.child(&config.name)?;
    let (sender, receiver) = mpsc::channel(WAITING_MAX);
    Ok((
        tokio::spawn(upload_all(Checkpoints::new(store), receiver, reports)),
        sender,
    ))
}

async fn upload_all(
    checkpoints: Checkpoints,
    mut snapshots: mpsc::Receiver<Snapshot>,
    reports: mpsc::Sender<Report>,
) -> Result<()> {
    while let Some(Snapshot {
        mut manifest,
        files,
    }) = snapshots.recv().await
    {
        let watch = Stopwatch::start();
        let step = manifest.step;
        let mut bytes = 0;
        checkpoints
            .clear_damaged(step)
            .await
            .with_context(|| format!("checkpoint {step} cannot be written"))?;
        for (name, content) in files {
            bytes += content.len();
            let entry = checkpoints
                .write_file(step, &name, content)
                .await
                .with_context(|| format!("checkpoint {step} cannot be written"))?;
            manifest.files.push(entry);
        }
        manifest.files.sort_unstable();
        info!(%step, bytes, seconds = watch.seconds(), "checkpoint uploaded");
        let json = serde_json::to_string(&manifest)?;
        reports
            .send(Report::Checkpoint { json })
            .await
            .context("the coordinator is gone")?;
    }
    Ok(())
}
