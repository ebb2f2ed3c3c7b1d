//! Which checkpoints may go. Pure: the caller lists, verifies and deletes.
//!
//! Whatever is configured, these stay: the newest checkpoint that verified and everything newer,
//! every pinned one, every branch's parent, and the newest of a stable phase, since a decay can
//! always be made again from it but not the other way round.

use std::collections::BTreeSet;

use garde::Validate;
use serde::{Deserialize, Serialize};

use crate::ids::Step;
use crate::run::schedule::PhaseKind;
use crate::store::manifest::CheckpointManifest;

/// Which checkpoints of a run are kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Validate)]
#[serde(deny_unknown_fields, default)]
pub struct Retention {
    /// How many of the newest checkpoints are kept.
    #[garde(range(min = 1))]
    pub keep_last: usize,
    /// Also keeps every checkpoint whose step is a multiple of this number.
    #[garde(inner(range(min = 1)))]
    pub keep_every_steps: Option<u64>,
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            keep_last: 3,
            keep_every_steps: None,
        }
    }
}

/// What retention must know of a published checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    pub step: Step,
    pub phase_kind: PhaseKind,
    /// Says of itself that it must stay.
    pub pinned: bool,
}

impl From<&CheckpointManifest> for Summary {
    fn from(manifest: &CheckpointManifest) -> Self {
        Self {
            step: manifest.step,
            phase_kind: manifest.phase_kind,
            pinned: manifest.must_stay(),
        }
    }
}

impl Retention {
    /// The steps whose checkpoints may be deleted, oldest first. Without a verified checkpoint
    /// nothing may go: it is not known which one the run could be resumed from.
    pub fn deletions(
        &self,
        checkpoints: &[Summary],
        newest_verified: Option<Step>,
        branch_parents: &BTreeSet<Step>,
    ) -> Vec<Step> {
        let Some(newest_verified) = newest_verified else {
            return Vec::new();
        };
        let steps: BTreeSet<Step> = checkpoints.iter().map(|summary| summary.step).collect();
        let last: BTreeSet<Step> = steps.iter().rev().take(self.keep_last).copied().collect();
        let last_stable = checkpoints
            .iter()
            .filter(|summary| {
                summary.phase_kind == PhaseKind::Stable && summary.step <= newest_verified
            })
            .map(|summary| summary.step)
            .max();
        let stays = |summary: &Summary| {
            let step = summary.step;
            summary.pinned
                || step >= newest_verified
                || last.contains(&step)
                || last_stable == Some(step)
                || branch_parents.contains(&step)
                || self
                    .keep_every_steps
                    .is_some_and(|every| step.0.is_multiple_of(every))
        };
        let going: BTreeSet<Step> = checkpoints
            .iter()
            .filter(|summary| !stays(summary))
            .map(|summary| summary.step)
            .collect();
        going.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::{btree_map, btree_set};
    use proptest::prelude::*;

    use super::*;

    fn stable(step: u64) -> Summary {
        Summary {
            step: Step(step),
            phase_kind: PhaseKind::Stable,
            pinned: false,
        }
    }

    fn decay(step: u64) -> Summary {
        Summary {
            phase_kind: PhaseKind::Decay,
            ..stable(step)
        }
    }

    #[test]
    fn only_old_unneeded_checkpoints_go() {
        let checkpoints = [
            stable(0),
            stable(50),
            stable(100),
            Summary {
                pinned: true,
                ..stable(120)
            },
            stable(150),
            stable(160),
            decay(170),
            decay(180),
            decay(190),
        ];
        let rule = Retention {
            keep_last: 1,
            keep_every_steps: Some(100),
        };
        // 0 and 100 by the rule, 120 pinned, 150 a parent, 160 the last stable, 190 the newest.
        assert_eq!(
            rule.deletions(&checkpoints, Some(Step(190)), &BTreeSet::from([Step(150)])),
            [Step(50), Step(170), Step(180)]
        );
        // The two newest are damaged: what verified, and is older than the rule asks for, stays.
        assert_eq!(
            rule.deletions(&checkpoints, Some(Step(170)), &BTreeSet::new()),
            [Step(50), Step(150)]
        );
        assert_eq!(rule.deletions(&checkpoints, None, &BTreeSet::new()), []);
    }

    #[test]
    fn the_rule_reads_from_yaml() {
        let rule: Retention = crate::config::parse("keep_every_steps: 1_000", "test").unwrap();
        assert_eq!(
            rule,
            Retention {
                keep_last: 3,
                keep_every_steps: Some(1_000)
            }
        );
        for wrong in ["keep_last: 0", "keep_every_steps: 0", "keep_first: 1"] {
            assert!(
                crate::config::parse::<Retention>(wrong, "test").is_err(),
                "{wrong}"
            );
        }
    }

    proptest! {
        #[test]
        fn what_a_run_needs_never_goes(
            kinds in btree_map(0u64..60, (any::<bool>(), prop::bool::weighted(0.1)), 0..30),
            parents in btree_set(0u64..60, 0..4),
            verified in any::<prop::sample::Index>(),
            keep_last in 1usize..6,
            keep_every_steps in prop::option::of(1u64..20),
        ) {
            let checkpoints: Vec<_> = kinds
                .iter()
                .map(|(step, (is_stable, pinned))| Summary {
                    pinned: *pinned,
                    ..if *is_stable { stable(*step) } else { decay(*step) }
                })
                .collect();
            let parents: BTreeSet<_> = parents.into_iter().map(Step).collect();
            let newest_verified =
                (!checkpoints.is_empty()).then(|| verified.get(&checkpoints).step);
            let rule = Retention { keep_last, keep_every_steps };
            let going = rule.deletions(&checkpoints, newest_verified, &parents);

            let Some(newest_verified) = newest_verified else {
                prop_assert!(going.is_empty());
                return Ok(());
            };
            let remaining: Vec<_> =
                checkpoints.iter().filter(|c| !going.contains(&c.step)).copied().collect();
            prop_assert!(going.is_sorted());
            prop_assert!(remaining.iter().any(|c| c.step == newest_verified));
            prop_assert!(remaining.len() >= keep_last.min(checkpoints.len()));
            for step in &going {
                let gone = checkpoints.iter().find(|c| c.step == *step);
                prop_assert!(gone.is_some_and(|c| !c.pinned), "made up or pinned: {step}");
                prop_assert!(!parents.contains(step));
            }
            let usable_stable = |all: &[Summary]| {
                all.iter()
                    .filter(|c| c.phase_kind == PhaseKind::Stable && c.step <= newest_verified)
                    .map(|c| c.step)
                    .max()
            };
            prop_assert_eq!(usable_stable(&checkpoints), usable_stable(&remaining));
            // Applied again it finds nothing more to delete.
            prop_assert_eq!(rule.deletions(&remaining, Some(newest_verified), &parents), []);
        }
    }
}
