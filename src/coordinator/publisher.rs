//! What is done to checkpoints beside the core, one after the other: they are made real by their
//! manifest, those that are not kept are removed, and it is searched which to go on from.

use anyhow::{Result, bail};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::coordinator::claim::{Claim, Resume};
use crate::coordinator::journal::Fenced;
use crate::coordinator::message::Message;
use crate::coordinator::rewind;
use crate::ids::Step;
use crate::run::spike::Spike;
use crate::run::state::Lineage;
use crate::store::checkpoint::Checkpoints;
use crate::store::error::CheckpointError;
use crate::store::manifest::CheckpointManifest;
use crate::store::persistence::{Persistence, outlast};
use crate::store::retention::Retention;

/// What is done to checkpoints.
pub(super) enum Task {
    Publish(Box<CheckpointManifest>),
    /// Find the newest one, once all before it in the queue are published: whoever goes on from an
    /// older one takes steps again that the store holds.
    FindResume {
        spikes: Vec<Spike>,
        /// Where the state began that the run goes on from.
        lineage: Option<Lineage>,
    },
    /// Find the checkpoint to go back to, once all before it in the queue are published.
    GoBack {
        before: Step,
        checkpoints: u32,
    },
}

/// Works through the tasks until no more can come; those that search end with `closing`.
///
/// # Errors
/// A checkpoint that cannot be published, even after all patience; the core is told too.
pub(super) async fn work(
    claim: Claim,
    keep: Retention,
    mut tasks: mpsc::Receiver<Task>,
    core: mpsc::Sender<Message>,
    closing: CancellationToken,
) -> Result<()> {
    while let Some(task) = tasks.recv().await {
        match task {
            Task::Publish(manifest) => publish(&claim, &keep, *manifest, &core).await?,
            Task::FindResume { spikes, lineage } => {
                let attempt = || async {
                    rewind::clear(&claim, &spikes, lineage).await?;
                    claim.resume().await
                };
                let found = Box::pin(outlast(claim.patience, attempt));
                answer(&core, &closing, found, Message::Restorable).await;
            }
            Task::GoBack {
                before,
                checkpoints,
            } => {
                let attempt = || rewind::find(&claim, before, checkpoints);
                let found = Box::pin(outlast(claim.patience, attempt));
                answer(&core, &closing, found, Message::WentBack).await;
            }
        }
    }
    Ok(())
}

/// Tells the core what a search found. Once the run is over nobody waits for that.
async fn answer(
    core: &mpsc::Sender<Message>,
    closing: &CancellationToken,
    search: impl Future<Output = Result<Resume>>,
    found: fn(Resume) -> Message,
) {
    let telling = async {
        let message = search.await.map_or_else(
            |error| Message::Broken {
                error: crate::diagnosis::describe(&error),
            },
            found,
        );
        // The core may have ended.
        let _ = core.send(message).await;
    };
    closing.run_until_cancelled(telling).await;
}

async fn publish(
    claim: &Claim,
    keep: &Retention,
    mut manifest: CheckpointManifest,
    core: &mpsc::Sender<Message>,
) -> Result<()> {
    let checkpoints = Checkpoints::new(claim.store.clone());
    manifest.epoch = claim.epoch;
    manifest.parent.clone_from(&claim.parent);
    let step = manifest.step;
    let mut persistence = Persistence::new(claim.patience);
    loop {
        let error = match checkpoints.publish(&manifest).await {
            // That of an earlier lead that was lost right after is whole, and of the same rows.
            Ok(_) | Err(CheckpointError::AlreadyPublished { .. }) => break,
            // The core finds out at its next write.
            Err(CheckpointError::Fenced { ours, .. }) => bail!(Fenced { ours }),
            // A lead of before was so slow that newer ones exist, and its files were removed.
            Err(error @ CheckpointError::Incomplete { .. }) => {
                warn!(%step, %error, "a checkpoint comes too late and is given up");
                return Ok(());
            }
            Err(error) => error,
        };
        let of_store = matches!(error, CheckpointError::Store(_));
        let trouble = format!("checkpoint {step} cannot be published: {error}");
        // The core may have ended; the error is then this task's result, if it stays.
        if of_store {
            let error = trouble.clone();
            let _ = core.try_send(Message::StoreFails { error });
        }
        if !of_store || !persistence.goes_on(&trouble).await {
            let error = trouble.clone();
            let _ = core.try_send(Message::Broken { error });
            bail!(trouble);
        }
    }
    info!(%step, reason = ?manifest.reason, "checkpoint published");
    let _ = core.try_send(Message::Published { step });
    if let Err(error) = checkpoints.retain(keep, step).await {
        warn!(%error, "old checkpoints could not be removed");
    }
    Ok(())
}
