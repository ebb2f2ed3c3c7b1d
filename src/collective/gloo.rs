//! The communicator of CPU ranks: libtorch's Gloo over TCP.
//!
//! Rank 0 serves a store ([`serve_store`]), tells its address to the others, and all form the
//! communicator over it ([`Gloo::form`]).

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tch::{Device, Kind, Tensor};

use crate::collective::{AbortHandle, Collective, CollectiveError, Operation};
use crate::ids::{Generation, Rank};
use crate::torch::gloo::{GlooGroup, GroupOptions, TcpStore};
use crate::torch::status::{ShimError, Status};

/// What c10d's Gloo sums and copies.
const KINDS: [Kind; 8] = [
    Kind::Float,
    Kind::Double,
    Kind::Half,
    Kind::BFloat16,
    Kind::Int64,
    Kind::Int,
    Kind::Int8,
    Kind::Uint8,
];

/// Words in Gloo's and the store's messages that mean a closed or refused connection.
const LOST: [&str; 8] = [
    "closed by peer",
    "reset by peer",
    "broken pipe",
    "refused",
    "socket closed",
    "failed to recv",
    "read error",
    "write error",
];

/// Words in their messages that mean a wait that ran out.
const LATE: [&str; 3] = ["timed out", "timeout", "time out"];

/// One rank's place in a generation, and how long its operations may take.
#[derive(Clone, Debug)]
pub struct Seat {
    pub generation: Generation,
    pub rank: Rank,
    pub world: u32,
    /// An address of this machine that the other ranks can reach.
    pub host: IpAddr,
    /// Limit of [`Gloo::form`].
    pub connect_timeout: Duration,
    /// Limit of every operation.
    pub operation_timeout: Duration,
}

/// Serves the store of a generation on a free port of `host`; what the other ranks need is its
/// `address()`.
pub fn serve_store(host: IpAddr, timeout: Duration) -> Result<TcpStore, CollectiveError> {
    TcpStore::serve(host, timeout).map_err(|error| classify(Operation::Form, error, timeout))
}

/// Connects to the store that rank 0 serves, trying again until `timeout`.
pub fn connect_store(address: SocketAddr, timeout: Duration) -> Result<TcpStore, CollectiveError> {
    TcpStore::connect(address, timeout).map_err(|error| classify(Operation::Form, error, timeout))
}

#[derive(Debug)]
pub struct Gloo {
    seat: Seat,
    group: GlooGroup,
}

impl Gloo {
    /// Blocks until all ranks of the generation are connected to each other. Keep the communicator
    /// of the generation before until then, or [`leave`](Collective::leave) it first.
    ///
    /// # Errors
    /// `TimedOut` when a rank does not come; `PeerLost` when the store or a peer goes away.
    pub fn form(store: &TcpStore, seat: Seat) -> Result<Self, CollectiveError> {
        let operation = Operation::Form;
        if seat.rank.0 >= seat.world || i32::try_from(seat.world).is_err() {
            let reason = format!(
                "there is no rank {} in a world of {}",
                seat.rank, seat.world
            );
            return Err(CollectiveError::Refused { operation, reason });
        }
        let options = GroupOptions {
            name: format!("generation-{}", seat.generation),
            rank: seat.rank.0,
            world: seat.world,
            host: seat.host,
            connect_timeout: seat.connect_timeout,
            operation_timeout: seat.operation_timeout,
        };
        let group = GlooGroup::form(store, &options)
            .map_err(|error| classify(operation, error, seat.connect_timeout))?;
        Ok(Self { seat, group })
    }

    /// Turns an error into ours, and aborts: see the rule in [`crate::collective`].
    fn settle(
        &self,
        operation: Operation,
        result: Result<(), ShimError>,
    ) -> Result<(), CollectiveError> {
        result.map_err(|error| {
            self.group.aborter().abort();
            classify(operation, error, self.seat.operation_timeout)
        })
    }
}

impl Collective for Gloo {
    fn rank(&self) -> Rank {
        self.seat.rank
    }

    fn world(&self) -> u32 {
        self.seat.world
    }

    fn all_reduce_sum(&self, tensor: &Tensor) -> Result<(), CollectiveError> {
        let operation = Operation::AllReduce;
        check(operation, tensor)?;
        if tensor.numel() == 0 {
            return Ok(());
        }
        self.settle(operation, self.group.all_reduce_sum(tensor))
    }

    fn broadcast(&self, tensor: &Tensor, root: Rank) -> Result<(), CollectiveError> {
        let operation = Operation::Broadcast;
        check(operation, tensor)?;
        if root.0 >= self.seat.world {
            let reason = format!("there is no rank {root} in a world of {}", self.seat.world);
            return Err(CollectiveError::Refused { operation, reason });
        }
        if tensor.numel() == 0 {
            return Ok(());
        }
        self.settle(operation, self.group.broadcast(tensor, root.0))
    }

    fn barrier(&self) -> Result<(), CollectiveError> {
        self.settle(Operation::Barrier, self.group.barrier())
    }

    fn abort_handle(&self) -> AbortHandle {
        let aborter = self.group.aborter();
        AbortHandle::new(move || aborter.abort())
    }

    fn leave(self: Box<Self>) {
        // A peer that died just now changes nothing for this rank, which has all its results.
        if let Err(error) = self.group.farewell() {
            tracing::debug!(rank = %self.seat.rank, %error, "left a communicator alone");
        }
    }
}

fn check(operation: Operation, tensor: &Tensor) -> Result<(), CollectiveError> {
    let refuse = |reason: String| Err(CollectiveError::Refused { operation, reason });
    if !tensor.defined() {
        return refuse("the tensor is undefined".into());
    }
    if tensor.device() != Device::Cpu {
        return refuse(format!(
            "Gloo works on CPU tensors, not on {:?}",
            tensor.device()
        ));
    }
    if !KINDS.contains(&tensor.kind()) {
        return refuse(format!("Gloo cannot work on {:?} elements", tensor.kind()));
    }
    if !tensor.is_contiguous() {
        return refuse("the tensor is not contiguous".into());
    }
    Ok(())
}

/// Gloo and the store report by exception text alone, so the text decides.
fn classify(operation: Operation, error: ShimError, limit: Duration) -> CollectiveError {
    let text = error.message.to_lowercase();
    let says = |words: &[&str]| words.iter().any(|word| text.contains(word));
    match error.status {
        Status::Aborted => CollectiveError::Aborted { operation },
        Status::Failed if says(&LOST) => CollectiveError::PeerLost {
            operation,
            detail: error.message,
        },
        Status::Failed if !says(&LATE) => CollectiveError::Failed {
            operation,
            detail: error.message,
        },
        Status::TimedOut | Status::Failed => CollectiveError::TimedOut {
            operation,
            limit_ms: limit.as_millis(),
        },
    }
}
