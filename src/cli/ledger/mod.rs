//! Whose text is in the weights, and what a withdrawal means.
//!
//! - [`lineage`]: every checkpoint of a run and of those that it grew from, damaged ones too
//! - [`clean`]: which of them an institution's text has not touched
//! - [`branches`]: the runs that grew from those
//! - [`repeats`]: what de-duplication has to do with an institution's text
//! - [`way_on`], [`names`]: the run that goes on without an institution
//! - [`withdraw`]: the answer to a withdrawal

use anyhow::{Context, Result, bail};
use serde_json::json;

use crate::cli::operate::Place;
use crate::cli::{display, operate, say};
use crate::ids::Step;
use crate::run::ledger::Ledger;
use crate::store::address::CheckpointAddress;
use crate::store::checkpoint::Checkpoints;
use crate::store::error::CheckpointError;
use crate::store::manifest::CheckpointManifest;
use crate::store::settings::StoreSettings;
use crate::store::{Store, layout};
use crate::train::state::TrainingState;

mod branches;
mod clean;
mod lineage;
mod names;
mod repeats;
mod way_on;
pub(super) mod withdraw;

/// Shows the ledger of a checkpoint, or of a run's newest one.
pub(super) async fn show(place: &str, step: Option<Step>, json: bool) -> Result<()> {
    let (checkpoints, step) = match (place.parse::<CheckpointAddress>(), step) {
        (Ok(address), None) => {
            let store = Store::open_existing(&StoreSettings::at(&address.run_url))?;
            (Checkpoints::new(store), address.step)
        }
        (Ok(_), Some(_)) => bail!(
            "{place} is a checkpoint already\n  hint: `--step` chooses one of a run's checkpoints"
        ),
        (Err(_), Some(step)) => (Checkpoints::new(operate::folder(place)?), step),
        (Err(_), None) => newest(place).await?,
    };
    let ledger = read(&checkpoints, step).await?;
    if json {
        let summary = json!({
            "checkpoint": checkpoints.url(step),
            "institutions": ledger.by_institution(),
            "sources": ledger.by_source(),
            "phases": ledger,
        });
        return say(&serde_json::to_string_pretty(&summary)?);
    }
    say(&format!("{}\n", checkpoints.url(step)))?;
    say(&display::consumed("source", &ledger.by_source()))?;
    say(&format!("\n{}", display::institutions(&ledger)))
}

/// The newest checkpoint of a run; of a branch that has none yet, the one that it began from.
async fn newest(run: &str) -> Result<(Checkpoints, Step)> {
    let place = operate::place(run)?;
    let checkpoints = Checkpoints::new(place.store.clone());
    if let Some(&step) = checkpoints.steps().await?.published.last() {
        return Ok((checkpoints, step));
    }
    let parent = checkpoints.parent().await?;
    let parent = parent.context("the run has no checkpoint yet")?;
    Ok((of_trunk(&place, &parent)?, parent.step))
}

/// The checkpoints of the run that another one grew from.
fn of_trunk(place: &Place, parent: &CheckpointAddress) -> Result<Checkpoints> {
    let trunk = place
        .other(&parent.run_url)
        .with_context(|| format!("the trunk of {}", place.store.address()))?;
    Ok(Checkpoints::new(trunk))
}

/// The ledger of a published checkpoint.
pub(super) async fn read(checkpoints: &Checkpoints, step: Step) -> Result<Ledger> {
    let manifest = checkpoints.manifest(step).await?;
    Ok(read_of(checkpoints, &manifest).await?)
}

/// The same where the manifest is at hand.
pub(super) async fn read_of(
    checkpoints: &Checkpoints,
    manifest: &CheckpointManifest,
) -> Result<Ledger, CheckpointError> {
    let bytes = checkpoints.read_file(manifest, layout::LEDGER_FILE).await?;
    serde_json::from_slice(&bytes).map_err(|error| CheckpointError::Unusable {
        url: checkpoints.url(manifest.step),
        reason: format!("{} is damaged: {error}", layout::LEDGER_FILE),
    })
}

/// The state of a published checkpoint, without its tensors.
pub(super) async fn read_state(
    checkpoints: &Checkpoints,
    manifest: &CheckpointManifest,
) -> Result<TrainingState, CheckpointError> {
    let bytes = checkpoints.read_file(manifest, layout::STATE_FILE).await?;
    let url = checkpoints.url(manifest.step);
    TrainingState::parse(&bytes, &url).map_err(|error| CheckpointError::Unusable {
        url,
        reason: format!("{error:#}"),
    })
}
