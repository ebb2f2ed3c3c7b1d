//! A coordinator's process: claims the run in the store with the program's own code, drives the
//! real state machine, and carries out its effects as `coordinator::core` does.

use std::time::Duration;

use anyhow::Result;
use cohort::coordinator::claim::{self, Address, Claim, Resume};
use cohort::coordinator::journal::{self, Fenced, Writer};
use cohort::ids::{Epoch, Generation, Step};
use cohort::run::event::{Event, MemberId, Position};
use cohort::run::state::{Limits, Millis, Past, Rules, RunState};
use cohort::store::epoch::{self, Claimant};
use cohort::store::{Store, layout};
use cohort::telemetry::StepMetrics;
use cohort::wire::{Order, Report};

use crate::archive::Archive;
use crate::handle::Handle;
use crate::mail::{LinkId, ToCoordinator, ToRank};
use crate::scenario::Time;
use crate::world::{Happening, Role};

const TICK: Time = 200;
/// How long a coordinator that is found in the store may take to say that it lives.
const STATUS_TIMEOUT: Time = 5_000;
const GATHER: Duration = Duration::from_mins(3);

/// Works until the run is over; an error ends the process.
pub async fn coordinate(handle: Handle) {
    let outcome = work(&handle).await;
    let mut world = handle.world();
    if let Err(error) = &outcome {
        if error.is::<Fenced>() {
            world.tally.count("coordinators fenced off");
            world.fenced_off(handle.pid);
        }
        world.note(|world| format!("{} ends: {error:#}", world.name(handle.pid)));
    }
    let Some(machine) = world.machine(handle.pid) else {
        return;
    };
    world.kill(handle.pid, true);
    if machine != world.coordinators().1 {
        world.restart(machine);
    }
}

async fn work(handle: &Handle) -> Result<()> {
    let store = handle.store();
    refuse_second(handle, &store).await?;
    let claimant = Claimant {
        started_at: handle.world().now.to_string(),
        host: "host".to_owned(),
        process_id: handle.pid,
        cohort_version: "simulated".to_owned(),
    };
    let epoch = epoch::claim(&store, &claimant).await?.epoch;
    journal::seal(&store, epoch).await?;
    let claim = claim_of(handle, epoch);
    claim::announce(&store, &claim.address).await?;
    let archive = Archive::open(handle, &claim).await?;
    let past = past(handle, &store).await?;
    let mut core = Core::new(handle.clone(), claim, archive, past);
    let closed = loop {
        if let Some(error) = core.turn().await? {
            break error;
        }
    };
    core.close(closed).await
}

/// The claim of a process that holds an epoch.
pub fn claim_of(handle: &Handle, epoch: Epoch) -> Claim {
    let url = format!("process {}", handle.pid);
    Claim {
        store: handle.store(),
        epoch,
        address: Address {
            url: url.clone(),
            epoch,
            host: "host".to_owned(),
            process: handle.pid,
            since: String::new(),
        },
        url,
        parent: None,
        patience: Duration::from_mins(1),
    }
}

/// Ends with an error where the run has a coordinator that answers.
async fn refuse_second(handle: &Handle, store: &Store) -> Result<()> {
    let Ok(bytes) = store.get(layout::COORDINATOR_FILE).await else {
        return Ok(());
    };
    let address: Address = serde_json::from_slice(&bytes)?;
    let (there, here) = {
        let world = handle.world();
        let here = world.machine(handle.pid).unwrap_or(0);
        (world.answers(address.process, here), here)
    };
    if there {
        anyhow::bail!("the run has a coordinator already: {}", address.process);
    }
    if handle.world().processes.contains_key(&address.process) {
        handle.sleep(STATUS_TIMEOUT).await;
        let answers = handle.world().answers(address.process, here);
        anyhow::ensure!(!answers, "the run has a coordinator already");
    }
    Ok(())
}

/// What the journal says, and which processes of this machine are gone.
async fn past(handle: &Handle, store: &Store) -> Result<Past> {
    let journal = journal::read(store).await?;
    let world = handle.world();
    let members = journal.generation.iter().flat_map(|record| &record.members);
    let is_gone = |process: u32| {
        let lives = world.processes.get(&process);
        world.scenario.one_host && !lives.is_some_and(|each| matches!(each.role, Role::Rank(_)))
    };
    Ok(Past {
        gone: members
            .filter(|each| is_gone(each.process))
            .map(|each| each.member)
            .collect(),
        commands: journal.commands,
        spikes: journal.spikes,
        generation: journal.generation,
        newest_generation: journal.newest_generation,
    })
}

pub struct Core {
    pub handle: Handle,
    pub claim: Claim,
    pub journal: Writer,
    pub archive: Archive,
    pub resume: Resume,
    pub next_tick: Time,
}

impl Core {
    fn new(handle: Handle, claim: Claim, archive: Archive, past: Past) -> Self {
        let epoch = claim.epoch;
        let mut world = handle.world();
        let scenario = world.scenario.clone();
        let rules = Rules {
            ranks: scenario.ranks,
            min_ranks: scenario.min_ranks,
            gather_timeout: GATHER,
            checkpoint_interval: scenario.checkpoint_ms.map(Duration::from_millis),
            schedule: scenario.schedule,
            limits: Limits::default(),
        };
        if past.generation.is_some() {
            world.tally.count("takeovers of a generation");
        }
        let now = world.clock(handle.pid);
        let lineage = past.generation.as_ref().map(|record| record.lineage);
        world.checks.serves(epoch, lineage);
        let state = RunState::new(rules, past, epoch, now);
        world.note(|world| format!("{} serves in epoch {epoch}", world.name(handle.pid)));
        drop(world);
        {
            let mut coordinator = handle.coordinator();
            coordinator.state = Some(state);
            coordinator.epoch = epoch.0;
        }
        let journal = Writer::new(claim.store.clone(), epoch, claim.patience);
        Self {
            handle,
            claim,
            journal,
            archive,
            resume: Resume::default(),
            next_tick: 0,
        }
    }

    /// Handles the next message; `Some` when the run is over, with the error if it failed.
    async fn turn(&mut self) -> Result<Option<Option<String>>> {
        let pid = self.handle.pid;
        self.handle.world().at(self.next_tick, Happening::Wake(pid));
        let next_tick = self.next_tick;
        let message = self
            .handle
            .until(|world| {
                let due = world.now >= next_tick;
                let ticks_first = due && world.dice.per_mille(500);
                let inbox = &mut world.coordinator(pid)?.inbox;
                match inbox.is_empty() || ticks_first {
                    true if due => Some(None),
                    true => None,
                    false => inbox.pop_front().map(Some),
                }
            })
            .await;
        if message.is_none() {
            self.next_tick = self.handle.world().now + TICK;
        }
        self.handle_message(message).await
    }

    async fn handle_message(
        &mut self,
        message: Option<ToCoordinator>,
    ) -> Result<Option<Option<String>>> {
        let now = self.handle.clock();
        let mut joining = None;
        let event = match message {
            None => {
                self.archive.flush_if_due(now).await?;
                Event::Tick
            }
            Some(ToCoordinator::Joined {
                introduction,
                epoch,
                link,
            }) => {
                if epoch > self.claim.epoch {
                    self.send(link, ToRank::Ended);
                    let ours = self.claim.epoch;
                    return Err(Fenced { ours }.into());
                }
                joining = Some(link);
                Event::Joined(introduction)
            }
            Some(ToCoordinator::Left { member, link }) => {
                let mut coordinator = self.handle.coordinator();
                if coordinator.orders.get(&member) != Some(&link) {
                    return Ok(None);
                }
                coordinator.orders.remove(&member);
                Event::Left { member }
            }
            Some(ToCoordinator::Reported {
                member,
                report,
                link,
            }) => {
                let known = self.handle.coordinator().orders.get(&member) == Some(&link);
                let event = if known {
                    self.receive(member, report).await?
                } else {
                    None
                };
                let stored_step = self.archive.stored_step();
                let unknown = !known;
                self.send(
                    link,
                    ToRank::Replied {
                        unknown,
                        stored_step,
                    },
                );
                let Some(event) = event else { return Ok(None) };
                event
            }
            Some(ToCoordinator::Asked { kind }) => Event::CommandAsked { kind },
            Some(ToCoordinator::Broken { error }) => Event::Broken { error },
            Some(ToCoordinator::Published { step }) => {
                let members: Vec<_> = self.handle.coordinator().orders.keys().copied().collect();
                for member in members {
                    self.order(member, Order::Published { step });
                }
                Event::CheckpointPublished { step }
            }
            Some(ToCoordinator::WentBack(resume)) => Event::WentBack {
                to: self.go_on_from(resume),
            },
            Some(ToCoordinator::Restorable(resume)) => Event::Restorable {
                step: self.go_on_from(resume),
            },
        };
        self.decide(event, now, joining).await
    }

    fn go_on_from(&mut self, resume: Resume) -> Option<Step> {
        let step = resume.step();
        self.resume = resume;
        step
    }

    async fn decide(
        &mut self,
        event: Event,
        now: Millis,
        joining: Option<LinkId>,
    ) -> Result<Option<Option<String>>> {
        let pid = self.handle.pid;
        let quiet = matches!(event, Event::Beat { .. } | Event::Tick);
        if !quiet {
            self.handle.world().note(|world| {
                let text: String = format!("{event:?}").chars().take(260).collect();
                format!("{} < {text}", world.name(pid))
            });
        }
        let (effects, stage) = {
            let mut coordinator = self.handle.coordinator();
            let state = coordinator.state.as_mut().expect("it serves");
            let before = state.stage.clone();
            let effects = state.handle(event, now);
            (effects, (before, state.stage.clone(), state.reason.clone()))
        };
        if stage.0 != stage.1 || (!quiet && !effects.is_empty()) {
            self.handle.world().note(|world| {
                let (_, stage, reason) = &stage;
                format!("{} is {stage:?}: {reason}", world.name(pid))
            });
        }
        if stage.2.is_empty() {
            let mut world = self.handle.world();
            world.violated(format!("(6) {:?} without a reason", stage.1));
        }
        self.execute(effects, joining).await
    }

    /// Turns a rank's report into a fact, and files what it carries.
    async fn receive(&mut self, member: MemberId, report: Report) -> Result<Option<Event>> {
        Ok(Some(match report {
            Report::Idle { parting, standing } => Event::Idle {
                member,
                parting,
                standing,
            },
            Report::RendezvousReady {
                generation,
                address,
            } => Event::RendezvousReady {
                member,
                generation,
                address,
            },
            Report::Ready {
                generation,
                standing,
            } => Event::Ready {
                member,
                generation,
                standing,
            },
            Report::Beat(beat) => Event::Beat { member, beat },
            Report::Step(metrics) => return self.step(&metrics).await,
            Report::Spike(spike) if self.is_current(spike.generation) => Event::Spiked(spike),
            Report::Checkpoint(manifest) => {
                if self.is_current(manifest.generation) {
                    self.archive.publish(*manifest).await?;
                }
                return Ok(None);
            }
            Report::Outcome {
                generation,
                id,
                stage,
            } => {
                if !self.is_current(generation) {
                    return Ok(None);
                }
                Event::CommandOutcome {
                    generation,
                    id,
                    stage,
                }
            }
            Report::Failed { error } => Event::RankFailed { member, error },
            Report::Finished {
                generation,
                stopped,
            } => Event::RankFinished {
                member,
                generation,
                stopped,
            },
            Report::Leaving { reason } => Event::Leaving { member, reason },
            Report::Spike(_) | Report::Evaluation(_) | Report::NotStored { .. } => {
                return Ok(None);
            }
        }))
    }

    async fn step(&mut self, metrics: &StepMetrics) -> Result<Option<Event>> {
        if !self.is_current(metrics.generation) || !self.archive.step(metrics).await? {
            return Ok(None);
        }
        let position = Position {
            step: metrics.step,
            tokens: metrics.tokens,
            phase: metrics.next_phase.clone(),
            phase_kind: metrics.next_phase_kind,
        };
        let seconds = metrics.seconds;
        Ok(Some(Event::StepTaken { position, seconds }))
    }

    /// Whether a generation belongs to the state that training goes on from.
    fn is_current(&self, generation: Generation) -> bool {
        let coordinator = self.handle.coordinator();
        let lineage = coordinator.state.as_ref().and_then(|state| state.lineage);
        lineage.is_some_and(|lineage| generation >= lineage.generation)
    }
}
