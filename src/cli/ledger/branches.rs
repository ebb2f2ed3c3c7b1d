//! The runs that branched off, as far as an institution's text is in them.
//!
//! A trunk knows its branches by pins, which retention heeds. A pin says where the branch is; an
//! early one says only its name, and then the branch is looked for beside its trunk. One that
//! cannot be reached is named all the same: its weights come from a checkpoint that is known.

use std::collections::{BTreeSet, VecDeque};

use anyhow::Result;

use crate::cli::ledger::lineage::{Lineage, Verdict, witnesses};
use crate::cli::operate::Place;
use crate::cli::table::{Table, grouped};
use crate::ids::Step;
use crate::store::branches::Pin;
use crate::store::checkpoint::Checkpoints;

/// Branches, and branches of branches, that are looked into.
const BRANCHES_MAX: usize = 256;

/// A pin, and what its trunk says of the checkpoint that it keeps.
struct Grown {
    trunk: Checkpoints,
    pin: Pin,
    parent: Verdict,
}

/// A table of the branches that hold an institution's text or may hold it; nothing where there are
/// none.
pub(super) async fn describe(
    place: &Place,
    lineage: &Lineage,
    institution: &str,
) -> Result<Option<String>> {
    let mut waiting = beginnings(lineage, institution).await?;
    let mut table = Table::new(["branch", "from step", "checkpoints with it", "folder"]);
    let mut seen = BTreeSet::new();
    let mut more = "";
    while let Some(grown) = waiting.pop_front() {
        if seen.len() == BRANCHES_MAX {
            more = "\nThere are more, which were not looked into.";
            break;
        }
        let key = (grown.trunk.store().address().to_owned(), grown.pin.clone());
        if !seen.insert(key) {
            continue;
        }
        let mut row = vec![grown.pin.branch.clone(), grown.pin.step.to_string()];
        let found = look(place, &grown, institution).await;
        let Some((branch, verdicts)) = found else {
            row.extend(["–".to_owned(), "not found beside its trunk".to_owned()]);
            table.row(row);
            continue;
        };
        let count = |wanted: fn(&Verdict) -> bool| -> u64 {
            verdicts.iter().filter(|(_, found)| wanted(found)).count() as u64
        };
        let with = count(|verdict| matches!(verdict, Verdict::With(_)));
        let unknown = count(|verdict| *verdict == Verdict::Unknown);
        if with > 0 || unknown > 0 || grown.parent != Verdict::Without {
            row.push(match unknown {
                0 => grouped(with),
                _ => format!("{}, {} unreadable", grouped(with), grouped(unknown)),
            });
            row.push(branch.store().address().to_owned());
            table.row(row);
        }
        // A pin stays when its checkpoint is lost, and then says nothing of it.
        for pin in branch.pins().await.unwrap_or_default() {
            let own = verdicts.iter().find(|(step, _)| *step == pin.step);
            waiting.push_back(Grown {
                trunk: branch.clone(),
                parent: own.map_or(Verdict::Unknown, |(_, verdict)| *verdict),
                pin,
            });
        }
    }
    Ok((!table.is_empty()).then(|| {
        format!(
            "\nBranches that it is in, or may be in:\n\n{}{more}\n\nAsk each of them:\n  \
             cohort ledger BRANCH --withdraw {institution}",
            table.render()
        )
    }))
}

/// The branches of the run and of those that it grew from, less the run's own line.
async fn beginnings(lineage: &Lineage, institution: &str) -> Result<VecDeque<Grown>> {
    let mut found = VecDeque::new();
    let mut child: Option<&str> = None;
    for run in &lineage.runs {
        let address = run.checkpoints.store().address();
        for pin in run.checkpoints.pins().await? {
            let is_child = pin.step == run.last && child == Some(&pin.branch);
            if pin.step <= run.last && !is_child {
                found.push_back(Grown {
                    trunk: run.checkpoints.clone(),
                    parent: lineage.verdict(address, pin.step, institution),
                    pin,
                });
            }
        }
        child = address.rsplit('/').next();
    }
    Ok(found)
}

/// The branch and what each of its checkpoints says; nothing where it cannot be reached, whatever
/// the reason: its trunk's answer must not wait for it.
async fn look(
    place: &Place,
    grown: &Grown,
    institution: &str,
) -> Option<(Checkpoints, Vec<(Step, Verdict)>)> {
    let trunk = grown.trunk.store().address();
    let (runs, trunk_name) = trunk.rsplit_once('/')?;
    let told = grown.trunk.branch_url(&grown.pin).await.ok().flatten();
    let beside = format!("{runs}/{}", grown.pin.branch);
    for url in told.into_iter().chain([beside]) {
        let Ok(store) = place.other(&url) else {
            continue;
        };
        let branch = Checkpoints::new(store);
        // Another run may have that name, and stores are moved.
        let is_it = branch.parent().await.ok().flatten().is_some_and(|parent| {
            parent.step == grown.pin.step && parent.run_url.rsplit('/').next() == Some(trunk_name)
        });
        if !is_it {
            continue;
        }
        let own = witnesses(&branch, Step(u64::MAX)).await.ok()?;
        let verdicts = own
            .iter()
            .map(|witness| (witness.step, witness.verdict(institution)))
            .collect();
        return Some((branch, verdicts));
    }
    None
}
