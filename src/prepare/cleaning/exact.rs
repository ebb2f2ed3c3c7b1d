//! Finding the earlier document with the same text.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::prepare::cleaning::index::{Index, LIMITS};
use crate::prepare::cleaning::left::LeftFile;
use crate::prepare::cleaning::run;

const INDEX_KIND: &str = "texts";

/// The texts kept so far, by their hashes of [`crate::prepare::cleaning::equality`].
pub struct Exact {
    index: Index,
    source: u32,
    /// What the batch at hand has added; the index is not changed while others read it.
    batch: BTreeSet<u128>,
}

impl Exact {
    /// Takes over what sources left in `folder`.
    pub fn open(folder: &Path, left: &[(u32, PathBuf)]) -> Result<Self> {
        Ok(Self {
            index: Index::open(folder, INDEX_KIND, LIMITS, left)?,
            source: 0,
            batch: BTreeSet::new(),
        })
    }

    /// Begins a source anew; what it left before is removed.
    pub fn begin_source(&mut self, source: u32) -> Result<()> {
        self.source = source;
        self.batch.clear();
        self.index.begin_source(source)
    }

    /// The source that kept this text before this batch.
    pub fn examine(&self, text: u128) -> Result<Option<u32>> {
        let mut kept_by = None;
        self.index.find(run::key(text), |source, rest| {
            if rest == text as u64 {
                kept_by = Some(source);
            }
        })?;
        Ok(kept_by)
    }

    /// The current source, if it kept this text in this batch.
    pub fn find(&self, text: u128) -> Option<u32> {
        self.batch.contains(&text).then_some(self.source)
    }

    pub fn keep(&mut self, text: u128) {
        self.batch.insert(text);
    }

    /// Makes the texts kept in this batch known to the next.
    pub fn end_batch(&mut self) -> Result<()> {
        self.index.add(std::mem::take(&mut self.batch))
    }

    /// Leaves all that the current source kept in files.
    pub fn end_source(&mut self) -> Result<Vec<LeftFile>> {
        self.index.end_source()
    }
}
