//! Going back to an earlier checkpoint: finding it, and removing what was made after it.
//!
//! What lies after it is of a history that the run has left: other rows were read there. It is
//! removed only once the journal says that the run went back, and before anybody writes
//! checkpoints of the same steps again; a coordinator that dies in between leaves the rest to the
//! next one.

use anyhow::Result;
use tracing::{info, warn};

use crate::coordinator::claim::{Claim, Resume};
use crate::coordinator::journal::Fenced;
use crate::ids::Step;
use crate::run::spike::Spike;
use crate::run::state::Lineage;
use crate::store::address::CheckpointAddress;
use crate::store::checkpoint::Checkpoints;
use crate::store::error::CheckpointError;

/// The `count`-th newest checkpoint before a step, of those that verify; the oldest where there are
/// fewer; what the run began with where there is none. Never one before a checkpoint that a branch
/// grows from: that one stays, and the run with it.
pub async fn find(claim: &Claim, before: Step, count: u32) -> Result<Resume> {
    let checkpoints = Checkpoints::new(claim.store.clone());
    let parents = checkpoints.branch_parents().await?;
    let steps = checkpoints.steps().await?.published;
    let mut found = None;
    let mut left = count;
    for step in steps.into_iter().rev().filter(|step| *step < before) {
        let complaint = match checkpoints.verify(step).await {
            Ok(verification) => verification.complaint(),
            Err(CheckpointError::Unusable { reason, .. }) => Some(reason),
            Err(error) => return Err(error.into()),
        };
        if let Some(reason) = complaint {
            warn!(%step, %reason, "a checkpoint is damaged and passed over");
            continue;
        }
        found = Some(step);
        left -= 1;
        if left == 0 || parents.contains(&step) {
            break;
        }
    }
    if let Some(step) = found {
        info!(%step, "going back to a checkpoint");
    } else {
        info!("going back to what the run began with: it has no checkpoint");
    }
    Ok(claim.resume_from(found.map(|step| CheckpointAddress {
        run_url: claim.store.address().to_owned(),
        step,
    })))
}

/// Removes the checkpoints of histories that the run has left: by going back, or because `lineage`
/// began from an older checkpoint, all that was newer being lost but for a manifest that a former
/// coordinator was about to write.
///
/// # Errors
/// Those of the store, and [`Fenced`]: the checkpoint of that step may be a successor's by now.
pub async fn clear(claim: &Claim, spikes: &[Spike], lineage: Option<Lineage>) -> Result<()> {
    if lineage.is_none() && spikes.iter().all(|spike| spike.detour().is_none()) {
        return Ok(());
    }
    let checkpoints = Checkpoints::new(claim.store.clone());
    for step in checkpoints.steps().await?.published {
        let manifest = match checkpoints.manifest(step).await {
            Ok(manifest) => manifest,
            // It gives way when the run comes to its step.
            Err(CheckpointError::Unusable { .. }) => continue,
            Err(error) => return Err(error.into()),
        };
        let generation = manifest.generation;
        let of_spike = |spike: &Spike| spike.abandons(step, generation);
        let of_lineage = |lineage: Lineage| step > lineage.step && generation < lineage.generation;
        if spikes.iter().any(of_spike) || lineage.is_some_and(of_lineage) {
            if !claim.is_newest().await? {
                return Err(Fenced { ours: claim.epoch }.into());
            }
            match checkpoints.delete(step).await {
                Ok(()) => info!(%step, "checkpoint removed: the run has left its history"),
                // The run went back behind it only where it was damaged, or pinned too late.
                Err(CheckpointError::Kept { .. }) => {
                    warn!(%step, "the run went back behind a checkpoint that a branch grows from");
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}
