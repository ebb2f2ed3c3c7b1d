//! The task that owns the run's state machine and carries out its effects.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{debug, info, warn};

use crate::config::RunConfig;
use crate::coordinator::Ending;
use crate::coordinator::archive::Archive;
use crate::coordinator::claim::{Claim, Resume, host_name};
use crate::coordinator::journal::Fenced;
use crate::coordinator::message::{ConnectionId, JoinAnswer, Message, Receipt, Refusal};
use crate::coordinator::rewind;
use crate::ids::{Generation, Rank, Step};
use crate::run::command::CommandRecord;
use crate::run::event::{Effect, Event, MemberId, Origin, Placement, Position};
use crate::run::goodput::Recovery;
use crate::run::schedule::Schedule;
use crate::run::spike;
use crate::run::state::{Limits, Millis, Past, Rules, RunState, Stage};
use crate::store::layout;
use crate::store::persistence::outlast;
use crate::telemetry::{StatusView, StepMetrics};
use crate::wire::{Assignment, Order, Report};

pub(super) struct Core {
    config: RunConfig,
    run_json: String,
    host: String,
    claim: Claim,
    resume: Resume,
    checkpoints_url: String,
    state: RunState,
    archive: Archive,
    orders: BTreeMap<MemberId, (ConnectionId, mpsc::Sender<Order>)>,
    last_step: Option<StepMetrics>,
    last_recovery: Option<Recovery>,
    status: watch::Sender<StatusView>,
    /// Whether the status tells all that has happened, heartbeats aside.
    is_shown: bool,
}

impl Core {
    pub(super) fn new(
        config: RunConfig,
        claim: &Claim,
        archive: Archive,
        (schedule, past): (Schedule, Past),
    ) -> Result<(Self, watch::Receiver<StatusView>)> {
        let rules = Rules {
            ranks: config.ranks,
            min_ranks: config.recovery.min_ranks,
            gather_timeout: config.timeouts.gather,
            checkpoint_interval: config.checkpoints.every,
            schedule,
            limits: Limits::default(),
        };
        let state = RunState::new(rules, past, claim.epoch, Millis(0));
        let run_json = serde_json::to_string(&config)?;
        let (status, watched) = watch::channel(StatusView::new(&config.name, claim.epoch, &state));
        let core = Self {
            run_json,
            host: host_name(),
            claim: claim.clone(),
            resume: Resume::default(),
            checkpoints_url: claim.store.url(layout::CHECKPOINTS_FOLDER),
            state,
            archive,
            orders: BTreeMap::new(),
            last_step: None,
            last_recovery: None,
            status,
            is_shown: true,
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
                introduction,
                epoch,
                connection,
                orders,
                reply: answer,
            } => {
                if epoch > self.claim.epoch {
                    // The rank hangs up whatever the answer is.
                    let _ = answer.send(Err(Refusal::Elsewhere));
                    let ours = self.claim.epoch;
                    return Err(Fenced { ours }.into());
                }
                reply.join = Some((connection, orders, answer));
                Event::Joined(introduction)
            }
            Message::Left { member, connection } => {
                if !self.is_connection(member, connection) {
                    // It has come back since.
                    return Ok(None);
                }
                self.orders.remove(&member);
                Event::Left { member }
            }
            Message::Reported {
                member,
                connection,
                report,
                reply,
            } => match self.reported((member, connection), report, reply).await? {
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
            Message::StoreFails { error } => Event::StoreFails { error },
            Message::Warned { reason } => Event::Warned { reason },
            Message::OutOfTime => Event::OutOfTime,
            Message::Published { step } => {
                self.order_all(&Order::Published { step });
                Event::CheckpointPublished { step }
            }
            Message::WentBack(resume) => Event::WentBack {
                to: self.go_on_from(resume),
            },
            Message::Restorable(resume) => Event::Restorable {
                step: self.go_on_from(resume),
            },
        };
        self.decide(event, reply, now).await
    }

    async fn decide(
        &mut self,
        event: Event,
        reply: Replies,
        now: Millis,
    ) -> Result<Option<Option<String>>> {
        // Thousands come a second; the next tick shows what they say.
        self.is_shown &= matches!(event, Event::Beat { .. });
        let effects = self.state.handle(event, now);
        let since_start = Duration::from_millis(now.0);
        self.archive.observe(self.state.occupation(), since_start);
        self.execute(effects, reply).await
    }

    /// Shows what has changed since it was last shown: for each of many events that come at once it
    /// would be too dear, a status names all members.
    pub(super) fn show_changes(&mut self) {
        if !std::mem::replace(&mut self.is_shown, true) {
            self.show();
        }
    }

    /// Whether this is the connection that a member has now.
    fn is_connection(&self, member: MemberId, connection: ConnectionId) -> bool {
        let current = self.orders.get(&member);
        current.is_some_and(|(current, _)| *current == connection)
    }

    fn go_on_from(&mut self, resume: Resume) -> Option<Step> {
        let step = resume.step();
        self.resume = resume;
        step
    }

    /// Answers a report, and says what of it is for the state machine. There is none where it came
    /// on a connection that the member has no more: what it tells on a new one begins before that.
    async fn reported(
        &mut self,
        (member, connection): (MemberId, ConnectionId),
        report: Report,
        reply: oneshot::Sender<Receipt>,
    ) -> Result<Option<Event>> {
        let is_member = self.is_connection(member, connection);
        let event = if is_member {
            self.receive(member, report).await?
        } else {
            None
        };
        let receipt = Receipt {
            is_member,
            stored_step: self.archive.stored_step(),
        };
        // The rank may have hung up.
        let _ = reply.send(receipt);
        Ok(event)
    }

    /// Turns a rank's report into a fact, and files what it carries.
    async fn receive(&mut self, member: MemberId, report: Report) -> Result<Option<Event>> {
        Ok(Some(match report {
            Report::Idle { parting, standing } => Event::Idle {
                member,
                parting,
                standing,
            },
            Report::RendezvousReady {
                generation,
                address,
            } => Event::RendezvousReady {
                member,
                generation,
                address,
            },
            Report::Ready {
                generation,
                standing,
            } => Event::Ready {
                member,
                generation,
                standing,
            },
            Report::Beat(beat) => Event::Beat { member, beat },
            Report::Step(metrics) => return self.step(*metrics).await,
            Report::Evaluation(evaluation) => {
                info!(step = %evaluation.step, moment = ?evaluation.moment, "evaluated");
                self.archive.evaluation(&evaluation).await?;
                return Ok(None);
            }
            Report::Spike(spike) if self.is_current(spike.generation) => Event::Spiked(spike),
            Report::Spike(_) => return Ok(None),
            Report::Checkpoint(manifest) => {
                if self.is_current(manifest.generation) {
                    self.archive.publish(*manifest).await?;
                } else {
                    warn!(step = %manifest.step, "a checkpoint of a state that is no more");
                }
                return Ok(None);
            }
            Report::NotStored { step, error } => Event::StoreFails {
                error: format!("checkpoint {step} cannot be stored: {error}"),
            },
            Report::Outcome {
                generation,
                id,
                stage,
            } => {
                if !self.is_current(generation) {
                    // What an earlier state was told may have to be done again.
                    return Ok(None);
                }
                Event::CommandOutcome {
                    generation,
                    id,
                    stage,
                }
            }
            Report::Failed { error } => Event::RankFailed { member, error },
            Report::Finished {
                generation,
                stopped,
            } => Event::RankFinished {
                member,
                generation,
                stopped,
            },
            Report::Leaving { reason } => Event::Leaving { member, reason },
        }))
    }

    async fn step(&mut self, metrics: StepMetrics) -> Result<Option<Event>> {
        if !self.is_current(metrics.generation) || !self.archive.step(&metrics).await? {
            return Ok(None);
        }
        let position = Position {
            step: metrics.step,
            tokens: metrics.tokens,
            phase: metrics.next_phase.clone(),
            phase_kind: metrics.next_phase_kind,
        };
        let seconds = metrics.seconds;
        self.last_step = Some(metrics);
        Ok(Some(Event::StepTaken { position, seconds }))
    }

    /// Whether a generation belongs to the state that training goes on from.
    fn is_current(&self, generation: Generation) -> bool {
        let lineage = self.state.lineage;
        lineage.is_some_and(|lineage| generation >= lineage.generation)
    }

    async fn execute(
        &mut self,
        effects: Vec<Effect>,
        mut reply: Replies,
    ) -> Result<Option<Option<String>>> {
        let mut ended = None;
        for effect in effects {
            match effect {
                Effect::Welcome { member } => self.welcome(member, &mut reply),
                Effect::Refuse { reason } => {
                    if let Some((_, _, answer)) = reply.join.take() {
                        let _ = answer.send(Err(Refusal::Over(reason)));
                    }
                }
                Effect::Assign { member, placement } => self.assign(member, placement).await?,
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
                Effect::Regroup { member, generation } => {
                    self.order(member, Order::Regroup { generation });
                }
                Effect::Abort {
                    member,
                    generation,
                    reason,
                } => self.order(member, Order::Abort { generation, reason }),
                Effect::Journal { entry } => self.archive.journal(&entry).await?,
                Effect::Recovered(recovery) => {
                    info!("{}", recovery.describe());
                    self.archive.recovery(&recovery)?;
                    self.last_recovery = Some(recovery);
                }
                Effect::Restore => {
                    let (spikes, lineage) = (self.state.spikes.clone(), self.state.lineage);
                    self.archive.find_resume(spikes, lineage).await?;
                }
                Effect::GoBack { before } => {
                    let checkpoints = self.config.loss_spikes.go_back.checkpoints;
                    self.archive.go_back(before, checkpoints).await?;
                }
                Effect::Answer { record } => {
                    // Whoever gets the answer finds the command in the status.
                    self.show();
                    if let Some(answer) = reply.command.take() {
                        let _ = answer.send(record);
                    }
                }
                Effect::Dismiss {
                    member,
                    reason,
                    restart,
                } => self.order(member, Order::Dismiss { reason, restart }),
                Effect::Note { reason } => info!("{reason}"),
                Effect::End { error } => ended = Some(error),
            }
        }
        Ok(ended)
    }

    fn welcome(&mut self, member: MemberId, reply: &mut Replies) {
        let Some((connection, orders, answer)) = reply.join.take() else {
            return;
        };
        let welcome = Order::Welcome {
            member,
            epoch: self.claim.epoch,
            run_json: self.run_json.clone(),
            stored_step: self.archive.stored_step(),
            connection,
        };
        self.orders.insert(member, (connection, orders));
        self.order(member, welcome);
        // A rank that hung up meanwhile is reported as having left.
        let _ = answer.send(Ok(member));
    }

    async fn assign(&mut self, member: MemberId, placement: Placement) -> Result<()> {
        let from_store = placement.origin == Origin::Store;
        let leads = placement.seat.rank == Rank(0);
        if from_store && leads {
            // Only now is it certain that nobody holds what came after.
            let step = self.resume.step().unwrap_or_default();
            let clear = || rewind::clear(&self.claim, &self.state.spikes, None);
            outlast(self.claim.patience, clear).await?;
            self.archive.cut(step).await?;
            self.last_step = None;
        }
        let own = self.resume.from.as_ref().filter(|_| !self.resume.branch);
        let published = if from_store {
            own.map(|checkpoint| checkpoint.step)
        } else {
            self.state.last_checkpoint
        };
        let assignment = Assignment {
            placement,
            resume_from: self.resume.from.clone().filter(|_| from_store && leads),
            branch: self.resume.branch,
            replay: self.state.replay(),
            detours: spike::detours(&self.state.spikes),
            published,
        };
        self.order(member, Order::Assign(assignment));
        Ok(())
    }

    fn order_all(&mut self, order: &Order) {
        for member in self.orders.keys().copied().collect::<Vec<_>>() {
            self.order(member, order.clone());
        }
    }

    /// Queues an order. A full queue means that the rank does not read: its connection is cut,
    /// which the state machine then sees as the rank having left.
    fn order(&mut self, member: MemberId, order: Order) {
        let Some((_, orders)) = self.orders.get(&member) else {
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
            account: self.archive.account(),
            last_recovery: self.last_recovery.clone(),
            remaining_tokens: remaining,
            seconds_left: remaining
                .filter(|_| speed > 0.0)
                .map(|tokens| tokens as f64 / speed),
            checkpoints_url: self.checkpoints_url.clone(),
            host: self.host.clone(),
            ..StatusView::new(&self.config.name, self.claim.epoch, &self.state)
        });
    }

    /// How a run ended that did not fail.
    pub(super) fn ending(&self) -> Ending {
        if self.state.stage == Stage::Stopped && self.state.is_interrupted() {
            Ending::Interrupted
        } else {
            Ending::Over
        }
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
    join: Option<(ConnectionId, mpsc::Sender<Order>, JoinAnswer)>,
    command: Option<oneshot::Sender<CommandRecord>>,
}
