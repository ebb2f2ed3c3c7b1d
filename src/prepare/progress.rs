//! Showing how far the preparation is: a bar on a terminal, a log line every few seconds elsewhere.
//!
//! Knows names of sources and counts, never a text. Speed and time left are those of this run: what
//! an interrupted one has done, and the time to find its place, do not count.

use std::io::{IsTerminal, stderr};
use std::path::Path;
use std::time::Duration;

use indicatif::{FormattedDuration, HumanCount, ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::time::Instant;

use crate::prepare::progress::pace::{Pace, Whole};

mod pace;

/// The time between two log lines where there is no terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(5);
const BAR_REDRAWS_PER_SECOND: u8 = 10;

/// What `done` and `total` count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Bytes of the input files, as stored.
    Bytes,
    Documents,
}

/// A stretch of work: the tokenizer, or one source.
#[derive(Clone, Debug)]
pub struct Stage {
    pub name: String,
    pub unit: Unit,
    /// How much there is to do; 0 where it is not known.
    pub total: u64,
}

/// How far a stage is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Done {
    pub done: u64,
    pub documents: u64,
    /// Tokens of this run.
    pub tokens: u64,
    /// Tokens that an interrupted run left in finished shards.
    pub kept_tokens: u64,
    /// Still where the interrupted run has been.
    pub catching_up: bool,
}

/// Follows a preparation. All calls come from one thread.
pub trait Progress: Send {
    /// What the stages that count bytes will come to together.
    fn expect(&mut self, bytes: u64);
    fn begin(&mut self, stage: &Stage);
    fn advance(&mut self, done: &Done);
    fn end(&mut self);
    /// The corpus was prepared before from the same inputs and is kept as it is.
    fn kept(&mut self, folder: &Path);
}

/// A bar where standard error is a terminal, log lines otherwise.
pub fn for_standard_error() -> Box<dyn Progress> {
    if stderr().is_terminal() {
        Box::new(Bar::default())
    } else {
        Box::new(Lines::default())
    }
}

/// Shows nothing.
#[derive(Debug, Default)]
pub struct Silent;

impl Progress for Silent {
    fn expect(&mut self, _bytes: u64) {}
    fn begin(&mut self, _stage: &Stage) {}
    fn advance(&mut self, _done: &Done) {}
    fn end(&mut self) {}
    fn kept(&mut self, _folder: &Path) {}
}

/// One bar a stage, on standard error.
#[derive(Default)]
pub struct Bar {
    current: Option<(ProgressBar, Stage, Pace)>,
    whole: Whole,
}

impl Progress for Bar {
    fn expect(&mut self, bytes: u64) {
        self.whole.total = bytes;
    }

    fn begin(&mut self, stage: &Stage) {
        let amount = match stage.unit {
            Unit::Bytes => "{bytes}/{total_bytes}",
            Unit::Documents => "{human_pos}/{human_len}",
        };
        // Two lines: beside a bar, eighty columns have no room for speed and time left.
        let template = match stage.total {
            0 => "{prefix:24} {spinner} {wide_msg}".to_owned(),
            _ => format!("{{prefix:24}} {{bar:24}} {amount}\n  {{wide_msg}}"),
        };
        let style = ProgressStyle::with_template(&template).expect("the templates are fixed");
        let target = ProgressDrawTarget::stderr_with_hz(BAR_REDRAWS_PER_SECOND);
        let bar = ProgressBar::with_draw_target(Some(stage.total), target).with_style(style);
        bar.set_prefix(stage.name.clone());
        self.current = Some((bar, stage.clone(), Pace::new()));
    }

    fn advance(&mut self, done: &Done) {
        let Some((bar, stage, pace)) = &mut self.current else {
            return;
        };
        pace.advance(done);
        let speed = if done.catching_up {
            Some("where the interrupted run has been".to_owned())
        } else {
            let tokens = pace.tokens_per_second();
            tokens.map(|tokens| format!("{} tokens/s", HumanCount(tokens)))
        };
        let left = pace.left(stage.total);
        let in_all = pace.left_in_all(stage, &self.whole);
        let parts = [
            speed,
            left.map(|left| format!("{} left", FormattedDuration(left))),
            in_all.map(|left| format!("{} in all", FormattedDuration(left))),
            Some(format!("{} documents", HumanCount(done.documents))),
            pace.tokens()
                .map(|tokens| format!("{} tokens", HumanCount(tokens))),
        ];
        bar.set_message(parts.into_iter().flatten().collect::<Vec<_>>().join(", "));
        bar.set_position(done.done);
    }

    fn end(&mut self) {
        if let Some((bar, stage, pace)) = self.current.take() {
            self.whole.end_stage(&stage, &pace);
            bar.finish();
        }
    }

    fn kept(&mut self, folder: &Path) {
        let style = ProgressStyle::with_template("{msg}").expect("the template is fixed");
        let line = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        line.with_style(style).finish_with_message(format!(
            "{}: prepared before from the same inputs, kept",
            folder.display()
        ));
    }
}

/// Log lines, for a run without a terminal.
#[derive(Default)]
pub struct Lines {
    current: Option<Current>,
    whole: Whole,
}

struct Current {
    stage: Stage,
    pace: Pace,
    logged: Instant,
}

impl Current {
    fn log(&self, whole: &Whole, message: &'static str) {
        let last = &self.pace.last;
        let seconds = |left: Duration| Some(left.as_secs()).filter(|left| *left > 0);
        let left = self.pace.left(self.stage.total);
        let in_all = self.pace.left_in_all(&self.stage, whole);
        tracing::info!(
            source = %self.stage.name,
            percent = (last.done * 100).checked_div(self.stage.total),
            documents = last.documents,
            tokens = self.pace.tokens(),
            kept_tokens = (last.kept_tokens > 0).then_some(last.kept_tokens),
            tokens_per_second = self.pace.tokens_per_second(),
            seconds_left = left.and_then(seconds),
            seconds_left_in_all = in_all.and_then(seconds),
            "{message}"
        );
    }
}

impl Progress for Lines {
    fn expect(&mut self, bytes: u64) {
        self.whole.total = bytes;
    }

    fn begin(&mut self, stage: &Stage) {
        self.current = Some(Current {
            stage: stage.clone(),
            pace: Pace::new(),
            logged: Instant::now(),
        });
    }

    fn advance(&mut self, done: &Done) {
        let Some(current) = &mut self.current else {
            return;
        };
        current.pace.advance(done);
        if current.logged.elapsed() >= LINE_INTERVAL {
            current.logged = Instant::now();
            current.log(&self.whole, "preparing");
        }
    }

    fn end(&mut self) {
        if let Some(current) = self.current.take() {
            current.log(&self.whole, "prepared");
            self.whole.end_stage(&current.stage, &current.pace);
        }
    }

    fn kept(&mut self, folder: &Path) {
        tracing::info!(folder = %folder.display(), "prepared before from the same inputs, kept");
    }
}
