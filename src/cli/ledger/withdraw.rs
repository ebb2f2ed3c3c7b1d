//! An institution withdraws its text: which checkpoints it is in, which branches, and how to go on
//! without it.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::cli::ledger::clean::Clean;
use crate::cli::ledger::lineage::{Lineage, Verdict};
use crate::cli::ledger::way_on::{Start, checked, without};
use crate::cli::ledger::{branches, repeats};
use crate::cli::operate::Place;
use crate::cli::table::{Table, counted, grouped};
use crate::cli::{operate, say};
use crate::config::{self, RunConfig};
use crate::corpus::mixture::Mixture;
use crate::data::Corpus;
use crate::data::location::CorpusLocation;
use crate::store::backend::Credentials;
use crate::store::layout;

/// Names every checkpoint and branch that an institution's text touched and the newest checkpoint
/// that it did not, and writes the YAML of a run that goes on from there without it.
pub(in crate::cli) async fn withdraw(
    run: &str,
    institution: &str,
    output: Option<&Path>,
) -> Result<()> {
    let place = operate::place(run)?;
    let lineage = Lineage::read(&place).await?;
    let described = description(&place).await;
    let corpus = described
        .as_ref()
        .and_then(|config| Corpus::open_at(&config.corpus, &Credentials::Environment).ok());
    let known = known(&lineage, described.as_ref(), corpus.as_ref());
    if !known.contains(institution) {
        let known: Vec<String> = known.into_iter().collect();
        bail!(
            "an institution `{institution}` is neither in a ledger of {run} nor in its corpus nor \
             in its YAML\n  \
             hint: they name {}",
            known.join(", ")
        );
    }
    say(&touched(&lineage, institution))?;
    if let Some(unreached) = &lineage.unreached {
        say(&format!("\nIts trunk {unreached}"))?;
    }
    if let Some(branches) = branches::describe(&place, &lineage, institution).await? {
        say(&branches)?;
    }
    let repeated = corpus
        .as_ref()
        .and_then(|corpus| repeats::describe(corpus, institution));
    if let Some(repeated) = repeated {
        say(&repeated)?;
    }
    let clean = Clean::find(&lineage, institution).await?;
    say(&clean.describe(institution))?;
    let start = match clean.start {
        Some((witness, content)) => Some(Start::read(witness, content, &lineage).await?),
        None => None,
    };
    match (output, &start) {
        (Some(output), _) => {
            let config = place.yaml.with_context(|| {
                format!(
                    "`--write` needs the run's YAML to start from, and {run} is none\n  \
                     hint: name the run by its YAML"
                )
            })?;
            let start = start.as_ref();
            write(config, institution, start, corpus.as_ref(), output)
        }
        (None, Some(start)) => {
            let manifest = corpus.as_ref().map(Corpus::manifest);
            let yaml = place.yaml.clone();
            let rest = yaml.map(|config| without(config, institution, Some(start), manifest));
            match rest {
                Some(Err(reason)) => say(&format!("\nNo run goes on from there: {reason}")),
                _ => say(&format!(
                    "\nTo go on from there without it:\n  {}\n  {}",
                    write_command(run, &place, institution),
                    start.command("NEW.yaml")
                )),
            }
        }
        (None, None) => say(&format!(
            "\nFor the YAML of that run:\n  {}",
            write_command(run, &place, institution)
        )),
    }
}

/// What writes the YAML of a run without an institution.
fn write_command(run: &str, place: &Place, institution: &str) -> String {
    let yaml = if place.yaml.is_some() {
        run
    } else {
        "RUN.yaml"
    };
    format!("cohort ledger {yaml} --withdraw {institution} --write NEW.yaml")
}

/// Every institution that the run could have read from.
fn known(
    lineage: &Lineage,
    described: Option<&RunConfig>,
    corpus: Option<&Corpus>,
) -> BTreeSet<String> {
    let mut known = lineage.institutions();
    known.extend(described.into_iter().flat_map(of_mixtures));
    let manifests = corpus.into_iter().map(Corpus::manifest);
    let institutions = manifests.flat_map(|manifest| &manifest.institutions);
    known.extend(institutions.map(|institution| institution.id.clone()));
    known
}

/// Writes the YAML of the run without an institution, and says what to do with it.
fn write(
    config: RunConfig,
    institution: &str,
    start: Option<&Start<'_>>,
    corpus: Option<&Corpus>,
    output: &Path,
) -> Result<()> {
    let (config, empty) = without(config, institution, start, corpus.map(Corpus::manifest))?;
    let text = checked(&config, output, start, corpus)
        .with_context(|| format!("a run without {institution}, of which nothing was written"))?;
    File::create_new(output)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .with_context(|| format!("cannot write {}", output.display()))?;
    let unchecked = match corpus {
        Some(_) => "",
        None => "; its corpus cannot be read here, so its mixtures were not checked",
    };
    for phase in empty {
        say(&format!(
            "\nLeft out: phase \"{phase}\", which reads from {institution} alone. Give the run \
             another\nin its place if its weights are to decay."
        ))?;
    }
    let output = output.display().to_string();
    let command = match start {
        Some(start) => start.command(&output),
        None => format!("cohort train {output}"),
    };
    say(&format!(
        "\nTo go on without it (look into the file first{unchecked}):\n  {command}"
    ))
}

/// The run's YAML, or else what its folder keeps of the one that it was started with.
async fn description(place: &Place) -> Option<RunConfig> {
    if let Some(config) = &place.yaml {
        return Some(config.clone());
    }
    let text = place.store.get(layout::RUN_FILE).await.ok()?;
    let text = std::str::from_utf8(&text).ok()?;
    let config: RunConfig = config::parse(text, layout::RUN_FILE).ok()?;
    // A path in it is relative to a file that may be anywhere.
    let is_found = match &config.corpus {
        CorpusLocation::Folder(folder) => folder.is_absolute(),
        CorpusLocation::Store(_) => true,
    };
    is_found.then_some(config)
}

/// The institutions that a run's mixtures name.
fn of_mixtures(config: &RunConfig) -> BTreeSet<String> {
    let values = config
        .phases
        .iter()
        .filter_map(|phase| match &phase.mixture {
            Mixture::All => None,
            Mixture::Epochs(values) | Mixture::Weights(values) => Some(values),
        });
    let patterns = values.flat_map(|values| values.keys());
    let owners = patterns.filter_map(|pattern| pattern.split_once('/'));
    owners.map(|(owner, _)| owner.to_owned()).collect()
}

/// A table of the checkpoints that have an institution's text, and of those that cannot be read.
fn touched(lineage: &Lineage, institution: &str) -> String {
    let mut table = Table::new(["step", "phase", "tokens", "documents begun", "checkpoint"]);
    let (mut with, mut unreadable) = (0_u64, Vec::new());
    for witness in &lineage.witnesses {
        let mut row = vec![witness.step.to_string()];
        match (witness.verdict(institution), &witness.content) {
            (Verdict::With(consumed), Ok(content)) => {
                with += 1;
                row.push(content.manifest.phase.clone());
                row.extend([consumed.tokens, consumed.documents].map(grouped));
            }
            (_, Err(reason)) => {
                unreadable.push(format!("\n  step {}: {reason}", witness.step));
                row.extend(["unreadable", "–", "–"].map(str::to_owned));
            }
            _ => continue,
        }
        row.push(witness.url());
        table.row(row);
    }
    let mut lines = format!(
        "Text of {institution} is in {}",
        counted(with, "checkpoint")
    );
    if !unreadable.is_empty() {
        let count = counted(unreadable.len() as u64, "checkpoint");
        lines.push_str(", and may be in ");
        lines.push_str(&count);
        lines.push_str(" that cannot be read");
    }
    if table.is_empty() {
        return lines + ".";
    }
    let mut parts = vec![lines + ":", table.render()];
    if !unreadable.is_empty() {
        parts.push(format!("Unreadable:{}", unreadable.concat()));
    }
    parts.join("\n\n")
}
