//! What the lead rank's shell is told of a step: its line of `metrics.jsonl`, and what was wrong.

use std::collections::BTreeMap;

use anyhow::Result;

use crate::run::progress::{Progress, StepPlan};
use crate::telemetry::StepMetrics;
use crate::train::compute::spike::Fate;
use crate::train::compute::{Outbox, Trainer};
use crate::train::sums::Sums;

/// Where a step's time went.
#[derive(Clone, Copy)]
pub(super) struct Timing {
    pub(super) seconds: f64,
    pub(super) data_wait_seconds: f64,
    pub(super) collective_seconds: f64,
}

impl Trainer<'_> {
    /// Tells of a step that was entered; `before` is the progress that it started from.
    pub(super) fn tell_step(
        &self,
        before: &Progress,
        plan: &StepPlan,
        sums: &Sums,
        (fate, timing): (&Fate, Timing),
    ) -> Result<()> {
        let metrics = self.metrics(before, plan, sums, (fate, timing));
        self.tools.tell(Outbox::Step(Box::new(metrics)))?;
        match fate.spike() {
            Some(spike) => self.tools.tell(Outbox::Spike(Box::new(spike.clone()))),
            None => Ok(()),
        }
    }

    /// The step's line of `metrics.jsonl`; `before` is the progress that it started from.
    fn metrics(
        &self,
        before: &Progress,
        plan: &StepPlan,
        sums: &Sums,
        (fate, timing): (&Fate, Timing),
    ) -> StepMetrics {
        let schedule = &self.tools.blueprint.schedule;
        let progress = &self.replica.position.progress;
        let phase = &schedule.phases[plan.phase];
        let next = &schedule.phases[progress.phase];
        let masked = sums.masked.max(1) as f64;
        let sources: BTreeMap<String, u64> = self
            .tools
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
            loss: sums.mean_loss(),
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
            grad_norm: fate.gradient_norm(),
            sources,
            spike: fate.spike().map(|spike| spike.kind),
            loss_limit: before.watch.limit(&self.tools.spikes),
            skipped: !fate.is_taken(),
            seconds: timing.seconds,
            ranks: self.seat.world,
            generation: self.seat.generation,
            tokens_per_second: sums.tokens() as f64 / timing.seconds,
            data_wait_fraction: timing.data_wait_seconds / timing.seconds,
            collective_fraction: timing.collective_seconds / timing.seconds,
        }
    }
}
