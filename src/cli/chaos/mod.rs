//! `cohort chaos`: a drill on a live run. Its processes on this machine are killed, stopped and cut
//! off on a schedule from a seed, and the run is judged by how it goes on.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use clap::{Args, ValueEnum};
use rustix::process::Signal;
use tokio::time::{Instant, sleep};

use crate::cli::table::{Table, grouped};
use crate::cli::{operate, say};
use crate::coordinator::claim::host_name;
use crate::corpus::random::{below, keyed_number};
use crate::ids::{Epoch, Generation, Rank, Step};
use crate::run::goodput::Cause;
use crate::run::state::{Place, Stage};
use crate::telemetry::StatusView;

mod process;

/// How often the run is looked at while it recovers.
const LOOK: Duration = Duration::from_millis(5);
/// How long a coordinator is stopped.
const STANDSTILL: Duration = Duration::from_secs(5);

#[derive(Args, Debug)]
pub(super) struct ChaosArguments {
    /// The run's folder or URL, its YAML, or its coordinator's `http://` address.
    #[arg(long = "run", value_name = "RUN")]
    run: String,
    /// The run's name, once more: its processes will be killed.
    #[arg(long)]
    name: String,
    /// How many faults there are.
    #[arg(long, default_value_t = 20)]
    faults: u32,
    /// The same schedule for the same number.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The mean time from the first step after a fault to the next fault.
    #[arg(long, default_value = "3s", value_parser = humantime::parse_duration)]
    every: Duration,
    /// How long the run may take to its next step.
    #[arg(long, default_value = "1m", value_parser = humantime::parse_duration)]
    limit: Duration,
    /// Only these kinds of faults; without it, all but cut-rank, which needs root.
    #[arg(long, value_delimiter = ',')]
    only: Vec<Kind>,
}

/// What is done to a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
enum Kind {
    /// SIGKILL to a rank.
    KillRank,
    /// SIGKILL to the lead rank.
    KillLead,
    /// SIGSTOP to a rank, for good.
    StopRank,
    /// An end to all TCP connections of a rank.
    CutRank,
    /// SIGKILL to the coordinator.
    KillCoordinator,
    /// SIGSTOP to the coordinator, for five seconds.
    StopCoordinator,
}

impl Kind {
    const BY_DEFAULT: [Self; 5] = [
        Self::KillRank,
        Self::KillLead,
        Self::StopRank,
        Self::KillCoordinator,
        Self::StopCoordinator,
    ];

    fn words(self) -> &'static str {
        match self {
            Self::KillRank => "a rank killed",
            Self::KillLead => "the lead rank killed",
            Self::StopRank => "a rank stopped",
            Self::CutRank => "a rank cut off",
            Self::KillCoordinator => "the coordinator killed",
            Self::StopCoordinator => "the coordinator stopped",
        }
    }
}

/// What came of one fault. Times in seconds.
#[derive(Clone, Copy, Debug)]
struct Outcome {
    kind: Kind,
    /// Until the coordinator, or another one, knew of it; nothing where the run needed not to.
    found: Option<f64>,
    /// Until the next step.
    next_step: f64,
    /// Steps that were taken again.
    lost: u64,
}

/// Where a run stood when something was done to it.
struct Before {
    epoch: Epoch,
    generation: Generation,
    step: Step,
}

/// Runs the drill. An error where the run does not go on as it must.
pub(super) async fn chaos(arguments: &ChaosArguments) -> Result<()> {
    let first = look(&arguments.run).await?;
    ensure!(
        first.run == arguments.name,
        "the run at {} is \"{}\", not \"{}\"\n  \
         hint: say its name with --name; its processes will be killed, so make sure that it is a \
         run for drills",
        arguments.run,
        first.run,
        arguments.name
    );
    let mut outcomes = Vec::new();
    for number in 0..arguments.faults {
        let word = |purpose| keyed_number(arguments.seed, purpose, &[number.into()]);
        let every = arguments.every.as_millis() as u64;
        sleep(Duration::from_millis(
            every / 2 + below(word("pause"), every + 1),
        ))
        .await;
        let Some(view) = live(arguments).await? else {
            say(&format!("the run ended before fault {}", number + 1))?;
            break;
        };
        let kinds = if arguments.only.is_empty() {
            Kind::BY_DEFAULT.as_slice()
        } else {
            &arguments.only
        };
        let kind = kinds[below(word("kind"), kinds.len() as u64) as usize];
        let victim = victim(&view, kind, word("victim"))?;
        say(&format!(
            "fault {} of {}: {} (process {victim}) after step {}",
            number + 1,
            arguments.faults,
            kind.words(),
            step(&view)
        ))?;
        outcomes.push(strike(arguments, &view, (kind, victim)).await?);
    }
    judge(arguments, &outcomes).await
}

async fn look(run: &str) -> Result<StatusView> {
    let mut client = operate::coordinator(run).await?;
    operate::view(&mut client).await
}

/// The run once it trains; nothing when it is over.
async fn live(arguments: &ChaosArguments) -> Result<Option<StatusView>> {
    let since = Instant::now();
    loop {
        let found = look(&arguments.run).await;
        match found {
            Ok(view) if view.stage == Stage::Training => return Ok(Some(view)),
            Ok(view) if view.stage == Stage::Ending || view.stage.is_over() => return Ok(None),
            Ok(view) if since.elapsed() > arguments.limit => bail!(
                "the run does not train for {} s: {}",
                arguments.limit.as_secs(),
                view.reason
            ),
            Err(error) if since.elapsed() > arguments.limit => return Err(error),
            Ok(_) | Err(_) => sleep(LOOK).await,
        }
    }
}

fn step(view: &StatusView) -> Step {
    view.last_step.as_ref().map_or(Step(0), |last| last.step)
}

fn victim(view: &StatusView, kind: Kind, word: u64) -> Result<u32> {
    let host = host_name();
    let here = |other: &str| -> Result<()> {
        ensure!(
            other == host,
            "that process runs on {other}, and this is {host}\n  hint: run the drill there"
        );
        Ok(())
    };
    match kind {
        Kind::KillCoordinator | Kind::StopCoordinator => {
            here(&view.host)?;
            Ok(view.process)
        }
        Kind::KillRank | Kind::KillLead | Kind::StopRank | Kind::CutRank => {
            let ranks: Vec<_> = view
                .members
                .iter()
                .filter(|member| member.place == Place::Working)
                .filter(|member| kind != Kind::KillLead || member.rank == Some(Rank(0)))
                .filter(|member| member.host == host)
                .collect();
            ensure!(!ranks.is_empty(), "no rank of the run works on {host}");
            Ok(ranks[below(word, ranks.len() as u64) as usize].process)
        }
    }
}

async fn strike(
    arguments: &ChaosArguments,
    view: &StatusView,
    (kind, victim): (Kind, u32),
) -> Result<Outcome> {
    let before = Before {
        epoch: view.epoch,
        generation: view.generation,
        step: step(view),
    };
    let struck = Instant::now();
    match kind {
        Kind::KillRank | Kind::KillLead | Kind::KillCoordinator => {
            process::signal(victim, Signal::KILL)?;
        }
        Kind::StopRank => process::signal(victim, Signal::STOP)?,
        Kind::CutRank => {
            process::cut(victim)?;
        }
        Kind::StopCoordinator => {
            process::signal(victim, Signal::STOP)?;
            sleep(STANDSTILL).await;
            process::signal(victim, Signal::CONT)?;
        }
    }
    recover(arguments, kind, before, struck).await
}

/// Looks until the run knows of the fault, where it has to, and is a step further.
async fn recover(
    arguments: &ChaosArguments,
    kind: Kind,
    before: Before,
    struck: Instant,
) -> Result<Outcome> {
    let must_find = kind != Kind::StopCoordinator;
    let mut found = None;
    let mut lowest = before.step;
    loop {
        let now = look(&arguments.run).await.ok();
        let elapsed = struck.elapsed();
        if let Some(view) = &now {
            let is_new = view.generation > before.generation || view.epoch > before.epoch;
            if is_new && found.is_none() {
                found = Some(elapsed.as_secs_f64());
            }
            if let Some(newest) = &view.last_step
                && newest.generation > before.generation
            {
                lowest = lowest.min(Step(newest.step.0.saturating_sub(1)));
            }
            let goes_on = step(view) > before.step || view.stage.is_over();
            if goes_on && (found.is_some() || !must_find) {
                return Ok(Outcome {
                    kind,
                    found,
                    next_step: elapsed.as_secs_f64(),
                    lost: before.step.0 - lowest.0,
                });
            }
        }
        ensure!(
            elapsed <= arguments.limit,
            "no step after {} for {} s: {}",
            kind.words(),
            arguments.limit.as_secs(),
            now.map_or_else(|| "no coordinator answers".to_owned(), |view| view.reason)
        );
        sleep(LOOK).await;
    }
}

/// Shows what came of it all, and says whether the run is as it must be.
async fn judge(arguments: &ChaosArguments, outcomes: &[Outcome]) -> Result<()> {
    let mut by_kind: BTreeMap<Kind, Vec<&Outcome>> = BTreeMap::new();
    for outcome in outcomes {
        by_kind.entry(outcome.kind).or_default().push(outcome);
    }
    let mut table = Table::new([
        "fault",
        "times",
        "found after",
        "worst",
        "next step after",
        "worst",
        "steps again",
    ]);
    for (kind, of_kind) in by_kind {
        let found = spread(of_kind.iter().filter_map(|outcome| outcome.found).collect());
        let next = spread(of_kind.iter().map(|outcome| outcome.next_step).collect());
        let lost = of_kind.iter().map(|outcome| outcome.lost).max();
        table.row(vec![
            kind.words().to_owned(),
            of_kind.len().to_string(),
            found.0,
            found.1,
            next.0,
            next.1,
            grouped(lost.unwrap_or_default()),
        ]);
    }
    say(&table.render())?;
    let Ok(view) = look(&arguments.run).await else {
        return say("the run is over; look at its last words");
    };
    let again = view.account.seconds.get(&Cause::Redone);
    say(&format!(
        "{} of {} faults; the run stands at step {}, generation {}, epoch {}; goodput {:.1} %, \
         {:.1} s of steps taken again",
        outcomes.len(),
        arguments.faults,
        step(&view),
        view.generation,
        view.epoch,
        view.account.goodput() * 100.0,
        again.copied().unwrap_or_default()
    ))?;
    ensure!(
        view.stage != Stage::Failed,
        "the run failed: {}",
        view.reason
    );
    Ok(())
}

/// The median and the worst, in seconds.
fn spread(mut seconds: Vec<f64>) -> (String, String) {
    seconds.sort_by(f64::total_cmp);
    let show = |seconds: Option<&f64>| {
        seconds.map_or("–".to_owned(), |seconds| format!("{seconds:.3} s"))
    };
    (show(seconds.get(seconds.len() / 2)), show(seconds.last()))
}
