//! The training state as the files of a checkpoint, and back.
//!
//! A checkpoint's folder is a Hugging Face model directory; beside the model it holds the
//! optimizer's moments, the progress and the ledger. Saving and loading is exact, bit for bit.

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::data::blueprint::Blueprint;
use crate::run::ledger::Ledger;
use crate::run::progress::Progress;

/// The newest layout of `state.json` that this code reads and writes.
pub const STATE_VERSION: u32 = 2;
/// The oldest that it reads: without detours, and written as long as there are none.
const STATE_VERSION_PLAIN: u32 = 1;

/// `state.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrainingState {
    pub version: u32,
    /// blake3 of the tokenizer that the ids belong to.
    pub tokenizer: String,
    /// Digest of the plan of `progress.phase`: which rows its row index counts.
    pub plan: String,
    /// Steps of the optimizer, which its debiased betas depend on.
    pub optimizer_steps: u64,
    /// Rows that the weights have seen, over all phases.
    pub rows: u64,
    pub progress: Progress,
}

/// What the lead rank reads of a checkpoint before it begins.
#[derive(Clone, Debug)]
pub struct Restored {
    pub state: TrainingState,
    pub ledger: Ledger,
    /// The checkpoint's URL, for errors.
    pub origin: String,
    /// `config.json`, `model.safetensors` and `optimizer.safetensors`, where more than the position
    /// is wanted.
    pub tensors: Option<TensorFiles>,
    /// Leave the checkpoint's phase for this run's own ([`Ledger::first_of_branch`]).
    pub branch: bool,
}

/// The large files of a checkpoint.
#[derive(Clone, Debug)]
pub struct TensorFiles {
    pub model_config: Bytes,
    pub model: Bytes,
    pub optimizer: Bytes,
}

impl TrainingState {
    /// The layout that a state with this progress is written in: a program that does not know of
    /// detours must refuse one that has some, for it would read rows that are to be passed over.
    pub fn version(progress: &Progress) -> u32 {
        if progress.detours.is_empty() {
            STATE_VERSION_PLAIN
        } else {
            STATE_VERSION
        }
    }

    /// Reads `state.json`.
    pub fn parse(text: &[u8], origin: &str) -> Result<Self> {
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        let found: Version = serde_json::from_slice(text)
            .with_context(|| format!("{origin}: state.json is damaged"))?;
        ensure!(
            (STATE_VERSION_PLAIN..=STATE_VERSION).contains(&found.version),
            "{origin}: state.json is of version {}, this program reads up to version \
             {STATE_VERSION}",
            found.version
        );
        serde_json::from_slice(text).with_context(|| format!("{origin}: state.json is damaged"))
    }

    /// Refuses a checkpoint of another tokenizer.
    pub fn expect_tokenizer(&self, tokenizer: &str, origin: &str) -> Result<()> {
        ensure!(
            self.tokenizer == tokenizer,
            "{origin} was trained with tokenizer {}, the corpus was prepared with {tokenizer}\n  \
             hint: prepare the corpus with the tokenizer.json that lies in the checkpoint",
            self.tokenizer
        );
        Ok(())
    }

    /// Refuses to continue a phase whose rows are not the ones that the row index counts.
    pub fn expect_plan(&self, phase: &str, plan: &str, origin: &str) -> Result<()> {
        ensure!(
            self.plan == plan,
            "{origin} cannot be continued in phase \"{phase}\": the corpus, the seed, the mixture \
             or row_tokens have changed, so its rows are others\n  \
             hint: restore them, or start another run with `start: {{hugging_face: …}}` from its \
             weights"
        );
        Ok(())
    }
}

impl Restored {
    /// Where a run of this blueprint stands that goes on from here: in the checkpoint's phase, or
    /// at the start of the branch's first. Refuses a checkpoint whose row index counts other rows.
    pub fn progress(&self, blueprint: &Blueprint) -> Result<Progress> {
        let Self {
            state,
            ledger,
            origin,
            branch,
            ..
        } = self;
        let schedule = &blueprint.schedule;
        state.expect_tokenizer(&blueprint.corpus.manifest().tokenizer.digest, origin)?;
        let mut progress = state.progress.clone();
        if *branch {
            let phase = ledger
                .first_of_branch(&schedule.phases)
                .with_context(|| format!("{origin} has the phases of this run behind it"))?;
            progress.branch(phase, schedule);
            return Ok(progress);
        }
        let phase = schedule.phases.get(progress.phase).with_context(|| {
            format!(
                "{origin} stands in phase {} of its run, this run has {} phases",
                progress.phase + 1,
                schedule.phases.len()
            )
        })?;
        let plan = blueprint.phases[progress.phase].builder.plan.digest();
        state.expect_plan(&phase.name, plan, origin)?;
        progress.fit(schedule);
        Ok(progress)
    }
}

#[cfg(test)]
mod tests {
    use crate::ids::{RowIndex, Step};
    use crate::run::spike::Detour;

    use super::*;

    /// As states were before there were detours; and what an older program refuses.
    #[test]
    fn a_state_says_whether_rows_are_to_be_passed_over() {
        let mut progress = Progress {
            step: Step(4),
            tokens: 400,
            phase_tokens: 400,
            phase_length_tokens: 1_000,
            next_row: RowIndex(4),
            ..Progress::default()
        };
        let state = |progress: &Progress| TrainingState {
            version: TrainingState::version(progress),
            tokenizer: String::new(),
            plan: String::new(),
            optimizer_steps: 4,
            rows: 4,
            progress: progress.clone(),
        };
        let mut old = serde_json::to_value(state(&progress)).unwrap();
        assert_eq!(old["version"], 1);
        old["progress"].as_object_mut().unwrap().remove("watch");
        let parse =
            |json: &serde_json::Value| TrainingState::parse(json.to_string().as_bytes(), "x");
        assert_eq!(parse(&old).unwrap(), state(&progress));
        progress.detours.push(Detour {
            phase: "stable".to_owned(),
            rows: 8..16,
        });
        let new = serde_json::to_value(state(&progress)).unwrap();
        assert_eq!(new["version"], 2);
        assert_eq!(parse(&new).unwrap(), state(&progress));
        old["version"] = serde_json::json!(3);
        assert!(parse(&old).is_err());
    }
}
