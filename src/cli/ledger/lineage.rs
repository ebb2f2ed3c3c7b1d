//! Every checkpoint of a run and of those that it grew from, each with its ledger.
//!
//! A checkpoint that is damaged, or that retention removes meanwhile, is a witness too: of what is
//! in it nothing is known, and that must be said rather than end the answer.

use std::collections::BTreeSet;

use anyhow::{Result, bail};

use crate::cli::ledger::{of_trunk, read_of};
use crate::cli::operate::Place;
use crate::ids::Step;
use crate::run::ledger::{Consumed, Ledger};
use crate::store::address::CheckpointAddress;
use crate::store::checkpoint::Checkpoints;
use crate::store::error::CheckpointError;
use crate::store::manifest::CheckpointManifest;

/// Trunks of trunks that are looked into.
const ANCESTORS_MAX: usize = 16;

/// A run, and those that it grew from.
pub(super) struct Lineage {
    /// The run itself first.
    pub(super) runs: Vec<Ancestor>,
    pub(super) witnesses: Vec<Witness>,
    /// Why a run that it grew from could not be looked into. What its checkpoints hold is in the
    /// ledgers of the others all the same.
    pub(super) unreached: Option<String>,
}

pub(super) struct Ancestor {
    pub(super) checkpoints: Checkpoints,
    /// What it did after this step is not in the run.
    pub(super) last: Step,
}

/// A checkpoint and what it says.
pub(super) struct Witness {
    pub(super) checkpoints: Checkpoints,
    pub(super) step: Step,
    /// Where it cannot be read, the reason.
    pub(super) content: Result<Content, String>,
}

pub(super) struct Content {
    pub(super) manifest: CheckpointManifest,
    pub(super) ledger: Ledger,
}

/// What a checkpoint says of an institution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    With(Consumed),
    Without,
    Unknown,
}

impl Lineage {
    pub(super) async fn read(place: &Place) -> Result<Self> {
        let checkpoints = Checkpoints::new(place.store.clone());
        let mut lineage = Self {
            runs: Vec::new(),
            witnesses: Vec::new(),
            unreached: None,
        };
        let mut parent = lineage.enter(checkpoints, Step(u64::MAX)).await?;
        while let Some(trunk) = parent.filter(|_| lineage.runs.len() < ANCESTORS_MAX) {
            let entered = match of_trunk(place, &trunk) {
                Ok(checkpoints) => lineage.enter(checkpoints, trunk.step).await,
                Err(error) => Err(error),
            };
            parent = entered.unwrap_or_else(|error| {
                lineage.unreached = Some(format!("{trunk} cannot be looked into: {error:#}"));
                None
            });
        }
        if lineage.witnesses.is_empty() {
            let place = place.store.address();
            match lineage.unreached {
                Some(reason) => bail!("{place} has no checkpoint yet, and its trunk {reason}"),
                None => bail!("{place} has no checkpoint yet"),
            }
        }
        Ok(lineage)
    }

    /// Adds a run up to a step; gives the checkpoint that it grew from.
    async fn enter(
        &mut self,
        checkpoints: Checkpoints,
        last: Step,
    ) -> Result<Option<CheckpointAddress>> {
        let own = witnesses(&checkpoints, last).await?;
        let parent = parent(&checkpoints, &own).await?;
        self.witnesses.extend(own);
        self.runs.push(Ancestor { checkpoints, last });
        Ok(parent)
    }

    /// Every institution that a ledger names.
    pub(super) fn institutions(&self) -> BTreeSet<String> {
        let readable = self.witnesses.iter();
        readable
            .filter_map(|witness| witness.content.as_ref().ok())
            .flat_map(|content| content.ledger.by_institution().into_keys())
            .collect()
    }

    /// What is known of a checkpoint of one of the runs.
    pub(super) fn verdict(&self, run: &str, step: Step, institution: &str) -> Verdict {
        let mut all = self.witnesses.iter();
        let found = all
            .find(|witness| witness.step == step && witness.checkpoints.store().address() == run);
        found.map_or(Verdict::Unknown, |witness| witness.verdict(institution))
    }
}

impl Witness {
    pub(super) fn url(&self) -> String {
        self.checkpoints.url(self.step)
    }

    pub(super) fn verdict(&self, institution: &str) -> Verdict {
        match &self.content {
            Err(_) => Verdict::Unknown,
            Ok(content) => match content.ledger.by_institution().get(institution) {
                Some(consumed) if consumed.was_seen() => Verdict::With(*consumed),
                // What was skipped is not in the weights.
                Some(_) | None => Verdict::Without,
            },
        }
    }
}

/// The checkpoints of one run up to a step, oldest first.
pub(super) async fn witnesses(checkpoints: &Checkpoints, last: Step) -> Result<Vec<Witness>> {
    let mut witnesses = Vec::new();
    for step in checkpoints.steps().await?.published {
        if step > last {
            break;
        }
        let content = match content(checkpoints, step).await {
            Ok(content) => Ok(content),
            Err(CheckpointError::Unusable { reason, .. }) => Err(reason),
            Err(error) => return Err(error.into()),
        };
        witnesses.push(Witness {
            checkpoints: checkpoints.clone(),
            step,
            content,
        });
    }
    Ok(witnesses)
}

async fn content(checkpoints: &Checkpoints, step: Step) -> Result<Content, CheckpointError> {
    let manifest = checkpoints.manifest(step).await?;
    let ledger = read_of(checkpoints, &manifest).await?;
    Ok(Content { manifest, ledger })
}

/// What a run grew from, by its own record, or else by that of its checkpoints.
async fn parent(checkpoints: &Checkpoints, own: &[Witness]) -> Result<Option<CheckpointAddress>> {
    let recorded = checkpoints.parent().await;
    if let Ok(Some(parent)) = recorded {
        return Ok(Some(parent));
    }
    let mut contents = own
        .iter()
        .filter_map(|witness| witness.content.as_ref().ok());
    match contents.find_map(|content| content.manifest.parent.clone()) {
        Some(parent) => Ok(Some(parent)),
        None => Ok(recorded?),
    }
}
