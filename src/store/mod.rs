//! Object storage: the only truth of a run.
//!
//! A [`Store`] is a folder, or a prefix of an S3, Google or Azure bucket, behind the same few
//! operations. Only `layout` builds keys. Nothing here knows what the bytes mean, keeps state
//! between calls, or writes an object that can be seen half-written.
//!
//! - [`settings`], [`backend`], [`probe`]: from an address to a store that is known to work
//! - [`reader`], [`background`]: reading on through the faults of a store, also without async
//! - [`layout`]: every key
//! - [`epoch`]: which coordinator may commit
//! - [`manifest`], [`checkpoint`], [`verify`]: checkpoints and their proof
//! - [`branches`]: which runs grew from which checkpoints
//! - [`retention`]: which checkpoints may go

use std::fmt;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutPayload};

use crate::store::backend::{Backend, Credentials, MissingFolder, Requests};
use crate::store::error::StoreError;
use crate::store::settings::StoreSettings;

pub mod address;
pub mod backend;
pub mod background;
pub mod branches;
pub mod checkpoint;
pub mod epoch;
pub mod error;
pub mod layout;
pub mod manifest;
pub mod probe;
pub mod reader;
pub mod retention;
pub mod settings;
pub mod verify;

/// Bytes of one request of a large transfer. S3 takes 10,000 parts, so objects up to 156 GiB.
pub const PART_BYTES: usize = 16 * 1024 * 1024;
/// Requests of one large transfer in flight: 64 MiB of buffers at most.
const PARTS_IN_FLIGHT_MAX: usize = 4;

/// An open store. Cheap to clone; all clones see the same objects.
///
/// Keys are relative to the store, with forward slashes.
#[derive(Clone)]
pub struct Store {
    objects: Arc<dyn ObjectStore>,
    root: Path,
    address: String,
}

/// One object of a listing.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Object {
    /// Relative to the store that listed it.
    pub key: String,
    pub bytes: u64,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Store({})", self.address)
    }
}

impl Store {
    /// Opens a store to write to; a missing local folder is created. Reaches no server yet: see
    /// [`Store::check_writable`].
    pub fn open(settings: &StoreSettings) -> Result<Self, StoreError> {
        Self::open_as(settings, &Credentials::Environment, MissingFolder::Create)
    }

    /// Opens a store to read from; a missing local folder is refused with `NotFound`.
    pub fn open_existing(settings: &StoreSettings) -> Result<Self, StoreError> {
        Self::open_as(settings, &Credentials::Environment, MissingFolder::Refuse)
    }

    pub fn open_as(
        settings: &StoreSettings,
        credentials: &Credentials,
        missing: MissingFolder,
    ) -> Result<Self, StoreError> {
        Self::connect(settings, credentials, missing, Requests::default())
    }

    fn connect(
        settings: &StoreSettings,
        credentials: &Credentials,
        missing: MissingFolder,
        requests: Requests,
    ) -> Result<Self, StoreError> {
        let Backend {
            objects,
            root,
            address,
        } = backend::connect(settings, credentials, missing, requests)?;
        Ok(Self {
            objects,
            root,
            address,
        })
    }

    /// An empty store that lives as long as its clones.
    pub fn in_memory() -> Self {
        Self {
            objects: Arc::new(InMemory::new()),
            root: Path::default(),
            address: "memory:".to_owned(),
        }
    }

    /// The part of this store under a folder, as a store of its own.
    pub fn child(&self, folder: &str) -> Result<Self, StoreError> {
        Ok(Self {
            objects: Arc::clone(&self.objects),
            root: self.path(folder)?,
            address: self.url(folder),
        })
    }

    /// The store's address for messages; holds no secrets.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// An object's address for messages.
    pub fn url(&self, key: &str) -> String {
        format!("{}/{key}", self.address)
    }

    /// The whole object. Large ones are fetched in parts, several at a time.
    pub async fn get(&self, key: &str) -> Result<Bytes, StoreError> {
        let sort = |error| StoreError::sort("read", &self.url(key), &error);
        let found = self.objects.get(&self.path(key)?).await.map_err(sort)?;
        let size = found.meta.size;
        if size <= PART_BYTES as u64 {
            return found.bytes().await.map_err(sort);
        }
        drop(found);
        let mut whole = BytesMut::with_capacity(size as usize);
        let mut chunks = self.chunks(key, size);
        while let Some(chunk) = chunks.try_next().await? {
            whole.extend_from_slice(&chunk);
        }
        Ok(whole.freeze())
    }

    /// Bytes `from..to` of an object.
    pub async fn get_range(&self, key: &str, from: u64, to: u64) -> Result<Bytes, StoreError> {
        self.objects
            .get_range(&self.path(key)?, from..to)
            .await
            .map_err(|error| StoreError::sort("read", &self.url(key), &error))
    }

    /// The first `bytes` bytes of an object as chunks in order, of [`PART_BYTES`] but for the
    /// last, read ahead by a few chunks: for what does not fit, or need not be, in memory.
    pub fn chunks<'a>(
        &'a self,
        key: &'a str,
        bytes: u64,
    ) -> BoxStream<'a, Result<Bytes, StoreError>> {
        stream::iter((0..bytes).step_by(PART_BYTES))
            .map(move |from| self.get_range(key, from, bytes.min(from + PART_BYTES as u64)))
            .buffered(PARTS_IN_FLIGHT_MAX)
            .boxed()
    }

    /// The object's length, or nothing where it does not exist.
    pub async fn size(&self, key: &str) -> Result<Option<u64>, StoreError> {
        match self.objects.head(&self.path(key)?).await {
            Ok(meta) => Ok(Some(meta.size)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(StoreError::sort("read", &self.url(key), &error)),
        }
    }

    pub async fn exists(&self, key: &str) -> Result<bool, StoreError> {
        Ok(self.size(key).await?.is_some())
    }

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
        self.objects
            .put_opts(&self.path(key)?, PutPayload::from_bytes(bytes), mode.into())
            .await
            .map(drop)
            .map_err(|error| StoreError::sort("write", &self.url(key), &error))
    }

    /// Like [`Store::put`], in parts above [`PART_BYTES`]; copies nothing. The object appears at
    /// the end. A process that dies midway leaves parts that only a bucket's lifecycle rule for
    /// incomplete multipart uploads clears away.
    pub async fn put_large(&self, key: &str, bytes: Bytes) -> Result<(), StoreError> {
        if bytes.len() <= PART_BYTES {
            return self.put(key, bytes).await;
        }
        let sort = |error| StoreError::sort("write", &self.url(key), &error);
        let mut upload = self
            .objects
            .put_multipart(&self.path(key)?)
            .await
            .map_err(sort)?;
        let parts = (0..bytes.len())
            .step_by(PART_BYTES)
            .map(|from| bytes.slice(from..bytes.len().min(from + PART_BYTES)));
        let sent = stream::iter(parts)
            .map(|part| upload.put_part(part.into()))
            .buffer_unordered(PARTS_IN_FLIGHT_MAX)
            .try_for_each(|()| async { Ok(()) })
            .await;
        let done = match sent {
            Ok(()) => upload.complete().await.map(drop),
            Err(error) => Err(error),
        };
        if let Err(error) = done {
            // The first error is the one to report; what the abort leaves is only wasted space.
            drop(upload.abort().await);
            return Err(sort(error));
        }
        Ok(())
    }

    /// Every object under a folder (all for ""), however deep, sorted by key. A missing folder is
    /// an empty one.
    pub async fn list(&self, folder: &str) -> Result<Vec<Object>, StoreError> {
        let path = self.folder_path(folder)?;
        let found = self.objects.list(Some(&path)).try_collect::<Vec<_>>().await;
        self.sorted(folder, found)
    }

    /// Like [`Store::list`], without what lies in folders of this folder.
    pub async fn list_here(&self, folder: &str) -> Result<Vec<Object>, StoreError> {
        let path = self.folder_path(folder)?;
        let found = self.objects.list_with_delimiter(Some(&path)).await;
        self.sorted(folder, found.map(|level| level.objects))
    }

    fn sorted(
        &self,
        folder: &str,
        found: object_store::Result<Vec<ObjectMeta>>,
    ) -> Result<Vec<Object>, StoreError> {
        let found = found.map_err(|error| StoreError::sort("list", &self.url(folder), &error))?;
        let mut objects: Vec<_> = found
            .iter()
            .map(|meta| Object {
                key: self.key(&meta.location).to_owned(),
                bytes: meta.size,
            })
            .collect();
        objects.sort_unstable();
        Ok(objects)
    }

    /// Deletes an object; one that does not exist is deleted already.
    pub async fn delete(&self, key: &str) -> Result<(), StoreError> {
        match self.objects.delete(&self.path(key)?).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(StoreError::sort("delete", &self.url(key), &error)),
        }
    }

    fn path(&self, key: &str) -> Result<Path, StoreError> {
        let whole = match self.root.as_ref() {
            "" => key.to_owned(),
            root => format!("{root}/{key}"),
        };
        let parsed = if key.is_empty() {
            None
        } else {
            Path::parse(&whole).ok()
        };
        parsed.ok_or_else(|| {
            StoreError::invalid(
                format!(
                    "{key:?} is no name of an object in the store {}",
                    self.address
                ),
                "names are made of segments between slashes, none empty or made of dots",
            )
        })
    }

    fn folder_path(&self, folder: &str) -> Result<Path, StoreError> {
        if folder.is_empty() {
            Ok(self.root.clone())
        } else {
            self.path(folder)
        }
    }

    fn key<'a>(&self, location: &'a Path) -> &'a str {
        let whole = location.as_ref();
        whole
            .strip_prefix(self.root.as_ref())
            .map_or(whole, |rest| rest.trim_start_matches('/'))
    }
}
