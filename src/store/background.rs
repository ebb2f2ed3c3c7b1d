//! One thread that talks to stores, for callers that are no part of an async program.

use std::future::Future;
use std::sync::mpsc::{Receiver, sync_channel};

use anyhow::{Context, Result};
use tokio::runtime::{Builder, Runtime};

/// A thread that runs futures. Dropping it ends them where they stand; what runs there must end by
/// its own deadlines, as every operation of a store does.
#[derive(Debug)]
pub struct Background {
    /// Taken on drop.
    runtime: Option<Runtime>,
}

/// What a future of the background comes to.
pub struct Pending<T>(Receiver<T>);

impl Background {
    pub fn start(thread_name: &str) -> Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name(thread_name)
            .enable_all()
            .build()
            .context("cannot start the download thread")?;
        Ok(Self {
            runtime: Some(runtime),
        })
    }

    /// Runs a future without waiting for it.
    pub fn spawn<T: Send + 'static>(
        &self,
        future: impl Future<Output = T> + Send + 'static,
    ) -> Pending<T> {
        let (reply, answer) = sync_channel(1);
        let runtime = self.runtime.as_ref().expect("taken on drop only");
        runtime.spawn(async move {
            // Nobody waits any more where the caller has ended.
            drop(reply.send(future.await));
        });
        Pending(answer)
    }

    /// Runs a future to its end. Works inside an async program too, whose thread then waits.
    pub fn wait<T: Send + 'static>(
        &self,
        future: impl Future<Output = T> + Send + 'static,
    ) -> Result<T> {
        self.spawn(future).wait()
    }
}

impl<T> Pending<T> {
    pub fn wait(&self) -> Result<T> {
        self.0
            .recv()
            .context("the download thread broke; its last words are in the log")
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
