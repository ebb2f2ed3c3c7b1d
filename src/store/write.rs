//! Writing and deleting objects.
//!
//! A failure does not say that nothing was done, since the answer may have been lost; and a store
//! may say that something was done which was not. Invariants: an object is seen whole or not at
//! all; whoever creates one and loses the answer finds out that it was itself; what is written or
//! deleted with proof was looked at afterwards.

use bytes::Bytes;
use futures::stream::{self, StreamExt, TryStreamExt};
use object_store::{MultipartUpload, ObjectStoreExt, PutMode, PutPayload};
use tokio::time::sleep;
use tracing::warn;

use crate::store::error::StoreError;
use crate::store::patience::{pause_after, within};
use crate::store::{PART_BYTES, PARTS_IN_FLIGHT_MAX, Store};

/// How often a large upload is begun. Each of its parts is repeated too.
const UPLOADS_MAX: u32 = 4;
/// How often something is written or deleted until looking shows it: six seconds in all, for stores
/// that show a write late.
const PROOFS_MAX: u32 = 7;

/// What a look at an object showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Held {
    Same,
    Other,
    Missing,
}

impl Store {
    /// Writes an object, whether or not it exists. Readers see the old bytes or the new.
    pub async fn put(&self, key: &str, bytes: impl Into<Bytes>) -> Result<(), StoreError> {
        self.put_as(key, bytes.into(), PutMode::Overwrite).await
    }

    /// Like [`Store::put_large`], read back and written again until it is there as it should be.
    pub async fn put_proven(&self, key: &str, bytes: impl Into<Bytes>) -> Result<(), StoreError> {
        let bytes = bytes.into();
        let mut attempt = 1;
        loop {
            self.put_large(key, bytes.clone()).await?;
            match self.held(key, &bytes).await? {
                Held::Same => return Ok(()),
                held => self.doubt("write", key, held.words(), attempt).await?,
            }
            attempt += 1;
        }
    }

    /// Writes an object that must not exist, with proof: of any number of writers of different
    /// bytes one succeeds, the others get `AlreadyExists`. A writer that finds its own bytes has
    /// succeeded: the answer to it was lost.
    pub async fn put_new(&self, key: &str, bytes: impl Into<Bytes>) -> Result<(), StoreError> {
        let bytes = bytes.into();
        let mut attempt = 1;
        loop {
            let refused = match self.create(key, bytes.clone()).await {
                Ok(()) => None,
                Err(error @ StoreError::AlreadyExists { .. }) => Some(error),
                Err(error) => return Err(error),
            };
            match (self.held(key, &bytes).await?, refused) {
                (Held::Same, _) => return Ok(()),
                (_, Some(error)) => return Err(error),
                (Held::Missing, None) => {
                    let found = Held::Missing.words();
                    self.doubt("write", key, found, attempt).await?;
                }
                // It is this writer's, and damaged.
                (Held::Other, None) => return self.put_proven(key, bytes).await,
            }
            attempt += 1;
        }
    }

    /// Like [`Store::put_new`], believing what the store says; a lost answer ends in
    /// `AlreadyExists`.
    pub(super) async fn create(&self, key: &str, bytes: Bytes) -> Result<(), StoreError> {
        self.put_as(key, bytes, PutMode::Create).await
    }

    async fn put_as(&self, key: &str, bytes: Bytes, mode: PutMode) -> Result<(), StoreError> {
        let path = self.path(key)?;
        let put = || {
            let payload = PutPayload::from_bytes(bytes.clone());
            self.objects.put_opts(&path, payload, mode.clone().into())
        };
        self.repeat("write", &self.url(key), put).await.map(drop)
    }

    /// Like [`Store::put`], in parts above [`PART_BYTES`]; copies nothing. The object appears at
    /// the end. A process that dies midway leaves parts that only a bucket's lifecycle rule for
    /// incomplete multipart uploads clears away.
    pub async fn put_large(&self, key: &str, bytes: Bytes) -> Result<(), StoreError> {
        if bytes.len() <= PART_BYTES {
            return self.put(key, bytes).await;
        }
        let mut failures = 0;
        loop {
            match self.upload(key, &bytes).await {
                Err(StoreError::Unavailable { url, cause, .. }) if failures + 1 < UPLOADS_MAX => {
                    failures += 1;
                    warn!(%url, failures, "an upload is begun again: {cause}");
                    sleep(pause_after(failures, key)).await;
                }
                done => return done,
            }
        }
    }

    async fn upload(&self, key: &str, bytes: &Bytes) -> Result<(), StoreError> {
        let (path, url) = (self.path(key)?, self.url(key));
        let begin = || self.objects.put_multipart(&path);
        let mut upload = self.repeat("write", &url, begin).await?;
        let done = self.send(&url, &mut *upload, bytes).await;
        if done.is_err() {
            // The first error is the one to report; what the abort leaves is only wasted space.
            drop(within(self.patience.request, "write", &url, upload.abort()).await);
        }
        done
    }

    async fn send(
        &self,
        url: &str,
        upload: &mut dyn MultipartUpload,
        bytes: &Bytes,
    ) -> Result<(), StoreError> {
        let parts = (0..bytes.len())
            .step_by(PART_BYTES)
            .map(|from| bytes.slice(from..bytes.len().min(from + PART_BYTES)));
        stream::iter(parts)
            .map(|part| self.call("write", url, upload.put_part(part.into())))
            .buffer_unordered(PARTS_IN_FLIGHT_MAX)
            .try_for_each(|()| async { Ok(()) })
            .await?;
        self.call("write", url, upload.complete()).await.map(drop)
    }

    /// Deletes an object; one that does not exist is deleted already.
    pub async fn delete(&self, key: &str) -> Result<(), StoreError> {
        let path = self.path(key)?;
        let delete = || self.objects.delete(&path);
        match self.repeat("delete", &self.url(key), delete).await {
            Ok(()) | Err(StoreError::NotFound { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Like [`Store::delete`], looked for and deleted again until it is gone.
    pub async fn delete_proven(&self, key: &str) -> Result<(), StoreError> {
        let mut attempt = 1;
        loop {
            self.delete(key).await?;
            if !self.exists(key).await? {
                return Ok(());
            }
            self.doubt("delete", key, "it is still there", attempt)
                .await?;
            attempt += 1;
        }
    }

    /// Compares an object with the bytes that it should have.
    pub(super) async fn held(&self, key: &str, bytes: &Bytes) -> Result<Held, StoreError> {
        match self.size(key).await? {
            None => return Ok(Held::Missing),
            Some(size) if size != bytes.len() as u64 => return Ok(Held::Other),
            Some(_) => {}
        }
        let mut at = 0;
        let mut chunks = self.chunks(key, bytes.len() as u64);
        loop {
            match chunks.try_next().await {
                Ok(Some(chunk)) if bytes[at..].starts_with(&chunk) => at += chunk.len(),
                Ok(None) if at == bytes.len() => return Ok(Held::Same),
                Ok(_) => return Ok(Held::Other),
                Err(StoreError::NotFound { .. }) => return Ok(Held::Missing),
                Err(error) => return Err(error),
            }
        }
    }

    /// Waits after something that the store said turned out not to be so; an error after the last
    /// attempt.
    async fn doubt(
        &self,
        operation: &'static str,
        key: &str,
        found: &'static str,
        attempt: u32,
    ) -> Result<(), StoreError> {
        let url = self.url(key);
        if attempt >= PROOFS_MAX {
            return Err(StoreError::Disproved {
                operation,
                url,
                found,
            });
        }
        warn!(%url, attempt, "cannot {operation} it: {found}, though the store says it succeeded");
        sleep(pause_after(attempt, key)).await;
        Ok(())
    }
}

impl Held {
    fn words(self) -> &'static str {
        match self {
            Self::Same => "it is there",
            Self::Other => "it holds other bytes",
            Self::Missing => "it is not there",
        }
    }
}
