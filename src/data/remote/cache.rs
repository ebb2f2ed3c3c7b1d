//! The cache of a machine: a folder of files named by the digest of their content.
//!
//! Any number of processes share it. Who holds the lock of a digest downloads it, under another
//! name, and renames it when the digest is right: a file under its own name is whole. The system
//! frees the lock of a process that dies, and what such a one leaves is removed with the next
//! download. When the bound is passed, the files that were opened longest ago are removed. On Linux
//! a removed file stays readable to who has it open or mapped, so no reader is ever disturbed; its
//! space comes back when the last one lets go.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use tracing::warn;

use crate::corpus::StoredFile;
use crate::telemetry::file_time;

/// For this user alone: token ids are text.
const FOLDER_MODE: u32 = 0o700;
const LOCK: &str = "lock";
const PART: &str = "part";
/// Held while files are removed, for a moment.
const SWEEP_LOCK_FILE: &str = "sweep.lock";
const SWEEP_ATTEMPTS_MAX: u32 = 100;
const SWEEP_POLL_INTERVAL: Duration = Duration::from_millis(1);
/// Hexadecimal digits of a digest.
const DIGEST_DIGITS: usize = 64;

static PARTS: AtomicU64 = AtomicU64::new(0);

#[derive(Debug)]
pub(in crate::data) struct Cache {
    folder: PathBuf,
    bytes_max: u64,
}

/// The right to download a digest, until dropped.
#[derive(Debug)]
pub(in crate::data) struct Claim {
    lock: PathBuf,
    /// None on a file system without locks: there, two processes may download the same.
    _held: Option<File>,
}

/// A file on its way into the cache; removed when dropped.
#[derive(Debug)]
pub(in crate::data) struct Part {
    path: PathBuf,
    file: File,
}

impl Cache {
    /// Makes the folder where it is missing.
    pub(in crate::data) fn open(folder: &Path, bytes_max: u64) -> Result<Self> {
        DirBuilder::new()
            .recursive(true)
            .mode(FOLDER_MODE)
            .create(folder)
            .with_context(|| {
                format!(
                    "cannot make the cache folder {}\n  \
                     hint: name a folder that this user may write to with `cache` of `corpus`",
                    folder.display()
                )
            })?;
        Ok(Self {
            folder: folder.to_owned(),
            bytes_max,
        })
    }

    pub(in crate::data) fn bytes_max(&self) -> u64 {
        self.bytes_max
    }

    /// The file, if it is there with its size.
    pub(in crate::data) fn find(&self, stored: &StoredFile) -> Option<File> {
        let file = File::open(self.folder.join(&stored.digest)).ok()?;
        if file.metadata().ok()?.len() != stored.bytes {
            return None;
        }
        // Where the time cannot be set, files go by age instead of use.
        drop(file.set_modified(file_time()));
        Some(file)
    }

    pub(in crate::data) fn has(&self, stored: &StoredFile) -> bool {
        fs::metadata(self.folder.join(&stored.digest))
            .is_ok_and(|found| found.len() == stored.bytes)
    }

    /// Bytes of a download that another one has got so far; nothing where there is none.
    pub(in crate::data) fn partial_bytes(&self, digest: &str) -> u64 {
        let parts = self.entries().unwrap_or_default();
        let parts = parts.iter().filter(|entry| entry.is_part_of(digest));
        parts.map(|entry| entry.bytes).sum()
    }

    /// The right to download a digest, unless another process or thread has it.
    pub(in crate::data) fn try_claim(&self, digest: &str) -> Result<Option<Claim>> {
        ensure!(
            digest.len() == DIGEST_DIGITS && digest.bytes().all(|digit| digit.is_ascii_hexdigit()),
            "the manifest has a file without a blake3 digest\n  hint: run cohort prepare again"
        );
        let path = self.folder.join(format!("{digest}.{LOCK}"));
        loop {
            let file = open_lock(&path)?;
            let held = match file.try_lock() {
                Ok(()) => Some(file),
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => {
                    None
                }
                Err(TryLockError::Error(error)) => return Err(cannot("lock", &path, &error)),
            };
            // Its last holder may have removed it between our opening and our locking it.
            let current = held.as_ref().is_none_or(|file| is_at(file, &path));
            if current {
                return Ok(Some(Claim {
                    lock: path,
                    _held: held,
                }));
            }
        }
    }

    /// Starts a file that is to become `digest`; the caller has the claim on it.
    pub(in crate::data) fn part(&self, digest: &str) -> Result<Part> {
        loop {
            let number = PARTS.fetch_add(1, Ordering::Relaxed);
            let name = format!("{digest}.{}-{number}.{PART}", std::process::id());
            let path = self.folder.join(name);
            // Where there are no locks, a container's process of the same number may be at it.
            let mut options = OpenOptions::new();
            match options.read(true).write(true).create_new(true).open(&path) {
                Ok(file) => return Ok(Part { path, file }),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(cannot("write", &path, &error)),
            }
        }
    }

    /// Makes a finished part the file of its digest, and holds the bound again.
    pub(in crate::data) fn keep(&self, part: &Part, digest: &str) -> Result<File> {
        let path = self.folder.join(digest);
        fs::rename(&part.path, &path).map_err(|error| cannot("write", &path, &error))?;
        // The file is right and in its place, whatever cannot be removed beside it.
        if let Err(error) = self.make_room(0, Some(digest)) {
            warn!("the corpus cache is beyond its bound: {error:#}");
        }
        part.file
            .try_clone()
            .map_err(|error| cannot("open", &path, &error))
    }

    /// Removes what dead processes left, and the files used longest ago, until `incoming` bytes
    /// more are within the bound; never `newest`.
    pub(in crate::data) fn make_room(&self, incoming: u64, newest: Option<&str>) -> Result<()> {
        let sweep = open_lock(&self.folder.join(SWEEP_LOCK_FILE))?;
        // Its holder does what follows here, in milliseconds. Where it does not come to an end, the
        // bound is held again by whoever downloads next.
        for _ in 0..SWEEP_ATTEMPTS_MAX {
            if !matches!(sweep.try_lock(), Err(TryLockError::WouldBlock)) {
                break;
            }
            sleep(SWEEP_POLL_INTERVAL);
        }
        let mut entries = self
            .entries()
            .with_context(|| format!("cannot list the cache folder {}", self.folder.display()))?;
        entries.retain(|entry| !self.is_abandoned(entry));
        let mut total = incoming + entries.iter().map(|entry| entry.bytes).sum::<u64>();
        entries.retain(|entry| entry.is_whole() && Some(entry.digest()) != newest);
        entries.sort_by(|a, b| (a.used, &a.name).cmp(&(b.used, &b.name)));
        for entry in entries {
            if total <= self.bytes_max {
                break;
            }
            let path = self.folder.join(&entry.name);
            remove(&path).map_err(|error| cannot("remove", &path, &error))?;
            total -= entry.bytes;
        }
        Ok(())
    }

    /// Removes a part whose downloader is dead: its lock is free. True where it is gone.
    fn is_abandoned(&self, entry: &Entry) -> bool {
        if entry.is_whole() {
            return false;
        }
        let claim = self.try_claim(entry.digest());
        let Ok(Some(Claim { _held: Some(_), .. })) = &claim else {
            return false;
        };
        remove(&self.folder.join(&entry.name)).is_ok()
    }

    fn entries(&self) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            // Gone since it was listed, or none of ours.
            let Ok(found) = entry.metadata() else {
                continue;
            };
            let entry = Entry {
                name,
                bytes: found.len(),
                used: (found.mtime(), found.mtime_nsec()),
            };
            if entry.is_whole() || entry.name.ends_with(&format!(".{PART}")) {
                entries.push(entry);
            }
        }
        Ok(entries)
    }
}

/// A file of the cache: a whole one, or a part of one.
struct Entry {
    name: String,
    bytes: u64,
    /// Seconds and nanoseconds since 1970.
    used: (i64, i64),
}

impl Entry {
    fn digest(&self) -> &str {
        self.name.split('.').next().unwrap_or_default()
    }

    fn is_whole(&self) -> bool {
        self.name.len() == DIGEST_DIGITS && self.name.bytes().all(|digit| digit.is_ascii_hexdigit())
    }

    fn is_part_of(&self, digest: &str) -> bool {
        !self.is_whole() && self.digest() == digest
    }
}

impl Part {
    pub(in crate::data) fn path(&self) -> &Path {
        &self.path
    }

    pub(in crate::data) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // Not there any more where it was kept.
        drop(remove(&self.path));
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // While the lock is held: who waits for it finds another file here, or none.
        drop(remove(&self.lock));
    }
}

/// Whether two open files are the same one.
pub(in crate::data) fn is_same(one: &File, other: &File) -> bool {
    let identity = |file: &File| file.metadata().ok().map(|found| (found.dev(), found.ino()));
    identity(one).is_some_and(|found| identity(other) == Some(found))
}

fn is_at(file: &File, path: &Path) -> bool {
    File::open(path).is_ok_and(|there| is_same(file, &there))
}

fn open_lock(path: &Path) -> Result<File> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .map_err(|error| cannot("open", path, &error))
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// An error of the cache's own disk.
pub(in crate::data) fn cannot(what: &str, path: &Path, error: &io::Error) -> anyhow::Error {
    anyhow!(
        "cannot {what} {} in the corpus cache: {error}\n  \
         hint: free space there, lower `cache_bytes`, or name another folder with `cache`",
        path.display()
    )
}
