//! Operating a running run from another terminal: finding its coordinator, asking, waiting.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use tokio::time::Instant;
use tonic::transport::Channel;

use crate::cli::say;
use crate::cli::table::{Table, counted, grouped, span};
use crate::config::RunConfig;
use crate::coordinator::claim;
use crate::ids::CommandId;
use crate::run::command::{Command, CommandKind, CommandStage};
use crate::run::goodput::Cause;
use crate::run::spike::{Handling, Spike};
use crate::store::Store;
use crate::store::checkpoint::Checkpoints;
use crate::store::error::StoreError;
use crate::store::settings::StoreSettings;
use crate::telemetry::{StatusView, StepMetrics};
use crate::wire;
use crate::wire::proto::coordinator_client::CoordinatorClient;
use crate::wire::proto::{CommandRequest, StatusRequest};

/// How long a command may take to reach a step boundary before the wait is given up; the command
/// stands all the same.
const APPLY_TIMEOUT: Duration = Duration::from_mins(10);
const POLL_INTERVAL: Duration = Duration::from_millis(200);
/// How long a coordinator may take to answer.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// A run as an operator names it.
pub(super) enum Located {
    /// The coordinator's own address.
    Address(String),
    Folder(Box<Place>),
}

/// A run that need not be running.
pub(super) struct Place {
    pub(super) store: Store,
    /// How that store is reached; other runs are reached alike.
    pub(super) settings: StoreSettings,
    /// What the run was named by, where that was its YAML.
    pub(super) yaml: Option<RunConfig>,
}

impl Place {
    /// Opens the folder of another run in the same way as this one's.
    pub(super) fn other(&self, run_url: &str) -> Result<Store, StoreError> {
        Store::open_existing(&StoreSettings {
            url: run_url.to_owned(),
            ..self.settings.clone()
        })
    }
}

/// Takes a coordinator's `http://` address, a run's YAML, or a run's folder or URL.
pub(super) fn locate(run: &str) -> Result<Located> {
    if run.starts_with("http://") || run.starts_with("https://") {
        return Ok(Located::Address(run.to_owned()));
    }
    let path = Path::new(run);
    let is_yaml = path
        .extension()
        .is_some_and(|extension| extension == "yaml" || extension == "yml");
    let place = if is_yaml && path.is_file() {
        let config = RunConfig::load(path)?;
        let store = Store::open_existing(&config.store)
            .and_then(|store| store.child(&config.name))
            .map_err(|_| no_run(&format!("{}/{}", config.store.url, config.name)))?;
        Place {
            store,
            settings: config.store.clone(),
            yaml: Some(config),
        }
    } else {
        let settings = StoreSettings::at(run);
        Place {
            store: Store::open_existing(&settings).map_err(|_| no_run(run))?,
            settings,
            yaml: None,
        }
    };
    Ok(Located::Folder(Box::new(place)))
}

fn no_run(place: &str) -> anyhow::Error {
    anyhow!(
        "there is no run at {place}\n  \
         hint: name the run's folder, its YAML, or its coordinator's http:// address"
    )
}

/// The folder of a run that need not be running.
pub(super) fn folder(run: &str) -> Result<Store> {
    Ok(place(run)?.store)
}

/// A run that need not be running, and how it is reached.
pub(super) fn place(run: &str) -> Result<Place> {
    match locate(run)? {
        Located::Folder(place) => Ok(*place),
        Located::Address(url) => {
            bail!("{url} is a coordinator\n  hint: name the run's folder or URL, or its YAML")
        }
    }
}

pub(super) async fn coordinator(run: &str) -> Result<CoordinatorClient<Channel>> {
    let (url, place) = match locate(run)? {
        Located::Address(url) => (url.clone(), url),
        Located::Folder(found) => {
            let store = found.store;
            let place = store.address().to_owned();
            match claim::address(&store).await? {
                Some(address) => (address.url, place),
                None if is_run(&store).await? => bail!(
                    "the run at {place} is not running\n  \
                     hint: continue it with `cohort train RUN.yaml`"
                ),
                None => return Err(no_run(&place)),
            }
        }
    };
    wire::connect(&url).await.map_err(|_| {
        anyhow!(
            "the coordinator of {place} does not answer at {url}\n  \
             hint: it may have died; continue the run with `cohort train RUN.yaml`"
        )
    })
}

async fn is_run(store: &Store) -> Result<bool> {
    Ok(store.exists(crate::store::layout::RUN_FILE).await?)
}

pub(super) async fn view(client: &mut CoordinatorClient<Channel>) -> Result<StatusView> {
    let reply = tokio::time::timeout(CALL_TIMEOUT, client.status(StatusRequest {}))
        .await
        .context("the coordinator does not answer")?
        .map_err(|status| anyhow!("the coordinator has no status: {}", status.message()))?;
    serde_json::from_str(&reply.into_inner().json).context("the coordinator's status is malformed")
}

pub(super) async fn status(run: &str, json: bool) -> Result<()> {
    let view = match coordinator(run).await {
        Ok(mut client) => view(&mut client).await?,
        Err(error) => {
            // A run that is not running still has checkpoints to speak of.
            let Ok(Located::Folder(place)) = locate(run) else {
                return Err(error);
            };
            let store = place.store;
            if json || !is_run(&store).await? {
                return Err(error);
            }
            let newest = Checkpoints::new(store)
                .steps()
                .await?
                .published
                .last()
                .copied();
            let newest = newest.map_or("none".to_owned(), |step| format!("step {step}"));
            return say(&format!("not running; newest checkpoint: {newest}"));
        }
    };
    if json {
        say(&serde_json::to_string_pretty(&view)?)
    } else {
        say(&describe(&view))
    }
}

/// The newest step of a running run; nothing before the first, or when the run does not answer.
pub(super) async fn newest_step(run: &str) -> Option<StepMetrics> {
    let mut client = coordinator(run).await.ok()?;
    view(&mut client).await.ok()?.last_step
}

fn describe(view: &StatusView) -> String {
    let stage = serde_json::to_value(&view.stage).ok();
    let stage = stage
        .as_ref()
        .and_then(serde_json::Value::as_str)
        .unwrap_or_default();
    let mut lines = vec![
        format!("run         {}", view.run),
        format!("stage       {stage}: {}", view.reason),
        format!(
            "ranks       {} (generation {})",
            view.members.len(),
            view.generation
        ),
    ];
    if let Some(step) = &view.last_step {
        lines.push(format!(
            "step        {} in phase \"{}\" ({} of {} tokens)",
            step.step,
            step.phase,
            grouped(step.phase_tokens),
            grouped(step.phase_length_tokens)
        ));
        lines.push(format!(
            "loss        {:.4}, accuracy {:.4}, learning rate {:.3e}, mask rate {}",
            step.loss, step.accuracy, step.learning_rate, step.mask_rate
        ));
        lines.push(format!(
            "speed       {} tokens/s; {:.1} % waiting for data, {:.1} % in collectives",
            grouped(step.tokens_per_second as u64),
            step.data_wait_fraction * 100.0,
            step.collective_fraction * 100.0
        ));
    }
    if let (Some(tokens), Some(seconds)) = (view.remaining_tokens, view.seconds_left) {
        lines.push(format!(
            "left        {} tokens, about {}",
            grouped(tokens),
            span(seconds)
        ));
    }
    lines.extend(goodput(view));
    let checkpoint = view
        .last_checkpoint
        .map_or("none yet".to_owned(), |step| format!("step {step}"));
    lines.push(format!(
        "checkpoint  {checkpoint} in {}",
        view.checkpoints_url
    ));
    lines.extend(spikes(&view.spikes));
    if let Some(trouble) = &view.store_fails {
        let first = trouble.lines().next().unwrap_or_default();
        lines.push(format!("store       {first}"));
    }
    if !view.commands.is_empty() {
        let mut table = Table::new(["command", "what", "state"]);
        for record in &view.commands {
            let became = match &record.stage {
                CommandStage::Accepted => "waiting for the next step".to_owned(),
                CommandStage::Applied { step } => format!("applied after step {step}"),
                CommandStage::Refused { reason } => format!("refused: {reason}"),
            };
            let verb = record.command.kind.verb().to_owned();
            table.row(vec![record.command.id.to_string(), verb, became]);
        }
        lines.push(table.render());
    }
    lines.join("\n")
}

/// How many steps were told, skipped and gone back from, and the newest of them.
fn spikes(spikes: &[Spike]) -> Vec<String> {
    let Some(newest) = spikes.last() else {
        return Vec::new();
    };
    let count = |what: fn(&Handling) -> bool| {
        let of_kind = spikes.iter().filter(|spike| what(&spike.handling));
        of_kind.count() as u64
    };
    let mut counts = Vec::new();
    for (count, word) in [
        (count(|how| *how == Handling::Warned), "told"),
        (count(|how| *how == Handling::Skipped), "skipped"),
        (
            count(|how| matches!(how, Handling::WentBack { .. })),
            "gone back from",
        ),
    ] {
        if count > 0 {
            counts.push(format!("{} {word}", counted(count, "step")));
        }
    }
    vec![
        format!("spikes      {}; the newest:", counts.join(", ")),
        format!("            {newest}"),
    ]
}

/// Where the time went, the longest first, and how the last recovery went.
fn goodput(view: &StatusView) -> Vec<String> {
    let total = view.account.total();
    if total <= 0.0 {
        return Vec::new();
    }
    let mut parts: Vec<(Cause, f64)> = view.account.seconds.clone().into_iter().collect();
    parts.sort_by(|(_, one), (_, other)| other.total_cmp(one));
    let parts = parts
        .iter()
        .map(|(cause, seconds)| format!("{} {:.1} %", cause.words(), seconds / total * 100.0));
    let mut lines = vec![format!(
        "time        {}: {}",
        span(total),
        parts.collect::<Vec<_>>().join(", ")
    )];
    if let Some(recovery) = &view.last_recovery {
        lines.push(format!("recovery    {}", recovery.describe()));
    }
    lines
}

/// Gives a command and waits until the ranks have applied it.
pub(super) async fn command(run: &str, kind: CommandKind) -> Result<()> {
    let mut client = coordinator(run).await?;
    let verb = kind.verb();
    let request = CommandRequest {
        command: Some(
            Command {
                id: CommandId(0),
                kind,
            }
            .into(),
        ),
    };
    let reply = tokio::time::timeout(CALL_TIMEOUT, client.submit(request))
        .await
        .context("the coordinator does not answer")?
        .map_err(|status| anyhow!("{verb} was not taken: {}", status.message()))?
        .into_inner();
    if let Some(reason) = reply.refused {
        bail!("{verb} refused: {reason}");
    }
    let id = CommandId(reply.id);
    let deadline = Instant::now() + APPLY_TIMEOUT;
    while Instant::now() < deadline {
        let Ok(view) = view(&mut client).await else {
            // The coordinator of a stopped or finished run goes away.
            return say(&format!(
                "{verb} accepted as command {id}; the run has ended"
            ));
        };
        match view
            .commands
            .into_iter()
            .find(|record| record.command.id == id)
        {
            Some(record) => match record.stage {
                CommandStage::Applied { step } => {
                    return say(&format!(
                        "{verb} took effect after step {step} (command {id})"
                    ));
                }
                CommandStage::Refused { reason } => bail!("{verb} refused: {reason}"),
                CommandStage::Accepted => {}
            },
            None => bail!("the coordinator does not know command {id} any more"),
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    say(&format!(
        "{verb} accepted as command {id}; no step ended within {} s, it takes effect when one does",
        APPLY_TIMEOUT.as_secs()
    ))
}
