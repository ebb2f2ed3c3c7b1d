//! From processes that come and go to generations: who has a seat, and whose state is taken.

use std::cmp::Reverse;

use crate::ids::{Generation, Rank, Step};
use crate::run::event::{
    Effect, Entry, GenerationRecord, MemberId, MemberRecord, Origin, Parting, Placement,
};
use crate::run::goodput::Cause;
use crate::run::standing::{Seat, Standing};
use crate::run::state::{Lineage, Member, Place, Restorable, RunState, Stage};

/// Whoever holds the newest state comes first, and whoever holds none last.
type Candidate = (Reverse<Option<(Generation, u64)>>, MemberId);

impl RunState {
    /// A compute thread is without a generation.
    pub(super) fn idle(
        &mut self,
        id: MemberId,
        parting: Option<(Generation, Parting)>,
        standing: Option<Standing>,
        effects: &mut Vec<Effect>,
    ) {
        let now = self.now;
        let name = self.name(id);
        let Some(member) = self.members.get_mut(&id) else {
            return;
        };
        let was_seated = member.rank.is_some();
        member.place = Place::Idle;
        member.since.place = now;
        member.standing = standing;
        let Some((generation, how)) = parting else {
            return;
        };
        match how {
            Parting::Diverged => {
                self.dismiss(id, how.reason(&name), effects);
                return;
            }
            Parting::WentBack(spike) => {
                self.go_back(*spike, generation, effects);
                return;
            }
            Parting::Regrouped | Parting::Broken { .. } => {}
        }
        if was_seated && generation == self.generation && self.stage.has_generation() {
            let reason = match (&how, self.regrouping.clone()) {
                (Parting::Regrouped, Some(reason)) => reason,
                _ => how.reason(&name),
            };
            self.end_generation(reason, how == Parting::Regrouped, effects);
        }
    }

    /// The current generation is over: every member of it lets go at once.
    pub(super) fn disband(&mut self, reason: String, effects: &mut Vec<Effect>) {
        self.end_generation(reason, false, effects);
    }

    /// The same; at a boundary all part by themselves, one a moment before the other.
    pub(super) fn end_generation(
        &mut self,
        reason: String,
        at_boundary: bool,
        effects: &mut Vec<Effect>,
    ) {
        let now = self.now;
        if !self.stage.has_generation() {
            return;
        }
        let generation = self.generation;
        self.regrouping = None;
        self.recovery_begins(&reason);
        let mut lost = Vec::new();
        for (&id, member) in &mut self.members {
            if member.rank.take().is_none() {
                continue;
            }
            if member.since.lost.is_some() {
                lost.push(id);
            }
            if member.place != Place::Idle {
                member.place = Place::LettingGo;
                member.since.place = now;
                if !at_boundary {
                    effects.push(Effect::Abort {
                        member: id,
                        generation,
                        reason: reason.clone(),
                    });
                }
            }
        }
        // Their connections had closed, and now the generation broke: they did not just blink.
        for id in lost {
            self.members.remove(&id);
            self.rejoin = self.rules.limits.rejoin_closed;
        }
        // In a pause there is no step to take.
        self.fruitless = match self.stage {
            Stage::Paused => 0,
            _ => self.fruitless + 1,
        };
        self.enter(Stage::Gathering, reason, effects);
        if self.fruitless > self.rules.limits.fruitless_max {
            let error = format!(
                "{} generations in a row took no step; the last one ended so: {}",
                self.fruitless, self.reason
            );
            self.fail(&error, effects);
        }
    }

    /// A member is no more.
    pub(super) fn lose(&mut self, id: MemberId, reason: String, effects: &mut Vec<Effect>) {
        let Some(member) = self.members.remove(&id) else {
            return;
        };
        self.awaited.retain(|awaited| *awaited != id);
        self.rejoin = match member.since.lost {
            Some(_) => self.rules.limits.rejoin_closed,
            None => self.rules.limits.rejoin,
        };
        if member.since.lost.is_none() {
            self.silence = self.now.since(member.since.beat.min(member.since.ticked));
        }
        if member.rank.is_some() && self.stage.has_generation() {
            // A rank that had finished left nothing undone.
            let finished = member.place == Place::Finished && member.rank != Some(Rank(0));
            if !finished || self.seated().next().is_none() {
                self.disband(reason, effects);
            }
        } else {
            effects.push(Effect::Note { reason });
        }
    }

    /// Ends a member's process, so that its supervisor starts another.
    pub(super) fn dismiss(&mut self, id: MemberId, reason: String, effects: &mut Vec<Effect>) {
        effects.push(Effect::Dismiss {
            member: id,
            reason: reason.clone(),
            restart: true,
        });
        self.lose(id, reason, effects);
    }

    pub(super) fn rendezvous(
        &mut self,
        member: MemberId,
        generation: Generation,
        address: &str,
        effects: &mut Vec<Effect>,
    ) {
        if generation != self.generation || self.stage != Stage::Connecting {
            return;
        }
        for (other, _) in self.seated().filter(|&(other, _)| other != member) {
            effects.push(Effect::Rendezvous {
                member: other,
                generation,
                address: address.to_owned(),
            });
        }
    }

    pub(super) fn ready(
        &mut self,
        id: MemberId,
        generation: Generation,
        standing: Standing,
        effects: &mut Vec<Effect>,
    ) {
        let now = self.now;
        if generation != self.generation || self.stage != Stage::Connecting {
            return;
        }
        let Some(member) = self.members.get_mut(&id) else {
            return;
        };
        member.place = Place::Working;
        member.standing = Some(standing);
        if member.rank == Some(Rank(0)) {
            // What was asked for since the seat was given.
            self.tell_lead(id, effects);
        }
        if self
            .seated()
            .any(|(_, member)| member.place == Place::Connecting)
        {
            return;
        }
        self.checkpoint_since = now;
        self.restorable = Restorable::Unknown;
        self.taken_up();
        self.generation_trains();
        // What this rank said before it came to a pause that others have told of.
        let paused = self.heard_paused.take().unwrap_or(standing.paused);
        let (stage, verb) = if paused {
            (Stage::Paused, "is paused")
        } else {
            (Stage::Training, "trains")
        };
        let reason = format!("generation {generation} {verb}");
        self.enter(stage, reason, effects);
    }

    /// Forms the next generation as soon as that can be.
    pub(super) fn settle(&mut self, effects: &mut Vec<Effect>) {
        let now = self.now;
        if self.stage.is_over() || self.adoption.is_some() {
            return;
        }
        if self.lineage.is_none() || self.members.values().any(|member| self.holds(member)) {
            self.stateless_since = now;
        }
        self.release_leaving(effects);
        self.waits = Cause::Recovering;
        match self.stage {
            Stage::Gathering => {}
            Stage::Ending => return self.conclude(effects),
            _ => return self.regroup(effects),
        }
        if self.end_deserted(effects) {
            return;
        }
        let letting_go = self
            .members
            .iter()
            .find(|(_, member)| member.place == Place::LettingGo);
        if let Some((&id, _)) = letting_go {
            let name = self.name(id);
            self.reason = format!("{name} has yet to let go of the last generation");
            return;
        }
        self.all_have_let_go();
        let have = self.candidates().count() as u32;
        if self.candidates().any(|(_, member)| self.holds(member)) {
            if self.awaits() {
                let limit = self.rules.limits.rejoin.as_secs();
                self.reason = format!(
                    "ranks of the last generation may come back for {limit} s with a newer state"
                );
                return;
            }
            if have >= self.rules.min_ranks || self.only_leaving_hold() {
                self.assign(Origin::Ranks, effects);
            } else {
                let least = self.rules.min_ranks;
                let what = format!("{have} ranks are here, and `min_ranks` is {least}");
                self.wait_for_ranks(&what, effects);
            }
            return;
        }
        self.begin(have, effects);
    }

    /// Nobody holds the state: it comes from the store.
    fn begin(&mut self, have: u32, effects: &mut Vec<Effect>) {
        let now = self.now;
        let waited = now.since(self.stateless_since);
        if self.lineage.is_some() && waited < self.rejoin {
            let limit = self.rejoin.as_secs();
            self.reason = format!(
                "no rank that is here holds the state; those that do may come back for {limit} s"
            );
            return;
        }
        if self.restorable == Restorable::Unknown {
            self.restorable = Restorable::Asked;
            effects.push(Effect::Restore);
        }
        let want = self.rules.ranks;
        let late = now.since(self.stage_since) > self.rules.gather_timeout;
        let enough = have >= want || (late && have >= self.rules.min_ranks);
        match self.restorable {
            Restorable::Known(_) if enough => self.assign(Origin::Store, effects),
            _ if late && have < self.rules.min_ranks => {
                let limit = self.rules.gather_timeout.as_secs();
                let error = format!("only {have} of {want} ranks joined in {limit} s");
                self.fail(&error, effects);
            }
            _ if have < want => {
                self.waits = Cause::Ranks;
                self.reason = format!("waiting for {want} ranks to join, {have} are here");
            }
            _ => {
                self.waits = Cause::Store;
                "looking for the newest checkpoint that verifies".clone_into(&mut self.reason);
            }
        }
    }

    fn wait_for_ranks(&mut self, what: &str, effects: &mut Vec<Effect>) {
        let now = self.now;
        let limit = self.rules.gather_timeout;
        if now.since(self.stage_since) > limit {
            self.fail(&format!("{what}, for {} s", limit.as_secs()), effects);
        } else {
            self.waits = Cause::Ranks;
            self.reason = format!("{what}: waiting for more");
        }
    }

    /// Those that could take a seat. One that has to leave takes one only for a checkpoint of the
    /// state that nobody else holds.
    pub(super) fn candidates(&self) -> impl Iterator<Item = (MemberId, &Member)> {
        let last = self.only_leaving_hold();
        self.members
            .iter()
            .filter(move |(_, member)| {
                let stays = member.leaving.is_none() || (last && self.holds(member));
                member.place == Place::Idle && member.since.lost.is_none() && stays
            })
            .map(|(&id, member)| (id, member))
    }

    /// Whether a member holds the state of the lineage.
    pub(super) fn holds(&self, member: &Member) -> bool {
        let lineage = self.lineage.map(|lineage| lineage.generation);
        lineage.is_some() && member.standing.map(|standing| standing.lineage) == lineage
    }

    /// Gives the candidates their seats: the newest state leads.
    fn assign(&mut self, origin: Origin, effects: &mut Vec<Effect>) {
        let now = self.now;
        self.generation = Generation(self.generation.0 + 1);
        self.seats_are_given(origin);
        self.heard_paused = None;
        self.awaited.clear();
        let generation = self.generation;
        if let (Origin::Store, Restorable::Known(step)) = (origin, self.restorable) {
            self.forget_spikes_after(step.unwrap_or(Step(0)));
            self.lineage = Some(Lineage {
                generation,
                step: step.unwrap_or(Step(0)),
                first_command: self.begin_lineage(effects),
            });
        }
        let Some(lineage) = self.lineage else {
            return;
        };
        let age = |member: &Member| {
            let held = member
                .standing
                .filter(|held| held.lineage == lineage.generation);
            held.map(|held| held.age())
        };
        let mut seats: Vec<Candidate> = self
            .candidates()
            .map(|(id, member)| (Reverse(age(member)), id))
            .collect();
        seats.sort_unstable();
        // Those that leave pass their state on, and take no seat from those that stay.
        let leaving = |(_, id): &&(_, MemberId)| self.members[id].leaving.is_some();
        let most = self.rules.ranks as usize + seats.iter().filter(leaving).count();
        seats.truncate(most);
        let world = seats.len() as u32;
        let reason = match origin {
            Origin::Store => format!("generation {generation} of {world} ranks connects"),
            Origin::Ranks => format!(
                "generation {generation} of {world} ranks connects and goes on without a checkpoint"
            ),
        };
        let record = self.record(&seats, lineage, &reason);
        effects.push(Effect::Journal {
            entry: Entry::Generation(record),
        });
        for (rank, &(_, id)) in seats.iter().enumerate() {
            let rank = Rank(rank as u32);
            let member = self.members.get_mut(&id).expect("a candidate is a member");
            member.rank = Some(rank);
            member.place = Place::Connecting;
            member.since.place = now;
            member.since.ticked = now;
            effects.push(Effect::Assign {
                member: id,
                placement: Placement {
                    seat: Seat {
                        generation,
                        rank,
                        world,
                    },
                    lineage: lineage.generation,
                    origin,
                },
            });
        }
        self.enter(Stage::Connecting, reason, effects);
    }

    fn record(&self, seats: &[Candidate], lineage: Lineage, reason: &str) -> GenerationRecord {
        let members = seats.iter().map(|&(_, id)| MemberRecord {
            member: id,
            host: self.members[&id].host.clone(),
            process: self.members[&id].process,
        });
        GenerationRecord {
            generation: self.generation,
            lineage: lineage.generation,
            lineage_step: lineage.step,
            lineage_command: lineage.first_command,
            members: members.collect(),
            reason: reason.to_owned(),
        }
    }

    /// Asks the lead to end the generation at a boundary, where somebody waits for a seat or has to
    /// give one up.
    fn regroup(&mut self, effects: &mut Vec<Effect>) {
        let now = self.now;
        if !matches!(self.stage, Stage::Training | Stage::Paused) || self.regrouping.is_some() {
            return;
        }
        let world = self.seated().count() as u32;
        let window = self.rules.limits.join_window;
        let waiting: Vec<MemberId> = self.candidates().map(|(id, _)| id).collect();
        let newest = waiting.iter().map(|id| self.members[id].since.place).max();
        let reason = if let Some(reason) = self.leave_taking(effects) {
            reason
        } else if world < self.rules.ranks && newest.is_some_and(|at| now.since(at) >= window) {
            format!("{} more join", waiting.len())
        } else {
            return;
        };
        let Some(lead) = self.lead() else {
            return;
        };
        effects.push(Effect::Note {
            reason: format!("regrouping at the next step boundary: {reason}"),
        });
        effects.push(Effect::Regroup {
            member: lead,
            generation: self.generation,
        });
        self.regrouping = Some(reason);
    }
}
