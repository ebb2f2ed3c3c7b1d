//! What becomes of a step whose loss or gradient is not as it should be: it is told, skipped, or
//! the end of the run, or the run goes back. All ranks judge by the same sums and the same state,
//! and nothing has been written by then.

use std::ops::Range;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Error, Result, anyhow, bail};
use tracing::warn;

use crate::collective::{CollectiveError, Operation};
use crate::data::blueprint::Blueprint;
use crate::run::progress::StepPlan;
use crate::run::spike::{Handling, Reaction, Spike, SpikeKind, place};
use crate::run::standing::Activity;
use crate::train::compute::{Trainer, Turn};
use crate::train::optimizer::OptimizerError;
use crate::train::step::Update;
use crate::train::sums::Sums;

/// How often it is looked whether the snapshots are stored.
const GLANCE: Duration = Duration::from_millis(50);

/// What became of a step.
pub(super) enum Fate {
    Taken {
        update: Update,
        /// What is told of it all the same.
        spike: Option<Spike>,
    },
    /// It changed no weights.
    Left(Spike),
}

/// What is not as it should be.
struct Finding {
    kind: SpikeKind,
    rows: Range<u64>,
    /// Why the update was refused, where it was.
    cause: Option<Error>,
}

impl Fate {
    pub(super) fn is_taken(&self) -> bool {
        matches!(self, Self::Taken { .. })
    }

    pub(super) fn spike(&self) -> Option<&Spike> {
        match self {
            Self::Taken { spike, .. } => spike.as_ref(),
            Self::Left(spike) => Some(spike),
        }
    }

    /// L2 norm of the averaged gradient; not a number where no update was made.
    pub(super) fn gradient_norm(&self) -> f64 {
        match self {
            Self::Taken { update, .. } => update.gradient_norm,
            Self::Left(_) => f64::NAN,
        }
    }

    pub(super) fn collective_seconds(&self) -> f64 {
        match self {
            Self::Taken { update, .. } => update.collective_seconds,
            Self::Left(_) => 0.0,
        }
    }
}

impl Trainer<'_> {
    /// Updates the weights, or settles what is done instead.
    pub(super) fn judge(&mut self, plan: &StepPlan, sums: &Sums) -> Result<Fate> {
        let found = match self.examine(plan, sums) {
            Some(finding) => self.settle(plan, sums, finding)?,
            None => None,
        };
        let told = match found {
            Some(spike) if spike.handling != Handling::Warned => return Ok(Fate::Left(spike)),
            told => told,
        };
        let collective = self.collective.as_ref();
        let engine = &mut self.replica.engine;
        match engine.update(collective, sums.masked, plan.learning_rate) {
            Ok(update) => Ok(Fate::Taken {
                update,
                spike: told,
            }),
            Err(error) => {
                let finding = self.examine_refusal(plan, error)?;
                let spike = self.settle(plan, sums, finding)?;
                let spike = spike.context("numbers that are not finite are never ignored")?;
                Ok(Fate::Left(spike))
            }
        }
    }

    /// Looks at the loss.
    fn examine(&self, plan: &StepPlan, sums: &Sums) -> Option<Finding> {
        let finding = |kind, rows| Finding {
            kind,
            rows,
            cause: None,
        };
        if let Some((first, count)) = sums.bad_rows.iter().flatten().next() {
            // A rank's rows lie `world` apart.
            let last = first.0 + (count - 1) * u64::from(self.seat.world);
            return Some(finding(SpikeKind::LossNotFinite, first.0..last + 1));
        }
        let watch = &self.replica.position.progress.watch;
        let limit = watch.limit(&self.tools.spikes)?;
        (sums.mean_loss() > limit).then(|| finding(SpikeKind::LossSpike, Blueprint::rows(plan)))
    }

    /// Looks at an update that was refused.
    fn examine_refusal(&self, plan: &StepPlan, error: Error) -> Result<Finding> {
        let rows = Blueprint::rows(plan);
        let not_finite = matches!(error.downcast_ref(), Some(OptimizerError::NotFinite { .. }));
        let sources = self.sources_of(plan, &rows);
        let error = error.context(place(plan.step, self.phase_name(plan), &rows, &sources));
        if !not_finite {
            return Err(error);
        }
        Ok(Finding {
            kind: SpikeKind::GradientNotFinite,
            rows,
            cause: Some(error),
        })
    }

    /// What is done about a finding; nothing where it is ignored.
    fn settle(&self, plan: &StepPlan, sums: &Sums, finding: Finding) -> Result<Option<Spike>> {
        let Finding { kind, rows, cause } = finding;
        let settings = &self.tools.spikes;
        let progress = &self.replica.position.progress;
        let reaction = match kind {
            SpikeKind::LossSpike => settings.spike,
            SpikeKind::LossNotFinite | SpikeKind::GradientNotFinite => settings.not_finite,
        };
        if reaction == Reaction::Ignore {
            return Ok(None);
        }
        let loss = sums.mean_loss();
        let mut spike = Spike {
            step: plan.step,
            generation: self.seat.generation,
            phase: self.phase_name(plan).to_owned(),
            sources: self.sources_of(plan, &rows),
            rows,
            kind,
            loss: loss.is_finite().then_some(loss),
            limit: progress.watch.limit(settings),
            handling: Handling::Warned,
        };
        let (skips, detours) = (progress.watch.skipped_in_row, progress.detours.len());
        match reaction {
            Reaction::Ignore | Reaction::Warn => {}
            Reaction::Stop => return Err(cause.unwrap_or_else(|| refusal(&spike))),
            Reaction::Skip if skips >= settings.skips_max => {
                let before = counted(u64::from(skips), "step was", "steps were");
                let limit = format!("{before} skipped in a row, and `skips_max` allows no more");
                return Err(limit_reached(&limit, &spike));
            }
            Reaction::Skip => spike.handling = Handling::Skipped,
            Reaction::GoBack if detours >= settings.go_back.times_max => {
                let before = counted(detours as u64, "time", "times");
                let limit = format!("the run went back {before}, and `times_max` allows no more");
                return Err(limit_reached(&limit, &spike));
            }
            Reaction::GoBack => {
                let rows = Blueprint::rows(plan);
                let before = settings
                    .go_back
                    .steps_before
                    .saturating_mul(plan.rows.into());
                spike.handling = Handling::WentBack {
                    passed_over: rows.start.saturating_sub(before)..rows.end,
                    to: None,
                };
            }
        }
        if self.is_lead() {
            warn!("{spike}");
        }
        Ok(Some(spike))
    }

    /// Ends the generation once every checkpoint from before is stored, so that it depends on no
    /// clock which one the run goes back to.
    pub(super) fn go_back(&self, spike: Spike) -> Result<Turn> {
        let during = self.tools.pulse.during(Activity::Store);
        while !self.tools.snapshots.all_stored() {
            if self.tools.abort.is_over(self.seat.generation) {
                let operation = Operation::AllReduce;
                bail!(CollectiveError::Aborted { operation });
            }
            thread::sleep(GLANCE);
        }
        drop(during);
        // All part at one moment.
        Sums::new(0, self.seat.world).agree(self.collective.as_ref())?;
        Ok(Turn::WentBack(Box::new(spike)))
    }

    fn phase_name(&self, plan: &StepPlan) -> &str {
        &self.tools.blueprint.schedule.phases[plan.phase].name
    }

    fn sources_of(&self, plan: &StepPlan, rows: &Range<u64>) -> Vec<String> {
        self.tools.blueprint.sources_of(plan.phase, rows.clone())
    }
}

/// The run's end by a spike.
fn refusal(spike: &Spike) -> Error {
    let hint = match spike.kind {
        SpikeKind::LossSpike => {
            "`loss_spikes` in the YAML can skip such steps, or go back to an earlier checkpoint"
        }
        SpikeKind::LossNotFinite | SpikeKind::GradientNotFinite => {
            "lower the learning rate, or continue from an earlier checkpoint"
        }
    };
    anyhow!(
        "{}\n  hint: look at the batch with `cohort inspect`; {hint}",
        spike.finding()
    )
}

/// The run's end after what is done about spikes was done too often.
fn limit_reached(limit: &str, spike: &Spike) -> Error {
    anyhow!(
        "{}; {limit}\n  hint: look at the batch with `cohort inspect`; lower the learning rate, or \
         begin anew with other data or settings",
        spike.finding()
    )
}

fn counted(count: u64, one: &str, many: &str) -> String {
    let word = if count == 1 { one } else { many };
    format!("{count} {word}")
}
