//! What happens between two steps: evaluations, checkpoints, and the command that takes effect.
//!
//! All of it follows from the step that was taken and from the directive that every rank was given
//! with the step's statistics, so all ranks do the same.

use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

use anyhow::{Result, bail};
use tracing::info;

use crate::ids::Rank;
use crate::run::command::{Command, CommandKind, CommandStage};
use crate::run::progress::StepPlan;
use crate::store::manifest::Reason;
use crate::telemetry::{Evaluation, EvaluationMoment};
use crate::train::compute::{Outbox, Trainer};
use crate::train::snapshot::Moment;

/// How often a paused lead rank tells the others that the pause lasts.
const PAUSE_PULSE: Duration = Duration::from_millis(500);

/// The step that a boundary follows.
#[derive(Clone, Copy)]
pub(super) struct Taken<'a> {
    pub(super) plan: &'a StepPlan,
    pub(super) phase_ended: bool,
}

impl Trainer {
    /// What all ranks do after a step, or (without one) before the first. True when the run stops.
    pub(super) fn boundary(
        &mut self,
        taken: Option<Taken<'_>>,
        directive: Option<Command>,
    ) -> Result<bool> {
        let phase = taken.map_or(self.position.progress.phase, |taken| taken.plan.phase);
        let command = self.admit(directive)?;
        let kind = command.map(|command| command.kind);
        let decays = matches!(kind, Some(CommandKind::Decay { .. }));
        let phase_ends = decays || taken.is_some_and(|taken| taken.phase_ended);
        if phase_ends {
            self.evaluate(EvaluationMoment::PhaseEnd, phase)?;
        } else if taken.is_some() && self.is_due(self.intervals.evaluation_steps) {
            self.evaluate(EvaluationMoment::Interval, phase)?;
        }
        if let Some(command) = command.filter(|_| !decays) {
            // Part of the state that is saved below; a decay is not, so that a run which continues
            // from that checkpoint applies it again.
            self.position.progress.last_command = command.id;
        }
        let wish = match (taken, kind) {
            _ if phase_ends => Some(Reason::PhaseEnd),
            (_, Some(CommandKind::Stop)) => Some(Reason::Stop),
            (_, Some(CommandKind::Checkpoint { by_time: true })) => Some(Reason::Time),
            (_, Some(CommandKind::Checkpoint { by_time: false })) => Some(Reason::Command),
            (Some(_), _) if self.is_due(self.intervals.checkpoint_steps) => Some(Reason::Interval),
            _ => None,
        };
        self.checkpoint(wish, phase)?;
        match command {
            Some(command) => self.apply(command, phase),
            None => Ok(false),
        }
    }

    /// A command that can be applied now; one that cannot is refused with the reason.
    fn admit(&mut self, directive: Option<Command>) -> Result<Option<Command>> {
        let Some(command) = directive else {
            return Ok(None);
        };
        if let CommandKind::Decay { tokens } = command.kind
            && let Err(refusal) = self
                .position
                .progress
                .decay_target(tokens, &self.blueprint.schedule)
        {
            self.position.progress.last_command = command.id;
            let stage = CommandStage::Refused {
                reason: refusal.to_string(),
            };
            self.report(command, stage)?;
            return Ok(None);
        }
        Ok(Some(command))
    }

    fn apply(&mut self, command: Command, phase: usize) -> Result<bool> {
        let step = self.position.progress.step;
        if let CommandKind::Decay { tokens } = command.kind {
            self.position
                .progress
                .decay(tokens, &self.blueprint.schedule)?;
            self.position.progress.last_command = command.id;
            info!(%step, "the decay begins");
        }
        self.report(command, CommandStage::Applied { step })?;
        match command.kind {
            CommandKind::Stop => Ok(true),
            CommandKind::Pause => self.pause(phase),
            CommandKind::Decay { .. } | CommandKind::Checkpoint { .. } | CommandKind::Resume => {
                Ok(false)
            }
        }
    }

    /// Waits for the command that ends the pause. True when that is a stop.
    fn pause(&mut self, phase: usize) -> Result<bool> {
        info!(step = %self.position.progress.step, "paused");
        loop {
            if self.rank == Rank(0) && self.commands.waiting.is_empty() {
                match self.commands.inbox.recv_timeout(PAUSE_PULSE) {
                    Ok(message) => self.commands.receive(&message),
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => bail!("the worker's shell has ended"),
                }
            }
            let step = self.position.progress.step;
            let sums = self.sums(step).agree(self.collective.as_ref())?;
            let Some(command) = self.admit(sums.directive)? else {
                continue;
            };
            match command.kind {
                CommandKind::Resume | CommandKind::Stop => {
                    self.position.progress.last_command = command.id;
                    if command.kind == CommandKind::Stop {
                        self.checkpoint(Some(Reason::Stop), phase)?;
                    }
                    return self.apply(command, phase);
                }
                CommandKind::Decay { .. } => {
                    self.evaluate(EvaluationMoment::PhaseEnd, phase)?;
                    self.checkpoint(Some(Reason::PhaseEnd), phase)?;
                    self.apply(command, phase)?;
                }
                CommandKind::Checkpoint { .. } => {
                    self.position.progress.last_command = command.id;
                    self.checkpoint(Some(Reason::Command), phase)?;
                    self.apply(command, phase)?;
                }
                CommandKind::Pause => {
                    let reason = "the run is paused already".to_owned();
                    self.report(command, CommandStage::Refused { reason })?;
                }
            }
        }
    }

    pub(super) fn report(&self, command: Command, stage: CommandStage) -> Result<()> {
        if self.rank == Rank(0) {
            self.tell(Outbox::Outcome { command, stage })?;
        }
        Ok(())
    }

    fn is_due(&self, every_steps: Option<u64>) -> bool {
        every_steps.is_some_and(|every| self.position.progress.step.0.is_multiple_of(every))
    }

    /// Scores the held-out documents with the weights that `phase` led to.
    pub(super) fn evaluate(&self, moment: EvaluationMoment, phase: usize) -> Result<()> {
        let scores =
            self.held_out
                .score(&self.engine.model, self.precision, self.collective.as_ref())?;
        if self.rank != Rank(0) {
            return Ok(());
        }
        let phase = &self.blueprint.schedule.phases[phase];
        self.tell(Outbox::Evaluation(Evaluation {
            step: self.position.progress.step,
            moment,
            phase: phase.name.clone(),
            phase_kind: phase.kind(),
            institutions: scores.into_iter().collect(),
        }))
    }

    /// Takes the checkpoint that is wished for, or one that is owed. One made by interval waits for
    /// an earlier upload without holding up the training.
    fn checkpoint(&mut self, wish: Option<Reason>, phase: usize) -> Result<()> {
        let Some(snapshots) = &self.snapshots else {
            return Ok(());
        };
        let step = self.position.progress.step;
        let Some(reason) = wish.or(self.owed).filter(|_| self.saved != Some(step)) else {
            return Ok(());
        };
        if reason == Reason::Interval && !snapshots.has_room() {
            self.owed = Some(reason);
            return Ok(());
        }
        self.owed = None;
        self.saved = Some(step);
        let progress = &self.position.progress;
        let plan = self.blueprint.phases[progress.phase].builder.plan.digest();
        let moment = Moment {
            reason,
            generation: self.generation,
            phase: &self.blueprint.schedule.phases[phase],
            progress,
            rows: self.position.rows,
            ledger: &self.position.ledger,
            plan,
        };
        snapshots.take(&self.engine, moment)
    }
}
