//! What a rank's shell does, as a pure state machine: (state, event, now) -> effects.
//!
//! The coordinator may die, come back elsewhere, or be cut off; meanwhile the rank steps on. So
//! nothing that the coordinator has to know is forgotten before it has said that it is written
//! down: all ranks keep the records of the last steps, and whoever leads tells them again.

use std::collections::VecDeque;
use std::time::Duration;

use crate::ids::{Generation, Rank, Step};
use crate::run::command::{Command, CommandKind, CommandStage};
use crate::run::event::{Attachment, Introduction, MemberId, Parting};
use crate::run::standing::{Beat, Standing};
use crate::run::state::Millis;
use crate::store::manifest::CheckpointManifest;
use crate::train::compute::{Inbox, Outbox};
use crate::wire::{Assignment, Order, Report};

/// Records that are kept for a coordinator that is away; the oldest give way.
const RECORDS_MAX: usize = 1 << 16;

/// Intervals and limits.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub beat: Duration,
    /// Between two attempts to find the coordinator.
    pub retry: Duration,
    /// How long a rank goes on without a coordinator.
    pub orphan: Duration,
    /// How long it may take to leave, once it was warned.
    pub grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            beat: Duration::from_secs(1),
            retry: Duration::from_millis(500),
            orphan: Duration::from_mins(10),
            grace: Duration::from_mins(5),
        }
    }
}

/// A fact for the shell.
#[derive(Debug)]
pub enum Event {
    /// The coordinator's first order has come.
    Welcomed {
        member: MemberId,
        stored_step: Step,
    },
    /// No coordinator was found, or the connection to it broke.
    Unlinked,
    /// The coordinator does not want this process, because the run is over or for another reason.
    Refused {
        reason: String,
        is_over: bool,
    },
    Order(Order),
    /// What the coordinator said to a report.
    Replied {
        unknown: bool,
        stored_step: Step,
    },
    Told(Outbox),
    /// The compute thread or the uploader ended with an error.
    Broke {
        error: String,
    },
    /// A scheduler will take the machine away.
    Warned {
        reason: String,
    },
    Tick {
        beat: Beat,
    },
}

/// What the shell must do, in this order.
#[derive(Debug)]
pub enum Effect {
    /// Find the coordinator and join it.
    Connect(Introduction),
    Report(Report),
    /// Read what the seat needs, and give it to the compute thread.
    Seat(Assignment),
    Compute(Inbox),
    /// End the communicator of a generation.
    Abort(Generation),
    Exit(Exit),
}

/// How the process ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// The run is over, or this process is not wanted any more.
    Dismissed {
        reason: String,
    },
    /// The supervisor starts another process in this one's place.
    Restart {
        reason: String,
    },
    /// Its machine is taken away.
    Left {
        reason: String,
    },
    Failed {
        error: String,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    Down { tried: Millis },
    Connecting,
    Up,
}

/// Something that belongs into the run's records, with the newest step by then.
#[derive(Clone, Debug)]
struct Record {
    step: Step,
    report: Report,
}

#[derive(Debug)]
pub struct RankState {
    limits: Limits,
    host: String,
    process: u32,
    link: Link,
    orphan_since: Option<Millis>,
    member: Option<MemberId>,
    attachment: Attachment,
    standing: Option<Standing>,
    /// The generation that it parted from last, and how.
    parting: Option<(Generation, Parting)>,
    records: VecDeque<Record>,
    newest_step: Step,
    /// Checkpoints that are stored and not known to be published.
    unpublished: Vec<CheckpointManifest>,
    /// The scheduler's warning, and when it came.
    leaving: Option<(String, Millis)>,
    beat_at: Millis,
    is_over: bool,
}

impl RankState {
    pub fn new(limits: Limits, host: String, process: u32, now: Millis) -> Self {
        Self {
            limits,
            host,
            process,
            link: Link::Connecting,
            orphan_since: Some(now),
            member: None,
            attachment: Attachment::Opening,
            standing: None,
            parting: None,
            records: VecDeque::new(),
            newest_step: Step(0),
            unpublished: Vec::new(),
            leaving: None,
            beat_at: now,
            is_over: false,
        }
    }

    /// How long to go on without a coordinator from now on, and how long leaving may take.
    pub fn set_limits(&mut self, orphan: Duration, grace: Duration) {
        self.limits.orphan = orphan;
        self.limits.grace = grace;
    }

    pub fn introduction(&self) -> Introduction {
        Introduction {
            host: self.host.clone(),
            process: self.process,
            member: self.member,
            attachment: self.attachment,
            standing: self.standing,
        }
    }

    pub fn handle(&mut self, event: Event, now: Millis) -> Vec<Effect> {
        let mut effects = Vec::new();
        if self.is_over {
            return effects;
        }
        match event {
            Event::Welcomed {
                member,
                stored_step,
            } => {
                self.link = Link::Up;
                self.orphan_since = None;
                self.member = Some(member);
                self.welcomed(stored_step, &mut effects);
            }
            Event::Unlinked => {
                self.orphan_since.get_or_insert(now);
                if self.link == Link::Up {
                    // A connection that broke is made anew at once, before the rank counts as lost.
                    self.link = Link::Connecting;
                    effects.push(Effect::Connect(self.introduction()));
                } else {
                    self.link = Link::Down { tried: now };
                }
            }
            Event::Refused { reason, is_over } => {
                let exit = if is_over {
                    Exit::Dismissed { reason }
                } else {
                    Exit::Failed { error: reason }
                };
                self.exit(exit, &mut effects);
            }
            Event::Order(order) => self.order(order, &mut effects),
            Event::Replied {
                unknown,
                stored_step,
            } => {
                self.forget(stored_step);
                if unknown && self.link == Link::Up {
                    self.link = Link::Connecting;
                    effects.push(Effect::Connect(self.introduction()));
                }
            }
            Event::Told(told) => self.told(told, &mut effects),
            Event::Broke { error } => {
                let report = Report::Failed {
                    error: error.clone(),
                };
                self.report(report, &mut effects);
                self.exit(Exit::Failed { error }, &mut effects);
            }
            Event::Warned { reason } => {
                if self.member.is_none() {
                    self.exit(Exit::Left { reason }, &mut effects);
                } else if self.leaving.is_none() {
                    self.leaving = Some((reason.clone(), now));
                    self.report(Report::Leaving { reason }, &mut effects);
                }
            }
            Event::Tick { beat } => self.tick(beat, now, &mut effects),
        }
        effects
    }

    fn exit(&mut self, exit: Exit, effects: &mut Vec<Effect>) {
        self.is_over = true;
        effects.push(Effect::Exit(exit));
    }

    /// Sends what needs no second telling: the next introduction says as much.
    fn report(&self, report: Report, effects: &mut Vec<Effect>) {
        if self.link == Link::Up {
            effects.push(Effect::Report(report));
        }
    }

    fn leads(&self) -> bool {
        match self.attachment {
            Attachment::Working(seat) | Attachment::Finished(seat) => seat.rank == Rank(0),
            Attachment::Opening | Attachment::Idle | Attachment::Connecting(_) => false,
        }
    }

    /// Tells a coordinator, new or back again, what it may have missed.
    fn welcomed(&mut self, stored_step: Step, effects: &mut Vec<Effect>) {
        self.forget(stored_step);
        if self.leads() || self.attachment == Attachment::Idle {
            self.tell_records(effects);
        }
        for manifest in &self.unpublished {
            let report = Report::Checkpoint(Box::new(manifest.clone()));
            effects.push(Effect::Report(report));
        }
        if let Some((reason, _)) = self.leaving.clone() {
            effects.push(Effect::Report(Report::Leaving { reason }));
        }
        if self.attachment == Attachment::Idle {
            // Whatever it introduced itself as: no seat is given before all records are told.
            self.tell_idle(effects);
        }
        if let Attachment::Finished(seat) = self.attachment {
            let ended = self.standing.and_then(|standing| standing.ended);
            effects.push(Effect::Report(Report::Finished {
                generation: seat.generation,
                stopped: ended == Some(true),
            }));
        }
    }

    fn tell_records(&self, effects: &mut Vec<Effect>) {
        for record in &self.records {
            self.report(record.report.clone(), effects);
        }
    }

    /// Keeps a record until it is stored; the lead tells it.
    fn record(&mut self, report: Report, effects: &mut Vec<Effect>) {
        if self.leads() {
            self.report(report.clone(), effects);
        }
        if self.records.len() == RECORDS_MAX {
            self.records.pop_front();
        }
        self.records.push_back(Record {
            step: self.newest_step,
            report,
        });
    }

    /// Metrics up to this step are stored. What else belongs to the step itself may not be.
    fn forget(&mut self, stored_step: Step) {
        while self
            .records
            .front()
            .is_some_and(|record| record.step < stored_step)
        {
            self.records.pop_front();
        }
    }

    /// The run goes on from an earlier state: what was kept is of a history that it has left.
    fn forget_all(&mut self) {
        self.records.clear();
        self.unpublished.clear();
        self.newest_step = Step(0);
    }

    fn order(&mut self, order: Order, effects: &mut Vec<Effect>) {
        match order {
            Order::Welcome { .. } => {}
            Order::Assign(assignment) => {
                // A seat that was given before the last one was lost.
                if matches!(self.attachment, Attachment::Idle | Attachment::Finished(_)) {
                    self.attachment = Attachment::Connecting(assignment.placement.seat);
                    effects.push(Effect::Seat(assignment));
                }
            }
            Order::Rendezvous {
                generation,
                address,
            } => effects.push(Effect::Compute(Inbox::Rendezvous {
                generation,
                address,
            })),
            Order::Command(command) => effects.push(Effect::Compute(Inbox::Command(command))),
            Order::Regroup { generation } => {
                effects.push(Effect::Compute(Inbox::Regroup(generation)));
            }
            Order::Abort { generation, .. } => {
                effects.push(Effect::Abort(generation));
                // The compute thread is done with it and waits.
                if let Attachment::Finished(seat) = self.attachment
                    && seat.generation <= generation
                {
                    let error = "the generation was given up after its last step".to_owned();
                    let parting = Some((seat.generation, Parting::Broken { error }));
                    self.become_idle(parting, effects);
                }
            }
            Order::Published { step } => {
                self.unpublished.retain(|manifest| manifest.step > step);
                effects.push(Effect::Compute(Inbox::Published(step)));
            }
            Order::Dismiss { reason, restart } => {
                let is_done = matches!(self.attachment, Attachment::Finished(_));
                let exit = if self.leaving.is_some() && !is_done {
                    Exit::Left { reason }
                } else if restart {
                    Exit::Restart { reason }
                } else {
                    Exit::Dismissed { reason }
                };
                self.exit(exit, effects);
            }
        }
    }

    /// Has no generation any more.
    fn become_idle(&mut self, parting: Option<(Generation, Parting)>, effects: &mut Vec<Effect>) {
        self.attachment = Attachment::Idle;
        self.parting = parting;
        // It may be the only one that took the last step. Others get its state, not its records.
        self.tell_records(effects);
        self.tell_idle(effects);
    }

    fn tell_idle(&self, effects: &mut Vec<Effect>) {
        let (parting, standing) = (self.parting.clone(), self.standing);
        self.report(Report::Idle { parting, standing }, effects);
    }

    fn told(&mut self, told: Outbox, effects: &mut Vec<Effect>) {
        match told {
            Outbox::Idle { parting, standing } => {
                if let Some((_, Parting::WentBack(_))) = parting {
                    self.forget_all();
                }
                self.standing = standing;
                self.become_idle(parting, effects);
            }
            Outbox::RendezvousReady {
                generation,
                address,
            } => self.report(
                Report::RendezvousReady {
                    generation,
                    address,
                },
                effects,
            ),
            Outbox::Ready { seat, standing } => {
                self.attachment = Attachment::Working(seat);
                self.standing = Some(standing);
                // The steps of a state that was given to it are others' to tell.
                self.newest_step = self.newest_step.max(standing.step);
                let generation = seat.generation;
                self.report(
                    Report::Ready {
                        generation,
                        standing,
                    },
                    effects,
                );
                if self.leads() {
                    self.tell_records(effects);
                }
            }
            Outbox::Step(metrics) => {
                if self.newest_step >= metrics.step {
                    // This rank had gone further than those whose state it was given.
                    self.records.retain(|record| {
                        record.step < metrics.step || !matches!(record.report, Report::Step(_))
                    });
                }
                self.newest_step = metrics.step;
                self.record(Report::Step(metrics), effects);
            }
            Outbox::Evaluation(evaluation) => {
                self.record(Report::Evaluation(evaluation), effects);
            }
            Outbox::Spike(spike) => self.record(Report::Spike(spike), effects),
            Outbox::Stored(manifest) => {
                self.unpublished.push((*manifest).clone());
                self.report(Report::Checkpoint(manifest), effects);
            }
            Outbox::NotStored { step, error } => {
                self.report(Report::NotStored { step, error }, effects);
            }
            Outbox::Outcome { command, stage } => self.outcome(command, stage, effects),
            Outbox::Ended {
                seat,
                standing,
                stopped,
            } => {
                self.attachment = Attachment::Finished(seat);
                self.standing = Some(standing);
                let generation = seat.generation;
                let finished = Report::Finished {
                    generation,
                    stopped,
                };
                self.report(finished, effects);
            }
        }
    }

    fn outcome(&mut self, command: Command, stage: CommandStage, effects: &mut Vec<Effect>) {
        let id = command.id;
        if let (Some(standing), CommandStage::Applied { .. }) = (&mut self.standing, &stage) {
            match command.kind {
                CommandKind::Pause => standing.paused = true,
                CommandKind::Resume | CommandKind::Stop => standing.paused = false,
                CommandKind::Decay { .. } | CommandKind::Checkpoint { .. } => {}
            }
        }
        let seat = self.attachment.seat();
        let report = Report::Outcome {
            generation: seat.map_or(Generation(0), |seat| seat.generation),
            id,
            stage,
        };
        self.record(report, effects);
    }

    fn tick(&mut self, beat: Beat, now: Millis, effects: &mut Vec<Effect>) {
        if let Link::Down { tried } = self.link
            && now.since(tried) >= self.limits.retry
        {
            self.link = Link::Connecting;
            effects.push(Effect::Connect(self.introduction()));
        }
        if self.link == Link::Up && now.since(self.beat_at) >= self.limits.beat {
            self.beat_at = now;
            effects.push(Effect::Report(Report::Beat(beat)));
        }
        if let Some((reason, since)) = &self.leaving
            && now.since(*since) >= self.limits.grace
        {
            let reason = format!("{reason}, and the time to leave in is over");
            self.exit(Exit::Left { reason }, effects);
            return;
        }
        if self
            .orphan_since
            .is_some_and(|since| now.since(since) >= self.limits.orphan)
        {
            let limit = self.limits.orphan.as_secs();
            let reason = format!("no coordinator for {limit} s");
            // Before it has met one it does not know the run, and so not where to look for it.
            let exit = if self.member.is_some() {
                Exit::Failed { error: reason }
            } else {
                Exit::Restart { reason }
            };
            self.exit(exit, effects);
        }
    }
}

#[cfg(test)]
mod tests;
