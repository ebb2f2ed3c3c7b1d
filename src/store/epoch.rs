//! Which coordinator may commit: the one that claimed the highest epoch.
//!
//! An epoch is claimed by creating its numbered object, which one writer alone can do on every
//! store (the local file system has no conditional update, only a conditional create). Epochs only
//! grow, and a claim is never deleted. A coordinator that lost its epoch learns it at its next
//! commit and must stop.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::ids::Epoch;
use crate::store::error::StoreError;
use crate::store::{Store, layout};

/// Coordinators that may start at the same moment. Each lost attempt means that another one won.
const CLAIM_ATTEMPTS_MAX: u32 = 32;

/// Who claims an epoch. No two claims may be equal: `started_at` needs its fractions of a second.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claimant {
    /// RFC 3339, UTC.
    pub started_at: String,
    pub host: String,
    pub process_id: u32,
    pub cohort_version: String,
}

/// The content of `journal/epoch-00000007.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EpochRecord {
    pub epoch: Epoch,
    #[serde(flatten)]
    pub claimant: Claimant,
}

#[derive(Debug, Error)]
pub enum EpochError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(
        "no epoch could be claimed at {address} in {attempts} attempts\n  \
         hint: other coordinators of this run keep starting; stop all but one"
    )]
    Contended { address: String, attempts: u32 },
}

/// Claims the epoch after the newest, which fences off every coordinator before.
pub async fn claim(store: &Store, claimant: &Claimant) -> Result<EpochRecord, EpochError> {
    for _ in 0..CLAIM_ATTEMPTS_MAX {
        let next = newest(store)
            .await?
            .map_or(Epoch(1), |newest| Epoch(newest.0 + 1));
        let record = EpochRecord {
            epoch: next,
            claimant: claimant.clone(),
        };
        let text = serde_json::to_vec_pretty(&record).expect("a record of strings and numbers");
        let key = layout::epoch(next);
        match store.put_new(&key, text).await {
            Ok(()) => return Ok(record),
            Err(StoreError::AlreadyExists { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(EpochError::Contended {
        address: store.address().to_owned(),
        attempts: CLAIM_ATTEMPTS_MAX,
    })
}

/// The highest epoch that was claimed, or nothing before the first.
pub async fn newest(store: &Store) -> Result<Option<Epoch>, StoreError> {
    let objects = store.list_here(layout::JOURNAL_FOLDER).await?;
    Ok(objects
        .iter()
        .filter_map(|object| layout::parse_epoch(&object.key))
        .max())
}

/// Whether nobody claimed an epoch after this one.
pub async fn is_newest(store: &Store, epoch: Epoch) -> Result<bool, StoreError> {
    Ok(newest(store).await? == Some(epoch))
}
