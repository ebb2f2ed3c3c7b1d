//! Makes checkpoints real by their manifest, and removes those that are not kept: beside the core,
//! one after the other.

use anyhow::{Result, bail};
use tokio::sync::mpsc;
use tracing::{info, warn};

use crate::coordinator::claim::Claim;
use crate::coordinator::journal::Fenced;
use crate::coordinator::message::Message;
use crate::coordinator::rewind;
use crate::ids::Step;
use crate::run::spike::Spike;
use crate::run::state::Lineage;
use crate::store::checkpoint::Checkpoints;
use crate::store::error::{CheckpointError, StoreError};
use crate::store::manifest::CheckpointManifest;
use crate::store::persistence::Persistence;
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

/// Works through the tasks until no more can come.
///
/// # Errors
/// A checkpoint that cannot be published, even after all patience; the core is told too.
pub(super) async fn work(
    claim: Claim,
    keep: Retention,
    mut tasks: mpsc::Receiver<Task>,
    core: mpsc::Sender<Message>,
) -> Result<()> {
    while let Some(task) = tasks.recv().await {
        match task {
            Task::Publish(manifest) => publish(&claim, &keep, *manifest, &core).await?,
            Task::FindResume { spikes, lineage } => {
                let message = find_resume(&claim, &spikes, lineage).await;
                // The core may have ended.
                let _ = core.send(message).await;
            }
            Task::GoBack {
                before,
                checkpoints,
            } => {
                let message = match rewind::find(&claim, before, checkpoints).await {
                    Ok(resume) => Message::WentBack(resume),
                    Err(error) => Message::Broken {
                        error: crate::diagnosis::describe(&error),
                    },
                };
                // The core may have ended.
                let _ = core.send(message).await;
            }
        }
    }
    Ok(())
}

async fn find_resume(claim: &Claim, spikes: &[Spike], lineage: Option<Lineage>) -> Message {
    let mut persistence = Persistence::new(claim.patience);
    loop {
        let found = match rewind::clear(&claim.store, spikes, lineage).await {
            Ok(()) => claim.resume().await,
            Err(error) => Err(error),
        };
        let error = match found {
            Ok(resume) => return Message::Restorable(resume),
            Err(error) => error,
        };
        let may_pass = StoreError::may_pass(&error);
        let error = crate::diagnosis::describe(&error);
        if !may_pass || !persistence.goes_on(&error).await {
            return Message::Broken { error };
        }
    }
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
