//! The network between ranks and coordinators: one stream of orders and one report after the other
//! on each connection, both in order; connections that break, with what was under way lost or late;
//! and machines that do not reach each other, whose packets wait.

use std::collections::VecDeque;

use cohort::coordinator::claim::Resume;
use cohort::ids::{Epoch, Step};
use cohort::run::command::CommandKind;
use cohort::run::event::{Introduction, MemberId};
use cohort::wire::{Order, Report};
use cohort::worker::state::Event as ShellEvent;

use crate::scenario::Time;
use crate::world::{End, Happening, Pid, Role, World};

pub type LinkId = u64;

/// How long a rank waits for an answer.
const CALL_TIMEOUT: Time = 5_000;
/// How long the coordinator's end of a connection takes to find out that nothing comes any more.
const KEEP_ALIVE: Time = 25_000;

#[derive(Debug)]
pub struct Link {
    pub rank: Pid,
    pub coordinator: Pid,
    pub member: Option<MemberId>,
    /// The coordinator has dropped its end.
    pub server_closed: bool,
    /// What is under way arrives nowhere.
    pub lost: bool,
    /// It broke between its ends: what is sent now goes nowhere.
    broken: bool,
    reports: VecDeque<Report>,
    in_flight: Option<u64>,
    reported: u64,
    last: [Time; 2],
    /// What waits for the machines to reach each other, in either direction.
    held: VecDeque<Mail>,
}

#[derive(Debug)]
pub enum Mail {
    ToRank(ToRank),
    ToCoordinator(ToCoordinator),
}

#[derive(Debug)]
pub enum ToRank {
    Welcomed {
        member: MemberId,
        epoch: Epoch,
        stored_step: Step,
    },
    Order(Order),
    Replied {
        unknown: bool,
        stored_step: Step,
    },
    Refused {
        reason: String,
    },
    Ended,
}

#[derive(Debug)]
pub enum ToCoordinator {
    Joined {
        introduction: Introduction,
        epoch: Epoch,
        link: LinkId,
    },
    Left {
        member: MemberId,
        link: LinkId,
    },
    Reported {
        member: MemberId,
        report: Report,
        link: LinkId,
    },
    Asked {
        kind: CommandKind,
    },
    Broken {
        error: String,
    },
    Published {
        step: Step,
    },
    Restorable(Resume),
    WentBack(Resume),
}

impl World {
    /// A rank looks for its coordinator and joins it.
    pub fn connect(&mut self, pid: Pid, introduction: Introduction) {
        self.hang_up(pid);
        let found = self.whereabouts(pid);
        let id = self.next_link();
        let target = found.unwrap_or(0);
        self.links.insert(
            id,
            Link {
                rank: pid,
                coordinator: target,
                member: None,
                server_closed: false,
                lost: false,
                broken: false,
                reports: VecDeque::new(),
                in_flight: None,
                reported: 0,
                last: [0; 2],
                held: VecDeque::new(),
            },
        );
        let Some(rank) = self.rank(pid) else { return };
        rank.link = Some(id);
        rank.welcomed = false;
        let epoch = Epoch(rank.known_epoch);
        if self.processes.contains_key(&target) {
            let joined = ToCoordinator::Joined {
                introduction,
                epoch,
                link: id,
            };
            self.send(id, Mail::ToCoordinator(joined));
            self.after(CALL_TIMEOUT, Happening::GiveUp(id, None));
        } else {
            let delay = self.dice.between(2, 40);
            self.after(delay, Happening::Arrive(id, Mail::ToRank(ToRank::Ended)));
        }
    }

    fn next_link(&self) -> LinkId {
        self.links.keys().next_back().map_or(1, |last| last + 1)
    }

    /// The newest coordinator's process as the store has it, or else where it was first.
    fn whereabouts(&mut self, pid: Pid) -> Option<Pid> {
        let stored = self.address();
        let rank = self.rank(pid)?;
        let newer = stored.filter(|(_, epoch)| rank.member_known() && *epoch >= rank.known_epoch);
        newer.map(|(address, _)| address).or(rank.first_address)
    }

    /// Sends over a link, behind what was sent before.
    pub fn send(&mut self, id: LinkId, mail: Mail) {
        let delay = self.dice.delay(8, 900);
        let now = self.now;
        let Some(link) = self.links.get_mut(&id) else {
            return;
        };
        if link.broken {
            return;
        }
        let way = usize::from(matches!(mail, Mail::ToRank(_)));
        let at = (now + delay).max(link.last[way]);
        link.last[way] = at;
        self.at(at, Happening::Arrive(id, mail));
    }

    pub fn arrive(&mut self, id: LinkId, mail: Mail) {
        let Some(link) = self.links.get(&id) else {
            return;
        };
        let (rank, coordinator) = (link.rank, link.coordinator);
        if link.lost && !matches!(mail, Mail::ToRank(ToRank::Ended)) {
            return;
        }
        let ends = (self.machine(rank), self.machine(coordinator));
        if let (Some(one), Some(other)) = ends
            && (self.is_cut(one, other) || !self.links[&id].held.is_empty())
        {
            if let Some(link) = self.links.get_mut(&id) {
                link.held.push_back(mail);
            }
            return;
        }
        let target = match mail {
            Mail::ToRank(_) => rank,
            Mail::ToCoordinator(_) => coordinator,
        };
        let Some(process) = self.processes.get_mut(&target) else {
            if target == coordinator {
                let delay = self.dice.between(1, 30);
                self.after(delay, Happening::Arrive(id, Mail::ToRank(ToRank::Ended)));
            }
            return;
        };
        if process.paused {
            process.waiting.push_back((id, mail));
            return;
        }
        match mail {
            Mail::ToRank(mail) => self.reach_rank(rank, id, mail),
            Mail::ToCoordinator(mail) => self.reach_coordinator(coordinator, mail),
        }
    }

    /// Puts a message before a coordinator.
    pub fn reach_coordinator(&mut self, pid: Pid, mail: ToCoordinator) {
        if let Some(coordinator) = self.coordinator(pid) {
            coordinator.inbox.push_back(mail);
            self.ready.insert(pid);
        }
    }

    fn reach_rank(&mut self, pid: Pid, id: LinkId, mail: ToRank) {
        let now = self.now;
        let Some(rank) = self.rank(pid) else { return };
        if rank.link != Some(id) {
            return;
        }
        let event = match mail {
            ToRank::Welcomed {
                member,
                epoch,
                stored_step,
            } => {
                rank.welcomed = true;
                rank.welcomed_at = now;
                rank.known_epoch = epoch.0;
                ShellEvent::Welcomed {
                    member,
                    stored_step,
                }
            }
            ToRank::Order(order) => ShellEvent::Order(order),
            ToRank::Replied {
                unknown,
                stored_step,
            } => {
                if let Some(link) = self.links.get_mut(&id) {
                    link.in_flight = None;
                }
                self.pump(id);
                ShellEvent::Replied {
                    unknown,
                    stored_step,
                }
            }
            ToRank::Refused { reason } => ShellEvent::Refused {
                reason,
                is_over: true,
            },
            ToRank::Ended => {
                self.hang_up(pid);
                ShellEvent::Unlinked
            }
        };
        self.shell(pid, event);
    }

    /// Takes a report for the coordinator; it goes when the one before it was answered.
    pub fn report(&mut self, pid: Pid, report: Report) {
        let link = self.rank(pid).filter(|rank| rank.welcomed);
        let Some(id) = link.and_then(|rank| rank.link) else {
            return;
        };
        if let Some(link) = self.links.get_mut(&id) {
            link.reports.push_back(report);
        }
        self.pump(id);
    }

    fn pump(&mut self, id: LinkId) {
        let Some(link) = self.links.get_mut(&id) else {
            return;
        };
        let (None, Some(member)) = (link.in_flight, link.member) else {
            return;
        };
        let Some(report) = link.reports.pop_front() else {
            return;
        };
        link.reported += 1;
        let number = link.reported;
        link.in_flight = Some(number);
        let reported = ToCoordinator::Reported {
            member,
            report,
            link: id,
        };
        self.send(id, Mail::ToCoordinator(reported));
        self.after(CALL_TIMEOUT, Happening::GiveUp(id, Some(number)));
    }

    /// A rank waited long enough.
    pub fn give_up(&mut self, id: LinkId, number: Option<u64>) {
        let Some(link) = self.links.get(&id) else {
            return;
        };
        let pid = link.rank;
        let waits = number.is_some() && link.in_flight == number;
        if self.is_paused(pid) {
            return self.after(100, Happening::GiveUp(id, number));
        }
        let Some(rank) = self.rank(pid) else { return };
        let current = rank.link == Some(id);
        let joins = number.is_none() && !rank.welcomed;
        if current && (waits || joins) {
            self.note(|world| format!("{} hears nothing on link {id}", world.name(pid)));
            self.hang_up(pid);
            self.shell(pid, ShellEvent::Unlinked);
        }
    }

    /// A rank drops its end of its connection.
    pub fn hang_up(&mut self, pid: Pid) {
        let Some(rank) = self.rank(pid) else { return };
        rank.welcomed = false;
        if let Some(id) = rank.link.take() {
            self.close(id, End::Rank);
        }
    }

    /// An end of a link closes; the other finds out after a while.
    pub fn close(&mut self, id: LinkId, end: End) {
        let Some(link) = self.links.get_mut(&id) else {
            return;
        };
        link.reports.clear();
        let ends = (link.rank, link.coordinator);
        let other = match end {
            End::Rank => End::Coordinator,
            End::Coordinator => {
                link.server_closed = true;
                End::Rank
            }
        };
        let cut = match (self.machine(ends.0), self.machine(ends.1)) {
            (Some(one), Some(other)) => self.is_cut(one, other),
            _ => false,
        };
        let delay = if cut {
            KEEP_ALIVE
        } else {
            self.dice.delay(20, 1_500)
        };
        self.after(delay, Happening::Notice(id, other));
    }

    pub fn notice(&mut self, id: LinkId, end: End) {
        let Some(link) = self.links.get_mut(&id) else {
            return;
        };
        match end {
            End::Rank => {
                let pid = link.rank;
                if self.is_paused(pid) {
                    return self.after(100, Happening::Notice(id, end));
                }
                self.reach_rank(pid, id, ToRank::Ended);
            }
            End::Coordinator => {
                let (pid, member) = (link.coordinator, link.member);
                let was_closed = std::mem::replace(&mut link.server_closed, true);
                if let (Some(member), false) = (member, was_closed) {
                    self.reach_coordinator(pid, ToCoordinator::Left { member, link: id });
                }
            }
        }
    }

    /// A connection breaks between its ends.
    pub fn break_link(&mut self, id: LinkId) {
        self.close(id, End::Coordinator);
        if let Some(link) = self.links.get_mut(&id) {
            link.server_closed = false;
            link.broken = true;
        }
        let delay = self.dice.delay(30, 2_000);
        self.after(delay, Happening::Notice(id, End::Coordinator));
    }

    /// Machines reach each other again: what was held goes on.
    pub fn release_held(&mut self) {
        let ids: Vec<LinkId> = self.links.keys().copied().collect();
        for id in ids {
            let link = &self.links[&id];
            let ends = (self.machine(link.rank), self.machine(link.coordinator));
            if let (Some(one), Some(other)) = ends
                && self.is_cut(one, other)
            {
                continue;
            }
            let held = self
                .links
                .get_mut(&id)
                .map(|link| std::mem::take(&mut link.held));
            for mail in held.into_iter().flatten() {
                self.send(id, mail);
            }
        }
    }

    /// The links that a process has an end of.
    pub fn links_of(&self, pid: Pid) -> Vec<LinkId> {
        let of = |link: &Link| link.rank == pid || link.coordinator == pid;
        let links = self.links.iter().filter(|(_, link)| of(link));
        links.map(|(&id, _)| id).collect()
    }

    /// Whether a coordinator would answer somebody on a machine.
    pub fn answers(&self, pid: Pid, to: usize) -> bool {
        self.processes.get(&pid).is_some_and(|process| {
            let serves = match &process.role {
                Role::Coordinator(coordinator) => coordinator.state.is_some(),
                Role::Rank(_) => false,
            };
            serves && !process.paused && !self.is_cut(process.machine, to)
        })
    }
}
