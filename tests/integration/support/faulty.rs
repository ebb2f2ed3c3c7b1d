//! Objects with every fault that a store can have, by seed: calls that fail or never end, answers
//! that are lost or untrue, writes that are torn or damaged, reads that are cut or altered; and the
//! death of the process that calls, before or after what its last call did.

#![allow(
    clippy::unwrap_used,
    reason = "all of it is test code, also outside the functions that are marked as tests"
)]

use std::collections::BTreeMap;
use std::fmt;
use std::future::pending;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use cohort::corpus::random::keyed_number;
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload,
    ObjectMeta, ObjectStore, ObjectStoreExt, PutMultipartOptions, PutOptions, PutPayload,
    PutResult, Result, UploadPart,
};
use tokio::sync::Notify;

const THOUSAND: u64 = 1_000;

/// Of a thousand calls, how many meet what. One call meets one fault at most.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    pub seed: u64,
    /// Nothing is done, and the answer says so.
    pub errors: u64,
    /// What was asked is done, and the answer is an error.
    pub lost_answers: u64,
    /// No answer ever comes; half of them do what was asked.
    pub stalls: u64,
    /// A write or a deletion that is not done, though the answer says so.
    pub lies: u64,
    /// A write that is cut short or altered on its way to the disk.
    pub damages: u64,
    /// A write of which half is done, and the answer is an error.
    pub tears: u64,
    /// A body or a listing that ends halfway with an error.
    pub cuts: u64,
    /// A body with one bit turned around.
    pub flips: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fate {
    Good,
    Error,
    LostAnswer,
    Stall,
    Lie,
    Damage,
    Tear,
    Cut,
    Flip,
}

/// The call at which the caller dies, and whether what it asks is done.
#[derive(Clone, Copy, Debug)]
pub struct Death {
    pub call: u64,
    pub done: bool,
}

#[derive(Debug, Default)]
struct Plan {
    faults: Faults,
    death: Option<Death>,
    calls: u64,
    met: BTreeMap<Fate, u64>,
}

/// Objects behind faults. Cheap to clone; all clones count the same calls.
#[derive(Clone, Debug)]
pub struct FaultyObjects {
    inner: Arc<dyn ObjectStore>,
    plan: Arc<Mutex<Plan>>,
    died: Arc<Notify>,
    /// How often a call gives way to others before it is carried out.
    turns: u32,
}

/// One call: what it meets, and a number of its own.
#[derive(Clone, Copy)]
struct Turn {
    fate: Fate,
    word: u64,
    dies: bool,
}

impl Faults {
    fn fate(&self, word: u64) -> Fate {
        let mut place = word % THOUSAND;
        for (share, fate) in [
            (self.errors, Fate::Error),
            (self.lost_answers, Fate::LostAnswer),
            (self.stalls, Fate::Stall),
            (self.lies, Fate::Lie),
            (self.damages, Fate::Damage),
            (self.tears, Fate::Tear),
            (self.cuts, Fate::Cut),
            (self.flips, Fate::Flip),
        ] {
            if place < share {
                return fate;
            }
            place -= share;
        }
        Fate::Good
    }
}

impl FaultyObjects {
    pub fn over(inner: Arc<dyn ObjectStore>) -> Self {
        Self {
            inner,
            plan: Arc::default(),
            died: Arc::default(),
            turns: 1,
        }
    }

    /// The same objects for who is slower.
    pub fn slowed(&self, turns: u32) -> Self {
        Self {
            turns,
            ..self.clone()
        }
    }

    /// What calls meet from now on.
    pub fn set(&self, faults: Faults, death: Option<Death>) {
        let mut plan = self.plan.lock().unwrap();
        (plan.faults, plan.death) = (faults, death);
    }

    pub fn calls(&self) -> u64 {
        self.plan.lock().unwrap().calls
    }

    /// How many calls met which fault.
    pub fn met(&self) -> BTreeMap<Fate, u64> {
        self.plan.lock().unwrap().met.clone()
    }

    /// Waits until the call comes at which the caller dies.
    pub async fn death(&self) {
        self.died.notified().await;
    }

    /// What the next call meets, of the faults that such a call can have.
    async fn enter(&self, possible: &[Fate]) -> Turn {
        let (turn, dead) = {
            let mut plan = self.plan.lock().unwrap();
            plan.calls += 1;
            let word = keyed_number(plan.faults.seed, "fate", &[plan.calls]);
            let fate = plan.faults.fate(word);
            let fate = if possible.contains(&fate) {
                fate
            } else {
                Fate::Good
            };
            if fate != Fate::Good {
                *plan.met.entry(fate).or_default() += 1;
            }
            let death = plan.death.filter(|death| death.call == plan.calls);
            let turn = Turn {
                fate,
                word: word / THOUSAND,
                dies: death.is_some(),
            };
            (turn, death.is_some_and(|death| !death.done))
        };
        if dead {
            self.die().await;
        }
        for _ in 0..self.turns {
            tokio::task::yield_now().await;
        }
        if turn.fate == Fate::Stall && turn.word.is_multiple_of(2) {
            pending::<()>().await;
        }
        turn
    }

    async fn leave<T>(&self, turn: Turn, done: Result<T>) -> Result<T> {
        if turn.dies {
            self.die().await;
        }
        match turn.fate {
            Fate::Stall => pending().await,
            Fate::LostAnswer => Err(fault("the answer was lost")),
            _ => done,
        }
    }

    async fn die(&self) {
        self.died.notify_one();
        pending::<()>().await;
    }

    async fn delete_one(&self, location: Path) -> Result<Path> {
        let possible = [Fate::Error, Fate::LostAnswer, Fate::Stall, Fate::Lie];
        let turn = self.enter(&possible).await;
        let done = match turn.fate {
            Fate::Error => return Err(fault("nothing was deleted")),
            Fate::Lie => Ok(()),
            _ => self.inner.delete(&location).await,
        };
        self.leave(turn, done.map(|()| location)).await
    }

    /// The part of a listing that comes, and the error that it ends with.
    async fn listing(&self, prefix: Option<&Path>) -> (Vec<ObjectMeta>, Option<Error>) {
        let turn = self.enter(&[Fate::Error, Fate::Stall, Fate::Cut]).await;
        let found = self.inner.list(prefix).try_collect::<Vec<_>>().await;
        match self.leave(turn, found).await {
            Ok(mut found) if turn.fate == Fate::Cut => {
                found.truncate(found.len() / 2);
                (found, Some(fault("the listing was cut")))
            }
            Ok(_) if turn.fate == Fate::Error => (Vec::new(), Some(fault("nothing was listed"))),
            Ok(found) => (found, None),
            Err(error) => (Vec::new(), Some(error)),
        }
    }
}

fn fault(what: &'static str) -> Error {
    Error::Generic {
        store: "faulty",
        source: what.into(),
    }
}

/// The bytes with one bit turned around; too short ones with one more.
fn flipped(bytes: &Bytes, word: u64) -> Bytes {
    let mut bytes = bytes.to_vec();
    match bytes.len() as u64 {
        0 => bytes.push(0),
        length => bytes[(word % length) as usize] ^= 1 << (word % 8),
    }
    bytes.into()
}

fn halved(bytes: &Bytes) -> Bytes {
    bytes.slice(..bytes.len() / 2)
}

/// What a write leaves that meets a fault.
fn written(payload: PutPayload, turn: Turn) -> PutPayload {
    let bytes = Bytes::from(payload);
    let bytes = match turn.fate {
        Fate::Tear => halved(&bytes),
        Fate::Damage if turn.word.is_multiple_of(2) && !bytes.is_empty() => halved(&bytes),
        Fate::Damage => flipped(&bytes, turn.word),
        _ => bytes,
    };
    bytes.into()
}

fn made_up() -> PutResult {
    PutResult {
        e_tag: Some("made-up".to_owned()),
        version: None,
        extensions: object_store::Extensions::default(),
    }
}

impl fmt::Display for FaultyObjects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "faulty {}", self.inner)
    }
}

const WRITES: [Fate; 6] = [
    Fate::Error,
    Fate::LostAnswer,
    Fate::Stall,
    Fate::Lie,
    Fate::Damage,
    Fate::Tear,
];

#[async_trait]
impl ObjectStore for FaultyObjects {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        let turn = self.enter(&WRITES).await;
        let done = match turn.fate {
            Fate::Error => return Err(fault("nothing was written")),
            Fate::Lie => Ok(made_up()),
            _ => {
                let payload = written(payload, turn);
                self.inner.put_opts(location, payload, options).await
            }
        };
        let done = self.leave(turn, done).await?;
        if turn.fate == Fate::Tear {
            return Err(fault("half was written"));
        }
        Ok(done)
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let turn = self.enter(&[Fate::Error, Fate::Stall]).await;
        if turn.fate == Fate::Error {
            return Err(fault("no upload was begun"));
        }
        let begun = self.inner.put_multipart_opts(location, options).await;
        let upload = self.leave(turn, begun).await?;
        Ok(Box::new(FaultyUpload {
            upload,
            location: location.clone(),
            objects: self.clone(),
        }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let possible = [Fate::Error, Fate::Stall, Fate::Cut, Fate::Flip];
        let turn = self.enter(&possible).await;
        if turn.fate == Fate::Error {
            return Err(fault("nothing was read"));
        }
        let head = options.head;
        let found = self.inner.get_opts(location, options).await;
        let found = self.leave(turn, found).await?;
        if head {
            return Ok(found);
        }
        let (meta, range) = (found.meta.clone(), found.range.clone());
        let (attributes, extensions) = (found.attributes.clone(), found.extensions.clone());
        let bytes = found.bytes().await?;
        let pieces = match turn.fate {
            Fate::Cut => vec![Ok(halved(&bytes)), Err(fault("the body was cut"))],
            Fate::Flip if !bytes.is_empty() => vec![Ok(flipped(&bytes, turn.word))],
            _ => vec![Ok(bytes)],
        };
        Ok(GetResult {
            payload: GetResultPayload::Stream(stream::iter(pieces).boxed()),
            meta,
            range,
            attributes,
            extensions,
        })
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let objects = self.clone();
        locations
            .and_then(move |location| {
                let objects = objects.clone();
                async move { objects.delete_one(location).await }
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (objects, prefix) = (self.clone(), prefix.cloned());
        let listing = async move {
            let (found, error) = objects.listing(prefix.as_ref()).await;
            stream::iter(found.into_iter().map(Ok).chain(error.map(Err)))
        };
        stream::once(listing).flatten().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let turn = self.enter(&[Fate::Error, Fate::Stall]).await;
        if turn.fate == Fate::Error {
            return Err(fault("nothing was listed"));
        }
        let found = self.inner.list_with_delimiter(prefix).await;
        self.leave(turn, found).await
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        Err(fault("nothing here copies objects"))
    }
}

#[derive(Debug)]
struct FaultyUpload {
    upload: Box<dyn MultipartUpload>,
    location: Path,
    objects: FaultyObjects,
}

#[async_trait]
impl MultipartUpload for FaultyUpload {
    fn put_part(&mut self, part: PutPayload) -> UploadPart {
        let (objects, upload) = (self.objects.clone(), self.upload.put_part(part));
        Box::pin(async move {
            let possible = [Fate::Error, Fate::LostAnswer, Fate::Stall];
            let turn = objects.enter(&possible).await;
            if turn.fate == Fate::Error {
                return Err(fault("no part was written"));
            }
            let done = upload.await;
            objects.leave(turn, done).await
        })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let possible = [
            Fate::Error,
            Fate::LostAnswer,
            Fate::Stall,
            Fate::Lie,
            Fate::Damage,
        ];
        let turn = self.objects.enter(&possible).await;
        let done = match turn.fate {
            Fate::Error => return Err(fault("nothing was completed")),
            Fate::Lie => Ok(made_up()),
            _ => self.upload.complete().await,
        };
        if let (Fate::Damage, Ok(_)) = (turn.fate, &done) {
            let inner = &self.objects.inner;
            let whole = inner.get(&self.location).await?.bytes().await?;
            inner
                .put(&self.location, written(whole.into(), turn))
                .await?;
        }
        self.objects.leave(turn, done).await
    }

    async fn abort(&mut self) -> Result<()> {
        self.upload.abort().await
    }
}
