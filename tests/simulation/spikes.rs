//! What becomes of steps whose loss spikes, as `train::compute::spike` has it. Whether one does
//! follows from its rows alone.

use std::ops::Range;

use cohort::run::progress::StepPlan;
use cohort::run::schedule::Schedule;
use cohort::run::spike::{Handling, Reaction, Spike, SpikeKind};
use cohort::run::standing::Activity;
use cohort::train::compute::Turn;
use cohort::train::replica::{Boundary, Position};

use crate::compute::Broke;
use crate::dice::Dice;
use crate::groups::{Failure, Post};
use crate::replica::mix;
use crate::scenario::ROW_TOKENS;
use crate::trainer::Trainer;

/// Which rows are bad, and what is done about the steps that read them.
#[derive(Clone, Debug)]
pub struct Spikes {
    pub reaction: Reaction,
    /// Of a thousand rows so many are bad.
    share: u64,
    seed: u64,
    pub checkpoints: u32,
    steps_before: u64,
}

impl Spikes {
    pub fn draw(dice: &mut Dice) -> Self {
        let reactions = [
            Reaction::Warn,
            Reaction::Skip,
            Reaction::GoBack,
            Reaction::GoBack,
        ];
        Self {
            reaction: dice.pick(&reactions).unwrap_or(Reaction::Warn),
            share: dice.between(5, 40),
            seed: dice.number(),
            checkpoints: dice.between(1, 3) as u32,
            steps_before: dice.between(0, 4),
        }
    }

    fn meets(&self, phase: usize, rows: &Range<u64>) -> bool {
        let key = mix(self.seed, phase as u64 + 1);
        rows.clone().any(|row| mix(key, row) % 1_000 < self.share)
    }
}

impl Trainer<'_> {
    /// What is wrong with a step, if something is.
    pub fn judge(&self, plan: &StepPlan) -> Option<Spike> {
        let spikes = self.tools.handle.world().scenario.spikes.clone()?;
        let rows = plan.first_row.0..plan.first_row.0 + u64::from(plan.rows);
        if !spikes.meets(plan.phase, &rows) {
            return None;
        }
        let before = spikes.steps_before * u64::from(plan.rows);
        let handling = match spikes.reaction {
            Reaction::Skip => Handling::Skipped,
            Reaction::GoBack => Handling::WentBack {
                passed_over: rows.start.saturating_sub(before)..rows.end,
                to: None,
            },
            Reaction::Ignore | Reaction::Warn | Reaction::Stop => Handling::Warned,
        };
        Some(Spike {
            step: plan.step,
            generation: self.seat.generation,
            phase: self.tools.schedule.phases[plan.phase].name.clone(),
            rows,
            sources: Vec::new(),
            kind: SpikeKind::LossSpike,
            loss: None,
            limit: None,
            handling,
        })
    }

    /// Ends the generation once every checkpoint from before is stored.
    pub async fn go_back(&mut self, spike: Spike) -> Result<Turn, Broke> {
        let (pid, generation) = (self.tools.handle.pid, self.seat.generation);
        self.tools.begin(Activity::Store);
        let stored = self.tools.handle.until(|world| {
            let rank = world.rank(pid)?;
            if rank.over >= generation {
                return Some(Err(Failure::Aborted));
            }
            (rank.uploads_in_flight == 0).then_some(Ok(()))
        });
        stored.await?;
        self.tools.begin(Activity::Computing);
        self.collective.meet(Post::Nothing).await?;
        self.tools
            .handle
            .world()
            .tally
            .count("ranks that went back");
        Ok(Turn::WentBack(Box::new(spike)))
    }
}

/// Goes past the rows that no step is to take. True when that ended a phase.
pub fn pass_detours(position: &mut Position, schedule: &Schedule) -> bool {
    let mut ended = false;
    while let Some(rows) = position.progress.due_detour(schedule) {
        let tokens = (rows.end - rows.start) * ROW_TOKENS;
        ended |= position.progress.pass_over(&rows, tokens, schedule);
    }
    ended
}

/// The same for a state that was just read; the end of a phase is a boundary.
pub fn pass_at_once(position: &mut Position, schedule: &Schedule) {
    let phase = position.progress.phase;
    if pass_detours(position, schedule) {
        position.boundary = Some(Boundary {
            phase,
            after_step: false,
            phase_ended: true,
            command: None,
        });
    }
}
