//! A communicator that says when its rank is inside an operation.

use tch::Tensor;

use crate::collective::{AbortHandle, Collective, CollectiveError};
use crate::ids::Rank;
use crate::run::standing::Activity;
use crate::telemetry::pulse::Pulse;

pub struct Watched {
    inner: Box<dyn Collective>,
    pulse: Pulse,
}

impl Watched {
    pub fn new(inner: Box<dyn Collective>, pulse: Pulse) -> Self {
        Self { inner, pulse }
    }
}

impl Collective for Watched {
    fn rank(&self) -> Rank {
        self.inner.rank()
    }

    fn world(&self) -> u32 {
        self.inner.world()
    }

    fn all_reduce_sum(&self, tensor: &Tensor) -> Result<(), CollectiveError> {
        let _during = self.pulse.during(Activity::Collective);
        self.inner.all_reduce_sum(tensor)
    }

    fn broadcast(&self, tensor: &Tensor, root: Rank) -> Result<(), CollectiveError> {
        let _during = self.pulse.during(Activity::Collective);
        self.inner.broadcast(tensor, root)
    }

    fn barrier(&self) -> Result<(), CollectiveError> {
        let _during = self.pulse.during(Activity::Collective);
        self.inner.barrier()
    }

    fn abort_handle(&self) -> AbortHandle {
        self.inner.abort_handle()
    }

    fn leave(self: Box<Self>) {
        let _during = self.pulse.during(Activity::Collective);
        self.inner.leave();
    }
}
