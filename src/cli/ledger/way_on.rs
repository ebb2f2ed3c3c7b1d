//! The run that goes on without an institution: what is left of the schedule, under other names and
//! without that institution's sources.
//!
//! Only what is left is trained. A phase that has ended is not taken again, one that is half done
//! keeps what it has not read, and a decay that an operator commanded is the next phase.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, anyhow, ensure};

use crate::cli::ledger::lineage::{Content, Lineage, Witness};
use crate::cli::ledger::{names, read_state};
use crate::config::{self, RunConfig};
use crate::coordinator::journal::{self, AppliedDecay};
use crate::corpus::Manifest;
use crate::corpus::mixture::Mixture;
use crate::data::Corpus;
use crate::preflight::open_blueprint;
use crate::run::ledger::Ledger;
use crate::run::schedule::{PhaseKind, PhaseSettings};
use crate::store::manifest::{CheckpointManifest, Reason};
use crate::train::state::TrainingState;

/// What the YAML allows for a run's name and for a phase's.
const RUN_NAME_BYTES_MAX: usize = 80;
const PHASE_NAME_BYTES_MAX: usize = 40;

/// The checkpoint that the run goes on from.
pub(super) struct Start<'a> {
    url: String,
    manifest: &'a CheckpointManifest,
    ledger: &'a Ledger,
    state: TrainingState,
    /// A decay that an operator commanded at this step, which the checkpoint does not hold.
    decay: Option<AppliedDecay>,
    /// Whether the run that is asked about is a branch that began here.
    is_parent: bool,
}

impl<'a> Start<'a> {
    pub(super) async fn read(
        witness: &Witness,
        content: &'a Content,
        lineage: &Lineage,
    ) -> Result<Self> {
        let store = witness.checkpoints.store();
        let state = read_state(&witness.checkpoints, &content.manifest).await?;
        let decays = journal::read(store).await?.applied_decays();
        let is_due = |decay: &AppliedDecay| {
            let is_here = decay.step == witness.step;
            is_here && state.progress.owes(decay.command, decay.step, witness.step)
        };
        let trunk = lineage.runs.get(1);
        Ok(Self {
            url: witness.url(),
            manifest: &content.manifest,
            ledger: &content.ledger,
            decay: decays.into_iter().find(is_due),
            is_parent: trunk.is_some_and(|trunk| {
                trunk.last == witness.step && trunk.checkpoints.store().address() == store.address()
            }),
            state,
        })
    }

    /// The command that goes on from here with a YAML.
    pub(super) fn command(&self, yaml: &str) -> String {
        let decayed = match self.manifest.phase_kind {
            PhaseKind::Stable => "",
            PhaseKind::Decay => " --from-decayed",
        };
        format!("cohort branch {} {yaml}{decayed}", self.url)
    }
}

/// The run that goes on from `start`, or begins anew, without an institution. The manifest is that
/// of its corpus, where it can be read.
///
/// Also the names of the phases that read nothing without it, and are left out.
pub(super) fn without(
    mut config: RunConfig,
    institution: &str,
    start: Option<&Start<'_>>,
    manifest: Option<&Manifest>,
) -> Result<(RunConfig, Vec<String>)> {
    config.name = names::without(&config.name, institution, RUN_NAME_BYTES_MAX, |_| false);
    let place = start.map_or("the run", |start| &start.url);
    if let Some(start) = start {
        config.phases = left(&config.phases, start)?;
        ensure!(
            !config.phases.is_empty(),
            "nothing is left to train: {place} has all phases of the YAML behind it"
        );
    }
    for phase in &mut config.phases {
        leave_out(&mut phase.mixture, institution, manifest);
        let of_institution = format!("{institution}/");
        phase
            .max_epochs
            .retain(|pattern, _| !pattern.starts_with(&of_institution));
    }
    let empty = config.phases.extract_if(.., |phase| !reads(&phase.mixture));
    let empty: Vec<String> = empty.map(|phase| phase.name).collect();
    ensure!(
        !config.phases.is_empty(),
        "nothing is left to train: the phases that {place} has not ended read from {institution} \
         alone"
    );
    if let Some(start) = start {
        rename(&mut config.phases, institution, start.ledger);
    }
    Ok((config, empty))
}

/// A phase's name decides which rows it reads, so what goes on is named otherwise than all that has
/// been read.
fn rename(phases: &mut [PhaseSettings], institution: &str, ledger: &Ledger) {
    let mut taken: Vec<String> = phases.iter().map(|phase| phase.name.clone()).collect();
    for phase in phases {
        phase.name = names::without(&phase.name, institution, PHASE_NAME_BYTES_MAX, |name| {
            ledger.has_phase(name) || taken.iter().any(|other| other == name)
        });
        taken.push(phase.name.clone());
    }
}

/// The phases that lie after a checkpoint, the first of them without what is done of it.
fn left(phases: &[PhaseSettings], start: &Start<'_>) -> Result<Vec<PhaseSettings>> {
    if start.is_parent {
        let first = start
            .ledger
            .first_of_branch(phases)
            .with_context(|| format!("{} has the phases of the YAML behind it", start.url))?;
        return Ok(phases[first..].to_vec());
    }
    let current = phases
        .iter()
        .position(|phase| phase.name == start.manifest.phase)
        .ok_or_else(|| {
            anyhow!(
                "the YAML has no phase \"{}\", in which {} stands\n  \
                 hint: name the YAML of the run that made it, {}",
                start.manifest.phase,
                start.url,
                start.manifest.run
            )
        })?;
    let mut phases = phases[current..].to_vec();
    if let Some(decay) = start.decay {
        let is_decay = |phase: &PhaseSettings| phase.kind() == PhaseKind::Decay;
        let target = phases.iter().skip(1).position(is_decay);
        phases.drain(..target.map_or(phases.len(), |target| target + 1));
        if let (Some(phase), Some(tokens)) = (phases.first_mut(), decay.tokens) {
            phase.tokens = Some(tokens);
        }
        return Ok(phases);
    }
    let done = &start.state.progress;
    let length = match phases[0].tokens {
        Some(tokens) if !done.phase_length_by_command => tokens,
        _ => done.phase_length_tokens,
    };
    // The end of the last phase stays in it: a longer one in the YAML is not over.
    let has_ended = if done.finished {
        done.phase_tokens >= length
    } else {
        start.manifest.reason == Reason::PhaseEnd || done.phase_tokens >= length
    };
    if has_ended {
        phases.remove(0);
        return Ok(phases);
    }
    if done.phase_tokens > 0 {
        let phase = &mut phases[0];
        ensure!(
            phase.kind() == PhaseKind::Stable,
            "{} stands inside the decay \"{}\", which a branch cannot go on in: it would begin at \
             the peak learning rate again\n  \
             hint: branch from a checkpoint of a stable phase",
            start.url,
            phase.name
        );
        phase.tokens = Some(length - done.phase_tokens);
        phase.warmup_tokens = 0;
        phase.rows_warmup = None;
    }
    Ok(phases)
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

/// Takes an institution's sources out of a mixture, so that the corpus still matches each of its
/// patterns.
fn leave_out(mixture: &mut Mixture, institution: &str, manifest: Option<&Manifest>) {
    let texts = manifest.map(|manifest| {
        let sources = manifest.sources();
        let with_text = sources.filter(|(_, _, source)| source.train.chunks > 0);
        with_text
            .map(|(_, owner, source)| (owner.id.clone(), owner.name_of(source)))
            .collect::<Vec<_>>()
    });
    let mut owners = texts.iter().flatten().map(|(owner, _)| owner);
    let is_in_corpus = texts.is_none() || owners.any(|owner| owner == institution);
    if *mixture == Mixture::All {
        if !is_in_corpus {
            return;
        }
        *mixture = Mixture::Epochs(BTreeMap::from([("*".to_owned(), 1.0)]));
    }
    let (Mixture::Epochs(values) | Mixture::Weights(values)) = mixture else {
        return;
    };
    let start = format!("{institution}/");
    values.retain(|pattern, _| !pattern.starts_with(&start));
    if !values.contains_key("*") {
        return;
    }
    // A pattern that decides nothing is refused.
    let rest_decides = texts.is_none_or(|texts| {
        texts.iter().any(|(owner, source)| {
            owner != institution
                && !values.contains_key(source)
                && !values.contains_key(&format!("{owner}/*"))
        })
    });
    if !rest_decides {
        values.remove("*");
    } else if is_in_corpus {
        values.insert(format!("{institution}/*"), 0.0);
    }
}

/// The run as YAML, once it has passed what `cohort plan` looks at; of a corpus that is not there,
/// only what needs none.
pub(super) fn checked(
    config: &RunConfig,
    origin: &Path,
    start: Option<&Start<'_>>,
    corpus: Option<&Corpus>,
) -> Result<String> {
    let text = config.to_yaml()?;
    let read: RunConfig = config::parse(&text, &origin.display().to_string())?;
    if let Some(corpus) = corpus {
        let tokenizer = &corpus.manifest().tokenizer;
        if let Some(start) = start {
            start
                .state
                .expect_tokenizer(&tokenizer.digest, &start.url)?;
        }
        open_blueprint(&read)?;
        read.model.resolve(tokenizer)?;
    }
    Ok(text)
}

#[cfg(test)]
#[path = "way_on_tests.rs"]
mod tests;
