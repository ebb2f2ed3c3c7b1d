//! The shell of a rank's process: gives its state machine what happens, and does what it says.

use cohort::train::compute::{Inbox, Outbox};
use cohort::wire::Report;
use cohort::worker::state::{Effect, Event, Exit};

use crate::replica::Letter;
use crate::scenario::Time;
use crate::world::{Happening, Pid, RankProcess, Task, World};

/// How often a shell looks at its clock.
pub const TICK: Time = 250;

impl RankProcess {
    /// Whether it has been welcomed before, and so knows the run's store.
    pub fn member_known(&self) -> bool {
        self.shell.introduction().member.is_some()
    }
}

impl World {
    /// Gives a rank's shell an event, and does what it says.
    pub fn shell(&mut self, pid: Pid, event: Event) {
        if !self.processes.contains_key(&pid) {
            return;
        }
        let now = self.clock(pid);
        let Some(rank) = self.rank(pid) else { return };
        let welcomed = matches!(event, Event::Welcomed { .. });
        let is_first = welcomed && !rank.member_known();
        let line = format_event(self.trace.is_some(), &event);
        if let Some(line) = line {
            self.note(|world| format!("{} < {line}", world.name(pid)));
        }
        let Some(rank) = self.rank(pid) else { return };
        let effects = rank.shell.handle(event, now);
        if is_first {
            let limits = cohort::worker::state::Limits::default();
            rank.shell.set_limits(limits.orphan, limits.grace);
            self.begun.push((pid, Task::Compute));
            self.begun.push((pid, Task::Upload));
        }
        for effect in effects {
            if !self.effect(pid, effect) {
                return;
            }
        }
        self.ready.insert(pid);
    }

    /// False when the process is no more.
    fn effect(&mut self, pid: Pid, effect: Effect) -> bool {
        match effect {
            Effect::Connect(introduction) => self.connect(pid, introduction),
            Effect::Report(report) => {
                if !matches!(report, Report::Beat(_)) {
                    self.ambush(pid);
                }
                self.report(pid, report);
            }
            Effect::Seat(assignment) => {
                self.begun.push((pid, Task::Fetch(Box::new(assignment))));
            }
            Effect::Compute(order) => self.order_compute(pid, order),
            Effect::Abort(generation) => {
                let Some(rank) = self.rank(pid) else {
                    return false;
                };
                rank.over = rank.over.max(generation);
                let current = rank.group.filter(|(key, _)| key.0 <= generation);
                if let Some((key, _)) = current {
                    self.break_group(key);
                }
            }
            Effect::Exit(exit) => {
                self.exit_rank(pid, &exit);
                return false;
            }
        }
        true
    }

    fn order_compute(&mut self, pid: Pid, order: Inbox) {
        if let Some(rank) = self.rank(pid) {
            rank.inbox.push_back(Letter::Order(order));
        }
    }

    fn exit_rank(&mut self, pid: Pid, exit: &Exit) {
        self.note(|world| format!("{} exits: {exit:?}", world.name(pid)));
        let restarts = match exit {
            Exit::Restart { .. } => true,
            Exit::Dismissed { .. } => false,
            Exit::Left { .. } => {
                self.tally.count("ranks that left");
                false
            }
            Exit::Failed { error } => {
                self.tally.count("ranks that failed");
                if self.over.is_none() {
                    self.violated(format!("(6) a rank gave up: {error}"));
                }
                false
            }
        };
        let machine = self.processes[&pid].machine;
        let left = matches!(exit, Exit::Left { .. });
        self.kill(pid, true);
        let seat = &mut self.seats[machine];
        if restarts {
            self.restart(machine);
        } else if left {
            // Another machine comes for it.
            let delay = self.dice.between(1_000, 15_000);
            self.after(delay, Happening::Start(machine));
        } else {
            seat.done = true;
        }
    }

    /// What a compute thread says goes to its shell.
    pub fn told(&mut self, pid: Pid, told: Outbox) {
        self.shell(pid, Event::Told(told));
    }

    pub fn tick_rank(&mut self, pid: Pid) {
        if !self.processes.contains_key(&pid) {
            return;
        }
        self.after(TICK, Happening::Tick(pid));
        if self.is_paused(pid) {
            return;
        }
        let Some(rank) = self.rank(pid) else { return };
        let beat = cohort::run::standing::Beat {
            activity: rank.activity,
            ticks: rank.ticks,
            own_seconds: 0.0,
            uploads: rank.uploads_in_flight,
        };
        self.shell(pid, Event::Tick { beat });
    }
}

fn format_event(traced: bool, event: &Event) -> Option<String> {
    let is_quiet = matches!(event, Event::Tick { .. } | Event::Replied { .. });
    (traced && !is_quiet).then(|| {
        let text = format!("{event:?}");
        text.chars().take(260).collect()
    })
}
