//! The loop over steps, on the compute thread, which alone owns the rank's tensors and
//! communicator.
//!
//! Commands come in through a bounded channel, records and checkpoints go out through bounded
//! channels. What happens at a step boundary follows from the summed statistics alone, so every
//! rank does the same at the same step.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::sync::mpsc::Sender;
use tracing::{info, warn};

use crate::collective::Collective;
use crate::data::blueprint::Blueprint;
use crate::data::prefetch::{Patience, Prefetcher};
use crate::evaluate::HeldOut;
use crate::ids::{CommandId, Generation, Rank, Step};
use crate::model::encoder::Precision;
use crate::run::command::{Command, CommandRecord, CommandStage};
use crate::run::ledger::{Consumed, Ledger};
use crate::run::progress::{Progress, StepPlan};
use crate::store::manifest::Reason;
use crate::telemetry::{Evaluation, EvaluationMoment, StepMetrics, Stopwatch};
use crate::train::compute::boundary::Taken;
use crate::train::snapshot::Snapshots;
use crate::train::step::{Engine, Update};
use crate::train::sums::Sums;

mod boundary;

/// How long the loader may take for a batch, with nothing coming from the corpus's storage, before
/// the wait is a named failure.
const BATCH_TIMEOUT: Duration = Duration::from_mins(10);

/// What the worker's shell tells the compute thread.
#[derive(Clone, Debug)]
pub enum Inbox {
    /// Where the lead rank's rendezvous store listens.
    Rendezvous(String),
    /// For the lead rank only.
    Command(Command),
}

/// What the compute thread tells the worker's shell.
#[derive(Clone, Debug)]
pub enum Outbox {
    RendezvousReady {
        address: String,
    },
    Ready,
    Step(Box<StepMetrics>),
    Evaluation(Evaluation),
    Outcome {
        command: Command,
        stage: CommandStage,
    },
}

/// How the loop ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// On command, with steps left to take.
    pub stopped: bool,
}

/// Steps between two checkpoints and two evaluations.
#[derive(Clone, Copy, Debug, Default)]
pub struct Intervals {
    pub checkpoint_steps: Option<u64>,
    pub evaluation_steps: Option<u64>,
}

/// The part of the training state that is not in the engine.
#[derive(Clone, Debug)]
pub struct Position {
    pub progress: Progress,
    pub ledger: Ledger,
    /// Rows that the weights have seen, over all phases.
    pub rows: u64,
    /// Whether this life of the run begins with weights that no step of this run has touched.
    pub fresh: bool,
}

/// Commands as they reach a rank.
pub struct CommandQueue {
    pub inbox: Receiver<Inbox>,
    /// Commands of earlier lives of the run that may have to be applied again.
    pub replay: Vec<CommandRecord>,
    pub waiting: VecDeque<Command>,
}

/// One rank, once its group is formed and its state is in place.
pub struct Trainer {
    pub rank: Rank,
    pub generation: Generation,
    pub blueprint: Blueprint,
    pub prefetcher: Prefetcher,
    pub held_out: HeldOut,
    pub precision: Precision,
    pub intervals: Intervals,
    pub engine: Engine,
    pub collective: Box<dyn Collective>,
    pub position: Position,
    pub commands: CommandQueue,
    pub outbox: Sender<Outbox>,
    /// The lead rank's.
    pub snapshots: Option<Snapshots>,
    /// A checkpoint that waits for an earlier upload.
    pub owed: Option<Reason>,
    /// The step of the newest checkpoint. Commands at the same step change no weights, and the
    /// journal knows them: a step has one checkpoint.
    pub saved: Option<Step>,
}

impl CommandQueue {
    fn receive(&mut self, message: &Inbox) {
        match message {
            Inbox::Command(command) => self.waiting.push_back(*command),
            Inbox::Rendezvous(_) => warn!("a rendezvous came after the group was formed"),
        }
    }

    /// The command for the boundary after `boundary`: first what an earlier life applied there.
    fn next(&mut self, boundary: Step, last_applied: CommandId) -> Option<Command> {
        while let Ok(message) = self.inbox.try_recv() {
            self.receive(&message);
        }
        self.replay
            .retain(|record| record.command.id > last_applied);
        let due = self.replay.iter().position(|record| match record.stage {
            CommandStage::Applied { step } => step <= boundary,
            CommandStage::Accepted | CommandStage::Refused { .. } => true,
        });
        due.map(|due| self.replay.remove(due).command)
            .or_else(|| self.waiting.pop_front())
    }
}

impl Trainer {
    /// Steps until the schedule's end, or until a stop.
    pub fn run(mut self) -> Result<Ended> {
        if self.position.fresh {
            self.evaluate(EvaluationMoment::Start, self.position.progress.phase)?;
        }
        self.settle_old_commands()?;
        let opening = self
            .sums(self.position.progress.step)
            .agree(self.collective.as_ref())?;
        let mut stop = self.boundary(None, opening.directive)?;
        while !stop {
            let Some(plan) = self.position.progress.next_step(&self.blueprint.schedule) else {
                break;
            };
            stop = self.step(&plan)?;
        }
        let progress = &self.position.progress;
        info!(step = %progress.step, finished = progress.finished, "the last step is taken");
        let ended = Ended {
            stopped: !progress.finished,
        };
        self.collective.leave();
        Ok(ended)
    }

    /// Reports the decays that the checkpoint holds but whose effect the journal missed: the
    /// coordinator died in between.
    fn settle_old_commands(&self) -> Result<()> {
        let progress = &self.position.progress;
        let step = progress.phase_start;
        for CommandRecord { command, stage } in &self.commands.replay {
            if *stage == CommandStage::Accepted && command.id <= progress.last_command {
                self.report(*command, CommandStage::Applied { step })?;
            }
        }
        Ok(())
    }

    fn tell(&self, message: Outbox) -> Result<()> {
        self.outbox
            .blocking_send(message)
            .context("the worker's shell has ended")
    }

    /// Empty statistics with the lead's command for the boundary after `boundary`.
    fn sums(&mut self, boundary: Step) -> Sums {
        let sources = self.blueprint.corpus.manifest().sources().count();
        let mut sums = Sums::new(sources, self.collective.world());
        if self.rank == Rank(0) {
            sums.directive = self
                .commands
                .next(boundary, self.position.progress.last_command);
        }
        sums
    }

    /// Takes one step and what belongs to the boundary after it. True when the run stops there.
    fn step(&mut self, plan: &StepPlan) -> Result<bool> {
        let watch = Stopwatch::start();
        let world = self.collective.world();
        let expected: Vec<_> = self
            .plan_after(plan)
            .map(|next| Blueprint::share(&next, self.rank, world))
            .into_iter()
            .collect();
        let wanted = Blueprint::share(plan, self.rank, world);
        let patience = Patience {
            limit: BATCH_TIMEOUT,
            fetched_bytes: &|| self.blueprint.corpus.received_bytes(),
        };
        let delivery = self.prefetcher.take(&wanted, &expected, patience)?;
        let mut local = self.sums(plan.step);
        let bad_rows = self
            .engine
            .accumulate(&delivery.batch, self.phase_key(plan), &mut local)?;
        local.bad_rows[self.rank.0 as usize] = bad_rows;
        let agreeing = Stopwatch::start();
        let sums = local.agree(self.collective.as_ref())?;
        let agree_seconds = agreeing.seconds();
        self.refuse_non_finite_loss(plan, &sums)?;
        let update = self
            .engine
            .update(self.collective.as_ref(), sums.masked, plan.learning_rate)
            .with_context(|| self.describe(plan, Blueprint::rows(plan)))?;
        let before = self.position.progress.clone();
        let phase_ended = self.enter(plan, &sums);
        if self.rank == Rank(0) {
            let timing = Timing {
                seconds: watch.seconds(),
                data_wait_seconds: delivery.wait.as_secs_f64(),
                collective_seconds: update.collective_seconds + agree_seconds,
            };
            let metrics = self.metrics(&before, plan, &sums, StepCost { update, timing });
            self.tell(Outbox::Step(Box::new(metrics)))?;
        }
        self.boundary(Some(Taken { plan, phase_ended }), sums.directive)
    }

    fn phase_key(&self, plan: &StepPlan) -> u32 {
        self.blueprint.phases[plan.phase].builder.plan.phase()
    }

    /// The step after `plan`, were no command given.
    fn plan_after(&self, plan: &StepPlan) -> Option<StepPlan> {
        let mut progress = self.position.progress.clone();
        progress.advance(
            plan,
            self.blueprint.step_tokens(plan),
            &self.blueprint.schedule,
        );
        progress.next_step(&self.blueprint.schedule)
    }

    /// Enters a step that was taken into progress and ledger. True when it ended its phase.
    fn enter(&mut self, plan: &StepPlan, sums: &Sums) -> bool {
        let phase = &self.blueprint.schedule.phases[plan.phase].name;
        for (index, institution, source) in self.blueprint.corpus.manifest().sources() {
            let counts = sums.sources[index.0 as usize];
            let consumed = Consumed {
                tokens: counts.tokens,
                chunks: counts.chunks,
                documents: counts.documents,
            };
            let name = institution.name_of(source);
            self.position.ledger.add(phase, &name, consumed);
        }
        self.position.rows += u64::from(plan.rows);
        self.position
            .progress
            .advance(plan, sums.tokens(), &self.blueprint.schedule)
    }

    fn refuse_non_finite_loss(&self, plan: &StepPlan, sums: &Sums) -> Result<()> {
        let world = u64::from(self.collective.world());
        let Some((first, count)) = sums.bad_rows.iter().flatten().next() else {
            return Ok(());
        };
        // A rank's rows lie `world` apart.
        let rows = first.0..first.0 + (count - 1) * world + 1;
        bail!(
            "the loss is not finite: {}\n  \
             hint: look at the batch with `cohort inspect`; lower the \
             learning rate, or continue from an earlier checkpoint",
            self.describe(plan, rows)
        )
    }

    /// A step and some of its rows in words, for errors.
    fn describe(&self, plan: &StepPlan, rows: Range<u64>) -> String {
        let phase = &self.blueprint.schedule.phases[plan.phase].name;
        let sources = self
            .blueprint
            .sources_of(plan.phase, rows.clone())
            .join(", ");
        format!(
            "step {}, rows {} to {} of phase \"{phase}\", sources {sources}",
            plan.step,
            rows.start,
            rows.end - 1
        )
    }

    /// The step's line of `metrics.jsonl`; `before` is the progress that it started from.
    fn metrics(
        &self,
        before: &Progress,
        plan: &StepPlan,
        sums: &Sums,
        StepCost { update, timing }: StepCost,
    ) -> StepMetrics {
        let schedule = &self.blueprint.schedule;
        let progress = &self.position.progress;
        let phase = &schedule.phases[plan.phase];
        let next = &schedule.phases[progress.phase];
        let masked = sums.masked.max(1) as f64;
        let sources: BTreeMap<String, u64> = self
            .blueprint
            .corpus
            .manifest()
            .sources()
            .map(|(index, institution, source)| {
                let name = institution.name_of(source);
                (name, sums.sources[index.0 as usize].tokens)
            })
            .filter(|(_, tokens)| *tokens > 0)
            .collect();
        StepMetrics {
            step: plan.step,
            phase: phase.name.clone(),
            phase_kind: phase.kind(),
            loss: sums.loss / masked,
            accuracy: sums.correct as f64 / masked,
            learning_rate: plan.learning_rate,
            mask_rate: plan.mask_rate,
            first_row: plan.first_row.0,
            rows: plan.rows,
            masked_tokens: sums.masked,
            step_tokens: sums.tokens(),
            tokens: progress.tokens,
            phase_tokens: before.phase_tokens + sums.tokens(),
            phase_length_tokens: before.phase_length_tokens,
            next_phase: next.name.clone(),
            next_phase_kind: next.kind(),
            remaining_tokens: progress.remaining_tokens(schedule),
            grad_norm: update.gradient_norm,
            sources,
            ranks: self.collective.world(),
            generation: self.generation,
            seconds: timing.seconds,
            tokens_per_second: sums.tokens() as f64 / timing.seconds,
            data_wait_fraction: timing.data_wait_seconds / timing.seconds,
            collective_fraction: timing.collective_seconds / timing.seconds,
        }
    }
}

/// What the update did and took.
#[derive(Clone, Copy)]
struct StepCost {
    update: Update,
    timing: Timing,
}

/// Where a step's time went.
#[derive(Clone, Copy)]
struct Timing {
    seconds: f64,
    data_wait_seconds: f64,
    collective_seconds: f64,
}
