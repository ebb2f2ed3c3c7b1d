//! What the coordinator writes down beside the journal: the lines of metrics, and which checkpoints
//! wait for them, as `coordinator::archive` does.

use anyhow::Result;
use cohort::coordinator::claim::{Address, Claim, announce};
use cohort::coordinator::journal::Fenced;
use cohort::ids::{Epoch, Generation, Step};
use cohort::run::state::Millis;
use cohort::store::error::StoreError;
use cohort::store::manifest::CheckpointManifest;
use cohort::store::{Store, epoch, layout};
use cohort::telemetry::StepMetrics;
use serde::{Deserialize, Serialize};

use crate::handle::Handle;
use crate::publisher::Job;
use crate::replica::Weights;
use crate::world::Task;

const FLUSH_MS: u64 = 5_000;

/// What a line of the metrics says of a step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    pub step: Step,
    pub generation: Generation,
    pub phase: String,
    pub first_row: u64,
    pub rows: u32,
    pub spiked: bool,
    pub skipped: bool,
    pub before: Weights,
    pub after: Weights,
}

impl From<&StepMetrics> for Line {
    fn from(metrics: &StepMetrics) -> Self {
        Self {
            step: metrics.step,
            generation: metrics.generation,
            phase: metrics.phase.clone(),
            first_row: metrics.first_row,
            rows: metrics.rows,
            spiked: metrics.spike.is_some(),
            skipped: metrics.skipped,
            before: metrics.grad_norm as Weights,
            after: metrics.loss as Weights,
        }
    }
}

pub struct Archive {
    handle: Handle,
    store: Store,
    epoch: Epoch,
    address: Address,
    lines: Vec<Line>,
    dirty: bool,
    /// How long the file is that was written last.
    written_bytes: Option<u64>,
    last_step: Step,
    last_generation: Generation,
    stored_step: Step,
    early: Vec<CheckpointManifest>,
    flushed_at: Millis,
}

pub async fn read_lines(store: &Store) -> Result<Vec<Line>> {
    match store.get(layout::METRICS_FILE).await {
        Ok(bytes) => Ok(serde_json::from_slice(&bytes)?),
        Err(StoreError::NotFound { .. }) => Ok(Vec::new()),
        Err(error) => Err(error.into()),
    }
}

impl Archive {
    pub async fn open(handle: &Handle, claim: &Claim) -> Result<Self> {
        let lines = read_lines(&claim.store).await?;
        let last = lines.last();
        let last_step = last.map_or(Step(0), |line| line.step);
        let last_generation = last.map_or(Generation(0), |line| line.generation);
        handle.world().begun.push((handle.pid, Task::Publish));
        Ok(Self {
            handle: handle.clone(),
            store: claim.store.clone(),
            epoch: claim.epoch,
            address: claim.address.clone(),
            lines,
            dirty: false,
            written_bytes: None,
            last_step,
            last_generation,
            stored_step: last_step,
            early: Vec::new(),
            flushed_at: Millis(0),
        })
    }

    pub fn stored_step(&self) -> Step {
        self.stored_step
    }

    fn keep_through(&mut self, step: Step) {
        let before = self.lines.len();
        self.lines.retain(|line| line.step <= step);
        self.dirty |= before != self.lines.len();
    }

    /// The lines as they are known, for the checks.
    pub fn lines(&self) -> &[Line] {
        &self.lines
    }

    pub async fn cut(&mut self, step: Step) -> Result<()> {
        self.keep_through(step);
        self.last_step = self.last_step.min(step);
        self.stored_step = self.stored_step.min(step);
        self.early.clear();
        self.insist_on_flush().await
    }

    pub async fn step(&mut self, metrics: &StepMetrics) -> Result<bool> {
        let step = metrics.step;
        if metrics.generation < self.last_generation {
            return Ok(false);
        }
        if step <= self.last_step {
            if metrics.generation <= self.last_generation {
                return Ok(false);
            }
            let before = Step(step.0.saturating_sub(1));
            self.keep_through(before);
            self.stored_step = self.stored_step.min(before);
        }
        let line = Line::from(metrics);
        self.handle
            .world()
            .entered(self.epoch, self.lines.last(), &line);
        self.lines.push(line);
        self.dirty = true;
        self.last_step = step;
        self.last_generation = metrics.generation;
        if self.early.iter().any(|manifest| manifest.step == step) {
            self.insist_on_flush().await?;
        }
        Ok(true)
    }

    pub async fn publish(&mut self, manifest: CheckpointManifest) -> Result<()> {
        let is_due = manifest.step <= self.last_step;
        self.early.push(manifest);
        if is_due {
            self.insist_on_flush().await?;
        }
        Ok(())
    }

    pub async fn insist_on_flush(&mut self) -> Result<()> {
        // What is asked before a successor begins may be written a moment after.
        self.expect_newest().await?;
        self.handle.coordinator().may_write = true;
        self.flush().await;
        self.handle.coordinator().may_write = false;
        Ok(())
    }

    async fn expect_newest(&self) -> Result<()> {
        if epoch::is_newest(&self.store, self.epoch).await? {
            return Ok(());
        }
        Err(Fenced { ours: self.epoch }.into())
    }

    pub async fn flush_if_due(&mut self, now: Millis) -> Result<()> {
        if now.0.saturating_sub(self.flushed_at.0) >= FLUSH_MS {
            self.flushed_at = now;
            self.insist_on_flush().await?;
            announce(&self.store, &self.address).await?;
        }
        Ok(())
    }

    async fn flush(&mut self) {
        let is_written = self.written_bytes.is_some();
        let size = self.store.size(layout::METRICS_FILE);
        if self.dirty
            || (is_written && !matches!(size.await, Ok(size) if size == self.written_bytes))
        {
            let text = serde_json::to_vec(&self.lines).unwrap_or_default();
            let bytes = text.len() as u64;
            let written = self
                .store
                .put_large(layout::METRICS_FILE, text.into())
                .await;
            if written.is_err() {
                return;
            }
            self.dirty = false;
            self.written_bytes = Some(bytes);
        }
        if !matches!(epoch::is_newest(&self.store, self.epoch).await, Ok(true)) {
            return;
        }
        self.stored_step = self.last_step;
        let stored = self.stored_step;
        let due: Vec<_> = self
            .early
            .extract_if(.., |each| each.step <= stored)
            .collect();
        if due.is_empty() {
            return;
        }
        for manifest in &due {
            self.handle.world().published(manifest, &self.lines);
        }
        let pid = self.handle.pid;
        let jobs = due.into_iter().map(|each| Job::Publish(Box::new(each)));
        self.handle.coordinator().publish.extend(jobs);
        self.handle.world().ready.insert(pid);
    }

    /// Writes the last lines, where nobody has taken over.
    pub async fn close(&mut self) -> Result<()> {
        match self.insist_on_flush().await {
            Err(error) if !error.is::<Fenced>() => Err(error),
            _ => Ok(()),
        }
    }
}
