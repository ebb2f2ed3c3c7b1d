//! What the run's state machine is told and what it answers: facts in, effects out.

use serde::{Deserialize, Serialize};

use crate::ids::{CommandId, Epoch, Generation, Step};
use crate::run::command::{Command, CommandKind, CommandRecord, CommandStage};
use crate::run::goodput::Recovery;
use crate::run::schedule::PhaseKind;
use crate::run::spike::Spike;
use crate::run::standing::{Beat, Seat, Standing};

/// A worker process as the coordinators of a run know it: the epoch in which it joined and its
/// number there. It keeps its id when a later coordinator takes over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MemberId(pub u64);

/// Bits of a member's id that count within an epoch.
const NUMBER_BITS: u32 = 24;

impl MemberId {
    pub fn first_of(epoch: Epoch) -> Self {
        Self((epoch.0 << NUMBER_BITS) + 1)
    }
}

/// Where the ranks stand, as the lead rank last said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    pub step: Step,
    pub tokens: u64,
    pub phase: String,
    pub phase_kind: PhaseKind,
}

/// What a process says of itself when it joins, or comes back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Introduction {
    pub host: String,
    pub process: u32,
    /// Its id, where it has been welcomed before.
    pub member: Option<MemberId>,
    pub attachment: Attachment,
    pub standing: Option<Standing>,
}

/// What the compute thread of a process is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Attachment {
    /// Opening the corpus.
    Opening,
    /// Ready for a generation.
    Idle,
    /// Connecting to the others of a generation.
    Connecting(Seat),
    /// Stepping in a generation.
    Working(Seat),
    /// Past the last step of a generation.
    Finished(Seat),
}

impl Attachment {
    pub fn seat(self) -> Option<Seat> {
        match self {
            Self::Opening | Self::Idle => None,
            Self::Connecting(seat) | Self::Working(seat) | Self::Finished(seat) => Some(seat),
        }
    }
}

/// Why a rank is out of its generation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Parting {
    /// It was told to, at a step boundary; so have all others.
    Regrouped,
    /// A collective operation failed, or it was told to abort.
    Broken { error: String },
    /// Its weights are not those of the other ranks.
    Diverged,
    /// All ranks found that the run has to go on from an earlier checkpoint, and hold no state any
    /// more.
    WentBack(Box<Spike>),
}

/// A fact for the state machine.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    Joined(Introduction),
    /// The member's connection closed.
    Left {
        member: MemberId,
    },
    /// The member's compute thread has no generation (any more).
    Idle {
        member: MemberId,
        /// The generation that it parted from, and how.
        parting: Option<(Generation, Parting)>,
        standing: Option<Standing>,
    },
    RendezvousReady {
        member: MemberId,
        generation: Generation,
        address: String,
    },
    /// The member is connected, and its state is that of all others.
    Ready {
        member: MemberId,
        generation: Generation,
        standing: Standing,
    },
    Beat {
        member: MemberId,
        beat: Beat,
    },
    StepTaken {
        position: Position,
        /// Duration of the step.
        seconds: f64,
    },
    CheckpointPublished {
        step: Step,
    },
    /// What the store has to go on from: a checkpoint's step, or nothing.
    Restorable {
        step: Option<Step>,
    },
    /// A step was skipped, or told because of its loss.
    Spiked(Box<Spike>),
    /// The checkpoint that [`Effect::GoBack`] asked for, or nothing: the run's beginning.
    WentBack {
        to: Option<Step>,
    },
    CommandAsked {
        kind: CommandKind,
    },
    CommandOutcome {
        /// The generation that came to it.
        generation: Generation,
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
    /// The store does not take what it should, for now.
    StoreFails {
        error: String,
    },
    /// The member took its last step and its uploads are done.
    RankFinished {
        member: MemberId,
        generation: Generation,
        stopped: bool,
    },
    /// The member's machine will be taken away: a scheduler said so.
    Leaving {
        member: MemberId,
        reason: String,
    },
    /// So will the coordinator's.
    Warned {
        reason: String,
    },
    /// The time that it has for leaving is over.
    OutOfTime,
    Tick,
}

/// Where the state of a generation comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// From the ranks of it that hold the newest state.
    Ranks,
    /// From the newest checkpoint, or from the beginning where there is none; the lead rank reads.
    Store,
}

/// What a rank gets when a generation is formed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    pub seat: Seat,
    pub lineage: Generation,
    pub origin: Origin,
}

/// An agreed membership, as the journal keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GenerationRecord {
    pub generation: Generation,
    pub lineage: Generation,
    /// The step that the lineage began from.
    pub lineage_step: Step,
    /// Commands before this one were given to an earlier lineage.
    pub lineage_command: CommandId,
    /// By rank.
    pub members: Vec<MemberRecord>,
    pub reason: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberRecord {
    pub member: MemberId,
    pub host: String,
    pub process: u32,
}

/// A line of the journal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Entry {
    Command(CommandRecord),
    Generation(GenerationRecord),
    Spike(Spike),
    /// The run is over: no rank holds its state any more.
    Ended {
        reason: String,
    },
    /// Nothing follows in this epoch: a later coordinator has taken over.
    Sealed {
        by: Epoch,
    },
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
        placement: Placement,
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
    /// The lead rank ends the generation at the next step boundary.
    Regroup {
        member: MemberId,
        generation: Generation,
    },
    /// The member gives up the generation at once.
    Abort {
        member: MemberId,
        generation: Generation,
        reason: String,
    },
    /// To be written down before anything that follows: a later coordinator must know of it.
    Journal {
        entry: Entry,
    },
    /// The run goes on after a generation that ended.
    Recovered(Recovery),
    /// Finds out what the store has to go on from; the answer is [`Event::Restorable`].
    Restore,
    /// Finds an earlier checkpoint than the newest to go on from, of those before a step; the
    /// answer is [`Event::WentBack`].
    GoBack {
        before: Step,
    },
    /// The answer to the operator whose command was just handled.
    Answer {
        record: CommandRecord,
    },
    /// The member's process ends; its supervisor starts another where `restart` says so.
    Dismiss {
        member: MemberId,
        reason: String,
        restart: bool,
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
