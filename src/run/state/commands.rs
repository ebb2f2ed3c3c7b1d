//! What the state machine makes of operators' commands: taken or refused, and what became of them.

use crate::ids::CommandId;
use crate::run::command::{Command, CommandKind, CommandRecord, CommandStage};
use crate::run::event::Effect;
use crate::run::progress::decay_from;
use crate::run::schedule::PhaseKind;
use crate::run::state::{Millis, RunState, Stage};

impl RunState {
    /// Takes an operator's command, or refuses it with the reason.
    pub(super) fn ask(&mut self, kind: CommandKind, effects: &mut Vec<Effect>) -> CommandRecord {
        let id = CommandId(self.next_command);
        self.next_command += 1;
        let command = Command { id, kind };
        let (stage, lead) = match (self.refusal(kind), self.lead()) {
            (Some(reason), _) => (CommandStage::Refused { reason }, None),
            (None, None) => (
                CommandStage::Refused {
                    reason: "no rank leads yet".to_owned(),
                },
                None,
            ),
            (None, Some(lead)) => (CommandStage::Accepted, Some(lead)),
        };
        let record = CommandRecord { command, stage };
        if let Some(member) = lead {
            effects.push(Effect::Journal {
                record: record.clone(),
            });
            effects.push(Effect::Command { member, command });
        }
        let note = match &record.stage {
            CommandStage::Refused { reason } => format!("{} refused: {reason}", kind.verb()),
            _ => format!("{} accepted as command {id}", kind.verb()),
        };
        effects.push(Effect::Note { reason: note });
        self.commands.insert(id, record.clone());
        record
    }

    /// Why a command cannot be taken now. The ranks decide again at the step boundary.
    fn refusal(&self, kind: CommandKind) -> Option<String> {
        let pending = self.commands.values().find(|record| {
            record.stage == CommandStage::Accepted && kind.repeats(record.command.kind)
        });
        match (&self.stage, kind) {
            (Stage::Gathering | Stage::Connecting, _) => {
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

    /// What the ranks made of a command.
    pub(super) fn outcome(
        &mut self,
        id: CommandId,
        stage: &CommandStage,
        now: Millis,
        effects: &mut Vec<Effect>,
    ) {
        let Some(record) = self.commands.get_mut(&id) else {
            return;
        };
        record.stage.clone_from(stage);
        effects.push(Effect::Journal {
            record: record.clone(),
        });
        let kind = record.command.kind;
        let verb = kind.verb();
        match stage {
            CommandStage::Applied { step } => {
                let reason = format!("{verb} (command {id}) took effect after step {step}");
                match kind {
                    CommandKind::Pause => self.enter(Stage::Paused, reason, now, effects),
                    CommandKind::Resume => self.enter(Stage::Training, reason, now, effects),
                    CommandKind::Stop => self.enter(Stage::Ending, reason, now, effects),
                    CommandKind::Decay { .. } | CommandKind::Checkpoint { .. } => {
                        effects.push(Effect::Note { reason });
                    }
                }
            }
            CommandStage::Refused { reason } => {
                let reason = format!("{verb} (command {id}) refused: {reason}");
                effects.push(Effect::Note { reason });
            }
            CommandStage::Accepted => {}
        }
    }
}
