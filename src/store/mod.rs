//! Object storage: the only truth of a run.
//!
//! A [`Store`] is a folder, or a prefix of an S3, Google or Azure bucket, behind the same few
//! operations. Only `layout` builds keys. Nothing here knows what the bytes mean, keeps state
//! between calls, or writes an object that can be seen half-written. Every call has a deadline and
//! is repeated while that may help.
//!
//! - [`settings`], [`backend`], [`probe`]: from an address to a store that is known to work
//! - [`patience`], [`persistence`]: how long a store may take, and how long one is outlasted
//! - [`write`]: writing and deleting, with proof where it matters
//! - [`reader`], [`background`]: reading on through the faults of a store, also without async
//! - [`layout`]: every key
//! - [`epoch`]: which coordinator may commit
//! - [`manifest`], [`checkpoint`], [`verify`]: checkpoints and their proof
//! - [`branches`]: which runs grew from which checkpoints
//! - [`retention`], [`removal`]: which checkpoints may go, and how they go

use std::fmt;
use std::future::Future;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};

use crate::store::backend::{Backend, Credentials, MissingFolder, RETRIES_MAX, Requests};
use crate::store::error::StoreError;
use crate::store::patience::{Patience, Waiting, within};
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
pub mod patience;
pub mod persistence;
pub mod probe;
pub mod reader;
pub mod removal;
pub mod retention;
pub mod settings;
pub mod verify;
pub mod write;

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
    patience: Patience,
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
        let requests = Requests {
            timeout: Some(settings.request_timeout),
            retries_max: RETRIES_MAX,
        };
        Self::connect(settings, credentials, missing, requests)
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
            repeats,
        } = backend::connect(settings, credentials, missing, requests)?;
        Ok(Self {
            objects,
            root,
            address,
            patience: settings.patience(repeats),
        })
    }

    /// An empty store that lives as long as its clones.
    pub fn in_memory() -> Self {
        Self::over(Arc::new(InMemory::new()), &StoreSettings::at("memory:"))
    }

    /// A store over objects of the caller's, by the address and the limits of `settings`: for tests
    /// that put faults in between.
    pub fn over(objects: Arc<dyn ObjectStore>, settings: &StoreSettings) -> Self {
        Self {
            objects,
            root: Path::default(),
            address: settings.url.clone(),
            patience: settings.patience(false),
        }
    }

    /// The part of this store under a folder, as a store of its own.
    pub fn child(&self, folder: &str) -> Result<Self, StoreError> {
        Ok(Self {
            objects: Arc::clone(&self.objects),
            root: self.path(folder)?,
            address: self.url(folder),
            patience: self.patience,
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
        let (objects, path) = (&self.objects, &self.path(key)?);
        let first = || async move {
            let found = objects.get(path).await?;
            let size = found.meta.size;
            if size <= PART_BYTES as u64 {
                return Ok((size, Some(found.bytes().await?)));
            }
            Ok((size, None))
        };
        let (size, bytes) = self.repeat("read", &self.url(key), first).await?;
        if let Some(bytes) = bytes {
            return Ok(bytes);
        }
        let mut whole = BytesMut::with_capacity(size as usize);
        let mut chunks = self.chunks(key, size);
        while let Some(chunk) = chunks.try_next().await? {
            whole.extend_from_slice(&chunk);
        }
        Ok(whole.freeze())
    }

    /// Bytes `from..to` of an object.
    pub async fn get_range(&self, key: &str, from: u64, to: u64) -> Result<Bytes, StoreError> {
        let path = self.path(key)?;
        let range = || self.objects.get_range(&path, from..to);
        self.repeat("read", &self.url(key), range).await
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
        let path = self.path(key)?;
        let head = || self.objects.head(&path);
        match self.repeat("read", &self.url(key), head).await {
            Ok(meta) => Ok(Some(meta.size)),
            Err(StoreError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub async fn exists(&self, key: &str) -> Result<bool, StoreError> {
        Ok(self.size(key).await?.is_some())
    }

    /// Every object under a folder (all for ""), however deep, sorted by key. A missing folder is
    /// an empty one.
    pub async fn list(&self, folder: &str) -> Result<Vec<Object>, StoreError> {
        Ok(self.sorted(&self.everything(folder).await?))
    }

    /// Like [`Store::list`], without what lies in folders of this folder.
    pub async fn list_here(&self, folder: &str) -> Result<Vec<Object>, StoreError> {
        let path = self.folder_path(folder)?;
        let level = || self.objects.list_with_delimiter(Some(&path));
        let found = self.repeat("list", &self.url(folder), level).await?;
        Ok(self.sorted(&found.objects))
    }

    /// Every object under a folder, in no order. The deadline is of each page of the listing.
    async fn everything(&self, folder: &str) -> Result<Vec<ObjectMeta>, StoreError> {
        let path = self.folder_path(folder)?;
        let url = self.url(folder);
        let mut waiting = Waiting::new(self.patience);
        loop {
            let mut listing = self.objects.list(Some(&path));
            let mut found = Vec::new();
            let failed = loop {
                match self.call("list", &url, listing.try_next()).await {
                    Ok(Some(meta)) => found.push(meta),
                    Ok(None) => return Ok(found),
                    Err(error) => break error,
                }
            };
            waiting.pause(folder, failed).await?;
        }
    }

    fn sorted(&self, found: &[ObjectMeta]) -> Vec<Object> {
        let mut objects: Vec<_> = found
            .iter()
            .map(|meta| Object {
                key: self.key(&meta.location).to_owned(),
                bytes: meta.size,
            })
            .collect();
        objects.sort_unstable();
        objects
    }

    /// One call of the library.
    async fn call<T>(
        &self,
        operation: &'static str,
        url: &str,
        future: impl Future<Output = object_store::Result<T>>,
    ) -> Result<T, StoreError> {
        within(self.patience.call, operation, url, future)
            .await?
            .map_err(|error| StoreError::sort(operation, url, &error))
    }

    /// Calls the library until it succeeds, time is up, or waiting does not help. It repeats
    /// requests itself; not those that may have been carried out, nor what broke in an answer.
    async fn repeat<T, F: Future<Output = object_store::Result<T>>>(
        &self,
        operation: &'static str,
        url: &str,
        attempt: impl Fn() -> F,
    ) -> Result<T, StoreError> {
        let mut waiting = Waiting::new(self.patience);
        loop {
            let error = match within(waiting.left(), operation, url, attempt()).await {
                Ok(Ok(found)) => return Ok(found),
                Ok(Err(error)) => StoreError::sort(operation, url, &error),
                Err(late) => late,
            };
            waiting.pause(url, error).await?;
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
