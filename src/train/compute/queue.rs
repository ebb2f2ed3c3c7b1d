//! The commands that a rank may put before all others, and when each is due.

use std::collections::VecDeque;

use crate::ids::{Generation, Step};
use crate::run::command::{Command, CommandKind, CommandRecord, CommandStage};
use crate::run::progress::Progress;

/// Commands as they reach a rank.
#[derive(Debug, Default)]
pub struct CommandQueue {
    /// Commands that the state may hold already.
    pub replay: Vec<CommandRecord>,
    pub waiting: VecDeque<Command>,
    /// The generation that is to end at the next boundary.
    pub regroup: Option<Generation>,
    /// The newest checkpoint that is known to exist.
    pub published: Option<Step>,
}

impl CommandQueue {
    /// The command for the boundary after `boundary`: first what an earlier life applied there.
    pub fn next(&mut self, boundary: Step, progress: &Progress) -> Option<Command> {
        let last_applied = progress.last_command;
        self.replay.retain(|record| match record.stage {
            CommandStage::Applied { step } if step > boundary => true,
            CommandStage::Applied { step }
                if matches!(record.command.kind, CommandKind::Decay { .. }) =>
            {
                progress.owes(record.command.id, step, boundary)
            }
            // One that took effect before the checkpoint has to do so again: the ranks still step.
            CommandStage::Accepted if record.command.kind == CommandKind::Stop => true,
            _ => record.command.id > last_applied,
        });
        let due = self.replay.iter().position(|record| match record.stage {
            CommandStage::Applied { step } => step <= boundary,
            CommandStage::Accepted | CommandStage::Refused { .. } => true,
        });
        if let Some(due) = due {
            return Some(self.replay.remove(due).command);
        }
        let replay = &self.replay;
        self.waiting.retain(|command| {
            command.id > last_applied && replay.iter().all(|known| known.command.id != command.id)
        });
        self.waiting.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::CommandId;

    fn progress(step: u64, phase_start: u64, last_command: u64) -> Progress {
        Progress {
            step: Step(step),
            phase_start: Step(phase_start),
            phase_length_tokens: 100,
            last_command: CommandId(last_command),
            ..Progress::default()
        }
    }

    #[test]
    fn a_stop_of_an_earlier_life_stops_this_one_too() {
        let command = Command {
            id: CommandId(2),
            kind: CommandKind::Stop,
        };
        let record = CommandRecord {
            command,
            stage: CommandStage::Accepted,
        };
        let mut commands = CommandQueue {
            replay: vec![record],
            ..CommandQueue::default()
        };
        assert_eq!(commands.next(Step(7), &progress(7, 0, 2)), Some(command));
        assert_eq!(commands.next(Step(7), &progress(7, 0, 2)), None);
    }

    /// After a checkpoint from before it, a decay takes effect where it did, also when an operator
    /// asked for something else on the way there.
    #[test]
    fn a_decay_of_an_earlier_life_is_due_behind_newer_commands() {
        let decay = Command {
            id: CommandId(2),
            kind: CommandKind::Decay { tokens: None },
        };
        let record = CommandRecord {
            command: decay,
            stage: CommandStage::Applied { step: Step(7) },
        };
        let queue = || CommandQueue {
            replay: vec![record.clone()],
            ..CommandQueue::default()
        };
        let mut commands = queue();
        assert_eq!(commands.next(Step(6), &progress(5, 0, 1)), None);
        assert_eq!(commands.next(Step(7), &progress(6, 0, 4)), Some(decay));
        assert_eq!(commands.next(Step(7), &progress(7, 7, 4)), None);
        // The state of another rank that has it: a new seat asks with a new queue.
        assert_eq!(queue().next(Step(7), &progress(7, 7, 4)), None);
        assert_eq!(queue().next(Step(8), &progress(7, 7, 4)), None);
    }
}
