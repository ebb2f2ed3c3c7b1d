//! A rank's process: joins the coordinator, feeds the compute thread and uploads its checkpoints.
//!
//! tokio carries orders, reports and uploads; the compute thread owns every tensor. When the
//! coordinator's connection ends before the run does, the rank ends too.

use std::sync::mpsc::SyncSender;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tokio_stream::StreamExt;
use tonic::Streaming;
use tonic::transport::Channel;
use tracing::{debug, info};

use crate::collective::CollectiveError;
use crate::config::RunConfig;
use crate::coordinator::claim::host_name;
use crate::diagnosis;
use crate::train::compute::{Ended, Inbox, Outbox};
use crate::wire::proto::coordinator_client::CoordinatorClient;
use crate::wire::proto::{JoinRequest, Order as WireOrder};
use crate::wire::{self, Order, Report, VERSION};
use crate::worker::setup::{Launch, start_compute};

mod restore;
mod setup;
mod upload;
mod weights;

/// Reports that may wait; the compute thread waits when reports are not taken.
const REPORTS_MAX: usize = 256;
/// How long a coordinator may take to come up, and to answer a report.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
const REPORT_TIMEOUT: Duration = Duration::from_mins(1);
/// How long the coordinator may take to say good-bye.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a rank that lost a peer lets that peer's own report go first.
const PEERS_WORDS_TIMEOUT: Duration = Duration::from_secs(2);

/// Joins the coordinator at `url` and works until the run is over.
pub async fn work(url: &str) -> Result<()> {
    let mut client = connect(url).await?;
    let request = JoinRequest {
        version: VERSION.to_owned(),
        host: host_name(),
        process: std::process::id(),
    };
    let mut orders = client
        .join(request)
        .await
        .map_err(|status| {
            anyhow!(
                "the coordinator at {url} refused this rank: {}",
                status.message()
            )
        })?
        .into_inner();
    let Order::Welcome { member, run_json } = next_order(&mut orders).await? else {
        bail!("the coordinator at {url} did not welcome this rank first");
    };
    let config: RunConfig =
        serde_json::from_str(&run_json).context("the coordinator's run is malformed")?;
    let (reports, to_send) = mpsc::channel(REPORTS_MAX);
    let sender = tokio::spawn(send_reports(client, member, to_send));
    let mut rank = RankProcess {
        config,
        reports,
        compute: None,
    };
    let outcome = match rank.follow(&mut orders).await {
        Err(error) if lost_a_peer(&error) => Err(cause_of_loss(error, &mut orders).await),
        outcome => outcome,
    };
    if let Err(error) = &outcome
        && !error.is::<Dismissed>()
    {
        let error = diagnosis::describe(error);
        // A broken connection to the coordinator is what `sender` reports below.
        let _ = rank.reports.send(Report::Failed { error }).await;
    }
    drop(rank);
    let sent = sender.await.context("the report sender broke")?;
    match outcome {
        Ok(()) => {
            sent?;
            farewell(&mut orders).await;
            Ok(())
        }
        Err(error) => Err(error),
    }
}

/// The coordinator ended the run: the reason is its to report.
#[derive(Debug, thiserror::Error)]
#[error("the coordinator ended the run: {0}")]
pub struct Dismissed(String);

struct RankProcess {
    config: RunConfig,
    reports: mpsc::Sender<Report>,
    compute: Option<SyncSender<Inbox>>,
}

impl RankProcess {
    /// Follows orders until the compute thread has taken its last step.
    async fn follow(&mut self, orders: &mut Streaming<WireOrder>) -> Result<()> {
        let mut ended: Option<oneshot::Receiver<Result<Ended>>> = None;
        let mut background = None;
        loop {
            tokio::select! {
                order = next_order(orders) => match order? {
                    Order::Assign(assignment) => {
                        let restored = restore::restore(&self.config, &assignment).await?;
                        let (uploader, queue) = upload::start(&self.config, self.reports.clone())?;
                        let (outbox, forwarder) = outbox(self.reports.clone());
                        background = Some((forwarder, uploader));
                        let config = self.config.clone();
                        let (inbox, receiver) = start_compute(Launch {
                            config, assignment, restored, outbox, uploads: queue,
                        })?;
                        self.compute = Some(inbox);
                        ended = Some(receiver);
                    }
                    Order::Rendezvous { address, .. } => self.tell(Inbox::Rendezvous(address))?,
                    Order::Command(command) => self.tell(Inbox::Command(command))?,
                    Order::Shutdown { reason } => bail!(Dismissed(reason)),
                    Order::Welcome { .. } => bail!("the coordinator welcomed this rank twice"),
                },
                outcome = wait(&mut ended) => {
                    if let Some((forwarder, uploader)) = background.take() {
                        forwarder.await.context("the report queue broke")?;
                        // Where an upload failed, that is why the thread ended.
                        uploader.await.context("the uploader broke")??;
                    }
                    let Ended { stopped } = outcome?;
                    self.reports.send(Report::Finished { stopped }).await
                        .context("the coordinator is gone")?;
                    return Ok(());
                }
            }
        }
    }

    fn tell(&self, message: Inbox) -> Result<()> {
        let compute = self
            .compute
            .as_ref()
            .context("an order came before the assignment")?;
        compute
            .try_send(message)
            .map_err(|error| anyhow!("the compute thread does not listen: {error}"))
    }
}

/// Turns what the compute thread tells into reports, in order, until the thread ends.
fn outbox(reports: mpsc::Sender<Report>) -> (mpsc::Sender<Outbox>, JoinHandle<()>) {
    let (outbox, mut told) = mpsc::channel(REPORTS_MAX);
    let forwarder = tokio::spawn(async move {
        while let Some(message) = told.recv().await {
            let report = match message {
                Outbox::RendezvousReady { address } => Ok(Report::RendezvousReady { address }),
                Outbox::Ready => Ok(Report::Ready),
                Outbox::Step(step) => {
                    serde_json::to_string(&step).map(|json| Report::Step { json })
                }
                Outbox::Evaluation(evaluation) => {
                    serde_json::to_string(&evaluation).map(|json| Report::Evaluation { json })
                }
                Outbox::Outcome { command, stage } => Ok(Report::Outcome {
                    id: command.id,
                    stage,
                }),
            };
            let report = report.unwrap_or_else(|error| Report::Failed {
                error: error.to_string(),
            });
            if reports.send(report).await.is_err() {
                return;
            }
        }
    });
    (outbox, forwarder)
}

/// The compute thread's end; waits forever before it has started.
async fn wait(ended: &mut Option<oneshot::Receiver<Result<Ended>>>) -> Result<Ended> {
    match ended {
        Some(receiver) => receiver.await.context("the compute thread broke")?,
        None => std::future::pending().await,
    }
}

async fn connect(url: &str) -> Result<CoordinatorClient<Channel>> {
    let deadline = Instant::now() + CONNECT_TIMEOUT;
    loop {
        match wire::connect(url).await {
            Ok(client) => return Ok(client),
            Err(error) if Instant::now() >= deadline => {
                return Err(error).with_context(|| {
                    format!(
                        "no coordinator answers at {url}\n  \
                        hint: start one with `cohort coordinate RUN.yaml`"
                    )
                });
            }
            Err(error) => debug!(%error, "the coordinator does not answer yet"),
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

async fn next_order(orders: &mut Streaming<WireOrder>) -> Result<Order> {
    match orders.next().await {
        Some(Ok(order)) => Ok(Order::try_from(order)?),
        Some(Err(status)) => bail!(
            "the connection to the coordinator broke: {}",
            status.message()
        ),
        None => bail!("the coordinator hung up"),
    }
}

async fn send_reports(
    mut client: CoordinatorClient<Channel>,
    member: u64,
    mut reports: mpsc::Receiver<Report>,
) -> Result<()> {
    while let Some(report) = reports.recv().await {
        timeout(REPORT_TIMEOUT, client.report(report.into_proto(member)))
            .await
            .context("the coordinator does not answer")?
            .map_err(|status| anyhow!("the coordinator refused a report: {}", status.message()))?;
    }
    Ok(())
}

fn lost_a_peer(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let cause = cause.downcast_ref();
        matches!(cause, Some(CollectiveError::PeerLost { .. }))
    })
}

/// The peer that ended knows why, and tells the coordinator at this moment: what it says comes
/// before what its end did to this rank.
async fn cause_of_loss(error: anyhow::Error, orders: &mut Streaming<WireOrder>) -> anyhow::Error {
    match shutdown_within(PEERS_WORDS_TIMEOUT, orders).await {
        Some(reason) => Dismissed(reason).into(),
        None => error,
    }
}

/// Waits for the coordinator's good-bye, so that it never takes this rank's end for a death.
async fn farewell(orders: &mut Streaming<WireOrder>) {
    let reason = shutdown_within(FAREWELL_TIMEOUT, orders).await;
    info!(reason = reason.unwrap_or_default(), "good-bye");
}

async fn shutdown_within(limit: Duration, orders: &mut Streaming<WireOrder>) -> Option<String> {
    let said = timeout(limit, async {
        while let Ok(order) = next_order(orders).await {
            if let Order::Shutdown { reason } = order {
                return Some(reason);
            }
        }
        None
    });
    said.await.ok().flatten()
}
