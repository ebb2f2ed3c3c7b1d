//! What happens between two steps: evaluations, checkpoints, and the command that takes effect.
//!
//! All of it follows from the boundary that all ranks agreed on, so all do the same. A boundary is
//! part of the state until it is passed: where a collective operation fails in it, the next
//! generation passes it again from its beginning.

use anyhow::Result;
use tracing::info;

use crate::evaluate::HeldOut;
use crate::run::command::{Command, CommandKind, CommandStage};
use crate::run::standing::{Activity, Seat};
use crate::store::manifest::Reason;
use crate::telemetry::{Evaluation, EvaluationMoment};
use crate::train::compute::{Outbox, Trainer};
use crate::train::replica::{Boundary, Due};
use crate::train::snapshot::Moment;

impl Trainer<'_> {
    /// What all ranks do at the boundary that they stand at, if they do.
    pub(super) fn pass_boundary(&mut self) -> Result<()> {
        let Some(boundary) = self.replica.position.boundary else {
            return Ok(());
        };
        let Boundary {
            phase, after_step, ..
        } = boundary;
        let command = self.admit(boundary.command)?;
        let kind = command.map(|command| command.kind);
        let decays = matches!(kind, Some(CommandKind::Decay { .. }));
        let phase_ends = decays || boundary.phase_ended;
        let intervals = self.tools.intervals;
        if phase_ends {
            self.evaluate(EvaluationMoment::PhaseEnd, phase)?;
        } else if after_step && self.is_due(intervals.evaluation_steps) {
            self.evaluate(EvaluationMoment::Interval, phase)?;
        }
        if let Some(command) = command.filter(|_| !decays) {
            // Part of the state that is saved below; a decay is not, so that a run which continues
            // from that checkpoint applies it again.
            let progress = &mut self.replica.position.progress;
            let step = progress.step;
            progress.settle(command, CommandStage::Applied { step });
        }
        let wish = match kind {
            _ if phase_ends => Some(Reason::PhaseEnd),
            Some(CommandKind::Stop) => Some(Reason::Stop),
            Some(CommandKind::Checkpoint { by_time: true }) => Some(Reason::Time),
            Some(CommandKind::Checkpoint { by_time: false }) => Some(Reason::Command),
            _ if after_step && self.is_due(intervals.checkpoint_steps) => Some(Reason::Interval),
            _ => None,
        };
        if let Some(reason) = wish {
            let step = self.replica.position.progress.step;
            self.replica.position.due = Some(Due {
                step,
                reason,
                phase,
            });
        }
        self.checkpoint(phase)?;
        if let Some(command) = command {
            self.apply(command, phase)?;
        }
        self.replica.position.boundary = None;
        self.replica.position.changed(self.seat.generation);
        Ok(())
    }

    /// A command that can be applied now; one that cannot is refused with the reason.
    fn admit(&mut self, command: Option<Command>) -> Result<Option<Command>> {
        let Some(command) = command else {
            return Ok(None);
        };
        let schedule = &self.tools.blueprint.schedule;
        let refusal = self.replica.position.refusal(command.kind, schedule);
        let Some(reason) = refusal else {
            return Ok(Some(command));
        };
        let stage = CommandStage::Refused { reason };
        let progress = &mut self.replica.position.progress;
        progress.settle(command, stage.clone());
        self.report(command, stage)?;
        Ok(None)
    }

    fn apply(&mut self, command: Command, phase: usize) -> Result<()> {
        let step = self.replica.position.progress.step;
        let schedule = &self.tools.blueprint.schedule;
        self.replica.position.apply(command, phase, schedule)?;
        match command.kind {
            CommandKind::Decay { .. } => {
                self.replica.position.pass_detours(&self.tools.blueprint);
                info!(%step, "the decay begins");
            }
            CommandKind::Pause => info!(%step, "paused"),
            _ => {}
        }
        self.report(command, CommandStage::Applied { step })
    }

    pub(super) fn report(&self, command: Command, stage: CommandStage) -> Result<()> {
        self.tools.tell(Outbox::Outcome { command, stage })
    }

    fn is_due(&self, every_steps: Option<u64>) -> bool {
        every_steps.is_some_and(|every| self.replica.position.progress.step.0.is_multiple_of(every))
    }

    /// Scores the held-out documents with the weights that `phase` led to.
    pub(super) fn evaluate(&mut self, moment: EvaluationMoment, phase: usize) -> Result<()> {
        let Seat { rank, world, .. } = self.seat;
        let held_out = if let Some(held_out) = self.held_out.take() {
            held_out
        } else {
            let _during = self.tools.pulse.during(Activity::Loading);
            HeldOut::read(&self.tools.blueprint.corpus, self.tools.held_out, |row| {
                row.row.0 % u64::from(world) == u64::from(rank.0)
            })?
        };
        let scores = held_out.score(
            &self.replica.engine.model,
            self.tools.precision,
            self.collective.as_ref(),
            &self.tools.pulse,
        );
        self.held_out = Some(held_out);
        let phase = &self.tools.blueprint.schedule.phases[phase];
        self.tools.tell(Outbox::Evaluation(Evaluation {
            step: self.replica.position.progress.step,
            moment,
            phase: phase.name.clone(),
            phase_kind: phase.kind(),
            institutions: scores?.into_iter().collect(),
        }))
    }

    /// Takes the checkpoint that is due, or one that is owed; the lead rank does. A regular one
    /// waits for an earlier upload without holding up the training, and one that could not be
    /// stored is taken anew. None is taken where the generation ends while it waits; the next one
    /// takes it.
    pub(super) fn checkpoint(&mut self, phase: usize) -> Result<()> {
        if !self.is_lead() {
            return Ok(());
        }
        let position = &self.replica.position;
        let step = position.progress.step;
        if let Some((lost, reason)) = self.tools.snapshots.take_lost() {
            self.owed = self.owed.max(Some(reason));
            self.tools.saved.take_if(|(saved, _)| *saved == lost);
        }
        let (reason, phase) = match (position.due, self.owed) {
            (Some(due), _) if due.step == step => (due.reason, due.phase),
            (_, Some(reason)) => (reason, phase),
            _ => return Ok(()),
        };
        let saved = self.tools.saved.filter(|(saved, _)| *saved == step);
        let exists = saved.is_some() || self.tools.commands.published == Some(step);
        if exists && (reason.is_regular() || saved.is_some_and(|(_, saved)| saved >= reason)) {
            self.owed = None;
            return Ok(());
        }
        if !exists && reason.is_regular() && !self.tools.snapshots.none_waits() {
            self.owed = self.owed.max(Some(reason));
            return Ok(());
        }
        let moment = self.moment(reason, phase);
        let snapshot = if exists {
            self.tools.snapshots.another_reason(moment)
        } else {
            self.tools.snapshots.copy(&self.replica.engine, moment)?
        };
        let _during = self.tools.pulse.during(Activity::Store);
        let given_up = || self.tools.abort.is_over(self.seat.generation);
        if self.tools.snapshots.hand_over(snapshot, given_up)? {
            self.owed = None;
            self.tools.saved = Some((step, reason));
        }
        Ok(())
    }

    /// What a checkpoint of now says beside its tensors.
    fn moment(&self, reason: Reason, phase: usize) -> Moment<'_> {
        let position = &self.replica.position;
        let blueprint = &self.tools.blueprint;
        Moment {
            reason,
            generation: self.seat.generation,
            phase: &blueprint.schedule.phases[phase],
            progress: &position.progress,
            rows: position.rows,
            ledger: &position.ledger,
            plan: blueprint.phases[position.progress.phase]
                .builder
                .plan
                .digest(),
        }
    }
}
