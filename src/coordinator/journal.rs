//! Reading a run's journal: every command that it has seen, and what became of it.

use anyhow::{Context, Result};

use crate::ids::{CommandId, Step};
use crate::run::command::{CommandKind, CommandRecord, CommandStage};
use crate::store::{Store, layout};

/// A decay on command that took effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AppliedDecay {
    pub command: CommandId,
    /// The step after which it began.
    pub step: Step,
    /// The length that the command gave, instead of the run's own.
    pub tokens: Option<u64>,
}

/// The newest record of every command, in the order in which they were first written.
pub async fn read(store: &Store) -> Result<Vec<CommandRecord>> {
    let mut newest: Vec<CommandRecord> = Vec::new();
    for object in store.list(layout::JOURNAL_FOLDER).await? {
        let key = object.key;
        if layout::parse_journal_entry(&key).is_none() {
            continue;
        }
        let record: CommandRecord = serde_json::from_slice(&store.get(&key).await?)
            .with_context(|| format!("{} is damaged", store.url(&key)))?;
        match newest
            .iter_mut()
            .find(|known| known.command.id == record.command.id)
        {
            Some(known) => *known = record,
            None => newest.push(record),
        }
    }
    Ok(newest)
}

/// The decays that took effect, by command.
pub async fn applied_decays(store: &Store) -> Result<Vec<AppliedDecay>> {
    let mut applied: Vec<AppliedDecay> = read(store)
        .await?
        .into_iter()
        .filter_map(|record| match (record.command.kind, record.stage) {
            (CommandKind::Decay { tokens }, CommandStage::Applied { step }) => Some(AppliedDecay {
                command: record.command.id,
                step,
                tokens,
            }),
            _ => None,
        })
        .collect();
    applied.sort_unstable_by_key(|decay| decay.command);
    Ok(applied)
}
