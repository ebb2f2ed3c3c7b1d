//! The loop over steps, on the compute thread, which alone owns the rank's tensors and
//! communicator.
//!
//! Commands come in through a bounded channel, records and checkpoints go out through bounded
//! channels. What happens at a step boundary follows from the summed statistics alone, so every
//! rank does the same at the same step. A failed collective operation ends the turn and leaves the
//! replica at a revision that others can go on from.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::sync::mpsc::Sender;
use tracing::{info, warn};

use crate::collective::Collective;
use crate::data::blueprint::Blueprint;
use crate::data::held_out::HeldOutSpec;
use crate::data::prefetch::{Delivery, Patience, Prefetcher};
use crate::evaluate::HeldOut;
use crate::ids::{Generation, Rank, SourceIndex, Step};
use crate::model::encoder::Precision;
use crate::run::command::{Command, CommandRecord, CommandStage, Directive};
use crate::run::event::{Parting, Placement};
use crate::run::progress::StepPlan;
use crate::run::spike::{Detour, Spike, SpikeSettings};
use crate::run::standing::{Activity, Seat, Standing};
use crate::store::manifest::{CheckpointManifest, Reason};
use crate::telemetry::pulse::Pulse;
use crate::telemetry::{Evaluation, EvaluationMoment, StepMetrics, Stopwatch};
use crate::train::abort::Abort;
use crate::train::compute::queue::CommandQueue;
use crate::train::compute::record::Timing;
use crate::train::compute::spike::Fate;
use crate::train::replica::{Boundary, Replica, compare, enter};
use crate::train::snapshot::Snapshots;
use crate::train::state::Restored;
use crate::train::sums::Sums;

mod boundary;
pub mod queue;
mod record;
mod spike;

/// How long the loader may take for a batch, with nothing coming from the corpus's storage, before
/// the wait is a named failure.
const BATCH_TIMEOUT: Duration = Duration::from_mins(10);
/// How long a paused lead rank waits for a command before it tells the others that the pause lasts.
const PAUSE_PULSE: Duration = Duration::from_millis(500);

/// What the worker's shell tells the compute thread.
#[derive(Debug)]
pub enum Inbox {
    /// Take a seat.
    Assign(Box<Offer>),
    /// Where the lead rank's rendezvous store listens.
    Rendezvous {
        generation: Generation,
        address: String,
    },
    /// For the lead rank only.
    Command(Command),
    /// For the lead rank only: end the generation at the next boundary.
    Regroup(Generation),
    /// A checkpoint exists.
    Published(Step),
}

/// A seat in a generation, and what it takes to fill it.
#[derive(Debug)]
pub struct Offer {
    pub placement: Placement,
    /// The checkpoint that the lead rank continues from, where the state comes from the store.
    pub restored: Option<Restored>,
    /// Commands that may have to be applied again.
    pub replay: Vec<CommandRecord>,
    /// Rows that no step is to take.
    pub detours: Vec<Detour>,
    /// The step of the newest checkpoint.
    pub published: Option<Step>,
}

/// What the compute thread tells the worker's shell.
#[derive(Clone, Debug)]
pub enum Outbox {
    /// Without a generation.
    Idle {
        parting: Option<(Generation, Parting)>,
        standing: Option<Standing>,
    },
    RendezvousReady {
        generation: Generation,
        address: String,
    },
    Ready {
        seat: Seat,
        standing: Standing,
    },
    Step(Box<StepMetrics>),
    Evaluation(Evaluation),
    /// A step that was skipped, or is only told.
    Spike(Box<Spike>),
    Outcome {
        command: Command,
        stage: CommandStage,
    },
    /// The files of a checkpoint are in the store.
    Stored(Box<CheckpointManifest>),
    /// They could not be written there, for now.
    NotStored {
        step: Step,
        error: String,
    },
    /// The last step is taken, and all snapshots are stored.
    Ended {
        seat: Seat,
        standing: Standing,
        stopped: bool,
    },
}

/// How a turn in a generation ended in order.
#[derive(Clone, Debug, PartialEq)]
pub enum Turn {
    /// No step is left to take; `stopped` where a command said so.
    Ended { stopped: bool },
    /// The ranks come together anew.
    Regrouped,
    /// The run has to go on from an earlier checkpoint; the replica is of no use any more.
    WentBack(Box<Spike>),
}

/// Steps between two checkpoints, two evaluations and two comparisons of the weights.
#[derive(Clone, Copy, Debug, Default)]
pub struct Intervals {
    pub checkpoint_steps: Option<u64>,
    pub evaluation_steps: Option<u64>,
    pub comparison_steps: u64,
}

/// What a rank works with in all generations.
pub struct Tools {
    pub blueprint: Blueprint,
    pub prefetcher: Prefetcher,
    pub held_out: HeldOutSpec,
    pub precision: Precision,
    pub intervals: Intervals,
    pub spikes: SpikeSettings,
    pub inbox: Receiver<Inbox>,
    pub commands: CommandQueue,
    pub outbox: Sender<Outbox>,
    pub snapshots: Snapshots,
    pub pulse: Pulse,
    pub abort: Abort,
    /// Where the lead of the newest generation is found; it may be known before the seat is.
    pub rendezvous: Option<(Generation, String)>,
    /// The newest snapshot that was handed over. Commands at the same step change no weights, and
    /// the journal knows them: a step has one checkpoint, which may get another reason.
    pub saved: Option<(Step, Reason)>,
}

/// A rank's turn in one generation, once its group is formed and its state is that of all.
pub struct Trainer<'a> {
    pub tools: &'a mut Tools,
    pub replica: &'a mut Replica,
    pub seat: Seat,
    pub collective: Box<dyn Collective>,
    /// This rank's share of the held-out rows, read when they are first scored.
    pub held_out: Option<HeldOut>,
    /// Why a checkpoint is owed that waits for an earlier upload.
    pub owed: Option<Reason>,
}

impl Tools {
    /// Takes in what has come.
    pub fn receive(&mut self, message: Inbox) {
        match message {
            Inbox::Command(command) => self.commands.waiting.push_back(command),
            Inbox::Regroup(generation) => self.commands.regroup = Some(generation),
            Inbox::Published(step) => {
                self.commands.published = self.commands.published.max(Some(step));
            }
            Inbox::Rendezvous {
                generation,
                address,
            } => self.rendezvous = Some((generation, address)),
            Inbox::Assign(_) => warn!("a seat was given to a rank that has one"),
        }
    }

    pub fn tell(&self, message: Outbox) -> Result<()> {
        self.outbox
            .blocking_send(message)
            .context("the worker's shell has ended")
    }
}

impl Trainer<'_> {
    /// Steps until the schedule's end, a stop, or the end of the generation.
    pub fn run(mut self) -> Result<Turn> {
        let turn = self.steps()?;
        let progress = &self.replica.position.progress;
        if let Turn::Ended { .. } = turn {
            info!(step = %progress.step, finished = progress.finished, "the last step is taken");
        }
        self.collective.leave();
        Ok(turn)
    }

    fn steps(&mut self) -> Result<Turn> {
        // What an earlier generation agreed on and did not come to the end of.
        self.pass_boundary()?;
        if self.replica.position.fresh {
            let phase = self.replica.position.progress.phase;
            self.evaluate(EvaluationMoment::Start, phase)?;
            self.replica.position.fresh = false;
            self.replica.position.changed(self.seat.generation);
        }
        self.settle_old_commands()?;
        let mut is_first = true;
        loop {
            let position = &self.replica.position;
            if position.stopped {
                return Ok(Turn::Ended { stopped: true });
            }
            let turn = if let Some(phase) = position.paused {
                regrouped(self.stay_paused(phase)?)
            } else if is_first {
                is_first = false;
                let phase = position.progress.phase;
                regrouped(self.agree_between_steps(phase)?)
            } else {
                let schedule = &self.tools.blueprint.schedule;
                let Some(plan) = position.progress.next_step(schedule) else {
                    return Ok(Turn::Ended { stopped: false });
                };
                self.step(&plan)?
            };
            if let Some(turn) = turn {
                return Ok(turn);
            }
        }
    }

    /// A boundary that no step leads to. True when the generation ends there.
    fn agree_between_steps(&mut self, phase: usize) -> Result<bool> {
        let step = self.replica.position.progress.step;
        let directive = self.sums(step).agree(self.collective.as_ref())?.directive;
        if let Some(command) = command_of(directive) {
            self.begin_boundary(Boundary {
                phase,
                after_step: false,
                phase_ended: false,
                command: Some(command),
            });
            self.pass_boundary()?;
        } else {
            // One that died with an earlier lead. It changes no replica.
            self.checkpoint(phase)?;
        }
        Ok(directive == Some(Directive::Regroup))
    }

    /// Waits for what ends the pause, a moment at a time.
    fn stay_paused(&mut self, phase: usize) -> Result<bool> {
        if self.is_lead() && self.tools.commands.waiting.is_empty() {
            match self.tools.inbox.recv_timeout(PAUSE_PULSE) {
                Ok(message) => self.tools.receive(message),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => bail!("the worker's shell has ended"),
            }
        }
        self.agree_between_steps(phase)
    }

    fn begin_boundary(&mut self, boundary: Boundary) {
        self.replica.position.boundary = Some(boundary);
        self.replica.position.changed(self.seat.generation);
    }

    fn is_lead(&self) -> bool {
        self.seat.rank == Rank(0)
    }

    /// Reports what became of commands that the state holds, and of which the journal says only
    /// that they were accepted: the coordinator died in between.
    fn settle_old_commands(&self) -> Result<()> {
        for CommandRecord { command, stage } in &self.tools.commands.replay {
            if *stage == CommandStage::Accepted
                && let Some(outcome) = self.replica.position.outcome(*command)
            {
                self.report(*command, outcome)?;
            }
        }
        Ok(())
    }

    /// Empty statistics with the lead's directive for the boundary after `boundary`.
    fn sums(&mut self, boundary: Step) -> Sums {
        let sources = self.tools.blueprint.corpus.manifest().sources().count();
        let mut sums = Sums::new(sources, self.seat.world);
        while let Ok(message) = self.tools.inbox.try_recv() {
            self.tools.receive(message);
        }
        if self.is_lead() {
            let progress = &self.replica.position.progress;
            let command = self.tools.commands.next(boundary, progress);
            let regroups = self.tools.commands.regroup == Some(self.seat.generation);
            sums.directive = match command {
                Some(command) => Some(Directive::Command(command)),
                None => regroups.then_some(Directive::Regroup),
            };
        }
        sums
    }

    /// Takes one step and what belongs to the boundary after it. How the turn ended, if it did.
    fn step(&mut self, plan: &StepPlan) -> Result<Option<Turn>> {
        let watch = Stopwatch::start();
        let delivery = self.batch(plan)?;
        let mut local = self.sums(plan.step);
        let phase_key = self.phase_key(plan);
        let bad_rows = self.replica.engine.accumulate(
            &delivery.batch,
            phase_key,
            &mut local,
            &self.tools.pulse,
        )?;
        local.bad_rows[self.seat.rank.0 as usize] = bad_rows;
        let agreeing = Stopwatch::start();
        let sums = local.agree(self.collective.as_ref())?;
        let agree_seconds = agreeing.seconds();
        let fate = self.judge(plan, &sums)?;
        if let Fate::Left(spike) = &fate
            && spike.detour().is_some()
        {
            return self.go_back(spike.clone()).map(Some);
        }
        let before = self.replica.position.progress.clone();
        let phase_ended = self.enter(plan, &sums, &fate);
        self.begin_boundary(Boundary {
            phase: plan.phase,
            after_step: true,
            phase_ended,
            command: command_of(sums.directive),
        });
        let timing = Timing {
            seconds: watch.seconds(),
            data_wait_seconds: delivery.wait.as_secs_f64(),
            collective_seconds: fate.collective_seconds() + agree_seconds,
        };
        self.tools
            .pulse
            .own_time(timing.seconds - timing.collective_seconds - timing.data_wait_seconds);
        self.tell_step(&before, plan, &sums, (&fate, timing))?;
        self.pass_boundary()?;
        if plan
            .step
            .0
            .is_multiple_of(self.tools.intervals.comparison_steps)
        {
            compare(self.replica, self.collective.as_ref())?;
        }
        Ok(regrouped(sums.directive == Some(Directive::Regroup)))
    }

    /// This rank's rows of a step; those of the next are prepared.
    fn batch(&self, plan: &StepPlan) -> Result<Delivery> {
        let _during = self.tools.pulse.during(Activity::Data);
        let Seat { rank, world, .. } = self.seat;
        let expected: Vec<_> = self
            .plan_after(plan)
            .map(|next| Blueprint::share(&next, rank, world))
            .into_iter()
            .collect();
        let wanted = Blueprint::share(plan, rank, world);
        let patience = Patience {
            limit: BATCH_TIMEOUT,
            fetched_bytes: &|| self.tools.blueprint.corpus.received_bytes(),
            given_up: &|| self.tools.abort.is_over(self.seat.generation),
        };
        self.tools.prefetcher.take(&wanted, &expected, patience)
    }

    fn phase_key(&self, plan: &StepPlan) -> u32 {
        self.tools.blueprint.phases[plan.phase].builder.plan.phase()
    }

    /// The step after `plan`, were no command given.
    fn plan_after(&self, plan: &StepPlan) -> Option<StepPlan> {
        let mut progress = self.replica.position.progress.clone();
        progress.advance(
            plan,
            self.tools.blueprint.step_tokens(plan),
            &self.tools.blueprint.schedule,
        );
        self.tools.blueprint.pass_detours(&mut progress);
        progress.next_step(&self.tools.blueprint.schedule)
    }

    /// Enters a step that was taken or skipped into progress and ledger, and the rows that are
    /// passed over next. True when a phase ended.
    fn enter(&mut self, plan: &StepPlan, sums: &Sums, fate: &Fate) -> bool {
        let Tools {
            blueprint, spikes, ..
        } = &*self.tools;
        let position = &mut self.replica.position;
        let is_taken = fate.is_taken();
        let counts = (0..).map(SourceIndex).zip(sums.sources.iter().copied());
        let ledger = &mut position.ledger;
        enter(ledger, blueprint, plan.phase, (counts, is_taken));
        let (progress, schedule) = (&mut position.progress, &blueprint.schedule);
        let phase_ended = if is_taken {
            position.rows += u64::from(plan.rows);
            progress.watch.enter(sums.mean_loss(), spikes);
            progress.advance(plan, sums.tokens(), schedule)
        } else {
            progress.watch.skipped_in_row += 1;
            progress.skip(plan, sums.tokens(), schedule)
        };
        position.pass_detours(blueprint) || phase_ended
    }
}

fn regrouped(regroups: bool) -> Option<Turn> {
    regroups.then_some(Turn::Regrouped)
}

fn command_of(directive: Option<Directive>) -> Option<Command> {
    match directive {
        Some(Directive::Command(command)) => Some(command),
        Some(Directive::Regroup) | None => None,
    }
}
