//! A run's journal: the commands, generations and ends that its coordinators wrote down.
//!
//! Entries are numbered objects in a folder for each epoch, created and never changed. A
//! coordinator that takes over seals the epochs before its own with a last entry, so that one that
//! still lives there finds its next number taken and learns that it is fenced off: what it has not
//! written down by then nobody acts on.
//!
//! An attempt that failed may have left the beginning of an entry. Nobody has acted on that: it is
//! written again under the next number, and passed over by whoever reads. It is not written over,
//! since a later coordinator may have read it by then.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures::{StreamExt, TryStreamExt, stream};
use serde::Deserialize;
use thiserror::Error;
use tracing::warn;

use crate::ids::{CommandId, Epoch, Generation, Step};
use crate::run::command::{CommandKind, CommandRecord, CommandStage};
use crate::run::event::{Entry, GenerationRecord};
use crate::run::spike::{self, Spike};
use crate::store::error::StoreError;
use crate::store::persistence::Persistence;
use crate::store::{Store, epoch, layout};

/// Entries that are read at once.
const READS_MAX: usize = 32;

/// A decay on command that took effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AppliedDecay {
    pub command: CommandId,
    /// The step after which it began.
    pub step: Step,
    /// The length that the command gave, instead of the run's own.
    pub tokens: Option<u64>,
}

/// A later coordinator has taken the run over.
#[derive(Debug, Error)]
#[error(
    "this coordinator (epoch {ours}) is fenced off: another one has taken the run over\n  \
     hint: look with `cohort status`; end this process"
)]
pub struct Fenced {
    pub ours: Epoch,
}

/// What the journal says by its newest entries.
#[derive(Debug, Default)]
pub struct Journal {
    /// The newest record of every command, in the order in which they were first written.
    pub commands: Vec<CommandRecord>,
    /// Steps that were skipped, gone back from, or only told, oldest first.
    pub spikes: Vec<Spike>,
    /// The last generation, where the run did not end since.
    pub generation: Option<GenerationRecord>,
    /// The number of the newest generation.
    pub newest_generation: Generation,
}

/// The open journal of the newest epoch.
#[derive(Debug)]
pub struct Writer {
    store: Store,
    epoch: Epoch,
    entries: u64,
    /// How long an entry is tried.
    patience: Duration,
}

impl Writer {
    pub fn new(store: Store, epoch: Epoch, patience: Duration) -> Self {
        Self {
            store,
            epoch,
            entries: 0,
            patience,
        }
    }

    /// Writes an entry down; outlasts a store that fails for a while, since nothing may be done
    /// before it stands there.
    ///
    /// # Errors
    /// Those of the store, and [`Fenced`].
    pub async fn write(&mut self, entry: &Entry) -> Result<()> {
        self.entries += 1;
        let json = serde_json::to_vec(entry)?;
        let mut persistence = Persistence::new(self.patience);
        let mut is_first = true;
        loop {
            let key = layout::journal_entry(self.epoch, self.entries);
            let error = match self.store.put_new(&key, json.clone()).await {
                Ok(()) => return Ok(()),
                // A seal is only set by a later epoch.
                Err(error @ StoreError::AlreadyExists { .. }) => {
                    match epoch::is_newest(&self.store, self.epoch).await {
                        Ok(false) => return Err(Fenced { ours: self.epoch }.into()),
                        // An own one, torn by an attempt that failed.
                        Ok(true) => {
                            self.entries += 1;
                            if std::mem::take(&mut is_first) {
                                continue;
                            }
                            error
                        }
                        Err(error) => error,
                    }
                }
                Err(error) => error,
            };
            let trouble = format!("the run's journal cannot be written: {error}");
            if !persistence.goes_on(&trouble).await {
                bail!(trouble);
            }
        }
    }
}

/// Ends the journals of all epochs before `epoch`.
pub async fn seal(store: &Store, epoch: Epoch) -> Result<()> {
    let keys = keys(store).await?;
    for earlier in (1..epoch.0).rev().map(Epoch) {
        let newest = keys.iter().filter(|((of, _), _)| *of == earlier);
        let mut number = newest.map(|((_, number), _)| *number).max().unwrap_or(0);
        if number > 0 {
            let key = layout::journal_entry(earlier, number);
            if is_seal(store, &key).await? {
                return Ok(());
            }
        }
        let seal = serde_json::to_vec(&Entry::Sealed { by: epoch })?;
        loop {
            number += 1;
            let key = layout::journal_entry(earlier, number);
            match store.put_new(&key, seal.clone()).await {
                Ok(()) => break,
                // One entry more was written in that moment, or this is the seal of a rival.
                Err(StoreError::AlreadyExists { .. }) => {
                    if is_seal(store, &key).await? {
                        break;
                    }
                }
                Err(error) => return Err(error).context("cannot seal the run's journal"),
            }
        }
    }
    Ok(())
}

async fn keys(store: &Store) -> Result<Vec<((Epoch, u64), String)>> {
    let objects = store.list(layout::JOURNAL_FOLDER).await?;
    let mut keys: Vec<_> = objects
        .into_iter()
        .filter_map(|object| Some((layout::parse_journal_entry(&object.key)?, object.key)))
        .collect();
    keys.sort_unstable();
    Ok(keys)
}

async fn is_seal(store: &Store, key: &str) -> Result<bool> {
    let entry = read_entry(store, key).await?;
    Ok(matches!(entry, Some(Entry::Sealed { .. })))
}

/// An entry, or nothing where only its beginning stands there.
async fn read_entry(store: &Store, key: &str) -> Result<Option<Entry>> {
    /// Journals that were begun before generations were written down hold commands alone.
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Stored {
        Entry(Entry),
        Command(CommandRecord),
    }
    let text = store.get(key).await?;
    match serde_json::from_slice(&text) {
        Ok(Stored::Entry(entry)) => Ok(Some(entry)),
        Ok(Stored::Command(record)) => Ok(Some(Entry::Command(record))),
        Err(error) if error.is_eof() => {
            warn!(url = %store.url(key), "an entry of the journal was begun and is passed over");
            Ok(None)
        }
        Err(error) => Err(error).with_context(|| format!("{} is damaged", store.url(key))),
    }
}

/// Reads the whole journal.
pub async fn read(store: &Store) -> Result<Journal> {
    let keys = keys(store).await?;
    let entries: Vec<Option<Entry>> = stream::iter(&keys)
        .map(|(_, key)| read_entry(store, key))
        .buffered(READS_MAX)
        .try_collect()
        .await?;
    let mut journal = Journal::default();
    for entry in entries.into_iter().flatten() {
        match entry {
            Entry::Command(record) => {
                let id = record.command.id;
                let mut known = journal.commands.iter_mut();
                match known.find(|known| known.command.id == id) {
                    Some(known) => *known = record,
                    None => journal.commands.push(record),
                }
            }
            Entry::Generation(record) => {
                journal.newest_generation = record.generation;
                journal.generation = Some(record);
            }
            Entry::Spike(found) => spike::enter(&mut journal.spikes, found),
            Entry::Ended { .. } => journal.generation = None,
            Entry::Sealed { .. } => {}
        }
    }
    Ok(journal)
}

impl Journal {
    /// The decays that took effect, by command.
    pub fn applied_decays(&self) -> Vec<AppliedDecay> {
        let mut applied: Vec<AppliedDecay> = self
            .commands
            .iter()
            .filter_map(|record| match (record.command.kind, &record.stage) {
                (CommandKind::Decay { tokens }, CommandStage::Applied { step }) => {
                    Some(AppliedDecay {
                        command: record.command.id,
                        step: *step,
                        tokens,
                    })
                }
                _ => None,
            })
            .collect();
        applied.sort_unstable_by_key(|decay| decay.command);
        applied
    }
}
