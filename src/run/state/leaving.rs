//! Machines that will be taken away: ranks that leave at a step boundary, and a run that stops
//! because the coordinator has to go or nobody stays.

use crate::ids::{CommandId, Step};
use crate::run::command::{CommandKind, CommandStage};
use crate::run::event::{Effect, MemberId};
use crate::run::state::{Member, Place, RunState, Stage};

/// How a run is left that goes on another time.
#[derive(Clone, Debug, Default)]
pub(super) struct Farewell {
    /// The coordinator has been told to go.
    warned: bool,
    /// The command for the checkpoint that the last ranks leave behind.
    refuge: Option<CommandId>,
    /// Why no rank is left.
    deserted: Option<String>,
}

impl RunState {
    /// Whether the run ended, or has to, only because its machines were taken away.
    pub fn is_interrupted(&self) -> bool {
        self.farewell.warned || self.farewell.deserted.is_some()
    }

    /// A scheduler will take a member's machine away.
    pub(super) fn member_warned(&mut self, id: MemberId, reason: String) {
        if let Some(member) = self.members.get_mut(&id) {
            member.leaving = Some(reason);
        }
    }

    /// A scheduler will take the coordinator's machine away: the run stops, with a checkpoint.
    pub(super) fn warned(&mut self, reason: &str, effects: &mut Vec<Effect>) {
        if self.stage.is_over() {
            return;
        }
        let is_first = !std::mem::replace(&mut self.farewell.warned, true);
        if is_first {
            let reason = format!("{reason}: the run stops after this step, with a checkpoint");
            effects.push(Effect::Note { reason });
        }
        let began = self.lineage.is_some() && self.position.is_some();
        let stops = self.stops() || self.ask(CommandKind::Stop, effects).refusal().is_none();
        if !stops && (!began || self.stage == Stage::Gathering) {
            self.end(Stage::Stopped, reason, None, effects);
        }
    }

    /// The time is over that the coordinator had to stop in.
    pub(super) fn out_of_time(&mut self, effects: &mut Vec<Effect>) {
        if !self.stage.is_over() {
            let newest = self.newest_checkpoint();
            let reason = format!("the time to stop in is over; {newest}");
            self.end(Stage::Stopped, &reason, None, effects);
        }
    }

    fn newest_checkpoint(&self) -> String {
        self.last_checkpoint.map_or_else(
            || "no checkpoint was made".to_owned(),
            |step| format!("the newest checkpoint is of step {step}"),
        )
    }

    /// Whether a stop is on its way.
    pub(super) fn stops(&self) -> bool {
        self.commands.values().any(|record| {
            record.command.kind == CommandKind::Stop && record.stage == CommandStage::Accepted
        })
    }

    /// Why the generation has to end for somebody who leaves, if now is the time. Where nobody
    /// would stay, a checkpoint is made first.
    pub(super) fn leave_taking(&mut self, effects: &mut Vec<Effect>) -> Option<String> {
        let leaving = |state: &Self| {
            state
                .seated()
                .find_map(|(id, member)| Some((id, member.leaving.clone()?)))
        };
        let (id, why) = leaving(self)?;
        if self.stops() {
            return None;
        }
        let reason = format!("{} leaves: {why}", self.name(id));
        let stays = |(_, member): (_, &Member)| member.leaving.is_none();
        if self.seated().any(stays) || self.candidates().any(stays) {
            return Some(reason);
        }
        match self.farewell.refuge {
            None => {
                let checkpoint = CommandKind::Checkpoint { by_time: false };
                let pending = self.commands.values().find(|record| {
                    record.stage == CommandStage::Accepted && checkpoint == record.command.kind
                });
                let id = match pending {
                    Some(record) => record.command.id,
                    None => self.ask(checkpoint, effects).command.id,
                };
                self.farewell.refuge = Some(id);
                None
            }
            Some(refuge) => self.is_stored(refuge).then(|| {
                self.farewell.deserted = Some(why);
                self.farewell.refuge = None;
                reason
            }),
        }
    }

    /// Whether the checkpoint that a command asked for exists, or never will.
    fn is_stored(&self, command: CommandId) -> bool {
        match self.commands.get(&command).map(|record| &record.stage) {
            Some(CommandStage::Accepted) => false,
            Some(CommandStage::Applied { step }) => {
                self.last_checkpoint.unwrap_or(Step(0)) >= *step
            }
            Some(CommandStage::Refused { .. }) | None => true,
        }
    }

    /// Whether nobody holds the state but members that have to leave, and no checkpoint of it was
    /// made for that.
    pub(super) fn only_leaving_hold(&self) -> bool {
        let holds = |member: &&Member| self.holds(member) && member.since.lost.is_none();
        let mut holders = self.members.values().filter(holds).peekable();
        self.farewell.deserted.is_none()
            && holders.peek().is_some()
            && holders.all(|member| member.leaving.is_some())
    }

    /// Lets those go that have to leave, hold no seat any more, and have nothing to upload. The
    /// last that hold the state stay for a checkpoint.
    pub(super) fn release_leaving(&mut self, effects: &mut Vec<Effect>) {
        let last = self.only_leaving_hold();
        let free: Vec<MemberId> = self
            .members
            .iter()
            .filter(|(_, member)| {
                let is_free = matches!(member.place, Place::Idle | Place::Opening);
                // What it said of itself before it came to its place is no news.
                let has_said = member.since.beat > member.since.place;
                let has_nothing = member.beat.uploads == 0 && !(last && self.holds(member));
                member.leaving.is_some() && is_free && has_said && has_nothing
            })
            .map(|(&id, _)| id)
            .collect();
        for id in free {
            let member = self.members.remove(&id).expect("it was just found");
            effects.push(Effect::Dismiss {
                member: id,
                reason: member.leaving.unwrap_or_default(),
                restart: false,
            });
        }
    }

    /// Ends a run that everybody has left, at once where it was to stop, and else when nobody has
    /// come for as long as a start may take. True when it ended.
    pub(super) fn end_deserted(&mut self, effects: &mut Vec<Effect>) -> bool {
        if !self.members.is_empty() {
            return false;
        }
        let Some(why) = self.farewell.deserted.clone() else {
            return false;
        };
        let late = self.now.since(self.stage_since) > self.rules.gather_timeout;
        if self.farewell.warned || self.stops() || late {
            let newest = self.newest_checkpoint();
            let reason = format!("all ranks have left ({why}); {newest}");
            self.end(Stage::Stopped, &reason, None, effects);
            return true;
        }
        false
    }

    /// A generation trains: whatever was left is taken up again.
    pub(super) fn taken_up(&mut self) {
        self.farewell.deserted = None;
        self.farewell.refuge = None;
    }
}
