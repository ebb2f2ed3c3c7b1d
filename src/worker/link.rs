//! The connection to the coordinator: finds it, joins, and carries orders and reports until it
//! breaks. There is one at a time; a new one is made by whoever hears of the end of the last.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_stream::StreamExt;
use tonic::Code;
use tonic::transport::Channel;
use tracing::debug;

use crate::config::RunConfig;
use crate::coordinator::claim;
use crate::ids::{Epoch, Step};
use crate::run::event::{Introduction, MemberId};
use crate::store::Store;
use crate::wire::proto::coordinator_client::CoordinatorClient;
use crate::wire::{self, Order, Report};

/// Reports that may wait: all that a rank keeps for a coordinator that was away, and more.
const REPORTS_MAX: usize = 1 << 17;
/// How long the coordinator may take to answer a call.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// Where the coordinator may be.
#[derive(Clone, Debug)]
pub(super) struct Whereabouts {
    /// Where it was when this process began.
    pub(super) url: String,
    /// Whose store tells where it is now.
    pub(super) config: Option<RunConfig>,
    /// The newest that is known.
    pub(super) epoch: Epoch,
}

/// What a connection tells; the number is its own.
pub(super) type Told = (u64, LinkEvent);

pub(super) enum LinkEvent {
    Welcomed {
        member: MemberId,
        epoch: Epoch,
        run_json: String,
        stored_step: Step,
        reports: mpsc::Sender<Report>,
        sender: JoinHandle<()>,
    },
    Order(Order),
    Replied {
        unknown: bool,
        stored_step: Step,
    },
    Refused {
        reason: String,
        is_over: bool,
    },
    Ended(String),
}

/// Connects, and carries until the end.
pub(super) fn start(
    number: u64,
    whereabouts: Whereabouts,
    introduction: Introduction,
    tell: mpsc::Sender<Told>,
) -> JoinHandle<()> {
    tokio::spawn(async move {
        let link = Link { number, tell };
        if let Err(error) = link.carry(whereabouts, introduction).await {
            link.tell(LinkEvent::Ended(format!("{error:#}"))).await;
        }
    })
}

struct Link {
    number: u64,
    tell: mpsc::Sender<Told>,
}

impl Link {
    /// Nobody listens any more when the process is on its way out.
    async fn tell(&self, event: LinkEvent) {
        let _ = self.tell.send((self.number, event)).await;
    }

    async fn carry(&self, whereabouts: Whereabouts, introduction: Introduction) -> Result<()> {
        let url = whereabouts.url().await;
        let mut client = wire::connect(&url)
            .await
            .with_context(|| format!("no coordinator answers at {url}"))?;
        let request = wire::join_request(whereabouts.epoch, &introduction);
        let Ok(joined) = timeout(CALL_TIMEOUT, client.join(request)).await else {
            bail!("the coordinator at {url} does not answer")
        };
        let mut orders = match joined {
            Ok(orders) => orders.into_inner(),
            Err(status) if matches!(status.code(), Code::FailedPrecondition | Code::Aborted) => {
                let reason = status.message().to_owned();
                let is_over = status.code() == Code::Aborted;
                self.tell(LinkEvent::Refused { reason, is_over }).await;
                return Ok(());
            }
            Err(status) => bail!("the coordinator at {url}: {}", status.message()),
        };
        while let Some(order) = orders.next().await {
            let order = match order {
                Ok(order) => Order::try_from(order)?,
                Err(status) => bail!("the connection broke: {}", status.message()),
            };
            let event = match order {
                Order::Welcome {
                    member,
                    epoch,
                    run_json,
                    stored_step,
                    connection,
                } => {
                    let (reports, to_send) = mpsc::channel(REPORTS_MAX);
                    let link = Self {
                        number: self.number,
                        tell: self.tell.clone(),
                    };
                    let sender =
                        tokio::spawn(link.send(client.clone(), (member, connection), to_send));
                    LinkEvent::Welcomed {
                        member,
                        epoch,
                        run_json,
                        stored_step,
                        reports,
                        sender,
                    }
                }
                order => LinkEvent::Order(order),
            };
            self.tell(event).await;
        }
        bail!("the coordinator hung up")
    }

    async fn send(
        self,
        mut client: CoordinatorClient<Channel>,
        (member, connection): (MemberId, u64),
        mut reports: mpsc::Receiver<Report>,
    ) {
        while let Some(report) = reports.recv().await {
            let call = client.report(report.into_proto(member, connection));
            let event = match timeout(CALL_TIMEOUT, call).await {
                Ok(Ok(reply)) => {
                    let reply = reply.into_inner();
                    LinkEvent::Replied {
                        unknown: reply.unknown,
                        stored_step: Step(reply.stored_step),
                    }
                }
                Ok(Err(status)) => LinkEvent::Ended(status.message().to_owned()),
                Err(_) => LinkEvent::Ended("the coordinator does not answer".to_owned()),
            };
            let is_over = matches!(event, LinkEvent::Ended(_));
            self.tell(event).await;
            if is_over {
                return;
            }
        }
    }
}

impl Whereabouts {
    /// The newest coordinator's address, as the store has it, or else the one that was given.
    async fn url(&self) -> String {
        match self.newest().await {
            Ok(Some(url)) => url,
            Ok(None) => self.url.clone(),
            Err(error) => {
                debug!(%error, "the store does not say where the coordinator is");
                self.url.clone()
            }
        }
    }

    async fn newest(&self) -> Result<Option<String>> {
        let Some(config) = &self.config else {
            return Ok(None);
        };
        let store = Store::open_existing(&config.store)?.child(&config.name)?;
        let found = timeout(CALL_TIMEOUT, claim::address(&store)).await??;
        let newer = found.filter(|address| address.epoch >= self.epoch);
        Ok(newer.map(|address| address.url))
    }
}
