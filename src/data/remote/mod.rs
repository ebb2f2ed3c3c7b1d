//! The files of a corpus in object storage, read through the machine's [`cache`].
//!
//! One thread of its own serves every download; callers wait for it without an async runtime of
//! theirs. Each file is downloaded by one rank of the machine and checked against its digest while
//! it comes; the others wait for it. Invariants: a file that is handed out has the manifest's size;
//! one that was downloaded here, its digest too; no wait is without a deadline; at most
//! [`AHEAD_MAX`] files are downloaded ahead of need.

use std::collections::{BTreeSet, VecDeque};
use std::fs::File;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use anyhow::{Context, Error, Result, anyhow, bail};
use bytes::Bytes;
use tokio::time::{Instant, sleep};
use tracing::debug;

use crate::corpus::StoredFile;
use crate::data::location::CorpusStore;
use crate::data::remote::cache::{Cache, Claim, Part, cannot, is_same};
use crate::store::backend::Credentials;
use crate::store::background::Background;
use crate::store::reader::{Described, Download, ReadError, Reader};

pub(super) mod cache;

/// Files that are downloaded ahead of need at once, beside those that are waited for.
const AHEAD_MAX: usize = 4;
/// Downloads of one file with different wrong contents before its store is not believed any more.
const WRONG_MAX: usize = 5;
/// How often a rank looks whether another has finished a download.
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// Looks between two listings of the cache, which tell how far the other rank is.
const LOOKS_PER_LISTING: u32 = 50;
/// The cache's place in the user's home, where none is named.
const CACHE_FOLDER_DEFAULT: &str = ".cache/cohort";
pub(super) const UPLOAD_AGAIN: &str =
    "\n  hint: upload the corpus again, from the folder that cohort prepare wrote";

/// A corpus's store with its cache. Dropping it ends its downloads.
#[derive(Debug)]
pub(super) struct Remote {
    shared: Arc<Shared>,
    background: Background,
}

#[derive(Debug)]
struct Shared {
    reader: Reader,
    cache: Cache,
    ahead: Mutex<Ahead>,
    /// Bytes that have come so far, of any file.
    received: AtomicU64,
}

/// What will be wanted, most urgent first.
#[derive(Debug, Default)]
struct Ahead {
    wishes: VecDeque<StoredFile>,
    active: usize,
}

/// An open file of the cache.
#[derive(Debug)]
pub(super) struct Obtained {
    pub(super) file: File,
    /// Whether this process has just downloaded it, and so knows that its digest is right.
    pub(super) checked: bool,
}

/// What was downloaded in place of what the manifest describes.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Wrong {
    Bytes(u64),
    Digest(String),
}

impl Remote {
    /// Opens the store and the cache. Reaches no server yet.
    pub(super) fn open(location: &CorpusStore, credentials: &Credentials) -> Result<Self> {
        let reader = Reader::open(&location.url, &location.reading(), credentials)?;
        let folder = match &location.cache {
            Some(folder) => folder.clone(),
            None => std::env::home_dir()
                .map(|home| home.join(CACHE_FOLDER_DEFAULT))
                .context(
                    "this user has no home folder for the corpus cache\n  \
                     hint: name a folder with `cache` of `corpus`",
                )?,
        };
        let cache = Cache::open(&folder, location.cache_bytes)?;
        cache.make_room(0, None)?;
        let ahead = Mutex::default();
        Ok(Self {
            shared: Arc::new(Shared {
                reader,
                cache,
                ahead,
                received: AtomicU64::new(0),
            }),
            background: Background::start("cohort-fetch")?,
        })
    }

    pub(super) fn address(&self) -> &str {
        self.shared.reader.address()
    }

    pub(super) fn url(&self, key: &str) -> String {
        self.shared.reader.url(key)
    }

    pub(super) fn cache_bytes(&self) -> u64 {
        self.shared.cache.bytes_max()
    }

    /// Bytes that have come so far, of any file.
    pub(super) fn received_bytes(&self) -> u64 {
        self.shared.received.load(Ordering::Relaxed)
    }

    /// The whole of a small object, past the cache.
    pub(super) fn read(&self, key: &str) -> Result<Bytes> {
        let (shared, key) = (Arc::clone(&self.shared), key.to_owned());
        Ok(self
            .background
            .wait(async move { shared.reader.get(&key).await })??)
    }

    /// Every object of the corpus.
    pub(super) fn list(&self) -> Result<Vec<Described>> {
        let shared = Arc::clone(&self.shared);
        Ok(self
            .background
            .wait(async move { shared.reader.list_described("").await })??)
    }

    /// A file of the cache, downloaded where it is not there, or is the `bad` one.
    pub(super) fn obtain(&self, stored: &StoredFile, bad: Option<File>) -> Result<Obtained> {
        let (shared, stored) = (Arc::clone(&self.shared), stored.clone());
        self.background
            .wait(async move { shared.obtain(&stored, bad.as_ref()).await })?
    }

    /// Sets what is downloaded in the background, in this order. What was wished before and has not
    /// begun is forgotten.
    pub(super) fn expect(&self, wishes: Vec<StoredFile>) {
        let mut wishes = wishes;
        // Looking up what is there marks it as used: what is fetched now does not push it out.
        wishes.retain(|stored| self.shared.cache.find(stored).is_none());
        let mut ahead = self.shared.lock();
        ahead.wishes = wishes.into();
        // Those at work may be at what is wished for no longer.
        let wanted = AHEAD_MAX.min(ahead.active + ahead.wishes.len());
        while ahead.active < wanted {
            ahead.active += 1;
            drop(
                self.background
                    .spawn(Arc::clone(&self.shared).fetch_ahead()),
            );
        }
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        self.shared.lock().wishes.clear();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Ahead> {
        self.ahead
            .lock()
            .expect("nothing panics while it holds the wishes")
    }

    /// One of the background's downloaders, until nothing is wished for.
    async fn fetch_ahead(self: Arc<Self>) {
        loop {
            let wish = {
                let mut ahead = self.lock();
                let wish = ahead.wishes.pop_front();
                if wish.is_none() {
                    ahead.active -= 1;
                }
                wish
            };
            let Some(stored) = wish else {
                return;
            };
            if self.cache.has(&stored) {
                continue;
            }
            let fetched = match self.cache.try_claim(&stored.digest) {
                Ok(Some(claim)) => self.fetch(&stored, &claim).await.map(drop),
                // Another rank is at it.
                Ok(None) => Ok(()),
                Err(error) => Err(error),
            };
            // Who needs the file will try again, and report.
            if let Err(error) = fetched {
                debug!(file = stored.file, "not downloaded ahead: {error:#}");
            }
        }
    }

    async fn obtain(&self, stored: &StoredFile, bad: Option<&File>) -> Result<Obtained> {
        let found = || {
            let file = self.cache.find(stored)?;
            let is_bad = bad.is_some_and(|bad| is_same(bad, &file));
            (!is_bad).then_some(Obtained {
                file,
                checked: false,
            })
        };
        let mut progress = (0, Instant::now());
        let mut looks = 0_u32;
        loop {
            if let Some(obtained) = found() {
                return Ok(obtained);
            }
            if let Some(claim) = self.cache.try_claim(&stored.digest)? {
                // Finished by another one between the two looks.
                if let Some(obtained) = found() {
                    return Ok(obtained);
                }
                let file = self.fetch(stored, &claim).await?;
                return Ok(Obtained {
                    file,
                    checked: true,
                });
            }
            if looks.is_multiple_of(LOOKS_PER_LISTING) {
                self.expect_progress(stored, &mut progress)?;
            }
            looks += 1;
            sleep(POLL_INTERVAL).await;
        }
    }

    /// Gives another rank's download twice the time after which it would give up by itself.
    fn expect_progress(&self, stored: &StoredFile, last: &mut (u64, Instant)) -> Result<()> {
        let bytes = self.cache.partial_bytes(&stored.digest);
        if bytes != last.0 {
            self.received
                .fetch_add(bytes.saturating_sub(last.0), Ordering::Relaxed);
            *last = (bytes, Instant::now());
        }
        let limit = 2 * self.reader.give_up_after();
        if last.1.elapsed() > limit {
            bail!(
                "another process holds the download of {}, and nothing has come for {:.0} s\n  \
                 hint: look for a process that is stopped, or name another `cache`",
                stored.digest,
                last.1.elapsed().as_secs_f64()
            );
        }
        Ok(())
    }

    /// Downloads a file until its content is right.
    async fn fetch(&self, stored: &StoredFile, _claim: &Claim) -> Result<File> {
        self.cache.make_room(stored.bytes, None)?;
        let mut seen = BTreeSet::new();
        loop {
            let mut part = self.cache.part(&stored.digest)?;
            let Some(wrong) = self.download(stored, &mut part).await? else {
                return self.cache.keep(&part, &stored.digest);
            };
            debug!(file = stored.file, ?wrong, "not what the manifest says");
            let again = seen.contains(&wrong);
            if again || seen.len() + 1 == WRONG_MAX {
                return Err(wrong.error(stored, again));
            }
            seen.insert(wrong);
        }
    }

    /// One download, hashed while it comes.
    async fn download(&self, stored: &StoredFile, part: &mut Part) -> Result<Option<Wrong>> {
        let mut hasher = blake3::Hasher::new();
        let read = self
            .reader
            .download(&stored.file, Some(stored.bytes), |bytes| {
                hasher.update(bytes);
                self.received
                    .fetch_add(bytes.len() as u64, Ordering::Relaxed);
                part.write(bytes)
            });
        match read.await {
            Ok(Download::OtherSize(bytes)) => Ok(Some(Wrong::Bytes(bytes))),
            Ok(Download::Whole(_)) => {
                let found = hasher.finalize().to_hex();
                Ok((found.as_str() != stored.digest).then(|| Wrong::Digest(found.to_string())))
            }
            Err(ReadError::Store(error)) => Err(Error::new(error)
                .context(format!("cannot fetch the file of digest {}", stored.digest))),
            Err(ReadError::Sink(error)) => Err(cannot("write", part.path(), &error)),
        }
    }
}

impl Wrong {
    fn error(&self, stored: &StoredFile, again: bool) -> Error {
        let (what, said) = match self {
            Self::Bytes(found) => (
                format!("has {found} bytes"),
                format!("{} (digest {})", stored.bytes, stored.digest),
            ),
            Self::Digest(found) => (format!("has the digest {found}"), stored.digest.clone()),
        };
        let how = if again {
            "on two downloads"
        } else {
            "on the last of several downloads that all differed"
        };
        anyhow!("the object {what} {how}, the manifest says {said}{UPLOAD_AGAIN}")
    }
}
