//! A rank's copy of the training state, with a chain of hashes in the place of weights: two of them
//! are equal where the same rows and commands went into them in the same order.

use cohort::ids::{CommandId, Generation, Step};
use cohort::run::command::CommandRecord;
use cohort::run::event::Placement;
use cohort::run::ledger::Ledger;
use cohort::run::progress::{Progress, StepPlan};
use cohort::run::schedule::Schedule;
use cohort::run::spike::Detour;
use cohort::store::manifest::{CheckpointManifest, Reason};
use cohort::train::compute::Inbox;
use cohort::train::replica::Position;
use serde::{Deserialize, Serialize};

use crate::scenario::ROW_TOKENS;
use crate::spikes::{pass_at_once, pass_detours};

/// Fits into the numbers of a step's metrics.
pub type Weights = u32;

pub const FIRST_WEIGHTS: Weights = 1;

#[derive(Clone, Debug)]
pub struct Replica {
    pub position: Position,
    pub weights: Weights,
    /// Every command that took effect, and after which step.
    pub applied: Vec<(CommandId, Step)>,
}

/// The file of a checkpoint.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Saved {
    pub progress: Progress,
    pub rows: u64,
    pub weights: Weights,
    pub applied: Vec<(CommandId, Step)>,
}

/// A checkpoint on its way to the store.
#[derive(Clone, Debug)]
pub struct Snapshot {
    pub manifest: CheckpointManifest,
    /// None where only the reason is new.
    pub saved: Option<Saved>,
}

/// What the shell of a rank gives to its compute thread.
#[derive(Debug)]
pub enum Letter {
    Seat(Box<Offer>),
    Order(Inbox),
}

#[derive(Debug)]
pub struct Offer {
    pub placement: Placement,
    pub restored: Option<Saved>,
    pub replay: Vec<CommandRecord>,
    pub detours: Vec<Detour>,
    pub published: Option<Step>,
}

pub fn mix(one: u64, other: u64) -> u64 {
    let mut z = one.rotate_left(23) ^ other.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z ^ (z >> 29)
}

/// What a step makes of weights.
pub fn stepped(weights: Weights, plan: &StepPlan) -> Weights {
    let rows = mix(plan.first_row.0 + 1, u64::from(plan.rows));
    let place = mix(plan.phase as u64 + 1, plan.step.0);
    mix(mix(u64::from(weights), rows), place) as Weights | 1
}

impl Replica {
    /// The state that a checkpoint or the beginning gives, past the rows that no step is to take.
    pub fn of(
        lineage: Generation,
        (saved, detours): (Option<Saved>, &[Detour]),
        schedule: &Schedule,
    ) -> Self {
        let fresh = saved.is_none();
        let saved = saved.unwrap_or_else(|| Saved {
            progress: Progress::new(schedule),
            rows: 0,
            weights: FIRST_WEIGHTS,
            applied: Vec::new(),
        });
        let mut progress = saved.progress;
        progress.fit(schedule);
        progress.avoid(detours);
        let mut replica = Self {
            position: Position {
                lineage,
                generation: lineage,
                revision: 0,
                progress,
                ledger: Ledger::default(),
                rows: saved.rows,
                fresh,
                boundary: None,
                paused: None,
                stopped: false,
                due: None,
            },
            weights: saved.weights,
            applied: saved.applied,
        };
        pass_at_once(&mut replica.position, schedule);
        replica
    }

    /// Enters a step that was taken or skipped, and the rows that are passed over next. True when a
    /// phase ended.
    pub fn enter(&mut self, plan: &StepPlan, is_taken: bool, schedule: &Schedule) -> bool {
        let tokens = u64::from(plan.rows) * ROW_TOKENS;
        let progress = &mut self.position.progress;
        let ended = if is_taken {
            self.weights = stepped(self.weights, plan);
            self.position.rows += u64::from(plan.rows);
            progress.watch.skipped_in_row = 0;
            progress.advance(plan, tokens, schedule)
        } else {
            progress.watch.skipped_in_row += 1;
            progress.skip(plan, tokens, schedule)
        };
        pass_detours(&mut self.position, schedule) || ended
    }

    pub fn saved(&self) -> Saved {
        Saved {
            progress: self.position.progress.clone(),
            rows: self.position.rows,
            weights: self.weights,
            applied: self.applied.clone(),
        }
    }

    /// One number for all of it.
    pub fn digest(&self) -> u64 {
        let Position {
            lineage,
            generation,
            revision,
            progress,
            rows,
            fresh,
            boundary,
            paused,
            stopped,
            due,
            ..
        } = &self.position;
        let boundary = boundary.map_or(0, |boundary| {
            let command = boundary.command.map_or(0, |command| command.id.0 + 1);
            1 + command * 8 + u64::from(boundary.after_step) * 2
        });
        let due = due.map_or(0, |due| due.step.0 * 8 + due.reason as u64 + 1);
        let numbers = [
            lineage.0,
            generation.0,
            *revision,
            progress.step.0,
            progress.tokens,
            progress.phase as u64,
            progress.phase_tokens,
            progress.phase_length_tokens,
            progress.next_row.0,
            progress.last_command.0,
            u64::from(progress.finished),
            u64::from(progress.watch.skipped_in_row),
            *rows,
            u64::from(*fresh),
            boundary,
            paused.map_or(0, |phase| phase as u64 + 1),
            u64::from(*stopped),
            due,
            u64::from(self.weights),
        ];
        let all = numbers.into_iter().fold(1, mix);
        let rows = progress.detours.iter().map(|detour| &detour.rows);
        let all = rows.fold(all, |sum, rows| mix(sum, mix(rows.start, rows.end)));
        self.applied
            .iter()
            .fold(all, |sum, (id, step)| mix(sum, mix(id.0, step.0)))
    }
}

/// The manifest of a replica's checkpoint, but for its files.
pub fn manifest(
    replica: &Replica,
    generation: Generation,
    reason: Reason,
    phase: (&str, cohort::run::schedule::PhaseKind),
) -> CheckpointManifest {
    CheckpointManifest {
        version: cohort::store::manifest::MANIFEST_VERSION,
        run: "run".to_owned(),
        step: replica.position.progress.step,
        epoch: cohort::ids::Epoch(0),
        generation,
        phase: phase.0.to_owned(),
        phase_kind: phase.1,
        tokens: replica.position.progress.tokens,
        rows: replica.position.rows,
        created_at: "2026-01-01T00:00:00Z".to_owned(),
        reason,
        parent: None,
        pinned: false,
        files: Vec::new(),
    }
}
