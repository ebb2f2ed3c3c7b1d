//! The world of one seed: its clock, its processes, and what is about to happen. One thread, and
//! everything in an order that follows from the seed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use cohort::ids::Generation;
use cohort::run::event::MemberId;
use cohort::run::standing::Activity;
use cohort::run::state::{Millis, RunState};
use cohort::worker::state::RankState;

use crate::checks::Checks;
use crate::dice::Dice;
use crate::groups::{Group, GroupKey};
use crate::mail::{Link, LinkId, Mail, ToCoordinator};
use crate::objects::Bucket;
use crate::publisher::Job;
use crate::replica::{Letter, Replica, Snapshot};
use crate::scenario::{Fault, Scenario, Time};
use crate::tally::Tally;

/// A process's number; none is used twice.
pub type Pid = u32;
/// A machine: those of ranks first, then the coordinator's, then that of a second coordinator.
pub type Machine = usize;

/// What is about to happen.
#[derive(Debug)]
pub enum Happening {
    /// A process goes on: what it waited for may be there.
    Wake(Pid),
    /// The shell of a rank looks at its clock.
    Tick(Pid),
    Start(Machine),
    Arrive(LinkId, Mail),
    /// The rank's end of a link waits no longer: for an answer to that report, or to its join.
    GiveUp(LinkId, Option<u64>),
    /// An end of a link finds out that the other one is gone.
    Notice(LinkId, End),
    Resume(Pid),
    KillSilent(Pid),
    Strike,
    /// A fault meets a process.
    Meet(Pid, Fault),
    Heal(Machine, Machine),
    Ask(usize),
    /// Faults are over, and whoever is away comes back.
    Calm,
    /// An operator looks after the run.
    Look,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Rank,
    Coordinator,
}

/// What runs in a process beside its shell.
#[derive(Debug)]
pub enum Task {
    Coordinate,
    Publish,
    Compute,
    Upload,
    /// Reads what a seat needs.
    Fetch(Box<cohort::wire::Assignment>),
}

#[derive(Debug)]
pub struct Process {
    pub machine: Machine,
    pub born: Time,
    /// How far its clock is ahead of the world's.
    pub ahead: Time,
    pub paused: bool,
    /// What came while it was paused.
    pub waiting: VecDeque<(LinkId, Mail)>,
    pub role: Role,
}

#[derive(Debug)]
pub enum Role {
    Rank(Box<RankProcess>),
    Coordinator(Box<CoordinatorProcess>),
}

#[derive(Debug)]
pub struct RankProcess {
    pub shell: RankState,
    pub link: Option<LinkId>,
    /// Where the coordinator was when the process began.
    pub first_address: Option<Pid>,
    pub known_epoch: u64,
    pub welcomed: bool,
    pub welcomed_at: Time,
    pub inbox: VecDeque<Letter>,
    pub replica: Option<Replica>,
    /// Every generation up to this one is given up.
    pub over: Generation,
    pub group: Option<(GroupKey, u32)>,
    pub activity: Activity,
    pub ticks: u64,
    pub hangs: bool,
    pub warned: bool,
    pub uploads: VecDeque<Snapshot>,
    pub uploads_in_flight: u64,
    /// Since when it runs and reaches its coordinator without a break.
    pub sound_since: Time,
}

#[derive(Debug, Default)]
pub struct CoordinatorProcess {
    pub inbox: VecDeque<ToCoordinator>,
    /// The state machine, once the run is claimed.
    pub state: Option<RunState>,
    pub epoch: u64,
    pub orders: BTreeMap<MemberId, LinkId>,
    pub publish: VecDeque<Job>,
    pub publishing: bool,
    pub closing: bool,
    /// It was the newest when it last asked, and has not written down since.
    pub may_write: bool,
}

/// What a supervisor knows of its charge.
#[derive(Clone, Debug, Default)]
pub struct Seat {
    pub pid: Option<Pid>,
    pub starts: u32,
    /// Nothing is started here any more.
    pub done: bool,
    pub starting: bool,
}

pub struct World {
    pub scenario: Scenario,
    pub now: Time,
    pub dice: Dice,
    agenda: BTreeMap<(Time, u64), Happening>,
    entered: u64,
    pub processes: BTreeMap<Pid, Process>,
    pub next_pid: Pid,
    pub seats: Vec<Seat>,
    pub cuts: BTreeSet<(Machine, Machine)>,
    pub links: BTreeMap<LinkId, Link>,
    pub groups: BTreeMap<GroupKey, Group>,
    pub bucket: Bucket,
    /// Tasks to begin.
    pub begun: Vec<(Pid, Task)>,
    /// Processes that may go on now.
    pub ready: BTreeSet<Pid>,
    pub calm: bool,
    pub over: Option<Ending>,
    pub checks: Checks,
    pub tally: Tally,
    pub trace: Option<VecDeque<String>>,
    pub resumed: bool,
}

/// How the run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    Finished,
    Stopped,
}

impl World {
    pub fn new(seed: u64, traced: bool) -> Self {
        let scenario = Scenario::of(seed);
        let machines = scenario.machines + 2;
        let mut world = Self {
            dice: Dice::new(seed.wrapping_mul(3) + 1),
            bucket: Bucket::new(Dice::new(seed.wrapping_mul(5) + 2)),
            now: 0,
            agenda: BTreeMap::new(),
            entered: 0,
            processes: BTreeMap::new(),
            next_pid: 1,
            seats: vec![Seat::default(); machines],
            cuts: BTreeSet::new(),
            links: BTreeMap::new(),
            groups: BTreeMap::new(),
            begun: Vec::new(),
            ready: BTreeSet::new(),
            calm: false,
            over: None,
            checks: Checks::default(),
            tally: Tally::default(),
            trace: traced.then(VecDeque::new),
            resumed: false,
            scenario,
        };
        world.bucket.gate().torn = world.scenario.torn;
        world.plan();
        world
    }

    fn plan(&mut self) {
        let scenario = self.scenario.clone();
        self.at(0, Happening::Start(self.coordinators().0));
        for (machine, start) in scenario.starts.iter().enumerate() {
            self.at(start + 50, Happening::Start(machine));
        }
        for (number, (at, _)) in scenario.commands.iter().enumerate() {
            self.at(*at, Happening::Ask(number));
        }
        if !scenario.faults.is_empty() {
            let first = self.dice.between(500, 2 * scenario.fault_ms);
            self.at(first, Happening::Strike);
        }
        self.at(scenario.faults_until, Happening::Calm);
    }

    /// The machines of the coordinator and of a second one.
    pub fn coordinators(&self) -> (Machine, Machine) {
        (self.scenario.machines, self.scenario.machines + 1)
    }

    pub fn at(&mut self, when: Time, what: Happening) {
        self.entered += 1;
        self.agenda.insert((when.max(self.now), self.entered), what);
    }

    pub fn after(&mut self, delay: Time, what: Happening) {
        self.at(self.now + delay, what);
    }

    /// The next thing that happens.
    pub fn next(&mut self) -> Option<Happening> {
        let ((when, _), what) = self.agenda.pop_first()?;
        self.now = when;
        self.bucket.gate().advance(when);
        Some(what)
    }

    /// A line of the trace, made only where somebody reads it.
    pub fn note(&mut self, line: impl FnOnce(&Self) -> String) {
        if self.trace.is_none() {
            return;
        }
        let line = format!("{:>9.3} {}", self.now as f64 / 1e3, line(self));
        if let Some(trace) = &mut self.trace {
            trace.push_back(line);
        }
    }

    /// What a process's own clock shows.
    pub fn clock(&self, pid: Pid) -> Millis {
        let process = &self.processes[&pid];
        Millis(self.now - process.born + process.ahead)
    }

    pub fn rank(&mut self, pid: Pid) -> Option<&mut RankProcess> {
        match &mut self.processes.get_mut(&pid)?.role {
            Role::Rank(rank) => Some(rank),
            Role::Coordinator(_) => None,
        }
    }

    pub fn coordinator(&mut self, pid: Pid) -> Option<&mut CoordinatorProcess> {
        match &mut self.processes.get_mut(&pid)?.role {
            Role::Coordinator(coordinator) => Some(coordinator),
            Role::Rank(_) => None,
        }
    }

    pub fn is_paused(&self, pid: Pid) -> bool {
        self.processes.get(&pid).is_some_and(|each| each.paused)
    }

    pub fn machine(&self, pid: Pid) -> Option<Machine> {
        self.processes.get(&pid).map(|process| process.machine)
    }

    pub fn is_cut(&self, one: Machine, other: Machine) -> bool {
        self.cuts.contains(&(one.min(other), one.max(other)))
    }

    /// A short name for the trace.
    pub fn name(&self, pid: Pid) -> String {
        match self.processes.get(&pid).map(|each| &each.role) {
            Some(Role::Rank(_)) => format!("r{pid}"),
            Some(Role::Coordinator(_)) => format!("C{pid}"),
            None => format!("dead {pid}"),
        }
    }

    /// The coordinator that serves and reads its messages, with the highest epoch.
    pub fn serving(&self) -> Option<Pid> {
        let serving = self.processes.iter().filter_map(|(&pid, process)| {
            let Role::Coordinator(coordinator) = &process.role else {
                return None;
            };
            let serves = coordinator.state.is_some() && !process.paused && !coordinator.closing;
            serves.then_some((coordinator.epoch, pid))
        });
        serving.max().map(|(_, pid)| pid)
    }

    pub fn violated(&mut self, what: String) {
        self.note(|_| format!("VIOLATED: {what}"));
        self.checks.violation.get_or_insert(what);
    }

    /// A moment in which it hurts: now and then something strikes it.
    pub fn ambush(&mut self, pid: Pid) {
        let share = self.scenario.ambush;
        if self.calm || share == 0 || !self.dice.per_mille(share) {
            return;
        }
        let is_rank = self.rank(pid).is_some();
        let faults: Vec<Fault> = self.scenario.faults.clone();
        let meant = faults.into_iter().filter(|fault| {
            let of_rank = matches!(
                fault,
                Fault::KillRank | Fault::LoseMachine | Fault::PauseRank
            );
            let of_coordinator = matches!(fault, Fault::KillCoordinator | Fault::PauseCoordinator);
            (is_rank && of_rank) || (!is_rank && of_coordinator)
        });
        let meant: Vec<Fault> = meant.collect();
        if let Some(fault) = self.dice.pick(&meant) {
            self.after(0, Happening::Meet(pid, fault));
        }
    }
}
