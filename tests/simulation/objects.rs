//! The object store: kept in memory, and slow. Every call takes its time on the way there and on
//! the way back, so that its caller can die before or after what it asked for was done; and the
//! answer to a create can be that of a second attempt after the first one's answer was lost.

use std::fmt;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

use async_trait::async_trait;
use cohort::store::settings::StoreSettings;
use cohort::store::{Store, layout};
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

use crate::dice::Dice;
use crate::scenario::Time;
use crate::world::Pid;

/// What the world and the store tell each other.
#[derive(Debug)]
pub struct Gate {
    now: Time,
    /// Calls under way, and when they arrive.
    calls: Vec<(Time, Waker)>,
    dice: Dice,
    /// No call is answered before.
    pub stalled_until: Time,
    /// Of a thousand entries of the journal so many are left half written.
    pub torn: u64,
    /// Who is to be woken when.
    pub wakes: Vec<(Time, Pid)>,
    /// What was written or deleted, and by whom.
    pub writes: Vec<(Pid, String)>,
}

impl Gate {
    /// It is later now: calls arrive.
    pub fn advance(&mut self, now: Time) {
        self.now = now;
        for (_, waker) in self.calls.extract_if(.., |(at, _)| *at <= now) {
            waker.wake();
        }
    }
}

/// All objects of a world.
#[derive(Clone, Debug)]
pub struct Bucket {
    inner: Arc<InMemory>,
    gate: Arc<Mutex<Gate>>,
}

impl Bucket {
    pub fn new(dice: Dice) -> Self {
        Self {
            inner: Arc::new(InMemory::new()),
            gate: Arc::new(Mutex::new(Gate {
                now: 0,
                calls: Vec::new(),
                dice,
                stalled_until: 0,
                torn: 0,
                wakes: Vec::new(),
                writes: Vec::new(),
            })),
        }
    }

    pub fn gate(&self) -> MutexGuard<'_, Gate> {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The store as a process sees it.
    pub fn store(&self, pid: Pid) -> Store {
        let objects = Objects {
            bucket: self.clone(),
            pid,
        };
        Store::over(Arc::new(objects), &StoreSettings::at("memory:"))
    }

    /// The store as it is, without any delay.
    pub fn bare(&self) -> Store {
        Store::over(Arc::clone(&self.inner) as _, &StoreSettings::at("memory:"))
    }
}

/// One process's way to the objects.
#[derive(Debug)]
struct Objects {
    bucket: Bucket,
    pid: Pid,
}

impl fmt::Display for Objects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("simulated objects")
    }
}

impl Objects {
    /// One way through the network.
    async fn travel(&self) {
        let at = {
            let mut gate = self.bucket.gate();
            let delay = gate.dice.delay(12, 600);
            let at = (gate.now + delay).max(gate.stalled_until);
            gate.wakes.push((at, self.pid));
            at
        };
        poll_fn(|context| {
            let mut gate = self.bucket.gate();
            if gate.now >= at {
                return Poll::Ready(());
            }
            // Streams of several calls look only at those that were woken.
            gate.calls.push((at, context.waker().clone()));
            Poll::Pending
        })
        .await;
    }

    /// Whether an entry of the journal is left half written.
    fn tears(&self, location: &Path) -> bool {
        let is_entry = layout::parse_journal_entry(location.as_ref()).is_some();
        let mut gate = self.bucket.gate();
        let share = gate.torn;
        is_entry && share > 0 && gate.dice.per_mille(share)
    }

    /// Whoever writes again waits for that by a clock that nobody here sees.
    fn wake_later(&self) {
        let mut gate = self.bucket.gate();
        for half_seconds in 1..=20 {
            let at = gate.now + 500 * half_seconds;
            gate.wakes.push((at, self.pid));
        }
    }

    fn wrote(&self, location: &Path) {
        let write = (self.pid, location.to_string());
        self.bucket.gate().writes.push(write);
    }
}

fn payload_half(payload: &PutPayload) -> PutPayload {
    let bytes: Vec<u8> = payload.iter().flat_map(|chunk| chunk.to_vec()).collect();
    PutPayload::from(bytes[..bytes.len() / 2].to_vec())
}

#[async_trait]
impl ObjectStore for Objects {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        self.travel().await;
        let creates = options.mode == PutMode::Create;
        if creates && self.tears(location) {
            let half = payload_half(&payload);
            let begun = self.bucket.inner.put_opts(location, half, options).await;
            if begun.is_ok() {
                self.travel().await;
                self.wake_later();
                return Err(Error::Generic {
                    store: "simulated",
                    source: "the connection broke".into(),
                });
            }
            return begun;
        }
        let done = self.bucket.inner.put_opts(location, payload, options).await;
        if done.is_ok() {
            self.wrote(location);
        }
        self.travel().await;
        if done.is_ok() && creates && self.bucket.gate().dice.per_mille(20) {
            return Err(Error::AlreadyExists {
                path: location.to_string(),
                source: "the first answer was lost".into(),
            });
        }
        done
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.bucket
            .inner
            .put_multipart_opts(location, options)
            .await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.travel().await;
        self.bucket.inner.get_opts(location, options).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.bucket.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let inner = Arc::clone(&self.bucket.inner);
        let prefix = prefix.cloned();
        let way = Self {
            bucket: self.bucket.clone(),
            pid: self.pid,
        };
        stream::once(async move {
            way.travel().await;
            inner.list(prefix.as_ref()).try_collect::<Vec<_>>().await
        })
        .map_ok(|found| stream::iter(found.into_iter().map(Ok)))
        .try_flatten()
        .boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.travel().await;
        self.bucket.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.bucket.inner.copy_opts(from, to, options).await
    }
}
