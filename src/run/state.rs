//! The coordinator's decisions as a pure state machine: (state, event, now) -> (state, effects).
//!
//! Events record facts; what to do about them is decided here and nowhere else, each decision with
//! its reason in words. It never reads a clock, a socket or a file.
//!
//! The ranks of a generation hold equal state and step on without the coordinator. When one is
//! lost, all others let go of the generation, say which state they hold, and are given seats in the
//! next one ([`membership`]). What counts as lost is in [`liveness`].

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::ids::{CommandId, Epoch, Generation, Rank, Step};
use crate::run::command::{CommandKind, CommandRecord};
use crate::run::event::{
    Effect, Event, GenerationRecord, Introduction, MemberId, Parting, Position,
};
use crate::run::goodput::Cause;
use crate::run::schedule::Schedule;
use crate::run::spike::Spike;
use crate::run::standing::{Beat, Standing};
use crate::run::state::leaving::Farewell;
use crate::run::state::liveness::Pace;
use crate::run::state::recovering::Underway;

mod commands;
mod ending;
mod joining;
mod leaving;
mod liveness;
mod membership;
mod recovering;
mod spikes;
mod takeover;

/// Milliseconds on the coordinator's monotonic clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Millis(pub u64);

impl Millis {
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

/// Limits and intervals of the state machine.
#[derive(Clone, Debug)]
pub struct Rules {
    /// How many to wait for at a start, and the most that a generation has.
    pub ranks: u32,
    /// The fewest that a generation may have.
    pub min_ranks: u32,
    /// How long to wait for ranks to join, and again for them to connect to each other.
    pub gather_timeout: Duration,
    /// Time between two checkpoints, counted from the start of the first; none on zero.
    pub checkpoint_interval: Option<Duration>,
    /// The run's phases, of which a decay on command enters one.
    pub schedule: Schedule,
    pub limits: Limits,
}

/// How long the signs of life may stay out.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// A process whose connection closed may come back within this time.
    pub reconnect: Duration,
    /// A process that says nothing for this long is lost.
    pub silence: Duration,
    /// The least time, and the multiple of a step's median time, after which a compute thread that
    /// gets nothing done hangs.
    pub progress_min: Duration,
    pub progress_steps: f64,
    /// The same before any step's time is known.
    pub progress_first: Duration,
    /// For a rank to let go of a generation.
    pub abort: Duration,
    /// Ranks that join within this time come into one generation.
    pub join_window: Duration,
    /// How long the state of silent ranks is waited for before a checkpoint is read.
    pub rejoin: Duration,
    /// The same of ranks whose connections closed, as those of dead processes do.
    pub rejoin_closed: Duration,
    /// Generations in a row that may end without a step.
    pub fruitless_max: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            reconnect: Duration::from_millis(800),
            silence: Duration::from_secs(8),
            progress_min: Duration::from_secs(10),
            progress_steps: 5.0,
            progress_first: Duration::from_mins(10),
            abort: Duration::from_secs(5),
            join_window: Duration::from_secs(1),
            rejoin: Duration::from_secs(10),
            rejoin_closed: Duration::from_secs(2),
            fruitless_max: 20,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Waiting for ranks to join, to come back, or to let go of the last generation.
    Gathering,
    /// Ranks are assigned and connect to each other.
    Connecting,
    Training,
    Paused,
    /// The last step is taken; checkpoints and good-byes are on their way.
    Ending,
    Finished,
    Stopped,
    Failed,
}

impl Stage {
    pub fn is_over(&self) -> bool {
        matches!(self, Self::Finished | Self::Stopped | Self::Failed)
    }

    /// Whether ranks hold seats in a generation.
    pub fn has_generation(&self) -> bool {
        matches!(
            self,
            Self::Connecting | Self::Training | Self::Paused | Self::Ending
        )
    }
}

/// What a member is at, as far as the coordinator knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// Opens the corpus, or is yet to say that it is free.
    Opening,
    /// Free for the next generation.
    Idle,
    Connecting,
    Working,
    Finished,
    /// Told to let go of a generation that is over.
    LettingGo,
}

/// A process that works for the run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Member {
    pub rank: Option<Rank>,
    pub host: String,
    pub process: u32,
    pub place: Place,
    pub standing: Option<Standing>,
    pub beat: Beat,
    /// How many times slower than the others it computes, where that is remarkable.
    pub slow: Option<f64>,
    /// Its machine will be taken away.
    pub leaving: Option<String>,
    #[serde(skip)]
    since: Since,
}

/// When something of a member was last seen.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Since {
    place: Millis,
    beat: Millis,
    ticked: Millis,
    /// When its connection closed.
    lost: Option<Millis>,
}

/// What the journal says of the run's earlier lives.
#[derive(Clone, Debug, Default)]
pub struct Past {
    /// The newest record of every command.
    pub commands: Vec<CommandRecord>,
    /// Steps that were skipped, gone back from, or only told, oldest first.
    pub spikes: Vec<Spike>,
    /// The last generation, if the run did not end in order since.
    pub generation: Option<GenerationRecord>,
    /// The number of the newest generation.
    pub newest_generation: Generation,
    /// Members of it that are known to be no more.
    pub gone: Vec<MemberId>,
}

/// Whether the store has said what there is to go on from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Restorable {
    Unknown,
    Asked,
    Known(Option<Step>),
}

#[derive(Clone, Debug)]
pub struct RunState {
    rules: Rules,
    pub stage: Stage,
    /// Why the stage is what it is.
    pub reason: String,
    pub generation: Generation,
    pub members: BTreeMap<MemberId, Member>,
    pub position: Option<Position>,
    pub commands: BTreeMap<CommandId, CommandRecord>,
    pub last_checkpoint: Option<Step>,
    /// Steps that were skipped, gone back from, or only told, oldest first.
    pub spikes: Vec<Spike>,
    /// What the store fails at, until it takes a checkpoint again.
    pub store_fails: Option<String>,
    /// The lineage of the state that training goes on from, where there is one.
    pub lineage: Option<Lineage>,
    now: Millis,
    next_member: u64,
    next_command: u64,
    first_command_of_epoch: CommandId,
    stage_since: Millis,
    ticked: Millis,
    checkpoint_since: Millis,
    /// Since when no connected member holds the state.
    stateless_since: Millis,
    /// How long one that did is waited for.
    rejoin: Duration,
    restorable: Restorable,
    /// What the run goes back from, until it is known where to.
    going_back: Option<Spike>,
    /// The generation of an earlier coordinator whose ranks may all come back.
    adoption: Option<GenerationRecord>,
    /// Members of that generation which may hold a newer state than those that are here.
    awaited: Vec<MemberId>,
    began: Millis,
    /// Whether the last step was taken because of a command.
    stopped: bool,
    /// Why the lead was asked to end the generation, once it was.
    regrouping: Option<String>,
    /// Whether the ranks have paused or resumed while not all of them were heard of.
    heard_paused: Option<bool>,
    pace: Pace,
    farewell: Farewell,
    underway: Option<Underway>,
    /// What a generation that is yet to be formed waits for.
    waits: Cause,
    /// How long the rank was silent that was just found so.
    silence: Duration,
    /// Generations in a row that ended without a step.
    fruitless: u32,
}

/// Where the state that training goes on from began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lineage {
    pub generation: Generation,
    pub step: Step,
    /// Commands before this one were given to an earlier lineage.
    pub first_command: CommandId,
}

impl RunState {
    pub fn new(rules: Rules, past: Past, epoch: Epoch, now: Millis) -> Self {
        let next_command = past.commands.iter().map(|record| record.command.id.0);
        let next_command = next_command.max().unwrap_or(0) + 1;
        let generation = past.newest_generation;
        let rejoin = rules.limits.rejoin;
        let mut state = Self {
            reason: format!("waiting for {} ranks to join, 0 are here", rules.ranks),
            rules,
            stage: Stage::Gathering,
            generation,
            members: BTreeMap::new(),
            position: None,
            commands: BTreeMap::new(),
            last_checkpoint: None,
            spikes: past.spikes.clone(),
            store_fails: None,
            lineage: None,
            now,
            next_member: MemberId::first_of(epoch).0,
            next_command,
            first_command_of_epoch: CommandId(next_command),
            stage_since: now,
            ticked: now,
            checkpoint_since: now,
            stateless_since: now,
            rejoin,
            restorable: Restorable::Unknown,
            going_back: None,
            adoption: None,
            awaited: Vec::new(),
            began: now,
            stopped: false,
            regrouping: None,
            heard_paused: None,
            pace: Pace::default(),
            farewell: Farewell::default(),
            underway: None,
            waits: Cause::Recovering,
            silence: Duration::ZERO,
            fruitless: 0,
        };
        for record in &past.commands {
            state.commands.insert(record.command.id, record.clone());
        }
        state.take_over(past);
        state
    }

    pub fn handle(&mut self, event: Event, now: Millis) -> Vec<Effect> {
        self.now = now;
        let mut effects = Vec::new();
        let settles = self.may_settle(&event);
        match event {
            Event::Joined(introduction) => self.join(&introduction, &mut effects),
            Event::Left { member } => self.leave(member),
            Event::Idle {
                member,
                parting,
                standing,
            } => self.idle(member, parting, standing, &mut effects),
            Event::RendezvousReady {
                member,
                generation,
                address,
            } => self.rendezvous(member, generation, &address, &mut effects),
            Event::Ready {
                member,
                generation,
                standing,
            } => self.ready(member, generation, standing, &mut effects),
            Event::Beat { member, beat } => self.beat(member, beat),
            Event::StepTaken { position, seconds } => {
                self.position = Some(position);
                self.fruitless = 0;
                self.pace.enter(seconds);
                self.recovery_ends(&mut effects);
            }
            Event::CheckpointPublished { step } => self.published(step, &mut effects),
            Event::Restorable { step } if self.going_back.is_none() => {
                self.restorable = Restorable::Known(step);
            }
            // Asked before the run went back.
            Event::Restorable { .. } => {}
            Event::Spiked(spike) => self.spiked(*spike, &mut effects),
            Event::WentBack { to } => self.went_back(to, &mut effects),
            Event::CommandAsked { kind } => {
                let record = self.ask(kind, &mut effects);
                effects.push(Effect::Answer { record });
            }
            Event::CommandOutcome {
                generation,
                id,
                stage,
            } => self.outcome(generation, id, &stage, &mut effects),
            Event::RankFailed { member, error } => {
                let name = self.name(member);
                self.fail(&format!("{name}: {error}"), &mut effects);
            }
            Event::Broken { error } => self.fail(&error, &mut effects),
            Event::StoreFails { error } => {
                if self.store_fails.is_none() {
                    let reason = format!("the run goes on, but {error}");
                    effects.push(Effect::Note { reason });
                }
                self.store_fails = Some(error);
            }
            Event::RankFinished {
                member,
                generation,
                stopped,
            } => self.finish(member, generation, stopped, &mut effects),
            Event::Leaving { member, reason } => self.member_warned(member, reason),
            Event::Warned { reason } => self.warned(&reason, &mut effects),
            Event::OutOfTime => self.out_of_time(&mut effects),
            Event::Tick => self.tick(&mut effects),
        }
        if settles {
            self.settle(&mut effects);
        }
        effects
    }

    /// Whether what follows from an event is to be found at once. Thousands of ranks beat every
    /// second: what follows from that is found at the next tick, but where their uploads are
    /// waited for.
    fn may_settle(&self, event: &Event) -> bool {
        let Event::Beat { member, .. } = event else {
            return true;
        };
        let member = self.members.get(member);
        self.stage == Stage::Ending || member.is_some_and(|member| member.leaving.is_some())
    }

    fn published(&mut self, step: Step, effects: &mut Vec<Effect>) {
        self.last_checkpoint = Some(step);
        self.checkpoint_since = self.now;
        if self.store_fails.take().is_some() {
            let reason = format!("the store works again: it has checkpoint {step}");
            effects.push(Effect::Note { reason });
        }
        // What was found before is not the newest any more, and may be removed.
        if matches!(self.restorable, Restorable::Known(_)) {
            self.restorable = Restorable::Unknown;
        }
    }

    fn enter(&mut self, stage: Stage, reason: String, effects: &mut Vec<Effect>) {
        let now = self.now;
        self.stage = stage;
        self.stage_since = now;
        self.reason.clone_from(&reason);
        effects.push(Effect::Note { reason });
    }

    fn lead(&self) -> Option<MemberId> {
        self.seated()
            .find(|(_, member)| member.rank == Some(Rank(0)))
            .map(|(id, _)| id)
    }

    /// The members that have a seat in the current generation.
    fn seated(&self) -> impl Iterator<Item = (MemberId, &Member)> {
        self.members
            .iter()
            .filter(|(_, member)| member.rank.is_some())
            .map(|(&id, member)| (id, member))
    }

    fn name(&self, id: MemberId) -> String {
        match self.members.get(&id) {
            Some(Member {
                rank: Some(rank),
                host,
                process,
                ..
            }) => {
                format!("rank {rank} (process {process} on {host})")
            }
            Some(Member { host, process, .. }) => format!("process {process} on {host}"),
            None => "an unknown process".to_owned(),
        }
    }

    fn tick(&mut self, effects: &mut Vec<Effect>) {
        let now = self.now;
        if self.stage.is_over() {
            return;
        }
        self.forgive_own_absence();
        self.find_lost(effects);
        let due = self
            .rules
            .checkpoint_interval
            .is_some_and(|interval| now.since(self.checkpoint_since) >= interval);
        if self.stage == Stage::Training && due {
            self.checkpoint_since = now;
            self.ask(CommandKind::Checkpoint { by_time: true }, effects);
        }
    }
}

impl Member {
    /// A process that has just introduced itself.
    fn new(introduction: &Introduction, rank: Option<Rank>, place: Place, now: Millis) -> Self {
        Self {
            rank,
            host: introduction.host.clone(),
            process: introduction.process,
            place,
            standing: introduction.standing,
            beat: Beat::default(),
            slow: None,
            leaving: None,
            since: Since {
                place: now,
                beat: now,
                ticked: now,
                lost: None,
            },
        }
    }
}

impl Parting {
    fn reason(&self, name: &str) -> String {
        match self {
            Self::Regrouped => format!("{name} is at the step boundary"),
            Self::Broken { error } => {
                let what = error.lines().next().unwrap_or_default();
                format!("{name}: {what}")
            }
            Self::Diverged => format!("{name} holds other weights than the rest"),
            Self::WentBack(spike) => spike.to_string(),
        }
    }
}

#[cfg(test)]
mod tests;
