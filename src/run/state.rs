//! The coordinator's decisions as a pure state machine: (state, event, now) -> (state, effects).
//!
//! Events record facts; what to do about them is decided here and nowhere else, each decision with
//! its reason in words. It never reads a clock, a socket or a file.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::ids::{CommandId, Generation, Rank, Step};
use crate::run::command::{CommandKind, CommandRecord};
use crate::run::event::{Effect, Event, MemberId, Position};
use crate::run::schedule::Schedule;

mod commands;

/// Milliseconds on the coordinator's monotonic clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Millis(pub u64);

/// Limits and intervals of the state machine.
#[derive(Clone, Debug)]
pub struct Rules {
    pub ranks: u32,
    /// How long to wait for all ranks to join, and again for them to connect to each other.
    pub gather_timeout: Duration,
    /// Time between two checkpoints, counted from the start of the first; none on zero.
    pub checkpoint_interval: Option<Duration>,
    /// The run's phases, of which a decay on command enters one.
    pub schedule: Schedule,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Waiting for all ranks to join.
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
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    pub rank: Option<Rank>,
    pub host: String,
    pub process: u32,
    pub ready: bool,
    pub finished: bool,
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
    next_member: u64,
    next_command: u64,
    stage_since: Millis,
    checkpoint_since: Millis,
}

impl RunState {
    /// `replay` are the commands of earlier epochs that the ranks may apply again; `first_command`
    /// is above every command id that the run has seen.
    pub fn new(
        rules: Rules,
        replay: &[CommandRecord],
        first_command: CommandId,
        now: Millis,
    ) -> Self {
        let reason = format!("waiting for {} ranks to join", rules.ranks);
        Self {
            rules,
            stage: Stage::Gathering,
            reason,
            generation: Generation(0),
            members: BTreeMap::new(),
            position: None,
            commands: replay
                .iter()
                .map(|past| (past.command.id, past.clone()))
                .collect(),
            last_checkpoint: None,
            next_member: 1,
            next_command: first_command.0,
            stage_since: now,
            checkpoint_since: now,
        }
    }

    pub fn handle(&mut self, event: Event, now: Millis) -> Vec<Effect> {
        let mut effects = Vec::new();
        match event {
            Event::Joined { host, process } => self.join(host, process, now, &mut effects),
            Event::Left { member } => self.leave(member, now, &mut effects),
            Event::RendezvousReady { member, address } => {
                self.rendezvous(member, &address, &mut effects);
            }
            Event::Ready { member } => self.ready(member, now, &mut effects),
            Event::StepTaken { position } => self.position = Some(position),
            Event::CheckpointPublished { step } => {
                self.last_checkpoint = Some(step);
                self.checkpoint_since = now;
            }
            Event::CommandAsked { kind } => {
                let record = self.ask(kind, &mut effects);
                effects.push(Effect::Answer { record });
            }
            Event::CommandOutcome { id, stage } => self.outcome(id, &stage, now, &mut effects),
            Event::RankFailed { member, error } => {
                let name = self.name(member);
                self.fail(format!("{name}: {error}"), now, &mut effects);
            }
            Event::Broken { error } => self.fail(error, now, &mut effects),
            Event::RankFinished { member, stopped } => {
                self.finish(member, stopped, now, &mut effects);
            }
            Event::Tick => self.tick(now, &mut effects),
        }
        effects
    }

    fn enter(&mut self, stage: Stage, reason: String, now: Millis, effects: &mut Vec<Effect>) {
        self.stage = stage;
        self.stage_since = now;
        self.reason.clone_from(&reason);
        effects.push(Effect::Note { reason });
    }

    fn join(&mut self, host: String, process: u32, now: Millis, effects: &mut Vec<Effect>) {
        if self.stage != Stage::Gathering {
            let reason = format!("the run has its {} ranks already", self.rules.ranks);
            effects.push(Effect::Refuse { reason });
            return;
        }
        let id = MemberId(self.next_member);
        self.next_member += 1;
        let member = Member {
            rank: None,
            host,
            process,
            ready: false,
            finished: false,
        };
        self.members.insert(id, member);
        effects.push(Effect::Welcome { member: id });
        if self.members.len() as u32 == self.rules.ranks {
            self.assign(now, effects);
        }
    }

    /// All are here: members in the order of joining become ranks 0, 1, …
    fn assign(&mut self, now: Millis, effects: &mut Vec<Effect>) {
        self.generation = Generation(self.generation.0 + 1);
        let (world, generation) = (self.rules.ranks, self.generation);
        for (index, (&id, member)) in self.members.iter_mut().enumerate() {
            let rank = Rank(index as u32);
            member.rank = Some(rank);
            effects.push(Effect::Assign {
                member: id,
                rank,
                world,
                generation,
            });
        }
        let reason = format!("all {world} ranks joined; generation {generation} connects");
        self.enter(Stage::Connecting, reason, now, effects);
    }

    fn rendezvous(&mut self, member: MemberId, address: &str, effects: &mut Vec<Effect>) {
        let generation = self.generation;
        for &other in self.members.keys().filter(|&&other| other != member) {
            let address = address.to_owned();
            effects.push(Effect::Rendezvous {
                member: other,
                generation,
                address,
            });
        }
    }

    fn ready(&mut self, member: MemberId, now: Millis, effects: &mut Vec<Effect>) {
        if let Some(member) = self.members.get_mut(&member) {
            member.ready = true;
        }
        if self.stage == Stage::Connecting && self.members.values().all(|member| member.ready) {
            self.checkpoint_since = now;
            let reason = format!("generation {} trains", self.generation);
            self.enter(Stage::Training, reason, now, effects);
        }
    }

    fn leave(&mut self, member: MemberId, now: Millis, effects: &mut Vec<Effect>) {
        let name = self.name(member);
        match self.stage {
            Stage::Gathering => {
                self.members.remove(&member);
                effects.push(Effect::Note {
                    reason: format!("{name} left before the start"),
                });
            }
            Stage::Finished | Stage::Stopped | Stage::Failed => {}
            _ if self
                .members
                .get(&member)
                .is_some_and(|member| member.finished) => {}
            _ => {
                let step = self
                    .position
                    .as_ref()
                    .map_or(Step(0), |position| position.step);
                self.fail(format!("{name} died after step {step}"), now, effects);
            }
        }
    }

    fn finish(&mut self, id: MemberId, stopped: bool, now: Millis, effects: &mut Vec<Effect>) {
        if let Some(member) = self.members.get_mut(&id) {
            member.finished = true;
        }
        if self.stage.is_over() {
            return;
        }
        if !self.members.values().all(|member| member.finished) {
            if self.stage != Stage::Ending {
                self.enter(
                    Stage::Ending,
                    "the last step is taken".to_owned(),
                    now,
                    effects,
                );
            }
            return;
        }
        let (stage, reason) = if stopped {
            (Stage::Stopped, "stopped on command")
        } else {
            (Stage::Finished, "all phases are done")
        };
        self.enter(stage, reason.to_owned(), now, effects);
        for &member in self.members.keys() {
            effects.push(Effect::Shutdown {
                member,
                reason: reason.to_owned(),
            });
        }
        effects.push(Effect::End { error: None });
    }

    fn fail(&mut self, error: String, now: Millis, effects: &mut Vec<Effect>) {
        if self.stage.is_over() {
            return;
        }
        self.enter(Stage::Failed, error.clone(), now, effects);
        for &member in self.members.keys() {
            effects.push(Effect::Shutdown {
                member,
                reason: error.clone(),
            });
        }
        effects.push(Effect::End { error: Some(error) });
    }

    fn lead(&self) -> Option<MemberId> {
        self.members
            .iter()
            .find(|(_, member)| member.rank == Some(Rank(0)))
            .map(|(&id, _)| id)
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

    fn tick(&mut self, now: Millis, effects: &mut Vec<Effect>) {
        let since = |earlier: Millis| Duration::from_millis(now.0.saturating_sub(earlier.0));
        match self.stage {
            Stage::Gathering if since(self.stage_since) > self.rules.gather_timeout => {
                let (have, want) = (self.members.len(), self.rules.ranks);
                let limit = self.rules.gather_timeout.as_secs();
                self.fail(
                    format!("only {have} of {want} ranks joined in {limit} s"),
                    now,
                    effects,
                );
            }
            Stage::Connecting if since(self.stage_since) > self.rules.gather_timeout => {
                let late: Vec<String> = self
                    .members
                    .iter()
                    .filter(|(_, member)| !member.ready)
                    .map(|(&id, _)| self.name(id))
                    .collect();
                let limit = self.rules.gather_timeout.as_secs();
                let error = format!("not connected after {limit} s: {}", late.join(", "));
                self.fail(error, now, effects);
            }
            Stage::Training => {
                let due = self
                    .rules
                    .checkpoint_interval
                    .is_some_and(|interval| since(self.checkpoint_since) >= interval);
                if due {
                    self.checkpoint_since = now;
                    self.ask(CommandKind::Checkpoint { by_time: true }, effects);
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests;
