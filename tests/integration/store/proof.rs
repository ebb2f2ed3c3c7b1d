//! Single faults: what each write does about it, and what is said where nothing helps.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cohort::ids::Step;
use cohort::store::checkpoint::Checkpoints;
use cohort::store::error::{CheckpointError, StoreError};
use cohort::store::manifest::CheckpointManifest;
use cohort::store::retention::Retention;
use cohort::store::settings::StoreSettings;
use cohort::store::{PART_BYTES, Store, epoch, layout};
use object_store::memory::InMemory;
use tokio::time::Instant;

use super::checkpoints::{FILES, manifest};
use super::objects::claimant;
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
    late(store.put_proven("a/b", "new").await, "write", deadline);
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

#[tokio::test(start_paused = true)]
async fn large_uploads_outlast_faults_and_are_proven() {
    let bytes: Bytes = (0..=PART_BYTES).map(|at| (at / 1021 % 251) as u8).collect();
    for seed in 0..12 {
        let (objects, store) = faulty_store();
        let faults = Faults {
            seed,
            errors: 15,
            lost_answers: 15,
            stalls: 5,
            lies: 60,
            damages: 200,
            cuts: 60,
            ..Faults::default()
        };
        objects.set(faults, None);
        let proven = store.put_proven("large", bytes.clone()).await;
        let (calls, met) = (objects.calls(), objects.met());
        assert!(
            proven.is_ok(),
            "seed {seed}: {proven:?}, {calls} calls, {met:?}"
        );
        objects.set(Faults::default(), None);
        assert!(store.get("large").await.unwrap() == bytes, "seed {seed}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_creator_whose_answer_is_lost_knows_its_own() {
    let (objects, store) = faulty_store();
    for seed in 0..50 {
        let faults = Faults {
            seed,
            lost_answers: 500,
            ..Faults::default()
        };
        objects.set(faults, None);
        let key = format!("entry-{seed}");
        store.put_new(&key, format!("mine {seed}")).await.unwrap();
        let error = store.put_new(&key, "another's").await.unwrap_err();
        assert!(matches!(error, StoreError::AlreadyExists { .. }), "{error}");
        assert_eq!(store.get(&key).await.unwrap(), format!("mine {seed}"));
    }
    let epoch = epoch::claim(&store, &claimant(1)).await.unwrap().epoch;
    assert!(epoch::is_newest(&store, epoch).await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_store_that_lies_or_damages_is_found_out() {
    for (fate, found) in [
        (Fate::Lie, "it is not there"),
        (Fate::Damage, "it holds other bytes"),
    ] {
        let (objects, store) = faulty_store();
        objects.set(always(fate), None);
        for result in [
            store.put_proven("x", "content").await,
            store.put_new("y", "content").await,
        ] {
            let error = result.unwrap_err().to_string();
            assert!(error.starts_with("cannot write faulty:/"), "{error}");
            let said = format!(
                ": {found}, though the store says that it succeeded\n  \
                 hint: check the store's disks and what lies between, or use another store"
            );
            assert!(error.ends_with(&said), "{error}");
        }
        let claim = epoch::claim(&store, &claimant(1)).await.unwrap_err();
        assert!(claim.to_string().contains(found), "{claim}");
        store.check_writable().await.unwrap_err();
    }
    let (objects, store) = faulty_store();
    store.put("x", "content").await.unwrap();
    objects.set(always(Fate::Lie), None);
    let error = store.delete_proven("x").await.unwrap_err().to_string();
    assert!(
        error.contains("cannot delete faulty:/x: it is still there"),
        "{error}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_store_that_damages_every_third_write_holds_whole_checkpoints() {
    let (objects, store) = faulty_store();
    let epoch = epoch::claim(&store, &claimant(1)).await.unwrap().epoch;
    let checkpoints = Checkpoints::new(store.clone());
    let faults = Faults {
        seed: 3,
        lies: 150,
        damages: 200,
        ..Faults::default()
    };
    objects.set(faults, None);
    for step in 1..=10 {
        let mut files = Vec::new();
        for name in FILES {
            let bytes = format!("{name} of {step}").into();
            files.push(
                checkpoints
                    .write_file(Step(step), name, bytes)
                    .await
                    .unwrap(),
            );
        }
        checkpoints
            .publish(&manifest(step, epoch, files))
            .await
            .unwrap();
    }
    objects.set(Faults::default(), None);
    for step in 1..=10 {
        let verified = checkpoints.verify(Step(step)).await.unwrap();
        assert!(verified.is_good(), "{verified:?}");
    }
}

/// Every byte of a manifest counts, also those of its numbers.
#[tokio::test]
async fn a_manifest_that_was_altered_is_none() {
    let store = Store::in_memory();
    let checkpoints = Checkpoints::new(store.clone());
    let epoch = epoch::claim(&store, &claimant(1)).await.unwrap().epoch;
    let file = checkpoints
        .write_file(Step(10), "state.json", Bytes::from_static(b"state"))
        .await
        .unwrap();
    checkpoints
        .publish(&manifest(10, epoch, vec![file]))
        .await
        .unwrap();
    let key = layout::checkpoint_file(Step(10), layout::MANIFEST_FILE);
    let text = store.get(&key).await.unwrap();
    let text = str::from_utf8(&text).unwrap();
    assert!(CheckpointManifest::parse(text.as_bytes()).is_ok());
    let altered = text.replace("\"tokens\": 10000", "\"tokens\": 10001");
    assert_ne!(altered, text);
    store.put(&key, altered).await.unwrap();
    let newest = checkpoints.newest_verified().await.unwrap();
    assert_eq!(newest.found, None);
    assert_eq!(
        newest.skipped,
        [(Step(10), "its own digest does not agree with it".to_owned())]
    );
    // An early one says nothing of itself.
    let (early, _) = text.rsplit_once(",\n  \"digest\"").unwrap();
    assert!(CheckpointManifest::parse(format!("{early}\n}}").as_bytes()).is_ok());
}

/// Whichever of the two comes first, a pin that was set keeps its checkpoint.
#[tokio::test(start_paused = true)]
async fn a_pin_at_the_moment_of_the_removal_keeps_its_checkpoint() {
    let (mut kept, mut gone) = (0, 0);
    for later in 0..120 {
        let objects = FaultyObjects::over(Arc::new(InMemory::new()));
        let store = Store::over(Arc::new(objects.clone()), &StoreSettings::at("faulty:"));
        let checkpoints = Checkpoints::new(store.clone());
        let epoch = epoch::claim(&store, &claimant(1)).await.unwrap().epoch;
        for step in [10, 20] {
            let bytes = Bytes::from_static(b"state");
            let file = checkpoints
                .write_file(Step(step), "state.json", bytes)
                .await
                .unwrap();
            checkpoints
                .publish(&manifest(step, epoch, vec![file]))
                .await
                .unwrap();
        }
        let rule = Retention {
            keep_last: 1,
            keep_every_steps: None,
        };
        let slow = objects.slowed(10);
        let slow = Store::over(Arc::new(slow), &StoreSettings::at("faulty:"));
        let pin = async {
            for _ in 0..later {
                tokio::task::yield_now().await;
            }
            checkpoints.pin(Step(10), "branch", "runs/branch").await
        };
        let removal = Checkpoints::new(slow);
        let (removed, pinned) = tokio::join!(removal.retain(&rule, Step(20)), pin);
        removed.unwrap();
        let found = checkpoints.verify(Step(10)).await;
        match pinned {
            Ok(()) => {
                assert!(found.unwrap().is_good(), "{later}");
                kept += 1;
            }
            Err(CheckpointError::Unusable { .. }) => gone += 1,
            Err(error) => panic!("{error}"),
        }
    }
    assert!(kept > 0 && gone > 0, "{kept} kept, {gone} gone");
}

#[tokio::test]
async fn what_killed_uploads_left_is_removed() {
    let store = Store::in_memory();
    let checkpoints = Checkpoints::new(store.clone());
    let epoch = epoch::claim(&store, &claimant(1)).await.unwrap().epoch;
    for step in [10, 20, 30] {
        let bytes = Bytes::from_static(b"half of a checkpoint");
        let file = checkpoints
            .write_file(Step(step), FILES[0], bytes)
            .await
            .unwrap();
        if step == 20 {
            checkpoints
                .publish(&manifest(step, epoch, vec![file]))
                .await
                .unwrap();
        }
    }
    checkpoints
        .retain(&Retention::default(), Step(20))
        .await
        .unwrap();
    let steps = checkpoints.steps().await.unwrap();
    assert_eq!(steps.published, [Step(20)]);
    assert_eq!(steps.unpublished, [Step(30)], "that one may be on its way");
}
