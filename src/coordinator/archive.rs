//! What the coordinator writes down: metrics, evaluations, the journal of commands, and checkpoints
//! that become real by their manifest.
//!
//! Publishing and retention run beside the core, one after the other; the journal is written before
//! the core goes on.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tracing::{info, warn};

use crate::coordinator::claim::{Address, Claim, announce};
use crate::coordinator::journal::{Fenced, Writer};
use crate::coordinator::message::Message;
use crate::ids::{Epoch, Generation, Step};
use crate::run::event::Entry;
use crate::run::goodput::{Account, Goodput, Occupation, Recovery};
use crate::run::state::Millis;
use crate::store::checkpoint::Checkpoints;
use crate::store::error::{CheckpointError, StoreError};
use crate::store::manifest::CheckpointManifest;
use crate::store::persistence::Persistence;
use crate::store::retention::Retention;
use crate::store::{Store, epoch, layout};
use crate::telemetry::{Evaluation, StepMetrics};

/// Checkpoints that may wait for their publication.
const PUBLISH_MAX: usize = 64;
/// How often metrics go to the store.
const FLUSH_INTERVAL: Duration = Duration::from_secs(5);

pub(super) struct Archive {
    store: Store,
    epoch: Epoch,
    address: Address,
    metrics: Lines,
    evaluations: Lines,
    recoveries: Lines,
    goodput: Goodput,
    journal: Writer,
    /// The newest step whose line is in `metrics`, and the generation that took it.
    last_step: Step,
    last_generation: Generation,
    /// The newest step whose line is in the store.
    stored_step: Step,
    /// Checkpoints whose step's line is not in the store yet.
    early: Vec<CheckpointManifest>,
    flushed_at: Millis,
    core: mpsc::Sender<Message>,
    patience: Duration,
    publish: mpsc::Sender<CheckpointManifest>,
    publisher: JoinHandle<Result<()>>,
}

/// A file of JSON lines in the store, kept whole in memory: object stores cannot append.
struct Lines {
    key: &'static str,
    text: String,
    dirty: bool,
}

impl Lines {
    /// What an earlier life of the run left.
    async fn open(store: &Store, key: &'static str) -> Result<Self> {
        let text = match store.get(key).await {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(StoreError::NotFound { .. }) => String::new(),
            Err(error) => return Err(error.into()),
        };
        let mut lines = Self {
            key,
            text,
            dirty: false,
        };
        // A line torn by a crash is of a step that is taken again.
        lines.remove(|line| step_of(line).is_none());
        Ok(lines)
    }

    /// Takes out the steps after `step`.
    fn cut(&mut self, step: Step) {
        self.remove(|line| step_of(line).is_none_or(|found| found > step));
    }

    fn last(&self) -> Option<&str> {
        self.text.lines().next_back()
    }

    fn push(&mut self, json: &str) {
        self.text.push_str(json);
        self.text.push('\n');
        self.dirty = true;
    }

    fn remove(&mut self, unwanted: impl Fn(&str) -> bool) {
        let kept = self.text.lines().filter(|line| !unwanted(line));
        let kept: String = kept.flat_map(|line| [line, "\n"]).collect();
        self.dirty |= kept != self.text;
        self.text = kept;
    }

    async fn flush(&mut self, store: &Store) -> Result<(), StoreError> {
        if self.dirty {
            store
                .put_large(self.key, Bytes::from(self.text.clone()))
                .await?;
            self.dirty = false;
        }
        Ok(())
    }
}

impl Archive {
    pub(super) async fn open(
        claim: &Claim,
        keep: Retention,
        yaml: &str,
        core: mpsc::Sender<Message>,
    ) -> Result<Self> {
        let store = claim.store.clone();
        store.put(layout::RUN_FILE, yaml.to_owned()).await?;
        let metrics = Lines::open(&store, layout::METRICS_FILE).await?;
        let evaluations = Lines::open(&store, layout::EVALUATIONS_FILE).await?;
        let recoveries = Lines::open(&store, layout::RECOVERIES_FILE).await?;
        let goodput = match store.get(layout::GOODPUT_FILE).await {
            // What is lost with a torn one is a number for people.
            Ok(text) => serde_json::from_slice(&text).unwrap_or_default(),
            Err(StoreError::NotFound { .. }) => Goodput::default(),
            Err(error) => return Err(error.into()),
        };
        let last: Option<StepMetrics> = metrics
            .last()
            .and_then(|line| serde_json::from_str(line).ok());
        let (last_step, last_generation) =
            last.map_or_else(Default::default, |last| (last.step, last.generation));
        let (publish, manifests) = mpsc::channel(PUBLISH_MAX);
        let publisher = tokio::spawn(publish_all(claim.clone(), keep, manifests, core.clone()));
        Ok(Self {
            journal: Writer::new(store.clone(), claim.epoch, claim.patience),
            store,
            epoch: claim.epoch,
            address: claim.address.clone(),
            metrics,
            evaluations,
            recoveries,
            goodput,
            last_step,
            last_generation,
            stored_step: last_step,
            early: Vec::new(),
            flushed_at: Millis(0),
            core,
            patience: claim.patience,
            publish,
            publisher,
        })
    }

    /// Metrics up to this step are in the store.
    pub(super) fn stored_step(&self) -> Step {
        self.stored_step
    }

    /// Takes out the steps after `step`, which are taken again.
    pub(super) async fn cut(&mut self, step: Step) -> Result<()> {
        self.cut_metrics(step);
        self.evaluations.cut(step);
        self.last_step = self.last_step.min(step);
        self.early.clear();
        self.flush().await
    }

    fn cut_metrics(&mut self, step: Step) {
        let lost = self.metrics.text.lines().rev();
        for line in lost.take_while(|line| step_of(line).is_some_and(|found| found > step)) {
            if let Ok(line) = serde_json::from_str::<StepMetrics>(line) {
                let data = line.seconds * line.data_wait_fraction;
                self.goodput.redo(line.seconds, data);
            }
        }
        self.metrics.cut(step);
    }

    /// Enters what the run is at from now on.
    pub(super) fn observe(&mut self, occupation: Occupation, now: Duration) {
        self.goodput.observe(occupation, now);
    }

    pub(super) fn account(&self) -> Account {
        self.goodput.account()
    }

    pub(super) fn recovery(&mut self, recovery: &Recovery) -> Result<()> {
        self.recoveries.push(&serde_json::to_string(recovery)?);
        Ok(())
    }

    /// Enters a step. One that a later generation took again replaces what was known of it and of
    /// all after it; one that is told twice is known. True when it is new.
    pub(super) async fn step(&mut self, metrics: &StepMetrics) -> Result<bool> {
        let step = metrics.step;
        if metrics.generation < self.last_generation {
            // Of ranks that were out of reach while others went on from an older state.
            return Ok(false);
        }
        if step <= self.last_step {
            if metrics.generation <= self.last_generation {
                return Ok(false);
            }
            self.cut_metrics(Step(step.0.saturating_sub(1)));
            self.stored_step = self.stored_step.min(Step(step.0.saturating_sub(1)));
        }
        self.metrics.push(&serde_json::to_string(metrics)?);
        let data = metrics.seconds * metrics.data_wait_fraction;
        self.goodput.step(metrics.seconds, data);
        self.last_step = step;
        self.last_generation = metrics.generation;
        if self.early.iter().any(|manifest| manifest.step == step) {
            self.flush().await?;
        }
        Ok(true)
    }

    /// One line for each moment: a boundary that a resumed run passes again replaces its line.
    pub(super) async fn evaluation(&mut self, evaluation: &Evaluation) -> Result<()> {
        self.evaluations.remove(|line| {
            serde_json::from_str::<Evaluation>(line).is_ok_and(|earlier| {
                earlier.step == evaluation.step && earlier.moment == evaluation.moment
            })
        });
        self.evaluations.push(&serde_json::to_string(evaluation)?);
        if self.may_write().await?
            && let Err(error) = self.evaluations.flush(&self.store).await
        {
            self.tell(&error);
        }
        Ok(())
    }

    /// Writes an entry down. Before a generation begins all that is known of earlier steps is
    /// stored: ranks that get the state then hold no records of them.
    pub(super) async fn journal(&mut self, entry: &Entry) -> Result<()> {
        if matches!(entry, Entry::Generation(_)) {
            self.insist_on_flush().await?;
        }
        self.journal.write(entry).await
    }

    async fn insist_on_flush(&mut self) -> Result<()> {
        let mut persistence = Persistence::new(self.patience);
        loop {
            let flushed = match epoch::is_newest(&self.store, self.epoch).await {
                Ok(true) => self.try_flush().await,
                Ok(false) => return Err(Fenced { ours: self.epoch }.into()),
                Err(error) => Err(error),
            };
            let Err(error) = flushed else { return Ok(()) };
            let trouble = format!("the metrics cannot be stored: {error}");
            if !persistence.goes_on(&trouble).await {
                bail!(trouble);
            }
        }
    }

    /// Publishes a checkpoint once the metrics up to its step are stored: a run that continues from
    /// it must find no gap.
    pub(super) async fn publish(&mut self, manifest: CheckpointManifest) -> Result<()> {
        let is_due = manifest.step <= self.last_step;
        self.early.push(manifest);
        if is_due {
            self.flush().await?;
        }
        Ok(())
    }

    pub(super) async fn flush_if_due(&mut self, now: Millis) -> Result<()> {
        if now.0.saturating_sub(self.flushed_at.0) >= FLUSH_INTERVAL.as_millis() as u64 {
            self.flushed_at = now;
            self.flush().await?;
            if let Err(error) = announce(&self.store, &self.address).await {
                warn!(%error, "the run's folder may not say where the coordinator is");
            }
        }
        Ok(())
    }

    /// A coordinator that was taken over writes nothing over its successor's records: that is an
    /// error. False where the store cannot say.
    async fn may_write(&self) -> Result<bool> {
        match epoch::is_newest(&self.store, self.epoch).await {
            Ok(true) => Ok(true),
            Ok(false) => Err(Fenced { ours: self.epoch }.into()),
            Err(error) => {
                self.tell(&error);
                Ok(false)
            }
        }
    }

    /// Brings the lines into the store, and then the checkpoints that waited for them. What the
    /// store does not take stays in memory for the next time.
    async fn flush(&mut self) -> Result<()> {
        if self.may_write().await?
            && let Err(error) = self.try_flush().await
        {
            self.tell(&error);
        }
        Ok(())
    }

    async fn try_flush(&mut self) -> Result<(), StoreError> {
        self.evaluations.flush(&self.store).await?;
        self.metrics.flush(&self.store).await?;
        self.recoveries.flush(&self.store).await?;
        let goodput = serde_json::to_vec(&self.goodput).expect("it is made of numbers");
        self.store.put(layout::GOODPUT_FILE, goodput).await?;
        if !epoch::is_newest(&self.store, self.epoch).await? {
            // A successor may have read the file just before: for it nothing of this is stored.
            return Ok(());
        }
        self.stored_step = self.last_step;
        let stored = self.stored_step;
        for manifest in self
            .early
            .extract_if(.., |manifest| manifest.step <= stored)
        {
            let step = manifest.step;
            if self.publish.try_send(manifest).is_err() {
                warn!(%step, "too many checkpoints wait to be published; this one is given up");
            }
        }
        Ok(())
    }

    fn tell(&self, error: &StoreError) {
        let error = format!("the metrics cannot be stored: {error}");
        // A core that is so busy hears of it the next time.
        let _ = self.core.try_send(Message::StoreFails { error });
    }

    /// Writes the last lines and waits for the last publications.
    pub(super) async fn close(mut self) -> Result<()> {
        let flushed = self.insist_on_flush().await;
        let is_fenced = |error: &anyhow::Error| error.is::<Fenced>();
        flushed.or_else(|error| {
            if is_fenced(&error) {
                Ok(())
            } else {
                Err(error)
            }
        })?;
        drop(self.publish);
        self.publisher.await.context("the publisher broke")?
    }
}

fn step_of(line: &str) -> Option<Step> {
    #[derive(serde::Deserialize)]
    struct OfStep {
        step: Step,
    }
    let line: OfStep = serde_json::from_str(line).ok()?;
    Some(line.step)
}

async fn publish_all(
    claim: Claim,
    keep: Retention,
    mut manifests: mpsc::Receiver<CheckpointManifest>,
    core: mpsc::Sender<Message>,
) -> Result<()> {
    let checkpoints = Checkpoints::new(claim.store.clone());
    'next: while let Some(mut manifest) = manifests.recv().await {
        manifest.epoch = claim.epoch;
        manifest.parent.clone_from(&claim.parent);
        let step = manifest.step;
        let mut persistence = Persistence::new(claim.patience);
        loop {
            let error = match checkpoints.publish(&manifest).await {
                // That of an earlier lead that was lost right after is whole, and of the same rows.
                Ok(_) | Err(CheckpointError::AlreadyPublished { .. }) => break,
                // The core finds out at its next write.
                Err(CheckpointError::Fenced { ours, .. }) => bail!(Fenced { ours }),
                // A lead of before was so slow that newer ones exist, and its files were removed.
                Err(error @ CheckpointError::Incomplete { .. }) => {
                    warn!(%step, %error, "a checkpoint comes too late and is given up");
                    continue 'next;
                }
                Err(error) => error,
            };
            let may_pass = matches!(error, CheckpointError::Store(_));
            let trouble = format!("checkpoint {step} cannot be published: {error}");
            // The core may have ended; the error is then this task's result, if it stays.
            if may_pass {
                let error = trouble.clone();
                let _ = core.try_send(Message::StoreFails { error });
            }
            if !may_pass || !persistence.goes_on(&trouble).await {
                let error = trouble.clone();
                let _ = core.try_send(Message::Broken { error });
                bail!(trouble);
            }
        }
        info!(%step, reason = ?manifest.reason, "checkpoint published");
        let _ = core.try_send(Message::Published { step });
        if let Err(error) = checkpoints.retain(&keep, step).await {
            warn!(%error, "old checkpoints could not be removed");
        }
    }
    Ok(())
}
