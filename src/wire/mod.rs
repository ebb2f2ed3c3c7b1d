//! The protocol between the coordinator, its ranks and its operators: the only place that sees
//! generated types. Everything that crosses is converted here, and refused here if it is malformed.

use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

use crate::ids::{CommandId, Epoch, Generation, Step};
use crate::run::command::{Command, CommandKind, CommandRecord, CommandStage};
use crate::run::event::{Introduction, MemberId, Parting, Placement};
use crate::run::spike::{Detour, Spike};
use crate::run::standing::{Beat, Standing};
use crate::store::address::CheckpointAddress;
use crate::store::manifest::CheckpointManifest;
use crate::telemetry::{Evaluation, StepMetrics};

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
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    Welcome {
        member: MemberId,
        epoch: Epoch,
        /// The run's configuration, its paths absolute.
        run_json: String,
        /// Metrics up to this step are in the store.
        stored_step: Step,
        /// The connection's number, which every report on it carries.
        connection: u64,
    },
    Assign(Assignment),
    /// Where the store of a generation listens, through which its ranks find each other.
    Rendezvous {
        generation: Generation,
        address: String,
    },
    Command(Command),
    /// End the generation at the next step boundary.
    Regroup {
        generation: Generation,
    },
    /// Give the generation up at once.
    Abort {
        generation: Generation,
        reason: String,
    },
    /// A checkpoint exists.
    Published {
        step: Step,
    },
    /// End the process; its supervisor starts another where `restart` says so.
    Dismiss {
        reason: String,
        restart: bool,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    pub placement: Placement,
    /// The checkpoint to read, where the state comes from the store.
    pub resume_from: Option<CheckpointAddress>,
    /// Whether to leave the checkpoint's stable phase for the decay at once.
    pub branch: bool,
    /// Commands that may have to be applied again.
    pub replay: Vec<CommandRecord>,
    /// Rows that no step is to take.
    pub detours: Vec<Detour>,
    /// The step of the newest checkpoint.
    pub published: Option<Step>,
}

/// What a rank tells the coordinator.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Report {
    Idle {
        parting: Option<(Generation, Parting)>,
        standing: Option<Standing>,
    },
    RendezvousReady {
        generation: Generation,
        address: String,
    },
    Ready {
        generation: Generation,
        standing: Standing,
    },
    Step(Box<StepMetrics>),
    Evaluation(Evaluation),
    Spike(Box<Spike>),
    /// Its files are stored.
    Checkpoint(Box<CheckpointManifest>),
    /// They cannot be, for now.
    NotStored {
        step: Step,
        error: String,
    },
    Outcome {
        /// The generation that came to it.
        generation: Generation,
        id: CommandId,
        stage: CommandStage,
    },
    Failed {
        error: String,
    },
    Finished {
        generation: Generation,
        stopped: bool,
    },
    Beat(Beat),
    /// A scheduler will take the machine away.
    Leaving {
        reason: String,
    },
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

/// Tells a coordinator that ranks which it may wait for will not come.
pub async fn give_up(url: &str, error: &str) -> anyhow::Result<()> {
    let request = proto::GiveUpRequest {
        error: error.to_owned(),
    };
    let mut client = connect(url).await?;
    tokio::time::timeout(CONNECT_TIMEOUT, client.give_up(request)).await??;
    Ok(())
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

/// What crosses as JSON.
fn to_json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("what crosses has names for keys")
}

fn from_json<T: DeserializeOwned>(json: &str) -> Result<T, Status> {
    // The cause is not passed on: it quotes.
    serde_json::from_str(json).map_err(|_| Status::invalid_argument("the message is malformed"))
}

impl From<Order> for proto::Order {
    fn from(order: Order) -> Self {
        Self {
            json: to_json(&order),
        }
    }
}

impl TryFrom<proto::Order> for Order {
    type Error = Status;

    fn try_from(order: proto::Order) -> Result<Self, Status> {
        from_json(&order.json)
    }
}

impl Report {
    pub fn into_proto(self, member: MemberId, connection: u64) -> proto::RankReport {
        proto::RankReport {
            member: member.0,
            json: to_json(&self),
            connection,
        }
    }

    pub fn parse(report: &proto::RankReport) -> Result<Self, Status> {
        from_json(&report.json)
    }
}

/// A rank's first words.
pub fn join_request(epoch: Epoch, introduction: &Introduction) -> proto::JoinRequest {
    proto::JoinRequest {
        version: VERSION.to_owned(),
        epoch: epoch.0,
        introduction: to_json(introduction),
    }
}

pub fn introduction(request: &proto::JoinRequest) -> Result<Introduction, Status> {
    from_json(&request.introduction)
}
