//! Thousands of ranks on one coordinator: real sockets, and of the ranks only what they say. They
//! join at once, beat once a second, half of them die at a moment, and as many come back.
//!
//! `scripts/bench-control` runs it with 4,096.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "all of it is test code, also outside the functions that are marked as tests"
)]

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cohort::coordinator::journal;
use cohort::ids::{Epoch, Generation, Rank, Step};
use cohort::run::event::{Attachment, Introduction, MemberId, Parting};
use cohort::run::standing::{Activity, Beat, Seat, Standing};
use cohort::run::state::Stage;
use cohort::telemetry::StatusView;
use cohort::wire::proto::coordinator_client::CoordinatorClient;
use cohort::wire::{self, Order, Report};
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_stream::StreamExt;
use tonic::Streaming;
use tonic::transport::Channel;

use crate::support::process::poll;
use crate::support::run::{Run, stable, wait_for};

const RANKS: u32 = 256;
const RANKS_PER_HOST: u32 = 8;
const STEP: Duration = Duration::from_millis(250);
const RETRY: Duration = Duration::from_millis(500);
const BEAT: Duration = Duration::from_secs(1);
/// How long heartbeats alone are taken over, where somebody measures.
const QUIET: Duration = Duration::from_secs(10);

type Client = CoordinatorClient<Channel>;
type Orders = Streaming<wire::proto::Order>;
type Error = Box<dyn std::error::Error + Send + Sync>;

/// What the ranks of a generation share by their collective operations.
struct Peers {
    url: String,
    /// Steps taken since the lineage began.
    revision: AtomicU64,
    /// The newest generation that its lead ended at a boundary.
    regrouped: watch::Sender<Generation>,
}

/// One rank, from its first word to its last.
struct SimulatedRank {
    peers: Arc<Peers>,
    member: MemberId,
    connection: u64,
    seat: Option<Seat>,
    /// The generation of its last change.
    generation: Generation,
    lineage: Option<Generation>,
    client: Client,
}

impl SimulatedRank {
    /// Lives until the coordinator hangs up or sends it away.
    async fn live(number: u32, peers: Arc<Peers>) {
        let introduction = Introduction {
            host: format!("node-{}", number / RANKS_PER_HOST),
            process: 1000 + number,
            member: None,
            attachment: Attachment::Idle,
            standing: None,
        };
        let (client, mut orders) = loop {
            match Self::join(&peers.url, &introduction).await {
                Ok(joined) => break joined,
                // As real ones do.
                Err(_) => sleep(RETRY).await,
            }
        };
        let first = orders.next().await.unwrap().unwrap();
        let Order::Welcome {
            member, connection, ..
        } = Order::try_from(first).unwrap()
        else {
            panic!("the first order is a welcome");
        };
        let mut boundary = peers.regrouped.subscribe();
        let mut rank = Self {
            peers,
            member,
            connection,
            seat: None,
            generation: Generation(0),
            lineage: None,
            client,
        };
        rank.report(Report::Idle {
            parting: None,
            standing: None,
        })
        .await;
        // Not all in the same moment.
        let phase = BEAT * (number % 97) / 97;
        let mut beats = tokio::time::interval_at(Instant::now() + phase, BEAT);
        let mut steps = tokio::time::interval(STEP);
        loop {
            tokio::select! {
                order = orders.next() => match order {
                    Some(Ok(order)) => {
                        if !rank.obey(Order::try_from(order).unwrap()).await {
                            return;
                        }
                    }
                    _ => return,
                },
                _ = beats.tick() => rank.beat().await,
                _ = steps.tick() => rank.step().await,
                _ = boundary.changed() => {
                    let ended = *boundary.borrow_and_update();
                    if rank.seat.is_some_and(|seat| seat.generation == ended) {
                        rank.part(ended, Parting::Regrouped).await;
                    }
                }
            }
        }
    }

    async fn join(url: &str, introduction: &Introduction) -> Result<(Client, Orders), Error> {
        let mut client = wire::connect(url).await?;
        let request = wire::join_request(Epoch(0), introduction);
        let orders = client.join(request).await?.into_inner();
        Ok((client, orders))
    }

    fn standing(&self) -> Option<Standing> {
        let revision = self.peers.revision.load(Ordering::Relaxed);
        self.lineage.map(|lineage| Standing {
            lineage,
            generation: self.generation,
            revision,
            step: Step(revision),
            paused: false,
            ended: None,
        })
    }

    async fn report(&mut self, report: Report) {
        let request = report.into_proto(self.member, self.connection);
        let reply = self.client.report(request).await.unwrap().into_inner();
        assert!(!reply.unknown, "it is a member");
    }

    async fn beat(&mut self) {
        let ticks = self.peers.revision.load(Ordering::Relaxed) + 1;
        let beat = Beat {
            activity: Activity::Computing,
            ticks,
            own_seconds: 0.2,
            uploads: 0,
        };
        self.report(Report::Beat(beat)).await;
    }

    /// The lead's word of a step.
    async fn step(&mut self) {
        let Some(seat) = self.seat.filter(|seat| seat.rank == Rank(0)) else {
            return;
        };
        if *self.peers.regrouped.borrow() >= seat.generation {
            return;
        }
        let step = self.peers.revision.fetch_add(1, Ordering::Relaxed) + 1;
        let line = json!({
            "step": step, "phase": "stable", "phase_kind": "stable", "loss": 2.0,
            "accuracy": 0.5, "lr": 1e-4, "mask_rate": 0.3, "first_row": 0, "rows": 1,
            "masked_tokens": 1, "step_tokens": 1, "tokens": step, "phase_tokens": step,
            "phase_length_tokens": 1_000_000_000, "next_phase": "stable",
            "next_phase_kind": "stable", "remaining_tokens": 1_000_000_000, "grad_norm": 1.0,
            "sources": {}, "seconds": STEP.as_secs_f64(), "ranks": seat.world,
            "generation": seat.generation, "tokens_per_second": 4.0,
            "data_wait_fraction": 0.0, "collective_fraction": 0.0,
        });
        let metrics = serde_json::from_value(line).unwrap();
        self.report(Report::Step(Box::new(metrics))).await;
    }

    async fn part(&mut self, generation: Generation, how: Parting) {
        self.seat = None;
        let standing = self.standing();
        self.report(Report::Idle {
            parting: Some((generation, how)),
            standing,
        })
        .await;
    }

    async fn ready(&mut self, generation: Generation) {
        self.generation = generation;
        let standing = self.standing().unwrap();
        self.report(Report::Ready {
            generation,
            standing,
        })
        .await;
    }

    /// Does as it is told; false where it is told to go.
    async fn obey(&mut self, order: Order) -> bool {
        match order {
            Order::Assign(assignment) => {
                let seat = assignment.placement.seat;
                self.seat = Some(seat);
                self.lineage = Some(assignment.placement.lineage);
                if seat.rank == Rank(0) {
                    let generation = seat.generation;
                    self.report(Report::RendezvousReady {
                        generation,
                        address: "127.0.0.1:1".to_owned(),
                    })
                    .await;
                    self.ready(generation).await;
                }
            }
            Order::Rendezvous { generation, .. } => self.ready(generation).await,
            Order::Regroup { generation } => {
                self.peers.regrouped.send_replace(generation);
            }
            Order::Abort { generation, reason } => {
                if self.seat.is_some_and(|seat| seat.generation == generation) {
                    self.part(generation, Parting::Broken { error: reason })
                        .await;
                }
            }
            Order::Dismiss { .. } => return false,
            Order::Welcome { .. } | Order::Command(_) | Order::Published { .. } => {}
        }
        true
    }
}

/// What the coordinator's process has used: seconds of processor time, and MiB at most.
fn usage(process: u32) -> (f64, u64) {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .collect();
    let ticks: u64 = fields[11..13]
        .iter()
        .map(|ticks| ticks.parse::<u64>().unwrap())
        .sum();
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = peak.unwrap().split_whitespace().next().unwrap();
    (ticks as f64 / 100.0, kib.parse::<u64>().unwrap() / 1024)
}

fn start(ranks: &mut JoinSet<()>, numbers: std::ops::Range<u32>, peers: &Arc<Peers>) {
    for number in numbers {
        ranks.spawn(SimulatedRank::live(number, Arc::clone(peers)));
    }
}

fn trains(ranks: u32) -> impl Fn(&StatusView) -> bool {
    move |view| {
        let seated = view.members.iter().filter(|member| member.rank.is_some());
        view.stage == Stage::Training && seated.count() as u32 == ranks
    }
}

/// As many as `COHORT_RANKS` says, if somebody measures.
#[expect(
    clippy::disallowed_methods,
    reason = "the number of ranks is no part of what is tested"
)]
fn ranks() -> Option<u32> {
    let count = std::env::var("COHORT_RANKS").ok()?;
    Some(count.parse().unwrap())
}

#[test]
fn one_coordinator_serves_thousands_of_ranks() {
    let (count, quiet) = match ranks() {
        Some(count) => (count, QUIET),
        None => (RANKS, BEAT * 2),
    };
    let run = Run::new(json!({
        "ranks": count,
        "batch": {"rows": count, "micro_rows": 1},
        "phases": [stable(1_000_000_000)],
    }));
    let mut coordinator = run.start(&["coordinate", run.yaml().to_str().unwrap()]);
    let url = poll("the coordinator's address", || {
        coordinator.stdout().strip_suffix('\n').map(str::to_owned)
    });
    let process = poll("the coordinator", || run.coordinator());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let peers = Arc::new(Peers {
        url,
        revision: AtomicU64::new(0),
        regrouped: watch::channel(Generation(0)).0,
    });
    let mut halves = [JoinSet::new(), JoinSet::new()];
    let _entered = runtime.enter();
    let took = |what: &str, since: Instant, before: f64| {
        let (seconds, peak) = usage(process);
        println!(
            "{what}: {:.2} s, {:.2} s of processor time, {peak} MiB at most",
            since.elapsed().as_secs_f64(),
            seconds - before
        );
        seconds
    };

    let begun = Instant::now();
    let idle = usage(process).0;
    start(&mut halves[0], 0..count / 2, &peers);
    start(&mut halves[1], count / 2..count, &peers);
    run.await_status(&mut coordinator, "all ranks train", trains(count));
    let used = took(&format!("{count} ranks join and train"), begun, idle);

    let begun = Instant::now();
    runtime.block_on(sleep(quiet));
    let used = took("heartbeats", begun, used);

    let begun = Instant::now();
    halves[0] = JoinSet::new();
    run.await_status(
        &mut coordinator,
        "half of them go on",
        trains(count - count / 2),
    );
    let used = took("half of the ranks die, the others go on", begun, used);
    // One change for all, or two where this machine closes connections slowly.
    let changes = run.generations().len() - 1;
    println!("changes of the generation: {changes}");
    assert!(changes <= 2, "{changes} changes");

    let begun = Instant::now();
    start(&mut halves[0], count..count + count / 2, &peers);
    run.await_status(&mut coordinator, "all are back", trains(count));
    took("as many come back", begun, used);
    let generations = run.generations();
    assert!(generations.len() <= 4, "a few changes for all");
    assert!(generations.iter().all(|each| each.lineage == Generation(1)));
    let journal = wait_for(journal::read(run.store())).unwrap();
    let newest = journal.generation.unwrap();
    assert_eq!(newest.members.len(), count as usize);

    for half in &mut halves {
        let ended = half.try_join_next();
        assert!(ended.is_none(), "a rank has ended: {ended:?}");
    }
    drop(halves);
    coordinator.signal("KILL");
}
