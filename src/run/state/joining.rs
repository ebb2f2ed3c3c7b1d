//! Processes that join, or come back after their connection broke.

use crate::ids::Rank;
use crate::run::command::CommandStage;
use crate::run::event::{Attachment, Effect, Introduction, MemberId};
use crate::run::state::{Member, Place, RunState};

impl RunState {
    pub(super) fn join(&mut self, introduction: &Introduction, effects: &mut Vec<Effect>) {
        let now = self.now;
        if self.stage.is_over() {
            let reason = format!("the run is over: {}", self.reason);
            effects.push(Effect::Refuse { reason });
            return;
        }
        let known = introduction.member.filter(|&id| self.is_known(id));
        let id = known.unwrap_or(MemberId(self.next_member));
        if known.is_none() {
            self.next_member += 1;
        }
        effects.push(Effect::Welcome { member: id });
        if self.reattach(id, introduction, effects) {
            return;
        }
        // What the coordinator thought of it is out of date.
        if self
            .members
            .get(&id)
            .is_some_and(|member| member.rank.is_some())
        {
            let name = self.name(id);
            self.disband(format!("{name} came back anew"), effects);
        }
        let seat = introduction.attachment.seat();
        let place = match introduction.attachment {
            // One that is free says so again when it has told what came before.
            Attachment::Opening | Attachment::Idle => Place::Opening,
            _ => Place::LettingGo,
        };
        let member = Member::new(introduction, None, place, now);
        self.members.insert(id, member);
        if let Some(seat) = seat {
            effects.push(Effect::Abort {
                member: id,
                generation: seat.generation,
                reason: format!("generation {} is over", seat.generation),
            });
        }
    }

    fn is_known(&self, id: MemberId) -> bool {
        self.members.contains_key(&id) || self.awaited.contains(&id)
    }

    /// A member whose connection broke and that is still where it was. True when nothing is lost.
    fn reattach(
        &mut self,
        id: MemberId,
        introduction: &Introduction,
        effects: &mut Vec<Effect>,
    ) -> bool {
        let now = self.now;
        if self.adopt(id, introduction, effects) {
            return true;
        }
        let generation = self.generation;
        let Some(member) = self.members.get_mut(&id) else {
            return false;
        };
        // One that has finished says so again when it has told what came before.
        if !matches!(
            introduction.attachment,
            Attachment::Working(_) | Attachment::Finished(_)
        ) {
            return false;
        }
        let seat = introduction.attachment.seat();
        let same = seat
            .is_some_and(|seat| seat.generation == generation && Some(seat.rank) == member.rank);
        if !same || !self.stage.has_generation() {
            return false;
        }
        let connects = member.place == Place::Connecting;
        member.place = Place::Working;
        member.since.lost = None;
        member.since.beat = now;
        if member.rank == Some(Rank(0)) {
            self.tell_lead(id, effects);
        }
        if let (true, Some(standing)) = (connects, introduction.standing) {
            self.ready(id, generation, standing, effects);
        }
        true
    }

    /// What a lead that was away may have missed.
    pub(super) fn tell_lead(&self, lead: MemberId, effects: &mut Vec<Effect>) {
        for record in self.commands.values() {
            if record.stage == CommandStage::Accepted {
                effects.push(Effect::Command {
                    member: lead,
                    command: record.command,
                });
            }
        }
        if self.regrouping.is_some() {
            effects.push(Effect::Regroup {
                member: lead,
                generation: self.generation,
            });
        }
    }
}
