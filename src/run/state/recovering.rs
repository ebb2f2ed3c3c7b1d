//! How long each part of the way from one generation to the next takes.

use std::time::Duration;

use crate::ids::Step;
use crate::run::event::{Effect, Origin};
use crate::run::goodput::{Cause, Occupation, Recovery};
use crate::run::state::{Millis, RunState, Stage};

/// A way from one generation to the next.
#[derive(Clone, Debug)]
pub(super) struct Underway {
    since: Millis,
    reason: String,
    step: Step,
    attempts: u32,
    silence: Duration,
    let_go: Option<Millis>,
    assigned: Option<Millis>,
    trained: Option<Millis>,
    from_store: bool,
}

impl RunState {
    /// What the run is at.
    pub fn occupation(&self) -> Occupation {
        Occupation::Other(match self.stage {
            Stage::Training => return Occupation::Training,
            Stage::Paused => Cause::Paused,
            Stage::Ending | Stage::Finished | Stage::Stopped | Stage::Failed => Cause::Ending,
            Stage::Gathering | Stage::Connecting if self.has_trained() => self.waits,
            Stage::Gathering | Stage::Connecting => Cause::Starting,
        })
    }

    fn has_trained(&self) -> bool {
        self.position.is_some() || self.adoption.is_some() || self.underway.is_some()
    }

    /// A generation has ended.
    pub(super) fn recovery_begins(&mut self, reason: &str) {
        let fresh = Underway {
            since: self.now,
            reason: reason.to_owned(),
            step: self.position.as_ref().map_or(Step(0), |at| at.step),
            attempts: 0,
            silence: std::mem::take(&mut self.silence),
            let_go: None,
            assigned: None,
            trained: None,
            from_store: false,
        };
        let underway = self.underway.get_or_insert(fresh);
        underway.attempts += 1;
        underway.let_go = None;
        underway.assigned = None;
        underway.trained = None;
    }

    pub(super) fn all_have_let_go(&mut self) {
        let now = self.now;
        if let Some(underway) = &mut self.underway {
            underway.let_go.get_or_insert(now);
        }
    }

    pub(super) fn seats_are_given(&mut self, origin: Origin) {
        let now = self.now;
        if let Some(underway) = &mut self.underway {
            underway.assigned = Some(now);
            underway.from_store |= origin == Origin::Store;
        }
    }

    pub(super) fn generation_trains(&mut self) {
        let now = self.now;
        if let Some(underway) = &mut self.underway {
            underway.trained = Some(now);
        }
    }

    /// A step was taken: what was recovered from is over.
    pub(super) fn recovery_ends(&mut self, effects: &mut Vec<Effect>) {
        let Some(Underway {
            since,
            reason,
            step,
            attempts,
            silence,
            let_go,
            assigned: Some(assigned),
            trained: Some(trained),
            from_store,
        }) = self.underway.take_if(|underway| underway.trained.is_some())
        else {
            return;
        };
        let let_go = let_go.unwrap_or(since);
        effects.push(Effect::Recovered(Recovery {
            generation: self.generation,
            reason,
            step,
            attempts,
            ranks: self.seated().count() as u32,
            from_store,
            silence: silence.as_secs_f64(),
            letting_go: let_go.since(since).as_secs_f64(),
            gathering: assigned.since(let_go).as_secs_f64(),
            connecting: trained.since(assigned).as_secs_f64(),
            stepping: self.now.since(trained).as_secs_f64(),
        }));
    }
}
