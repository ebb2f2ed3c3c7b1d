//! What a run says of itself: the records of `metrics.jsonl` and `evaluations.jsonl`, the status
//! that operators see, logs, and the two clocks. No document text passes through here.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Deserializer, Serialize};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::time::ChronoUtc;

use crate::ids::{Epoch, Generation, Step};
use crate::run::command::CommandRecord;
use crate::run::goodput::{Account, Recovery};
use crate::run::schedule::PhaseKind;
use crate::run::spike::{Spike, SpikeKind};
use crate::run::state::{Member, RunState, Stage};

pub mod pulse;

/// One line of `metrics.jsonl`: what one step did. Two runs of the same seed agree in every field
/// above `seconds`; it and the fields below are measurements, or say who took the step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepMetrics {
    pub step: Step,
    pub phase: String,
    pub phase_kind: PhaseKind,
    /// Mean cross-entropy over the masked tokens of the whole step, in nats. Not a number, `null`
    /// in the file, where it is not finite.
    #[serde(deserialize_with = "number_or_nan")]
    pub loss: f64,
    /// Share of the masked tokens predicted right.
    pub accuracy: f64,
    #[serde(rename = "lr")]
    pub learning_rate: f64,
    pub mask_rate: f64,
    /// First row of the step in its phase's plan, and how many rows it took.
    pub first_row: u64,
    pub rows: u32,
    pub masked_tokens: u64,
    pub step_tokens: u64,
    /// That the weights have seen, cumulative over the run, padding not counted.
    pub tokens: u64,
    pub phase_tokens: u64,
    pub phase_length_tokens: u64,
    /// The phase of the next step: another one when this step ended its phase.
    pub next_phase: String,
    pub next_phase_kind: PhaseKind,
    /// Tokens until the end of the run, were no command given.
    pub remaining_tokens: u64,
    /// L2 norm of the averaged gradient over all parameters. Not a number, `null` in the file,
    /// where the step was skipped before it was known, or for it.
    #[serde(deserialize_with = "number_or_nan")]
    pub grad_norm: f64,
    /// Tokens of this step by source.
    pub sources: BTreeMap<String, u64>,
    /// What was wrong with the step, if something was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spike: Option<SpikeKind>,
    /// The highest loss that would have been no spike, in nats, once there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss_limit: Option<f64>,
    /// Whether its rows changed no weights.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub skipped: bool,
    pub seconds: f64,
    pub ranks: u32,
    pub generation: Generation,
    pub tokens_per_second: f64,
    pub data_wait_fraction: f64,
    pub collective_fraction: f64,
}

/// JSON knows no number that is not finite, and writes `null`.
fn number_or_nan<'de, D: Deserializer<'de>>(field: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(field)?.unwrap_or(f64::NAN))
}

/// Why an evaluation was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EvaluationMoment {
    Start,
    Interval,
    PhaseEnd,
    Stop,
}

/// One line of `evaluations.jsonl`: the held-out documents at one step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    pub step: Step,
    pub moment: EvaluationMoment,
    /// The phase that the weights come from.
    pub phase: String,
    pub phase_kind: PhaseKind,
    pub institutions: BTreeMap<String, HeldOutScore>,
}

/// Scores on the held-out documents of one institution.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HeldOutScore {
    pub masked_tokens: u64,
    /// Mean cross-entropy in nats.
    pub loss: f64,
    pub accuracy: f64,
    /// The same masked tokens under the unigram distribution of the training data.
    pub unigram_loss: f64,
    pub unigram_accuracy: f64,
}

/// What `cohort status` shows.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StatusView {
    pub run: String,
    pub epoch: Epoch,
    /// Where the coordinator runs, and its process.
    #[serde(default)]
    pub host: String,
    #[serde(default)]
    pub process: u32,
    pub stage: Stage,
    pub reason: String,
    pub generation: Generation,
    pub members: Vec<Member>,
    pub last_step: Option<StepMetrics>,
    pub remaining_tokens: Option<u64>,
    pub seconds_left: Option<f64>,
    pub last_checkpoint: Option<Step>,
    /// What the store fails at.
    #[serde(default)]
    pub store_fails: Option<String>,
    pub checkpoints_url: String,
    pub commands: Vec<CommandRecord>,
    /// Steps that were skipped, gone back from, or only told, oldest first.
    pub spikes: Vec<Spike>,
    /// Where the time went since the run began.
    #[serde(default)]
    pub account: Account,
    #[serde(default)]
    pub last_recovery: Option<Recovery>,
}

impl StatusView {
    /// The status of a run of which only the state machine is known.
    pub fn new(run: &str, epoch: Epoch, state: &RunState) -> Self {
        Self {
            run: run.to_owned(),
            epoch,
            host: String::new(),
            process: std::process::id(),
            stage: state.stage.clone(),
            reason: state.reason.clone(),
            generation: state.generation,
            members: Vec::new(),
            last_step: None,
            remaining_tokens: None,
            seconds_left: None,
            last_checkpoint: state.last_checkpoint,
            store_fails: state.store_fails.clone(),
            checkpoints_url: String::new(),
            commands: state.commands.values().cloned().collect(),
            spikes: state.spikes.clone(),
            account: Account::default(),
            last_recovery: None,
        }
    }
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

/// Starts a line of its own on a terminal: a progress bar may stand where the next log line goes.
const ERASE_LINE: &[u8] = b"\r\x1b[2K";

/// Standard error, on which log lines and progress bars share a terminal.
struct LogWriter {
    on_terminal: bool,
}

impl Write for LogWriter {
    /// Gets one whole line at a time.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut stderr = io::stderr().lock();
        if self.on_terminal {
            stderr.write_all(ERASE_LINE)?;
        }
        stderr.write_all(line)?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// Sends `tracing` to stderr. `filter` is a `tracing_subscriber` filter such as `cohort=debug`.
pub fn start_logging(format: LogFormat, filter: &str) {
    let filter = EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new("info"));
    let on_terminal = io::stderr().is_terminal();
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_timer(ChronoUtc::new("%Y-%m-%dT%H:%M:%S%.3fZ".to_owned()))
        .with_ansi(on_terminal)
        .with_writer(move || LogWriter { on_terminal });
    match format {
        LogFormat::Text => builder.with_target(false).init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
}

/// Wall-clock time as RFC 3339 in UTC, with microseconds; for records only, never for decisions.
pub fn wall_clock() -> String {
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place where wall time enters"
    )]
    let now = SystemTime::now();
    humantime::format_rfc3339_micros(now).to_string()
}

/// The time to set on a file, so that files can be told by when they were used.
pub fn file_time() -> SystemTime {
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place where wall time enters"
    )]
    SystemTime::now()
}

/// Measures durations for metrics; decisions use the shells' own clock.
#[derive(Clone, Copy, Debug)]
pub struct Stopwatch(std::time::Instant);

impl Stopwatch {
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place where durations are measured"
    )]
    pub fn start() -> Self {
        Self(std::time::Instant::now())
    }

    pub fn elapsed(self) -> Duration {
        self.0.elapsed()
    }

    pub fn seconds(self) -> f64 {
        self.elapsed().as_secs_f64()
    }
}
