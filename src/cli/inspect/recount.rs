//! All that a run has read, read again and compared with what the run says of itself.
//!
//! The run's history is followed from its beginning as its ranks followed it: the schedule, the
//! decays on command, the rows that it passed over once it knew of them. Each step must be the next
//! one and take the rows that come next; what these rows hold must be what the step's line tells;
//! and the sums must be the ledgers of the checkpoints.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use indicatif::{ProgressBar, ProgressStyle};

use crate::cli::inspect::step::{decay_if_due, of_trunk, record};
use crate::cli::table::{Table, grouped};
use crate::cli::{ledger, say};
use crate::config::RunConfig;
use crate::coordinator::journal::{self, AppliedDecay};
use crate::data::batch::{Batch, SourceCounts};
use crate::data::blueprint::Blueprint;
use crate::data::prefetch::BatchRequest;
use crate::ids::{RowIndex, SourceIndex, Step};
use crate::run::ledger::Ledger;
use crate::run::progress::{Progress, StepPlan};
use crate::run::spike::{self, Spike};
use crate::store::Store;
use crate::store::checkpoint::Checkpoints;
use crate::store::error::CheckpointError;
use crate::telemetry::StepMetrics;
use crate::train::replica::enter;

const DIFFERS: &str = "\n  hint: if neither the file nor the corpus has changed since (the run as \
                       it was started is run.yaml in its folder), the run is not what it says";

/// Where a run's history stands, and what was read by then.
struct Recount<'a> {
    blueprint: &'a Blueprint,
    decays: Vec<AppliedDecay>,
    spikes: Vec<Spike>,
    /// The step that the run begins after.
    start: Step,
    progress: Progress,
    ledger: Ledger,
    phases: BTreeMap<usize, PhaseSums>,
}

/// What was read in a phase.
#[derive(Default)]
struct PhaseSums {
    steps: u64,
    rows: u64,
    tokens: u64,
    masked: u64,
    /// Rows that were read or passed over and changed no weights.
    skipped_rows: u64,
}

/// Checks a whole run; says what it read, or which step or checkpoint is not as it should be.
pub(super) async fn whole_run(config: &RunConfig, blueprint: &Blueprint) -> Result<()> {
    let checkpoints = Checkpoints::new(Store::open_existing(&config.store)?.child(&config.name)?);
    let lines = record(checkpoints.store()).await?;
    ensure!(
        !lines.is_empty(),
        "run \"{}\" has taken no step yet\n  hint: `--step` shows what a step will read",
        config.name
    );
    let mut recount = Recount::begin(config, blueprint, &checkpoints).await?;
    let mut ledgers = Ledgers::read(&checkpoints, &recount.spikes).await?;
    ledgers.compare(&recount)?;
    let bar = ProgressBar::new(lines.len() as u64);
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos}/{len} steps, {eta} left") {
        bar.set_style(style);
    }
    for line in &lines {
        recount.step(line)?;
        ledgers.compare(&recount)?;
        bar.inc(1);
    }
    bar.finish_and_clear();
    say(&recount.table())?;
    let (first, last) = (lines[0].step, recount.progress.step);
    say(&format!(
        "\nsteps {first} to {last}: every row once and in order, its tokens, masks and sources as \
         recorded"
    ))?;
    ledgers.say()
}

impl<'a> Recount<'a> {
    /// At the run's beginning, or where it grew from its trunk.
    async fn begin(
        config: &RunConfig,
        blueprint: &'a Blueprint,
        checkpoints: &Checkpoints,
    ) -> Result<Self> {
        let journal = journal::read(checkpoints.store()).await?;
        let (progress, ledger) = match checkpoints.parent().await? {
            None => (Progress::new(&blueprint.schedule), Ledger::default()),
            Some(parent) => {
                let restored = of_trunk(config, &parent).await?;
                (restored.progress(blueprint)?, restored.ledger.of_phases())
            }
        };
        Ok(Self {
            blueprint,
            decays: journal.applied_decays(),
            spikes: journal.spikes,
            start: progress.step,
            progress,
            ledger,
            phases: BTreeMap::new(),
        })
    }

    /// Enters a step that the run tells of.
    fn step(&mut self, line: &StepMetrics) -> Result<()> {
        let plan = self.next(line)?;
        let phase = &self.blueprint.schedule.phases[plan.phase];
        ensure!(
            (&line.phase, line.first_row, line.rows) == (&phase.name, plan.first_row.0, plan.rows),
            "step {} took {}, and after the steps before it come {}{DIFFERS}",
            line.step,
            rows(line.first_row, line.rows, &line.phase),
            rows(plan.first_row.0, plan.rows, &phase.name)
        );
        let batch = self.blueprint.build(&BatchRequest {
            phase: plan.phase as u32,
            rows: Blueprint::rows(&plan).map(RowIndex).collect(),
        })?;
        self.expect_told(&batch, line)?;
        self.enter(&plan, &batch, line.skipped);
        ensure!(
            self.progress.tokens == line.tokens,
            "the run has read {} tokens up to step {}, and says {}",
            self.progress.tokens,
            line.step,
            line.tokens
        );
        Ok(())
    }

    /// What comes next, by all that the run knew before it took the step.
    fn next(&mut self, line: &StepMetrics) -> Result<StepPlan> {
        let schedule = &self.blueprint.schedule;
        let known = self.spikes.iter();
        // A state that is gone back to gets the rows to pass over with its next generation.
        let known = known.filter(|spike| spike.generation < line.generation);
        let known: Vec<Spike> = known.cloned().collect();
        self.progress.avoid(&spike::detours(&known));
        self.pass_detours();
        if decay_if_due(&mut self.progress, &self.decays, self.start, schedule) {
            self.pass_detours();
        }
        let wanted = Step(self.progress.step.0 + 1);
        ensure!(
            line.step == wanted,
            "the run tells of step {} where step {wanted} should be",
            line.step
        );
        self.progress
            .next_step(schedule)
            .with_context(|| format!("step {wanted} comes after the end of the schedule{DIFFERS}"))
    }

    fn expect_told(&self, batch: &Batch, line: &StepMetrics) -> Result<()> {
        let found: BTreeMap<String, u64> = batch
            .counts
            .iter()
            .map(|(&source, counts)| (self.name(source), counts.tokens))
            .collect();
        let tokens: u64 = found.values().sum();
        ensure!(
            (tokens, batch.predicted) == (line.step_tokens, line.masked_tokens),
            "step {} took {} tokens and predicted {} of them, and its rows hold {tokens} and \
             {}{DIFFERS}",
            line.step,
            line.step_tokens,
            line.masked_tokens,
            batch.predicted
        );
        for source in found.keys().chain(line.sources.keys()) {
            let [told, held] = [&line.sources, &found].map(|all| all.get(source).unwrap_or(&0));
            ensure!(
                told == held,
                "step {} took {told} tokens of {source}, and its rows hold {held}{DIFFERS}",
                line.step
            );
        }
        Ok(())
    }

    fn enter(&mut self, plan: &StepPlan, batch: &Batch, skipped: bool) {
        let tokens = batch.counts.values().map(|counts| counts.tokens).sum();
        self.add(plan.phase, &batch.counts, !skipped);
        let sums = self.phases.entry(plan.phase).or_default();
        sums.steps += 1;
        if skipped {
            sums.skipped_rows += u64::from(plan.rows);
            self.progress.skip(plan, tokens, &self.blueprint.schedule);
        } else {
            sums.rows += u64::from(plan.rows);
            sums.tokens += tokens;
            sums.masked += batch.predicted;
            self.progress
                .advance(plan, tokens, &self.blueprint.schedule);
        }
        self.pass_detours();
    }

    fn pass_detours(&mut self) {
        for passed in self.blueprint.pass_detours(&mut self.progress) {
            self.add(passed.phase, &passed.counts, false);
            let sums = self.phases.entry(passed.phase).or_default();
            sums.skipped_rows += passed.rows.end - passed.rows.start;
        }
    }

    fn add(&mut self, phase: usize, counts: &BTreeMap<SourceIndex, SourceCounts>, seen: bool) {
        let counts = counts.iter().map(|(&source, &counts)| (source, counts));
        enter(&mut self.ledger, self.blueprint, phase, (counts, seen));
    }

    fn name(&self, source: SourceIndex) -> String {
        let manifest = self.blueprint.corpus.manifest();
        manifest
            .source_name(source)
            .expect("the plan is of this corpus")
    }

    fn table(&self) -> String {
        let mut table = Table::new(["phase", "steps", "rows", "tokens", "masked", "rows skipped"]);
        for (&phase, sums) in &self.phases {
            table.row(vec![
                self.blueprint.schedule.phases[phase].name.clone(),
                grouped(sums.steps),
                grouped(sums.rows),
                grouped(sums.tokens),
                grouped(sums.masked),
                grouped(sums.skipped_rows),
            ]);
        }
        table.render()
    }
}

fn rows(first: u64, count: u32, phase: &str) -> String {
    let end = first.saturating_add(u64::from(count));
    format!(
        "{count} rows, {first} to {}, of phase \"{phase}\"",
        end.saturating_sub(1)
    )
}

/// The ledgers of the run's checkpoints.
struct Ledgers {
    /// Those that are still to be compared.
    by_step: BTreeMap<Step, Ledger>,
    agree: usize,
    /// Checkpoints that cannot be read, and why.
    damaged: Vec<String>,
}

impl Ledgers {
    async fn read(checkpoints: &Checkpoints, spikes: &[Spike]) -> Result<Self> {
        let mut ledgers = Self {
            by_step: BTreeMap::new(),
            agree: 0,
            damaged: Vec::new(),
        };
        for step in checkpoints.steps().await?.published {
            let read = async {
                let manifest = checkpoints.manifest(step).await?;
                let mut spikes = spikes.iter();
                if spikes.any(|spike| spike.abandons(step, manifest.generation)) {
                    return Ok(None);
                }
                ledger::read_of(checkpoints, &manifest).await.map(Some)
            };
            match read.await {
                Ok(Some(ledger)) => {
                    ledgers.by_step.insert(step, ledger.of_phases());
                }
                Ok(None) => {}
                Err(error @ CheckpointError::Unusable { .. }) => {
                    ledgers.damaged.push(error.to_string());
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(ledgers)
    }

    /// Compares the one of the step that the recount has come to, if there is one.
    fn compare(&mut self, recount: &Recount<'_>) -> Result<()> {
        let step = recount.progress.step;
        if let Some(ledger) = self.by_step.remove(&step) {
            if let Some(difference) = ledger.difference(&recount.ledger) {
                bail!("the ledger of checkpoint {step} is not what was read by then: {difference}");
            }
            self.agree += 1;
        }
        Ok(())
    }

    fn say(&self) -> Result<()> {
        say(&format!(
            "checkpoints whose ledgers are the sum of these rows: {}",
            self.agree
        ))?;
        for step in self.by_step.keys() {
            say(&format!(
                "checkpoint {step} is of no step that was recorded"
            ))?;
        }
        for reason in &self.damaged {
            say(reason)?;
        }
        Ok(())
    }
}
