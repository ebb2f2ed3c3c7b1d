//! `cohort plan`: what a run will be, before anything runs.

use std::path::Path;

use anyhow::Result;

use crate::cli::say;
use crate::cli::table::{Table, counted, grouped};
use crate::config::{RunConfig, Start};
use crate::corpus::mixture::MixedSource;
use crate::data::blueprint::Blueprint;
use crate::ids::RowIndex;
use crate::model::config::ModelConfig;
use crate::model::parameters::parameter_count;
use crate::preflight::{model_precision, open_blueprint, threads_per_rank};
use crate::run::progress::Progress;

/// Rows that are packed to tell how full rows are.
const FILL_ROWS: u64 = 512;
/// Up to this many rows the schedule is walked exactly; beyond, steps are tokens over those of full
/// rows.
const ROWS_EXACT_MAX: u64 = 1_000_000;
const COLUMNS: [&str; 6] = [
    "source",
    "tokens",
    "share",
    "epochs",
    "one epoch",
    "documents",
];
/// What a rank's process takes before it has any parameter: libtorch's code, tables and threads.
const LIBTORCH_BYTES: u64 = 180 << 20;

pub(super) fn plan(run: &Path) -> Result<()> {
    let config = RunConfig::load(run)?;
    let blueprint = open_blueprint(&config)?;
    let model = config
        .model
        .resolve(&blueprint.corpus.manifest().tokenizer)?;
    say(&header(&config, &model))?;
    let counts = steps(&blueprint);
    for (index, phase) in blueprint.schedule.phases.iter().enumerate() {
        let tokens = blueprint.schedule.lengths_tokens[index];
        say(&format!(
            "\nphase \"{}\" ({}): {} tokens in {}, learning rate {:.3e}, mask rate {}, rows \
             {:.2} % full",
            phase.name,
            phase.kind(),
            grouped(tokens),
            counts[index],
            phase.learning_rate,
            phase.mask_rate,
            fill(&blueprint, index) * 100.0
        ))?;
        say(&reads(&blueprint, index))?;
    }
    Ok(())
}

/// A plan can be made before the start's files are there.
fn absent(start: &Start) -> &'static str {
    match start.path() {
        Some(path) if !path.exists() => " (not there yet)",
        _ => "",
    }
}

/// What a phase reads, by source, and by institution where one has several.
fn reads(blueprint: &Blueprint, phase: usize) -> String {
    let mixture = &blueprint.phases[phase].mixture;
    let length = blueprint.phases[phase].length_tokens as f64;
    let manifest = blueprint.corpus.manifest();
    let mut by_source = Table::new(COLUMNS);
    let mut by_institution = Table::new(COLUMNS);
    for institution in &manifest.institutions {
        let prefix = format!("{}/", institution.id);
        let sources: Vec<_> = mixture
            .sources
            .iter()
            .filter(|source| source.name.starts_with(&prefix))
            .collect();
        for source in &sources {
            by_source.row(row(source.name.clone(), &[source], length));
        }
        if !sources.is_empty() {
            by_institution.row(row(format!("{prefix}*"), &sources, length));
        }
    }
    let all: Vec<_> = mixture.sources.iter().collect();
    by_source.row(row("*".to_owned(), &all, length));
    if by_institution.rows() == mixture.sources.len() || by_institution.rows() == 1 {
        return by_source.render();
    }
    format!("{}\n\n{}", by_source.render(), by_institution.render())
}

/// Some sources together, while the phase reads `length` tokens.
fn row(name: String, sources: &[&MixedSource], length: f64) -> Vec<String> {
    let sum = |of: fn(&MixedSource) -> u64| sources.iter().map(|source| of(source)).sum::<u64>();
    let share: f64 = sources.iter().map(|source| source.share()).sum();
    let tokens = sum(|source| source.tokens);
    vec![
        name,
        grouped((share * length).round() as u64),
        format!("{:.1} %", share * 100.0),
        format!("{:.2}", share * length / tokens as f64),
        grouped(tokens),
        grouped(sum(|source| source.documents)),
    ]
}

fn header(config: &RunConfig, model: &ModelConfig) -> String {
    let parameters = parameter_count(model) as u64;
    let step_tokens = u64::from(config.batch.rows) * u64::from(config.batch.row_tokens);
    let lines = [
        format!("run {}", config.name),
        format!(
            "model      {} parameters, {} layers of width {}, vocabulary {}",
            grouped(parameters),
            model.layers,
            model.hidden_size,
            model.vocab_size
        ),
        format!(
            "start      {}{}",
            config.start.describe(),
            absent(&config.start)
        ),
        format!(
            "step       {} of {} tokens, at most {} tokens; {} of {}, {:?}",
            counted(config.batch.rows, "row"),
            config.batch.row_tokens,
            grouped(step_tokens),
            counted(config.ranks, "rank"),
            counted(u64::from(threads_per_rank(config).get()), "thread"),
            model_precision(config.precision)
        ),
        format!(
            "memory     about {} MiB a rank, {} MiB a checkpoint",
            grouped(memory_bytes(config, model) >> 20),
            grouped((parameters * 12) >> 20)
        ),
    ];
    lines.join("\n")
}

/// A rank's memory on a CPU: weights, gradients, two moments and the fresh gradients of one
/// backward pass in fp32; the copy that a checkpoint takes of all but gradients; the activations of
/// one micro-batch (for each token and layer 20 vectors of the width and 6 of the `GeGLU`, and the
/// logits of the masked tokens, twice); and what libtorch takes for itself.
///
/// Real ranks of 2 to 54 million parameters peaked within a factor of 1.3 of it (`VmHWM`, fp32).
fn memory_bytes(config: &RunConfig, model: &ModelConfig) -> u64 {
    let parameters = parameter_count(model) as u64;
    let micro_tokens = u64::from(config.batch.micro_rows) * u64::from(config.batch.row_tokens);
    let per_token = model.layers * (20 * model.hidden_size + 6 * model.intermediate_size);
    let mask_rate = config
        .phases
        .iter()
        .map(|phase| phase.mask_rate)
        .fold(0.0, f64::max);
    let logits = (micro_tokens as f64 * mask_rate) as u64 * model.vocab_size as u64 * 2;
    LIBTORCH_BYTES + 4 * ((5 + 3) * parameters + micro_tokens * per_token as u64 + logits)
}

/// The share of the first rows' tokens that is not padding.
fn fill(blueprint: &Blueprint, phase: usize) -> f64 {
    let plan = &blueprint.phases[phase].builder.plan;
    let tokens: u64 = (0..FILL_ROWS)
        .map(|row| u64::from(plan.row(RowIndex(row)).tokens))
        .sum();
    tokens as f64 / (FILL_ROWS * u64::from(blueprint.row_tokens)) as f64
}

/// Steps of each phase, were no command given. Those of a long schedule are estimated from how full
/// its rows are.
fn steps(blueprint: &Blueprint) -> Vec<String> {
    let schedule = &blueprint.schedule;
    let step_tokens = u64::from(schedule.rows) * u64::from(blueprint.row_tokens);
    let total: u64 = schedule.lengths_tokens.iter().sum();
    if total / u64::from(blueprint.row_tokens) > ROWS_EXACT_MAX {
        let about = |(phase, tokens): (usize, &u64)| {
            let step_tokens = step_tokens as f64 * fill(blueprint, phase);
            let steps = (*tokens as f64 / step_tokens).ceil() as u64;
            format!("about {}", counted(steps, "step"))
        };
        return schedule
            .lengths_tokens
            .iter()
            .enumerate()
            .map(about)
            .collect();
    }
    let mut counts = vec![0_u64; schedule.phases.len()];
    let mut progress = Progress::new(schedule);
    while let Some(step) = progress.next_step(schedule) {
        counts[step.phase] += 1;
        progress.advance(&step, blueprint.step_tokens(&step), schedule);
    }
    counts
        .into_iter()
        .map(|count| counted(count, "step"))
        .collect()
}
