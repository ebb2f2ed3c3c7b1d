//! One coordinator per run: claiming the run's newest epoch, and saying where the coordinator is.
//!
//! A live coordinator keeps its run: whoever comes second is refused with its address. A dead one
//! is succeeded by the next epoch, which fences it off from publishing.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use crate::config::RunConfig;
use crate::coordinator::journal::{self, Journal};
use crate::ids::{Epoch, Step};
use crate::run::state::Past;
use crate::store::address::CheckpointAddress;
use crate::store::checkpoint::Checkpoints;
use crate::store::epoch::{self, Claimant};
use crate::store::error::StoreError;
use crate::store::settings::StoreSettings;
use crate::store::{Store, layout};
use crate::telemetry::{StatusView, wall_clock};
use crate::wire;
use crate::wire::proto::StatusRequest;

/// How long a coordinator may take to say that it lives.
const STATUS_TIMEOUT: Duration = Duration::from_secs(5);

/// `coordinator.json` in the run's folder.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Address {
    pub url: String,
    pub epoch: Epoch,
    pub host: String,
    pub process: u32,
    pub since: String,
}

/// What a state begins from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resume {
    /// The checkpoint that the lead rank reads; none at the beginning of a run.
    pub from: Option<CheckpointAddress>,
    /// The ranks leave the checkpoint's phase for this run's first decay at once.
    pub branch: bool,
}

impl Resume {
    /// Steps taken by then, over the run's parents.
    pub fn step(&self) -> Option<Step> {
        self.from.as_ref().map(|checkpoint| checkpoint.step)
    }
}

/// A run that this process coordinates.
#[derive(Clone)]
pub struct Claim {
    /// The run's own folder in the store.
    pub store: Store,
    pub epoch: Epoch,
    pub url: String,
    /// What the run's folder is to say of this process.
    pub address: Address,
    /// The checkpoint that this run grew from.
    pub parent: Option<CheckpointAddress>,
    /// How long the run outlasts a store that fails.
    pub patience: Duration,
}

impl Claim {
    /// Claims the run that `config` names, listening at `url`.
    pub async fn take(
        config: &RunConfig,
        url: &str,
        branch: Option<CheckpointAddress>,
    ) -> Result<Self> {
        let store = Store::open(&config.store)?.child(&config.name)?;
        store.check_writable().await?;
        if refuse_second(&store, &config.name).await? {
            warn!("the run's last coordinator is gone");
        }
        let claimant = Claimant {
            started_at: wall_clock(),
            host: host_name(),
            process_id: std::process::id(),
            cohort_version: wire::VERSION.to_owned(),
        };
        let epoch = epoch::claim(&store, &claimant).await?.epoch;
        journal::seal(&store, epoch).await?;
        let address = Address {
            url: url.to_owned(),
            epoch,
            host: claimant.host,
            process: claimant.process_id,
            since: claimant.started_at,
        };
        announce(&store, &address).await?;
        let parent = branch_of(config, &store, branch).await?;
        Ok(Self {
            store,
            epoch,
            url: url.to_owned(),
            address,
            parent,
            patience: config.timeouts.store,
        })
    }

    /// What ranks that hold no state have to go on from.
    pub async fn resume(&self) -> Result<Resume> {
        let newest = newest_checkpoint(&self.store).await?;
        Ok(self.resume_from(newest))
    }

    /// The same from a checkpoint of the run, or from what the run began with.
    pub(super) fn resume_from(&self, checkpoint: Option<CheckpointAddress>) -> Resume {
        let branch = checkpoint.is_none() && self.parent.is_some();
        Resume {
            from: checkpoint.or_else(|| self.parent.clone()),
            branch,
        }
    }

    /// What the journal says of earlier lives of the run.
    pub async fn past(&self) -> Result<Past> {
        let Journal {
            commands,
            spikes,
            generation,
            newest_generation,
        } = journal::read(&self.store).await?;
        let host = host_name();
        let members = generation.iter().flat_map(|record| &record.members);
        let gone = members
            .filter(|each| each.host == host && !lives(each.process))
            .map(|each| each.member);
        Ok(Past {
            gone: gone.collect(),
            commands,
            spikes,
            generation,
            newest_generation,
        })
    }

    /// Whether no later coordinator has claimed the run.
    pub async fn is_newest(&self) -> Result<bool, StoreError> {
        epoch::is_newest(&self.store, self.epoch).await
    }

    /// Says that nobody coordinates the run any more.
    pub async fn release(&self) -> Result<()> {
        if self.is_newest().await? {
            self.store.delete(layout::COORDINATOR_FILE).await?;
        }
        Ok(())
    }
}

/// Refuses a run that is being coordinated, and a branch under the name of a run that began
/// elsewhere, writing nothing. True when the run has no checkpoint yet.
pub async fn expect_free(config: &RunConfig, branch: Option<&CheckpointAddress>) -> Result<bool> {
    let store = match Store::open_existing(&config.store) {
        Ok(store) => store.child(&config.name)?,
        Err(StoreError::NotFound { .. }) => return Ok(true),
        Err(error) => return Err(error.into()),
    };
    refuse_second(&store, &config.name).await?;
    let checkpoints = Checkpoints::new(store);
    let steps = checkpoints.steps().await?;
    if let (Some(newest), Some(branch)) = (steps.published.last(), branch)
        && checkpoints.parent().await?.is_none()
    {
        bail!(
            "run \"{}\" has checkpoints already, the newest of step {newest}, and did not begin \
             from {branch}\n  \
             hint: give the branch another name, or continue that run with `cohort train`",
            config.name
        );
    }
    Ok(steps.published.is_empty())
}

/// The address in a run's folder, if a coordinator left one.
pub async fn address(store: &Store) -> Result<Option<Address>> {
    match store.get(layout::COORDINATOR_FILE).await {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes).with_context(|| {
            format!("{} is damaged", store.url(layout::COORDINATOR_FILE))
        })?)),
        Err(StoreError::NotFound { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Makes the run's folder say where the coordinator is. One that was taken over while it claimed
/// the run may still say that it is the one, so this is to be done again now and then.
pub async fn announce(store: &Store, address: &Address) -> Result<(), StoreError> {
    let json = serde_json::to_vec_pretty(address).expect("an address is strings and numbers");
    match store.get(layout::COORDINATOR_FILE).await {
        Ok(found) if found == json => Ok(()),
        Ok(_) | Err(StoreError::NotFound { .. }) => store.put(layout::COORDINATOR_FILE, json).await,
        Err(error) => Err(error),
    }
}

/// True when a coordinator that is gone left its address.
async fn refuse_second(store: &Store, run: &str) -> Result<bool> {
    let Some(address) = address(store).await? else {
        return Ok(false);
    };
    if answers(&address, run).await {
        bail!(
            "run \"{run}\" has a coordinator already: process {} on {} at {}, since {}\n  \
             hint: look with `cohort status --run {}`, or give this run another name",
            address.process,
            address.host,
            address.url,
            address.since,
            store.address()
        );
    }
    Ok(true)
}

/// Whether the coordinator that left its address still serves the run there.
async fn answers(address: &Address, run: &str) -> bool {
    let Ok(mut client) = wire::connect(&address.url).await else {
        return false;
    };
    let request = client.status(StatusRequest {});
    let Ok(Ok(reply)) = tokio::time::timeout(STATUS_TIMEOUT, request).await else {
        return false;
    };
    serde_json::from_str::<StatusView>(&reply.into_inner().json)
        .is_ok_and(|view| view.run == run && view.epoch == address.epoch)
}

/// The newest checkpoint of the run that verifies.
async fn newest_checkpoint(store: &Store) -> Result<Option<CheckpointAddress>> {
    let newest = Checkpoints::new(store.clone()).newest_verified().await?;
    for (step, reason) in &newest.skipped {
        warn!(%step, %reason, "a newer checkpoint is damaged and passed over");
    }
    Ok(newest.found.map(|manifest| {
        info!(step = %manifest.step, "continuing from the newest checkpoint that verifies");
        CheckpointAddress {
            run_url: store.address().to_owned(),
            step: manifest.step,
        }
    }))
}

/// The checkpoint that this run is a branch of: named now, and then kept from removal for good, or
/// when the branch was made.
async fn branch_of(
    config: &RunConfig,
    store: &Store,
    named: Option<CheckpointAddress>,
) -> Result<Option<CheckpointAddress>> {
    let checkpoints = Checkpoints::new(store.clone());
    let recorded = checkpoints.parent().await?;
    match (recorded, named) {
        (Some(recorded), Some(named)) if recorded != named => bail!(
            "this run is a branch of {recorded} already, not of {named}\n  \
             hint: give the new branch another name"
        ),
        (recorded, None) => Ok(recorded),
        (_, Some(named)) => {
            let trunk = StoreSettings {
                url: named.run_url.clone(),
                ..config.store.clone()
            };
            Checkpoints::new(Store::open_existing(&trunk)?)
                .pin(named.step, &config.name, store.address())
                .await?;
            checkpoints.remember_parent(&named).await?;
            Ok(Some(named))
        }
    }
}

/// Whether a process of this machine does more than wait to be buried.
fn lives(process: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(") ").map(|(_, rest)| rest);
    state.is_some_and(|state| !state.starts_with(['Z', 'X']))
}

/// This machine's name, for people.
pub fn host_name() -> String {
    let path = PathBuf::from("/proc/sys/kernel/hostname");
    std::fs::read_to_string(path)
        .map_or_else(|_| "unknown-host".to_owned(), |name| name.trim().to_owned())
}
