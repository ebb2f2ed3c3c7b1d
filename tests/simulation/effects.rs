//! What a coordinator does because its state machine says so, as `coordinator::core` does it.

use anyhow::Result;
use cohort::coordinator::journal::Fenced;
use cohort::coordinator::rewind;
use cohort::ids::Rank;
use cohort::run::event::{Effect, Entry, MemberId, Origin, Placement};
use cohort::run::spike::{self, Spike};
use cohort::run::state::{Lineage, Stage};
use cohort::wire::{Assignment, Order};

use crate::coordinator::Core;
use crate::mail::{LinkId, Mail, ToRank};
use crate::publisher::Job;
use crate::world::Ending;

impl Core {
    pub async fn execute(
        &mut self,
        effects: Vec<Effect>,
        mut joining: Option<LinkId>,
    ) -> Result<Option<Option<String>>> {
        let mut ended = None;
        for effect in effects {
            match effect {
                Effect::Welcome { member } => self.welcome(member, joining.take()),
                Effect::Refuse { reason } => {
                    if let Some(link) = joining.take() {
                        self.send(link, ToRank::Refused { reason });
                    }
                }
                Effect::Assign { member, placement } => self.assign(member, placement).await?,
                Effect::Rendezvous {
                    member,
                    generation,
                    address,
                } => self.order(
                    member,
                    Order::Rendezvous {
                        generation,
                        address,
                    },
                ),
                Effect::Command { member, command } => self.order(member, Order::Command(command)),
                Effect::Regroup { member, generation } => {
                    self.order(member, Order::Regroup { generation });
                }
                Effect::Abort {
                    member,
                    generation,
                    reason,
                } => self.order(member, Order::Abort { generation, reason }),
                Effect::Journal { entry } => self.write(&entry).await?,
                Effect::Restore => {
                    let (spikes, lineage) = (self.spikes(), self.lineage());
                    self.publisher(Job::FindResume { spikes, lineage });
                }
                Effect::GoBack { before } => {
                    let spikes = self.handle.world().scenario.spikes.clone();
                    let checkpoints = spikes.map_or(1, |spikes| spikes.checkpoints);
                    self.publisher(Job::GoBack {
                        before,
                        checkpoints,
                    });
                }
                Effect::Dismiss {
                    member,
                    reason,
                    restart,
                } => self.order(member, Order::Dismiss { reason, restart }),
                Effect::Answer { record } => self.handle.world().checks.answered(&record),
                Effect::Recovered(_) => self.handle.world().tally.count("recoveries"),
                Effect::Note { .. } => {}
                Effect::End { error } => ended = Some(error),
            }
        }
        Ok(ended)
    }

    fn spikes(&self) -> Vec<Spike> {
        let coordinator = self.handle.coordinator();
        let state = coordinator.state.as_ref();
        state.map_or_else(Vec::new, |state| state.spikes.clone())
    }

    fn lineage(&self) -> Option<Lineage> {
        let coordinator = self.handle.coordinator();
        coordinator.state.as_ref().and_then(|state| state.lineage)
    }

    fn publisher(&self, job: Job) {
        self.handle.coordinator().publish.push_back(job);
        let pid = self.handle.pid;
        self.handle.world().ready.insert(pid);
    }

    fn welcome(&mut self, member: MemberId, joining: Option<LinkId>) {
        let Some(link) = joining else { return };
        let (epoch, stored_step) = (self.claim.epoch, self.archive.stored_step());
        {
            let mut world = self.handle.world();
            if let Some(link) = world.links.get_mut(&link) {
                link.member = Some(member);
            }
        }
        self.handle.coordinator().orders.insert(member, link);
        if self.is_open(member) {
            self.send(
                link,
                ToRank::Welcomed {
                    member,
                    epoch,
                    stored_step,
                },
            );
        }
    }

    async fn write(&mut self, entry: &Entry) -> Result<()> {
        if matches!(entry, Entry::Generation(_)) {
            self.handle.world().tally.count("generations");
            self.archive.insist_on_flush().await?;
        }
        // What was decided and is not written down yet must have done nothing.
        let pid = self.handle.pid;
        self.handle.world().ambush(pid);
        self.journal.write(entry).await
    }

    async fn assign(&mut self, member: MemberId, placement: Placement) -> Result<()> {
        let generation = placement.seat.generation;
        self.handle.world().given(generation, self.claim.epoch);
        let from_store = placement.origin == Origin::Store;
        let leads = placement.seat.rank == Rank(0);
        if from_store && leads {
            let step = self.resume.step().unwrap_or_default();
            let pid = self.handle.pid;
            self.handle
                .world()
                .restores(pid, step, self.archive.lines());
            rewind::clear(&self.claim, &self.spikes(), None).await?;
            self.archive.cut(step).await?;
        }
        let (replay, detours, last_checkpoint) = {
            let coordinator = self.handle.coordinator();
            let state = coordinator.state.as_ref().expect("it serves");
            let detours = spike::detours(&state.spikes);
            (state.replay(), detours, state.last_checkpoint)
        };
        let published = if from_store {
            self.resume.from.as_ref().map(|checkpoint| checkpoint.step)
        } else {
            last_checkpoint
        };
        let assignment = Assignment {
            placement,
            resume_from: self.resume.from.clone().filter(|_| from_store && leads),
            branch: false,
            replay,
            detours,
            published,
        };
        self.order(member, Order::Assign(assignment));
        Ok(())
    }

    /// Whether the end of a member's connection is still there; else it is forgotten.
    fn is_open(&self, member: MemberId) -> bool {
        let mut world = self.handle.world();
        let pid = self.handle.pid;
        let link = world
            .coordinator(pid)
            .and_then(|each| each.orders.get(&member).copied());
        let open = link.is_some_and(|id| !world.links.get(&id).is_none_or(|l| l.server_closed));
        if !open && let Some(coordinator) = world.coordinator(pid) {
            coordinator.orders.remove(&member);
        }
        open
    }

    pub fn order(&self, member: MemberId, order: Order) {
        if !self.is_open(member) {
            return;
        }
        let link = self.handle.coordinator().orders[&member];
        self.send(link, ToRank::Order(order));
    }

    pub fn send(&self, link: LinkId, mail: ToRank) {
        self.handle.world().send(link, Mail::ToRank(mail));
    }

    /// Files what is left, and says that nobody coordinates the run any more.
    pub async fn close(mut self, error: Option<String>) -> Result<()> {
        let pid = self.handle.pid;
        {
            let mut coordinator = self.handle.coordinator();
            coordinator.closing = true;
            coordinator.orders.clear();
        }
        self.archive.close().await?;
        self.handle
            .until(|world| {
                let coordinator = world.coordinator(pid)?;
                (coordinator.publish.is_empty() && !coordinator.publishing).then_some(())
            })
            .await;
        if !self.claim.is_newest().await? {
            let ours = self.claim.epoch;
            return Err(Fenced { ours }.into());
        }
        self.claim.release().await?;
        let stage = self
            .handle
            .coordinator()
            .state
            .as_ref()
            .map(|state| state.stage.clone());
        let mut world = self.handle.world();
        match (stage, error) {
            (Some(Stage::Finished), _) => world.over = Some(Ending::Finished),
            (Some(Stage::Stopped), _) => world.stopped(),
            (stage, error) => world.violated(format!("(6) the run failed: {stage:?}, {error:?}")),
        }
        Ok(())
    }
}
