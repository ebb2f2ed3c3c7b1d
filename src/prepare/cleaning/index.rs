//! A set of 128-bit entries of any size, found by the upper half of each.
//!
//! The entries of the source at hand are in memory up to a limit, then in sorted runs; those of
//! earlier sources are in runs alone. Runs of one size are merged, so that there are few. Memory is
//! bounded by the limits, whatever the number of entries: what a full filter has no room for is
//! read from the disk. Each source leaves its own files, which a later process may take over.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::prepare::cleaning::filter::Filter;
use crate::prepare::cleaning::left::LeftFile;
use crate::prepare::cleaning::run::{self, Run};

const ENDING: &str = ".run";
/// So many runs of one source and about one size become one.
const FAN_IN: usize = 8;

/// What an index may hold in memory.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Entries of the current source; about 30 bytes each.
    pub entries: usize,
    /// Bytes of all runs' filters.
    pub filter_bytes: usize,
}

/// 4 Mi entries (about 120 MiB) and filters for 90 million.
pub const LIMITS: Limits = Limits {
    entries: 4 << 20,
    filter_bytes: 128 << 20,
};

pub struct Index {
    folder: PathBuf,
    kind: &'static str,
    limits: Limits,
    source: u32,
    recent: BTreeSet<u128>,
    runs: Vec<Stored>,
    /// The number of the current source's next run.
    next: u32,
}

struct Stored {
    source: u32,
    /// How often its entries were merged.
    level: u32,
    run: Run,
}

impl Index {
    /// Takes over the runs among the files that sources left in `folder`; `kind` begins their
    /// names.
    pub fn open(
        folder: &Path,
        kind: &'static str,
        limits: Limits,
        left: &[(u32, PathBuf)],
    ) -> Result<Self> {
        let mut index = Self {
            folder: folder.to_owned(),
            kind,
            limits,
            source: 0,
            recent: BTreeSet::new(),
            runs: Vec::new(),
            next: 0,
        };
        for (source, path) in left.iter().filter(|(_, path)| is_of(path, kind)) {
            let run = Run::load(path.clone(), |entries| index.filter(entries))?;
            let (source, level) = (*source, 0);
            index.runs.push(Stored { source, level, run });
        }
        Ok(index)
    }

    /// Begins a source anew; what it left before is removed. Later sources may have left theirs.
    pub fn begin_source(&mut self, source: u32) -> Result<()> {
        self.runs.retain(|stored| stored.source != source);
        remove_files(&self.folder, self.kind, source)?;
        self.recent.clear();
        self.source = source;
        self.next = 0;
        Ok(())
    }

    /// Gives the source and the value of each entry of a key to `found`, in no order, up to the
    /// current source.
    pub fn find(&self, key: u64, mut found: impl FnMut(u32, u64)) -> Result<()> {
        let known = |stored: &&Stored| stored.source <= self.source;
        for stored in self.runs.iter().filter(known) {
            stored.run.find(key, |value| found(stored.source, value))?;
        }
        for entry in recent(&self.recent, key) {
            found(self.source, entry);
        }
        Ok(())
    }

    /// Adds entries of the current source.
    pub fn add(&mut self, entries: impl IntoIterator<Item = u128>) -> Result<()> {
        self.recent.extend(entries);
        if self.recent.len() >= self.limits.entries {
            self.spill()?;
        }
        Ok(())
    }

    /// Leaves all entries of the current source in files.
    pub fn end_source(&mut self) -> Result<Vec<LeftFile>> {
        if !self.recent.is_empty() {
            self.spill()?;
        }
        let of_source = self.runs.iter().filter(|run| run.source == self.source);
        Ok(of_source.map(|stored| stored.run.left()).collect())
    }

    fn spill(&mut self) -> Result<()> {
        let entries = std::mem::take(&mut self.recent);
        let filter = self.filter(entries.len() as u64);
        let name = self.next_name();
        let run = Run::write(&self.folder, &name, filter, entries.into_iter().map(Ok))?;
        self.push(0, run);
        self.merge()
    }

    /// Makes one run of the newest ones while so many of them are of one level.
    fn merge(&mut self) -> Result<()> {
        while let Some(start) = self.runs.len().checked_sub(FAN_IN) {
            let newest = &self.runs[start..];
            let level = newest[FAN_IN - 1].level;
            let alike = |stored: &Stored| stored.source == self.source && stored.level == level;
            if !newest.iter().all(alike) {
                break;
            }
            // Gone from the list first: their filters make room for the new one.
            let old = self.runs.split_off(start);
            let entries = old.iter().map(|stored| stored.run.entries()).sum();
            let paths: Vec<PathBuf> = old.iter().map(|old| old.run.path().to_owned()).collect();
            drop(old);
            let (name, filter) = (self.next_name(), self.filter(entries));
            let run = Run::write(&self.folder, &name, filter, merged(&paths)?)?;
            self.push(level + 1, run);
            for path in paths {
                remove(&path)?;
            }
        }
        Ok(())
    }

    fn push(&mut self, level: u32, run: Run) {
        let source = self.source;
        self.runs.push(Stored { source, level, run });
    }

    fn next_name(&mut self) -> String {
        self.next += 1;
        format!("{}-{:05}-{:05}{ENDING}", self.kind, self.source, self.next)
    }

    /// An empty filter for so many entries, if there is room for it.
    fn filter(&self, entries: u64) -> Option<Filter> {
        let used: usize = self
            .runs
            .iter()
            .map(|stored| stored.run.filter_bytes())
            .sum();
        let fits = used + Filter::bytes_for(entries) <= self.limits.filter_bytes;
        fits.then(|| Filter::for_keys(entries))
    }
}

/// The values of a key's entries in a set.
pub fn recent(entries: &BTreeSet<u128>, key: u64) -> impl Iterator<Item = u64> {
    entries
        .range(run::entry(key, 0)..=run::entry(key, u64::MAX))
        .map(|entry| *entry as u64)
}

/// The entries of several runs in rising order.
fn merged(paths: &[PathBuf]) -> Result<impl Iterator<Item = Result<u128>> + use<>> {
    let mut inputs = paths
        .iter()
        .map(|path| run::read(path))
        .collect::<Result<Vec<_>>>()?;
    let mut heads = BinaryHeap::new();
    for (place, input) in inputs.iter_mut().enumerate() {
        heads.extend(
            input
                .next()
                .transpose()?
                .map(|entry| Reverse((entry, place))),
        );
    }
    Ok(std::iter::from_fn(move || {
        let Reverse((entry, place)) = heads.pop()?;
        match inputs[place].next().transpose() {
            Ok(next) => heads.extend(next.map(|entry| Reverse((entry, place)))),
            Err(error) => return Some(Err(error)),
        }
        Some(Ok(entry))
    }))
}

/// Whether a file is of a kind, by its name `<kind>-<source>…`.
pub fn is_of(path: &Path, kind: &str) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let rest = name.strip_prefix(kind);
    rest.is_some_and(|rest| rest.starts_with('-'))
}

/// Removes the files of a kind that a source left, unfinished ones too.
pub fn remove_files(folder: &Path, kind: &str, source: u32) -> Result<()> {
    let context = || format!("cannot list the folder {}", folder.display());
    let of_source = format!("{kind}-{source:05}");
    for entry in fs::read_dir(folder).with_context(context)? {
        let path = entry.with_context(context)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let rest = name.strip_prefix(&of_source);
        if rest.is_some_and(|rest| rest.starts_with(['-', '.'])) {
            remove(&path)?;
        }
    }
    Ok(())
}

fn remove(path: &Path) -> Result<()> {
    fs::remove_file(path).with_context(|| format!("cannot remove {}", path.display()))
}

#[cfg(test)]
mod tests;
