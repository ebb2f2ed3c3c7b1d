//! Looking at what a run left: checkpoints, their digests, the ledger, batches, predictions.

use std::path::Path;

use anyhow::{Context, Result, anyhow, bail, ensure};
use tch::{Device, Tensor};
use tokenizers::Tokenizer;

use crate::cli::table::{Table, grouped};
use crate::cli::{operate, say};
use crate::config::RunConfig;
use crate::corpus::TOKENIZER_FILE;
use crate::data::batch::Batch;
use crate::data::blueprint::Blueprint;
use crate::data::prefetch::BatchRequest;
use crate::ids::{RowIndex, Step};
use crate::model::encoder::Model;
use crate::model::fill_mask::{self, FilledMask};
use crate::model::weights::{self, MissingHead};
use crate::preflight::open_blueprint;
use crate::run::progress::{Progress, StepPlan};
use crate::store::checkpoint::Checkpoints;
use crate::store::error::{CheckpointError, StoreError};
use crate::store::{Store, layout};
use crate::telemetry::StepMetrics;

const CHANGED: &str = "\n  hint: the file or the corpus has changed since; the run as it was \
                       started is run.yaml in its folder";

pub(super) async fn checkpoints(run: &str) -> Result<()> {
    let checkpoints = Checkpoints::new(operate::folder(run)?);
    let steps = checkpoints.steps().await?;
    if steps.published.is_empty() {
        return say("no checkpoints yet");
    }
    let mut table = Table::new(["step", "phase", "kind", "tokens", "made", "why", "kept for"]);
    let mut unreadable = Vec::new();
    let parents = checkpoints.branch_parents().await?;
    for step in steps.published {
        let manifest = match checkpoints.manifest(step).await {
            Ok(manifest) => manifest,
            Err(CheckpointError::Unusable { reason, .. }) => {
                let kept = if parents.contains(&step) {
                    "a branch"
                } else {
                    ""
                };
                let unknown = "–".to_owned();
                let mut row = vec![step.to_string(), "unreadable".to_owned()];
                row.extend([unknown.clone(), unknown.clone(), unknown.clone(), unknown]);
                row.push(kept.to_owned());
                table.row(row);
                unreadable.push(format!("\nstep {step} is unreadable: {reason}"));
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        let kept = match (parents.contains(&step), manifest.must_stay()) {
            (true, _) => "a branch",
            (false, true) => "decays",
            (false, false) => "",
        };
        table.row(vec![
            step.to_string(),
            manifest.phase.clone(),
            manifest.phase_kind.to_string(),
            grouped(manifest.tokens),
            manifest.created_at.clone(),
            manifest.reason.to_string(),
            kept.to_owned(),
        ]);
    }
    say(&table.render())?;
    if unreadable.is_empty() {
        return Ok(());
    }
    say(&unreadable.concat())
}

pub(super) async fn verify(run: &str) -> Result<()> {
    let checkpoints = Checkpoints::new(operate::folder(run)?);
    let mut bad = 0;
    for step in checkpoints.steps().await?.published {
        let verdict = match checkpoints.verify(step).await {
            Ok(verification) => verification.complaint(),
            Err(error) => Some(error.to_string()),
        };
        bad += u32::from(verdict.is_some());
        say(&format!(
            "step {step}: {}",
            verdict.unwrap_or_else(|| "good".to_owned())
        ))?;
    }
    if bad > 0 {
        bail!("{bad} checkpoints are damaged\n  hint: runs continue from the newest good one");
    }
    Ok(())
}

/// Shows the exact global batch of a step, or writes it to a safetensors file.
pub(super) async fn inspect(run: &Path, step: u64, output: Option<&Path>) -> Result<()> {
    let config = RunConfig::load(run)?;
    let blueprint = open_blueprint(&config)?;
    let taken = recorded(&config, Step(step)).await?;
    let plan = find_step(&blueprint, Step(step), taken.as_ref())?;
    let rows: Vec<RowIndex> = Blueprint::rows(&plan).map(RowIndex).collect();
    let batch = blueprint.build(&BatchRequest {
        phase: plan.phase as u32,
        rows,
    })?;
    if let Some(taken) = &taken {
        expect_taken(&batch, taken)?;
    }
    let phase = &blueprint.schedule.phases[plan.phase];
    if let Some(output) = output {
        let mut tensors = Vec::new();
        for row in &batch.rows {
            let ids: Vec<i64> = row.input_ids.iter().copied().map(i64::from).collect();
            let bounds: Vec<i64> = row.cu_seqlens.iter().copied().map(i64::from).collect();
            let sources: Vec<i64> = row
                .chunks
                .iter()
                .map(|chunk| chunk.source.0.into())
                .collect();
            let name = |what: &str| format!("row-{:06}.{what}", row.row.0);
            tensors.push((name("input_ids"), Tensor::from_slice(&ids)));
            tensors.push((name("labels"), Tensor::from_slice(&row.labels)));
            tensors.push((name("cu_seqlens"), Tensor::from_slice(&bounds)));
            tensors.push((name("sources"), Tensor::from_slice(&sources)));
        }
        Tensor::write_safetensors(&tensors, output)
            .with_context(|| format!("cannot write {}", output.display()))?;
        return say(&format!(
            "step {step} of phase \"{}\": {} rows written to {}",
            phase.name,
            batch.rows.len(),
            output.display()
        ));
    }
    say(&format!(
        "step {step}, phase \"{}\", learning rate {:.6e}, mask rate {}, {} masked tokens",
        phase.name, plan.learning_rate, plan.mask_rate, batch.predicted
    ))?;
    let mut table = Table::new(["row", "tokens", "masked", "chunks", "sources"]);
    for row in &batch.rows {
        let sources = blueprint
            .sources_of(plan.phase, row.row.0..row.row.0 + 1)
            .join(", ");
        table.row(vec![
            row.row.to_string(),
            row.input_ids.len().to_string(),
            row.predicted().to_string(),
            row.chunks.len().to_string(),
            sources,
        ]);
    }
    say(&table.render())
}

/// The plan of a step: as it was taken if the run has taken it, else as the schedule has it.
fn find_step(blueprint: &Blueprint, step: Step, taken: Option<&StepMetrics>) -> Result<StepPlan> {
    if let Some(taken) = taken {
        let phase = blueprint
            .schedule
            .phases
            .iter()
            .position(|phase| phase.name == taken.phase);
        return Ok(StepPlan {
            step,
            phase: phase.with_context(|| {
                format!(
                    "step {step} was taken in phase \"{}\"{CHANGED}",
                    taken.phase
                )
            })?,
            first_row: RowIndex(taken.first_row),
            rows: taken.rows,
            learning_rate: taken.learning_rate,
            mask_rate: taken.mask_rate,
        });
    }
    let schedule = &blueprint.schedule;
    let mut progress = Progress::new(schedule);
    while let Some(plan) = progress.next_step(schedule) {
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

/// Refuses to show a batch that differs from the one that the step took.
fn expect_taken(batch: &Batch, taken: &StepMetrics) -> Result<()> {
    let tokens: u64 = batch.counts.values().map(|counts| counts.tokens).sum();
    ensure!(
        (tokens, batch.predicted) == (taken.step_tokens, taken.masked_tokens),
        "step {} took {} tokens and predicted {} of them; this file describes a batch of {tokens} \
         and {}{CHANGED}",
        taken.step,
        taken.step_tokens,
        taken.masked_tokens,
        batch.predicted
    );
    Ok(())
}

async fn recorded(config: &RunConfig, step: Step) -> Result<Option<StepMetrics>> {
    let Ok(store) = Store::open_existing(&config.store) else {
        return Ok(None);
    };
    let text = match store.child(&config.name)?.get(layout::METRICS_FILE).await {
        Ok(text) => text,
        Err(StoreError::NotFound { .. }) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    for line in text
        .split(|&byte| byte == b'\n')
        .filter(|line| !line.is_empty())
    {
        let metrics: StepMetrics =
            serde_json::from_slice(line).context("metrics.jsonl is damaged")?;
        if metrics.step == step {
            return Ok(Some(metrics));
        }
    }
    Ok(None)
}

/// Shows the most probable tokens for every `[MASK]` of a text.
pub(super) fn fill_mask(checkpoint: &Path, text: &str, top: usize) -> Result<()> {
    for (index, mask) in fill(checkpoint, text, top)?.iter().enumerate() {
        let words: Vec<String> = mask
            .candidates
            .iter()
            .map(|candidate| {
                format!(
                    "{:?} {:.1} %",
                    candidate.token,
                    candidate.probability * 100.0
                )
            })
            .collect();
        say(&format!("[MASK] {}: {}", index + 1, words.join(", ")))?;
    }
    Ok(())
}

/// The same for programs, with the tokens' ids.
pub(super) fn fill_mask_json(checkpoint: &Path, text: &str, top: usize) -> Result<()> {
    let filled = fill(checkpoint, text, top)?;
    say(&serde_json::to_string_pretty(&filled)?)
}

fn fill(checkpoint: &Path, text: &str, top: usize) -> Result<Vec<FilledMask>> {
    let (config, parameters) =
        weights::load_directory(checkpoint, MissingHead::Refuse, Device::Cpu)?;
    let path = checkpoint.join(TOKENIZER_FILE);
    let tokenizer = Tokenizer::from_file(&path)
        .map_err(|error| anyhow!("cannot read {}: {error}", path.display()))?;
    let model = Model { config, parameters };
    fill_mask::fill_mask(&model, &tokenizer, text, top)
}
