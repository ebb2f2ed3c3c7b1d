//! The contract of objects: what every kind of store must do alike.

use std::collections::BTreeSet;

use bytes::Bytes;
use cohort::ids::Epoch;
use cohort::store::epoch::{self, Claimant};
use cohort::store::error::StoreError;
use cohort::store::{Object, PART_BYTES, Store};
use futures::{StreamExt, TryStreamExt, stream};
use tokio::task::JoinSet;

pub async fn are_read_as_written(store: &Store) {
    store.put("a/one.txt", "first").await.unwrap();
    store.put("a/one.txt", "second").await.unwrap();
    store.put("a/b/two.txt", "").await.unwrap();
    store.put("ab.txt", "beside").await.unwrap();

    assert_eq!(store.get("a/one.txt").await.unwrap(), "second");
    assert_eq!(store.get("a/b/two.txt").await.unwrap(), "");
    assert_eq!(store.get_range("a/one.txt", 1, 4).await.unwrap(), "eco");
    assert_eq!(store.size("a/one.txt").await.unwrap(), Some(6));

    let keys = |objects: Vec<Object>| objects.into_iter().map(|o| o.key).collect::<Vec<_>>();
    assert_eq!(
        keys(store.list("").await.unwrap()),
        ["a/b/two.txt", "a/one.txt", "ab.txt"]
    );
    assert_eq!(
        keys(store.list("a").await.unwrap()),
        ["a/b/two.txt", "a/one.txt"]
    );
    assert_eq!(keys(store.list_here("a").await.unwrap()), ["a/one.txt"]);
    assert_eq!(
        keys(store.child("a").unwrap().list("").await.unwrap()),
        ["b/two.txt", "one.txt"]
    );

    store.delete("a/one.txt").await.unwrap();
    store.delete("a/one.txt").await.unwrap();
    assert_eq!(
        keys(store.list("").await.unwrap()),
        ["a/b/two.txt", "ab.txt"]
    );
}

pub async fn are_not_found_by_name(store: &Store) {
    let error = store.get("no/such").await.unwrap_err();
    assert!(matches!(error, StoreError::NotFound { .. }), "{error:?}");
    let url = store.url("no/such");
    assert!(
        error
            .to_string()
            .starts_with(&format!("cannot read {url}: ")),
        "{error}"
    );
    assert_eq!(store.size("no/such").await.unwrap(), None);
    assert!(!store.exists("no").await.unwrap());
    assert_eq!(store.list("no").await.unwrap(), []);
    assert_eq!(store.list_here("no").await.unwrap(), []);
    for key in ["", "/", "../outside", "a//b", "a/./b"] {
        let error = store.get(key).await.unwrap_err();
        assert!(
            matches!(error, StoreError::Invalid { .. }),
            "{key}: {error:?}"
        );
    }
}

pub async fn larger_than_a_part_are_whole(store: &Store) {
    for length in [PART_BYTES, PART_BYTES + 1, 2 * PART_BYTES + 4321] {
        // No two parts look alike, so that parts out of order show.
        let bytes: Bytes = (0..length).map(|at| (at / 1021 % 251) as u8).collect();
        store.put_large("large", bytes.clone()).await.unwrap();
        assert_eq!(store.size("large").await.unwrap(), Some(length as u64));
        assert!(
            store.get("large").await.unwrap() == bytes,
            "{length} bytes differ"
        );
        let chunks: Vec<_> = store
            .chunks("large", length as u64)
            .try_collect()
            .await
            .unwrap();
        assert!(chunks.iter().all(|chunk| chunk.len() <= PART_BYTES));
        assert!(chunks.concat() == bytes, "{length} bytes differ in chunks");
    }
    store.delete("large").await.unwrap();
}

/// S3 lists at most 1,000 objects an answer.
pub async fn list_sorted_and_complete_beyond_a_page(store: &Store) {
    const OBJECTS: usize = 1_100;
    stream::iter((0..OBJECTS).rev())
        .map(|number| async move { store.put(&format!("n/{number:05}"), "x").await })
        .buffer_unordered(16)
        .try_collect::<()>()
        .await
        .unwrap();
    let expected: Vec<_> = (0..OBJECTS)
        .map(|n| Object {
            key: format!("n/{n:05}"),
            bytes: 1,
        })
        .collect();
    assert!(store.list("").await.unwrap() == expected);
    assert!(store.list_here("n").await.unwrap() == expected);
}

pub async fn create_has_one_winner(store: &Store) {
    for round in 0..8 {
        let mut writers = JoinSet::new();
        for writer in 0..8 {
            let store = store.clone();
            writers.spawn(async move {
                let bytes = format!("writer {writer}");
                (
                    bytes.clone(),
                    store.put_new(&format!("prize-{round}"), bytes).await,
                )
            });
        }
        let mut winners = Vec::new();
        for (bytes, outcome) in writers.join_all().await {
            match outcome {
                Ok(()) => winners.push(bytes),
                Err(StoreError::AlreadyExists { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
        assert_eq!(winners.len(), 1, "{winners:?}");
        assert_eq!(
            store.get(&format!("prize-{round}")).await.unwrap(),
            winners[0]
        );
    }
}

pub fn claimant(process_id: u32) -> Claimant {
    Claimant {
        started_at: "2026-11-21T10:00:00.123456789Z".to_owned(),
        host: "node-1".to_owned(),
        process_id,
        cohort_version: "0.1.0".to_owned(),
    }
}

pub async fn epochs_go_to_one_claimant_each(store: &Store) {
    assert_eq!(epoch::newest(store).await.unwrap(), None);
    let mut claims = JoinSet::new();
    for process_id in 0..8 {
        let store = store.clone();
        claims.spawn(async move { epoch::claim(&store, &claimant(process_id)).await.unwrap() });
    }
    let records = claims.join_all().await;
    let epochs: BTreeSet<_> = records.iter().map(|record| record.epoch).collect();
    assert_eq!(epochs, (1..=8).map(Epoch).collect::<BTreeSet<_>>());
    let processes: BTreeSet<_> = records.iter().map(|r| r.claimant.process_id).collect();
    assert_eq!(processes.len(), 8);
    // A record of the same coordinators' events is not an epoch.
    store
        .put("journal/epoch-00000099/entry-00000001.json", "{}")
        .await
        .unwrap();
    assert!(epoch::is_newest(store, Epoch(8)).await.unwrap());
    assert!(!epoch::is_newest(store, Epoch(7)).await.unwrap());
}
