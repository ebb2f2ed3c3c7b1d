//! Supervisors that start what died, and the faults that kill, stop, cut off and confuse.

use cohort::coordinator::claim::Address;
use cohort::run::command::CommandKind;
use cohort::run::state::{Millis, Stage};
use cohort::worker::state::{Event, Limits, RankState};
use std::collections::VecDeque;
use std::time::Duration;

use crate::mail::ToCoordinator;
use crate::scenario::{Fault, Time};
use crate::shell::TICK;
use crate::world::{End, Happening, Machine, Pid, Process, RankProcess, Role, Task, World};

/// A process that its supervisor hears nothing of for so long is killed.
const SILENCE_MAX: Time = 10_000;
const BACK_OFF: Time = 250;
const BACK_OFF_MAX: Time = 10_000;
/// A process that lived for so long begins a new row of starts.
const SOUND: Time = 5_000;
/// How often an operator looks after a run that is not disturbed any more.
const LOOK: Time = 3_000;
/// How long a run may take from then on.
pub const PATIENCE: Time = 1_500_000;

impl World {
    /// A supervisor starts its process, where none is.
    pub fn start(&mut self, machine: Machine) {
        self.seats[machine].starting = false;
        let seat = &self.seats[machine];
        if seat.pid.is_some() || seat.done || self.over.is_some() {
            return;
        }
        let pid = self.next_pid;
        self.next_pid += 1;
        let (primary, rival) = self.coordinators();
        let coordinates = machine == primary || machine == rival;
        let role = if coordinates {
            self.begun.push((pid, Task::Coordinate));
            Role::Coordinator(Box::default())
        } else {
            Role::Rank(Box::new(self.new_rank(pid)))
        };
        let process = Process {
            machine,
            born: self.now,
            ahead: 0,
            paused: false,
            waiting: VecDeque::new(),
            role,
        };
        self.processes.insert(pid, process);
        self.seats[machine].pid = Some(pid);
        self.note(|world| format!("{} starts on machine {machine}", world.name(pid)));
        self.ready.insert(pid);
        if let Some(introduction) = self.rank(pid).map(|rank| rank.shell.introduction()) {
            self.connect(pid, introduction);
            self.after(TICK, Happening::Tick(pid));
        }
    }

    fn new_rank(&self, pid: Pid) -> RankProcess {
        let (primary, rival) = self.coordinators();
        let first = self.seats[primary].pid.or(self.seats[rival].pid);
        // An operator gives the address of the one that serves.
        let serving = self.serving().filter(|_| self.calm);
        let first = serving.or(first);
        let host = if self.scenario.one_host {
            "host".to_owned()
        } else {
            format!("host-{pid}")
        };
        let limits = Limits {
            orphan: Duration::from_secs(3),
            ..Limits::default()
        };
        RankProcess {
            shell: RankState::new(limits, host, pid, Millis(0)),
            link: None,
            first_address: first,
            known_epoch: 0,
            welcomed: false,
            welcomed_at: 0,
            inbox: VecDeque::new(),
            replica: None,
            over: cohort::ids::Generation(0),
            group: None,
            activity: cohort::run::standing::Activity::Loading,
            ticks: 0,
            hangs: false,
            warned: false,
            uploads: VecDeque::new(),
            uploads_in_flight: 0,
            sound_since: self.now,
        }
    }

    /// A supervisor starts a process anew, later with each time in a row.
    pub fn restart(&mut self, machine: Machine) {
        let seat = &mut self.seats[machine];
        if seat.starting {
            return;
        }
        seat.starting = true;
        seat.starts += 1;
        let row = seat.starts.saturating_sub(1).min(6);
        let delay = if row == 0 {
            20
        } else {
            BACK_OFF_MAX.min(BACK_OFF << (row - 1))
        };
        self.after(delay, Happening::Start(machine));
    }

    /// A process is no more. Where its machine lives on, its connections close.
    pub fn kill(&mut self, pid: Pid, closes: bool) {
        for id in self.links_of(pid) {
            let lost = self.dice.per_mille(500);
            if let Some(link) = self.links.get_mut(&id) {
                link.lost |= lost;
            }
            let end = if self.links[&id].rank == pid {
                End::Rank
            } else {
                End::Coordinator
            };
            let current =
                end == End::Coordinator || self.rank(pid).is_some_and(|rank| rank.link == Some(id));
            if closes && current {
                self.close(id, end);
            } else if current && end == End::Rank {
                // Found out by the coordinator's end alone.
                self.after(25_000, Happening::Notice(id, End::Coordinator));
            }
        }
        let group = self.rank(pid).and_then(|rank| rank.group);
        if let (Some((key, _)), true) = (group, closes) {
            self.break_group(key);
        }
        let Some(process) = self.processes.remove(&pid) else {
            return;
        };
        let seat = &mut self.seats[process.machine];
        seat.pid = None;
        if self.now - process.born >= SOUND {
            seat.starts = 0;
        }
    }

    /// Something strikes, and the next strike is planned.
    pub fn strike(&mut self) {
        if self.calm {
            return;
        }
        let faults = self.scenario.faults.clone();
        if let Some(fault) = self.dice.pick(&faults) {
            self.strike_as(fault);
        }
        let next = self.dice.between(1, 2 * self.scenario.fault_ms);
        self.after(next, Happening::Strike);
    }

    fn strike_as(&mut self, fault: Fault) {
        let machines: Vec<Machine> = (0..self.scenario.machines).collect();
        let (primary, rival) = self.coordinators();
        let machine = self.dice.pick(&machines).unwrap_or(0);
        let rank = self.seats[machine].pid;
        match fault {
            Fault::KillCoordinator | Fault::PauseCoordinator => {
                let either = [primary, primary, rival].map(|each| self.seats[each].pid);
                if let Some(pid) = self.dice.pick(&either).flatten() {
                    self.strike_process(pid, fault);
                }
            }
            Fault::Partition => {
                let others: Vec<Machine> = (0..self.seats.len())
                    .filter(|each| *each != machine)
                    .collect();
                if let Some(other) = self.dice.pick(&others) {
                    self.cut(&[(machine, other)]);
                }
            }
            Fault::Isolate => {
                let any = self.dice.below(self.seats.len() as u64) as Machine;
                let others = (0..self.seats.len()).filter(|each| *each != any);
                let cuts: Vec<_> = others.map(|other| (any, other)).collect();
                self.cut(&cuts);
            }
            Fault::Rival => {
                self.tally.count("second coordinators");
                self.start(rival);
            }
            Fault::StallStore => {
                let span = self.dice.between(200, 9_000);
                self.tally.count("stalls of the store");
                self.note(|_| format!("the store stands still for {span} ms"));
                let until = self.now + span;
                self.bucket.gate().stalled_until = until;
            }
            _ => {
                if let Some(pid) = rank {
                    self.strike_process(pid, fault);
                }
            }
        }
    }

    fn cut(&mut self, pairs: &[(Machine, Machine)]) {
        let span = self.dice.delay(6_000, 35_000);
        self.tally.count("partitions");
        self.note(|_| format!("cut off for {span} ms: {pairs:?}"));
        for &(one, other) in pairs {
            let (one, other) = (one.min(other), one.max(other));
            self.cuts.insert((one, other));
            self.after(span, Happening::Heal(one, other));
        }
    }

    pub fn heal(&mut self, one: Machine, other: Machine) {
        if self.cuts.remove(&(one, other)) {
            let now = self.now;
            for machine in [one, other] {
                if let Some(pid) = self.seats[machine].pid
                    && let Some(rank) = self.rank(pid)
                {
                    rank.sound_since = now;
                }
            }
            self.release_held();
            self.retry_groups();
        }
    }

    /// A fault meets a process.
    pub fn strike_process(&mut self, pid: Pid, fault: Fault) {
        let Some(machine) = self.machine(pid) else {
            return;
        };
        self.note(|world| format!("{fault:?} meets {}", world.name(pid)));
        match fault {
            Fault::KillRank | Fault::KillCoordinator => {
                self.tally.count(if fault == Fault::KillRank {
                    "ranks killed"
                } else {
                    "coordinators killed"
                });
                self.kill(pid, true);
                if machine != self.coordinators().1 {
                    self.restart(machine);
                }
            }
            Fault::LoseMachine => {
                self.tally.count("machines lost");
                self.kill(pid, false);
                let delay = self.dice.between(3_000, 20_000);
                self.after(delay, Happening::Start(machine));
            }
            Fault::PauseRank | Fault::PauseCoordinator => self.pause(pid),
            Fault::HangCompute => {
                self.tally.count("compute threads that hang");
                if let Some(rank) = self.rank(pid) {
                    rank.hangs = true;
                }
            }
            Fault::BreakLink => {
                self.tally.count("connections broken");
                if let Some(id) = self.rank(pid).and_then(|rank| rank.link) {
                    self.break_link(id);
                }
            }
            Fault::JumpClock => {
                self.tally.count("clocks that jump");
                let ahead = self.dice.delay(5_000, 60_000);
                let victim = if self.dice.per_mille(300) {
                    self.serving().unwrap_or(pid)
                } else {
                    pid
                };
                if let Some(process) = self.processes.get_mut(&victim) {
                    process.ahead += ahead;
                }
            }
            Fault::WarnRank => {
                self.tally.count("warnings");
                let reason = "the machine is taken away".to_owned();
                if let Some(rank) = self.rank(pid) {
                    rank.warned = true;
                }
                if !self.is_paused(pid) {
                    self.shell(pid, Event::Warned { reason });
                }
            }
            Fault::Partition | Fault::Isolate | Fault::Rival | Fault::StallStore => {}
        }
    }

    fn pause(&mut self, pid: Pid) {
        let (primary, rival) = self.coordinators();
        let stands_in = self.scenario.faults.contains(&Fault::Rival)
            && self.machine(pid) == Some(primary)
            && self.dice.per_mille(500);
        let span = if stands_in {
            self.dice.between(7_000, 15_000)
        } else {
            self.dice.delay(4_000, 30_000)
        };
        let alone = self.dice.per_mille(500);
        self.tally.count("pauses");
        let Some(process) = self.processes.get_mut(&pid) else {
            return;
        };
        if std::mem::replace(&mut process.paused, true) {
            return;
        }
        self.after(span, Happening::Resume(pid));
        if stands_in {
            let delay = self.dice.between(200, 3_000);
            self.after(delay, Happening::Start(rival));
        }
        if alone && span > SILENCE_MAX {
            self.after(SILENCE_MAX, Happening::KillSilent(pid));
        }
    }

    pub fn resume(&mut self, pid: Pid) {
        let now = self.now;
        let Some(process) = self.processes.get_mut(&pid) else {
            return;
        };
        process.paused = false;
        let waiting = std::mem::take(&mut process.waiting);
        if let Some(rank) = self.rank(pid) {
            rank.sound_since = now;
        }
        self.note(|world| format!("{} goes on", world.name(pid)));
        self.ready.insert(pid);
        for (id, mail) in waiting {
            self.arrive(id, mail);
        }
    }

    /// A supervisor kills a process that says nothing.
    pub fn kill_silent(&mut self, pid: Pid) {
        if self.is_paused(pid)
            && let Some(machine) = self.machine(pid)
        {
            self.note(|world| format!("{} is killed by its supervisor", world.name(pid)));
            self.kill(pid, true);
            self.restart(machine);
        }
    }

    /// Faults are over: all comes back.
    pub fn calm(&mut self) {
        self.calm = true;
        self.note(|_| "faults are over".to_owned());
        let cuts: Vec<_> = self.cuts.iter().copied().collect();
        for (one, other) in cuts {
            self.heal(one, other);
        }
        let pids: Vec<Pid> = self.processes.keys().copied().collect();
        for pid in pids {
            if self.is_paused(pid) {
                self.resume(pid);
            }
        }
        self.after(LOOK, Happening::Look);
    }

    /// An operator starts what is missing and ends pauses.
    pub fn look(&mut self) {
        if self.over.is_some() {
            return;
        }
        if self.now > self.scenario.faults_until + PATIENCE {
            let why = self
                .serving()
                .and_then(|pid| self.coordinator(pid)?.state.clone());
            let why = why.map(|state| format!("{:?}: {}", state.stage, state.reason));
            self.violated(format!("(6) the run does not end: {why:?}"));
            return;
        }
        let rival = self.coordinators().1;
        for machine in 0..self.seats.len() {
            let seat = &mut self.seats[machine];
            let wanted = machine != rival && seat.pid.is_none() && !seat.starting;
            if wanted {
                seat.done = false;
                self.start(machine);
            }
        }
        if let Some(pid) = self.serving() {
            let stage = self.coordinator(pid).and_then(|each| each.state.as_ref());
            if stage.is_some_and(|state| state.stage == Stage::Paused) {
                let kind = CommandKind::Resume;
                self.reach_coordinator(pid, ToCoordinator::Asked { kind });
            }
        }
        self.after(LOOK, Happening::Look);
    }

    pub fn ask(&mut self, number: usize) {
        let kind = self.scenario.commands[number].1;
        // Some call one that stands still, and that another one may have taken over from.
        let (primary, rival) = self.coordinators();
        let either = [primary, rival].map(|each| self.seats[each].pid);
        let any = self.dice.pick(&either).flatten().filter(|&pid| {
            let coordinator = self.coordinator(pid);
            coordinator.is_some_and(|each| each.state.is_some() && !each.closing)
        });
        let strays = self.dice.per_mille(300);
        if let Some(pid) = any.filter(|_| strays).or_else(|| self.serving()) {
            self.note(|world| format!("an operator asks {}: {kind:?}", world.name(pid)));
            self.reach_coordinator(pid, ToCoordinator::Asked { kind });
        }
    }

    /// Which coordinator the store names, and its epoch.
    pub fn address(&self) -> Option<(Pid, u64)> {
        let store = self.bucket.bare();
        let read = store.get(cohort::store::layout::COORDINATOR_FILE);
        let bytes = futures::executor::block_on(read).ok()?;
        let address: Address = serde_json::from_slice(&bytes).ok()?;
        Some((address.process, address.epoch.0))
    }
}
