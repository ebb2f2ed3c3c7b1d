//! Showing how far the preparation is: a bar on a terminal, a log line every few seconds elsewhere.
//!
//! Knows names of sources and counts, never a text. Speed and time left are those of this run: what
//! an interrupted one has done, and the time to find its place, do not count.

use std::io::{IsTerminal, stderr};
use std::path::Path;
use std::time::Duration;

use indicatif::{FormattedDuration, HumanCount, ProgressBar, ProgressDrawTarget, ProgressStyle};
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
    /// Tokens of this run.
    pub tokens: u64,
    /// Tokens that an interrupted run left in finished shards.
    pub kept_tokens: u64,
    /// Still where the interrupted run has been.
    pub catching_up: bool,
}

/// How fast a stage goes, from where its own work begins.
struct Pace {
    from: Done,
    last: Done,
    since: Instant,
}

impl Pace {
    fn new() -> Self {
        Self {
            from: Done::default(),
            last: Done::default(),
            since: Instant::now(),
        }
    }

    fn advance(&mut self, done: &Done) {
        self.last = *done;
        if done.catching_up {
            self.from = *done;
            self.since = Instant::now();
        }
    }

    /// Tokens, those of an earlier run included; none while a tokenizer is trained.
    fn tokens(&self) -> Option<u64> {
        let tokens = self.last.tokens + self.last.kept_tokens;
        (tokens > 0).then_some(tokens)
    }

    /// None where this run has no tokens to count.
    fn tokens_per_second(&self) -> Option<u64> {
        tokens_per_second(&self.from, &self.last, self.since.elapsed())
    }

    fn left(&self, total: u64) -> Option<Duration> {
        left(&self.from, &self.last, self.since.elapsed(), total)
    }
}

fn tokens_per_second(from: &Done, last: &Done, elapsed: Duration) -> Option<u64> {
    let tokens = last.tokens - from.tokens;
    (tokens > 0).then(|| (tokens as f64 / elapsed.as_secs_f64().max(1e-3)) as u64)
}

/// The time for what is left of `total`, as fast as from `from` to `last`.
fn left(from: &Done, last: &Done, elapsed: Duration, total: u64) -> Option<Duration> {
    let (done, rest) = (
        last.done.checked_sub(from.done)?,
        total.checked_sub(last.done)?,
    );
    (done > 0 && !last.catching_up).then(|| elapsed.mul_f64(rest as f64 / done as f64))
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
    current: Option<(ProgressBar, Pace)>,
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
        self.current = Some((bar, Pace::new()));
    }

    fn advance(&mut self, done: &Done) {
        let Some((bar, pace)) = &mut self.current else {
            return;
        };
        pace.advance(done);
        let speed = if done.catching_up {
            Some("where the interrupted run has been".to_owned())
        } else {
            let tokens = pace.tokens_per_second();
            tokens.map(|tokens| format!("{} tokens/s", HumanCount(tokens)))
        };
        let left = pace.left(bar.length().unwrap_or(0));
        let parts = [
            Some(format!("{} documents", HumanCount(done.documents))),
            pace.tokens()
                .map(|tokens| format!("{} tokens", HumanCount(tokens))),
            speed,
            left.map(|left| format!("{} left", FormattedDuration(left))),
        ];
        bar.set_message(parts.into_iter().flatten().collect::<Vec<_>>().join(", "));
        bar.set_position(done.done);
    }

    fn end(&mut self) {
        if let Some((bar, _)) = self.current.take() {
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
    pace: Pace,
    logged: Instant,
}

impl Current {
    fn log(&self, message: &'static str) {
        let last = &self.pace.last;
        let left = self.pace.left(self.stage.total);
        tracing::info!(
            source = %self.stage.name,
            percent = (last.done * 100).checked_div(self.stage.total),
            documents = last.documents,
            tokens = self.pace.tokens(),
            kept_tokens = (last.kept_tokens > 0).then_some(last.kept_tokens),
            tokens_per_second = self.pace.tokens_per_second(),
            seconds_left = left.map(|left| left.as_secs()).filter(|left| *left > 0),
            "{message}"
        );
    }
}

impl Progress for Lines {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn done(done: u64, tokens: u64, catching_up: bool) -> Done {
        Done {
            done,
            tokens,
            kept_tokens: 5000,
            catching_up,
            ..Done::default()
        }
    }

    #[test]
    fn speed_counts_from_where_the_interrupted_run_was() {
        let (from, elapsed) = (done(400, 10, true), Duration::from_secs(2));
        let last = done(500, 210, false);
        assert_eq!(tokens_per_second(&from, &last, elapsed), Some(100));
        let rest = left(&from, &last, elapsed, 1000);
        assert_eq!(rest, Some(Duration::from_secs(10)));
        assert_eq!(left(&from, &from, elapsed, 1000), None);
        assert_eq!(left(&from, &last, elapsed, 0), None);
    }

    #[test]
    fn pace_begins_where_this_run_does() {
        let mut pace = Pace::new();
        pace.advance(&done(300, 4, true));
        pace.advance(&done(400, 10, true));
        pace.advance(&done(500, 210, false));
        assert_eq!((pace.from.done, pace.from.tokens), (400, 10));
        assert_eq!(pace.tokens(), Some(5210));
    }
}
