//! Runs a world from its beginning to its end: one event, then whoever can go on because of it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Waker};
use std::time::Duration;

use cohort::run::standing::Activity;
use tokio::runtime::Runtime;

use crate::compute::{compute, fetch};
use crate::coordinator::coordinate;
use crate::handle::Handle;
use crate::publisher::publish;
use crate::tally::Tally;
use crate::upload::upload;
use crate::world::{Happening, Pid, RankProcess, Task, World};

/// What a seed came to.
#[derive(Debug)]
pub struct Outcome {
    pub violation: Option<String>,
    pub tally: Tally,
    pub trace: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Compute,
    Fetch,
    Other,
}

struct Running {
    kind: Kind,
    future: Pin<Box<dyn Future<Output = ()>>>,
}

struct Simulation {
    world: Rc<RefCell<World>>,
    tasks: BTreeMap<Pid, Vec<Running>>,
}

/// Simulates one seed.
pub fn simulate(seed: u64, traced: bool) -> Outcome {
    // Whoever writes again waits by this clock, which is moved with the world's.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime needs nothing");
    let _entered = runtime.enter();
    let world = Rc::new(RefCell::new(World::new(seed, traced)));
    let mut simulation = Simulation {
        world: Rc::clone(&world),
        tasks: BTreeMap::new(),
    };
    simulation.run(&runtime);
    drop(simulation);
    let mut world = world.borrow_mut();
    if world.checks.violation.is_none() {
        world.check_end();
    }
    Outcome {
        violation: world.checks.violation.take(),
        tally: std::mem::take(&mut world.tally),
        trace: world.trace.take().unwrap_or_default().into(),
    }
}

impl Simulation {
    fn run(&mut self, runtime: &Runtime) {
        loop {
            let passed = {
                let mut world = self.world.borrow_mut();
                if world.over.is_some() || world.checks.violation.is_some() {
                    return;
                }
                let before = world.now;
                let Some(what) = world.next() else { return };
                let passed = world.now - before;
                happen(&mut world, what);
                passed
            };
            if passed > 0 {
                runtime.block_on(tokio::time::advance(Duration::from_millis(passed)));
            }
            self.settle();
        }
    }

    /// Lets everybody go on who can.
    fn settle(&mut self) {
        loop {
            let (begun, next) = {
                let mut world = self.world.borrow_mut();
                let begun = std::mem::take(&mut world.begun);
                let next = if begun.is_empty() {
                    world.ready.pop_first()
                } else {
                    None
                };
                (begun, next)
            };
            for (pid, task) in begun {
                self.begin(pid, task);
                self.world.borrow_mut().ready.insert(pid);
            }
            if let Some(pid) = next {
                self.go_on(pid);
            } else if self.world.borrow().begun.is_empty() && self.world.borrow().ready.is_empty() {
                return;
            }
        }
    }

    fn begin(&mut self, pid: Pid, task: Task) {
        let handle = Handle::new(Rc::clone(&self.world), pid);
        let kind = match &task {
            Task::Compute => Kind::Compute,
            Task::Fetch(_) => Kind::Fetch,
            _ => Kind::Other,
        };
        let future: Pin<Box<dyn Future<Output = ()>>> = match task {
            Task::Coordinate => Box::pin(coordinate(handle)),
            Task::Publish => Box::pin(publish(handle)),
            Task::Compute => Box::pin(compute(handle)),
            Task::Upload => Box::pin(upload(handle)),
            Task::Fetch(assignment) => Box::pin(fetch(handle, *assignment)),
        };
        let tasks = self.tasks.entry(pid).or_default();
        if kind == Kind::Fetch {
            // A new seat is read instead of an earlier one.
            tasks.retain(|task| task.kind != Kind::Fetch);
        }
        tasks.push(Running { kind, future });
    }

    fn go_on(&mut self, pid: Pid) {
        let (lives, hangs) = {
            let mut world = self.world.borrow_mut();
            if world.is_paused(pid) {
                return;
            }
            let lives = world.processes.contains_key(&pid);
            let hangs = |rank: &mut RankProcess| {
                let waits = matches!(rank.activity, Activity::Loading | Activity::Store);
                rank.hangs && !waits
            };
            (lives, world.rank(pid).is_some_and(hangs))
        };
        let Some(mut tasks) = self.tasks.remove(&pid).filter(|_| lives) else {
            self.tasks.remove(&pid);
            return;
        };
        let mut index = 0;
        while index < tasks.len() {
            if hangs && tasks[index].kind == Kind::Compute {
                index += 1;
                continue;
            }
            let mut context = Context::from_waker(Waker::noop());
            let done = tasks[index].future.as_mut().poll(&mut context).is_ready();
            if done {
                drop(tasks.remove(index));
            } else {
                index += 1;
            }
            self.look_after_writes();
            if !self.world.borrow().processes.contains_key(&pid) {
                return;
            }
        }
        let newer = self.tasks.remove(&pid).unwrap_or_default();
        tasks.extend(newer);
        self.tasks.insert(pid, tasks);
    }

    /// Checks what was just written, and plans when the store answers.
    fn look_after_writes(&self) {
        let mut world = self.world.borrow_mut();
        let (wakes, writes) = {
            let mut gate = world.bucket.gate();
            let wakes = std::mem::take(&mut gate.wakes);
            (wakes, std::mem::take(&mut gate.writes))
        };
        for (at, pid) in wakes {
            world.at(at, Happening::Wake(pid));
        }
        for (pid, key) in writes {
            world.note(|world| format!("{} writes {key}", world.name(pid)));
            world.wrote(pid, &key);
            world.ambush(pid);
        }
    }
}

fn happen(world: &mut World, what: Happening) {
    match what {
        Happening::Wake(pid) => {
            world.ready.insert(pid);
        }
        Happening::Tick(pid) => world.tick_rank(pid),
        Happening::Start(machine) => world.start(machine),
        Happening::Arrive(link, mail) => world.arrive(link, mail),
        Happening::GiveUp(link, number) => world.give_up(link, number),
        Happening::Notice(link, end) => world.notice(link, end),
        Happening::Resume(pid) => world.resume(pid),
        Happening::KillSilent(pid) => world.kill_silent(pid),
        Happening::Strike => world.strike(),
        Happening::Meet(pid, fault) => world.strike_process(pid, fault),
        Happening::Heal(one, other) => world.heal(one, other),
        Happening::Ask(number) => world.ask(number),
        Happening::Calm => world.calm(),
        Happening::Look => world.look(),
    }
}
