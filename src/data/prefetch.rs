//! Building the next batches on a thread of its own while the device computes.
//!
//! The consumer says what it needs now and what it expects to need next. What it no longer expects
//! (the phase changed, the ranks changed) is dropped, so a wrong guess costs time and never a wrong
//! batch. Invariants: at most `ahead_max` batches beyond the wanted one wait in memory; a batch is
//! handed out only for the exact request it was built for; no wait for a batch is without a
//! deadline, and a failed build is an error at the consumer.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::time::Instant;

use crate::data::batch::Batch;
use crate::ids::RowIndex;

/// What a batch is built for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BatchRequest {
    /// The phase's number in its run.
    pub phase: u32,
    pub rows: Vec<RowIndex>,
}

/// A batch, and how long the consumer waited for it.
#[derive(Debug)]
pub struct Delivery {
    pub batch: Batch,
    pub wait: Duration,
}

/// Owns the thread; dropping it stops the thread after the batch that is being built.
#[derive(Debug)]
pub struct Prefetcher {
    shared: Arc<Shared>,
    ahead_max: usize,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// What is wanted and not handed out yet, most urgent first.
    wanted: Vec<BatchRequest>,
    ready: BTreeMap<BatchRequest, Result<Batch>>,
    stopping: bool,
    /// The thread has ended, in order or by a panic.
    ended: bool,
}

/// How long a batch is waited for.
#[derive(Clone, Copy)]
pub struct Patience<'a> {
    /// Since the last sign of life.
    pub limit: Duration,
    /// A count that grows while something comes from the corpus's storage.
    pub fetched_bytes: &'a dyn Fn() -> u64,
    /// Whether nobody wants the batch any more.
    pub given_up: &'a dyn Fn() -> bool,
}

/// How often a wait looks whether it is given up.
const GLANCE: Duration = Duration::from_millis(100);

impl Prefetcher {
    /// Starts the thread. `build` makes the batch of a request, of any phase; `ahead_max` is the
    /// number of expected batches that are built beyond the wanted one.
    pub fn start<F>(ahead_max: usize, build: F) -> Result<Self>
    where
        F: Fn(&BatchRequest) -> Result<Batch> + Send + 'static,
    {
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        let thread = Builder::new()
            .name("cohort-prefetch".to_owned())
            .spawn(move || serve(&theirs, build))
            .context("cannot start the prefetch thread")?;
        Ok(Self {
            shared,
            ahead_max,
            thread: Some(thread),
        })
    }

    /// Hands out the batch of `wanted`, built before or now, and sets what is built next.
    ///
    /// Fails when the build failed, when the thread is gone, or when the patience is at its end.
    pub fn take(
        &self,
        wanted: &BatchRequest,
        expected: &[BatchRequest],
        patience: Patience<'_>,
    ) -> Result<Delivery> {
        let begun = Instant::now();
        let mut state = self.shared.lock();
        state.wanted.clear();
        state.wanted.push(wanted.clone());
        state
            .wanted
            .extend(expected.iter().take(self.ahead_max).cloned());
        let State {
            wanted: list,
            ready,
            ..
        } = &mut *state;
        ready.retain(|request, _| list.contains(request));
        self.shared.changed.notify_all();
        let limit = patience.limit;
        let mut fetched_bytes = (patience.fetched_bytes)();
        let mut alive = Instant::now();
        let mut state = loop {
            let missing = |state: &mut State| !state.ready.contains_key(wanted) && !state.ended;
            let glance = GLANCE.min(limit);
            let woken = self
                .shared
                .changed
                .wait_timeout_while(state, glance, missing);
            let (held, outcome) = woken.expect("nothing panics while it holds the state");
            if !outcome.timed_out() {
                break held;
            }
            if (patience.given_up)() {
                bail!("nobody waits for the batch any more");
            }
            let now = (patience.fetched_bytes)();
            if now != fetched_bytes {
                fetched_bytes = now;
                alive = Instant::now();
            } else if alive.elapsed() >= limit {
                break held;
            }
            state = held;
        };
        let Some(built) = state.ready.remove(wanted) else {
            if state.ended {
                bail!("the prefetch thread has ended; its last words are in the log");
            }
            bail!(
                "no batch of {} rows from row {} of phase {}, and nothing fetched for {limit:?}\n  \
                 hint: the corpus's storage may be slow or gone",
                wanted.rows.len(),
                wanted.rows.first().copied().unwrap_or_default(),
                wanted.phase
            );
        };
        state.wanted.retain(|request| request != wanted);
        Ok(Delivery {
            batch: built?,
            wait: begun.elapsed(),
        })
    }
}

impl Drop for Prefetcher {
    fn drop(&mut self) {
        self.shared.lock().stopping = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was reported to the consumer as `ended`.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .expect("nothing panics while it holds the state")
    }

    /// Waits until something is wanted that is not ready; `None` when the thread must stop. Without
    /// a deadline: an idle thread waits for its owner, who ends it on drop.
    fn next(&self) -> Option<BatchRequest> {
        let mut state = self.lock();
        loop {
            if state.stopping {
                return None;
            }
            let missing = state
                .wanted
                .iter()
                .find(|request| !state.ready.contains_key(*request));
            if let Some(request) = missing {
                return Some(request.clone());
            }
            state = self
                .changed
                .wait(state)
                .expect("nothing panics while it holds the state");
        }
    }

    fn finish(&self, request: BatchRequest, built: Result<Batch>) {
        let mut state = self.lock();
        if state.wanted.contains(&request) {
            state.ready.insert(request, built);
            self.changed.notify_all();
        }
    }
}

fn serve(shared: &Shared, build: impl Fn(&BatchRequest) -> Result<Batch>) {
    let _ended = EndedOnDrop(shared);
    while let Some(request) = shared.next() {
        let batch = build(&request);
        shared.finish(request, batch);
    }
}

/// Tells a waiting consumer that no batch will come, also when the build panics.
struct EndedOnDrop<'a>(&'a Shared);

impl Drop for EndedOnDrop<'_> {
    fn drop(&mut self) {
        self.0.lock().ended = true;
        self.0.changed.notify_all();
    }
}
