//! The contract of checkpoints, whatever they are stored in.

use std::collections::BTreeSet;

use bytes::Bytes;
use cohort::ids::{Epoch, Generation, Step};
use cohort::run::schedule::PhaseKind;
use cohort::store::checkpoint::{CheckpointSteps, Checkpoints, Published};
use cohort::store::epoch;
use cohort::store::error::{CheckpointError, StoreError};
use cohort::store::manifest::{CheckpointManifest, FileEntry, MANIFEST_VERSION, Reason};
use cohort::store::verify::FileState;
use cohort::store::{Store, layout};

use super::objects::claimant;

pub const FILES: [&str; 3] = ["model.safetensors", "optimizer.safetensors", "state.json"];

fn content(step: u64, name: &str) -> Bytes {
    format!("{name} after {step} steps").into()
}

pub fn manifest(step: u64, epoch: Epoch, files: Vec<FileEntry>) -> CheckpointManifest {
    CheckpointManifest {
        version: MANIFEST_VERSION,
        run: "trial".to_owned(),
        step: Step(step),
        epoch,
        generation: Generation(1),
        phase: "stable".to_owned(),
        phase_kind: PhaseKind::Stable,
        tokens: step * 1_000,
        rows: step * 8,
        created_at: "2026-11-21T10:00:00Z".to_owned(),
        reason: Reason::Interval,
        parent: None,
        pinned: false,
        files,
    }
}

async fn begin(store: &Store) -> (Checkpoints, Epoch) {
    let epoch = epoch::claim(store, &claimant(1)).await.unwrap().epoch;
    (Checkpoints::new(store.clone()), epoch)
}

async fn write_files(checkpoints: &Checkpoints, step: u64) -> Vec<FileEntry> {
    let mut files = Vec::new();
    for name in FILES {
        files.push(
            checkpoints
                .write_file(Step(step), name, content(step, name))
                .await
                .unwrap(),
        );
    }
    files
}

async fn publish(checkpoints: &Checkpoints, step: u64, epoch: Epoch) -> CheckpointManifest {
    let manifest = manifest(step, epoch, write_files(checkpoints, step).await);
    assert_eq!(
        checkpoints.publish(&manifest).await.unwrap(),
        Published::New
    );
    manifest
}

async fn newest(checkpoints: &Checkpoints) -> Option<u64> {
    checkpoints
        .newest_verified()
        .await
        .unwrap()
        .found
        .map(|manifest| manifest.step.0)
}

pub async fn exist_once_published(store: &Store) {
    let (checkpoints, epoch) = begin(store).await;
    assert_eq!(newest(&checkpoints).await, None);
    let written = publish(&checkpoints, 1200, epoch).await;
    publish(&checkpoints, 99_999_999, epoch).await;
    publish(&checkpoints, 100_000_000, epoch).await;

    // Sorted as numbers, also where the digits no longer suffice.
    let steps = checkpoints.steps().await.unwrap();
    assert_eq!(
        steps.published,
        [Step(1200), Step(99_999_999), Step(100_000_000)]
    );
    assert_eq!(newest(&checkpoints).await, Some(100_000_000));
    assert_eq!(checkpoints.manifest(Step(1200)).await.unwrap(), written);
    let state = checkpoints.read_file(&written, "state.json").await.unwrap();
    assert_eq!(state, content(1200, "state.json"));
    assert!(
        store
            .exists("checkpoints/step-00001200/MANIFEST.json")
            .await
            .unwrap()
    );
}

/// A command may name the step of a checkpoint that exists; a phase may end there.
pub async fn get_the_strongest_reason(store: &Store) {
    let (checkpoints, epoch) = begin(store).await;
    let mut written = publish(&checkpoints, 10, epoch).await;
    for (told, kept) in [
        (Reason::Command, Reason::Command),
        (Reason::Time, Reason::Command),
        (Reason::PhaseEnd, Reason::PhaseEnd),
        (Reason::Stop, Reason::PhaseEnd),
    ] {
        written.reason = told;
        assert_eq!(
            checkpoints.publish(&written).await.unwrap(),
            Published::Already
        );
        let found = checkpoints.manifest(Step(10)).await.unwrap();
        assert_eq!(found.reason, kept);
        assert!(found.same_state(&written));
    }
    let verified = checkpoints.verify(Step(10)).await.unwrap();
    assert_eq!(verified.complaint(), None);
}

/// A writer that dies after each of its writes in turn: until the last, which is the manifest, the
/// run resumes from the checkpoint before.
pub async fn without_a_manifest_are_never_picked(store: &Store) {
    let (checkpoints, epoch) = begin(store).await;
    publish(&checkpoints, 10, epoch).await;
    let mut files = Vec::new();
    for name in FILES {
        files.push(
            checkpoints
                .write_file(Step(20), name, content(20, name))
                .await
                .unwrap(),
        );
        assert_eq!(
            checkpoints.steps().await.unwrap(),
            CheckpointSteps {
                published: vec![Step(10)],
                unpublished: vec![Step(20)]
            }
        );
        assert_eq!(newest(&checkpoints).await, Some(10));
    }
    let error = checkpoints.verify(Step(20)).await.unwrap_err();
    assert!(
        error.to_string().contains("it has no MANIFEST.json"),
        "{error}"
    );

    // The next attempt meets other bytes of the same names, and a file of no use.
    let leftover = layout::checkpoint_file(Step(20), "state.json");
    store
        .put(&leftover, "half-written by another life")
        .await
        .unwrap();
    let early = manifest(20, epoch, files);
    let error = checkpoints.publish(&early).await.unwrap_err();
    assert!(
        matches!(&error, CheckpointError::Incomplete { file, .. } if file == "state.json"),
        "{error}"
    );
    publish(&checkpoints, 20, epoch).await;
    assert_eq!(newest(&checkpoints).await, Some(20));
}

pub async fn that_are_damaged_are_named_and_passed_over(store: &Store) {
    let (checkpoints, epoch) = begin(store).await;
    for step in [10, 20, 30, 40, 50] {
        publish(&checkpoints, step, epoch).await;
    }
    let key = |step, name| layout::checkpoint_file(Step(step), name);
    let mut flipped = content(50, "optimizer.safetensors").to_vec();
    flipped[3] ^= 1;
    store
        .put(&key(50, "optimizer.safetensors"), flipped)
        .await
        .unwrap();
    store.put(&key(40, "state.json"), "short").await.unwrap();
    store.delete(&key(30, "model.safetensors")).await.unwrap();
    let torn = &store.get(&key(20, "MANIFEST.json")).await.unwrap()[..40];
    store
        .put(&key(20, "MANIFEST.json"), torn.to_vec())
        .await
        .unwrap();

    let verification = checkpoints.verify(Step(50)).await.unwrap();
    assert!(!verification.is_good());
    let states: Vec<_> = verification
        .files
        .iter()
        .map(|(name, state)| (name.as_str(), *state == FileState::Good))
        .collect();
    assert_eq!(
        states,
        [
            ("model.safetensors", true),
            ("optimizer.safetensors", false),
            ("state.json", true)
        ]
    );

    check_skipped(&checkpoints).await;

    let damaged = checkpoints.manifest(Step(50)).await.unwrap();
    let error = checkpoints
        .read_file(&damaged, "optimizer.safetensors")
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "{} is not a checkpoint that can be used: optimizer.safetensors has other content \
             than was written\n  hint: use another checkpoint; `cohort verify` checks each",
            store.url("checkpoints/step-00000050")
        )
    );
}

async fn check_skipped(checkpoints: &Checkpoints) {
    let newest = checkpoints.newest_verified().await.unwrap();
    assert_eq!(newest.found.map(|manifest| manifest.step), Some(Step(10)));
    let skipped: Vec<_> = newest
        .skipped
        .iter()
        .map(|(step, reason)| (step.0, reason.as_str()))
        .collect();
    assert_eq!(
        skipped[..3],
        [
            (
                50,
                "optimizer.safetensors has other content than was written"
            ),
            (40, "state.json has another length (5 bytes)"),
            (30, "model.safetensors is missing"),
        ]
    );
    assert!(
        skipped[3].1.starts_with("no manifest: EOF"),
        "{}",
        skipped[3].1
    );
}

pub async fn are_repaired_by_the_same_content_only(store: &Store) {
    let (checkpoints, epoch) = begin(store).await;
    let first = publish(&checkpoints, 10, epoch).await;
    let error = checkpoints
        .write_file(Step(10), "state.json", Bytes::from_static(b"other"))
        .await
        .unwrap_err();
    assert!(
        matches!(error, CheckpointError::AlreadyPublished { .. }),
        "{error}"
    );

    // Another life of the run comes to the same state, over a file that rotted meanwhile.
    let rotten = layout::checkpoint_file(Step(10), "state.json");
    store
        .put(&rotten, vec![0; content(10, "state.json").len()])
        .await
        .unwrap();
    assert_eq!(newest(&checkpoints).await, None);
    let next = epoch::claim(store, &claimant(2)).await.unwrap().epoch;
    let again = manifest(10, next, write_files(&checkpoints, 10).await);
    assert_eq!(
        checkpoints.publish(&again).await.unwrap(),
        Published::Already
    );
    assert_eq!(checkpoints.manifest(Step(10)).await.unwrap(), first);
    assert_eq!(newest(&checkpoints).await, Some(10));

    // A manifest of other files: the one that is published stays.
    let mut other = again;
    other.files.pop();
    let error = checkpoints.publish(&other).await.unwrap_err();
    assert!(
        matches!(error, CheckpointError::AlreadyPublished { .. }),
        "{error}"
    );
    assert_eq!(checkpoints.manifest(Step(10)).await.unwrap(), first);
}

pub async fn that_are_damaged_give_way(store: &Store) {
    let (checkpoints, epoch) = begin(store).await;
    for step in [10, 20, 30, 40] {
        publish(&checkpoints, step, epoch).await;
    }
    checkpoints
        .pin(Step(40), "branch", "runs/branch")
        .await
        .unwrap();
    for damaged in [20, 40] {
        let rotten = layout::checkpoint_file(Step(damaged), FILES[0]);
        store.put(&rotten, "rotten").await.unwrap();
    }
    let manifest_key = layout::checkpoint_file(Step(30), layout::MANIFEST_FILE);
    store.put(&manifest_key, "{\"version\"").await.unwrap();
    for step in [10, 20, 30, 40, 50] {
        checkpoints.clear_damaged(Step(step)).await.unwrap();
    }
    let left = checkpoints.steps().await.unwrap();
    assert_eq!(left.published, [Step(10), Step(40)], "good, and a branch's");
    assert_eq!(left.unpublished, [], "nothing is left halfway");

    let other = checkpoints
        .write_file(Step(20), "state.json", Bytes::from_static(b"other"))
        .await
        .unwrap();
    let other = manifest(20, epoch, vec![other]);
    assert_eq!(checkpoints.publish(&other).await.unwrap(), Published::New);
}

pub async fn of_a_fenced_coordinator_are_refused(store: &Store) {
    let (checkpoints, old) = begin(store).await;
    publish(&checkpoints, 10, old).await;
    let files = write_files(&checkpoints, 20).await;
    let new = epoch::claim(store, &claimant(2)).await.unwrap().epoch;

    let error = checkpoints
        .publish(&manifest(20, old, files.clone()))
        .await
        .unwrap_err();
    assert!(
        matches!(
            error,
            CheckpointError::Fenced { ours, newest, .. } if ours == old && newest == new
        ),
        "{error}"
    );
    assert_eq!(checkpoints.steps().await.unwrap().unpublished, [Step(20)]);
    assert_eq!(newest(&checkpoints).await, Some(10));
    assert_eq!(
        checkpoints
            .publish(&manifest(20, new, files))
            .await
            .unwrap(),
        Published::New
    );
}

pub async fn go_manifest_first(store: &Store) {
    let (checkpoints, epoch) = begin(store).await;
    for step in [10, 20] {
        publish(&checkpoints, step, epoch).await;
    }
    // A deletion that stopped right after its first write.
    store
        .delete(&layout::checkpoint_file(Step(20), "MANIFEST.json"))
        .await
        .unwrap();
    assert_eq!(newest(&checkpoints).await, Some(10));
    checkpoints.delete(Step(20)).await.unwrap();
    assert_eq!(
        checkpoints.steps().await.unwrap(),
        CheckpointSteps {
            published: vec![Step(10)],
            unpublished: vec![]
        }
    );
    checkpoints.delete(Step(10)).await.unwrap();
    assert_eq!(store.list("checkpoints").await.unwrap(), []);
    assert_eq!(newest(&checkpoints).await, None);
}

pub async fn are_kept_by_a_branch(store: &Store) {
    let (checkpoints, epoch) = begin(store).await;
    publish(&checkpoints, 10, epoch).await;
    checkpoints
        .pin(Step(10), "decay-a", "runs/branch")
        .await
        .unwrap();
    assert_eq!(
        checkpoints.branch_parents().await.unwrap(),
        BTreeSet::from([Step(10)])
    );
    let pins = checkpoints.pins().await.unwrap();
    let [pin] = &pins[..] else {
        panic!("{pins:?}");
    };
    assert_eq!((pin.step, pin.branch.as_str()), (Step(10), "decay-a"));
    let url = checkpoints.branch_url(pin).await.unwrap();
    assert_eq!(url.as_deref(), Some("runs/branch"));
    // A mark of an early version, which says nothing.
    store
        .put(&layout::pin(Step(10), "decay-a"), "{}\n")
        .await
        .unwrap();
    assert_eq!(checkpoints.branch_url(pin).await.unwrap(), None);
    let error = checkpoints.delete(Step(10)).await.unwrap_err();
    assert!(
        error.to_string().contains("a branch grows from it"),
        "{error}"
    );
    assert_eq!(newest(&checkpoints).await, Some(10));
    let error = checkpoints
        .pin(Step(11), "decay-b", "runs/branch")
        .await
        .unwrap_err();
    assert!(matches!(error, CheckpointError::Unusable { .. }), "{error}");
    assert!(
        checkpoints
            .pin(Step(10), "../x", "runs/branch")
            .await
            .is_err()
    );
}

pub async fn download_as_a_folder(store: &Store) {
    let (checkpoints, epoch) = begin(store).await;
    let written = publish(&checkpoints, 10, epoch).await;
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("model");
    assert_eq!(
        checkpoints.download(Step(10), &target).await.unwrap(),
        written
    );
    for name in FILES {
        assert_eq!(std::fs::read(target.join(name)).unwrap(), content(10, name));
    }
    let text = std::fs::read(target.join("MANIFEST.json")).unwrap();
    assert_eq!(CheckpointManifest::parse(&text), Ok(written));

    // Nothing damaged gets a name in the folder.
    let key = layout::checkpoint_file(Step(10), "state.json");
    store
        .put(&key, vec![0; content(10, "state.json").len()])
        .await
        .unwrap();
    let target = folder.path().join("damaged");
    let error = checkpoints.download(Step(10), &target).await.unwrap_err();
    assert!(
        error.to_string().contains("state.json has other content"),
        "{error}"
    );
    let mut names: Vec<_> = std::fs::read_dir(&target)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort_unstable();
    assert_eq!(names, FILES[..2]);
}

pub async fn are_not_passed_over_where_the_store_fails(store: &Store) {
    let error = Checkpoints::new(store.clone())
        .newest_verified()
        .await
        .unwrap_err();
    assert!(
        matches!(
            error,
            CheckpointError::Store(StoreError::Unavailable { .. })
        ),
        "{error:?}"
    );
}
