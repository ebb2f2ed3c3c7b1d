//! What a coordinator does with checkpoints beside everything else: makes them exist, and looks for
//! the newest one.

use cohort::ids::{Epoch, Step};
use cohort::store::error::CheckpointError;

use crate::coordinator::claim_of;
use crate::handle::Handle;
use crate::mail::ToCoordinator;

/// Looks for the newest checkpoint beside everything else.
pub async fn find_resume(handle: Handle) {
    let epoch = Epoch(handle.coordinator().epoch);
    let claim = claim_of(&handle, epoch);
    let message = match claim.resume().await {
        Ok(resume) => ToCoordinator::Restorable(resume),
        Err(error) => ToCoordinator::Broken {
            error: error.to_string(),
        },
    };
    let pid = handle.pid;
    handle.world().reach_coordinator(pid, message);
}

/// Makes checkpoints exist, one after the other.
pub async fn publish(handle: Handle) {
    let pid = handle.pid;
    let checkpoints = cohort::store::checkpoint::Checkpoints::new(handle.store());
    let keep = cohort::store::retention::Retention::default();
    loop {
        let mut manifest = handle
            .until(|world| {
                let coordinator = world.coordinator(pid)?;
                let manifest = coordinator.publish.pop_front()?;
                coordinator.publishing = true;
                Some(manifest)
            })
            .await;
        manifest.epoch = Epoch(handle.coordinator().epoch);
        let step: Step = manifest.step;
        let message = match checkpoints.publish(&manifest).await {
            Ok(_) | Err(CheckpointError::AlreadyPublished { .. }) => {
                handle.world().tally.count("checkpoints published");
                ToCoordinator::Published { step }
            }
            Err(CheckpointError::Incomplete { .. }) => {
                handle.world().tally.count("checkpoints that came too late");
                handle.coordinator().publishing = false;
                continue;
            }
            // The core finds out at its next write.
            Err(CheckpointError::Fenced { .. }) => {
                handle.coordinator().publishing = false;
                return;
            }
            Err(error) => ToCoordinator::Broken {
                error: format!("checkpoint {step} cannot be published: {error}"),
            },
        };
        let published = matches!(message, ToCoordinator::Published { .. });
        handle.world().reach_coordinator(pid, message);
        if published {
            // What is left over is only space.
            let _ = checkpoints.retain(&keep, step).await;
        }
        handle.coordinator().publishing = false;
        handle.world().ready.insert(pid);
    }
}
