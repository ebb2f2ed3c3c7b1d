//! A sorted file of 128-bit entries that is searched where it lies.
//!
//! The upper half of an entry is its key, the lower half what belongs to it. A run is written once,
//! in full or not at all, and never changed. Memory holds the key of each block of 4 KiB, and a
//! Bloom filter where there is room for one, so that a key that is not there costs no read.

use std::fs::File;
use std::io::{BufReader, ErrorKind, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::prepare::cleaning::filter::Filter;
use crate::prepare::cleaning::left::LeftFile;
use crate::prepare::files;

const ENTRY_BYTES: usize = 16;
const BLOCK_ENTRIES: usize = 256;
const BLOCK_BYTES: usize = BLOCK_ENTRIES * ENTRY_BYTES;

pub struct Run {
    path: PathBuf,
    file: File,
    entries: u64,
    /// The key of the first entry of each block.
    firsts: Vec<u64>,
    filter: Option<Filter>,
}

/// The key of an entry.
pub fn key(entry: u128) -> u64 {
    (entry >> 64) as u64
}

/// The entry of a key.
pub fn entry(key: u64, value: u64) -> u128 {
    (u128::from(key) << 64) | u128::from(value)
}

impl Run {
    /// Writes `<folder>/<name>` from entries in rising order; `filter` is empty.
    pub fn write(
        folder: &Path,
        name: &str,
        filter: Option<Filter>,
        sorted: impl Iterator<Item = Result<u128>>,
    ) -> Result<Self> {
        let mut contents = Contents::new(filter);
        files::write(folder, name, |output| {
            for entry in sorted {
                let entry = entry?;
                contents.add(entry)?;
                output.write_all(&entry.to_le_bytes())?;
            }
            Ok(())
        })?;
        contents.of(folder.join(name))
    }

    /// Reads through a run that was written before; `filter` makes one for so many entries.
    ///
    /// # Errors
    /// A file that cannot be read, or that is none.
    pub fn load(path: PathBuf, filter: impl FnOnce(u64) -> Option<Filter>) -> Result<Self> {
        let context = || format!("cannot read {}", path.display());
        let bytes = std::fs::metadata(&path).with_context(context)?.len();
        let mut contents = Contents::new(filter(bytes / ENTRY_BYTES as u64));
        for entry in read(&path)? {
            contents.add(entry?).with_context(context)?;
        }
        contents.of(path)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn entries(&self) -> u64 {
        self.entries
    }

    /// Its file, as a later process has to find it.
    pub fn left(&self) -> LeftFile {
        let name = self.path.file_name().unwrap_or_default();
        LeftFile {
            name: name.to_string_lossy().into_owned(),
            bytes: self.entries * ENTRY_BYTES as u64,
        }
    }

    pub fn filter_bytes(&self) -> usize {
        self.filter.as_ref().map_or(0, Filter::bytes)
    }

    /// Gives the value of each entry of a key to `found`, in rising order.
    pub fn find(&self, wanted: u64, mut found: impl FnMut(u64)) -> Result<()> {
        if self
            .filter
            .as_ref()
            .is_some_and(|filter| !filter.may_hold(wanted))
        {
            return Ok(());
        }
        // Entries of the key may end the block before the first block that begins with it.
        let after = self.firsts.partition_point(|first| *first < wanted);
        let mut buffer = [0; BLOCK_BYTES];
        for block in after.saturating_sub(1)..self.firsts.len() {
            if self.firsts[block] > wanted {
                break;
            }
            let start = block * BLOCK_ENTRIES;
            let entries = (self.entries as usize - start).min(BLOCK_ENTRIES);
            let bytes = &mut buffer[..entries * ENTRY_BYTES];
            self.file
                .read_exact_at(bytes, (start * ENTRY_BYTES) as u64)
                .with_context(|| format!("cannot read {}", self.path.display()))?;
            for entry in bytes.chunks_exact(ENTRY_BYTES).map(entry_of) {
                if key(entry) == wanted {
                    found(entry as u64);
                }
            }
        }
        Ok(())
    }
}

/// The entries of a run in order.
pub fn read(path: &Path) -> Result<impl Iterator<Item = Result<u128>> + use<>> {
    let context = format!("cannot read {}", path.display());
    let file = File::open(path).with_context(|| context.clone())?;
    let mut input = BufReader::with_capacity(16 * BLOCK_BYTES, file);
    Ok(std::iter::from_fn(move || {
        let mut bytes = [0; ENTRY_BYTES];
        match input.read_exact(&mut bytes) {
            Ok(()) => Some(Ok(u128::from_le_bytes(bytes))),
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => None,
            Err(error) => Some(Err(error).with_context(|| context.clone())),
        }
    }))
}

fn entry_of(bytes: &[u8]) -> u128 {
    u128::from_le_bytes(bytes.try_into().expect("chunks have an entry's length"))
}

/// What memory knows of a run while its entries pass.
struct Contents {
    entries: u64,
    last: u128,
    firsts: Vec<u64>,
    filter: Option<Filter>,
}

impl Contents {
    fn new(filter: Option<Filter>) -> Self {
        Self {
            entries: 0,
            last: 0,
            firsts: Vec::new(),
            filter,
        }
    }

    fn add(&mut self, entry: u128) -> Result<()> {
        if self.entries > 0 && entry <= self.last {
            bail!(
                "it is damaged: its entries are out of order\n  hint: delete the folder .preparing \
                 in `output`, and run again"
            );
        }
        if self.entries.is_multiple_of(BLOCK_ENTRIES as u64) {
            self.firsts.push(key(entry));
        }
        if let Some(filter) = &mut self.filter {
            filter.add(key(entry));
        }
        self.entries += 1;
        self.last = entry;
        Ok(())
    }

    fn of(self, path: PathBuf) -> Result<Run> {
        let file = File::open(&path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(Run {
            path,
            file,
            entries: self.entries,
            firsts: self.firsts,
            filter: self.filter,
        })
    }
}
