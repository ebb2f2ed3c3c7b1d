//! The uploader of a rank, as `worker::upload` has it.

use cohort::ids::Step;
use cohort::store::checkpoint::Checkpoints;
use cohort::store::error::CheckpointError;
use cohort::store::layout;
use cohort::store::manifest::{CheckpointManifest, FileEntry, digest};
use cohort::train::compute::Outbox;

use crate::handle::Handle;
use crate::replica::Snapshot;

/// Stores one snapshot after the other.
pub async fn upload(handle: Handle) {
    let pid = handle.pid;
    let mut newest: Option<CheckpointManifest> = None;
    loop {
        let snapshot = handle
            .until(|world| world.rank(pid)?.uploads.pop_front())
            .await;
        let stored = attempt(&handle, snapshot, newest.as_ref()).await;
        // The simulated store fails nobody: an error is the simulation's own.
        let manifest = stored.expect("a checkpoint can be stored");
        if let Some(manifest) = manifest {
            newest = Some(manifest.clone());
            handle.tell(Outbox::Stored(Box::new(manifest)));
        }
        handle.rank().uploads_in_flight -= 1;
        handle.world().ready.insert(pid);
    }
}

async fn attempt(
    handle: &Handle,
    snapshot: Snapshot,
    newest: Option<&CheckpointManifest>,
) -> Result<Option<CheckpointManifest>, CheckpointError> {
    let store = handle.store();
    let checkpoints = Checkpoints::new(store.clone());
    let mut manifest = snapshot.manifest;
    let step = manifest.step;
    let Some(saved) = snapshot.saved else {
        let published = published(&checkpoints, step).await?;
        let mine = newest.filter(|newest| newest.step == step);
        let Some(known) = published.as_ref().or(mine) else {
            return Ok(None);
        };
        manifest.files.clone_from(&known.files);
        return Ok(Some(manifest));
    };
    let span = handle.world().scenario.upload_ms;
    let span = handle.world().dice.between(span / 2, span * 2);
    checkpoints.clear_damaged(step).await?;
    handle.sleep(span / 2 + 1).await;
    let bytes = serde_json::to_vec(&saved).expect("a state is numbers");
    let entry = FileEntry {
        name: layout::STATE_FILE.to_owned(),
        bytes: bytes.len() as u64,
        digest: digest(&bytes),
    };
    match published(&checkpoints, step).await? {
        Some(published) if published.file(&entry.name) != Some(&entry) => return Ok(None),
        Some(_) => {}
        None => {
            let key = layout::checkpoint_file(step, &entry.name);
            store.put_proven(&key, bytes).await?;
        }
    }
    handle.sleep(span / 2 + 1).await;
    manifest.files = vec![entry];
    Ok(Some(manifest))
}

async fn published(
    checkpoints: &Checkpoints,
    step: Step,
) -> Result<Option<CheckpointManifest>, CheckpointError> {
    match checkpoints.manifest(step).await {
        Ok(manifest) => Ok(Some(manifest)),
        Err(CheckpointError::Unusable { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}
