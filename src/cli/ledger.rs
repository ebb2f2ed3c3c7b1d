//! Whose text is in the weights, and what a withdrawal means.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail, ensure};

use crate::cli::table::{Table, counted, grouped};
use crate::cli::{display, operate, say};
use crate::config::RunConfig;
use crate::corpus::mixture::Mixture;
use crate::ids::Step;
use crate::run::ledger::{Consumed, Ledger};
use crate::run::schedule::PhaseKind;
use crate::store::address::CheckpointAddress;
use crate::store::checkpoint::Checkpoints;
use crate::store::manifest::CheckpointManifest;
use crate::store::settings::StoreSettings;
use crate::store::{Store, layout};

/// Trunks of trunks that are looked into.
const ANCESTORS_MAX: usize = 16;

/// Shows the ledger of a checkpoint, or of a run's newest one.
pub(super) async fn show(place: &str, json: bool) -> Result<()> {
    let (checkpoints, step) = if let Ok(address) = place.parse::<CheckpointAddress>() {
        let store = Store::open_existing(&StoreSettings::at(&address.run_url))?;
        (Checkpoints::new(store), address.step)
    } else {
        let checkpoints = Checkpoints::new(operate::folder(place)?);
        let newest = checkpoints.steps().await?.published.last().copied();
        (
            checkpoints,
            newest.context("the run has no checkpoint yet")?,
        )
    };
    let ledger = read(&checkpoints, step).await?;
    if json {
        return say(&serde_json::to_string_pretty(&ledger)?);
    }
    let mut table = Table::new(["source", "tokens", "documents", "chunks"]);
    for (source, consumed) in ledger.by_source() {
        table.row(vec![
            source,
            grouped(consumed.tokens),
            grouped(consumed.documents),
            grouped(consumed.chunks),
        ]);
    }
    say(&format!("{}\n", checkpoints.url(step)))?;
    say(&table.render())?;
    say(&format!("\n{}", display::institutions(&ledger)))
}

/// The ledger of a published checkpoint.
pub(super) async fn read(checkpoints: &Checkpoints, step: Step) -> Result<Ledger> {
    let manifest = checkpoints.manifest(step).await?;
    let bytes = checkpoints
        .read_file(&manifest, layout::LEDGER_FILE)
        .await?;
    serde_json::from_slice(&bytes).with_context(|| {
        let url = checkpoints.url(step);
        format!("{url}: {} is damaged", layout::LEDGER_FILE)
    })
}

/// A checkpoint of a run or of one that it grew from.
struct Witness {
    url: String,
    manifest: CheckpointManifest,
    ledger: Ledger,
}

/// Names every checkpoint that an institution's text touched and the newest one that it did not,
/// and writes the YAML of a run that goes on from there without it.
pub(super) async fn withdraw(run: &str, institution: &str, output: Option<&Path>) -> Result<()> {
    let witnesses = witnesses(run).await?;
    let known: BTreeSet<String> = witnesses
        .iter()
        .flat_map(|witness| witness.ledger.by_institution().into_keys())
        .collect();
    if !known.contains(institution) {
        let known: Vec<String> = known.into_iter().collect();
        bail!(
            "no checkpoint of {run} has read text of an institution `{institution}`\n  \
             hint: their ledgers name {}",
            known.join(", ")
        );
    }
    let share = |witness: &Witness| witness.ledger.by_institution().get(institution).copied();
    let mut table = Table::new(["step", "phase", "tokens", "documents", "checkpoint"]);
    let mut touched = 0_u64;
    for witness in &witnesses {
        let Some(Consumed {
            tokens, documents, ..
        }) = share(witness)
        else {
            continue;
        };
        touched += 1;
        table.row(vec![
            witness.manifest.step.to_string(),
            witness.manifest.phase.clone(),
            grouped(tokens),
            grouped(documents),
            witness.url.clone(),
        ]);
    }
    say(&format!(
        "Text of {institution} is in {}:\n\n{}",
        counted(touched, "checkpoint"),
        table.render()
    ))?;
    let clean = witnesses
        .iter()
        .filter(|witness| share(witness).is_none())
        .max_by_key(|witness| witness.manifest.step);
    let Some(clean) = clean else {
        return say(&format!(
            "\nNo checkpoint is without it: a run without {institution} begins anew."
        ));
    };
    say(&format!(
        "\nThe newest checkpoint without it, after step {} of phase \"{}\":\n  {}",
        clean.manifest.step, clean.manifest.phase, clean.url
    ))?;
    go_on(run, institution, clean, output)
}

/// All checkpoints of a run and of those that it grew from.
async fn witnesses(run: &str) -> Result<Vec<Witness>> {
    let mut checkpoints = Checkpoints::new(operate::folder(run)?);
    let mut last = Step(u64::MAX);
    let mut witnesses = Vec::new();
    for _ in 0..ANCESTORS_MAX {
        let mut parent = None;
        for step in checkpoints.steps().await?.published {
            // What a trunk did after the branch left it is not in the branch.
            if step > last {
                continue;
            }
            let manifest = checkpoints.manifest(step).await?;
            parent = parent.or_else(|| manifest.parent.clone());
            witnesses.push(Witness {
                url: checkpoints.url(step),
                ledger: read(&checkpoints, step).await?,
                manifest,
            });
        }
        let Some(parent) = parent else { break };
        last = parent.step;
        let store = Store::open_existing(&StoreSettings::at(&parent.run_url))?;
        checkpoints = Checkpoints::new(store);
    }
    ensure!(!witnesses.is_empty(), "{run} has no checkpoint yet");
    Ok(witnesses)
}

/// Says how to go on, or writes the YAML for it.
fn go_on(run: &str, institution: &str, clean: &Witness, output: Option<&Path>) -> Result<()> {
    let Some(output) = output else {
        return say(&format!(
            "\nTo go on from there without it:\n  \
             cohort ledger RUN.yaml --withdraw {institution} --write NEW.yaml\n  \
             cohort branch {} NEW.yaml",
            clean.url
        ));
    };
    let yaml = Path::new(run);
    if !yaml.is_file() {
        bail!(
            "`--write` needs the run's YAML to start from, and {run} is none\n  \
             hint: name the run by its YAML"
        );
    }
    let config = without(RunConfig::load(yaml)?, institution, clean)?;
    let text = config.to_yaml()?;
    File::create_new(output)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .with_context(|| format!("cannot write {}", output.display()))?;
    let decayed = match clean.manifest.phase_kind {
        PhaseKind::Stable => "",
        PhaseKind::Decay => " --from-decayed",
    };
    say(&format!(
        "\nTo go on from there without it (look into the file first):\n  \
         cohort branch {} {}{decayed}",
        clean.url,
        output.display()
    ))
}

/// The same run without an institution: another name, other names for the phases that are still to
/// come, and mixtures that leave it out.
fn without(mut config: RunConfig, institution: &str, clean: &Witness) -> Result<RunConfig> {
    let suffix = format!("without-{institution}");
    config.name = format!("{}-{suffix}", config.name);
    let current = config
        .phases
        .iter()
        .position(|phase| phase.name == clean.manifest.phase)
        .ok_or_else(|| {
            anyhow!(
                "the YAML has no phase \"{}\", in which {} stands\n  \
                 hint: name the YAML of the run that made it, {}",
                clean.manifest.phase,
                clean.url,
                clean.manifest.run
            )
        })?;
    config.phases.drain(..current);
    for phase in &mut config.phases {
        let done = clean.ledger.tokens_in(&phase.name);
        phase.tokens = phase.tokens.map(|tokens| tokens.saturating_sub(done));
        if done > 0 {
            phase.warmup_tokens = 0;
        }
        phase.name = format!("{}-{suffix}", phase.name);
        leave_out(&mut phase.mixture, institution);
    }
    config
        .phases
        .retain(|phase| phase.tokens != Some(0) && reads(&phase.mixture));
    ensure!(
        !config.phases.is_empty(),
        "nothing is left to train: the phases that {} has not ended read from {institution} alone",
        clean.url
    );
    Ok(config)
}

/// Whether a mixture takes from any source.
fn reads(mixture: &Mixture) -> bool {
    match mixture {
        Mixture::All => true,
        Mixture::Epochs(values) | Mixture::Weights(values) => {
            values.values().any(|value| *value > 0.0)
        }
    }
}

fn leave_out(mixture: &mut Mixture, institution: &str) {
    let values = match mixture {
        Mixture::All => {
            *mixture = Mixture::Epochs(BTreeMap::from([("*".to_owned(), 1.0)]));
            return leave_out(mixture, institution);
        }
        Mixture::Epochs(values) | Mixture::Weights(values) => values,
    };
    let start = format!("{institution}/");
    values.retain(|pattern, _| !pattern.starts_with(&start));
    if values.contains_key("*") {
        values.insert(format!("{institution}/*"), 0.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mixtures_leave_an_institution_out() {
        let numbers = |pairs: &[(&str, f64)]| -> BTreeMap<String, f64> {
            let owned = pairs.iter().map(|&(name, value)| (name.to_owned(), value));
            owned.collect()
        };
        let cases = [
            (
                Mixture::All,
                Mixture::Epochs(numbers(&[("*", 1.0), ("north/*", 0.0)])),
            ),
            (
                Mixture::Weights(numbers(&[("north/a", 2.0), ("northern/a", 1.0)])),
                Mixture::Weights(numbers(&[("northern/a", 1.0)])),
            ),
        ];
        for (mut mixture, expected) in cases {
            leave_out(&mut mixture, "north");
            assert_eq!(mixture, expected);
            assert!(reads(&mixture));
        }
        let mut alone = Mixture::Epochs(numbers(&[("north/*", 2.0)]));
        leave_out(&mut alone, "north");
        assert!(!reads(&alone));
    }
}
