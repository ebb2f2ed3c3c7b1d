//! The compute thread of a rank, as `worker::setup` and `train::compute` have it: from seat to seat
//! with one replica, which changes only between collective operations.

use cohort::ids::{Generation, Rank, Step};
use cohort::run::event::{Origin, Parting, Placement};
use cohort::run::schedule::Schedule;
use cohort::run::standing::{Activity, Seat};
use cohort::store::manifest::{Reason, digest};
use cohort::store::{checkpoint::Checkpoints, layout};
use cohort::train::compute::queue::CommandQueue;
use cohort::train::compute::{Inbox, Outbox, Turn};
use cohort::wire::Assignment;
use cohort::worker::state::Event as ShellEvent;

use crate::groups::{Failure, Post};
use crate::handle::Handle;
use crate::replica::{Letter, Offer, Replica, Saved};
use crate::scenario::Time;
use crate::share::{Collective, share};
use crate::trainer::Trainer;
use crate::world::Happening;

/// How long to wait for the lead's address.
const GATHER: Time = 180_000;

/// Why a turn in a generation failed.
#[derive(Clone, Copy, Debug, thiserror::Error)]
pub enum Broke {
    #[error("a collective operation failed: {0:?}")]
    Collective(Failure),
    #[error("no rank of the generation holds a state")]
    Nobody,
    /// The world's checks have said so already.
    #[error("the states of the ranks differ")]
    Diverged,
}

impl From<Failure> for Broke {
    fn from(failure: Failure) -> Self {
        Self::Collective(failure)
    }
}

/// What a rank works with in all generations.
pub struct Tools {
    pub handle: Handle,
    pub schedule: Schedule,
    pub commands: CommandQueue,
    rendezvous: Option<(Generation, String)>,
    /// The newest snapshot that was handed over.
    pub saved: Option<(Step, Reason)>,
}

impl Tools {
    pub fn receive(&mut self, message: Inbox) {
        match message {
            Inbox::Command(command) => self.commands.waiting.push_back(command),
            Inbox::Regroup(generation) => self.commands.regroup = Some(generation),
            Inbox::Published(step) => {
                self.commands.published = self.commands.published.max(Some(step));
            }
            Inbox::Rendezvous {
                generation,
                address,
            } => self.rendezvous = Some((generation, address)),
            Inbox::Assign(_) => unreachable!("seats come as letters"),
        }
    }

    /// Takes in what has come.
    pub fn receive_all(&mut self) {
        loop {
            let letter = self.handle.rank().inbox.pop_front();
            match letter {
                Some(Letter::Order(order)) => self.receive(order),
                Some(Letter::Seat(_)) => {}
                None => return,
            }
        }
    }

    pub fn begin(&self, activity: Activity) {
        let mut rank = self.handle.rank();
        rank.activity = activity;
        rank.ticks += 1;
    }
}

pub async fn compute(handle: Handle) {
    let opening = handle.world().dice.delay(400, 6_000);
    handle.sleep(opening).await;
    let schedule = handle.world().scenario.schedule.clone();
    let mut tools = Tools {
        handle,
        schedule,
        commands: CommandQueue::default(),
        rendezvous: None,
        saved: None,
    };
    idle(&tools, None);
    let pid = tools.handle.pid;
    loop {
        let letter = tools
            .handle
            .until(|world| world.rank(pid)?.inbox.pop_front())
            .await;
        let offer = match letter {
            Letter::Seat(offer) => *offer,
            Letter::Order(order) => {
                tools.receive(order);
                continue;
            }
        };
        let seat = offer.placement.seat;
        let turn = take_seat(&mut tools, offer).await;
        tools.handle.rank().group = None;
        match turn {
            Ok(Turn::Ended { stopped }) => {
                let held = tools
                    .handle
                    .rank()
                    .replica
                    .as_ref()
                    .map(|held| held.position.standing());
                tools.handle.tell(Outbox::Ended {
                    seat,
                    standing: held.expect("a rank ends with a state"),
                    stopped,
                });
            }
            Ok(Turn::Regrouped) => idle(&tools, Some((seat.generation, Parting::Regrouped))),
            Ok(Turn::WentBack(spike)) => {
                tools.handle.rank().replica = None;
                idle(&tools, Some((seat.generation, Parting::WentBack(spike))));
            }
            Err(broke) => {
                let error = broke.to_string();
                idle(&tools, Some((seat.generation, Parting::Broken { error })));
            }
        }
    }
}

fn idle(tools: &Tools, parting: Option<(Generation, Parting)>) {
    tools.begin(Activity::Idle);
    let standing = tools
        .handle
        .rank()
        .replica
        .as_ref()
        .map(|held| held.position.standing());
    tools.handle.tell(Outbox::Idle { parting, standing });
}

async fn take_seat(tools: &mut Tools, offer: Offer) -> Result<Turn, Broke> {
    let Placement {
        seat,
        lineage,
        origin,
    } = offer.placement;
    tools.commands = CommandQueue {
        replay: offer.replay,
        published: offer.published,
        ..CommandQueue::default()
    };
    tools.begin(Activity::Loading);
    let is_of_lineage = |held: &Replica| held.position.lineage == lineage;
    if !tools
        .handle
        .rank()
        .replica
        .as_ref()
        .is_some_and(is_of_lineage)
    {
        tools.saved = None;
    }
    if origin == Origin::Store {
        tools.handle.rank().replica = None;
        if seat.rank == Rank(0) {
            let span = tools.handle.world().dice.delay(500, 4_000);
            tools.handle.sleep(span).await;
            let replica = Replica::of(lineage, (offer.restored, &offer.detours), &tools.schedule);
            tools.handle.rank().replica = Some(replica);
        }
    }
    tools.begin(Activity::Connecting);
    let mut collective = form(tools, seat).await?;
    let turn = share_and_run(tools, seat, lineage, &mut collective).await;
    if turn.is_err() {
        let key = collective.key;
        tools.handle.world().break_group(key);
    }
    let turn = turn?;
    if let Turn::Ended { .. } = turn {
        tools.begin(Activity::Store);
        let pid = tools.handle.pid;
        let generation = seat.generation;
        tools
            .handle
            .until(|world| {
                let rank = world.rank(pid)?;
                if rank.over >= generation {
                    return Some(Err(Failure::Aborted));
                }
                (rank.uploads_in_flight == 0).then_some(Ok(()))
            })
            .await?;
    }
    tools.begin(Activity::Idle);
    Ok(turn)
}

async fn share_and_run(
    tools: &mut Tools,
    seat: Seat,
    lineage: Generation,
    collective: &mut Collective,
) -> Result<Turn, Broke> {
    tools.begin(Activity::Computing);
    share(tools, lineage, collective).await?;
    let standing = tools
        .handle
        .rank()
        .replica
        .as_ref()
        .map(|held| held.position.standing());
    let standing = standing.ok_or(Broke::Nobody)?;
    tools
        .handle
        .world()
        .joined_generation(tools.handle.pid, seat.generation);
    tools.handle.tell(Outbox::Ready { seat, standing });
    let trainer = Trainer {
        tools,
        seat,
        collective,
        owed: None,
    };
    trainer.run().await
}

/// Connects the ranks of the generation.
async fn form(tools: &mut Tools, seat: Seat) -> Result<Collective, Broke> {
    let Seat {
        generation,
        rank,
        world,
    } = seat;
    let pid = tools.handle.pid;
    let lead = if rank == Rank(0) {
        pid
    } else {
        lead_address(tools, generation).await?
    };
    let key = (generation, lead);
    {
        let mut world_now = tools.handle.world();
        let group = world_now.groups.entry(key).or_default();
        group.world = world;
        group.members.insert(rank.0, pid);
        if let Some(mine) = world_now.rank(pid) {
            mine.group = Some((key, rank.0));
        }
    }
    if rank == Rank(0) && world > 1 {
        let address = pid.to_string();
        tools.handle.tell(Outbox::RendezvousReady {
            generation,
            address,
        });
    }
    let mut collective = Collective {
        handle: tools.handle.clone(),
        key,
        rank: rank.0,
        world,
        next: 0,
    };
    let formed = collective.meet(Post::Nothing).await;
    if formed.is_err() {
        tools.handle.world().break_group(key);
    }
    formed?;
    Ok(collective)
}

/// Waits until the lead rank has said where to connect.
async fn lead_address(tools: &mut Tools, wanted: Generation) -> Result<u32, Broke> {
    let pid = tools.handle.pid;
    let deadline = tools.handle.world().now + GATHER;
    tools.handle.world().at(deadline, Happening::Wake(pid));
    loop {
        if let Some((generation, address)) = &tools.rendezvous
            && *generation == wanted
        {
            return Ok(address.parse().expect("addresses are numbers here"));
        }
        let letter = tools
            .handle
            .until(|world| {
                let now = world.now;
                let rank = world.rank(pid)?;
                if rank.over >= wanted {
                    return Some(Err(Failure::Aborted));
                }
                if now >= deadline {
                    return Some(Err(Failure::TimedOut));
                }
                rank.inbox.pop_front().map(Ok)
            })
            .await?;
        if let Letter::Order(order) = letter {
            tools.receive(order);
        }
    }
}

/// Reads what a seat needs, and gives it to the compute thread.
pub async fn fetch(handle: Handle, assignment: Assignment) {
    let read = match &assignment.resume_from {
        Some(address) => restore(&handle, address.step).await.map(Some),
        None => Ok(None),
    };
    match read {
        Ok(restored) => {
            let offer = Offer {
                placement: assignment.placement,
                restored,
                replay: assignment.replay,
                detours: assignment.detours,
                published: assignment.published,
            };
            handle.rank().inbox.push_back(Letter::Seat(Box::new(offer)));
        }
        Err(error) => {
            let error = format!("{error:#}");
            let pid = handle.pid;
            handle.world().shell(pid, ShellEvent::Broke { error });
        }
    }
}

async fn restore(handle: &Handle, step: Step) -> anyhow::Result<Saved> {
    let store = handle.store();
    let manifest = Checkpoints::new(store.clone()).manifest(step).await?;
    let key = layout::checkpoint_file(step, layout::STATE_FILE);
    let bytes = store.get(&key).await?;
    let entry = manifest.file(layout::STATE_FILE);
    anyhow::ensure!(
        entry.is_some_and(|entry| entry.digest == digest(&bytes)),
        "checkpoint {step} is not what its manifest says"
    );
    handle.world().tally.count("states read from the store");
    Ok(serde_json::from_slice(&bytes)?)
}
