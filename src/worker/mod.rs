//! A rank's process: joins the coordinator, feeds the compute thread and uploads its checkpoints.
//!
//! tokio carries orders, reports and uploads; the compute thread owns every tensor. What to do
//! about what happens is decided in [`state`]. A rank that has a seat steps on while the
//! coordinator is away, and looks for it in the store.

use std::collections::VecDeque;
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, timeout};
use tracing::{debug, error, info};

use crate::config::RunConfig;
use crate::coordinator::claim::host_name;
use crate::diagnosis;
use crate::ids::Epoch;
use crate::run::event::Introduction;
use crate::run::standing::Beat;
use crate::run::state::Millis;
use crate::telemetry::pulse::Pulse;
use crate::train::abort::Abort;
use crate::train::compute::{Inbox, Offer, Outbox};
use crate::train::snapshot::Uploads;
use crate::wire::{Assignment, Report};
use crate::worker::link::{LinkEvent, Told, Whereabouts};
use crate::worker::setup::{Launch, start_compute};
use crate::worker::state::{Effect, Event, Exit, Limits, RankState};

mod link;
mod restore;
mod setup;
pub mod state;
mod upload;
mod weights;

/// Messages that may wait; the compute thread waits when they are not taken.
const TOLD_MAX: usize = 256;
const TICK: Duration = Duration::from_millis(100);
/// How long the first coordinator may take to come up, before the supervisor is asked again where
/// it is.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long last words may take.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(2);

/// Joins the coordinator at `url` and works until the run is over, or leaves when a warning comes
/// that the machine will be taken away.
pub async fn work(url: &str, warnings: mpsc::Receiver<String>) -> Result<Exit> {
    let limits = Limits {
        orphan: CONNECT_TIMEOUT,
        ..Limits::default()
    };
    let (tell_link, links) = mpsc::channel(TOLD_MAX);
    let mut rank = RankProcess {
        state: RankState::new(limits, host_name(), std::process::id(), Millis(0)),
        whereabouts: Whereabouts {
            url: url.to_owned(),
            config: None,
            epoch: Epoch(0),
        },
        link: None,
        links_made: 0,
        tell_link,
        reports: None,
        compute: None,
        pulse: Pulse::default(),
        abort: Abort::default(),
    };
    rank.connect(rank.state.introduction());
    let exit = rank.follow(links, warnings).await?;
    rank.farewell(&exit).await;
    Ok(exit)
}

struct RankProcess {
    state: RankState,
    whereabouts: Whereabouts,
    link: Option<JoinHandle<()>>,
    links_made: u64,
    tell_link: mpsc::Sender<Told>,
    reports: Option<(mpsc::Sender<Report>, JoinHandle<()>)>,
    compute: Option<ComputeHandle>,
    pulse: Pulse,
    abort: Abort,
}

/// The compute thread, seen from outside.
struct ComputeHandle {
    inbox: SyncSender<Inbox>,
    ended: oneshot::Receiver<Result<()>>,
    told: mpsc::Receiver<Outbox>,
    uploads: Uploads,
    /// None when it has ended in order, because the compute thread has.
    uploader: Option<JoinHandle<Result<()>>>,
    /// The offer that is being read from the store.
    offer: Option<JoinHandle<Result<Box<Offer>>>>,
}

/// What the loop woke up for.
enum Woken {
    Link(Box<Told>),
    Told(Box<Outbox>),
    Offer(Result<Box<Offer>>),
    Broke(anyhow::Error),
    Warned(String),
    Tick,
}

impl RankProcess {
    /// Follows orders until the process has to end.
    async fn follow(
        &mut self,
        mut links: mpsc::Receiver<Told>,
        mut warnings: mpsc::Receiver<String>,
    ) -> Result<Exit> {
        let started = Instant::now();
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let woken = tokio::select! {
                biased;
                woken = next_of_compute(&mut self.compute) => woken,
                told = links.recv() => {
                    let told = told.context("this process keeps a sender")?;
                    Woken::Link(Box::new(told))
                }
                Some(reason) = warnings.recv() => Woken::Warned(reason),
                _ = ticks.tick() => Woken::Tick,
            };
            let now = Millis(started.elapsed().as_millis() as u64);
            let event = match woken {
                Woken::Link(told) => {
                    let (number, event) = *told;
                    if number == self.links_made {
                        self.on_link(event)?
                    } else {
                        None
                    }
                }
                Woken::Told(told) => Some(Event::Told(*told)),
                Woken::Offer(Ok(offer)) => {
                    self.tell_compute(Inbox::Assign(offer))?;
                    None
                }
                Woken::Offer(Err(error)) | Woken::Broke(error) => Some(Event::Broke {
                    error: diagnosis::describe(&error),
                }),
                Woken::Warned(reason) => Some(Event::Warned { reason }),
                Woken::Tick => Some(Event::Tick { beat: self.beat() }),
            };
            let Some(event) = event else {
                continue;
            };
            let mut effects: VecDeque<Effect> = self.state.handle(event, now).into();
            while let Some(effect) = effects.pop_front() {
                if let Some(exit) = self.execute(effect)? {
                    return Ok(exit);
                }
            }
        }
    }

    fn beat(&self) -> Beat {
        let compute = self.compute.as_ref();
        Beat {
            uploads: compute.map_or(0, |compute| compute.uploads.in_flight()),
            ..self.pulse.beat()
        }
    }

    fn on_link(&mut self, event: LinkEvent) -> Result<Option<Event>> {
        Ok(Some(match event {
            LinkEvent::Welcomed {
                member,
                epoch,
                run_json,
                stored_step,
                reports,
                sender,
            } => {
                info!(%epoch, "joined the coordinator");
                self.reports = Some((reports, sender));
                self.whereabouts.epoch = epoch;
                if self.compute.is_none() {
                    let config: RunConfig = serde_json::from_str(&run_json)
                        .context("the coordinator's run is malformed")?;
                    let timeouts = &config.timeouts;
                    self.state.set_limits(timeouts.coordinator, timeouts.grace);
                    self.whereabouts.config = Some(config.clone());
                    self.compute = Some(self.start(config)?);
                }
                Event::Welcomed {
                    member,
                    stored_step,
                }
            }
            LinkEvent::Order(order) => Event::Order(order),
            LinkEvent::Replied {
                unknown,
                stored_step,
            } => Event::Replied {
                unknown,
                stored_step,
            },
            LinkEvent::Refused { reason, is_over } => {
                let url = &self.whereabouts.url;
                Event::Refused {
                    reason: format!("the coordinator at {url} refused this rank: {reason}"),
                    is_over,
                }
            }
            LinkEvent::Ended(error) => {
                debug!(%error, "no connection to the coordinator");
                self.reports = None;
                Event::Unlinked
            }
        }))
    }

    fn start(&self, config: RunConfig) -> Result<ComputeHandle> {
        let (outbox, told) = mpsc::channel(TOLD_MAX);
        let (uploader, snapshots, uploads) = upload::start(&config, outbox.clone())?;
        let (inbox, ended) = start_compute(Launch {
            config,
            outbox,
            snapshots,
            uploads: uploads.clone(),
            pulse: self.pulse.clone(),
            abort: self.abort.clone(),
        })?;
        Ok(ComputeHandle {
            inbox,
            ended,
            told,
            uploads,
            uploader: Some(uploader),
            offer: None,
        })
    }

    fn execute(&mut self, effect: Effect) -> Result<Option<Exit>> {
        match effect {
            Effect::Connect(introduction) => self.connect(introduction),
            Effect::Report(report) => {
                if let Some((reports, _)) = &self.reports
                    && let Err(error) = reports.try_send(report)
                {
                    self.reports = None;
                    self.end_link(&error.to_string());
                }
            }
            Effect::Seat(assignment) => self.take_offer(assignment)?,
            Effect::Compute(order) => self.tell_compute(order)?,
            Effect::Abort(generation) => self.abort.abort(generation),
            Effect::Exit(exit) => return Ok(Some(exit)),
        }
        Ok(None)
    }

    fn connect(&mut self, introduction: Introduction) {
        if let Some(link) = self.link.take() {
            link.abort();
        }
        self.reports = None;
        self.links_made += 1;
        self.link = Some(link::start(
            self.links_made,
            self.whereabouts.clone(),
            introduction,
            self.tell_link.clone(),
        ));
    }

    /// Gives a connection up that takes no reports.
    fn end_link(&self, error: &str) {
        let ended = LinkEvent::Ended(error.to_owned());
        // A queue that is full holds the news of its end, or will be read until it does.
        let _ = self.tell_link.try_send((self.links_made, ended));
    }

    /// Reads the checkpoint that a seat needs, beside everything else.
    fn take_offer(&mut self, assignment: Assignment) -> Result<()> {
        let config = self.whereabouts.config.clone();
        let config = config.context("a seat came before the run's settings")?;
        let compute = self.compute.as_mut().context("a seat came too early")?;
        compute.offer = Some(tokio::spawn(async move {
            let restored = match &assignment.resume_from {
                Some(address) => Some(restore::insist(&config, address, assignment.branch).await?),
                None => None,
            };
            Ok(Box::new(Offer {
                placement: assignment.placement,
                restored,
                replay: assignment.replay,
                detours: assignment.detours,
                published: assignment.published,
            }))
        }));
        Ok(())
    }

    fn tell_compute(&self, message: Inbox) -> Result<()> {
        let compute = self.compute.as_ref();
        let compute = compute.context("an order came before the compute thread was started")?;
        compute
            .inbox
            .try_send(message)
            .map_err(|error| anyhow!("the compute thread does not listen: {error}"))
    }

    /// Lets the last reports out; what no coordinator hears of is for the log.
    async fn farewell(&mut self, exit: &Exit) {
        if let (Exit::Failed { error }, None) = (exit, &self.reports) {
            error!("{error}");
        }
        if let Some((reports, sender)) = self.reports.take() {
            drop(reports);
            // A coordinator that does not take them has other news of this rank's end.
            let _ = timeout(FAREWELL_TIMEOUT, sender).await;
        }
    }
}

/// What comes from the compute thread and its helpers; waits forever before it has started.
async fn next_of_compute(compute: &mut Option<ComputeHandle>) -> Woken {
    let Some(ComputeHandle {
        ended,
        told,
        uploader,
        offer,
        ..
    }) = compute
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        biased;
        Some(told) = told.recv() => Woken::Told(Box::new(told)),
        read = read_offer(offer) => Woken::Offer(read),
        error = upload_error(uploader) => Woken::Broke(error),
        outcome = ended => Woken::Broke(match outcome {
            Ok(Err(error)) => error,
            Ok(Ok(())) => anyhow!("the compute thread has ended too early"),
            Err(_) => anyhow!("the compute thread broke"),
        }),
    }
}

/// Why the uploader ended before its time; waits forever where it did not.
async fn upload_error(uploader: &mut Option<JoinHandle<Result<()>>>) -> anyhow::Error {
    if let Some(working) = uploader {
        let outcome = working.await;
        *uploader = None;
        match outcome {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return error,
            Err(error) => return anyhow!(error).context("the uploader broke"),
        }
    }
    std::future::pending().await
}

async fn read_offer(offer: &mut Option<JoinHandle<Result<Box<Offer>>>>) -> Result<Box<Offer>> {
    let Some(reading) = offer else {
        return std::future::pending().await;
    };
    let read = reading.await;
    *offer = None;
    read.context("reading the checkpoint broke")?
}
