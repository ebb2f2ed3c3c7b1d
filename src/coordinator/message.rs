//! What reaches the core, the one task that owns the run's state.

use tokio::sync::{mpsc, oneshot};

use crate::ids::Step;
use crate::run::command::{CommandKind, CommandRecord};
use crate::run::event::MemberId;
use crate::wire::{Order, Report};

/// Takes the member's id, or the reason why it may not join.
pub(super) type JoinAnswer = oneshot::Sender<Result<MemberId, String>>;

/// What reaches the core, from the network or from inside.
pub(super) enum Message {
    Joined {
        host: String,
        process: u32,
        orders: mpsc::Sender<Order>,
        reply: JoinAnswer,
    },
    Left {
        member: MemberId,
    },
    Reported {
        member: MemberId,
        report: Report,
    },
    Asked {
        kind: CommandKind,
        reply: oneshot::Sender<CommandRecord>,
    },
    Broken {
        error: String,
    },
    Published {
        step: Step,
    },
    Tick,
}
