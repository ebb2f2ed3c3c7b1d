//! Branches, from both sides: the pin that keeps a branch's parent in its trunk, and the parent
//! that a branch remembers.
//!
//! A pin is there before the branch's first step, and stays.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::ids::Step;
use crate::store::address::CheckpointAddress;
use crate::store::checkpoint::Checkpoints;
use crate::store::error::{CheckpointError, StoreError};
use crate::store::layout;

/// A branch that grew from a checkpoint, as its trunk knows it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pin {
    pub step: Step,
    /// The branch's name.
    pub branch: String,
}

/// What a pin says.
#[derive(Debug, Default, Serialize, Deserialize)]
struct PinRecord {
    /// The branch's folder in its store. Early pins say nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    run_url: Option<String>,
}

impl Checkpoints {
    /// Marks a checkpoint as the parent of the branch in `run_url`, which keeps it from deletion.
    /// The checkpoint must be published.
    pub async fn pin(
        &self,
        step: Step,
        branch: &str,
        run_url: &str,
    ) -> Result<(), CheckpointError> {
        if !layout::plain_name(branch) {
            return Err(CheckpointError::Store(StoreError::invalid(
                format!("{branch:?} is no name for a branch"),
                "use letters, digits, `.`, `-` and `_`",
            )));
        }
        let record = PinRecord {
            run_url: Some(run_url.to_owned()),
        };
        let text = serde_json::to_vec(&record).expect("a pin is made of texts");
        self.store()
            .put_proven(&layout::pin(step, branch), text)
            .await?;
        // Looked at after the mark is set: a deletion at the same moment sees the mark and gives
        // the manifest back, or has taken it already.
        self.manifest(step).await.map(drop)
    }

    /// Every branch that grows from a checkpoint of this run, by step and name.
    pub async fn pins(&self) -> Result<Vec<Pin>, StoreError> {
        let objects = self.store().list(layout::PINS_FOLDER).await?;
        let parsed = objects
            .iter()
            .filter_map(|object| layout::parse_pin(&object.key));
        let mut pins: Vec<Pin> = parsed
            .map(|(step, branch)| Pin {
                step,
                branch: branch.to_owned(),
            })
            .collect();
        pins.sort_unstable();
        Ok(pins)
    }

    /// The folder of a branch, where its pin says it.
    pub async fn branch_url(&self, pin: &Pin) -> Result<Option<String>, StoreError> {
        let text = match self.store().get(&layout::pin(pin.step, &pin.branch)).await {
            Ok(text) => text,
            Err(StoreError::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let record: PinRecord = serde_json::from_slice(&text).unwrap_or_default();
        Ok(record.run_url)
    }

    /// The steps that branches grow from.
    pub async fn branch_parents(&self) -> Result<BTreeSet<Step>, StoreError> {
        let pins = self.pins().await?;
        Ok(pins.into_iter().map(|pin| pin.step).collect())
    }

    /// The checkpoint that this run grew from; nothing where it is no branch.
    pub async fn parent(&self) -> Result<Option<CheckpointAddress>, StoreError> {
        let text = match self.store().get(layout::BRANCH_FILE).await {
            Ok(text) => text,
            Err(StoreError::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        match serde_json::from_slice(&text) {
            Ok(parent) => Ok(Some(parent)),
            Err(error) => Err(StoreError::invalid(
                format!(
                    "{} is damaged: {error}",
                    self.store().url(layout::BRANCH_FILE)
                ),
                "write into it again which checkpoint the branch grew from; every checkpoint of \
                 the branch has it as `parent`",
            )),
        }
    }

    /// Writes down which checkpoint this run grows from.
    pub async fn remember_parent(&self, parent: &CheckpointAddress) -> Result<(), StoreError> {
        let text = serde_json::to_vec_pretty(parent).expect("an address is made of texts");
        self.store().put_proven(layout::BRANCH_FILE, text).await
    }
}
