//! Showing how far the preparation is: a bar on a terminal, a log line every few seconds elsewhere.
//!
//! Knows names of sources and counts, never a text.

use std::io::{IsTerminal, stderr};
use std::path::Path;
use std::time::Duration;

use indicatif::{HumanCount, ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::time::Instant;

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
    pub tokens: u64,
}

/// Follows a preparation. All calls come from one thread.
pub trait Progress: Send {
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
    fn begin(&mut self, _stage: &Stage) {}
    fn advance(&mut self, _done: &Done) {}
    fn end(&mut self) {}
    fn kept(&mut self, _folder: &Path) {}
}

/// One bar a stage, on standard error.
#[derive(Default)]
pub struct Bar {
    bar: Option<ProgressBar>,
}

impl Progress for Bar {
    fn begin(&mut self, stage: &Stage) {
        let amount = match stage.unit {
            Unit::Bytes => "{bytes}/{total_bytes}",
            Unit::Documents => "{human_pos}/{human_len}",
        };
        let template = match stage.total {
            0 => "{prefix:24} {spinner} {wide_msg}".to_owned(),
            _ => format!("{{prefix:24}} {{bar:24}} {amount} {{wide_msg}}"),
        };
        let style = ProgressStyle::with_template(&template).expect("the templates are fixed");
        let target = ProgressDrawTarget::stderr_with_hz(BAR_REDRAWS_PER_SECOND);
        let bar = ProgressBar::with_draw_target(Some(stage.total), target).with_style(style);
        bar.set_prefix(stage.name.clone());
        self.bar = Some(bar);
    }

    fn advance(&mut self, done: &Done) {
        let Some(bar) = &self.bar else { return };
        let documents = HumanCount(done.documents);
        let per_second = done.tokens as f64 / bar.elapsed().as_secs_f64().max(1e-3);
        let (tokens, per_second) = (HumanCount(done.tokens), HumanCount(per_second as u64));
        bar.set_message(match done.tokens {
            // Training a tokenizer has no tokens to count.
            0 => format!("{documents} documents"),
            _ => format!("{documents} documents, {tokens} tokens, {per_second} tokens/s"),
        });
        bar.set_position(done.done);
    }

    fn end(&mut self) {
        if let Some(bar) = self.bar.take() {
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
}

struct Current {
    stage: Stage,
    started: Instant,
    logged: Instant,
    last: Done,
}

impl Current {
    fn log(&self, message: &'static str) {
        let elapsed_s = self.started.elapsed().as_secs_f64();
        let Done {
            done,
            documents,
            tokens,
        } = self.last;
        let counted = (tokens > 0).then_some(tokens);
        tracing::info!(
            source = %self.stage.name,
            percent = (done * 100).checked_div(self.stage.total),
            documents,
            tokens = counted,
            tokens_per_second = counted.map(|tokens| (tokens as f64 / elapsed_s.max(1e-3)) as u64),
            "{message}"
        );
    }
}

impl Progress for Lines {
    fn begin(&mut self, stage: &Stage) {
        let now = Instant::now();
        let stage = stage.clone();
        self.current = Some(Current {
            stage,
            started: now,
            logged: now,
            last: Done::default(),
        });
    }

    fn advance(&mut self, done: &Done) {
        let Some(current) = &mut self.current else {
            return;
        };
        current.last = *done;
        if current.logged.elapsed() >= LINE_INTERVAL {
            current.logged = Instant::now();
            current.log("preparing");
        }
    }

    fn end(&mut self) {
        if let Some(current) = self.current.take() {
            current.log("prepared");
        }
    }

    fn kept(&mut self, folder: &Path) {
        tracing::info!(folder = %folder.display(), "prepared before from the same inputs, kept");
    }
}
