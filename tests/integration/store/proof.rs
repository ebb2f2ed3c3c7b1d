//! Single faults: what each call does about it, and what is said where nothing helps.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cohort::store::error::StoreError;
use cohort::store::settings::StoreSettings;
use cohort::store::{PART_BYTES, Store};
use object_store::memory::InMemory;
use tokio::time::Instant;

use crate::support::faulty::{Fate, Faults, FaultyObjects};

const ALL: u64 = 1_000;

fn faulty_store() -> (FaultyObjects, Store) {
    let objects = FaultyObjects::over(Arc::new(InMemory::new()));
    let store = Store::over(Arc::new(objects.clone()), &StoreSettings::at("faulty:"));
    (objects, store)
}

fn always(fate: Fate) -> Faults {
    let mut faults = Faults::default();
    match fate {
        Fate::Error => faults.errors = ALL,
        Fate::LostAnswer => faults.lost_answers = ALL,
        Fate::Stall => faults.stalls = ALL,
        Fate::Lie => faults.lies = ALL,
        Fate::Damage => faults.damages = ALL,
        _ => panic!("{fate:?}"),
    }
    faults
}

/// No call waits longer than its repetitions and its last attempt may take.
#[tokio::test(start_paused = true)]
async fn every_call_has_a_deadline_and_a_name() {
    let (objects, store) = faulty_store();
    store.put("a/b", "old").await.unwrap();
    objects.set(always(Fate::Stall), None);
    let deadline = Duration::from_mins(5);
    let mut begun = Instant::now();
    let mut late = |result: Result<(), StoreError>, operation: &str, deadline| {
        let error = result.unwrap_err();
        assert!(matches!(error, StoreError::Unavailable { .. }), "{error:?}");
        let said = error.to_string();
        assert!(
            said.starts_with(&format!("cannot {operation} faulty:")),
            "{said}"
        );
        assert!(said.contains("nothing came within"), "{said}");
        assert!(said.contains("\n  hint: check the network"), "{said}");
        assert!(begun.elapsed() <= deadline, "{:?}", begun.elapsed());
        begun = Instant::now();
    };
    late(store.get("a/b").await.map(drop), "read", deadline);
    late(
        store.get_range("a/b", 0, 1).await.map(drop),
        "read",
        deadline,
    );
    late(store.size("a/b").await.map(drop), "read", deadline);
    late(store.put("a/b", "new").await, "write", deadline);
    late(store.put_new("a/c", "new").await, "write", deadline);
    late(store.delete("a/b").await, "delete", deadline);
    late(store.list("a").await.map(drop), "list", deadline);
    late(store.list_here("a").await.map(drop), "list", deadline);
    // It also tries to delete what it may have written.
    late(store.check_writable().await, "write", 2 * deadline);
}

/// An upload is begun four times, each with a deadline.
#[tokio::test(start_paused = true)]
async fn a_large_upload_that_stalls_ends() {
    let (objects, store) = faulty_store();
    objects.set(always(Fate::Stall), None);
    let begun = Instant::now();
    let large = Bytes::from(vec![7; PART_BYTES + 1]);
    let error = store.put_large("large", large).await.unwrap_err();
    assert!(
        error.to_string().contains("cannot write faulty:/large: "),
        "{error}"
    );
    assert!(begun.elapsed() <= 4 * Duration::from_mins(6));
}
