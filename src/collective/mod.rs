//! What the ranks of one generation do together: sum gradients, copy state, agree on a boundary.
//!
//! All ranks call the same operations in the same order with tensors of one shape and dtype. Every
//! operation has a deadline, so a breach of that rule, a dead peer and a hung one all end in a
//! [`CollectiveError`] that names the operation. After any error but [`CollectiveError::Refused`]
//! the communicator is aborted: it closes its connections, so that the error spreads to the peers
//! at once, and every later operation fails. There is no repair; the ranks form the next
//! generation.
//!
//! Invariant: after a successful operation all ranks hold the same bits.

pub mod gloo;
pub mod solo;
pub mod watched;

use std::fmt;
use std::sync::Arc;

use tch::Tensor;
use thiserror::Error;

use crate::ids::Rank;

/// One rank's end of a communicator. It stays on the thread that owns the rank's tensors; only its
/// [`AbortHandle`] travels.
pub trait Collective {
    /// This rank's place in the generation.
    fn rank(&self) -> Rank;

    /// How many ranks the generation has.
    fn world(&self) -> u32;

    /// Replaces the tensor's elements by their sums over all ranks, in place. The order of the sums
    /// depends on the world's size, never on timing. After an error the content is undefined.
    fn all_reduce_sum(&self, tensor: &Tensor) -> Result<(), CollectiveError>;

    /// Copies the root's tensor into every rank's, in place. After an error the content is
    /// undefined.
    fn broadcast(&self, tensor: &Tensor, root: Rank) -> Result<(), CollectiveError>;

    /// Returns when all ranks are here.
    fn barrier(&self) -> Result<(), CollectiveError>;

    /// What ends this communicator from any thread.
    fn abort_handle(&self) -> AbortHandle;

    /// Drops a communicator in good health after all ranks have finished with it. Dropping it
    /// without this can fail a slower peer that still reads the last result. Blocks until all
    /// ranks leave, or until the operations' deadline.
    fn leave(self: Box<Self>);
}

/// Ends a communicator from any thread: the operation in flight and all later ones return
/// [`CollectiveError::Aborted`] here and an error on the peers. It may be called again.
#[derive(Clone)]
pub struct AbortHandle(Arc<dyn Fn() + Send + Sync>);

impl AbortHandle {
    pub fn new(abort: impl Fn() + Send + Sync + 'static) -> Self {
        Self(Arc::new(abort))
    }

    pub fn abort(&self) {
        (self.0)();
    }
}

impl fmt::Debug for AbortHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AbortHandle")
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Finding the peers and connecting to them.
    Form,
    AllReduce,
    Broadcast,
    Barrier,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Operation::Form => "forming the communicator",
            Operation::AllReduce => "all-reduce",
            Operation::Broadcast => "broadcast",
            Operation::Barrier => "barrier",
        })
    }
}

/// Why an operation failed, by what to do next.
#[derive(Debug, Error)]
pub enum CollectiveError {
    /// Form the next generation without the peer that the coordinator finds dead.
    #[error(
        "{operation}: the connection to a peer is lost: {detail}\n  \
         hint: the peer's own log says why it stopped; training goes on with the ranks left"
    )]
    PeerLost {
        operation: Operation,
        detail: String,
    },

    /// Some peer hangs or never came: report it, then form the next generation.
    #[error(
        "{operation}: not finished after {limit_ms} ms\n  \
         hint: a peer hangs or runs much slower than the rest; compare the ranks' last reports"
    )]
    TimedOut {
        operation: Operation,
        limit_ms: u128,
    },

    /// This rank was told to give up; whoever told it knows what comes next.
    #[error("{operation}: the communicator was aborted on this rank")]
    Aborted { operation: Operation },

    /// The caller asked for what this communicator cannot do. The communicator is still sound.
    #[error("{operation}: {reason}")]
    Refused {
        operation: Operation,
        reason: String,
    },

    /// This rank's own libtorch failed: replace this rank.
    #[error("{operation}: {detail}\n  hint: restart this rank; the others go on without it")]
    Failed {
        operation: Operation,
        detail: String,
    },
}
