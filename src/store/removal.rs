//! Deleting checkpoints: by the retention rule, because they are damaged, or what was left of them.
//!
//! Invariants: the manifest goes first and is looked for afterwards, so that no manifest is left
//! without its files; a branch's parent stays, also where its pin comes at the same moment. What
//! is interrupted is finished by the next removal.

use tracing::{info, warn};

use crate::ids::Step;
use crate::store::checkpoint::Checkpoints;
use crate::store::error::{CheckpointError, StoreError};
use crate::store::layout;
use crate::store::retention::{Retention, Summary};

impl Checkpoints {
    /// Deletes a checkpoint or the files of an unfinished one. Refuses a branch's parent.
    pub async fn delete(&self, step: Step) -> Result<(), CheckpointError> {
        let kept = || CheckpointError::Kept {
            url: self.url(step),
            reason: "a branch grows from it".to_owned(),
        };
        if self.branch_parents().await?.contains(&step) {
            return Err(kept());
        }
        let key = layout::checkpoint_file(step, layout::MANIFEST_FILE);
        let manifest = match self.store().get(&key).await {
            Ok(text) => Some(text),
            Err(StoreError::NotFound { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        if let Some(text) = manifest {
            self.store().delete_proven(&key).await?;
            // A pin of the last moment is seen here, or else whoever set it finds no manifest.
            let parents = self.branch_parents().await;
            if !parents
                .as_ref()
                .is_ok_and(|parents| !parents.contains(&step))
            {
                self.store().put_new(&key, text).await?;
                return Err(parents.map_or_else(Into::into, |_| kept()));
            }
        }
        for object in self.store().list(&layout::checkpoint_folder(step)).await? {
            self.store().delete(&object.key).await?;
        }
        Ok(())
    }

    /// Removes what the retention rule does not keep, now that `published` was written and every
    /// byte of it read back, and the files of attempts before it that came to nothing. What an
    /// earlier life left after that step is damaged, or this life would have begun there; it counts
    /// for nothing and gives way when the run comes to its step.
    pub async fn retain(&self, keep: &Retention, published: Step) -> Result<(), CheckpointError> {
        let steps = self.steps().await?;
        let mut summaries = Vec::new();
        for step in steps
            .published
            .into_iter()
            .filter(|step| *step <= published)
        {
            match self.manifest(step).await {
                Ok(manifest) => summaries.push(Summary::from(&manifest)),
                Err(CheckpointError::Unusable { reason, .. }) => {
                    warn!(%step, %reason, "a damaged checkpoint is left alone");
                }
                Err(error) => return Err(error),
            }
        }
        let parents = self.branch_parents().await?;
        for step in keep.deletions(&summaries, Some(published), &parents) {
            if self.delete_unless_kept(step).await? {
                info!(%step, "checkpoint removed by the retention rule");
            }
        }
        for step in steps.unpublished {
            if step < published && self.delete_unless_kept(step).await? {
                info!(%step, "files of an unfinished checkpoint removed");
            }
        }
        Ok(())
    }

    /// Deletes a published checkpoint that does not verify, so that its step can be written again:
    /// a run that continued from before it comes back there, perhaps with other bits (another
    /// number of ranks, another processor). Leaves a branch's parent, which only the same content
    /// repairs.
    pub async fn clear_damaged(&self, step: Step) -> Result<(), CheckpointError> {
        let manifest = layout::checkpoint_file(step, layout::MANIFEST_FILE);
        if !self.store().exists(&manifest).await? {
            return Ok(());
        }
        let good = match self.verify(step).await {
            Ok(verification) => verification.is_good(),
            Err(CheckpointError::Unusable { .. }) => false,
            Err(error) => return Err(error),
        };
        if good {
            return Ok(());
        }
        self.delete_unless_kept(step).await.map(drop)
    }

    /// Whether it is gone: not where a branch grows from it.
    async fn delete_unless_kept(&self, step: Step) -> Result<bool, CheckpointError> {
        match self.delete(step).await {
            Err(CheckpointError::Kept { .. }) => Ok(false),
            deleted => deleted.map(|()| true),
        }
    }
}
