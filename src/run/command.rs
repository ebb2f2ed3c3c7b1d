//! What an operator can ask of a running run, and the directive that carries it to every rank.

use serde::{Deserialize, Serialize};

use crate::ids::{CommandId, Step};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CommandKind {
    /// Leave the stable phase for the next decay phase; its length may be given.
    Decay {
        tokens: Option<u64>,
    },
    /// By an operator, or by the coordinator's clock.
    Checkpoint {
        by_time: bool,
    },
    Pause,
    Resume,
    /// Take a checkpoint and end.
    Stop,
}

impl CommandKind {
    pub fn verb(self) -> &'static str {
        match self {
            Self::Decay { .. } => "decay",
            Self::Checkpoint { .. } => "checkpoint",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Stop => "stop",
        }
    }

    /// Whether a second one adds nothing while the first has not taken effect yet.
    pub fn repeats(self, first: Self) -> bool {
        match (self, first) {
            // The clock asks again; an operator wants to see a command of their own through.
            (Self::Checkpoint { by_time: false }, Self::Checkpoint { by_time: true }) => false,
            _ => self.verb() == first.verb(),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    pub id: CommandId,
    pub kind: CommandKind,
}

/// What became of a command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CommandStage {
    /// On its way to the ranks; it takes effect at the next step boundary.
    Accepted,
    Applied {
        step: Step,
    },
    Refused {
        reason: String,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandRecord {
    pub command: Command,
    pub stage: CommandStage,
}

impl CommandRecord {
    /// Why it was refused, if it was.
    pub fn refusal(&self) -> Option<&str> {
        match &self.stage {
            CommandStage::Refused { reason } => Some(reason),
            CommandStage::Accepted | CommandStage::Applied { .. } => None,
        }
    }
}

/// What the lead rank tells all ranks at a step boundary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Directive {
    Command(Command),
    /// The generation ends here; the next one goes on.
    Regroup,
}

/// Slots that a directive takes in the all-reduced statistics of a step.
pub const DIRECTIVE_SLOTS: usize = 3;
const REGROUP: f64 = 6.0;

/// A directive as the lead rank puts it into the sums of a step; the other ranks put zeros there,
/// so that the sum is the lead's directive on every rank. Numbers stay exact up to 2^53.
pub fn encode_directive(directive: Option<Directive>) -> [f64; DIRECTIVE_SLOTS] {
    let Command { id, kind } = match directive {
        None => return [0.0; DIRECTIVE_SLOTS],
        Some(Directive::Regroup) => return [REGROUP, 0.0, 0.0],
        Some(Directive::Command(command)) => command,
    };
    let (code, argument) = match kind {
        CommandKind::Decay { tokens } => (1.0, tokens.unwrap_or(0) as f64),
        CommandKind::Checkpoint { by_time } => (2.0, f64::from(u8::from(by_time))),
        CommandKind::Pause => (3.0, 0.0),
        CommandKind::Resume => (4.0, 0.0),
        CommandKind::Stop => (5.0, 0.0),
    };
    [code, id.0 as f64, argument]
}

/// The directive in the summed slots, if there is one.
pub fn decode_directive(slots: &[f64]) -> Option<Directive> {
    assert_eq!(
        slots.len(),
        DIRECTIVE_SLOTS,
        "the statistics carry one directive"
    );
    let kind = match slots[0] as u32 {
        0 => return None,
        6 => return Some(Directive::Regroup),
        1 => CommandKind::Decay {
            tokens: Some(slots[2] as u64).filter(|&tokens| tokens > 0),
        },
        2 => CommandKind::Checkpoint {
            by_time: slots[2] > 0.0,
        },
        3 => CommandKind::Pause,
        4 => CommandKind::Resume,
        5 => CommandKind::Stop,
        other => unreachable!("directive code {other}: only the lead rank fills these slots"),
    };
    Some(Directive::Command(Command {
        id: CommandId(slots[1] as u64),
        kind,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directives_survive_the_sum() {
        for kind in [
            CommandKind::Decay { tokens: None },
            CommandKind::Decay {
                tokens: Some(8_247_337_000),
            },
            CommandKind::Checkpoint { by_time: false },
            CommandKind::Checkpoint { by_time: true },
            CommandKind::Pause,
            CommandKind::Resume,
            CommandKind::Stop,
        ] {
            let directive = Directive::Command(Command {
                id: CommandId(7),
                kind,
            });
            assert_eq!(
                decode_directive(&encode_directive(Some(directive))),
                Some(directive)
            );
        }
        let regroup = Some(Directive::Regroup);
        assert_eq!(decode_directive(&encode_directive(regroup)), regroup);
        assert_eq!(decode_directive(&encode_directive(None)), None);
    }
}
