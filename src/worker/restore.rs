//! Reads the checkpoint that a lead rank continues from.

use anyhow::{Context, Result};

use crate::config::RunConfig;
use crate::run::ledger::Ledger;
use crate::store::address::CheckpointAddress;
use crate::store::checkpoint::Checkpoints;
use crate::store::persistence::outlast;
use crate::store::settings::StoreSettings;
use crate::store::{Store, layout};
use crate::train::state::{Restored, TensorFiles, TrainingState};

/// Reads a checkpoint whole, and outlasts a store that fails for a while.
pub(super) async fn insist(
    config: &RunConfig,
    address: &CheckpointAddress,
    branch: bool,
) -> Result<Restored> {
    outlast(config.timeouts.store, || restore(config, address, branch)).await
}

/// Reads a checkpoint whole.
async fn restore(
    config: &RunConfig,
    CheckpointAddress { run_url, step }: &CheckpointAddress,
    branch: bool,
) -> Result<Restored> {
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
    let tensors = TensorFiles {
        model_config: read(layout::MODEL_CONFIG_FILE).await?,
        model: read(layout::MODEL_FILE).await?,
        optimizer: read(layout::OPTIMIZER_FILE).await?,
    };
    Ok(Restored {
        state,
        ledger,
        origin,
        tensors: Some(tensors),
        branch,
    })
}
