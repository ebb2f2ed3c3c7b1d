//! What the system tells a process by signals.

use anyhow::Result;
use tokio::signal::unix::{self, SignalKind, signal};

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Call {
    /// Ctrl-C: an operator stops the run.
    Stop,
    /// SIGTERM or SIGUSR1, whose name it is: a scheduler takes the machine away.
    Leave(&'static str),
}

/// Ctrl-C, SIGTERM and SIGUSR1.
pub(super) struct Calls {
    interrupt: unix::Signal,
    terminate: unix::Signal,
    user: unix::Signal,
}

impl Calls {
    /// Begins to listen; from now on none of them ends the process.
    pub(super) fn listen() -> Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            user: signal(SignalKind::user_defined1())?,
        })
    }

    pub(super) async fn next(&mut self) -> Call {
        tokio::select! {
            _ = self.interrupt.recv() => Call::Stop,
            _ = self.terminate.recv() => Call::Leave("SIGTERM"),
            _ = self.user.recv() => Call::Leave("SIGUSR1"),
        }
    }
}
