//! What reaches the core, the one task that owns the run's state.

use tokio::sync::{mpsc, oneshot};

use crate::coordinator::claim::Resume;
use crate::ids::{Epoch, Step};
use crate::run::command::{CommandKind, CommandRecord};
use crate::run::event::{Introduction, MemberId};
use crate::wire::{Order, Report};

/// Tells one connection of a member from the next.
pub(super) type ConnectionId = u64;

/// Takes the member's id, or the reason why it may not join.
pub(super) type JoinAnswer = oneshot::Sender<Result<MemberId, Refusal>>;

/// Why a process may not join.
pub(super) enum Refusal {
    /// The run is.
    Over(String),
    /// There is a newer coordinator than this one.
    Elsewhere,
}

/// What a reporting rank is told.
pub(super) struct Receipt {
    pub(super) is_member: bool,
    pub(super) stored_step: Step,
}

/// What reaches the core, from the network or from inside.
pub(super) enum Message {
    Joined {
        introduction: Introduction,
        /// The newest epoch that the process has heard of.
        epoch: Epoch,
        connection: ConnectionId,
        orders: mpsc::Sender<Order>,
        reply: JoinAnswer,
    },
    Left {
        member: MemberId,
        connection: ConnectionId,
    },
    Reported {
        member: MemberId,
        connection: ConnectionId,
        report: Report,
        reply: oneshot::Sender<Receipt>,
    },
    Asked {
        kind: CommandKind,
        reply: oneshot::Sender<CommandRecord>,
    },
    Broken {
        error: String,
    },
    /// For now; the run goes on without what cannot be written.
    StoreFails {
        error: String,
    },
    /// The coordinator's machine will be taken away.
    Warned {
        reason: String,
    },
    OutOfTime,
    Published {
        step: Step,
    },
    /// Where the run goes back to.
    WentBack(Resume),
    /// What the store has to go on from.
    Restorable(Resume),
    Tick,
}
