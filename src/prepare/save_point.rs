//! How far a source is, so that a preparation that was killed goes on from its finished shards.
//!
//! A save point is written after each finished shard and once more when the source is. It speaks of
//! documents and chunks only, so it says nothing of batches, threads or bytes read. What depends on
//! the text alone (which documents are dropped or held out) is found again by reading from the
//! source's beginning; only tokenization, which costs, is not repeated.

use std::path::Path;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::corpus::{Shard, Source};
use crate::prepare::files;

/// Beside the shards of its source, as long as the corpus is not complete. What else has to be
/// known of a finished source to go on with the next one may lie there too: the whole folder goes
/// when the corpus is complete.
const SAVE_POINT_FILE: &str = "save-point.json";

/// How far a source is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavePoint {
    /// Of what the source is made from; see [`crate::prepare::fingerprint::Fingerprint`].
    pub fingerprint: String,
    pub state: State,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    Unfinished {
        train: SeriesPoint,
        held_out: SeriesPoint,
    },
    Finished(Box<Source>),
}

/// How far a series of shards is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeriesPoint {
    /// The finished ones.
    pub shards: Vec<Shard>,
    /// The first chunk that is in none of them.
    pub next: Position,
}

/// A chunk of a source: the document's number in it, and the chunk's number in the document.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Position {
    pub document: u64,
    pub chunk: u64,
}

impl SavePoint {
    /// The save point of the source `name` below `folder`, if it has one.
    pub fn read(folder: &Path, name: &str) -> Option<Self> {
        files::read_json(&folder.join(name).join(SAVE_POINT_FILE)).ok()
    }

    pub fn write(&self, folder: &Path, name: &str) -> Result<()> {
        files::write_json(folder, &format!("{name}/{SAVE_POINT_FILE}"), self)?;
        Ok(())
    }

    pub fn shards(&self) -> impl Iterator<Item = &Shard> {
        let (train, held_out) = match &self.state {
            State::Unfinished { train, held_out } => (&train.shards, &held_out.shards),
            State::Finished(source) => (&source.train.shards, &source.held_out.shards),
        };
        train.iter().chain(held_out)
    }
}

impl SeriesPoint {
    pub fn tokens(&self) -> u64 {
        self.shards.iter().map(|shard| shard.tokens).sum()
    }

    /// Documents of which all chunks are in finished shards.
    pub fn documents(&self) -> u64 {
        let begun: u64 = self.shards.iter().map(|shard| shard.documents).sum();
        begun.saturating_sub(u64::from(self.next.chunk > 0))
    }
}
