//! The communicator of a world of one rank: every sum is the tensor itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tch::Tensor;

use crate::collective::{AbortHandle, Collective, CollectiveError, Operation};
use crate::ids::Rank;

#[derive(Debug, Default)]
pub struct Solo {
    aborted: Arc<AtomicBool>,
}

impl Solo {
    fn check(&self, operation: Operation) -> Result<(), CollectiveError> {
        if self.aborted.load(Ordering::SeqCst) {
            return Err(CollectiveError::Aborted { operation });
        }
        Ok(())
    }
}

impl Collective for Solo {
    fn rank(&self) -> Rank {
        Rank(0)
    }

    fn world(&self) -> u32 {
        1
    }

    fn all_reduce_sum(&self, _tensor: &Tensor) -> Result<(), CollectiveError> {
        self.check(Operation::AllReduce)
    }

    fn broadcast(&self, _tensor: &Tensor, root: Rank) -> Result<(), CollectiveError> {
        if root != Rank(0) {
            let reason = format!("there is no rank {root} in a world of 1");
            return Err(CollectiveError::Refused {
                operation: Operation::Broadcast,
                reason,
            });
        }
        self.check(Operation::Broadcast)
    }

    fn barrier(&self) -> Result<(), CollectiveError> {
        self.check(Operation::Barrier)
    }

    fn abort_handle(&self) -> AbortHandle {
        let aborted = Arc::clone(&self.aborted);
        AbortHandle::new(move || aborted.store(true, Ordering::SeqCst))
    }

    fn leave(self: Box<Self>) {}
}
