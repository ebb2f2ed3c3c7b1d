//! What a rank says of itself: which state of the run it holds, where it sits, and what it is at.

use serde::{Deserialize, Serialize};

use crate::ids::{Generation, Rank, Step};

/// The training state that a rank holds in its memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// The generation that began from the store, and from which this state came by steps and
    /// copies alone. States of two lineages have no common history.
    pub lineage: Generation,
    /// The generation of the last change. Another one may have gone on, from an older state, where
    /// the ranks of this one were out of reach: its state is the newer, whatever it has less.
    pub generation: Generation,
    /// Changes since the lineage began. Of two states of one generation the one with more changes
    /// is the newer.
    pub revision: u64,
    pub step: Step,
    pub paused: bool,
    /// No step is left to take; true where a command said so.
    pub ended: Option<bool>,
}

impl Standing {
    /// What orders the states of one lineage, the newest last.
    pub fn age(&self) -> (Generation, u64) {
        (self.generation, self.revision)
    }
}

/// A rank's place in a generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seat {
    pub generation: Generation,
    pub rank: Rank,
    pub world: u32,
}

/// What a compute thread is at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activity {
    /// Opening the corpus, or reading a state.
    #[default]
    Loading,
    /// Without a generation.
    Idle,
    /// Finding the other ranks.
    Connecting,
    /// In a collective operation, which ends when all are in it.
    Collective,
    /// On the device: forward, backward, update, evaluation.
    Computing,
    /// For the next batch.
    Data,
    /// For an earlier checkpoint on its way to the store.
    Store,
}

/// A sign of life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Beat {
    pub activity: Activity,
    /// Grows with everything that the compute thread gets done.
    pub ticks: u64,
    /// Mean time of the last steps outside collective operations, in seconds.
    pub own_seconds: f64,
    /// Checkpoints that are on their way from this process to the store.
    #[serde(default)]
    pub uploads: u64,
}
