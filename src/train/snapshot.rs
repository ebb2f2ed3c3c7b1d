//! Checkpoints as the lead rank takes them: a copy of the state in host memory, handed to the
//! uploader. Training stops for the copy alone.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use tokio::sync::mpsc::Sender;
use tokio::sync::mpsc::error::TrySendError;

use crate::ids::{Epoch, Generation, Step};
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
    /// None where the files of this step were handed over before, and only the reason is new.
    pub files: Option<Vec<(String, Bytes)>>,
}

/// What the uploader tells of snapshots that were handed to it.
#[derive(Clone, Debug, Default)]
pub struct Uploads(Arc<UploadsInner>);

#[derive(Debug, Default)]
struct UploadsInner {
    /// Handed over, and neither in the store yet nor given up.
    in_flight: AtomicU64,
    /// The newest that was given up.
    lost: Mutex<Option<(Step, Reason)>>,
}

impl Uploads {
    pub fn in_flight(&self) -> u64 {
        self.0.in_flight.load(Ordering::SeqCst)
    }

    pub fn stored(&self) {
        self.0.in_flight.fetch_sub(1, Ordering::SeqCst);
    }

    pub fn given_up(&self, step: Step, reason: Reason) {
        *self.lost() = Some((step, reason));
        self.stored();
    }

    /// What was given up since this was last asked.
    fn take_lost(&self) -> Option<(Step, Reason)> {
        self.lost().take()
    }

    fn lost(&self) -> std::sync::MutexGuard<'_, Option<(Step, Reason)>> {
        self.0.lost.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
    pub queue: Sender<Snapshot>,
    pub uploads: Uploads,
}

impl Snapshots {
    /// Whether no earlier snapshot still waits for its upload.
    pub fn none_waits(&self) -> bool {
        self.queue.capacity() == self.queue.max_capacity()
    }

    /// Whether the files of all snapshots are in the store.
    pub fn all_stored(&self) -> bool {
        self.uploads.in_flight() == 0
    }

    /// The newest snapshot that could not be stored, once.
    pub fn take_lost(&self) -> Option<(Step, Reason)> {
        self.uploads.take_lost()
    }

    /// Hands a snapshot over; waits where the queue is full, and not longer than until `given_up`.
    /// False where it was given up.
    pub fn hand_over(&self, mut snapshot: Snapshot, given_up: impl Fn() -> bool) -> Result<bool> {
        loop {
            // Counted before the uploader can count it down.
            self.uploads.0.in_flight.fetch_add(1, Ordering::SeqCst);
            match self.queue.try_send(snapshot) {
                Ok(()) => return Ok(true),
                Err(TrySendError::Closed(_)) => anyhow::bail!("the uploader has ended"),
                Err(TrySendError::Full(waiting)) => snapshot = waiting,
            }
            self.uploads.stored();
            if given_up() {
                return Ok(false);
            }
            std::thread::sleep(ROOM_INTERVAL);
        }
    }

    /// Another reason for the checkpoint that a step has.
    pub fn another_reason(&self, moment: Moment<'_>) -> Snapshot {
        Snapshot {
            manifest: self.manifest(moment),
            files: None,
        }
    }

    /// Copies the state.
    pub fn copy(&self, engine: &Engine, moment: Moment<'_>) -> Result<Snapshot> {
        let manifest = self.manifest(moment);
        let Moment {
            progress,
            rows,
            ledger,
            plan,
            ..
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
        Ok(Snapshot {
            manifest,
            files: Some(files),
        })
    }

    fn manifest(&self, moment: Moment<'_>) -> CheckpointManifest {
        let Moment {
            reason,
            generation,
            phase,
            progress,
            rows,
            ..
        } = moment;
        CheckpointManifest {
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
        }
    }
}
