//! Checkpoints as the lead rank takes them: a copy of the state in host memory, handed to the
//! uploader. Training stops for the copy alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use tokio::sync::mpsc::Sender;
use tokio::sync::mpsc::error::TrySendError;

use crate::ids::{Epoch, Generation};
use crate::model::{huggingface, weights};
use crate::run::ledger::Ledger;
use crate::run::progress::Progress;
use crate::run::schedule::PhaseSettings;
use crate::store::layout;
use crate::store::manifest::{CheckpointManifest, MANIFEST_VERSION, Reason};
use crate::telemetry::wall_clock;
use crate::train::state::{TrainingState, write_tensors};
use crate::train::step::Engine;

/// How often room for a snapshot is looked for.
const ROOM_INTERVAL: Duration = Duration::from_millis(50);

/// A checkpoint on its way to the store.
#[derive(Debug)]
pub struct Snapshot {
    /// Complete but for `files` (their digests are known after the upload) and the coordinator's
    /// epoch and parent.
    pub manifest: CheckpointManifest,
    pub files: Vec<(String, Bytes)>,
}

/// What a checkpoint says beside its tensors.
#[derive(Clone, Copy, Debug)]
pub struct Moment<'a> {
    pub reason: Reason,
    pub generation: Generation,
    /// The phase that led to these weights.
    pub phase: &'a PhaseSettings,
    pub progress: &'a Progress,
    pub rows: u64,
    pub ledger: &'a Ledger,
    /// Digest of the plan of `progress.phase`.
    pub plan: &'a str,
}

/// Takes snapshots and hands them over, one at a time.
#[derive(Debug)]
pub struct Snapshots {
    pub run: String,
    /// blake3 of the tokenizer.
    pub tokenizer: String,
    /// Files that are the same in every checkpoint: the tokenizer's.
    pub constant_files: Vec<(String, Bytes)>,
    pub uploads: Sender<Snapshot>,
    /// How many were handed over and are not in the store yet; the uploader counts down.
    pub in_flight: Arc<AtomicU64>,
}

impl Snapshots {
    /// Whether a snapshot could be handed over at once: no earlier one still waits.
    pub fn has_room(&self) -> bool {
        self.uploads.capacity() > 0
    }

    /// Whether the files of all snapshots are in the store.
    pub fn all_stored(&self) -> bool {
        self.in_flight.load(Ordering::SeqCst) == 0
    }

    /// Hands a snapshot over; waits where an earlier one still waits, and not longer than until
    /// `given_up`. False where it was given up.
    pub fn hand_over(&self, mut snapshot: Snapshot, given_up: impl Fn() -> bool) -> Result<bool> {
        loop {
            match self.uploads.try_send(snapshot) {
                Ok(()) => {
                    self.in_flight.fetch_add(1, Ordering::SeqCst);
                    return Ok(true);
                }
                Err(TrySendError::Closed(_)) => anyhow::bail!("the uploader has ended"),
                Err(TrySendError::Full(_)) if given_up() => return Ok(false),
                Err(TrySendError::Full(waiting)) => snapshot = waiting,
            }
            std::thread::sleep(ROOM_INTERVAL);
        }
    }

    /// Copies the state.
    pub fn copy(&self, engine: &Engine, moment: Moment<'_>) -> Result<Snapshot> {
        let Moment {
            reason,
            generation,
            phase,
            progress,
            rows,
            ledger,
            plan,
        } = moment;
        let state = TrainingState {
            version: TrainingState::version(progress),
            tokenizer: self.tokenizer.clone(),
            plan: plan.to_owned(),
            optimizer_steps: engine.optimizer.steps(),
            rows,
            progress: progress.clone(),
        };
        let json = |value: serde_json::Result<Vec<u8>>| value.map(Bytes::from);
        let mut files = self.constant_files.clone();
        files.extend([
            (
                layout::MODEL_CONFIG_FILE.to_owned(),
                Bytes::from(huggingface::write(&engine.model.config)),
            ),
            (
                layout::MODEL_FILE.to_owned(),
                Bytes::from(weights::save(&engine.model.parameters)?),
            ),
            (
                layout::OPTIMIZER_FILE.to_owned(),
                write_tensors(&engine.optimizer.state_dict())?,
            ),
            (
                layout::STATE_FILE.to_owned(),
                json(serde_json::to_vec_pretty(&state))?,
            ),
            (
                layout::LEDGER_FILE.to_owned(),
                json(serde_json::to_vec_pretty(ledger))?,
            ),
        ]);
        let manifest = CheckpointManifest {
            version: MANIFEST_VERSION,
            run: self.run.clone(),
            step: progress.step,
            epoch: Epoch(0),
            generation,
            phase: phase.name.clone(),
            phase_kind: phase.kind(),
            tokens: progress.tokens,
            rows,
            created_at: wall_clock(),
            reason,
            parent: None,
            pinned: false,
            files: Vec::new(),
        };
        Ok(Snapshot { manifest, files })
    }
}
