//! Going on where an earlier coordinator died: its ranks step on, and come back with their seats.

use std::collections::BTreeSet;

use crate::run::event::{Attachment, Effect, Introduction, MemberId};
use crate::run::state::{Lineage, Member, Past, Place, RunState, Stage};

impl RunState {
    /// Prepares for the ranks of the last generation, as far as they may still live.
    pub(super) fn take_over(&mut self, past: Past) {
        let Some(record) = past.generation else {
            return;
        };
        let gone: BTreeSet<MemberId> = past.gone.into_iter().collect();
        if record
            .members
            .iter()
            .all(|each| gone.contains(&each.member))
        {
            return;
        }
        self.lineage = Some(Lineage {
            generation: record.lineage,
            step: record.lineage_step,
            first_command: record.lineage_command,
        });
        let left = record.members.iter().map(|each| each.member);
        self.awaited = left.filter(|member| !gone.contains(member)).collect();
        // With one of its ranks gone the generation will break; those that are left hold its state.
        if gone.is_empty() {
            self.reason = format!(
                "waiting for the {} ranks of generation {} to come back",
                record.members.len(),
                record.generation
            );
            self.adoption = Some(record);
        }
    }

    /// Whether a rank of the last generation may yet say that it holds a newer state than others.
    pub(super) fn awaits(&self) -> bool {
        let has_said = |id: &MemberId| {
            let member = self.members.get(id);
            member.is_some_and(|member| member.place != Place::Opening)
        };
        let late = self.now.since(self.began) >= self.rules.limits.rejoin;
        !late && !self.awaited.iter().all(has_said)
    }

    /// Takes a rank of the last generation back with its seat. True when it has one.
    pub(super) fn adopt(
        &mut self,
        id: MemberId,
        introduction: &Introduction,
        effects: &mut Vec<Effect>,
    ) -> bool {
        let now = self.now;
        let Some(record) = &self.adoption else {
            return false;
        };
        let expected = record.members.iter().any(|each| each.member == id);
        let has_finished = match introduction.attachment {
            Attachment::Working(_) => false,
            Attachment::Finished(_) => true,
            Attachment::Opening | Attachment::Idle | Attachment::Connecting(_) => {
                if expected {
                    let name = format!("process {}", introduction.process);
                    let reason = format!(
                        "generation {} broke while no coordinator watched: {name} is out of it",
                        record.generation
                    );
                    self.give_up_adoption(reason, effects);
                }
                return false;
            }
        };
        let seat = introduction.attachment.seat();
        let Some(seat) = seat.filter(|seat| expected && seat.generation == record.generation)
        else {
            return false;
        };
        // One that has finished says so again when it has told what came before.
        let member = Member::new(introduction, Some(seat.rank), Place::Working, now);
        self.members.insert(id, member);
        if self.seated().count() == record.members.len() {
            self.adoption = None;
            // From here on a rank that is lost is lost as ever.
            self.awaited.clear();
            let told = introduction.standing.map(|standing| standing.paused);
            let paused = self.heard_paused.take().or(told).unwrap_or(false);
            let stage = match (has_finished, paused) {
                (true, _) => Stage::Ending,
                (false, true) => Stage::Paused,
                (false, false) => Stage::Training,
            };
            let reason = format!(
                "generation {} goes on under a new coordinator",
                self.generation
            );
            self.enter(stage, reason, effects);
            if let Some(lead) = self.lead() {
                self.tell_lead(lead, effects);
            }
        }
        true
    }

    /// Goes on without the ranks that did not come back in time.
    pub(super) fn abandon_adoption(&mut self, effects: &mut Vec<Effect>) {
        let now = self.now;
        let Some(record) = &self.adoption else {
            return;
        };
        let lost = self.seated().any(|(_, member)| member.since.lost.is_some());
        if !lost && now.since(self.stage_since) < self.rules.limits.rejoin {
            return;
        }
        let missing: Vec<String> = record
            .members
            .iter()
            .filter(|each| !self.members.contains_key(&each.member))
            .map(|each| format!("process {} on {}", each.process, each.host))
            .collect();
        let limit = self.rules.limits.rejoin.as_secs();
        let reason = if lost {
            format!("a rank of generation {} is lost", record.generation)
        } else {
            format!("not back after {limit} s: {}", missing.join(", "))
        };
        self.give_up_adoption(reason, effects);
    }

    fn give_up_adoption(&mut self, reason: String, effects: &mut Vec<Effect>) {
        let now = self.now;
        self.adoption = None;
        let generation = self.generation;
        for (&id, member) in &mut self.members {
            if member.rank.take().is_some() {
                member.place = Place::LettingGo;
                member.since.place = now;
                effects.push(Effect::Abort {
                    member: id,
                    generation,
                    reason: reason.clone(),
                });
            }
        }
        self.enter(Stage::Gathering, reason, effects);
    }
}
