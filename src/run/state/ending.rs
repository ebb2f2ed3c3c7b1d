//! The end of a run: after its last step, or because it failed.

use crate::ids::Generation;
use crate::run::event::{Effect, Entry, MemberId};
use crate::run::state::{Member, Place, RunState, Stage};

impl RunState {
    /// A rank took its last step, and what it had to upload is stored.
    pub(super) fn finish(
        &mut self,
        id: MemberId,
        generation: Generation,
        stopped: bool,
        effects: &mut Vec<Effect>,
    ) {
        let adopts = self.adoption.is_some();
        let current = generation == self.generation && (adopts || self.stage.has_generation());
        let Some(member) = self.members.get_mut(&id).filter(|_| current) else {
            return;
        };
        member.place = Place::Finished;
        member.beat.uploads = 0;
        self.stopped = stopped;
        // The last one to come back has yet to say so too.
        if !adopts && self.stage != Stage::Ending {
            let reason = "the last step is taken".to_owned();
            self.enter(Stage::Ending, reason, effects);
        }
    }

    /// Ends the run once all ranks have finished, and nobody has anything to upload: a former lead
    /// may still store files of the last step, over those that the last lead has stored, and only
    /// its checkpoint agrees with them then.
    pub(super) fn conclude(&mut self, effects: &mut Vec<Effect>) {
        let unfinished = |(_, member): (_, &Member)| member.place != Place::Finished;
        if self.seated().next().is_none() || self.seated().any(unfinished) {
            return;
        }
        let uploads = |member: &Member| member.since.lost.is_none() && member.beat.uploads > 0;
        let uploader = self.members.iter().find(|(_, member)| uploads(member));
        if let Some((&id, _)) = uploader {
            let name = self.name(id);
            self.reason = format!("the last step is taken; {name} still uploads a checkpoint");
            return;
        }
        let (stage, reason) = if self.stopped {
            (Stage::Stopped, "stopped on command")
        } else {
            (Stage::Finished, "all phases are done")
        };
        self.end(stage, reason, None, effects);
    }

    pub(super) fn fail(&mut self, error: &str, effects: &mut Vec<Effect>) {
        if !self.stage.is_over() {
            self.end(Stage::Failed, error, Some(error.to_owned()), effects);
        }
    }

    pub(super) fn end(
        &mut self,
        stage: Stage,
        reason: &str,
        error: Option<String>,
        effects: &mut Vec<Effect>,
    ) {
        self.enter(stage, reason.to_owned(), effects);
        effects.push(Effect::Journal {
            entry: Entry::Ended {
                reason: reason.to_owned(),
            },
        });
        for &member in self.members.keys() {
            effects.push(Effect::Dismiss {
                member,
                reason: reason.to_owned(),
                restart: false,
            });
        }
        effects.push(Effect::End { error });
    }
}
