//! Writing and deleting objects.
//!
//! A failure does not say that nothing was done, since the answer may have been lost. Invariant: an
//! object is seen whole or not at all.

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

impl Store {
    /// Writes an object, whether or not it exists. Readers see the old bytes or the new.
    pub async fn put(&self, key: &str, bytes: impl Into<Bytes>) -> Result<(), StoreError> {
        self.put_as(key, bytes.into(), PutMode::Overwrite).await
    }

    /// Writes an object that must not exist: of any number of writers one succeeds, the others get
    /// `AlreadyExists`. A lost answer may make the winner see `AlreadyExists` too, so a caller for
    /// whom this matters reads the object and compares.
    pub async fn put_new(&self, key: &str, bytes: impl Into<Bytes>) -> Result<(), StoreError> {
        self.put_as(key, bytes.into(), PutMode::Create).await
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
}
