//! Where a run stands between two steps, and how a step moves it. Pure: every rank holds an equal
//! copy and moves it the same way, because all act on the same directive at the same step.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::corpus::mixture::repeats::EpochLimit;
use crate::ids::{CommandId, RowIndex, Step};
use crate::run::command::{Command, CommandKind, CommandRecord, CommandStage};
use crate::run::schedule::{PhaseKind, Schedule};
use crate::run::spike::{Detour, LossWatch};

/// So many commands at most are known as accepted alone when a coordinator dies: of each kind one.
const SETTLED_MAX: usize = 8;

/// The part of the training state that is not a tensor; `state.json` carries it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Steps taken.
    pub step: Step,
    /// Tokens of all steps taken, padding not counted; of steps that were skipped none.
    pub tokens: u64,
    /// The current phase, counted from 0 in the run's YAML.
    pub phase: usize,
    /// The step after which the current phase began.
    pub phase_start: Step,
    /// The schedule's clock: tokens of all rows of the phase before the next one, whether the
    /// weights have seen them or not. So a phase ends at the row where it would have ended.
    pub phase_tokens: u64,
    pub phase_length_tokens: u64,
    /// Whether an operator gave that length, instead of the run's YAML.
    pub phase_length_by_command: bool,
    /// The next row of the current phase's plan.
    pub next_row: RowIndex,
    /// The newest operator's command that has taken effect; older ones are never applied again.
    pub last_command: CommandId,
    /// What became of the newest of them: whoever had to tell of it may have died.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub settled: Vec<CommandRecord>,
    pub finished: bool,
    /// Rows that no step takes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub detours: Vec<Detour>,
    #[serde(default)]
    pub watch: LossWatch,
}

/// What the next step is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepPlan {
    pub step: Step,
    pub phase: usize,
    pub first_row: RowIndex,
    pub rows: u32,
    pub learning_rate: f64,
    pub mask_rate: f64,
}

/// Why a decay on command cannot be done now.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum DecayRefusal {
    #[error("the run is already in its decay phase \"{0}\"")]
    AlreadyDecaying(String),
    #[error("the run's YAML has no decay phase after \"{0}\"")]
    NoDecayPhase(String),
    #[error("the run has finished")]
    Finished,
    #[error(
        "source `{}` would be read {:.2} times in phase \"{phase}\", more often than `max_epochs` \
         allows, {}; {} tokens are the most that it allows",
        limit.source, limit.epochs_over(*tokens), limit.cap, limit.tokens_max
    )]
    TooManyEpochs {
        phase: String,
        tokens: u64,
        limit: EpochLimit,
    },
}

/// Where a decay on command would lead from a phase, with the length that the command gives.
pub fn decay_from(
    phase: usize,
    length_tokens: Option<u64>,
    schedule: &Schedule,
) -> Result<usize, DecayRefusal> {
    let current = &schedule.phases[phase];
    if current.kind() == PhaseKind::Decay {
        return Err(DecayRefusal::AlreadyDecaying(current.name.clone()));
    }
    let target = schedule
        .next_decay(phase)
        .ok_or_else(|| DecayRefusal::NoDecayPhase(current.name.clone()))?;
    match (length_tokens, &schedule.limits[target]) {
        (Some(tokens), Some(limit)) if tokens > limit.tokens_max => {
            Err(DecayRefusal::TooManyEpochs {
                phase: schedule.phases[target].name.clone(),
                tokens,
                limit: limit.clone(),
            })
        }
        _ => Ok(target),
    }
}

impl Progress {
    /// The state before the first step of a schedule.
    pub fn new(schedule: &Schedule) -> Self {
        Self {
            phase_length_tokens: schedule.lengths_tokens[0],
            ..Self::default()
        }
    }

    /// What the next step does, or nothing when the run has finished.
    pub fn next_step(&self, schedule: &Schedule) -> Option<StepPlan> {
        if self.finished {
            return None;
        }
        let phase = &schedule.phases[self.phase];
        Some(StepPlan {
            step: Step(self.step.0 + 1),
            phase: self.phase,
            first_row: self.next_row,
            rows: phase.rows_at(self.phase_tokens, schedule.rows),
            learning_rate: phase.learning_rate_at(self.phase_tokens, self.phase_length_tokens),
            mask_rate: phase.mask_rate,
        })
    }

    /// Enters a step that was taken. True when it ended its phase: the phase is then the next one,
    /// or the run has finished.
    pub fn advance(&mut self, taken: &StepPlan, tokens: u64, schedule: &Schedule) -> bool {
        let ended = self.skip(taken, tokens, schedule);
        self.tokens += tokens;
        ended
    }

    /// Enters a step whose rows changed no weights. True when it ended its phase.
    pub fn skip(&mut self, skipped: &StepPlan, tokens: u64, schedule: &Schedule) -> bool {
        assert_eq!(skipped.step.0, self.step.0 + 1, "steps are taken in order");
        assert_eq!(skipped.first_row, self.next_row, "rows are taken in order");
        self.step = skipped.step;
        self.read_up_to(self.next_row.0 + u64::from(skipped.rows), tokens, schedule)
    }

    /// The rows to pass over before the next step: up to the end of a detour that it would touch.
    pub fn due_detour(&self, schedule: &Schedule) -> Option<Range<u64>> {
        if self.finished {
            return None;
        }
        let phase = &schedule.phases[self.phase];
        let first = self.next_row.0;
        let end = first + u64::from(phase.rows_at(self.phase_tokens, schedule.rows));
        let touched = self.detours.iter().filter(|detour| {
            detour.phase == phase.name && detour.rows.start < end && detour.rows.end > first
        });
        let end = touched.map(|detour| detour.rows.end).max()?;
        Some(first..end)
    }

    /// Goes past rows that [`Self::due_detour`] named, which hold so many tokens. True when that
    /// ended the phase.
    pub fn pass_over(&mut self, rows: &Range<u64>, tokens: u64, schedule: &Schedule) -> bool {
        assert_eq!(rows.start, self.next_row.0, "rows are passed in order");
        self.read_up_to(rows.end, tokens, schedule)
    }

    /// Enters what became of a command: it is never applied again.
    pub fn settle(&mut self, command: Command, stage: CommandStage) {
        self.last_command = command.id.max(self.last_command);
        self.settled.retain(|known| known.command.id != command.id);
        self.settled.push(CommandRecord { command, stage });
        if self.settled.len() > SETTLED_MAX {
            self.settled.remove(0);
        }
    }

    /// What became of a command, if it was settled on the way to this state.
    pub fn outcome(&self, command: Command) -> Option<CommandStage> {
        let known = |record: &&CommandRecord| record.command.id == command.id;
        if let Some(record) = self.settled.iter().find(known) {
            return Some(record.stage.clone());
        }
        // Of a state that was saved before refusals were entered.
        let step = match command.kind {
            CommandKind::Decay { .. } => self.phase_start,
            _ => self.step,
        };
        (command.id <= self.last_command).then_some(CommandStage::Applied { step })
    }

    /// Whether a decay that took effect after `step`, in another life of the run, has yet to do so
    /// here, at the boundary after step `boundary`. A newer command may have taken effect before.
    pub fn owes(&self, decay: CommandId, step: Step, boundary: Step) -> bool {
        let is_behind = step == boundary && self.phase_start < boundary;
        step <= boundary && (decay > self.last_command || is_behind)
    }

    /// Adds stretches of rows that no step is to take.
    pub fn avoid(&mut self, detours: &[Detour]) {
        for detour in detours {
            if !self.detours.contains(detour) {
                self.detours.push(detour.clone());
            }
        }
    }

    fn read_up_to(&mut self, next_row: u64, tokens: u64, schedule: &Schedule) -> bool {
        self.phase_tokens += tokens;
        self.next_row = RowIndex(next_row);
        let ended = self.phase_tokens >= self.phase_length_tokens;
        if ended {
            match self.phase + 1 {
                next if next < schedule.phases.len() => {
                    self.enter(next, schedule.lengths_tokens[next]);
                }
                _ => self.finished = true,
            }
        }
        ended
    }

    /// Where a decay on command, with the length that it gives, would lead now.
    pub fn decay_target(
        &self,
        length_tokens: Option<u64>,
        schedule: &Schedule,
    ) -> Result<usize, DecayRefusal> {
        if self.finished {
            return Err(DecayRefusal::Finished);
        }
        decay_from(self.phase, length_tokens, schedule)
    }

    /// Leaves the stable phase for the decay, now.
    pub fn decay(
        &mut self,
        length_tokens: Option<u64>,
        schedule: &Schedule,
    ) -> Result<(), DecayRefusal> {
        let target = self.decay_target(length_tokens, schedule)?;
        self.enter(
            target,
            length_tokens.unwrap_or(schedule.lengths_tokens[target]),
        );
        self.phase_length_by_command = length_tokens.is_some();
        Ok(())
    }

    /// Goes from another run's state to a phase of this schedule: a branch has its own.
    pub fn branch(&mut self, phase: usize, schedule: &Schedule) {
        self.finished = false;
        self.last_command = CommandId(0);
        self.settled.clear();
        self.detours.clear();
        self.enter(phase, schedule.lengths_tokens[phase]);
    }

    /// Takes over the lengths of a schedule whose phases were made longer or shorter since the
    /// state was saved. A length that a command gave stays.
    pub fn fit(&mut self, schedule: &Schedule) {
        if !self.phase_length_by_command {
            self.phase_length_tokens = schedule.lengths_tokens[self.phase];
        }
        self.finished &= self.phase_tokens >= self.phase_length_tokens;
    }

    fn enter(&mut self, phase: usize, length_tokens: u64) {
        self.phase = phase;
        self.phase_start = self.step;
        self.phase_tokens = 0;
        self.phase_length_tokens = length_tokens;
        self.phase_length_by_command = false;
        self.next_row = RowIndex(0);
        self.watch.forget();
    }

    /// Tokens until the end of the run, were no command given.
    pub fn remaining_tokens(&self, schedule: &Schedule) -> u64 {
        if self.finished {
            return 0;
        }
        let later: u64 = schedule.lengths_tokens[self.phase + 1..].iter().sum();
        self.phase_length_tokens.saturating_sub(self.phase_tokens) + later
    }
}

#[cfg(test)]
mod tests;
