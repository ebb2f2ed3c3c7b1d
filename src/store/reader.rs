//! Reading that outlasts a bad store: one that is slow, fails, throttles, stalls or cuts bodies.
//!
//! A read goes on where it stopped and counts its patience from the last byte that came, so a store
//! that gives anything at all delays and never fails a read. Invariants: no wait without a
//! deadline; what cannot get better by waiting (a missing object, a missing right) is reported at
//! once; whatever reaches the caller's sink is each byte of the object once, in order.

use std::fmt;
use std::future::Future;
use std::io;
use std::ops::Range;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use object_store::{GetOptions, GetRange, ObjectMeta, ObjectStoreExt};
use thiserror::Error;
use tokio::time::Instant;

use crate::store::Store;
use crate::store::backend::{Credentials, MissingFolder, RETRIES_MAX, Requests};
use crate::store::error::StoreError;
use crate::store::patience::{Patience, Waiting, within};
use crate::store::settings::ReadSettings;

/// A store that is only read from. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Reader {
    /// Every failure comes back at once: [`Reader`] repeats.
    store: Store,
    /// The library repeats the requests of a listing, which are many and small.
    listings: Store,
    patience: Patience,
}

/// What came of reading an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Download {
    /// All of it, so many bytes.
    Whole(u64),
    /// Nothing was handed on: the object has this other size than expected.
    OtherSize(u64),
}

#[derive(Debug, Error)]
pub enum ReadError {
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The caller's sink took no more.
    #[error(transparent)]
    Sink(io::Error),
}

/// An object of a listing, as it was then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Described {
    pub key: String,
    pub bytes: u64,
    pub version: Version,
}

/// What tells an object from the one that replaces it under the same key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    e_tag: Option<String>,
    /// Seconds since 1970.
    modified: i64,
}

impl Version {
    fn of(meta: &ObjectMeta) -> Self {
        Self {
            e_tag: meta.e_tag.clone(),
            modified: meta.last_modified.timestamp(),
        }
    }

    /// Whether both can be of one object. A store may leave the tag out of its listings.
    fn agrees(&self, other: &Self) -> bool {
        match (&self.e_tag, &other.e_tag) {
            (Some(one), Some(other)) => one.trim_matches('"') == other.trim_matches('"'),
            _ => self.modified == other.modified,
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.e_tag {
            Some(tag) => write!(f, "etag {}", tag.trim_matches('"')),
            None => write!(f, "modified {}", self.modified),
        }
    }
}

/// How far a download has come.
struct Transfer<'a> {
    key: &'a str,
    expected: Option<u64>,
    version: Option<&'a Version>,
    /// What to read; the end is known from the first answer on where it is all of the object.
    from: u64,
    to: Option<u64>,
    received: u64,
}

impl Reader {
    /// Opens the store at an address. Reaches no server yet.
    pub fn open(
        url: &str,
        settings: &ReadSettings,
        credentials: &Credentials,
    ) -> Result<Self, StoreError> {
        let patience = Patience {
            request: settings.stall_timeout,
            call: settings.stall_timeout,
            give_up: settings.retry_timeout,
        };
        let open = |requests| {
            let settings = settings.at(url);
            Store::connect(&settings, credentials, MissingFolder::Refuse, requests)
        };
        Ok(Self {
            store: open(Requests {
                timeout: None,
                retries_max: 0,
            })?,
            listings: open(Requests {
                timeout: Some(patience.request),
                retries_max: RETRIES_MAX,
            })?,
            patience,
        })
    }

    /// The store's address for messages.
    pub fn address(&self) -> &str {
        self.store.address()
    }

    /// An object's address for messages.
    pub fn url(&self, key: &str) -> String {
        self.store.url(key)
    }

    /// How long nothing may come before a read is given up, its last attempt included.
    pub fn give_up_after(&self) -> Duration {
        self.patience.deadline()
    }

    /// A whole object, for what is small.
    pub async fn get(&self, key: &str) -> Result<Bytes, StoreError> {
        let mut whole = BytesMut::new();
        let read = self.download(key, None, |bytes| {
            whole.extend_from_slice(bytes);
            Ok(())
        });
        match read.await {
            Ok(_) => Ok(whole.freeze()),
            Err(ReadError::Store(error)) => Err(error),
            Err(ReadError::Sink(_)) => unreachable!("the sink above takes everything"),
        }
    }

    /// Hands the bytes of an object to `sink`, in order. With an `expected` size, an object of
    /// another one is not read.
    pub async fn download(
        &self,
        key: &str,
        expected: Option<u64>,
        sink: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<Download, ReadError> {
        let transfer = Transfer {
            key,
            expected,
            version: None,
            from: 0,
            to: None,
            received: 0,
        };
        self.transfer(transfer, sink).await
    }

    /// Some bytes of an object, which must be there, all of the object that was described.
    pub async fn range(&self, object: &Described, range: Range<u64>) -> Result<Bytes, StoreError> {
        let mut bytes = BytesMut::with_capacity((range.end - range.start) as usize);
        let transfer = Transfer {
            key: &object.key,
            expected: None,
            version: Some(&object.version),
            from: range.start,
            to: Some(range.end),
            received: 0,
        };
        let read = self.transfer(transfer, |more| {
            bytes.extend_from_slice(more);
            Ok(())
        });
        match read.await {
            Ok(_) => Ok(bytes.freeze()),
            Err(ReadError::Store(error)) => Err(error),
            Err(ReadError::Sink(_)) => unreachable!("the sink above takes everything"),
        }
    }

    async fn transfer(
        &self,
        mut transfer: Transfer<'_>,
        mut sink: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<Download, ReadError> {
        let mut waiting = Waiting::new(self.patience);
        loop {
            let before = transfer.received;
            let outcome = self.attempt(&mut transfer, &mut waiting, &mut sink).await;
            if transfer.received > before {
                waiting.failures = 0;
            }
            match outcome {
                Err(ReadError::Store(error)) => waiting.pause(transfer.key, error).await?,
                done => return done,
            }
        }
    }

    /// One request for what is still missing.
    async fn attempt(
        &self,
        transfer: &mut Transfer<'_>,
        waiting: &mut Waiting,
        sink: &mut impl FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<Download, ReadError> {
        let url = self.url(transfer.key);
        let sort = |error| StoreError::sort("read", &url, &error);
        let path = self.store.path(transfer.key)?;
        let next = transfer.from + transfer.received;
        // The first request for a whole object asks for no range: its size is not known yet.
        let part = next > 0 || transfer.version.is_some();
        let range = transfer.to.filter(|_| part);
        let options = GetOptions {
            range: range.map(|to| GetRange::Bounded(next..to)),
            ..GetOptions::default()
        };
        let answer = self
            .within_stall(&url, self.store.objects.get_opts(&path, options))
            .await?
            .map_err(sort)?;
        let (size, found) = (answer.meta.size, Version::of(&answer.meta));
        if transfer
            .version
            .is_some_and(|version| !version.agrees(&found))
        {
            return Err(StoreError::Changed { url }.into());
        }
        if next == 0 {
            if transfer.expected.is_some_and(|expected| expected != size) {
                return Ok(Download::OtherSize(size));
            }
            transfer.to.get_or_insert(size);
        }
        let wanted = transfer.to.unwrap_or(size) - transfer.from;
        let mut body = answer.into_stream();
        while transfer.received < wanted {
            let Some(bytes) = self.within_stall(&url, body.next()).await? else {
                let cause = format!("{} bytes came of {wanted}", transfer.received);
                return Err(StoreError::unavailable("read", &url, cause).into());
            };
            let mut bytes = bytes.map_err(sort)?;
            bytes.truncate((wanted - transfer.received) as usize);
            transfer.received += bytes.len() as u64;
            sink(&bytes).map_err(ReadError::Sink)?;
            waiting.since = Instant::now();
        }
        Ok(Download::Whole(wanted))
    }

    /// What the store says of one object.
    pub async fn describe(&self, key: &str) -> Result<Described, StoreError> {
        let path = self.store.path(key)?;
        let mut waiting = Waiting::new(self.patience);
        loop {
            let head = self.listings.objects.head(&path);
            match self.listings.call("read", &self.url(key), head).await {
                Ok(meta) => {
                    return Ok(Described {
                        key: key.to_owned(),
                        bytes: meta.size,
                        version: Version::of(&meta),
                    });
                }
                Err(error) => waiting.pause(key, error).await?,
            }
        }
    }

    /// Every object whose key begins with a folder (all for ""), sorted by key.
    pub async fn list_described(&self, folder: &str) -> Result<Vec<Described>, StoreError> {
        let described = |meta: &ObjectMeta| Described {
            key: self.listings.key(&meta.location).to_owned(),
            bytes: meta.size,
            version: Version::of(meta),
        };
        let found = self.listings.everything(folder).await?;
        let mut objects: Vec<_> = found.iter().map(described).collect();
        objects.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(objects)
    }

    async fn within_stall<T>(
        &self,
        url: &str,
        future: impl Future<Output = T>,
    ) -> Result<T, StoreError> {
        within(self.patience.request, "read", url, future).await
    }
}
