//! The gRPC side of the coordinator: turns calls into messages for the core, nothing more.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use tokio::sync::{mpsc, oneshot, watch};
use tokio_stream::Stream;
use tonic::{Request, Response, Status};

use crate::coordinator::message::{ConnectionId, Message, Refusal};
use crate::ids::Epoch;
use crate::run::command::Command;
use crate::run::event::MemberId;
use crate::telemetry::StatusView;
use crate::wire::proto::{
    CommandReply, CommandRequest, Empty, GiveUpRequest, JoinRequest, Order as WireOrder,
    RankReport, ReportReply, StatusReply, StatusRequest, coordinator_server,
};
use crate::wire::{self, Order, Report, VERSION};

/// Orders that may wait for one rank; a rank that does not read them is as good as dead.
const ORDERS_MAX: usize = 64;

pub(super) struct Service {
    core: mpsc::Sender<Message>,
    status: watch::Receiver<StatusView>,
    connections: AtomicU64,
}

impl Service {
    pub(super) fn new(core: mpsc::Sender<Message>, status: watch::Receiver<StatusView>) -> Self {
        Self {
            core,
            status,
            connections: AtomicU64::new(0),
        }
    }

    async fn tell(&self, message: Message) -> Result<(), Status> {
        self.core
            .send(message)
            .await
            .map_err(|_| Status::unavailable("the coordinator has ended"))
    }
}

/// A rank's orders; dropping it (the connection closed) tells the core that the rank left.
pub(super) struct Orders {
    member: MemberId,
    connection: ConnectionId,
    receiver: mpsc::Receiver<Order>,
    core: mpsc::Sender<Message>,
}

impl Stream for Orders {
    type Item = Result<WireOrder, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.receiver
            .poll_recv(context)
            .map(|order| order.map(|order| Ok(order.into())))
    }
}

impl Drop for Orders {
    fn drop(&mut self) {
        let core = self.core.clone();
        let left = Message::Left {
            member: self.member,
            connection: self.connection,
        };
        tokio::spawn(async move {
            // The core may have ended before its ranks hung up.
            let _ = core.send(left).await;
        });
    }
}

#[tonic::async_trait]
impl coordinator_server::Coordinator for Service {
    type JoinStream = Orders;

    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<Orders>, Status> {
        let request = request.into_inner();
        if request.version != VERSION {
            let version = request.version;
            return Err(Status::failed_precondition(format!(
                "this rank is cohort {version}, the coordinator is {VERSION}\n  \
                 hint: install one version everywhere"
            )));
        }
        let connection = self.connections.fetch_add(1, Ordering::Relaxed);
        let (orders, receiver) = mpsc::channel(ORDERS_MAX);
        let (reply, answer) = oneshot::channel();
        self.tell(Message::Joined {
            introduction: wire::introduction(&request)?,
            epoch: Epoch(request.epoch),
            connection,
            orders,
            reply,
        })
        .await?;
        let member = match answer.await {
            Ok(Ok(member)) => member,
            Ok(Err(Refusal::Over(reason))) => return Err(Status::aborted(reason)),
            Ok(Err(Refusal::Elsewhere)) => {
                return Err(Status::unavailable("another coordinator has taken over"));
            }
            Err(_) => return Err(Status::unavailable("the coordinator has ended")),
        };
        Ok(Response::new(Orders {
            member,
            connection,
            receiver,
            core: self.core.clone(),
        }))
    }

    async fn report(&self, request: Request<RankReport>) -> Result<Response<ReportReply>, Status> {
        let request = request.into_inner();
        let report = Report::parse(&request)?;
        let (reply, answer) = oneshot::channel();
        self.tell(Message::Reported {
            member: MemberId(request.member),
            connection: request.connection,
            report,
            reply,
        })
        .await?;
        let receipt = answer
            .await
            .map_err(|_| Status::unavailable("the coordinator has ended"))?;
        Ok(Response::new(ReportReply {
            unknown: !receipt.is_member,
            stored_step: receipt.stored_step.0,
        }))
    }

    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusReply>, Status> {
        let json = serde_json::to_string(&*self.status.borrow())
            .map_err(|error| Status::internal(error.to_string()))?;
        Ok(Response::new(StatusReply { json }))
    }

    async fn give_up(&self, request: Request<GiveUpRequest>) -> Result<Response<Empty>, Status> {
        let error = request.into_inner().error;
        self.tell(Message::Broken { error }).await?;
        Ok(Response::new(Empty {}))
    }

    async fn submit(
        &self,
        request: Request<CommandRequest>,
    ) -> Result<Response<CommandReply>, Status> {
        let command = request
            .into_inner()
            .command
            .ok_or_else(|| Status::invalid_argument("the request has no command"))?;
        let kind = Command::try_from(command)?.kind;
        let (reply, answer) = oneshot::channel();
        self.tell(Message::Asked { kind, reply }).await?;
        let record = answer
            .await
            .map_err(|_| Status::unavailable("the coordinator has ended"))?;
        Ok(Response::new(CommandReply {
            id: record.command.id.0,
            refused: record.refusal().map(str::to_owned),
        }))
    }
}
