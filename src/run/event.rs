//! What the run's state machine is told and what it answers: facts in, effects out.

use serde::{Deserialize, Serialize};

use crate::ids::{CommandId, Generation, Rank, Step};
use crate::run::command::{Command, CommandKind, CommandRecord, CommandStage};
use crate::run::schedule::PhaseKind;

/// A worker process as the coordinator knows it, counted up from 1 as they join.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MemberId(pub u64);

/// Where the ranks stand, as the lead rank last said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    pub step: Step,
    pub tokens: u64,
    pub phase: String,
    pub phase_kind: PhaseKind,
}

/// A fact for the state machine.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    Joined {
        host: String,
        process: u32,
    },
    /// The member's connection closed.
    Left {
        member: MemberId,
    },
    RendezvousReady {
        member: MemberId,
        address: String,
    },
    Ready {
        member: MemberId,
    },
    StepTaken {
        position: Position,
    },
    CheckpointPublished {
        step: Step,
    },
    CommandAsked {
        kind: CommandKind,
    },
    CommandOutcome {
        id: CommandId,
        stage: CommandStage,
    },
    RankFailed {
        member: MemberId,
        error: String,
    },
    /// Something outside the ranks makes going on impossible.
    Broken {
        error: String,
    },
    /// The member took its last step and its uploads are done.
    RankFinished {
        member: MemberId,
        stopped: bool,
    },
    Tick,
}

/// What the shell must do, in this order.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    Welcome {
        member: MemberId,
    },
    Refuse {
        reason: String,
    },
    Assign {
        member: MemberId,
        rank: Rank,
        world: u32,
        generation: Generation,
    },
    Rendezvous {
        member: MemberId,
        generation: Generation,
        address: String,
    },
    Command {
        member: MemberId,
        command: Command,
    },
    /// To be written down before anything that follows: a later coordinator must know of it.
    Journal {
        record: CommandRecord,
    },
    /// The answer to the operator whose command was just handled.
    Answer {
        record: CommandRecord,
    },
    Shutdown {
        member: MemberId,
        reason: String,
    },
    /// Worth a line in the journal and the log.
    Note {
        reason: String,
    },
    /// The run is over; `error` says why it failed.
    End {
        error: Option<String>,
    },
}
