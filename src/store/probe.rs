//! Trying a store before a run relies on it.

use std::hash::{BuildHasher, Hasher, RandomState};

use bytes::Bytes;

use crate::store::error::StoreError;
use crate::store::{Store, layout};

impl Store {
    /// Proves at the start of a run what its checkpoints rely on at the end of one: that objects
    /// can be written, created only once, and deleted here. Some servers of the S3 protocol ignore
    /// the condition of a create; with them two coordinators could both commit.
    pub async fn check_writable(&self) -> Result<(), StoreError> {
        // Only the name must differ from that of a process that probes at the same moment.
        let unique = RandomState::new().build_hasher().finish();
        let key = layout::probe(unique);
        self.put_new(&key, Bytes::from_static(b"probe")).await?;
        let again = self.put_new(&key, Bytes::from_static(b"probe")).await;
        self.delete(&key).await?;
        match again {
            Err(StoreError::AlreadyExists { .. }) => Ok(()),
            Err(error) => Err(error),
            Ok(()) => Err(StoreError::invalid(
                format!(
                    "the store {} creates an object that exists already",
                    self.address
                ),
                "its server ignores `If-None-Match`, which checkpoints rely on: use one that \
                 supports conditional writes",
            )),
        }
    }
}
