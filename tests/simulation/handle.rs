//! How a task sees the world: as the process that it runs in.

use std::cell::{RefCell, RefMut};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use cohort::run::state::Millis;
use cohort::store::Store;
use cohort::train::compute::Outbox;

use crate::scenario::Time;
use crate::world::{CoordinatorProcess, Happening, Pid, RankProcess, World};

#[derive(Clone)]
pub struct Handle {
    world: Rc<RefCell<World>>,
    pub pid: Pid,
}

impl Handle {
    pub fn new(world: Rc<RefCell<World>>, pid: Pid) -> Self {
        Self { world, pid }
    }

    pub fn world(&self) -> RefMut<'_, World> {
        self.world.borrow_mut()
    }

    pub fn rank(&self) -> RefMut<'_, RankProcess> {
        RefMut::map(self.world(), |world| {
            let rank = world.rank(self.pid);
            rank.expect("a task ends with its process")
        })
    }

    pub fn coordinator(&self) -> RefMut<'_, CoordinatorProcess> {
        RefMut::map(self.world(), |world| {
            let coordinator = world.coordinator(self.pid);
            coordinator.expect("a task ends with its process")
        })
    }

    pub fn clock(&self) -> Millis {
        self.world().clock(self.pid)
    }

    pub fn store(&self) -> Store {
        self.world().bucket.store(self.pid)
    }

    pub async fn sleep(&self, span: Time) {
        let until = {
            let mut world = self.world();
            world.after(span, Happening::Wake(self.pid));
            world.now + span
        };
        poll_fn(|_| {
            if self.world().now >= until {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
    }

    /// Waits until something is there.
    pub async fn until<T>(&self, mut look: impl FnMut(&mut World) -> Option<T>) -> T {
        poll_fn(|_| match look(&mut self.world()) {
            Some(found) => Poll::Ready(found),
            None => Poll::Pending,
        })
        .await
    }

    pub fn tell(&self, told: Outbox) {
        self.world().told(self.pid, told);
    }
}
