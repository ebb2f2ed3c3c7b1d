//! Sources in object storage: from an address or a pattern to objects, and from an object to its
//! bytes, streamed.
//!
//! An object is read in parts, a few of them ahead, each repeated until it is whole; memory holds
//! those parts, however large the object. Invariant: all bytes of one object are of the version
//! that was found when the preparation began, or there is an error.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};

use anyhow::{Context, Result, bail, ensure};
use bytes::{Buf, Bytes};

use crate::prepare::inputs::{InputFile, NothingThere};
use crate::prepare::pattern::{is_pattern, path_matches};
use crate::store::backend::Credentials;
use crate::store::background::{Background, Pending};
use crate::store::error::StoreError;
use crate::store::reader::{Described, Reader};
use crate::store::settings::{ReadSettings, is_address};

const PART_BYTES: u64 = 8 << 20;
/// Parts of one object that are asked for before they are wanted.
const PARTS_AHEAD: usize = 3;
/// Read here and there, in blocks of this size.
const BLOCK_BYTES: u64 = 4 << 20;
const BLOCKS_KEPT: usize = 8;
const LIST_HINT: &str = "list what is there; `*` stops at slashes, `**` does not";
const SCHEMES: [&str; 4] = ["s3", "gs", "az", "file"];

/// The stores that a configuration's sources are read from.
#[derive(Debug)]
pub struct Objects {
    settings: ReadSettings,
    credentials: Credentials,
    /// Started with the first object.
    background: OnceLock<Arc<Background>>,
}

/// Where objects lie together.
struct Bucket {
    /// Ends with a slash.
    address: String,
    reader: Reader,
    background: Arc<Background>,
}

/// An object as it was found.
pub struct ObjectInput {
    reader: Reader,
    background: Arc<Background>,
    described: Described,
    /// Why reading some bytes of it failed at last.
    failure: OnceLock<String>,
}

/// An object for who reads here and there in it: blocks of it, of which the last few are kept.
pub struct ObjectBlocks {
    object: Arc<ObjectInput>,
    kept: Mutex<VecDeque<(u64, Bytes)>>,
}

/// The bytes of an object from some place on.
pub struct ObjectBytes {
    object: Arc<ObjectInput>,
    current: Bytes,
    ahead: VecDeque<Pending<Result<Bytes, StoreError>>>,
    /// The first byte that was not asked for yet.
    next: u64,
}

impl Objects {
    pub fn new(settings: &ReadSettings, credentials: Credentials) -> Self {
        Self {
            settings: settings.clone(),
            credentials,
            background: OnceLock::new(),
        }
    }

    /// The objects that an address or a pattern names, as [`crate::prepare::inputs::expand`] has
    /// files; at least one.
    pub fn expand(&self, pattern: &Path) -> Result<Vec<InputFile>> {
        let text = pattern.to_str().context("an address is UTF-8")?;
        let (bucket, key) = self.open(text)?;
        if !is_pattern(Path::new(&key)) {
            let reader = bucket.reader.clone();
            let found = bucket
                .background
                .wait(async move { reader.describe(&key).await })?;
            return match found {
                Err(StoreError::NotFound { .. }) => {
                    bail!(NothingThere::new(format!("no object at {text}"), LIST_HINT))
                }
                found => Ok(vec![bucket.input(found?)]),
            };
        }
        let mut found = bucket.list(folder_of(&key))?;
        found.retain(|object| path_matches(&key, &object.key));
        // As paths are sorted, folder by folder.
        found.sort_by(|a, b| Path::new(&a.key).cmp(Path::new(&b.key)));
        if found.is_empty() {
            bail!(NothingThere::new(
                format!("no object matches {text}"),
                LIST_HINT
            ));
        }
        Ok(found.into_iter().map(|found| bucket.input(found)).collect())
    }

    /// All objects below the address of a folder, by their addresses.
    pub fn below(&self, folder: &Path) -> Result<BTreeMap<PathBuf, InputFile>> {
        let text = folder.to_str().context("an address is UTF-8")?;
        let (bucket, key) = self.open(&format!("{}/", text.trim_end_matches('/')))?;
        let found = bucket.list(key.trim_end_matches('/'))?;
        let inputs = found.into_iter().map(|found| bucket.input(found));
        Ok(inputs.map(|input| (input.path.clone(), input)).collect())
    }

    /// The bucket of an address, and the key in it.
    fn open(&self, address: &str) -> Result<(Bucket, String)> {
        let (address, key) = split(address)?;
        let bucket = Bucket {
            background: self.background()?,
            reader: Reader::open(&address, &self.settings, &self.credentials)?,
            address,
        };
        Ok((bucket, key))
    }

    fn background(&self) -> Result<Arc<Background>> {
        if let Some(background) = self.background.get() {
            return Ok(Arc::clone(background));
        }
        let started = Arc::new(Background::start("cohort-fetch")?);
        Ok(Arc::clone(self.background.get_or_init(|| started)))
    }
}

impl Bucket {
    /// The objects below a folder.
    fn list(&self, folder: &str) -> Result<Vec<Described>> {
        let (reader, folder) = (self.reader.clone(), folder.to_owned());
        let listed = async move { reader.list_described(&folder).await };
        Ok(self.background.wait(listed)??)
    }

    fn input(&self, described: Described) -> InputFile {
        InputFile {
            path: PathBuf::from(format!("{}{}", self.address, described.key)),
            bytes: described.bytes,
            modified_ns: 0,
            version: Some(described.version.to_string()),
            object: Some(Arc::new(ObjectInput {
                reader: self.reader.clone(),
                background: Arc::clone(&self.background),
                described,
                failure: OnceLock::new(),
            })),
        }
    }
}

/// An address as that of its bucket, which ends with a slash, and the key in it.
fn split(address: &str) -> Result<(String, String)> {
    let (scheme, rest) = address.split_once("://").unwrap_or_default();
    let Some((bucket, key)) = rest.split_once('/') else {
        bail!("{address} names no object\n  hint: write s3://bucket/folder/file");
    };
    ensure!(
        SCHEMES.contains(&scheme),
        "no store is known by the address {address}\n  \
         hint: sources are paths, or addresses that begin with s3://, gs://, az:// or file://"
    );
    Ok((format!("{scheme}://{bucket}/"), key.to_owned()))
}

/// The folders that a pattern names without `*` and `?`.
fn folder_of(pattern: &str) -> &str {
    let plain = pattern.find(['*', '?']).unwrap_or(pattern.len());
    pattern[..plain]
        .rsplit_once('/')
        .map_or("", |(folder, _)| folder)
}

/// Whether a path of a configuration is an address.
pub fn is_object(path: &Path) -> bool {
    path.to_str().is_some_and(is_address)
}

impl ObjectInput {
    /// Its bytes from `start` on.
    pub fn open(self: &Arc<Self>, start: u64) -> ObjectBytes {
        ObjectBytes {
            object: Arc::clone(self),
            current: Bytes::new(),
            ahead: VecDeque::new(),
            next: start,
        }
    }

    /// For reading here and there.
    pub fn blocks(self: &Arc<Self>) -> ObjectBlocks {
        ObjectBlocks {
            object: Arc::clone(self),
            kept: Mutex::default(),
        }
    }

    /// Why reading it failed, for who gets other errors from what reads it.
    pub fn failure(&self) -> Option<&str> {
        self.failure.get().map(String::as_str)
    }
}

impl ObjectBlocks {
    pub fn bytes(&self) -> u64 {
        self.object.described.bytes
    }

    /// The bytes from `at` on, as far as one block has them; none at the end.
    pub fn read_at(&self, at: u64) -> io::Result<Bytes> {
        if at >= self.bytes() {
            return Ok(Bytes::new());
        }
        let start = at - at % BLOCK_BYTES;
        let mut kept = self.kept.lock().expect("reading a block does not panic");
        let place = kept.iter().position(|(place, _)| *place == start);
        let (_, block) = match place.and_then(|place| kept.remove(place)) {
            Some(block) => block,
            None => (start, self.fetch(start)?),
        };
        kept.push_back((start, block.clone()));
        if kept.len() > BLOCKS_KEPT {
            kept.pop_front();
        }
        Ok(block.slice((at - start) as usize..))
    }

    fn fetch(&self, start: u64) -> io::Result<Bytes> {
        let object = Arc::clone(&self.object);
        let range = start..self.bytes().min(start + BLOCK_BYTES);
        let read = async move { object.reader.range(&object.described, range).await };
        let read = self.object.background.wait(read);
        read.map_err(io::Error::other)?.map_err(|error| {
            self.object.failure.get_or_init(|| error.to_string());
            io::Error::other(error)
        })
    }
}

impl fmt::Debug for ObjectInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ObjectInput({:?})", self.described)
    }
}

impl ObjectBytes {
    /// Asks for the next parts.
    fn ask(&mut self) {
        let bytes = self.object.described.bytes;
        while self.ahead.len() < PARTS_AHEAD && self.next < bytes {
            let range = self.next..bytes.min(self.next + PART_BYTES);
            self.next = range.end;
            let object = Arc::clone(&self.object);
            let part = async move { object.reader.range(&object.described, range).await };
            self.ahead.push_back(self.object.background.spawn(part));
        }
    }
}

impl Read for ObjectBytes {
    /// Errors hold a [`StoreError`].
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            self.ask();
            let Some(part) = self.ahead.pop_front() else {
                return Ok(0);
            };
            let part = part.wait().map_err(io::Error::other)?;
            self.current = part.map_err(io::Error::other)?;
        }
        let count = buffer.len().min(self.current.len());
        self.current.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}
