//! Which rows a step of a run takes: as they were taken, or as they will be.
//!
//! A step that the run has taken stands in its metrics. One to come is reached by walking on from
//! where the run stands: its newest checkpoint, with the decays that operators commanded since, or
//! the checkpoint that it branched from, or its beginning. Anything else would be a guess.

use anyhow::{Context, Result, bail, ensure};

use crate::cli::ledger;
use crate::config::RunConfig;
use crate::coordinator::journal::{self, AppliedDecay, Journal};
use crate::data::blueprint::Blueprint;
use crate::ids::{RowIndex, Step};
use crate::run::progress::{Progress, StepPlan};
use crate::run::schedule::Schedule;
use crate::run::spike;
use crate::store::address::CheckpointAddress;
use crate::store::checkpoint::Checkpoints;
use crate::store::error::{CheckpointError, StoreError};
use crate::store::settings::StoreSettings;
use crate::store::{Store, layout};
use crate::telemetry::StepMetrics;
use crate::train::state::Restored;

pub(super) const CHANGED: &str = "\n  hint: the file or the corpus has changed since; the run as \
                                  it was started is run.yaml in its folder";

/// The plan of a step, and its metrics where the run has taken it.
pub(super) async fn find(
    config: &RunConfig,
    blueprint: &Blueprint,
    step: Step,
) -> Result<(StepPlan, Option<StepMetrics>)> {
    ensure!(
        step > Step(0),
        "there is no step 0: steps are counted from 1"
    );
    let checkpoints = match Store::open_existing(&config.store) {
        Ok(store) => Checkpoints::new(store.child(&config.name)?),
        Err(StoreError::NotFound { .. }) => {
            let start = Progress::new(&blueprint.schedule);
            return Ok((walk(blueprint, start, &Journal::default(), step)?, None));
        }
        Err(error) => return Err(error.into()),
    };
    if let Some(taken) = recorded(checkpoints.store(), step).await? {
        return Ok((as_taken(blueprint, &taken)?, Some(taken)));
    }
    let parent = checkpoints.parent().await?;
    if let Some(parent) = parent.as_ref().filter(|parent| step <= parent.step) {
        bail!(
            "step {step} is none of this run's: it is a branch that begins after step {}\n  \
             hint: inspect it with the YAML of its trunk, whose folder is {}",
            parent.step,
            parent.run_url
        );
    }
    let published = checkpoints.steps().await?.published;
    if let Some(newest) = published.last().filter(|newest| step <= **newest) {
        bail!(
            "which rows step {step} took is not known: the run has taken it, for it has a \
             checkpoint after step {newest}, but {} has no line of it\n  \
             hint: steps with a line there can be shown, and those after step {newest}",
            layout::METRICS_FILE
        );
    }
    let journal = journal::read(checkpoints.store()).await?;
    let start = match (newest(&checkpoints, &published, &journal).await?, parent) {
        (Some(restored), _) => restored.progress(blueprint)?,
        (None, Some(parent)) => {
            let restored = of_trunk(config, &parent).await?;
            restored.progress(blueprint)?
        }
        (None, None) => Progress::new(&blueprint.schedule),
    };
    Ok((walk(blueprint, start, &journal, step)?, None))
}

/// The newest checkpoint that can be read and that the run has not gone back behind: a damaged one
/// is passed over as the run itself does.
async fn newest(
    checkpoints: &Checkpoints,
    published: &[Step],
    journal: &Journal,
) -> Result<Option<Restored>> {
    for &step in published.iter().rev() {
        let found = async {
            let manifest = checkpoints.manifest(step).await?;
            let mut spikes = journal.spikes.iter();
            if spikes.any(|spike| spike.abandons(step, manifest.generation)) {
                return Ok(None);
            }
            restored(checkpoints, step, false).await.map(Some)
        };
        match found.await {
            Ok(Some(restored)) => return Ok(Some(restored)),
            Ok(None) | Err(CheckpointError::Unusable { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(None)
}

pub(super) async fn of_trunk(config: &RunConfig, parent: &CheckpointAddress) -> Result<Restored> {
    let settings = StoreSettings {
        url: parent.run_url.clone(),
        ..config.store.clone()
    };
    let trunk = Checkpoints::new(Store::open_existing(&settings)?);
    Ok(restored(&trunk, parent.step, true).await?)
}

/// A checkpoint without its tensors.
async fn restored(
    checkpoints: &Checkpoints,
    step: Step,
    branch: bool,
) -> Result<Restored, CheckpointError> {
    let manifest = checkpoints.manifest(step).await?;
    Ok(Restored {
        state: ledger::read_state(checkpoints, &manifest).await?,
        ledger: ledger::read_of(checkpoints, &manifest).await?,
        origin: checkpoints.url(step),
        tensors: None,
        branch,
    })
}

/// The plan of a step that stands in the metrics.
fn as_taken(blueprint: &Blueprint, taken: &StepMetrics) -> Result<StepPlan> {
    let phases = &blueprint.schedule.phases;
    let phase = phases.iter().position(|phase| phase.name == taken.phase);
    let StepMetrics {
        step, phase: name, ..
    } = taken;
    Ok(StepPlan {
        step: *step,
        phase: phase
            .with_context(|| format!("step {step} was taken in phase \"{name}\"{CHANGED}"))?,
        first_row: RowIndex(taken.first_row),
        rows: taken.rows,
        learning_rate: taken.learning_rate,
        mask_rate: taken.mask_rate,
    })
}

/// Takes the steps from `progress` on as the ranks do, up to the one that is wanted.
fn walk(
    blueprint: &Blueprint,
    mut progress: Progress,
    journal: &Journal,
    step: Step,
) -> Result<StepPlan> {
    let schedule = &blueprint.schedule;
    let start = progress.step;
    let decays = journal.applied_decays();
    progress.avoid(&spike::detours(&journal.spikes));
    loop {
        blueprint.pass_detours(&mut progress);
        if decay_if_due(&mut progress, &decays, start, schedule) {
            blueprint.pass_detours(&mut progress);
        }
        let Some(plan) = progress.next_step(schedule) else {
            break;
        };
        if plan.step == step {
            return Ok(plan);
        }
        progress.advance(&plan, blueprint.step_tokens(&plan), schedule);
    }
    bail!(
        "there is no step {step}: the schedule has {} steps, counted from 1\n  \
         hint: see `cohort plan`",
        progress.step
    )
}

/// Lets the decays take effect that do so at the boundary that `progress` stands at; those from
/// before `start` are another run's. True where there is one.
pub(super) fn decay_if_due(
    progress: &mut Progress,
    decays: &[AppliedDecay],
    start: Step,
    schedule: &Schedule,
) -> bool {
    let mut any = false;
    for &AppliedDecay {
        command,
        step,
        tokens,
    } in decays
    {
        if step >= start && progress.owes(command, step, progress.step) {
            // One that cannot be applied is refused by the ranks too.
            let _ = progress.decay(tokens, schedule);
            progress.last_command = command.max(progress.last_command);
            any = true;
        }
    }
    any
}

/// The line of a step in the run's metrics.
async fn recorded(store: &Store, step: Step) -> Result<Option<StepMetrics>> {
    let mut lines = record(store).await?.into_iter();
    Ok(lines.find(|line| line.step == step))
}

/// The steps that a run has taken, as it tells them.
pub(super) async fn record(store: &Store) -> Result<Vec<StepMetrics>> {
    let text = match store.get(layout::METRICS_FILE).await {
        Ok(text) => text,
        Err(StoreError::NotFound { .. }) => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    let lines = text.split(|&byte| byte == b'\n').enumerate();
    lines
        .filter(|(_, line)| !line.is_empty())
        .map(|(index, line)| {
            serde_json::from_slice(line)
                .with_context(|| format!("{}, line {}", layout::METRICS_FILE, index + 1))
        })
        .collect()
}
