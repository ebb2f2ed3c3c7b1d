//! Runs whose store fails in every way and whose process dies at any call, life after life. What
//! the store then holds is judged by this file alone, which reads the objects as they lie there.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use cohort::corpus::random::{below, keyed_number};
use cohort::ids::{Epoch, Step};
use cohort::store::checkpoint::{Checkpoints, Published};
use cohort::store::error::CheckpointError;
use cohort::store::retention::Retention;
use cohort::store::settings::StoreSettings;
use cohort::store::{Store, epoch, layout};
use object_store::ObjectStore;
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;

use super::checkpoints::{FILES, manifest};
use super::objects::claimant;
use crate::support::faulty::{Death, Fate, Faults, FaultyObjects};

const LIVES: u64 = 6;
/// Calls of the store that a life without faults makes, about.
const CALLS_OF_A_LIFE: u64 = 120;
const KEEP: Retention = Retention {
    keep_last: 1,
    keep_every_steps: None,
};

/// Numbers that a case draws, by seed.
pub struct Dice {
    seed: u64,
    thrown: u64,
}

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self { seed, thrown: 0 }
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.thrown += 1;
        below(keyed_number(self.seed, "lives", &[self.thrown]), end)
    }
}

/// What the store owes: what a run was told of it, and what was damaged from outside afterwards.
#[derive(Debug, Default)]
struct Owed {
    /// The newest that `publish` said to have published.
    newest: Option<Step>,
    parents: BTreeSet<Step>,
    rotten: BTreeSet<Step>,
}

/// One case: a run's store, and the same without faults, by which it is judged.
pub struct Case {
    seed: u64,
    store: Store,
    honest: Store,
    owed: Mutex<Owed>,
}

impl Case {
    pub fn new(seed: u64, store: Store, honest: Store) -> Self {
        Self {
            seed,
            store,
            honest,
            owed: Mutex::default(),
        }
    }

    fn over(seed: u64, objects: Arc<dyn ObjectStore>) -> (Self, FaultyObjects) {
        let faulty = FaultyObjects::over(Arc::clone(&objects));
        let store = Store::over(Arc::new(faulty.clone()), &StoreSettings::at("faulty:"));
        let honest = Store::over(objects, &StoreSettings::at("honest:"));
        (Self::new(seed, store, honest), faulty)
    }

    fn checkpoints(&self) -> Checkpoints {
        Checkpoints::new(self.honest.clone())
    }

    /// What a run does from its start to its death: the error that it ended with.
    pub async fn live(&self, life: u64, checkpoints: u64) -> Result<(), CheckpointError> {
        let trunk = Checkpoints::new(self.store.clone());
        let process = u32::try_from(life).unwrap();
        let Ok(claim) = epoch::claim(&self.store, &claimant(process)).await else {
            return Ok(());
        };
        let resumed = trunk.newest_verified().await?.found;
        let from = resumed.map_or(0, |manifest| manifest.step.0);
        for number in 1..=checkpoints {
            let step = Step(from + 10 * number);
            self.take(&trunk, step, life, claim.epoch).await?;
            self.owed.lock().unwrap().newest = Some(step);
            trunk.retain(&KEEP, step).await?;
            if (step.0 / 10 + self.seed).is_multiple_of(4) {
                trunk.pin(step, "branch", "runs/branch").await?;
                self.owed.lock().unwrap().parents.insert(step);
            }
        }
        Ok(())
    }

    /// The bits differ from life to life, as with another number of ranks.
    async fn take(
        &self,
        trunk: &Checkpoints,
        step: Step,
        life: u64,
        epoch: Epoch,
    ) -> Result<Published, CheckpointError> {
        trunk.clear_damaged(step).await?;
        let mut files = Vec::new();
        for name in FILES {
            let content = format!("{name} after {step} steps in life {life}");
            files.push(trunk.write_file(step, name, content.into()).await?);
        }
        trunk.publish(&manifest(step.0, epoch, files)).await
    }

    /// Every folder with a manifest that can be read, and whether all that it names is there.
    async fn whole(&self) -> BTreeMap<Step, bool> {
        let mut whole = BTreeMap::new();
        for object in self.honest.list("checkpoints").await.unwrap() {
            let key = object.key;
            let Some((step, layout::MANIFEST_FILE)) = layout::parse_checkpoint_file(&key) else {
                continue;
            };
            let text = self.honest.get(&key).await.unwrap();
            // A torn one is none.
            let Ok(text) = serde_json::from_slice::<serde_json::Value>(&text) else {
                continue;
            };
            let mut good = true;
            for file in text["files"].as_array().unwrap() {
                let key = layout::checkpoint_file(step, file["name"].as_str().unwrap());
                let digest = self
                    .honest
                    .get(&key)
                    .await
                    .map(|bytes| blake3::hash(&bytes));
                good &= digest.is_ok_and(|found| found.to_hex().as_str() == file["digest"]);
            }
            whole.insert(step, good);
        }
        whole
    }

    /// The invariants of checkpoints, on what lies in the store now.
    pub async fn check(&self, when: &str) {
        let whole = self.whole().await;
        self.check_owed(when, &whole);
        let picked = self.checkpoints().newest_verified().await.unwrap();
        let told = format!("seed {}, {when}: {whole:?}, {picked:?}", self.seed);
        let newest = whole.iter().rev().find(|(_, good)| **good);
        assert_eq!(
            picked.found.map(|manifest| manifest.step),
            newest.map(|(step, _)| *step),
            "{told}"
        );
        let passed: BTreeSet<_> = picked.skipped.iter().map(|(step, _)| *step).collect();
        for (step, _) in whole.iter().rev().take_while(|(_, good)| !**good) {
            assert!(passed.contains(step), "{step} {told}");
        }
        assert!(picked.skipped.iter().all(|(_, why)| !why.is_empty()));
    }

    fn check_owed(&self, when: &str, whole: &BTreeMap<Step, bool>) {
        let owed = self.owed.lock().unwrap();
        let told = format!("seed {}, {when}: {whole:?}, {owed:?}", self.seed);
        for (step, good) in whole {
            assert!(*good || owed.rotten.contains(step), "{step} {told}");
        }
        for step in owed.newest.iter().chain(&owed.parents) {
            let kept = whole.get(step) == Some(&true) || owed.rotten.contains(step);
            assert!(kept, "{step} is gone or damaged; {told}");
        }
    }

    /// Damages a file of the newest good checkpoint behind the store's back, unless it is a
    /// branch's parent: only the same bits may take its place.
    pub async fn rot(&self, dice: &mut Dice) {
        let parents = self.checkpoints().branch_parents().await.unwrap();
        let whole = self.whole().await;
        let newest = whole.into_iter().rev().find(|(_, good)| *good);
        let Some((step, _)) = newest.filter(|(step, _)| !parents.contains(step)) else {
            return;
        };
        let name = FILES[dice.below(FILES.len() as u64) as usize];
        let key = layout::checkpoint_file(step, name);
        match dice.below(3) {
            0 => self.honest.delete(&key).await.unwrap(),
            1 => self.honest.put(&key, "short").await.unwrap(),
            _ => {
                let mut bytes = self.honest.get(&key).await.unwrap().to_vec();
                // Two bits, which no altered answer turns back.
                bytes[0] ^= 3;
                self.honest.put(&key, bytes).await.unwrap();
            }
        }
        let mut owed = self.owed.lock().unwrap();
        owed.rotten.insert(step);
        owed.newest = owed.newest.filter(|newest| *newest != step);
    }

    /// After the faults: the run goes on from what is there, and the rule holds.
    pub async fn recover(&self) {
        self.store.check_writable().await.unwrap();
        let before = self.checkpoints().newest_verified().await.unwrap().found;
        self.live(LIVES + 1, 2).await.unwrap();
        self.check("after the faults").await;
        let newest = self.checkpoints().newest_verified().await.unwrap();
        let from = before.map_or(0, |manifest| manifest.step.0);
        let step = newest.found.unwrap().step;
        assert_eq!(step, Step(from + 20), "seed {}", self.seed);
        let steps = self.checkpoints().steps().await.unwrap();
        let older = steps.published.iter().filter(|older| **older < step);
        // Also those whose pin was set by a call that failed or never ended.
        let parents = self.checkpoints().branch_parents().await.unwrap();
        for older in older {
            let stays = parents.contains(older);
            assert!(stays, "seed {}: {older} should be gone", self.seed);
        }
        let left = steps.unpublished.iter().find(|older| **older < step);
        assert!(
            left.is_none_or(|step| parents.contains(step)),
            "seed {}: {left:?} was left halfway",
            self.seed
        );
    }
}

/// Lives of one run, each of which ends at some call or with an error.
async fn run_lives(case: &Case, objects: &FaultyObjects, faults: Faults) {
    let mut dice = Dice::new(case.seed);
    for life in 1..=LIVES {
        let death = Death {
            call: objects.calls() + 1 + dice.below(2 * CALLS_OF_A_LIFE),
            done: dice.below(2) == 1,
        };
        objects.set(faults, Some(death));
        let ended = tokio::select! {
            ended = case.live(life, 3) => format!("{ended:?}"),
            () = objects.death() => format!("{death:?}"),
        };
        case.check(&format!("life {life} ended with {ended}")).await;
        if dice.below(4) == 0 {
            case.rot(&mut dice).await;
            case.check(&format!("rotten after life {life}")).await;
        }
    }
    objects.set(Faults::default(), None);
    case.recover().await;
}

/// A fifth of all calls meet a fault.
fn every_fault(seed: u64) -> Faults {
    Faults {
        seed,
        errors: 40,
        lost_answers: 40,
        stalls: 10,
        lies: 30,
        damages: 30,
        tears: 30,
        cuts: 20,
        flips: 0,
    }
}

#[tokio::test(start_paused = true)]
async fn no_fault_and_no_death_leaves_a_damaged_checkpoint() {
    let mut met = BTreeMap::<Fate, u64>::new();
    for seed in 0..150 {
        let (case, objects) = Case::over(seed, Arc::new(InMemory::new()));
        run_lives(&case, &objects, every_fault(seed)).await;
        for (fate, times) in objects.met() {
            *met.entry(fate).or_default() += times;
        }
    }
    println!("faults met: {met:?}");
    assert_eq!(met.len(), 7, "each fault was met: {met:?}");
}

#[tokio::test(start_paused = true)]
async fn nor_on_a_local_disk() {
    for seed in 1_000..1_020 {
        let folder = tempfile::tempdir().unwrap();
        let objects = LocalFileSystem::new_with_prefix(folder.path()).unwrap();
        let objects = objects.with_automatic_cleanup(true);
        let (case, objects) = Case::over(seed, Arc::new(objects));
        run_lives(&case, &objects, every_fault(seed)).await;
    }
}

/// A way from the store that turns bits around may hide a good checkpoint, and never passes a
/// damaged one off as good.
#[tokio::test(start_paused = true)]
async fn altered_answers_never_make_a_damaged_checkpoint_pass() {
    let mut passed_over = 0;
    for seed in 2_000..2_050 {
        let (case, objects) = Case::over(seed, Arc::new(InMemory::new()));
        case.live(1, 4).await.unwrap();
        let mut dice = Dice::new(seed);
        case.rot(&mut dice).await;
        let faults = Faults {
            seed,
            flips: 200,
            cuts: 50,
            ..Faults::default()
        };
        objects.set(faults, None);
        let whole = case.whole().await;
        let seen = Checkpoints::new(case.store.clone());
        for _ in 0..4 {
            let newest = seen.newest_verified().await.unwrap();
            passed_over += newest.skipped.len();
            if let Some(found) = newest.found {
                assert_eq!(whole.get(&found.step), Some(&true), "seed {seed}");
            }
        }
    }
    assert!(passed_over >= 200, "each rotten one was: {passed_over}");
}
