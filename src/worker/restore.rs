//! Reads the checkpoint that a rank continues from, and refuses one that does not fit the run.

use anyhow::{Context, Result};

use crate::config::RunConfig;
use crate::ids::Rank;
use crate::run::ledger::Ledger;
use crate::store::address::CheckpointAddress;
use crate::store::checkpoint::Checkpoints;
use crate::store::settings::StoreSettings;
use crate::store::{Store, layout};
use crate::train::state::{Restored, TensorFiles, TrainingState};
use crate::wire::Assignment;

/// Reads what `assignment` says to continue from; the tensors for the lead rank only.
pub(super) async fn restore(
    config: &RunConfig,
    assignment: &Assignment,
) -> Result<Option<Restored>> {
    let Some(CheckpointAddress { run_url, step }) = &assignment.resume_from else {
        return Ok(None);
    };
    let settings = StoreSettings {
        url: run_url.clone(),
        ..config.store.clone()
    };
    let checkpoints = Checkpoints::new(Store::open_existing(&settings)?);
    let origin = checkpoints.url(*step);
    let manifest = checkpoints.manifest(*step).await?;
    let read = async |name: &str| checkpoints.read_file(&manifest, name).await;
    let state = TrainingState::parse(&read(layout::STATE_FILE).await?, &origin)?;
    let ledger: Ledger = serde_json::from_slice(&read(layout::LEDGER_FILE).await?)
        .with_context(|| format!("{origin}: {} is damaged", layout::LEDGER_FILE))?;
    let tensors = if assignment.rank == Rank(0) {
        Some(TensorFiles {
            model_config: read(layout::MODEL_CONFIG_FILE).await?,
            model: read(layout::MODEL_FILE).await?,
            optimizer: read(layout::OPTIMIZER_FILE).await?,
        })
    } else {
        None
    };
    Ok(Some(Restored {
        state,
        ledger,
        origin,
        tensors,
        branch: assignment.branch,
    }))
}
