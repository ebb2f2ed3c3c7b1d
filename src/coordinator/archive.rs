//! What the coordinator writes down: metrics, evaluations, the journal of commands, and checkpoints
//! that become real by their manifest.
//!
//! Publishing and retention run beside the core, one after the other; the journal is written before
//! the core goes on.

use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tracing::{info, warn};

use crate::coordinator::claim::Claim;
use crate::coordinator::journal::{Fenced, Writer};
use crate::coordinator::message::Message;
use crate::coordinator::rewind;
use crate::ids::{Epoch, Generation, Step};
use crate::run::event::Entry;
use crate::run::state::Millis;
use crate::store::checkpoint::{Checkpoints, Published};
use crate::store::error::{CheckpointError, StoreError};
use crate::store::manifest::CheckpointManifest;
use crate::store::retention::Retention;
use crate::store::{Store, epoch, layout};
use crate::telemetry::{Evaluation, StepMetrics};

/// Checkpoints that may wait for their publication.
const PUBLISH_MAX: usize = 4;
/// How often metrics go to the store.
const FLUSH_INTERVAL: Duration = Duration::from_secs(5);

pub(super) struct Archive {
    store: Store,
    epoch: Epoch,
    metrics: Lines,
    evaluations: Lines,
    journal: Writer,
    /// The newest step whose line is in `metrics`, and the generation that took it.
    last_step: Step,
    last_generation: Generation,
    /// The newest step whose line is in the store.
    stored_step: Step,
    /// Checkpoints whose step's line has not come yet.
    early: Vec<CheckpointManifest>,
    flushed_at: Millis,
    publish: mpsc::Sender<Task>,
    publisher: JoinHandle<Result<()>>,
}

/// What is done to checkpoints beside the core, one after the other.
enum Task {
    Publish(Box<CheckpointManifest>),
    /// Find the checkpoint to go back to, once all before it in the queue are published.
    GoBack {
        before: Step,
        checkpoints: u32,
    },
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

    async fn flush(&mut self, store: &Store) -> Result<()> {
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
        let last: Option<StepMetrics> = metrics
            .last()
            .and_then(|line| serde_json::from_str(line).ok());
        let (last_step, last_generation) =
            last.map_or_else(Default::default, |last| (last.step, last.generation));
        let (publish, tasks) = mpsc::channel(PUBLISH_MAX);
        let publisher = tokio::spawn(work(claim.clone(), keep, tasks, core));
        Ok(Self {
            journal: Writer::new(store.clone(), claim.epoch),
            store,
            epoch: claim.epoch,
            metrics,
            evaluations,
            last_step,
            last_generation,
            stored_step: last_step,
            early: Vec::new(),
            flushed_at: Millis(0),
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
        self.metrics.cut(step);
        self.evaluations.cut(step);
        self.last_step = self.last_step.min(step);
        self.early.clear();
        self.evaluations.flush(&self.store).await?;
        self.flush().await
    }

    /// Enters a step. One that a later generation took again replaces what was known of it and of
    /// all after it; one that is told twice is known. True when it is new.
    pub(super) async fn step(&mut self, metrics: &StepMetrics) -> Result<bool> {
        let step = metrics.step;
        if step <= self.last_step {
            if metrics.generation <= self.last_generation {
                return Ok(false);
            }
            self.metrics.cut(Step(step.0.saturating_sub(1)));
            self.stored_step = self.stored_step.min(Step(step.0.saturating_sub(1)));
        }
        self.metrics.push(&serde_json::to_string(metrics)?);
        self.last_step = step;
        self.last_generation = metrics.generation;
        let (due, early) = self
            .early
            .drain(..)
            .partition(|manifest| manifest.step <= step);
        self.early = early;
        for manifest in due {
            self.publish(manifest).await?;
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
        self.evaluations.flush(&self.store).await
    }

    pub(super) async fn journal(&mut self, entry: &Entry) -> Result<()> {
        self.journal.write(entry).await
    }

    /// Publishes a checkpoint once the metrics up to its step are stored: a run that continues from
    /// it must find no gap.
    pub(super) async fn publish(&mut self, manifest: CheckpointManifest) -> Result<()> {
        if manifest.step > self.last_step {
            self.early.push(manifest);
            return Ok(());
        }
        self.flush().await?;
        self.publish
            .send(Task::Publish(Box::new(manifest)))
            .await
            .ok()
            .context("the publisher has ended")
    }

    /// Looks for the checkpoint to go back to; the answer comes as [`Message::WentBack`].
    pub(super) async fn go_back(&self, before: Step, checkpoints: u32) -> Result<()> {
        let task = Task::GoBack {
            before,
            checkpoints,
        };
        let sent = self.publish.send(task).await;
        sent.ok().context("the publisher has ended")
    }

    pub(super) async fn flush_if_due(&mut self, now: Millis) -> Result<()> {
        if now.0.saturating_sub(self.flushed_at.0) >= FLUSH_INTERVAL.as_millis() as u64 {
            self.flushed_at = now;
            self.expect_newest().await?;
            self.flush().await?;
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<()> {
        self.metrics.flush(&self.store).await?;
        self.stored_step = self.last_step;
        Ok(())
    }

    /// A coordinator that was taken over writes nothing over its successor's records.
    async fn expect_newest(&self) -> Result<()> {
        if epoch::is_newest(&self.store, self.epoch).await? {
            return Ok(());
        }
        Err(Fenced { ours: self.epoch }.into())
    }

    /// Waits for the last publications and writes the last lines.
    pub(super) async fn close(mut self) -> Result<()> {
        drop(self.publish);
        let published = self.publisher.await.context("the publisher broke")?;
        if epoch::is_newest(&self.store, self.epoch).await? {
            self.metrics.flush(&self.store).await?;
        }
        published
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

async fn work(
    claim: Claim,
    keep: Retention,
    mut tasks: mpsc::Receiver<Task>,
    core: mpsc::Sender<Message>,
) -> Result<()> {
    while let Some(task) = tasks.recv().await {
        match task {
            Task::Publish(manifest) => publish(&claim, &keep, *manifest, &core).await?,
            Task::GoBack {
                before,
                checkpoints,
            } => {
                let message = match rewind::find(&claim, before, checkpoints).await {
                    Ok(resume) => Message::WentBack(resume),
                    Err(error) => Message::Broken {
                        error: crate::diagnosis::describe(&error),
                    },
                };
                // The core may have ended.
                let _ = core.send(message).await;
            }
        }
    }
    Ok(())
}

async fn publish(
    claim: &Claim,
    keep: &Retention,
    mut manifest: CheckpointManifest,
    core: &mpsc::Sender<Message>,
) -> Result<()> {
    let checkpoints = Checkpoints::new(claim.store.clone());
    manifest.epoch = claim.epoch;
    manifest.parent.clone_from(&claim.parent);
    let step = manifest.step;
    let published = match checkpoints.publish(&manifest).await {
        // By an earlier lead that was lost right after: it is whole, and of the same rows.
        Err(CheckpointError::AlreadyPublished { .. }) => Ok(Published::Already),
        published => published,
    };
    if let Err(error) = published {
        let error = format!("checkpoint {step} cannot be published: {error}");
        // The core may have ended; the error is then this task's result.
        let _ = core.try_send(Message::Broken {
            error: error.clone(),
        });
        anyhow::bail!(error);
    }
    info!(%step, reason = ?manifest.reason, "checkpoint published");
    let _ = core.try_send(Message::Published { step });
    if let Err(error) = checkpoints.retain(keep, step).await {
        warn!(%error, "old checkpoints could not be removed");
    }
    Ok(())
}
