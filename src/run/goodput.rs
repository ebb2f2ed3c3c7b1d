//! Where a run's time goes: every second of a coordinator's life has one cause.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::ids::{Generation, Step};

/// What a second was spent on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// Steps that count.
    Useful,
    /// Steps that were lost and taken again.
    Redone,
    /// Ranks waited for their batch.
    Data,
    /// Evaluations, copies of checkpoints, steps that broke off.
    Boundary,
    /// Until the first generation trains.
    Starting,
    /// From the end of a generation until the next one trains.
    Recovering,
    /// For more ranks to come.
    Ranks,
    /// For a checkpoint to be read.
    Store,
    Paused,
    /// After the last step.
    Ending,
}

impl Cause {
    /// In words, for people.
    pub fn words(self) -> &'static str {
        match self {
            Self::Useful => "useful steps",
            Self::Redone => "steps taken again",
            Self::Data => "waiting for data",
            Self::Boundary => "between steps",
            Self::Starting => "starting",
            Self::Recovering => "recovering",
            Self::Ranks => "waiting for ranks",
            Self::Store => "waiting for the store",
            Self::Paused => "paused",
            Self::Ending => "ending",
        }
    }
}

/// What the coordinator is at; steps say more of the time of training.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Occupation {
    Training,
    Other(Cause),
}

/// The seconds of a run, over all lives of its coordinators. Time in which none lived counts as far
/// as steps were taken in it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Goodput {
    /// In generations that train; what the steps do not say of it was between them.
    training: f64,
    useful: f64,
    redone: f64,
    data: f64,
    others: BTreeMap<Cause, f64>,
    #[serde(skip)]
    current: Option<(Occupation, Duration)>,
}

impl Goodput {
    /// Enters what the run is at from now on; the time since the last call had its own cause.
    pub fn observe(&mut self, occupation: Occupation, now: Duration) {
        if let Some((earlier, since)) = self.current {
            let seconds = now.saturating_sub(since).as_secs_f64();
            match earlier {
                Occupation::Training => self.training += seconds,
                Occupation::Other(cause) => *self.others.entry(cause).or_default() += seconds,
            }
        }
        self.current = Some((occupation, now));
    }

    /// Enters a step of so many seconds, of which some were spent waiting for the batch.
    pub fn step(&mut self, seconds: f64, data: f64) {
        self.useful += seconds - data;
        self.data += data;
    }

    /// A step that was entered is lost, and will be taken again.
    pub fn redo(&mut self, seconds: f64, data: f64) {
        self.useful -= seconds - data;
        self.data -= data;
        self.redone += seconds;
    }

    /// Seconds by cause; they sum up to all the time there was.
    pub fn account(&self) -> Account {
        let steps = self.useful + self.redone + self.data;
        let mut seconds = self.others.clone();
        seconds.extend([
            (Cause::Useful, self.useful),
            (Cause::Redone, self.redone),
            (Cause::Data, self.data),
            (Cause::Boundary, (self.training - steps).max(0.0)),
        ]);
        seconds.retain(|_, seconds| *seconds > 0.0);
        Account { seconds }
    }
}

/// The seconds that were spent, by cause.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Account {
    pub seconds: BTreeMap<Cause, f64>,
}

impl Account {
    pub fn total(&self) -> f64 {
        self.seconds.values().sum()
    }

    /// The share of the time that went into steps that count, from 0 to 1.
    pub fn goodput(&self) -> f64 {
        let useful = self.seconds.get(&Cause::Useful).copied();
        useful.unwrap_or_default() / self.total().max(f64::MIN_POSITIVE)
    }
}

/// How the run came from one generation to the first step of a later one. All times in seconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Recovery {
    /// The one that went on.
    pub generation: Generation,
    /// Why the one before it ended.
    pub reason: String,
    /// The newest step by then.
    pub step: Step,
    /// How many generations ended before one took a step.
    pub attempts: u32,
    /// Ranks of the one that went on.
    pub ranks: u32,
    /// Whether a checkpoint was read.
    pub from_store: bool,
    /// How long a rank was silent that was found so; zero where its connection broke.
    pub silence: f64,
    /// Until all ranks had let go.
    pub letting_go: f64,
    /// Until seats were given.
    pub gathering: f64,
    /// Until all were connected and held the same state.
    pub connecting: f64,
    /// Until the first step was taken.
    pub stepping: f64,
}

impl Recovery {
    pub fn seconds(&self) -> f64 {
        self.letting_go + self.gathering + self.connecting + self.stepping
    }

    /// On one line, for people.
    pub fn describe(&self) -> String {
        let Self {
            generation,
            step,
            silence,
            letting_go,
            gathering,
            connecting,
            stepping,
            ..
        } = self;
        let silence = if *silence > 0.0 {
            format!("{silence:.3} s of silence before; ")
        } else {
            String::new()
        };
        format!(
            "generation {generation} went on after step {step} in {:.3} s: {silence}letting go \
             {letting_go:.3}, gathering {gathering:.3}, connecting {connecting:.3}, first step \
             {stepping:.3}",
            self.seconds()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(number: u64) -> Duration {
        Duration::from_secs(number)
    }

    #[test]
    fn every_second_has_one_cause() {
        let mut goodput = Goodput::default();
        goodput.observe(Occupation::Other(Cause::Starting), seconds(0));
        goodput.observe(Occupation::Training, seconds(3));
        goodput.step(4.0, 1.0);
        goodput.step(4.0, 0.0);
        // One and a half seconds of an evaluation, and a step that broke off.
        goodput.observe(Occupation::Other(Cause::Recovering), seconds(13));
        goodput.observe(Occupation::Other(Cause::Ranks), seconds(15));
        goodput.redo(4.0, 0.0);
        goodput.observe(Occupation::Training, seconds(20));
        goodput.step(2.0, 0.0);
        goodput.observe(Occupation::Training, seconds(22));
        let account = goodput.account();
        let wanted = [
            (Cause::Useful, 5.0),
            (Cause::Redone, 4.0),
            (Cause::Data, 1.0),
            (Cause::Boundary, 2.0),
            (Cause::Starting, 3.0),
            (Cause::Recovering, 2.0),
            (Cause::Ranks, 5.0),
        ];
        assert_eq!(account.seconds, BTreeMap::from(wanted));
        assert!((account.total() - 22.0).abs() < 1e-9);
        assert!((account.goodput() - 5.0 / 22.0).abs() < 1e-9);
    }

    #[test]
    fn steps_without_a_coordinator_count() {
        let mut goodput = Goodput::default();
        goodput.observe(Occupation::Training, seconds(0));
        goodput.step(8.0, 0.0);
        goodput.observe(Occupation::Training, seconds(1));
        assert!((goodput.account().total() - 8.0).abs() < 1e-9);
        let text = serde_json::to_string(&goodput).unwrap();
        let mut later: Goodput = serde_json::from_str(&text).unwrap();
        later.observe(Occupation::Other(Cause::Starting), seconds(0));
        later.observe(Occupation::Training, seconds(2));
        assert!((later.account().total() - 10.0).abs() < 1e-9);
    }
}
