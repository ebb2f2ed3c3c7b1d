//! Trying a store before a run relies on it.

use std::hash::{BuildHasher, Hasher, RandomState};

use bytes::Bytes;
use futures::future::join_all;

use crate::store::error::StoreError;
use crate::store::{Store, layout};

/// Creates of one object at the same moment. A server that looks first and writes later shows it
/// with a few already.
const RIVALS: usize = 8;

impl Store {
    /// Proves at the start of a run what it relies on to its end: that objects can be written here,
    /// read back, listed and deleted, and that of several creates of one object a single one
    /// succeeds. Some servers ignore the condition of a create, or hold it only if nobody else
    /// writes at that moment; with them two coordinators could both commit.
    pub async fn check_writable(&self) -> Result<(), StoreError> {
        // Only the name must differ from that of a process that probes at the same moment.
        let unique = RandomState::new().build_hasher().finish();
        let key = layout::probe(unique);
        let tried = self.try_with(&key).await;
        let deleted = self.delete_proven(&key).await;
        tried.and(deleted)
    }

    async fn try_with(&self, key: &str) -> Result<(), StoreError> {
        let first = self.try_rivals(key).await?;
        let second = self.create(key, bytes_of(RIVALS).into()).await;
        let kept = self.get(key).await? == first;
        match (second, kept) {
            (Err(StoreError::AlreadyExists { .. }), true) => {}
            (Ok(()), false) => return Err(self.unfit("lets a create overwrite what exists")),
            (Ok(()), true) => {
                return Err(self.unfit("says that it created an object that exists already"));
            }
            (Err(StoreError::AlreadyExists { .. }), false) => {
                return Err(self.unfit("refuses to create what exists, and overwrites it"));
            }
            (Err(error), _) => return Err(error),
        }
        let listed = self.list_here("").await?;
        if listed.iter().any(|object| object.key == key) {
            return Ok(());
        }
        Err(StoreError::invalid(
            format!(
                "the store {} does not list what was just written",
                self.address
            ),
            "what a run has is found by listing: use a store that lists every write at once",
        ))
    }

    /// Creates an object several times at once; what it then holds.
    async fn try_rivals(&self, key: &str) -> Result<Bytes, StoreError> {
        let rivals = (0..RIVALS).map(|rival| self.create(key, bytes_of(rival).into()));
        let mut winners = Vec::new();
        for (rival, outcome) in join_all(rivals).await.into_iter().enumerate() {
            match outcome {
                Ok(()) => winners.push(rival),
                Err(StoreError::AlreadyExists { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        match (self.get(key).await, &winners[..]) {
            (Ok(found), [winner]) if found == bytes_of(*winner) => Ok(found),
            // The winner's answer was lost.
            (Ok(found), []) => Ok(found),
            // All stood in each other's way, or the winner's object was lost.
            (Err(StoreError::NotFound { .. }), [] | [_]) => {
                self.put_new(key, bytes_of(0)).await?;
                Ok(bytes_of(0).into())
            }
            (Err(error), [] | [_]) => Err(error),
            (Ok(_), [_]) => Err(self.unfit("holds other bytes than its one creator wrote")),
            (_, [_, _, ..]) => Err(self.unfit("lets several create one object at once")),
        }
    }

    fn unfit(&self, what: &str) -> StoreError {
        StoreError::invalid(
            format!("the store {} {what}", self.address),
            "its server ignores the condition of a write (`If-None-Match`, with Google \
             `x-goog-if-generation-match`), and two coordinators could both commit: use one that \
             supports conditional writes",
        )
    }
}

fn bytes_of(rival: usize) -> String {
    format!("probe {rival}")
}
