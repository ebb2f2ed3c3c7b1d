//! Starting processes: the coordinator with local ranks, the coordinator alone, ranks alone. All of
//! them run under a supervisor, which is this process.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use futures::FutureExt;
use futures::future::ready;
use rustix::process::Signal;
use tokio::process::Command;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::cli::signals::{Call, Calls};
use crate::cli::{Again, Interrupted, Reported, display, ledger, say};
use crate::config::RunConfig;
use crate::coordinator::{Commands, Coordinator, Ending};
use crate::diagnosis;
use crate::run::command::CommandKind;
use crate::run::schedule::PhaseKind;
use crate::store::Store;
use crate::store::address::CheckpointAddress;
use crate::store::checkpoint::Checkpoints;
use crate::store::error::StoreError;
use crate::store::settings::StoreSettings;
use crate::supervisor::{self, Charge, Outcome, Said};
use crate::wire;
use crate::worker;
use crate::worker::state::Exit;

/// How long ranks may take to end once the run is over.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(10);
/// Starts in a row of a process that dies soon.
const STARTS_MAX: u32 = 10;
/// The longest pauses before a process is started again. Ranks go on without a coordinator, but
/// not when another one dies.
const COORDINATOR_PAUSE_MAX: Duration = Duration::from_secs(2);
const RANK_PAUSE_MAX: Duration = Duration::from_secs(10);

/// Runs the coordinator and each rank in a process of its own.
pub(super) async fn train(run: &Path, branch: Option<CheckpointAddress>) -> Result<()> {
    let (config, _) = read(run)?;
    let (coordinator, mut said) = watch::channel(Said::default());
    let mut coordinating = tokio::spawn(keep_coordinator(
        run.to_owned(),
        branch,
        coordinator,
        config.recovery.restarts_max,
    ));
    let signals = tokio::spawn(pass_on(Calls::listen()?, said.clone()));
    let listening = said.wait_for(|said| said.url.is_some());
    let outcome = tokio::select! {
        // Where it ends before it listens, it has said why.
        Ok(_) = listening => None,
        outcome = &mut coordinating => Some(outcome??),
    };
    let mut ranks = JoinSet::new();
    let outcome = if let Some(outcome) = outcome {
        outcome
    } else {
        for _ in 0..config.ranks {
            let leave = CancellationToken::new();
            ranks.spawn(keep_rank(said.clone(), config.recovery.restarts_max, leave));
        }
        tokio::select! {
            outcome = coordinating => outcome??,
            error = ranks_given_up(&mut ranks, &said) => return Err(error),
        }
    };
    signals.abort();
    // They have been told; what they still do is to hang up.
    let farewell = async { while ranks.join_next().await.is_some() {} };
    if timeout(FAREWELL_TIMEOUT, farewell).await.is_err() {
        info!("ranks that did not end in time are killed");
    }
    drop(ranks);
    match outcome {
        Outcome::Done => display::result(&config).await,
        Outcome::Failed => Err(Reported.into()),
        Outcome::Left => Err(Interrupted.into()),
        Outcome::GivenUp => bail!(
            "the coordinator died {} times in a row\n  hint: its log says why; start the run again",
            config.recovery.restarts_max
        ),
    }
}

async fn keep_coordinator(
    run: std::path::PathBuf,
    branch: Option<CheckpointAddress>,
    said: watch::Sender<Said>,
    starts_max: u32,
) -> Result<Outcome> {
    let command = |again: bool| {
        let command = this_program().map(|mut command| {
            command.args(["coordinate", "--managed"]).arg(&run);
            if again {
                command.arg("--again");
            }
            if let Some(branch) = &branch {
                command.args(["--branch", &branch.to_string()]);
            }
            command
        });
        ready(command).boxed()
    };
    let charge = Charge {
        name: "the coordinator",
        command: &command,
        starts_max,
        back_off_max: COORDINATOR_PAUSE_MAX,
        said,
        leave: CancellationToken::new(),
    };
    supervisor::keep(charge).await
}

async fn keep_rank(
    coordinator: watch::Receiver<Said>,
    starts_max: u32,
    leave: CancellationToken,
) -> Result<Outcome> {
    let command = |_| {
        let mut coordinator = coordinator.clone();
        async move {
            // It may be about to be started again.
            let said = coordinator.wait_for(|said| said.url.is_some()).await;
            let url = said.context("the coordinator is given up")?.url.clone();
            let mut command = this_program()?;
            command.args(["work", "--managed", "--log", "warn", "--coordinator"]);
            command.arg(url.unwrap_or_default());
            Ok(command)
        }
        .boxed()
    };
    let charge = Charge {
        name: "a rank",
        command: &command,
        starts_max,
        back_off_max: RANK_PAUSE_MAX,
        said: watch::Sender::default(),
        leave,
    };
    supervisor::keep(charge).await
}

fn this_program() -> Result<Command> {
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    Ok(Command::new(program))
}

/// Waits until no rank is kept any more, and tells the coordinator, which would wait for ranks that
/// never come.
async fn ranks_given_up(
    ranks: &mut JoinSet<Result<Outcome>>,
    coordinator: &watch::Receiver<Said>,
) -> anyhow::Error {
    let mut error = None;
    let mut all_left = true;
    while let Some(ended) = ranks.join_next().await {
        all_left &= matches!(ended, Ok(Ok(Outcome::Left)));
        match ended {
            Ok(Ok(Outcome::GivenUp)) => error = Some("the ranks died too often".to_owned()),
            Ok(Ok(Outcome::Done | Outcome::Failed | Outcome::Left)) => {}
            Ok(Err(failed)) => error = Some(format!("{failed:#}")),
            Err(failed) => error = Some(failed.to_string()),
        }
    }
    if all_left {
        // Nobody comes to take their places.
        supervisor::signal(&coordinator.borrow(), Signal::TERM);
    }
    let Some(error) = error else {
        // They ended because the run does.
        return std::future::pending().await;
    };
    let url = coordinator.borrow().url.clone().unwrap_or_default();
    if let Err(failed) = wire::give_up(&url, &error).await {
        return anyhow!("{error}, and the coordinator cannot be told: {failed:#}");
    }
    std::future::pending().await
}

/// Passes signals on to the coordinator, which stops the ranks in order.
async fn pass_on(mut calls: Calls, mut coordinator: watch::Receiver<Said>) -> Result<()> {
    loop {
        let passed_on = match calls.next().await {
            Call::Stop => Signal::INT,
            Call::Leave(_) => Signal::TERM,
        };
        let listening = coordinator.wait_for(|said| said.url.is_some()).await?;
        supervisor::signal(&listening, passed_on);
    }
}

/// Turns signals into a stop: the ranks take a checkpoint and end. Where a machine is taken away
/// that has to be done in the time of grace.
async fn stop_on_signal(mut calls: Calls, commands: Commands, grace: Duration) -> Result<()> {
    loop {
        match calls.next().await {
            Call::Leave(signal) => {
                commands.warn(signal.to_owned()).await?;
                let commands = commands.clone();
                tokio::spawn(async move {
                    sleep(grace).await;
                    // It may have ended in order.
                    let _ = commands.out_of_time().await;
                });
            }
            Call::Stop => match commands.ask(CommandKind::Stop).await? {
                None => info!("stopping after this step, with a checkpoint"),
                Some(reason) => {
                    warn!(%reason, "cannot stop in order");
                    commands.fail(format!("interrupted: {reason}")).await?;
                }
            },
        }
    }
}

/// How a coordinator is started.
pub(super) struct Coordination {
    pub(super) branch: Option<CheckpointAddress>,
    /// Under a supervisor, which shows the result.
    pub(super) managed: bool,
    /// After another one has died: ranks may be training.
    pub(super) again: bool,
}

/// Runs the coordinator alone; by hand, its address is the first line on stdout.
pub(super) async fn coordinate(run: &Path, how: Coordination) -> Result<()> {
    let (config, yaml) = read(run)?;
    // What comes during the start is heard after it.
    let calls = Calls::listen()?;
    let started = Coordinator::start(config.clone(), yaml, how.branch).await;
    let coordinator = match started {
        // The ranks go on without a coordinator, and a store may work again.
        Err(error) if how.again && StoreError::may_pass(&error) => {
            warn!("{}", diagnosis::describe(&error));
            return Err(Again.into());
        }
        started => started?,
    };
    let url = coordinator.url().to_owned();
    let watching = tokio::spawn(display::follow(coordinator.status()));
    let grace = config.timeouts.grace;
    let signals = tokio::spawn(stop_on_signal(calls, coordinator.commands(), grace));
    let outcome = if how.managed {
        tokio::select! {
            outcome = coordinator.run() => outcome,
            () = supervisor::live(Some(&url)) => {
                bail!("the process that started this coordinator is gone")
            }
        }
    } else {
        say(&url)?;
        Box::pin(coordinator.run()).await
    };
    signals.abort();
    watching.await.context("the display broke")?;
    if outcome? == Ending::Interrupted {
        return Err(Interrupted.into());
    }
    if how.managed {
        return Ok(());
    }
    display::result(&config).await
}

/// Runs one rank in this process, which a supervisor watches. The code that it is left with.
pub(super) async fn work_managed(coordinator: &str) -> Result<u8> {
    let mut calls = Calls::listen()?;
    let (warn, warnings) = mpsc::channel(1);
    tokio::spawn(async move {
        loop {
            // Ctrl-C is for the supervisor, which is told of it too.
            if let Call::Leave(signal) = calls.next().await {
                // The first is enough.
                let _ = warn.try_send(signal.to_owned());
            }
        }
    });
    let exit = tokio::select! {
        exit = worker::work(coordinator, warnings) => exit?,
        () = supervisor::live(None) => return Err(anyhow!("the supervisor is gone")),
    };
    match exit {
        Exit::Dismissed { reason } => {
            info!(reason, "good-bye");
            Ok(0)
        }
        Exit::Restart { reason } => {
            info!(reason, "this process gives way to another");
            Ok(supervisor::RESTART_CODE)
        }
        Exit::Left { reason } => {
            info!(reason, "this process leaves");
            Ok(supervisor::INTERRUPTED_CODE)
        }
        Exit::Failed { error } => Err(anyhow!(error)),
    }
}

/// Runs ranks in processes of their own, and keeps them running until the run is over or the
/// machine is taken away.
pub(super) async fn work(coordinator: &str, ranks: u32) -> Result<()> {
    let mut calls = Calls::listen()?;
    let (said, place) = watch::channel(Said {
        url: Some(coordinator.to_owned()),
        ..Said::default()
    });
    let leave = CancellationToken::new();
    let mut kept = JoinSet::new();
    for _ in 0..ranks {
        kept.spawn(keep_rank(place.clone(), STARTS_MAX, leave.clone()));
    }
    let signals = tokio::spawn(async move {
        // An operator's Ctrl-C takes these ranks out of the run in the same way.
        calls.next().await;
        leave.cancel();
    });
    let mut outcomes = Vec::new();
    while let Some(ended) = kept.join_next().await {
        outcomes.push(ended.context("a rank's supervisor is lost")??);
    }
    signals.abort();
    drop(said);
    if outcomes.contains(&Outcome::GivenUp) {
        bail!(
            "a rank could not be kept running\n  \
             hint: look whether a coordinator answers at {coordinator}; its log says more"
        );
    }
    if outcomes.contains(&Outcome::Failed) {
        bail!("a rank failed\n  hint: the coordinator's log says why");
    }
    if outcomes.contains(&Outcome::Left) {
        return Err(Interrupted.into());
    }
    Ok(())
}

/// Starts a branch: checks the checkpoint, then trains from it.
pub(super) async fn branch(checkpoint: &str, run: &Path, from_decayed: bool) -> Result<()> {
    let (config, _) = read(run)?;
    let address: CheckpointAddress = checkpoint.parse().map_err(|error| anyhow!("{error}"))?;
    let settings = StoreSettings {
        url: address.run_url.clone(),
        ..config.store.clone()
    };
    let trunk = Store::open_existing(&settings)?;
    let verification = Checkpoints::new(trunk.clone()).verify(address.step).await?;
    if let Some(complaint) = verification.complaint() {
        bail!("{checkpoint} is damaged: {complaint}\n  hint: branch from another checkpoint");
    }
    let manifest = verification.manifest;
    if manifest.phase_kind == PhaseKind::Decay && !from_decayed {
        bail!(
            "{checkpoint} has decayed already (phase \"{}\"): its learning rate has been at the \
             floor\n  \
             hint: branch from a stable checkpoint, or insist with --from-decayed",
            manifest.phase
        );
    }
    if manifest.run == config.name {
        bail!(
            "{} names the run \"{}\" that the checkpoint belongs to\n  \
             hint: give the branch a name of its own",
            run.display(),
            config.name
        );
    }
    let ledger = ledger::read(&Checkpoints::new(trunk.clone()), address.step).await?;
    if ledger.first_of_branch(&config.phases).is_none() {
        bail!(
            "{checkpoint} has the phases of {} behind it\n  \
             hint: a branch begins with its first phase, or else with its first decay, if the \
             trunk has read in none of that name; the name decides which rows it reads",
            run.display()
        );
    }
    let address = CheckpointAddress {
        run_url: trunk.address().to_owned(),
        step: address.step,
    };
    Box::pin(train(run, Some(address))).await
}

fn read(run: &Path) -> Result<(RunConfig, String)> {
    let config = RunConfig::load(run)?;
    let yaml =
        std::fs::read_to_string(run).with_context(|| format!("cannot read {}", run.display()))?;
    Ok((config, yaml))
}
