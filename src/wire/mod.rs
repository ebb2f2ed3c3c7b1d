//! The protocol between the coordinator, its ranks and its operators: the only place that sees
//! generated types. Everything that crosses is converted here, and refused here if it is malformed.

use std::time::Duration;

use tonic::Status;
use tonic::transport::{Channel, Endpoint};

use crate::ids::{CommandId, Generation, Rank, Step};
use crate::run::command::{Command, CommandKind, CommandRecord, CommandStage};
use crate::store::address::CheckpointAddress;

#[allow(
    clippy::pedantic,
    clippy::allow_attributes_without_reason,
    unused_qualifications,
    reason = "generated code"
)]
pub mod proto {
    tonic::include_proto!("cohort.v1");
}

use proto::coordinator_client::CoordinatorClient;

/// Both ends must be of one build: state and metrics cross as this version's JSON.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The largest message; a status with its commands stays far below.
pub const MESSAGE_BYTES_MAX: usize = 16 << 20;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// What the coordinator tells a rank.
#[derive(Clone, Debug, PartialEq)]
pub enum Order {
    Welcome {
        member: u64,
        run_json: String,
    },
    Assign(Assignment),
    Rendezvous {
        generation: Generation,
        address: String,
    },
    Command(Command),
    Shutdown {
        reason: String,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    pub rank: Rank,
    pub world: u32,
    pub generation: Generation,
    /// The checkpoint to continue from.
    pub resume_from: Option<CheckpointAddress>,
    /// Whether to leave the checkpoint's stable phase for the decay at once.
    pub branch: bool,
    /// Commands of earlier lives of the run that may have to be applied again.
    pub replay: Vec<CommandRecord>,
}

/// What a rank tells the coordinator.
#[derive(Clone, Debug, PartialEq)]
pub enum Report {
    RendezvousReady { address: String },
    Ready,
    Step { json: String },
    Evaluation { json: String },
    Checkpoint { json: String },
    Outcome { id: CommandId, stage: CommandStage },
    Failed { error: String },
    Finished { stopped: bool },
}

/// Connects to a coordinator; every call has to answer within `timeout`, streams excepted.
pub async fn connect(url: &str) -> Result<CoordinatorClient<Channel>, tonic::transport::Error> {
    let channel = Endpoint::from_shared(url.to_owned())?
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_while_idle(true)
        .tcp_nodelay(true)
        .connect()
        .await?;
    Ok(CoordinatorClient::new(channel)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX))
}

fn missing(field: &str) -> Status {
    Status::invalid_argument(format!("the message lacks {field}"))
}

impl From<Command> for proto::Command {
    fn from(command: Command) -> Self {
        use proto::command::Kind;
        let empty = proto::Empty {};
        let kind = match command.kind {
            CommandKind::Decay { tokens } => Kind::Decay(proto::Decay { tokens }),
            CommandKind::Checkpoint { by_time } => {
                Kind::Checkpoint(proto::Checkpointing { by_time })
            }
            CommandKind::Pause => Kind::Pause(empty),
            CommandKind::Resume => Kind::Resume(empty),
            CommandKind::Stop => Kind::Stop(empty),
        };
        Self {
            id: command.id.0,
            kind: Some(kind),
        }
    }
}

impl TryFrom<proto::Command> for Command {
    type Error = Status;

    fn try_from(command: proto::Command) -> Result<Self, Status> {
        use proto::command::Kind;
        let kind = match command.kind.ok_or_else(|| missing("the command's kind"))? {
            Kind::Decay(decay) => CommandKind::Decay {
                tokens: decay.tokens,
            },
            Kind::Checkpoint(checkpoint) => CommandKind::Checkpoint {
                by_time: checkpoint.by_time,
            },
            Kind::Pause(_) => CommandKind::Pause,
            Kind::Resume(_) => CommandKind::Resume,
            Kind::Stop(_) => CommandKind::Stop,
        };
        Ok(Self {
            id: CommandId(command.id),
            kind,
        })
    }
}

impl From<CommandRecord> for proto::Replay {
    fn from(record: CommandRecord) -> Self {
        let applied_step = match record.stage {
            CommandStage::Applied { step } => Some(step.0),
            CommandStage::Accepted | CommandStage::Refused { .. } => None,
        };
        Self {
            command: Some(record.command.into()),
            applied_step,
        }
    }
}

impl TryFrom<proto::Replay> for CommandRecord {
    type Error = Status;

    fn try_from(replay: proto::Replay) -> Result<Self, Status> {
        let command = replay
            .command
            .ok_or_else(|| missing("the replayed command"))?
            .try_into()?;
        let stage =
            replay
                .applied_step
                .map_or(CommandStage::Accepted, |step| CommandStage::Applied {
                    step: Step(step),
                });
        Ok(Self { command, stage })
    }
}

impl From<Order> for proto::Order {
    fn from(order: Order) -> Self {
        use proto::order::Kind;
        let kind = match order {
            Order::Welcome { member, run_json } => {
                Kind::Welcome(proto::Welcome { member, run_json })
            }
            Order::Assign(assignment) => Kind::Assign(proto::Assign {
                rank: assignment.rank.0,
                world: assignment.world,
                generation: assignment.generation.0,
                resume_from: assignment.resume_from.map(|checkpoint| proto::Checkpoint {
                    run_url: checkpoint.run_url,
                    step: checkpoint.step.0,
                }),
                branch: assignment.branch,
                replay: assignment.replay.into_iter().map(Into::into).collect(),
            }),
            Order::Rendezvous {
                generation,
                address,
            } => Kind::Rendezvous(proto::Rendezvous {
                generation: generation.0,
                address,
            }),
            Order::Command(command) => Kind::Command(command.into()),
            Order::Shutdown { reason } => Kind::Shutdown(proto::Shutdown { reason }),
        };
        Self { kind: Some(kind) }
    }
}

impl TryFrom<proto::Order> for Order {
    type Error = Status;

    fn try_from(order: proto::Order) -> Result<Self, Status> {
        use proto::order::Kind;
        Ok(
            match order.kind.ok_or_else(|| missing("the order's kind"))? {
                Kind::Welcome(welcome) => Self::Welcome {
                    member: welcome.member,
                    run_json: welcome.run_json,
                },
                Kind::Assign(assign) => Self::Assign(Assignment {
                    rank: Rank(assign.rank),
                    world: assign.world,
                    generation: Generation(assign.generation),
                    resume_from: assign.resume_from.map(|checkpoint| CheckpointAddress {
                        run_url: checkpoint.run_url,
                        step: Step(checkpoint.step),
                    }),
                    branch: assign.branch,
                    replay: assign
                        .replay
                        .into_iter()
                        .map(CommandRecord::try_from)
                        .collect::<Result<_, _>>()?,
                }),
                Kind::Rendezvous(rendezvous) => Self::Rendezvous {
                    generation: Generation(rendezvous.generation),
                    address: rendezvous.address,
                },
                Kind::Command(command) => Self::Command(command.try_into()?),
                Kind::Shutdown(shutdown) => Self::Shutdown {
                    reason: shutdown.reason,
                },
            },
        )
    }
}

impl Report {
    pub fn into_proto(self, member: u64) -> proto::RankReport {
        use proto::rank_report::Kind;
        let kind = match self {
            Self::RendezvousReady { address } => Kind::RendezvousAddress(address),
            Self::Ready => Kind::Ready(proto::Empty {}),
            Self::Step { json } => Kind::StepJson(json),
            Self::Evaluation { json } => Kind::EvaluationJson(json),
            Self::Checkpoint { json } => Kind::CheckpointJson(json),
            Self::Outcome { id, stage } => Kind::Outcome(outcome(id, stage)),
            Self::Failed { error } => Kind::Failed(error),
            Self::Finished { stopped } => Kind::Finished(proto::Finished { stopped }),
        };
        proto::RankReport {
            member,
            kind: Some(kind),
        }
    }
}

fn outcome(id: CommandId, stage: CommandStage) -> proto::CommandOutcome {
    use proto::command_outcome::Stage;
    let stage = match stage {
        CommandStage::Accepted => None,
        CommandStage::Applied { step } => Some(Stage::AppliedStep(step.0)),
        CommandStage::Refused { reason } => Some(Stage::Refused(reason)),
    };
    proto::CommandOutcome { id: id.0, stage }
}

impl TryFrom<proto::rank_report::Kind> for Report {
    type Error = Status;

    fn try_from(kind: proto::rank_report::Kind) -> Result<Self, Status> {
        use proto::command_outcome::Stage;
        use proto::rank_report::Kind;
        Ok(match kind {
            Kind::RendezvousAddress(address) => Self::RendezvousReady { address },
            Kind::Ready(_) => Self::Ready,
            Kind::StepJson(json) => Self::Step { json },
            Kind::EvaluationJson(json) => Self::Evaluation { json },
            Kind::CheckpointJson(json) => Self::Checkpoint { json },
            Kind::Outcome(outcome) => Self::Outcome {
                id: CommandId(outcome.id),
                stage: match outcome
                    .stage
                    .ok_or_else(|| missing("the outcome's stage"))?
                {
                    Stage::AppliedStep(step) => CommandStage::Applied { step: Step(step) },
                    Stage::Refused(reason) => CommandStage::Refused { reason },
                },
            },
            Kind::Failed(error) => Self::Failed { error },
            Kind::Finished(finished) => Self::Finished {
                stopped: finished.stopped,
            },
        })
    }
}
