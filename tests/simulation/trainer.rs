//! A rank's turn in a generation, as `train::compute` and its boundary have it.

use std::collections::BTreeMap;

use cohort::ids::{Rank, Step};
use cohort::run::command::{Command, CommandRecord, CommandStage, Directive};
use cohort::run::progress::StepPlan;
use cohort::run::spike::Handling;
use cohort::run::standing::{Activity, Seat};
use cohort::store::manifest::Reason;
use cohort::telemetry::StepMetrics;
use cohort::train::compute::{Outbox, Turn};
use cohort::train::replica::Boundary;

use crate::compute::{Broke, Tools};
use crate::groups::{Failure, Post};
use crate::replica::{Replica, Weights};
use crate::scenario::{ROW_TOKENS, Time};
use crate::share::{Collective, compare};
use crate::world::Happening;

const PAUSE_PULSE: Time = 500;

pub struct Trainer<'a> {
    pub tools: &'a mut Tools,
    pub seat: Seat,
    pub collective: &'a mut Collective,
    pub owed: Option<Reason>,
}

impl Trainer<'_> {
    pub fn held<T>(&self, look: impl FnOnce(&mut Replica) -> T) -> T {
        let mut rank = self.tools.handle.rank();
        look(rank.replica.as_mut().expect("a trainer has a replica"))
    }

    /// Changes the replica; it is then at the next revision.
    pub fn change(&self, change: impl FnOnce(&mut Replica)) {
        let generation = self.seat.generation;
        self.held(|replica| {
            change(replica);
            replica.position.changed(generation);
        });
        let pid = self.tools.handle.pid;
        self.tools.handle.world().changed(pid, generation);
    }

    pub async fn run(mut self) -> Result<Turn, Broke> {
        let turn = self.steps().await?;
        // Leaving waits for the others, and cannot fail.
        let _ = self.collective.meet(Post::Nothing).await;
        Ok(turn)
    }

    async fn steps(&mut self) -> Result<Turn, Broke> {
        self.pass_boundary().await?;
        if self.held(|replica| replica.position.fresh) {
            self.evaluate().await?;
            self.change(|replica| replica.position.fresh = false);
        }
        self.settle_old_commands();
        let mut is_first = true;
        loop {
            let (stopped, paused, phase) = self.held(|replica| {
                let position = &replica.position;
                (position.stopped, position.paused, position.progress.phase)
            });
            if stopped {
                return Ok(Turn::Ended { stopped: true });
            }
            let turn = if let Some(phase) = paused {
                regrouped(self.stay_paused(phase).await?)
            } else if is_first {
                is_first = false;
                regrouped(self.agree_between_steps(phase).await?)
            } else {
                let schedule = &self.tools.schedule;
                let plan = self.held(|replica| replica.position.progress.next_step(schedule));
                let Some(plan) = plan else {
                    return Ok(Turn::Ended { stopped: false });
                };
                self.step(&plan).await?
            };
            if let Some(turn) = turn {
                return Ok(turn);
            }
        }
    }

    async fn agree_between_steps(&mut self, phase: usize) -> Result<bool, Broke> {
        let step = self.held(|replica| replica.position.progress.step);
        let directive = self.agree(step).await?;
        if let Some(command) = command_of(directive) {
            self.begin_boundary(Boundary {
                phase,
                after_step: false,
                phase_ended: false,
                command: Some(command),
            });
            self.pass_boundary().await?;
        } else {
            self.checkpoint(phase).await;
        }
        Ok(directive == Some(Directive::Regroup))
    }

    async fn stay_paused(&mut self, phase: usize) -> Result<bool, Broke> {
        if self.is_lead() && self.tools.commands.waiting.is_empty() {
            let pid = self.tools.handle.pid;
            let until = {
                let mut world = self.tools.handle.world();
                world.after(PAUSE_PULSE, Happening::Wake(pid));
                world.now + PAUSE_PULSE
            };
            self.tools
                .handle
                .until(|world| {
                    let late = world.now >= until;
                    let rank = world.rank(pid)?;
                    (late || !rank.inbox.is_empty()).then_some(())
                })
                .await;
        }
        self.agree_between_steps(phase).await
    }

    fn begin_boundary(&self, boundary: Boundary) {
        self.change(|replica| replica.position.boundary = Some(boundary));
    }

    pub fn is_lead(&self) -> bool {
        self.seat.rank == Rank(0)
    }

    fn settle_old_commands(&self) {
        for CommandRecord { command, stage } in self.tools.commands.replay.clone() {
            let outcome = self.held(|replica| replica.position.outcome(command));
            if let (CommandStage::Accepted, Some(outcome)) = (stage, outcome) {
                self.report(command, outcome);
            }
        }
    }

    /// The first all-reduce, with the lead's directive for the boundary after `boundary`.
    async fn agree(&mut self, boundary: Step) -> Result<Option<Directive>, Failure> {
        self.tools.receive_all();
        let mut directive = None;
        if self.is_lead() {
            let progress = self.held(|replica| replica.position.progress.clone());
            let command = self.tools.commands.next(boundary, &progress);
            let regroups = self.tools.commands.regroup == Some(self.seat.generation);
            directive = match command {
                Some(command) => Some(Directive::Command(command)),
                None => regroups.then_some(Directive::Regroup),
            };
        }
        let posts = self.collective.meet(Post::Directive(directive)).await?;
        Ok(posts.into_iter().find_map(|post| match post {
            Post::Directive(directive) => directive,
            _ => None,
        }))
    }

    pub async fn compute(&self, span: Time) {
        self.tools.begin(Activity::Computing);
        let mut left = self
            .tools
            .handle
            .world()
            .dice
            .between(span / 2, span + span / 2);
        // Micro-batches tick.
        while left > 0 {
            let part = left.min(2_000);
            self.tools.handle.sleep(part).await;
            self.tools.handle.rank().ticks += 1;
            left -= part;
        }
    }

    async fn step(&mut self, plan: &StepPlan) -> Result<Option<Turn>, Broke> {
        let span = self.tools.handle.world().scenario.step_ms;
        self.tools.receive_all();
        self.compute(span / Time::from(self.seat.world) + 1).await;
        let directive = self.agree(plan.step).await?;
        let spike = self.judge(plan);
        if let Some(spike) = spike.as_ref().filter(|spike| spike.detour().is_some()) {
            return self.go_back(spike.clone()).await.map(Some);
        }
        let is_taken = spike
            .as_ref()
            .is_none_or(|spike| spike.handling == Handling::Warned);
        if is_taken {
            // The gradient.
            self.collective.meet(Post::Nothing).await?;
        }
        let mut metrics = None;
        self.change(|replica| {
            let before = replica.weights;
            let ended = replica.enter(plan, is_taken, &self.tools.schedule);
            replica.position.boundary = Some(Boundary {
                phase: plan.phase,
                after_step: true,
                phase_ended: ended,
                command: command_of(directive),
            });
            metrics = Some(StepMetrics {
                spike: spike.as_ref().map(|spike| spike.kind),
                skipped: !is_taken,
                ..self.metrics(plan, replica, before)
            });
        });
        if let Some(metrics) = metrics {
            self.tools.handle.tell(Outbox::Step(Box::new(metrics)));
        }
        if let Some(spike) = spike {
            let what = if is_taken {
                "steps told"
            } else {
                "steps skipped"
            };
            self.tools.handle.world().tally.count(what);
            self.tools.handle.tell(Outbox::Spike(Box::new(spike)));
        }
        self.pass_boundary().await?;
        let comparison = self.tools.handle.world().scenario.comparison_steps;
        if plan.step.0.is_multiple_of(comparison) {
            compare(self.tools, self.collective).await?;
        }
        Ok(regrouped(directive == Some(Directive::Regroup)))
    }

    fn metrics(&self, plan: &StepPlan, replica: &Replica, before: Weights) -> StepMetrics {
        let phases = &self.tools.schedule.phases;
        let progress = &replica.position.progress;
        let (phase, next) = (&phases[plan.phase], &phases[progress.phase]);
        StepMetrics {
            step: plan.step,
            phase: phase.name.clone(),
            phase_kind: phase.kind(),
            loss: f64::from(replica.weights),
            loss_limit: None,
            spike: None,
            skipped: false,
            accuracy: 0.0,
            learning_rate: plan.learning_rate,
            mask_rate: plan.mask_rate,
            first_row: plan.first_row.0,
            rows: plan.rows,
            masked_tokens: 0,
            step_tokens: u64::from(plan.rows) * ROW_TOKENS,
            tokens: progress.tokens,
            phase_tokens: progress.phase_tokens,
            phase_length_tokens: progress.phase_length_tokens,
            next_phase: next.name.clone(),
            next_phase_kind: next.kind(),
            remaining_tokens: 0,
            grad_norm: f64::from(before),
            sources: BTreeMap::new(),
            seconds: 0.5,
            ranks: self.seat.world,
            generation: self.seat.generation,
            tokens_per_second: 0.0,
            data_wait_fraction: 0.0,
            collective_fraction: 0.0,
        }
    }
}

fn regrouped(regroups: bool) -> Option<Turn> {
    regroups.then_some(Turn::Regrouped)
}

fn command_of(directive: Option<Directive>) -> Option<Command> {
    match directive {
        Some(Directive::Command(command)) => Some(command),
        Some(Directive::Regroup) | None => None,
    }
}
