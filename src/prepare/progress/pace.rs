//! How fast a preparation goes, and how long it will still take.
//!
//! What an interrupted run has done, and the time to find its place, do not count.

use std::time::Duration;

use tokio::time::Instant;

use crate::prepare::progress::{Done, Stage, Unit};

/// How far all sources together are, in bytes of their files.
#[derive(Clone, Copy, Debug, Default)]
pub struct Whole {
    /// What all sources come to.
    pub total: u64,
    /// What the stages before this one came to.
    before: u64,
    /// What of that is this run's own work, and how long it took.
    worked: u64,
    time: Duration,
}

impl Whole {
    pub fn end_stage(&mut self, stage: &Stage, pace: &Pace) {
        if is_of_files(stage) {
            self.before += stage.total;
            self.worked += pace.last.done.saturating_sub(pace.from.done);
            self.time += pace.since.elapsed();
        }
    }

    /// The time for what is left of all sources, as fast as this run has gone so far. None in the
    /// last source, and where the current one is not measured in bytes.
    fn left(&self, stage: &Stage, from: &Done, last: &Done, elapsed: Duration) -> Option<Duration> {
        let after = self.total.checked_sub(self.before + stage.total)?;
        if !is_of_files(stage) || after == 0 || last.catching_up {
            return None;
        }
        let rest = after + stage.total.checked_sub(last.done)?;
        let worked = self.worked + last.done.checked_sub(from.done)?;
        let time = self.time + elapsed;
        (worked > 0).then(|| time.mul_f64(rest as f64 / worked as f64))
    }
}

/// Whether a stage counts bytes of the sources' files; the training of a tokenizer counts text, and
/// has no total.
fn is_of_files(stage: &Stage) -> bool {
    stage.unit == Unit::Bytes && stage.total > 0
}

/// How fast a stage goes, from where its own work begins.
pub struct Pace {
    from: Done,
    pub last: Done,
    since: Instant,
}

impl Pace {
    pub fn new() -> Self {
        Self {
            from: Done::default(),
            last: Done::default(),
            since: Instant::now(),
        }
    }

    pub fn advance(&mut self, done: &Done) {
        self.last = *done;
        if done.catching_up {
            self.from = *done;
            self.since = Instant::now();
        }
    }

    /// Tokens, those of an earlier run included; none while a tokenizer is trained.
    pub fn tokens(&self) -> Option<u64> {
        let tokens = self.last.tokens + self.last.kept_tokens;
        (tokens > 0).then_some(tokens)
    }

    /// None where this run has no tokens to count.
    pub fn tokens_per_second(&self) -> Option<u64> {
        tokens_per_second(&self.from, &self.last, self.since.elapsed())
    }

    pub fn left(&self, total: u64) -> Option<Duration> {
        left(&self.from, &self.last, self.since.elapsed(), total)
    }

    pub fn left_in_all(&self, stage: &Stage, whole: &Whole) -> Option<Duration> {
        whole.left(stage, &self.from, &self.last, self.since.elapsed())
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
    fn the_whole_goes_on_as_fast_as_its_sources_so_far() {
        let stage = |total| Stage {
            name: "harbor/notes".to_owned(),
            unit: Unit::Bytes,
            total,
        };
        // 300 of 1,000 bytes took 6 s, 100 of them in an earlier run; 50 of the next 200 took 2 s.
        let whole = Whole {
            total: 1000,
            before: 300,
            worked: 200,
            time: Duration::from_secs(6),
        };
        let (from, elapsed) = (Done::default(), Duration::from_secs(2));
        let left = |stage: &Stage, last| whole.left(stage, &from, &last, elapsed);
        let rest = left(&stage(200), done(50, 9, false));
        assert_eq!(rest, Some(Duration::from_secs_f64(8.0 * 650.0 / 250.0)));
        assert_eq!(left(&stage(200), done(50, 9, true)), None);
        // The last source's own time says it all.
        assert_eq!(left(&stage(700), done(50, 9, false)), None);
    }

    #[test]
    fn the_training_of_a_tokenizer_is_no_part_of_the_whole() {
        let training = Stage {
            name: "tokenizer".to_owned(),
            unit: Unit::Bytes,
            total: 0,
        };
        let mut whole = Whole {
            total: 1000,
            ..Whole::default()
        };
        let (from, last) = (Done::default(), done(400, 0, false));
        let left = whole.left(&training, &from, &last, Duration::from_secs(2));
        assert_eq!(left, None);
        let mut pace = Pace::new();
        pace.advance(&last);
        whole.end_stage(&training, &pace);
        assert_eq!((whole.before, whole.worked), (0, 0));
        assert_eq!(whole.time, Duration::ZERO);
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
