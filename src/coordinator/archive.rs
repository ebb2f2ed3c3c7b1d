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
use crate::coordinator::journal;
use crate::coordinator::message::Message;
use crate::ids::{CommandId, Epoch, Step};
use crate::run::command::{CommandKind, CommandRecord, CommandStage};
use crate::run::state::Millis;
use crate::store::checkpoint::Checkpoints;
use crate::store::error::{CheckpointError, StoreError};
use crate::store::manifest::CheckpointManifest;
use crate::store::retention::{Retention, Summary};
use crate::store::{Store, layout};
use crate::telemetry::Evaluation;

/// Checkpoints that may wait for their publication.
const PUBLISH_MAX: usize = 4;
/// How often metrics go to the store.
const FLUSH_INTERVAL: Duration = Duration::from_secs(5);

pub(super) struct Archive {
    store: Store,
    epoch: Epoch,
    metrics: Lines,
    evaluations: Lines,
    /// The newest record of every command that the run has seen, by id.
    commands: Vec<CommandRecord>,
    journal_entries: u64,
    /// The newest step whose line is in `metrics`.
    last_step: Step,
    /// Checkpoints whose step's line has not come yet.
    early: Vec<CheckpointManifest>,
    flushed_at: Millis,
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
    /// What an earlier life of the run left, without the steps that this one takes again.
    async fn open(store: &Store, key: &'static str, resume_step: Step) -> Result<Self> {
        let text = match store.get(key).await {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(StoreError::NotFound { .. }) => String::new(),
            Err(error) => return Err(error.into()),
        };
        let mut kept = String::with_capacity(text.len());
        for line in text.lines() {
            #[derive(serde::Deserialize)]
            struct OfStep {
                step: Step,
            }
            // A line torn by a crash is of a step that is taken again.
            if serde_json::from_str::<OfStep>(line).is_ok_and(|line| line.step <= resume_step) {
                kept.push_str(line);
                kept.push('\n');
            }
        }
        let dirty = kept != text;
        Ok(Self {
            key,
            text: kept,
            dirty,
        })
    }

    fn push(&mut self, json: &str) {
        self.text.push_str(json);
        self.text.push('\n');
        self.dirty = true;
    }

    fn remove(&mut self, unwanted: impl Fn(&str) -> bool) {
        let kept = self.text.lines().filter(|line| !unwanted(line));
        self.text = kept.flat_map(|line| [line, "\n"]).collect();
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
        let mut metrics = Lines::open(&store, layout::METRICS_FILE, claim.resume_step()).await?;
        let mut evaluations =
            Lines::open(&store, layout::EVALUATIONS_FILE, claim.resume_step()).await?;
        metrics.flush(&store).await?;
        evaluations.flush(&store).await?;
        let commands = journal::read(&store).await?;
        let (publish, manifests) = mpsc::channel(PUBLISH_MAX);
        let publisher = tokio::spawn(publish_all(claim.clone(), keep, manifests, core));
        Ok(Self {
            store,
            epoch: claim.epoch,
            metrics,
            evaluations,
            commands,
            journal_entries: 0,
            last_step: claim.resume_step(),
            early: Vec::new(),
            flushed_at: Millis(0),
            publish,
            publisher,
        })
    }

    /// Commands of earlier lives that the ranks may have to apply again after `resume_step`: what a
    /// checkpoint does not hold. Pauses and checkpoints die with the life that they were meant for.
    pub(super) fn replay(&self, resume_step: Step) -> Vec<CommandRecord> {
        let wanted = |record: &&CommandRecord| match (record.command.kind, &record.stage) {
            (CommandKind::Decay { .. }, CommandStage::Applied { step }) => *step >= resume_step,
            (CommandKind::Decay { .. }, CommandStage::Accepted) => true,
            _ => false,
        };
        self.commands.iter().filter(wanted).cloned().collect()
    }

    /// Above every command id that the run has seen.
    pub(super) fn next_command(&self) -> CommandId {
        CommandId(
            self.commands
                .iter()
                .map(|record| record.command.id.0)
                .max()
                .unwrap_or(0)
                + 1,
        )
    }

    pub(super) async fn step(&mut self, step: Step, json: &str) -> Result<()> {
        self.metrics.push(json);
        self.last_step = step;
        let (due, early) = self
            .early
            .drain(..)
            .partition(|manifest| manifest.step <= step);
        self.early = early;
        for manifest in due {
            self.publish(manifest).await?;
        }
        Ok(())
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

    pub(super) async fn journal(&mut self, record: &CommandRecord) -> Result<()> {
        self.journal_entries += 1;
        let key = layout::journal_entry(self.epoch, self.journal_entries);
        self.store
            .put_new(&key, serde_json::to_vec(record)?)
            .await
            .context("cannot write the run's journal")?;
        Ok(())
    }

    /// Publishes a checkpoint once the metrics up to its step are stored: a run that continues from
    /// it must find no gap.
    pub(super) async fn publish(&mut self, manifest: CheckpointManifest) -> Result<()> {
        if manifest.step > self.last_step {
            self.early.push(manifest);
            return Ok(());
        }
        self.metrics.flush(&self.store).await?;
        self.publish
            .send(manifest)
            .await
            .context("the publisher has ended")
    }

    pub(super) async fn flush_if_due(&mut self, now: Millis) -> Result<()> {
        if now.0.saturating_sub(self.flushed_at.0) >= FLUSH_INTERVAL.as_millis() as u64 {
            self.flushed_at = now;
            self.metrics.flush(&self.store).await?;
        }
        Ok(())
    }

    /// Waits for the last publications and writes the last lines.
    pub(super) async fn close(mut self) -> Result<()> {
        drop(self.publish);
        let published = self.publisher.await.context("the publisher broke")?;
        self.metrics.flush(&self.store).await?;
        published
    }
}

async fn publish_all(
    claim: Claim,
    keep: Retention,
    mut manifests: mpsc::Receiver<CheckpointManifest>,
    core: mpsc::Sender<Message>,
) -> Result<()> {
    let checkpoints = Checkpoints::new(claim.store.clone());
    while let Some(mut manifest) = manifests.recv().await {
        manifest.epoch = claim.epoch;
        manifest.parent.clone_from(&claim.parent);
        let step = manifest.step;
        if let Err(error) = checkpoints.publish(&manifest).await {
            let error = format!("checkpoint {step} cannot be published: {error}");
            // The core may have ended; the error is then this task's result.
            let _ = core.try_send(Message::Broken {
                error: error.clone(),
            });
            anyhow::bail!(error);
        }
        info!(%step, reason = ?manifest.reason, "checkpoint published");
        let _ = core.try_send(Message::Published { step });
        if let Err(error) = retain(&checkpoints, &keep, step).await {
            warn!(%error, "old checkpoints could not be removed");
        }
    }
    Ok(())
}

/// Removes what the retention rule does not keep, now that `published` was written and each of its
/// bytes digested on the way. What an earlier life left after that step is damaged, or this life
/// would have begun there; it counts for nothing and gives way when the run comes to its step.
async fn retain(checkpoints: &Checkpoints, keep: &Retention, published: Step) -> Result<()> {
    let mut summaries = Vec::new();
    for step in checkpoints.steps().await?.published {
        if step > published {
            break;
        }
        match checkpoints.manifest(step).await {
            Ok(manifest) => summaries.push(Summary::from(&manifest)),
            Err(CheckpointError::Unusable { reason, .. }) => {
                warn!(%step, %reason, "a damaged checkpoint is left alone");
            }
            Err(error) => return Err(error.into()),
        }
    }
    let parents = checkpoints.branch_parents().await?;
    for step in keep.deletions(&summaries, Some(published), &parents) {
        checkpoints.delete(step).await?;
        info!(%step, "checkpoint removed by the retention rule");
    }
    Ok(())
}
