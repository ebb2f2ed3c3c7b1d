//! The task that owns the run's state machine and carries out its effects.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{debug, info};

use crate::config::RunConfig;
use crate::coordinator::archive::Archive;
use crate::coordinator::claim::Claim;
use crate::coordinator::message::{JoinAnswer, Message};
use crate::ids::Epoch;
use crate::run::command::CommandRecord;
use crate::run::event::{Effect, Event, MemberId, Position};
use crate::run::schedule::Schedule;
use crate::run::state::{Millis, Rules, RunState};
use crate::store::address::CheckpointAddress;
use crate::store::layout;
use crate::telemetry::{Evaluation, StatusView, StepMetrics};
use crate::wire::{Assignment, Order, Report};

pub(super) struct Core {
    config: RunConfig,
    run_json: String,
    epoch: Epoch,
    resume_from: Option<CheckpointAddress>,
    branch: bool,
    replay: Vec<CommandRecord>,
    checkpoints_url: String,
    state: RunState,
    archive: Archive,
    orders: BTreeMap<MemberId, mpsc::Sender<Order>>,
    last_step: Option<StepMetrics>,
    status: watch::Sender<StatusView>,
}

impl Core {
    pub(super) fn new(
        config: RunConfig,
        claim: &Claim,
        archive: Archive,
        schedule: Schedule,
    ) -> Result<(Self, watch::Receiver<StatusView>)> {
        let rules = Rules {
            ranks: config.ranks,
            gather_timeout: config.timeouts.gather,
            checkpoint_interval: config.checkpoints.every,
            schedule,
        };
        let replay = archive.replay(claim.resume_step());
        let state = RunState::new(rules, &replay, archive.next_command(), Millis(0));
        let run_json = serde_json::to_string(&config)?;
        let (status, watched) = watch::channel(StatusView::new(&config.name, claim.epoch, &state));
        let core = Self {
            run_json,
            epoch: claim.epoch,
            resume_from: claim.resume_from.clone(),
            branch: claim.branch,
            replay,
            checkpoints_url: claim.store.url(layout::CHECKPOINTS_FOLDER),
            state,
            archive,
            orders: BTreeMap::new(),
            last_step: None,
            status,
            config,
        };
        core.show();
        Ok((core, watched))
    }

    /// Handles one message; `Some` ends the run, with the error if it failed.
    pub(super) async fn handle(
        &mut self,
        message: Message,
        now: Duration,
    ) -> Result<Option<Option<String>>> {
        let now = Millis(now.as_millis() as u64);
        let mut reply = Replies::default();
        let event = match message {
            Message::Tick => {
                self.archive.flush_if_due(now).await?;
                Event::Tick
            }
            Message::Joined {
                host,
                process,
                orders,
                reply: answer,
            } => {
                reply.join = Some((orders, answer));
                Event::Joined { host, process }
            }
            Message::Left { member } => {
                self.orders.remove(&member);
                Event::Left { member }
            }
            Message::Reported { member, report } => match self.receive(member, report).await? {
                Some(event) => event,
                None => return Ok(None),
            },
            Message::Asked {
                kind,
                reply: answer,
            } => {
                reply.command = Some(answer);
                Event::CommandAsked { kind }
            }
            Message::Broken { error } => Event::Broken { error },
            Message::Published { step } => Event::CheckpointPublished { step },
        };
        let effects = self.state.handle(event, now);
        let ended = self.execute(effects, reply).await?;
        self.show();
        Ok(ended)
    }

    /// Turns a rank's report into a fact, and files what it carries.
    async fn receive(&mut self, member: MemberId, report: Report) -> Result<Option<Event>> {
        Ok(Some(match report {
            Report::RendezvousReady { address } => Event::RendezvousReady { member, address },
            Report::Ready => Event::Ready { member },
            Report::Step { json } => {
                let metrics: StepMetrics =
                    serde_json::from_str(&json).context("a rank's step metrics are malformed")?;
                self.archive.step(metrics.step, &json).await?;
                let position = Position {
                    step: metrics.step,
                    tokens: metrics.tokens,
                    phase: metrics.next_phase.clone(),
                    phase_kind: metrics.next_phase_kind,
                };
                self.last_step = Some(metrics);
                Event::StepTaken { position }
            }
            Report::Evaluation { json } => {
                let evaluation: Evaluation =
                    serde_json::from_str(&json).context("a rank's evaluation is malformed")?;
                info!(step = %evaluation.step, moment = ?evaluation.moment, "evaluated");
                self.archive.evaluation(&evaluation).await?;
                return Ok(None);
            }
            Report::Checkpoint { json } => {
                let manifest = serde_json::from_str(&json)
                    .context("a rank's checkpoint manifest is malformed")?;
                self.archive.publish(manifest).await?;
                return Ok(None);
            }
            Report::Outcome { id, stage } => Event::CommandOutcome { id, stage },
            Report::Failed { error } => Event::RankFailed { member, error },
            Report::Finished { stopped } => Event::RankFinished { member, stopped },
        }))
    }

    async fn execute(
        &mut self,
        effects: Vec<Effect>,
        mut reply: Replies,
    ) -> Result<Option<Option<String>>> {
        let mut ended = None;
        for effect in effects {
            match effect {
                Effect::Welcome { member } => {
                    if let Some((orders, answer)) = reply.join.take() {
                        let welcome = Order::Welcome {
                            member: member.0,
                            run_json: self.run_json.clone(),
                        };
                        self.orders.insert(member, orders);
                        self.order(member, welcome);
                        // A rank that hung up meanwhile is reported as having left.
                        let _ = answer.send(Ok(member));
                    }
                }
                Effect::Refuse { reason } => {
                    if let Some((_, answer)) = reply.join.take() {
                        let _ = answer.send(Err(reason));
                    }
                }
                Effect::Assign {
                    member,
                    rank,
                    world,
                    generation,
                } => {
                    let assignment = Assignment {
                        rank,
                        world,
                        generation,
                        resume_from: self.resume_from.clone(),
                        branch: self.branch,
                        replay: self.replay.clone(),
                    };
                    self.order(member, Order::Assign(assignment));
                }
                Effect::Rendezvous {
                    member,
                    generation,
                    address,
                } => {
                    self.order(
                        member,
                        Order::Rendezvous {
                            generation,
                            address,
                        },
                    );
                }
                Effect::Command { member, command } => {
                    self.order(member, Order::Command(command));
                }
                Effect::Journal { record } => self.archive.journal(&record).await?,
                Effect::Answer { record } => {
                    // Whoever gets the answer finds the command in the status.
                    self.show();
                    if let Some(answer) = reply.command.take() {
                        let _ = answer.send(record);
                    }
                }
                Effect::Shutdown { member, reason } => {
                    self.order(member, Order::Shutdown { reason });
                }
                Effect::Note { reason } => info!("{reason}"),
                Effect::End { error } => ended = Some(error),
            }
        }
        Ok(ended)
    }

    /// Queues an order. A full queue means that the rank does not read: its connection is cut,
    /// which the state machine then sees as the rank having left.
    fn order(&mut self, member: MemberId, order: Order) {
        let Some(orders) = self.orders.get(&member) else {
            debug!(?member, "an order for a rank that is gone");
            return;
        };
        if orders.try_send(order).is_err() {
            self.orders.remove(&member);
        }
    }

    fn show(&self) {
        let remaining = self.last_step.as_ref().map(|step| step.remaining_tokens);
        let speed = self
            .last_step
            .as_ref()
            .map_or(0.0, |step| step.tokens_per_second);
        self.status.send_replace(StatusView {
            members: self.state.members.values().cloned().collect(),
            last_step: self.last_step.clone(),
            remaining_tokens: remaining,
            seconds_left: remaining
                .filter(|_| speed > 0.0)
                .map(|tokens| tokens as f64 / speed),
            checkpoints_url: self.checkpoints_url.clone(),
            ..StatusView::new(&self.config.name, self.epoch, &self.state)
        });
    }

    /// Files what is left; called once, after the run is over.
    pub(super) async fn close(mut self) -> Result<()> {
        self.orders.clear();
        self.archive.close().await
    }
}

/// Who waits for an answer to the message in hand.
#[derive(Default)]
struct Replies {
    join: Option<(mpsc::Sender<Order>, JoinAnswer)>,
    command: Option<oneshot::Sender<CommandRecord>>,
}
