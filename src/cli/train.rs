//! Starting processes: the coordinator with local ranks, the coordinator alone, ranks alone.

use std::path::Path;
use std::process::{ExitStatus, Stdio};

use anyhow::{Context, Result, anyhow, bail};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tracing::{info, warn};

use crate::cli::{display, ledger, say};
use crate::config::RunConfig;
use crate::coordinator::{Commands, Coordinator};
use crate::run::command::CommandKind;
use crate::run::schedule::PhaseKind;
use crate::store::Store;
use crate::store::address::CheckpointAddress;
use crate::store::checkpoint::Checkpoints;
use crate::store::settings::StoreSettings;
use crate::worker;

/// Runs the coordinator in this process and each rank in one of its own.
pub(super) async fn train(run: &Path, branch: Option<CheckpointAddress>) -> Result<()> {
    let (config, yaml) = read(run)?;
    let coordinator = Coordinator::start(config.clone(), yaml, branch).await?;
    let commands = coordinator.commands();
    let mut ranks = JoinSet::new();
    for _ in 0..config.ranks {
        let mut child = spawn_rank(coordinator.url())?;
        ranks.spawn(async move { child.wait().await });
    }
    let watching = tokio::spawn(display::follow(coordinator.status()));
    let signals = tokio::spawn(stop_on_signal(commands.clone()));
    let deaths = tokio::spawn(watch_ranks(ranks, commands));
    let outcome = coordinator.run().await;
    signals.abort();
    // The ranks have been told; what they still do is to hang up.
    deaths.await.context("the ranks' watcher broke")?;
    watching.await.context("the display broke")?;
    outcome?;
    display::result(&config).await
}

/// Reports a rank that ends before it could join; the coordinator sees later deaths itself.
async fn watch_ranks(mut ranks: JoinSet<std::io::Result<ExitStatus>>, commands: Commands) {
    while let Some(ended) = ranks.join_next().await {
        let problem = match ended {
            Ok(Ok(status)) if status.success() => continue,
            Ok(Ok(status)) => format!("a rank's process ended: {status}"),
            Ok(Err(error)) => format!("a rank's process is lost: {error}"),
            Err(error) => format!("a rank's process is lost: {error}"),
        };
        // A run that is over does not listen any more.
        let _ = commands.fail(problem).await;
    }
}

fn spawn_rank(coordinator: &str) -> Result<Child> {
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    Command::new(&program)
        .args([
            "work",
            "--managed",
            "--coordinator",
            coordinator,
            "--log",
            "warn",
        ])
        .stdin(Stdio::null())
        // Ctrl-C is for the coordinator, which stops the ranks in order.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("cannot start a rank ({})", program.display()))
}

/// Turns Ctrl-C and SIGTERM into a stop: the ranks take a checkpoint and end.
async fn stop_on_signal(commands: Commands) -> Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    loop {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        match commands.ask(CommandKind::Stop).await? {
            None => info!("stopping after this step, with a checkpoint"),
            Some(reason) => {
                warn!(%reason, "cannot stop in order");
                commands.fail(format!("interrupted: {reason}")).await?;
            }
        }
    }
}

/// Runs the coordinator alone; its address is the only line on stdout.
pub(super) async fn coordinate(run: &Path) -> Result<()> {
    let (config, yaml) = read(run)?;
    let coordinator = Coordinator::start(config.clone(), yaml, None).await?;
    say(coordinator.url())?;
    let watching = tokio::spawn(display::follow(coordinator.status()));
    let signals = tokio::spawn(stop_on_signal(coordinator.commands()));
    let outcome = coordinator.run().await;
    signals.abort();
    watching.await.context("the display broke")?;
    outcome?;
    display::result(&config).await
}

/// Runs one rank in this process, or several in processes of their own.
pub(super) async fn work(coordinator: &str, ranks: u32) -> Result<()> {
    if ranks == 1 {
        return worker::work(coordinator).await;
    }
    let mut children = JoinSet::new();
    for _ in 0..ranks {
        let mut child = spawn_rank(coordinator)?;
        children.spawn(async move { child.wait().await });
    }
    while let Some(ended) = children.join_next().await {
        let status = ended?.context("a rank's process is lost")?;
        if !status.success() {
            bail!("a rank's process ended: {status}\n  hint: the coordinator's log says why");
        }
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
