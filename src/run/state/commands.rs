//! What the state machine makes of operators' commands: taken or refused, and what became of them.

use crate::ids::{CommandId, Generation, Step};
use crate::run::command::{Command, CommandKind, CommandRecord, CommandStage};
use crate::run::event::{Effect, Entry, MemberId};
use crate::run::progress::decay_from;
use crate::run::schedule::PhaseKind;
use crate::run::state::{Place, RunState, Stage};

impl RunState {
    /// Takes an operator's command, or refuses it with the reason.
    pub(super) fn ask(&mut self, kind: CommandKind, effects: &mut Vec<Effect>) -> CommandRecord {
        let id = CommandId(self.next_command);
        self.next_command += 1;
        let command = Command { id, kind };
        let stage = match self.refusal(kind) {
            Some(reason) => CommandStage::Refused { reason },
            None => CommandStage::Accepted,
        };
        let record = CommandRecord { command, stage };
        if record.stage == CommandStage::Accepted {
            effects.push(Effect::Journal {
                entry: Entry::Command(record.clone()),
            });
            // A later lead gets it with its seat, and one that is connecting when it is ready.
            let sits = |id: &MemberId| self.members[id].place != Place::Connecting;
            if let Some(member) = self.lead().filter(sits) {
                effects.push(Effect::Command { member, command });
            }
        }
        let note = match &record.stage {
            CommandStage::Refused { reason } => format!("{} refused: {reason}", kind.verb()),
            _ => format!("{} accepted as command {id}", kind.verb()),
        };
        effects.push(Effect::Note { reason: note });
        self.commands.insert(id, record.clone());
        record
    }

    /// The commands that the ranks of the lineage may have to apply, by id; what their state holds
    /// already they pass over.
    pub fn replay(&self) -> Vec<CommandRecord> {
        let Some(lineage) = self.lineage else {
            return Vec::new();
        };
        let wanted = |record: &&CommandRecord| match (&record.stage, record.command.kind) {
            (CommandStage::Accepted, _) => true,
            (CommandStage::Refused { .. }, _) => false,
            (CommandStage::Applied { step }, CommandKind::Decay { .. }) => *step >= lineage.step,
            (CommandStage::Applied { .. }, _) => record.command.id >= lineage.first_command,
        };
        self.commands.values().filter(wanted).cloned().collect()
    }

    /// Settles what was commanded in a lineage that is no more: of what was accepted in an earlier
    /// epoch only decays are done by others, and a stop that took effect has to do so again.
    pub(super) fn begin_lineage(&mut self, effects: &mut Vec<Effect>) -> CommandId {
        let of_epoch = self.first_command_of_epoch;
        for record in self.commands.values_mut() {
            let is_old = record.command.id < of_epoch;
            record.stage = match (record.command.kind, &record.stage) {
                (CommandKind::Stop, CommandStage::Applied { .. }) if !is_old => {
                    CommandStage::Accepted
                }
                (CommandKind::Decay { .. }, _) => continue,
                (_, CommandStage::Accepted) if is_old => CommandStage::Refused {
                    reason: "the ranks that it was meant for are gone".to_owned(),
                },
                _ => continue,
            };
            effects.push(Effect::Journal {
                entry: Entry::Command(record.clone()),
            });
        }
        CommandId(self.next_command)
    }

    /// Whether a generation stands of which not all ranks have been heard of.
    fn is_coming_together(&self) -> bool {
        self.stage == Stage::Connecting || self.adoption.is_some()
    }

    /// A decay took effect before an older one that an earlier lineage knew at a later step: that
    /// one is no part of the history any more.
    fn overtake(&mut self, by: CommandId, at: Step, effects: &mut Vec<Effect>) {
        for record in self.commands.range_mut(..by).map(|(_, record)| record) {
            let is_later = matches!(record.stage, CommandStage::Applied { step } if step > at);
            if is_later && matches!(record.command.kind, CommandKind::Decay { .. }) {
                let reason = format!("the decay of command {by} took effect before");
                record.stage = CommandStage::Refused { reason };
                effects.push(Effect::Journal {
                    entry: Entry::Command(record.clone()),
                });
            }
        }
    }

    /// Why a command cannot be taken now. The ranks decide again at the step boundary.
    fn refusal(&self, kind: CommandKind) -> Option<String> {
        let pending = self.commands.values().find(|record| {
            record.stage == CommandStage::Accepted && kind.repeats(record.command.kind)
        });
        match (&self.stage, kind) {
            (Stage::Gathering | Stage::Connecting, _) if self.position.is_none() => {
                return Some(format!("the run has not started training: {}", self.reason));
            }
            (Stage::Ending | Stage::Finished | Stage::Stopped | Stage::Failed, _) => {
                return Some(format!("the run is over: {}", self.reason));
            }
            (Stage::Paused, CommandKind::Pause) => {
                return Some("the run is paused already".to_owned());
            }
            (Stage::Training, CommandKind::Resume) => {
                return Some("the run is not paused".to_owned());
            }
            _ => {}
        }
        if let Some(earlier) = pending {
            let id = earlier.command.id;
            return Some(format!(
                "command {id} asks for the same and has not taken effect yet"
            ));
        }
        let CommandKind::Decay { tokens } = kind else {
            return None;
        };
        let phases = &self.rules.schedule.phases;
        if phases.iter().all(|phase| phase.kind() == PhaseKind::Stable) {
            return Some("the run's YAML has no decay phase".to_owned());
        }
        let position = self.position.as_ref()?;
        let phase = phases
            .iter()
            .position(|phase| phase.name == position.phase)?;
        decay_from(phase, tokens, &self.rules.schedule)
            .err()
            .map(|refusal| refusal.to_string())
    }

    /// What the ranks made of a command. What is told twice may have happened twice: ranks that are
    /// lost take with them what others then come to again.
    pub(super) fn outcome(
        &mut self,
        generation: Generation,
        id: CommandId,
        stage: &CommandStage,
        effects: &mut Vec<Effect>,
    ) {
        let Some(record) = self.commands.get_mut(&id) else {
            return;
        };
        let kind = record.command.kind;
        let is_known = record.stage == *stage;
        if !is_known {
            record.stage.clone_from(stage);
            effects.push(Effect::Journal {
                entry: Entry::Command(record.clone()),
            });
            if let (CommandKind::Decay { .. }, CommandStage::Applied { step }) = (kind, stage) {
                self.overtake(id, *step, effects);
            }
        }
        let verb = kind.verb();
        let reason = match stage {
            CommandStage::Applied { step } => {
                let reason = format!("{verb} (command {id}) took effect after step {step}");
                if generation == self.generation && self.follow(kind, &reason, effects) {
                    return;
                }
                reason
            }
            CommandStage::Refused { reason } => format!("{verb} (command {id}) refused: {reason}"),
            CommandStage::Accepted => return,
        };
        if !is_known {
            effects.push(Effect::Note { reason });
        }
    }

    /// Enters the stage that the ranks came to by a command. True when it is another one.
    fn follow(&mut self, kind: CommandKind, reason: &str, effects: &mut Vec<Effect>) -> bool {
        let stage = match kind {
            CommandKind::Pause => Stage::Paused,
            CommandKind::Resume => Stage::Training,
            CommandKind::Stop => Stage::Ending,
            CommandKind::Decay { .. } | CommandKind::Checkpoint { .. } => return false,
        };
        if stage != Stage::Ending && self.is_coming_together() {
            self.heard_paused = Some(stage == Stage::Paused);
            return false;
        }
        let works = matches!(self.stage, Stage::Training | Stage::Paused);
        if !works || self.stage == stage {
            return false;
        }
        self.enter(stage, reason.to_owned(), effects);
        true
    }
}
