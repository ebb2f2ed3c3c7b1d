//! All of a run that is known before its first step: the corpus, the schedule with its lengths, and
//! for each phase which rows it reads and how they are masked.
//!
//! `cohort plan`, `cohort inspect` and every rank draw the same blueprint from the same YAML.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};

use crate::corpus::masking::MaskRule;
use crate::corpus::mixture::ResolvedMixture;
use crate::corpus::mixture::repeats::{self, EpochLimit};
use crate::corpus::plan::PhasePlan;
use crate::corpus::plan_spec::{
    BLOCK_ROWS_DEFAULT, PlanSpec, SHUFFLE_CHUNKS_DEFAULT, SourceLengths,
};
use crate::corpus::random::keyed_number;
use crate::data::batch::{Batch, BatchBuilder, SourceCounts};
use crate::data::prefetch::BatchRequest;
use crate::data::{Corpus, SplitName};
use crate::ids::{Rank, RowIndex, SourceIndex};
use crate::run::progress::{Progress, StepPlan};
use crate::run::schedule::{PhaseSettings, Schedule};

/// What the blueprint is drawn from, beside the corpus.
#[derive(Clone, Debug)]
pub struct BlueprintSpec {
    pub seed: u64,
    /// Tokens of a packed row.
    pub row_tokens: u32,
    /// Rows of a full step.
    pub rows: u32,
    pub protect_special: bool,
    pub phases: Vec<PhaseSettings>,
}

#[derive(Clone, Debug)]
pub struct Blueprint {
    pub corpus: Arc<Corpus>,
    pub schedule: Schedule,
    pub phases: Vec<PhaseBlueprint>,
    pub row_tokens: u32,
}

#[derive(Clone, Debug)]
pub struct PhaseBlueprint {
    pub mixture: ResolvedMixture,
    /// As configured, or one pass over the mixture.
    pub length_tokens: u64,
    /// How long `max_epochs` let the phase be.
    pub limit: Option<EpochLimit>,
    pub builder: BatchBuilder,
}

/// Rows of a phase that were passed over.
#[derive(Clone, Debug)]
pub struct PassedRows {
    pub phase: usize,
    pub counts: BTreeMap<SourceIndex, SourceCounts>,
    pub phase_ended: bool,
}

impl Blueprint {
    /// Resolves every mixture and length. Reads the lengths of all chunks, packs nothing yet.
    pub fn draw(corpus: Arc<Corpus>, spec: &BlueprintSpec) -> Result<Self> {
        let max_length = corpus.manifest().max_length;
        ensure!(
            max_length <= spec.row_tokens,
            "batch.row_tokens is {}, but the corpus {} has chunks of up to {max_length} tokens\n  \
             hint: raise row_tokens, or prepare the corpus with max_length {}",
            spec.row_tokens,
            corpus.address(),
            spec.row_tokens
        );
        let phases = spec
            .phases
            .iter()
            .map(|phase| {
                draw_phase(&corpus, spec, phase)
                    .with_context(|| format!("phase \"{}\"", phase.name))
            })
            .collect::<Result<Vec<_>>>()?;
        let lengths_tokens = phases.iter().map(|phase| phase.length_tokens).collect();
        let schedule = Schedule {
            phases: spec.phases.clone(),
            lengths_tokens,
            limits: phases.iter().map(|phase| phase.limit.clone()).collect(),
            rows: spec.rows,
        };
        Ok(Self {
            corpus,
            schedule,
            phases,
            row_tokens: spec.row_tokens,
        })
    }

    /// The rows of a step, in order.
    pub fn rows(step: &StepPlan) -> Range<u64> {
        step.first_row.0..step.first_row.0 + u64::from(step.rows)
    }

    /// Tokens of a step over all its rows, padding not counted.
    pub fn step_tokens(&self, step: &StepPlan) -> u64 {
        let plan = &self.phases[step.phase].builder.plan;
        Self::rows(step)
            .map(|row| u64::from(plan.row(RowIndex(row)).tokens))
            .sum()
    }

    /// What some rows of a phase hold of each source. Which chunks begin documents is not known
    /// without reading them: none counts.
    pub fn counts(&self, phase: usize, rows: Range<u64>) -> BTreeMap<SourceIndex, SourceCounts> {
        let plan = &self.phases[phase].builder.plan;
        let mut sums: BTreeMap<SourceIndex, SourceCounts> = BTreeMap::new();
        for chunk in rows.flat_map(|row| plan.row(RowIndex(row)).chunks) {
            let sum = sums.entry(chunk.source).or_default();
            sum.tokens += u64::from(chunk.length);
            sum.chunks += 1;
        }
        sums
    }

    /// Goes past the rows that no step is to take, if the next step would touch some; with it every
    /// step that is entered ends, and every state that is read begins.
    pub fn pass_detours(&self, progress: &mut Progress) -> Vec<PassedRows> {
        let mut passed = Vec::new();
        while let Some(rows) = progress.due_detour(&self.schedule) {
            let phase = progress.phase;
            let counts = self.counts(phase, rows.clone());
            let tokens = counts.values().map(|counts| counts.tokens).sum();
            let phase_ended = progress.pass_over(&rows, tokens, &self.schedule);
            passed.push(PassedRows {
                phase,
                counts,
                phase_ended,
            });
        }
        passed
    }

    /// Which sources stand in some rows of a phase, by name.
    pub fn sources_of(&self, phase: usize, rows: Range<u64>) -> Vec<String> {
        let plan = &self.phases[phase].builder.plan;
        let mut found: Vec<SourceIndex> = rows
            .flat_map(|row| plan.row(RowIndex(row)).chunks)
            .map(|chunk| chunk.source)
            .collect();
        found.sort_unstable();
        found.dedup();
        found
            .iter()
            .filter_map(|&source| self.corpus.manifest().source_name(source))
            .collect()
    }

    /// One rank's share of a step: every `world`-th row.
    pub fn share(step: &StepPlan, rank: Rank, world: u32) -> BatchRequest {
        let rows = Self::rows(step)
            .filter(|row| row % u64::from(world) == u64::from(rank.0))
            .map(RowIndex)
            .collect();
        BatchRequest {
            phase: step.phase as u32,
            rows,
        }
    }

    /// Reads and masks the rows of a request.
    pub fn build(&self, request: &BatchRequest) -> Result<Batch> {
        self.phases[request.phase as usize]
            .builder
            .build(&request.rows)
    }
}

/// What keys a phase's order, masks and dropout beside the run's seed: its name. A number would let
/// the first phase of a branch read the rows of its trunk's first phase again, with the same masks.
fn phase_key(name: &str) -> u32 {
    keyed_number(0, name, &[]) as u32
}

fn draw_phase(
    corpus: &Arc<Corpus>,
    spec: &BlueprintSpec,
    phase: &PhaseSettings,
) -> Result<PhaseBlueprint> {
    let manifest = corpus.manifest();
    let mixture = phase.mixture.resolve(manifest)?;
    let tokens = phase.tokens.unwrap_or(mixture.pass_tokens);
    let limit = repeats::limit(&phase.max_epochs, &mixture, manifest)?;
    if let Some(limit) = &limit {
        limit.expect_within(tokens)?;
    }
    let sources = mixture
        .sources
        .iter()
        .map(|mixed| {
            Ok(SourceLengths::new(
                mixed,
                corpus.lengths(mixed.source, SplitName::Train)?,
            ))
        })
        .collect::<Result<Vec<_>>>()?;
    let plan = PhasePlan::new(PlanSpec {
        seed: spec.seed,
        phase: phase_key(&phase.name),
        row_tokens: spec.row_tokens,
        block_tokens: BLOCK_ROWS_DEFAULT * u64::from(spec.row_tokens),
        shuffle_chunks: SHUFFLE_CHUNKS_DEFAULT,
        pass_tokens: mixture.pass_tokens,
        sources,
    })?;
    let builder = BatchBuilder {
        corpus: Arc::clone(corpus),
        plan: Arc::new(plan),
        rule: MaskRule {
            rate: phase.mask_rate,
            protect_special: spec.protect_special,
        },
    };
    Ok(PhaseBlueprint {
        mixture,
        length_tokens: tokens,
        limit,
        builder,
    })
}
