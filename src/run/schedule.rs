//! The schedule: phases, and what each step of a phase uses. Pure, and the same on every rank.
//!
//! Time is counted in tokens (padding not counted). A step uses the learning rate of the token
//! count *before* it. (Composer's lags by one more step: it steps `LambdaLR` before the timestamp
//! advances, so a phase's first two steps share the first one's rate.)

use std::collections::BTreeMap;

use garde::Validate;
use serde::{Deserialize, Serialize};

use crate::corpus::mixture::Mixture;
use crate::corpus::mixture::repeats::EpochLimit;

/// One stretch of the schedule as it stands in the run's YAML.
#[derive(Clone, Debug, Serialize, Deserialize, Validate)]
#[serde(deny_unknown_fields)]
pub struct PhaseSettings {
    /// Shown in metrics, checkpoints and the ledger.
    #[garde(length(min = 1, max = 40))]
    pub name: String,
    /// Length in tokens. Without it, one pass over the mixture.
    #[serde(default)]
    #[garde(inner(range(min = 1)))]
    pub tokens: Option<u64>,
    /// Which sources, and how much of each.
    #[garde(dive)]
    pub mixture: Mixture,
    /// How often each source may be read in this phase at most, by the mixture's patterns; a phase
    /// that would read one more often is refused. Without it there is no limit.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[garde(custom(check_caps))]
    pub max_epochs: BTreeMap<String, f64>,
    /// Share of the tokens to predict (80 % masked, 10 % random, 10 % unchanged).
    #[garde(range(min = 0.0001, max = 0.9))]
    pub mask_rate: f64,
    /// Peak learning rate.
    #[garde(range(min = 0.0, max = 1.0))]
    pub learning_rate: f64,
    /// Tokens of linear warm-up from zero at the phase's start.
    #[serde(default)]
    #[garde(skip)]
    pub warmup_tokens: u64,
    /// How the learning rate runs after the warm-up; anything but `constant` makes this a decay
    /// phase.
    #[serde(default)]
    #[garde(skip)]
    pub shape: Shape,
    /// Tokens of the decay at the phase's end; before them the rate is constant. Without it the
    /// whole phase decays.
    #[serde(default)]
    #[garde(inner(range(min = 1)))]
    pub decay_tokens: Option<u64>,
    /// Share of the learning rate at the end of a decay.
    #[serde(default = "default_floor")]
    #[garde(range(min = 0.0, max = 1.0))]
    pub floor: f64,
    /// Grows the step from fewer rows over the phase's first tokens.
    #[serde(default)]
    #[garde(dive)]
    pub rows_warmup: Option<RowsWarmup>,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "the signature that garde calls"
)]
fn check_caps(caps: &BTreeMap<String, f64>, (): &()) -> garde::Result {
    let enough = |cap: &f64| (0.01..=f64::INFINITY).contains(cap);
    match caps.iter().find(|(_, cap)| !enough(cap)) {
        Some((pattern, _)) => Err(garde::Error::new(format!(
            "`{pattern}` must be at least 0.01"
        ))),
        None => Ok(()),
    }
}

/// A linear growth of the number of rows in a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Validate)]
#[serde(deny_unknown_fields)]
pub struct RowsWarmup {
    /// Rows of the first step.
    #[garde(range(min = 1))]
    pub from_rows: u32,
    /// Tokens until the full number of rows.
    #[garde(range(min = 1))]
    pub tokens: u64,
}

/// The decay of `ModernBERT` and `BioClinical` `ModernBERT` ends at a thousandth (their `alpha_f`).
const fn default_floor() -> f64 {
    0.001
}

/// The course of the learning rate. Formulas: `MB:src/scheduler.py` (1-sqrt), Composer (the
/// others).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shape {
    #[default]
    Constant,
    /// floor + (1 - floor) · (1 - √x)
    OneMinusSqrt,
    /// 1 - (1 - floor) · x
    Linear,
    /// floor + (1 - floor) · (1 + cos πx) / 2
    Cosine,
}

/// Whether a phase may be left for a decay, and whether its checkpoints may be continued.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PhaseKind {
    Stable,
    Decay,
}

impl std::fmt::Display for PhaseKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Stable => "stable",
            Self::Decay => "decay",
        })
    }
}

impl PhaseSettings {
    pub fn kind(&self) -> PhaseKind {
        match self.shape {
            Shape::Constant => PhaseKind::Stable,
            Shape::OneMinusSqrt | Shape::Linear | Shape::Cosine => PhaseKind::Decay,
        }
    }

    /// The learning rate of a step that begins `tokens` into a phase of `length_tokens`.
    pub fn learning_rate_at(&self, tokens: u64, length_tokens: u64) -> f64 {
        let warmup = if tokens < self.warmup_tokens {
            tokens as f64 / self.warmup_tokens as f64
        } else {
            1.0
        };
        self.learning_rate * warmup * self.decay_factor(tokens, length_tokens)
    }

    fn decay_factor(&self, tokens: u64, length_tokens: u64) -> f64 {
        if self.shape == Shape::Constant {
            return 1.0;
        }
        let decay = self
            .decay_tokens
            .unwrap_or(length_tokens)
            .min(length_tokens);
        let into_decay = tokens.saturating_sub(length_tokens - decay);
        let x = (into_decay as f64 / decay as f64).min(1.0);
        let above = 1.0 - self.floor;
        match self.shape {
            Shape::Constant => 1.0,
            Shape::OneMinusSqrt => self.floor + above * (1.0 - x.sqrt()),
            Shape::Linear => 1.0 - above * x,
            Shape::Cosine => self.floor + above * 0.5 * (1.0 + (std::f64::consts::PI * x).cos()),
        }
    }

    /// Rows of a step that begins `tokens` into the phase, when the full step has `rows`.
    pub fn rows_at(&self, tokens: u64, rows: u32) -> u32 {
        match self.rows_warmup {
            Some(warmup) if tokens < warmup.tokens && warmup.from_rows < rows => {
                let grown = u128::from(rows - warmup.from_rows) * u128::from(tokens)
                    / u128::from(warmup.tokens);
                warmup.from_rows + grown as u32
            }
            _ => rows,
        }
    }
}

/// The whole schedule with every length resolved to tokens.
#[derive(Clone, Debug)]
pub struct Schedule {
    pub phases: Vec<PhaseSettings>,
    /// Tokens of each phase: as configured, or one pass over its mixture.
    pub lengths_tokens: Vec<u64>,
    /// How long each phase's `max_epochs` let it be, where a command gives the length.
    pub limits: Vec<Option<EpochLimit>>,
    /// Rows of a full step.
    pub rows: u32,
}

impl Schedule {
    /// The decay phase that a decay on command enters from phase `from`.
    pub fn next_decay(&self, from: usize) -> Option<usize> {
        (from + 1..self.phases.len()).find(|&index| self.phases[index].kind() == PhaseKind::Decay)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn phase(shape: Shape, decay_tokens: Option<u64>) -> PhaseSettings {
        PhaseSettings {
            name: "phase".to_owned(),
            tokens: None,
            mixture: Mixture::All,
            max_epochs: BTreeMap::new(),
            mask_rate: 0.3,
            learning_rate: 3e-4,
            warmup_tokens: 0,
            shape,
            decay_tokens,
            floor: 0.001,
            rows_warmup: None,
        }
    }

    #[track_caller]
    fn check(phase: &PhaseSettings, tokens: u64, expected: f64) {
        let rate = phase.learning_rate_at(tokens, 1_000);
        assert!(
            (rate - expected).abs() <= 1e-12,
            "at {tokens}: {rate} instead of {expected}"
        );
    }

    #[test]
    fn constant_after_a_linear_warmup() {
        let warm = PhaseSettings {
            warmup_tokens: 100,
            ..phase(Shape::Constant, None)
        };
        check(&warm, 0, 0.0);
        check(&warm, 25, 0.75e-4);
        check(&warm, 100, 3e-4);
        check(&warm, 5_000, 3e-4);
    }

    #[test]
    fn one_minus_sqrt_ends_at_the_floor_and_stays_there() {
        let decay = phase(Shape::OneMinusSqrt, None);
        check(&decay, 0, 3e-4);
        check(&decay, 250, 3e-4 * (0.001 + 0.999 * 0.5));
        check(&decay, 1_000, 3e-7);
        check(&decay, 9_000, 3e-7);
    }

    #[test]
    fn large_model_decays_in_the_last_epoch_only() {
        let decay = phase(Shape::OneMinusSqrt, Some(400));
        check(&decay, 600, 3e-4);
        check(&decay, 700, 3e-4 * (0.001 + 0.999 * 0.5));
    }

    #[test]
    fn linear_and_cosine_halves() {
        check(&phase(Shape::Linear, None), 500, 3e-4 * (1.0 - 0.999 * 0.5));
        check(
            &phase(Shape::Cosine, None),
            500,
            3e-4 * (0.001 + 0.999 * 0.5),
        );
    }

    #[test]
    fn rows_grow_to_the_full_step() {
        let growing = PhaseSettings {
            rows_warmup: Some(RowsWarmup {
                from_rows: 2,
                tokens: 100,
            }),
            ..phase(Shape::Constant, None)
        };
        assert_eq!(
            [0, 50, 99, 100].map(|tokens| growing.rows_at(tokens, 10)),
            [2, 6, 9, 10]
        );
    }
}
