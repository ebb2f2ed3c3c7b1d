//! Loss spikes as the coordinator knows them: told, skipped, or gone back from.
//!
//! Going back is written down only when it is known where to. A coordinator that dies before has
//! not gone back: the ranks hold no state any more, the run goes on from its newest checkpoint,
//! comes to the same spike and goes back then.

use crate::ids::{Generation, Step};
use crate::run::event::{Effect, Entry};
use crate::run::spike::{self, Handling, Spike};
use crate::run::state::{Place, Restorable, RunState, Stage};

impl RunState {
    /// A step was skipped, or only told. One that is told again is known.
    pub(super) fn spiked(&mut self, found: Spike, effects: &mut Vec<Effect>) {
        if self.spikes.iter().any(|known| known.is_same(&found)) {
            return;
        }
        self.keep(found, effects);
    }

    /// The ranks of a generation gave up their state, to go on from an earlier one. Each says so.
    pub(super) fn go_back(
        &mut self,
        found: Spike,
        generation: Generation,
        effects: &mut Vec<Effect>,
    ) {
        let is_first = self.going_back.is_none() && self.lineage.is_some();
        if generation != self.generation || !is_first || self.stage.is_over() {
            return;
        }
        let step = found.step;
        let reason = format!("going back to an earlier checkpoint, because of step {step}");
        effects.push(Effect::GoBack { before: step });
        self.lineage = None;
        self.restorable = Restorable::Asked;
        self.going_back = Some(found);
        if self.adoption.take().is_some() {
            // Those of its ranks that are yet to come back have parted too.
            for member in self.members.values_mut().filter(|each| each.rank.is_some()) {
                member.rank = None;
                if member.place != Place::Idle {
                    member.place = Place::LettingGo;
                    member.since.place = self.now;
                }
            }
            self.enter(Stage::Gathering, reason, effects);
        } else {
            self.end_generation(reason, true, effects);
        }
    }

    /// It is known where the run goes on.
    pub(super) fn went_back(&mut self, to: Option<Step>, effects: &mut Vec<Effect>) {
        let Some(mut found) = self.going_back.take() else {
            return;
        };
        if self.stage.is_over() {
            return;
        }
        self.restorable = Restorable::Known(to);
        self.last_checkpoint = to;
        if let Handling::WentBack { to: known, .. } = &mut found.handling {
            *known = Some(to.unwrap_or(Step(0)));
        }
        self.keep(found, effects);
    }

    fn keep(&mut self, found: Spike, effects: &mut Vec<Effect>) {
        effects.push(Effect::Journal {
            entry: Entry::Spike(found.clone()),
        });
        spike::enter(&mut self.spikes, found);
    }

    /// Forgets what was told of steps that are taken again.
    pub(super) fn forget_spikes_after(&mut self, step: Step) {
        self.spikes
            .retain(|spike| spike.detour().is_some() || spike.step <= step);
    }
}
