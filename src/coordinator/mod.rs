//! The coordinator: serves ranks and operators on one port, ticks the run's state machine and
//! carries out its effects. It is never in the path of a step.
//!
//! One task owns the [`RunState`]; everything else sends it events. All waits have deadlines.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::config::RunConfig;
use crate::coordinator::archive::Archive;
use crate::coordinator::claim::Claim;
use crate::coordinator::core::Core;
use crate::coordinator::message::Message;
use crate::coordinator::service::Service;
use crate::preflight;
use crate::run::command::CommandKind;
use crate::store::address::CheckpointAddress;
use crate::telemetry::StatusView;
use crate::wire::MESSAGE_BYTES_MAX;
use crate::wire::proto::coordinator_server::CoordinatorServer;

mod archive;
pub mod claim;
mod core;
pub mod journal;
mod lines;
mod message;
mod publisher;
pub mod rewind;
mod service;

/// Events that may wait for the core; senders wait when it is full.
const EVENTS_MAX: usize = 8192;
const TICK: Duration = Duration::from_millis(200);
/// Connections that may wait to be accepted; the system may have a limit below it.
const BACKLOG: u32 = 8192;
/// How long ranks and operators may take to hang up once the run is over.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// How a run ended that did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It is finished, or was stopped on command.
    Over,
    /// It goes on another time: its machines were taken away.
    Interrupted,
}

/// A coordinator that is listening; [`Coordinator::run`] serves until the run is over.
pub struct Coordinator {
    listener: TcpListener,
    core: Core,
    events: (mpsc::Sender<Message>, mpsc::Receiver<Message>),
    status: watch::Receiver<StatusView>,
    claim: Claim,
}

impl Coordinator {
    /// Checks all that the ranks will need, listens, claims the run in its store (a live
    /// coordinator of the same run keeps it), and picks the checkpoint to continue from. An error
    /// before the claim has left nothing behind.
    pub async fn start(
        config: RunConfig,
        yaml: String,
        branch: Option<CheckpointAddress>,
    ) -> Result<Self> {
        let is_new = claim::expect_free(&config, branch.as_ref()).await? && branch.is_none();
        let wanted = config.clone();
        let checked = tokio::task::spawn_blocking(move || preflight::check(&wanted, is_new));
        let schedule = checked.await??;
        allow_many_files();
        let listener = listen(config.listen).with_context(|| {
            format!(
                "cannot listen on {}\n  hint: choose another port in `listen`, or 0 for a free one",
                config.listen
            )
        })?;
        let url = format!("http://{}", listener.local_addr()?);
        let claim = Claim::take(&config, &url, branch).await?;
        let events = mpsc::channel(EVENTS_MAX);
        let keep = config.checkpoints.keep.clone();
        let archive = Archive::open(&claim, keep, &yaml, events.0.clone()).await?;
        let past = (schedule, claim.past().await?);
        let (core, status) = Core::new(config, &claim, archive, past)?;
        info!(%url, epoch = %claim.epoch, run = claim.store.address(), "coordinator listens");
        Ok(Self {
            listener,
            core,
            events,
            status,
            claim,
        })
    }

    pub fn url(&self) -> &str {
        &self.claim.url
    }

    /// The newest status, for a display beside the coordinator.
    pub fn status(&self) -> watch::Receiver<StatusView> {
        self.status.clone()
    }

    /// Where the run's own commands (Ctrl-C becomes a stop) enter.
    pub fn commands(&self) -> Commands {
        Commands(self.events.0.clone())
    }

    /// Serves until the run is over. An error says why the run failed.
    pub async fn run(self) -> Result<Ending> {
        let Self {
            listener,
            mut core,
            events: (sender, mut receiver),
            status,
            claim,
        } = self;
        let stop = CancellationToken::new();
        let service = CoordinatorServer::new(Service::new(sender, status))
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        let served = tokio::spawn({
            let stop = stop.clone();
            async move {
                tonic::transport::Server::builder()
                    .tcp_nodelay(true)
                    .http2_keepalive_interval(Some(Duration::from_secs(10)))
                    .add_service(service)
                    .serve_with_incoming_shutdown(
                        TcpListenerStream::new(listener),
                        stop.cancelled_owned(),
                    )
                    .await
            }
        });
        let outcome = drive(&mut core, &mut receiver).await;
        let ending = core.ending();
        let closed = core.close().await;
        stop.cancel();
        if tokio::time::timeout(DRAIN_TIMEOUT, served).await.is_err() {
            info!("connections still open when the coordinator ended");
        }
        if let Err(error) = claim.release().await {
            warn!(%error, "the run's folder still says that it is coordinated");
        }
        outcome.and(closed)?;
        Ok(ending)
    }
}

/// Listens with room for all ranks that knock in the same moment.
fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Each rank holds a connection, and most systems allow a process 1,024 open files until it asks
/// for more.
fn allow_many_files() {
    let limit = getrlimit(Resource::Nofile);
    let most = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, most) {
        warn!(%error, "the limit of open files stays as it is");
    }
}

async fn drive(core: &mut Core, receiver: &mut mpsc::Receiver<Message>) -> Result<()> {
    let started = Instant::now();
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let message = tokio::select! {
            message = receiver.recv() => message.context("the core keeps a sender of its own")?,
            _ = ticks.tick() => Message::Tick,
        };
        let is_tick = matches!(message, Message::Tick);
        let outcome = core.handle(message, started.elapsed()).await?;
        if is_tick || receiver.is_empty() || outcome.is_some() {
            core.show_changes();
        }
        if let Some(outcome) = outcome {
            return match outcome {
                None => Ok(()),
                // The state machine has noted it in the log already.
                Some(error) => Err(anyhow!(error)),
            };
        }
    }
}

/// Asks the run's state machine from inside the coordinator's process.
#[derive(Clone)]
pub struct Commands(mpsc::Sender<Message>);

impl Commands {
    /// Why it was refused, if it was.
    pub async fn ask(&self, kind: CommandKind) -> Result<Option<String>> {
        let (reply, answer) = oneshot::channel();
        self.0
            .send(Message::Asked { kind, reply })
            .await
            .context("the coordinator has ended")?;
        let record = answer.await.context("the coordinator has ended")?;
        Ok(record.refusal().map(str::to_owned))
    }

    /// The coordinator's machine will be taken away: stop, with a checkpoint.
    pub async fn warn(&self, reason: String) -> Result<()> {
        self.send(Message::Warned { reason }).await
    }

    /// The time to stop in is over.
    pub async fn out_of_time(&self) -> Result<()> {
        self.send(Message::OutOfTime).await
    }

    async fn send(&self, message: Message) -> Result<()> {
        let sent = self.0.send(message).await;
        sent.context("the coordinator has ended")
    }

    /// Ends the run as failed, for a reason that the ranks cannot report themselves.
    pub async fn fail(&self, error: String) -> Result<()> {
        self.send(Message::Broken { error }).await
    }
}
