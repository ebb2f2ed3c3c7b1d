//! What the coordinator writes down: metrics, evaluations, recoveries, where time went, the journal
//! (before the core goes on), and checkpoints whose metrics are stored (through the publisher).

use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::coordinator::claim::{Address, Claim, announce};
use crate::coordinator::journal::{Fenced, Writer};
use crate::coordinator::lines::Lines;
use crate::coordinator::message::Message;
use crate::coordinator::publisher::{self, Task};
use crate::ids::{Epoch, Generation, Step};
use crate::run::event::Entry;
use crate::run::goodput::{Account, Goodput, Occupation, Recovery};
use crate::run::spike::Spike;
use crate::run::state::{Lineage, Millis};
use crate::store::error::StoreError;
use crate::store::manifest::CheckpointManifest;
use crate::store::persistence::Persistence;
use crate::store::retention::Retention;
use crate::store::{Store, epoch, layout};
use crate::telemetry::{Evaluation, StepMetrics};

/// Checkpoints that may wait for their publication.
const PUBLISH_MAX: usize = 64;
const PUBLISHER_ENDED: &str = "the task that publishes checkpoints has ended";
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
    publish: mpsc::Sender<Task>,
    publisher: JoinHandle<Result<()>>,
    /// Ends searches that nobody waits for any more.
    closing: CancellationToken,
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
        let (publish, tasks) = mpsc::channel(PUBLISH_MAX);
        let closing = CancellationToken::new();
        let work = publisher::work(claim.clone(), keep, tasks, core.clone(), closing.clone());
        let publisher = tokio::spawn(work);
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
            closing,
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
        // Also where nothing can be written now: ranks keep what is taken again.
        self.stored_step = self.stored_step.min(step);
        self.early.clear();
        self.flush().await
    }

    fn cut_metrics(&mut self, step: Step) {
        for line in self.metrics.after(step) {
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
        self.flush().await
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
        while let Some(error) = self.try_flush().await? {
            let trouble = format!("the metrics cannot be stored: {error}");
            if !persistence.goes_on(&trouble).await {
                bail!(trouble);
            }
        }
        Ok(())
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

    /// Looks for the newest checkpoint; the answer comes as [`Message::Restorable`].
    pub(super) async fn find_resume(
        &mut self,
        spikes: Vec<Spike>,
        lineage: Option<Lineage>,
    ) -> Result<()> {
        self.search(Task::FindResume { spikes, lineage }).await
    }

    /// Looks for the checkpoint to go back to; the answer comes as [`Message::WentBack`].
    pub(super) async fn go_back(&mut self, before: Step, checkpoints: u32) -> Result<()> {
        let task = Task::GoBack {
            before,
            checkpoints,
        };
        self.search(task).await
    }

    /// Behind all checkpoints that are known: one that waited for its metrics would be overtaken.
    async fn search(&mut self, task: Task) -> Result<()> {
        self.insist_on_flush().await?;
        let sent = self.publish.send(task).await;
        sent.ok().context(PUBLISHER_ENDED)
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

    /// Brings the lines into the store, and then the checkpoints that waited for them. What the
    /// store does not take stays in memory for the next time.
    ///
    /// # Errors
    /// [`Fenced`]: a coordinator that was taken over writes nothing over its successor's records.
    async fn flush(&mut self) -> Result<()> {
        if let Some(error) = self.try_flush().await? {
            let error = format!("the metrics cannot be stored: {error}");
            // A core that is so busy hears of it the next time.
            let _ = self.core.try_send(Message::StoreFails { error });
        }
        Ok(())
    }

    /// The same, and what the store fails at.
    async fn try_flush(&mut self) -> Result<Option<StoreError>> {
        match epoch::is_newest(&self.store, self.epoch).await {
            Ok(true) => match self.write_lines().await {
                Ok(true) => self.stored().map(|()| None),
                // It is found out at the next write.
                Ok(false) => Ok(None),
                Err(error) => Ok(Some(error)),
            },
            Ok(false) => Err(Fenced { ours: self.epoch }.into()),
            Err(error) => Ok(Some(error)),
        }
    }

    async fn write_lines(&mut self) -> Result<bool, StoreError> {
        self.evaluations.flush(&self.store).await?;
        self.metrics.flush(&self.store).await?;
        self.recoveries.flush(&self.store).await?;
        let goodput = serde_json::to_vec(&self.goodput).expect("it is made of numbers");
        self.store.put(layout::GOODPUT_FILE, goodput).await?;
        // A successor may have read the files just before: for it nothing of this is stored.
        epoch::is_newest(&self.store, self.epoch).await
    }

    /// Has the checkpoints published whose metrics are stored.
    fn stored(&mut self) -> Result<()> {
        self.stored_step = self.last_step;
        let stored = self.stored_step;
        for manifest in self
            .early
            .extract_if(.., |manifest| manifest.step <= stored)
        {
            let step = manifest.step;
            let task = Task::Publish(Box::new(manifest));
            match self.publish.try_send(task) {
                Ok(()) => {}
                Err(TrySendError::Full(_)) => {
                    warn!(%step, "too many checkpoints wait to be published; this one is given up");
                }
                Err(TrySendError::Closed(_)) => bail!(PUBLISHER_ENDED),
            }
        }
        Ok(())
    }

    /// Writes the last lines and waits for the last publications.
    pub(super) async fn close(mut self) -> Result<()> {
        match self.insist_on_flush().await {
            // The successor has them, and writes its own.
            Err(error) if error.is::<Fenced>() => {}
            flushed => flushed?,
        }
        drop(self.publish);
        self.closing.cancel();
        self.publisher.await.context("the publisher broke")?
    }
}
