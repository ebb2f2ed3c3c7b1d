//! Loss spikes: when a step's loss counts as one, what is done about it, and what is remembered.
//! Pure: every rank judges from equal sums and equal state, and comes to the same.
//!
//! A loss is compared with those of the last steps of the same phase: it is a spike where it lies
//! more than `threshold` spreads above their median. The spread is 1.4826 times the median absolute
//! deviation, which for normally distributed losses is their standard deviation (Rousseeuw and
//! Croux, "Alternatives to the Median Absolute Deviation", 1993); one spike among the last losses
//! moves neither. `OLMo-core` skips steps by the same rule with mean and standard deviation, 6 of
//! these over 128 steps (`SkipStepOptimizer`).

use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::ops::Range;

use garde::Validate;
use serde::{Deserialize, Serialize};

use crate::ids::{Generation, Step};

/// From the median absolute deviation to the standard deviation of a normal distribution.
const DEVIATION: f64 = 1.4826;
/// The least spread, as a share of the median: a loss that hardly moves has no spikes of 1 %.
const SPREAD_MIN: f64 = 0.01;
/// Losses are remembered as whole numbers of this, which text files hold exactly.
const NATS: f64 = 1e-6;
/// Spikes that a list keeps which change nothing any more.
const TOLD_MAX: usize = 200;

/// What is done about losses that are not finite, and about losses far above those before.
#[derive(Clone, Debug, Serialize, Deserialize, Validate)]
#[serde(default, deny_unknown_fields)]
pub struct SpikeSettings {
    /// On a loss or a gradient that is not finite: the weights can never take such a step.
    #[garde(custom(check_not_finite))]
    pub not_finite: Reaction,
    /// On a loss above the limit that the last steps give.
    #[garde(skip)]
    pub spike: Reaction,
    /// Steps of the phase that a loss is compared with; before there are as many, none is a spike.
    #[garde(range(min = 8, max = 10_000))]
    pub window_steps: usize,
    /// Spreads above the median from which on a loss is a spike.
    #[garde(range(min = 1.0, max = 1000.0))]
    pub threshold: f64,
    /// Steps that may be skipped in a row; at one more the run stops.
    #[garde(range(min = 1))]
    pub skips_max: u32,
    #[garde(dive)]
    pub go_back: GoBackSettings,
}

/// How far the run goes back, and which rows it passes over then.
#[derive(Clone, Debug, Serialize, Deserialize, Validate)]
#[serde(default, deny_unknown_fields)]
pub struct GoBackSettings {
    /// To the newest checkpoint, the second newest, and so on.
    #[garde(range(min = 1, max = 1000))]
    pub checkpoints: u32,
    /// Steps before the spike whose rows are passed over together with its own. `PaLM` restarted
    /// about 100 steps before a spike and passed over 200 to 500 batches (arXiv:2204.02311,
    /// section 5.1).
    #[garde(range(max = 1_000_000))]
    pub steps_before: u64,
    /// How often the run may go back; at one time more it stops.
    #[garde(range(min = 1))]
    pub times_max: usize,
}

/// What is done about a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reaction {
    /// Nothing, and nothing is said.
    Ignore,
    /// It is taken, and told.
    Warn,
    /// The run ends with an error.
    Stop,
    /// Its rows count as read, the weights stay as they are.
    Skip,
    /// The run goes on from an earlier checkpoint, past the rows around it.
    GoBack,
}

impl Default for SpikeSettings {
    fn default() -> Self {
        Self {
            not_finite: Reaction::Stop,
            spike: Reaction::Warn,
            window_steps: 128,
            threshold: 6.0,
            skips_max: 10,
            go_back: GoBackSettings::default(),
        }
    }
}

impl Default for GoBackSettings {
    fn default() -> Self {
        Self {
            checkpoints: 1,
            steps_before: 100,
            times_max: 3,
        }
    }
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "the signature that garde calls"
)]
fn check_not_finite(reaction: &Reaction, (): &()) -> garde::Result {
    match reaction {
        Reaction::Stop | Reaction::Skip | Reaction::GoBack => Ok(()),
        Reaction::Ignore | Reaction::Warn => Err(garde::Error::new(
            "must be stop, skip or go_back: no step can be taken with numbers that are not finite",
        )),
    }
}

/// The last losses of the phase, as part of the training state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LossWatch {
    /// In millionths of a nat, oldest first; of steps that were taken.
    losses: VecDeque<u64>,
    /// Steps skipped since the last one that was taken.
    pub skipped_in_row: u32,
}

impl LossWatch {
    /// The highest loss, in nats, that is no spike; none before the window is filled.
    pub fn limit(&self, settings: &SpikeSettings) -> Option<f64> {
        if self.losses.len() < settings.window_steps {
            return None;
        }
        let losses: Vec<f64> = self.losses.iter().map(|&loss| loss as f64 * NATS).collect();
        let center = median(losses.clone());
        let deviations = losses.iter().map(|loss| (loss - center).abs()).collect();
        let spread = (DEVIATION * median(deviations)).max(SPREAD_MIN * center);
        Some(center + settings.threshold * spread)
    }

    /// Enters the loss of a step that was taken, in nats.
    pub fn enter(&mut self, loss: f64, settings: &SpikeSettings) {
        self.skipped_in_row = 0;
        self.losses.push_back((loss / NATS).round() as u64);
        while self.losses.len() > settings.window_steps {
            self.losses.pop_front();
        }
    }

    /// Forgets the losses: another phase has other text and another mask rate.
    pub fn forget(&mut self) {
        self.losses.clear();
    }
}

fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_unstable_by(f64::total_cmp);
    let middle = numbers.len() / 2;
    if numbers.len().is_multiple_of(2) {
        f64::midpoint(numbers[middle - 1], numbers[middle])
    } else {
        numbers[middle]
    }
}

/// Rows of a phase that are passed over: around a spike that the run went back from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Detour {
    /// The phase's name, which decides what its rows are.
    pub phase: String,
    pub rows: Range<u64>,
}

/// What was wrong with a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SpikeKind {
    LossNotFinite,
    GradientNotFinite,
    LossSpike,
}

/// What was done about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Handling {
    Warned,
    Skipped,
    WentBack {
        /// Rows of the phase that are passed over from then on.
        passed_over: Range<u64>,
        /// The step that the run went on after, once that is known.
        to: Option<Step>,
    },
}

/// A step that was not like the others, as journal and status keep it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spike {
    pub step: Step,
    pub generation: Generation,
    pub phase: String,
    /// The rows in question: of the step, or of its first micro-batch that is not finite.
    pub rows: Range<u64>,
    /// Whose text stands in them.
    pub sources: Vec<String>,
    pub kind: SpikeKind,
    /// Mean over the step's masked tokens, in nats, where it is finite.
    pub loss: Option<f64>,
    /// The highest loss that would have been no spike, in nats, where one was known.
    pub limit: Option<f64>,
    pub handling: Handling,
}

impl Spike {
    /// The rows that are passed over because of it.
    pub fn detour(&self) -> Option<Detour> {
        match &self.handling {
            Handling::WentBack { passed_over, .. } => Some(Detour {
                phase: self.phase.clone(),
                rows: passed_over.clone(),
            }),
            Handling::Warned | Handling::Skipped => None,
        }
    }

    /// Whether both are of one step and one reading of its rows, whoever took it.
    pub fn is_same(&self, other: &Self) -> bool {
        (self.step, &self.phase, &self.rows) == (other.step, &other.phase, &other.rows)
            && self.detour() == other.detour()
    }

    /// Whether the run went back behind a state that was taken after `step` in `generation`.
    pub fn abandons(&self, step: Step, generation: Generation) -> bool {
        match self.handling {
            Handling::WentBack { to: Some(to), .. } => step > to && generation <= self.generation,
            Handling::Warned | Handling::Skipped | Handling::WentBack { to: None, .. } => false,
        }
    }

    /// What was wrong, and where.
    pub fn finding(&self) -> String {
        let place = place(self.step, &self.phase, &self.rows, &self.sources);
        match (self.kind, self.loss, self.limit) {
            (SpikeKind::LossSpike, Some(loss), Some(limit)) => {
                format!("the loss is {loss:.4}, above the limit of {limit:.4}: {place}")
            }
            (SpikeKind::LossSpike, ..) => format!("the loss spikes: {place}"),
            (SpikeKind::LossNotFinite, ..) => format!("the loss is not finite: {place}"),
            (SpikeKind::GradientNotFinite, ..) => format!("the gradient is not finite: {place}"),
        }
    }
}

impl fmt::Display for Handling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Warned => f.write_str("the step is taken all the same"),
            Self::Skipped => f.write_str("the step is skipped"),
            Self::WentBack { passed_over, to } => {
                match to {
                    None => f.write_str("the run goes back")?,
                    Some(Step(0)) => f.write_str("the run went back to its beginning")?,
                    Some(to) => write!(f, "the run went back to step {to}")?,
                }
                let (first, last) = (passed_over.start, passed_over.end - 1);
                write!(f, ", and passes over rows {first} to {last} from then on")
            }
        }
    }
}

impl fmt::Display for Spike {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.finding(), self.handling)
    }
}

/// Some rows of a step in words.
pub fn place(step: Step, phase: &str, rows: &Range<u64>, sources: &[String]) -> String {
    format!(
        "step {step}, rows {} to {} of phase \"{phase}\", sources {}",
        rows.start,
        rows.end - 1,
        sources.join(", ")
    )
}

/// Enters a spike into a list; one of the same step and rows gives way to it, and so does the
/// oldest where there are many. What the run went back from stays for good.
pub fn enter(known: &mut Vec<Spike>, spike: Spike) {
    known.retain(|other| !other.is_same(&spike));
    known.push(spike);
    let passing = |spike: &Spike| spike.detour().is_none();
    if known.iter().filter(|spike| passing(spike)).count() > TOLD_MAX {
        let oldest = known.iter().position(passing);
        known.remove(oldest.expect("there are many"));
    }
}

/// The rows to pass over by a list, each stretch once.
pub fn detours(spikes: &[Spike]) -> Vec<Detour> {
    let mut seen = BTreeSet::new();
    spikes
        .iter()
        .filter_map(Spike::detour)
        .filter(|detour| seen.insert((detour.phase.clone(), detour.rows.start, detour.rows.end)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> SpikeSettings {
        SpikeSettings {
            window_steps: 9,
            threshold: 5.0,
            ..SpikeSettings::default()
        }
    }

    fn watch(losses: &[f64]) -> LossWatch {
        let mut watch = LossWatch::default();
        for &loss in losses {
            watch.enter(loss, &settings());
        }
        watch
    }

    #[test]
    fn there_is_no_limit_before_the_window_is_filled() {
        let losses = [3.0; 9];
        assert_eq!(watch(&losses[..8]).limit(&settings()), None);
        assert!(watch(&losses).limit(&settings()).is_some());
        let mut left = watch(&losses);
        left.forget();
        assert_eq!(left.limit(&settings()), None, "another phase");
    }

    #[test]
    fn the_limit_follows_median_and_spread_and_not_one_spike() {
        let calm = [2.0, 2.1, 1.9, 2.2, 1.8, 2.3, 1.7, 2.4, 1.6];
        // Deviations from 2.0 in order: 0, 0.1, 0.1, 0.2, 0.2, 0.3, 0.3, 0.4, 0.4.
        let wanted = 2.0 + 5.0 * 1.4826 * 0.2;
        let limit = |losses: &[f64]| watch(losses).limit(&settings()).unwrap();
        assert!((limit(&calm) - wanted).abs() < 1e-5);
        let mut spiked = calm;
        spiked[7] = 900.0;
        assert!((limit(&spiked) - wanted).abs() < 1e-5);
        assert!(
            limit(&[3.0; 9]) >= 3.0 * 1.05 - 1e-9,
            "a floor on the spread"
        );
    }

    /// A state that is saved and read judges as before, to the bit.
    #[test]
    fn a_watch_survives_its_file() {
        let mut watch = watch(&[1.0 / 3.0, 2.0 / 7.0, 1e-9, 11.123_456_789]);
        watch.skipped_in_row = 2;
        let text = serde_json::to_string(&watch).unwrap();
        assert_eq!(serde_json::from_str::<LossWatch>(&text).unwrap(), watch);
    }

    fn spike(step: u64, rows: Range<u64>, handling: Handling) -> Spike {
        Spike {
            step: Step(step),
            generation: Generation(2),
            phase: "stable".to_owned(),
            rows,
            sources: vec!["north/notes".to_owned()],
            kind: SpikeKind::LossSpike,
            loss: Some(9.0),
            limit: Some(4.5),
            handling,
        }
    }

    #[test]
    fn a_spike_that_is_told_again_is_known_once() {
        let back = |to: u64| Handling::WentBack {
            passed_over: 30..60,
            to: Some(Step(to)),
        };
        let mut known = Vec::new();
        enter(&mut known, spike(5, 20..24, Handling::Skipped));
        enter(&mut known, spike(5, 20..24, Handling::Skipped));
        enter(&mut known, spike(12, 56..60, back(10)));
        enter(&mut known, spike(12, 56..60, back(10)));
        assert_eq!(known.len(), 2);
        for step in 100..100 + 2 * TOLD_MAX as u64 {
            enter(&mut known, spike(step, 400..404, Handling::Warned));
        }
        assert_eq!(known.len(), TOLD_MAX + 1);
        let wanted = Detour {
            phase: "stable".to_owned(),
            rows: 30..60,
        };
        assert_eq!(detours(&known), [wanted]);
    }

    #[test]
    fn states_of_the_history_before_are_abandoned() {
        let back = spike(
            12,
            56..60,
            Handling::WentBack {
                passed_over: 30..60,
                to: Some(Step(8)),
            },
        );
        assert!(back.abandons(Step(10), Generation(2)));
        assert!(back.abandons(Step(10), Generation(1)));
        assert!(!back.abandons(Step(8), Generation(2)), "it begins there");
        assert!(!back.abandons(Step(10), Generation(3)), "taken since");
        assert!(!spike(12, 56..60, Handling::Skipped).abandons(Step(20), Generation(1)));
    }

    #[test]
    fn a_spike_names_its_rows_and_sources() {
        assert_eq!(
            spike(12, 56..60, Handling::Skipped).to_string(),
            "the loss is 9.0000, above the limit of 4.5000: step 12, rows 56 to 59 of phase \
             \"stable\", sources north/notes; the step is skipped"
        );
    }
}
