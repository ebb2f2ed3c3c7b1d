//! Which members are lost: gone, silent, or hanging. Slow ones are told of and left alone.

use std::collections::VecDeque;
use std::time::Duration;

use crate::ids::Step;
use crate::run::event::{Effect, MemberId};
use crate::run::standing::{Activity, Beat};
use crate::run::state::{Member, Millis, Place, RunState, Stage};

/// Steps whose times count.
const STEPS_KEPT: usize = 31;
/// Fewer say nothing.
const STEPS_MIN: usize = 3;
/// A rank that computes so many times longer than the median is told of.
const SLOW: f64 = 2.0;

/// Ticks come several times a second; one that comes so late says that the coordinator stood still.
const OWN_ABSENCE: Duration = Duration::from_secs(2);

/// Of ranks that have just taken their seats the first steps count too much.
const SETTLED: Duration = Duration::from_secs(30);

/// How long steps take.
#[derive(Clone, Debug, Default)]
pub(super) struct Pace {
    recent: VecDeque<f64>,
}

impl Pace {
    pub(super) fn enter(&mut self, seconds: f64) {
        if self.recent.len() == STEPS_KEPT {
            self.recent.pop_front();
        }
        self.recent.push_back(seconds);
    }

    /// In seconds, once enough steps were taken.
    fn median(&self) -> Option<f64> {
        (self.recent.len() >= STEPS_MIN).then(|| median(self.recent.iter().copied().collect()))
    }
}

/// Of two in the middle the lower one; zero where there is none.
fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    let middle = numbers.len().saturating_sub(1) / 2;
    numbers.get(middle).copied().unwrap_or_default()
}

impl RunState {
    pub(super) fn leave(&mut self, id: MemberId) {
        let now = self.now;
        if let Some(member) = self.members.get_mut(&id) {
            member.since.lost.get_or_insert(now);
        }
    }

    pub(super) fn beat(&mut self, id: MemberId, beat: Beat) {
        let now = self.now;
        let Some(member) = self.members.get_mut(&id) else {
            return;
        };
        member.since.beat = now;
        if beat.ticks != member.beat.ticks || beat.activity != member.beat.activity {
            member.since.ticked = now;
        }
        member.beat = beat;
    }

    /// A coordinator that was itself away heard nobody: that time does not count.
    pub(super) fn forgive_own_absence(&mut self) {
        let now = self.now;
        let away = now.since(self.ticked);
        self.ticked = now;
        if away < OWN_ABSENCE {
            return;
        }
        let later = |then: Millis| Millis(then.0 + away.as_millis() as u64).min(now);
        for member in self.members.values_mut() {
            let since = &mut member.since;
            since.place = later(since.place);
            since.beat = later(since.beat);
            since.ticked = later(since.ticked);
            since.lost = since.lost.map(later);
        }
    }

    /// Tells of ranks that compute much longer than the median of all.
    fn find_slow(&mut self, effects: &mut Vec<Effect>) {
        let usual = median(
            self.seated()
                .map(|(_, member)| member.beat.own_seconds)
                .collect(),
        );
        let slow = |member: &Member| {
            let ratio = member.beat.own_seconds / usual;
            let settled = self.now.since(member.since.place) >= SETTLED;
            (settled && usual > 0.0 && ratio >= SLOW).then_some(ratio)
        };
        let found: Vec<(MemberId, Option<f64>)> = self
            .seated()
            .map(|(id, member)| (id, slow(member)))
            .collect();
        for (id, ratio) in found {
            let name = self.name(id);
            let member = self.members.get_mut(&id).expect("it was just found");
            if let (None, Some(ratio)) = (member.slow, ratio) {
                effects.push(Effect::Note {
                    reason: format!("{name} computes {ratio:.1} times longer than the other ranks"),
                });
            }
            member.slow = ratio;
        }
    }

    /// How long a compute thread may get nothing done.
    pub(super) fn progress_limit(&self) -> Duration {
        let limits = &self.rules.limits;
        self.pace.median().map_or(limits.progress_first, |median| {
            let steps = Duration::from_secs_f64(median * limits.progress_steps);
            limits.progress_min.max(steps)
        })
    }

    pub(super) fn find_lost(&mut self, effects: &mut Vec<Effect>) {
        let now = self.now;
        self.abandon_adoption(effects);
        let members: Vec<MemberId> = self.members.keys().copied().collect();
        for id in members {
            let name = self.name(id);
            let Some(member) = self.members.get(&id) else {
                continue;
            };
            if let Some(lost) = member.since.lost {
                if now.since(lost) >= self.rules.limits.reconnect {
                    let step = self.position.as_ref().map_or(Step(0), |at| at.step);
                    self.lose(id, format!("{name} died after step {step}"), effects);
                }
            } else if let Some(reason) = self.hangs(member) {
                self.dismiss(id, format!("{name} {reason}"), effects);
            } else if self.is_late_at_boundary(member) {
                effects.push(Effect::Abort {
                    member: id,
                    generation: self.generation,
                    reason: "the others have parted".to_owned(),
                });
            }
        }
        self.find_stuck_generation(effects);
        self.find_slow(effects);
    }

    /// Whether a member that should have parted at a boundary may be waiting for one that is lost.
    fn is_late_at_boundary(&self, member: &Member) -> bool {
        let waited = self.now.since(member.since.place);
        member.place == Place::LettingGo && waited >= self.rules.limits.abort / 2
    }

    /// Why a member that is connected counts as lost, if it does.
    fn hangs(&self, member: &Member) -> Option<String> {
        let now = self.now;
        let limits = &self.rules.limits;
        if now.since(member.since.beat) >= limits.silence {
            let limit = limits.silence.as_secs();
            return Some(format!(
                "has said nothing for {limit} s: it is stopped or cut off"
            ));
        }
        if member.place == Place::LettingGo && now.since(member.since.place) >= limits.abort {
            let limit = limits.abort.as_secs();
            return Some(format!(
                "did not let go of generation {} within {limit} s: it hangs {}",
                self.generation,
                member.beat.activity.in_words()
            ));
        }
        let limit = self.progress_limit();
        let idle = now.since(member.since.ticked);
        let computes = member.rank.is_some() && member.beat.activity == Activity::Computing;
        (computes && idle >= limit).then(|| {
            format!(
                "got nothing done for {} s: it hangs {}",
                idle.as_secs(),
                member.beat.activity.in_words()
            )
        })
    }

    /// A generation in which everybody waits for everybody, or which never connects.
    fn find_stuck_generation(&mut self, effects: &mut Vec<Effect>) {
        let now = self.now;
        let limit = match self.stage {
            Stage::Connecting => self.rules.gather_timeout,
            Stage::Training | Stage::Paused | Stage::Ending => self.progress_limit(),
            _ => return,
        };
        let waits = |member: &Member| {
            let activity = member.beat.activity;
            let together = matches!(activity, Activity::Collective | Activity::Connecting);
            together && now.since(member.since.ticked) >= limit
        };
        let connects_too_long =
            self.stage == Stage::Connecting && now.since(self.stage_since) >= limit;
        // Those that took their last step wait for the others as well.
        let unfinished = |(_, member): &(MemberId, &Member)| member.place != Place::Finished;
        let anybody = self.seated().any(|each| unfinished(&each));
        let all_wait = anybody
            && self
                .seated()
                .filter(unfinished)
                .all(|(_, member)| waits(member));
        if all_wait || connects_too_long {
            let seconds = limit.as_secs();
            let reason = if self.stage == Stage::Connecting {
                let late: Vec<String> = self
                    .seated()
                    .filter(|(_, member)| member.place == Place::Connecting)
                    .map(|(id, _)| self.name(id))
                    .collect();
                format!("not connected after {seconds} s: {}", late.join(", "))
            } else {
                format!(
                    "all ranks wait for each other for {seconds} s: the network between them \
                     swallows packets"
                )
            };
            self.disband(reason, effects);
        }
    }
}

impl Activity {
    pub fn in_words(self) -> &'static str {
        match self {
            Self::Loading => "in reading the corpus or the state",
            Self::Idle => "without a generation",
            Self::Connecting => "in finding the other ranks",
            Self::Collective => "in a collective operation",
            Self::Computing => "in computing",
            Self::Data => "in waiting for data",
            Self::Store => "in waiting for the store",
        }
    }
}
