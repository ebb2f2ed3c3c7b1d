//! Looking at what a run left: its checkpoints, their digests, what they predict.

use std::path::Path;

use anyhow::{Result, anyhow, bail};
use tch::Device;
use tokenizers::Tokenizer;

use crate::cli::table::{Table, grouped};
use crate::cli::{operate, say};
use crate::corpus::TOKENIZER_FILE;
use crate::model::encoder::Model;
use crate::model::fill_mask::{self, FilledMask};
use crate::model::weights::{self, MissingHead};
use crate::store::checkpoint::Checkpoints;
use crate::store::error::CheckpointError;

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
