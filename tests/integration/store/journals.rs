//! The contract of journals: nothing is lost of what was written, and nothing is written in an
//! epoch that is over.

use std::time::Duration;

use cohort::coordinator::journal::{self, Fenced, Writer};
use cohort::ids::{CommandId, Epoch};
use cohort::run::command::{Command, CommandKind, CommandRecord, CommandStage};
use cohort::run::event::Entry;
use cohort::store::{Store, epoch, layout};

use super::objects::claimant;

const PATIENCE: Duration = Duration::ZERO;

fn paused(id: u64) -> Entry {
    Entry::Command(CommandRecord {
        command: Command {
            id: CommandId(id),
            kind: CommandKind::Pause,
        },
        stage: CommandStage::Accepted,
    })
}

async fn ids(store: &Store) -> Vec<u64> {
    let journal = journal::read(store).await.unwrap();
    let ids = journal.commands.iter().map(|record| record.command.id.0);
    ids.collect()
}

pub async fn end_where_a_later_epoch_begins(store: &Store) {
    let first = epoch::claim(store, &claimant(1)).await.unwrap().epoch;
    let mut writer = Writer::new(store.clone(), first, PATIENCE);
    writer.write(&paused(1)).await.unwrap();
    let second = epoch::claim(store, &claimant(2)).await.unwrap().epoch;
    journal::seal(store, second).await.unwrap();
    journal::seal(store, second).await.unwrap();
    let error = writer.write(&paused(2)).await.unwrap_err();
    assert!(error.is::<Fenced>(), "{error}");
    assert_eq!(ids(store).await, [1]);
    let mut writer = Writer::new(store.clone(), second, PATIENCE);
    writer.write(&paused(3)).await.unwrap();
    assert_eq!(ids(store).await, [1, 3]);
}

/// An attempt that failed may have left half of the entry.
pub async fn pass_over_an_entry_that_an_attempt_tore(store: &Store) {
    let first = epoch::claim(store, &claimant(1)).await.unwrap().epoch;
    assert_eq!(first, Epoch(1));
    let json = serde_json::to_vec(&paused(1)).unwrap();
    let half = json[..json.len() / 2].to_vec();
    store
        .put(&layout::journal_entry(first, 1), half)
        .await
        .unwrap();
    let mut writer = Writer::new(store.clone(), first, PATIENCE);
    writer.write(&paused(1)).await.unwrap();
    writer.write(&paused(2)).await.unwrap();
    assert_eq!(ids(store).await, [1, 2]);
    // Its writer may die of it.
    let half = json[..json.len() / 2].to_vec();
    let next = layout::journal_entry(first, 4);
    store.put(&next, half).await.unwrap();
    let second = epoch::claim(store, &claimant(2)).await.unwrap().epoch;
    journal::seal(store, second).await.unwrap();
    assert_eq!(ids(store).await, [1, 2]);
    let error = writer.write(&paused(3)).await.unwrap_err();
    assert!(error.is::<Fenced>(), "{error}");
    // Bytes that were changed are something else.
    store
        .put(&next, b"{\"command\": 7}".to_vec())
        .await
        .unwrap();
    let error = format!("{:#}", journal::read(store).await.unwrap_err());
    assert!(error.contains("is damaged"), "{error}");
}
