//! `cohort inspect`: the exact global batch of a step.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use tch::Tensor;

use crate::cli::inspect::step::{CHANGED, find};
use crate::cli::say;
use crate::cli::table::Table;
use crate::config::RunConfig;
use crate::data::batch::Batch;
use crate::data::blueprint::Blueprint;
use crate::data::prefetch::BatchRequest;
use crate::ids::{RowIndex, Step};
use crate::preflight::open_blueprint;
use crate::telemetry::StepMetrics;

mod step;

/// Shows the batch of a step, or writes it to a safetensors file.
pub(super) async fn inspect(run: &Path, step: u64, output: Option<&Path>) -> Result<()> {
    let config = RunConfig::load(run)?;
    let blueprint = open_blueprint(&config)?;
    let (plan, taken) = find(&config, &blueprint, Step(step)).await?;
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
        write(&batch, output)?;
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
    if taken.is_some_and(|taken| taken.skipped) {
        say("the step was skipped: these rows changed no weights")?;
    }
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

fn write(batch: &Batch, output: &Path) -> Result<()> {
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
        .with_context(|| format!("cannot write {}", output.display()))
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
