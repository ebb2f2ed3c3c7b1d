//! A boundary between two steps, as `train::compute::boundary` has it.

use cohort::run::command::{Command, CommandKind, CommandStage};
use cohort::run::standing::Activity;
use cohort::store::manifest::Reason;
use cohort::train::compute::Outbox;
use cohort::train::replica::Due;

use crate::compute::Broke;
use crate::groups::Post;
use crate::replica::{Snapshot, manifest};
use crate::scenario::Time;
use crate::spikes::pass_detours;
use crate::trainer::Trainer;

const ROOM_INTERVAL: Time = 50;
/// Snapshots in memory beside the one being uploaded.
const WAITING_MAX: usize = 3;

impl Trainer<'_> {
    pub async fn pass_boundary(&mut self) -> Result<(), Broke> {
        let Some(boundary) = self.held(|replica| replica.position.boundary) else {
            return Ok(());
        };
        let phase = boundary.phase;
        let command = self.admit(boundary.command);
        let kind = command.map(|command| command.kind);
        let decays = matches!(kind, Some(CommandKind::Decay { .. }));
        let phase_ends = decays || boundary.phase_ended;
        let (evaluation, checkpoint) = {
            let scenario = &self.tools.handle.world().scenario;
            (scenario.evaluation_steps, scenario.checkpoint_steps)
        };
        if phase_ends || (boundary.after_step && self.is_due(evaluation)) {
            self.evaluate().await?;
        }
        if let Some(command) = command.filter(|_| !decays) {
            self.held(|replica| {
                let progress = &mut replica.position.progress;
                let step = progress.step;
                progress.settle(command, CommandStage::Applied { step });
                replica.applied.push((command.id, step));
            });
        }
        let wish = match kind {
            _ if phase_ends => Some(Reason::PhaseEnd),
            Some(CommandKind::Stop) => Some(Reason::Stop),
            Some(CommandKind::Checkpoint { by_time: true }) => Some(Reason::Time),
            Some(CommandKind::Checkpoint { by_time: false }) => Some(Reason::Command),
            _ if boundary.after_step && self.is_due(checkpoint) => Some(Reason::Interval),
            _ => None,
        };
        if let Some(reason) = wish {
            self.held(|replica| {
                let step = replica.position.progress.step;
                replica.position.due = Some(Due {
                    step,
                    reason,
                    phase,
                });
            });
        }
        self.checkpoint(phase).await;
        if let Some(command) = command {
            self.apply(command, phase);
        }
        self.change(|replica| replica.position.boundary = None);
        Ok(())
    }

    fn admit(&self, command: Option<Command>) -> Option<Command> {
        let command = command?;
        let schedule = &self.tools.schedule;
        let refusal = self.held(|replica| replica.position.refusal(command.kind, schedule));
        let Some(reason) = refusal else {
            return Some(command);
        };
        let stage = CommandStage::Refused { reason };
        let settled = stage.clone();
        self.held(|replica| replica.position.progress.settle(command, settled));
        self.report(command, stage);
        None
    }

    fn apply(&self, command: Command, phase: usize) {
        let schedule = &self.tools.schedule;
        let step = self.held(|replica| {
            let step = replica.position.progress.step;
            let applied = replica.position.apply(command, phase, schedule);
            applied.expect("it was admitted");
            if let CommandKind::Decay { .. } = command.kind {
                pass_detours(&mut replica.position, schedule);
                replica.applied.push((command.id, step));
            }
            step
        });
        self.tools.handle.world().tally.count(match command.kind {
            CommandKind::Decay { .. } => "decays applied",
            CommandKind::Checkpoint { .. } => "checkpoints applied",
            CommandKind::Pause => "pauses applied",
            CommandKind::Resume => "resumes applied",
            CommandKind::Stop => "stops applied",
        });
        self.report(command, CommandStage::Applied { step });
    }

    pub fn report(&self, command: Command, stage: CommandStage) {
        self.tools.handle.tell(Outbox::Outcome { command, stage });
    }

    fn is_due(&self, every_steps: Option<u64>) -> bool {
        let step = self.held(|replica| replica.position.progress.step);
        every_steps.is_some_and(|every| step.0.is_multiple_of(every))
    }

    pub async fn evaluate(&mut self) -> Result<(), Broke> {
        let span = self.tools.handle.world().scenario.step_ms;
        self.compute(span / 2 + 1).await;
        self.collective.meet(Post::Nothing).await?;
        Ok(())
    }

    pub async fn checkpoint(&mut self, phase: usize) {
        if !self.is_lead() {
            return;
        }
        let (step, due) = self.held(|replica| {
            let position = &replica.position;
            (position.progress.step, position.due)
        });
        let (reason, phase) = match (due, self.owed) {
            (Some(due), _) if due.step == step => (due.reason, due.phase),
            (_, Some(reason)) => (reason, phase),
            _ => return,
        };
        let saved = self.tools.saved.filter(|(saved, _)| *saved == step);
        let exists = saved.is_some() || self.tools.commands.published == Some(step);
        if exists && (reason.is_regular() || saved.is_some_and(|(_, saved)| saved >= reason)) {
            self.owed = None;
            return;
        }
        let none_waits = self.tools.handle.rank().uploads.is_empty();
        if !exists && reason.is_regular() && !none_waits {
            self.owed = self.owed.max(Some(reason));
            return;
        }
        let snapshot = self.snapshot(reason, phase, exists);
        self.tools.begin(Activity::Store);
        if self.hand_over(snapshot).await {
            self.owed = None;
            self.tools.saved = Some((step, reason));
        }
        self.tools.begin(Activity::Computing);
    }

    fn snapshot(&self, reason: Reason, phase: usize, exists: bool) -> Snapshot {
        let phase = &self.tools.schedule.phases[phase];
        let phase = (phase.name.as_str(), phase.kind());
        self.held(|replica| Snapshot {
            manifest: manifest(replica, self.seat.generation, reason, phase),
            saved: (!exists).then(|| replica.saved()),
        })
    }

    async fn hand_over(&self, snapshot: Snapshot) -> bool {
        loop {
            {
                let mut rank = self.tools.handle.rank();
                if rank.uploads.len() < WAITING_MAX {
                    rank.uploads.push_back(snapshot);
                    rank.uploads_in_flight += 1;
                    drop(rank);
                    let pid = self.tools.handle.pid;
                    self.tools.handle.world().ready.insert(pid);
                    return true;
                }
                if rank.over >= self.seat.generation {
                    return false;
                }
            }
            self.tools.handle.sleep(ROOM_INTERVAL).await;
        }
    }
}
