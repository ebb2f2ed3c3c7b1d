//! What a coordinator does with checkpoints beside everything else, one after the other: makes them
//! exist, and looks for one to go on from.

use cohort::coordinator::claim::Claim;
use cohort::coordinator::rewind;
use cohort::ids::{Epoch, Step};
use cohort::run::spike::Spike;
use cohort::run::state::Lineage;
use cohort::store::checkpoint::Checkpoints;
use cohort::store::error::CheckpointError;
use cohort::store::manifest::CheckpointManifest;
use cohort::store::retention::Retention;

use crate::coordinator::claim_of;
use crate::handle::Handle;
use crate::mail::ToCoordinator;

/// What is done to checkpoints.
#[derive(Debug)]
pub enum Job {
    Publish(Box<CheckpointManifest>),
    FindResume {
        spikes: Vec<Spike>,
        lineage: Option<Lineage>,
    },
    GoBack {
        before: Step,
        checkpoints: u32,
    },
}

pub async fn publish(handle: Handle) {
    let pid = handle.pid;
    loop {
        let job = handle
            .until(|world| {
                let coordinator = world.coordinator(pid)?;
                let job = coordinator.publish.pop_front()?;
                coordinator.publishing = true;
                Some(job)
            })
            .await;
        let epoch = Epoch(handle.coordinator().epoch);
        let claim = claim_of(&handle, epoch);
        let goes_on = match job {
            Job::Publish(manifest) => make(&handle, &claim, *manifest).await,
            Job::FindResume { spikes, lineage } => {
                let message = find_resume(&claim, &spikes, lineage).await;
                handle.world().reach_coordinator(pid, message);
                true
            }
            Job::GoBack {
                before,
                checkpoints,
            } => {
                let message = match rewind::find(&claim, before, checkpoints).await {
                    Ok(resume) => ToCoordinator::WentBack(resume),
                    Err(error) => broken(&error),
                };
                handle.world().reach_coordinator(pid, message);
                true
            }
        };
        handle.coordinator().publishing = false;
        handle.world().ready.insert(pid);
        if !goes_on {
            return;
        }
    }
}

fn broken(error: &anyhow::Error) -> ToCoordinator {
    ToCoordinator::Broken {
        error: format!("{error:#}"),
    }
}

async fn find_resume(claim: &Claim, spikes: &[Spike], lineage: Option<Lineage>) -> ToCoordinator {
    if let Err(error) = rewind::clear(claim, spikes, lineage).await {
        return broken(&error);
    }
    match claim.resume().await {
        Ok(resume) => ToCoordinator::Restorable(resume),
        Err(error) => broken(&error),
    }
}

/// Makes a checkpoint exist. False where this coordinator may not.
async fn make(handle: &Handle, claim: &Claim, mut manifest: CheckpointManifest) -> bool {
    let checkpoints = Checkpoints::new(claim.store.clone());
    manifest.epoch = claim.epoch;
    let step: Step = manifest.step;
    let message = match checkpoints.publish(&manifest).await {
        Ok(_) | Err(CheckpointError::AlreadyPublished { .. }) => {
            handle.world().tally.count("checkpoints published");
            ToCoordinator::Published { step }
        }
        Err(CheckpointError::Incomplete { .. }) => {
            handle.world().tally.count("checkpoints that came too late");
            return true;
        }
        // The core finds out at its next write.
        Err(CheckpointError::Fenced { .. }) => return false,
        Err(error) => ToCoordinator::Broken {
            error: format!("checkpoint {step} cannot be published: {error}"),
        },
    };
    let published = matches!(message, ToCoordinator::Published { .. });
    handle.world().reach_coordinator(handle.pid, message);
    if published {
        // What is left over is only space.
        let _ = checkpoints.retain(&Retention::default(), step).await;
    }
    true
}
