//! What the ranks of a generation do together: operations that end when all are in them, each rank
//! a moment before or after the others, and that fail where one is lost, gives up, or is out of
//! reach.

use std::collections::{BTreeMap, BTreeSet};

use cohort::ids::Generation;
use cohort::run::command::Directive;

use crate::replica::Replica;
use crate::scenario::Time;
use crate::world::{Happening, Pid, World};

/// A generation, and the process whose store its ranks meet at.
pub type GroupKey = (Generation, Pid);

/// How long an operation may take, and how long the ranks may take to find each other.
const OPERATION_LIMIT: Time = 60_000;
const FORM_LIMIT: Time = 30_000;

/// What a rank brings to an operation.
#[derive(Clone, Debug)]
pub enum Post {
    Nothing,
    Numbers([u64; 2]),
    Directive(Option<Directive>),
    State(Box<Replica>),
}

#[derive(Debug, Default)]
pub struct Group {
    pub world: u32,
    pub members: BTreeMap<u32, Pid>,
    operations: Vec<Operation>,
    broken: bool,
}

#[derive(Debug, Default)]
struct Operation {
    posts: BTreeMap<u32, (Time, Post)>,
    /// When each rank has its result.
    ready: BTreeMap<u32, Time>,
    failed: BTreeSet<u32>,
}

/// Why an operation failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    PeerLost,
    TimedOut,
    Aborted,
}

impl World {
    /// A rank comes to its next operation.
    pub fn post(&mut self, key: GroupKey, rank: u32, index: usize, post: Post) {
        let now = self.now;
        let group = self.groups.entry(key).or_default();
        while group.operations.len() <= index {
            group.operations.push(Operation::default());
        }
        group.operations[index].posts.insert(rank, (now, post));
        let limit = if index == 0 {
            FORM_LIMIT
        } else {
            OPERATION_LIMIT
        };
        if let Some(&pid) = group.members.get(&rank) {
            self.after(limit, Happening::Wake(pid));
        }
        self.complete(key, index);
    }

    /// Gives an operation its results where all are in it and reach each other.
    fn complete(&mut self, key: GroupKey, index: usize) {
        let group = &self.groups[&key];
        let operation = &group.operations[index];
        let all = operation.posts.len() == group.world as usize;
        if !all || !operation.ready.is_empty() || group.broken || self.is_torn(key) {
            return;
        }
        let members = group.members.clone();
        for (rank, pid) in members {
            let delay = self.dice.delay(6, 400);
            let at = self.now + delay;
            if let Some(group) = self.groups.get_mut(&key) {
                group.operations[index].ready.insert(rank, at);
            }
            self.at(at, Happening::Wake(pid));
        }
    }

    /// Whether two of its machines do not reach each other.
    fn is_torn(&self, key: GroupKey) -> bool {
        let machines: Vec<_> = self.groups[&key]
            .members
            .values()
            .filter_map(|&pid| self.machine(pid))
            .collect();
        machines
            .iter()
            .any(|&one| machines.iter().any(|&other| self.is_cut(one, other)))
    }

    /// What became of an operation, once that is known.
    pub fn outcome(
        &mut self,
        key: GroupKey,
        rank: u32,
        index: usize,
    ) -> Option<Result<Vec<Post>, Failure>> {
        let (now, torn) = (self.now, self.is_torn(key));
        let pid = self.groups[&key].members[&rank];
        let over = self.rank(pid).is_some_and(|each| each.over >= key.0);
        let group = &self.groups[&key];
        let operation = &group.operations[index];
        if over {
            return Some(Err(Failure::Aborted));
        }
        if operation.failed.contains(&rank) {
            return Some(Err(Failure::PeerLost));
        }
        let since = operation.posts[&rank].0;
        match operation.ready.get(&rank) {
            Some(&at) if at <= now && !torn => {
                let posts = operation.posts.values();
                return Some(Ok(posts.map(|(_, post)| post.clone()).collect()));
            }
            None if group.broken => return Some(Err(Failure::PeerLost)),
            _ => {}
        }
        let limit = if index == 0 {
            FORM_LIMIT
        } else {
            OPERATION_LIMIT
        };
        (now >= since + limit).then_some(Err(Failure::TimedOut))
    }

    /// One rank's end closes: what is not finished fails on the others, a moment later.
    pub fn break_group(&mut self, key: GroupKey) {
        let Some(group) = self.groups.get_mut(&key) else {
            return;
        };
        if group.broken {
            return;
        }
        group.broken = true;
        let now = self.now;
        for operation in &mut group.operations {
            for &rank in group.members.keys() {
                let late = operation.ready.get(&rank).is_some_and(|&at| at > now);
                if late && self.dice.per_mille(500) {
                    operation.failed.insert(rank);
                }
            }
        }
        let members: Vec<Pid> = group.members.values().copied().collect();
        for pid in members {
            let delay = self.dice.delay(20, 1_000);
            self.after(delay, Happening::Wake(pid));
        }
    }

    /// Machines reach each other again.
    pub fn retry_groups(&mut self) {
        let keys: Vec<GroupKey> = self.groups.keys().copied().collect();
        for key in keys {
            for index in 0..self.groups[&key].operations.len() {
                self.complete(key, index);
            }
            let members: Vec<Pid> = self.groups[&key].members.values().copied().collect();
            for pid in members {
                self.after(1, Happening::Wake(pid));
            }
        }
    }
}
