//! What `cohort train` shows: a progress bar on a terminal, lines otherwise, and the result at the
//! end as tables.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::time::Duration;

use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressStyle};
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::info;

use crate::cli::say;
use crate::cli::table::{Table, grouped, span};
use crate::config::RunConfig;
use crate::run::ledger::{Consumed, Ledger};
use crate::run::schedule::PhaseKind;
use crate::store::checkpoint::Checkpoints;
use crate::store::error::StoreError;
use crate::store::{Store, layout};
use crate::telemetry::{Evaluation, EvaluationMoment, HeldOutScore, StatusView};

/// How often a line is written where there is no terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// Shows the status as it changes, until the run is over.
pub(super) async fn follow(mut status: watch::Receiver<StatusView>) {
    let bar = std::io::stderr().is_terminal().then(bar);
    let mut last_line: Option<Instant> = None;
    let mut last_step = None;
    let mut last_phase = String::new();
    while status.changed().await.is_ok() {
        let view = status.borrow_and_update().clone();
        let Some(step) = &view.last_step else {
            continue;
        };
        if let Some(bar) = &bar {
            bar.set_length(step.tokens + step.remaining_tokens);
            bar.set_position(step.tokens);
            bar.set_message(format!(
                "{} · step {} · loss {:.3} · {} left · {} tokens/s",
                step.phase,
                step.step,
                step.loss,
                span(view.seconds_left.unwrap_or_default()),
                grouped(step.tokens_per_second as u64)
            ));
            continue;
        }
        let due = last_line.is_none_or(|at| at.elapsed() >= LINE_INTERVAL);
        if last_step != Some(step.step) && (due || last_phase != step.phase) {
            last_step = Some(step.step);
            last_line = Some(Instant::now());
            last_phase.clone_from(&step.phase);
            info!(
                step = step.step.0,
                phase = step.phase,
                loss = format!("{:.4}", step.loss),
                learning_rate = format!("{:.3e}", step.learning_rate),
                tokens = step.tokens,
                tokens_per_second = step.tokens_per_second as u64,
                left = span(view.seconds_left.unwrap_or_default()),
                "training"
            );
        }
    }
    if let Some(bar) = bar {
        // Left where it stands: a run that was stopped is not at its end.
        bar.abandon();
    }
}

fn bar() -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:16} {percent:>3} % {wide_msg}")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(0).with_style(style)
}

/// Prints what the run has led to so far.
pub(super) async fn result(config: &RunConfig) -> Result<()> {
    let store = Store::open_existing(&config.store)?.child(&config.name)?;
    if let Some(text) = held_out(&store).await? {
        say(&format!(
            "\nHeld-out documents: loss in nats, and share of the masked tokens that is predicted \
             right\n{text}"
        ))?;
    }
    let checkpoints = Checkpoints::new(store);
    let Some(&newest) = checkpoints.steps().await?.published.last() else {
        return say("\nNo checkpoint was made.");
    };
    let manifest = checkpoints.manifest(newest).await?;
    let ledger: Ledger = serde_json::from_slice(
        &checkpoints
            .read_file(&manifest, layout::LEDGER_FILE)
            .await?,
    )?;
    say(&format!(
        "\nWhose text is in these weights\n{}",
        institutions(&ledger)
    ))?;
    say(&format!("\nCheckpoint: {}", checkpoints.url(newest)))
}

/// The table of all evaluations that mark a start or an end.
async fn held_out(store: &Store) -> Result<Option<String>> {
    let text = match store.get(layout::EVALUATIONS_FILE).await {
        Ok(text) => text,
        Err(StoreError::NotFound { .. }) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let mut columns: BTreeMap<&'static str, Evaluation> = BTreeMap::new();
    for line in text
        .split(|&byte| byte == b'\n')
        .filter(|line| !line.is_empty())
    {
        let evaluation: Evaluation = serde_json::from_slice(line)
            .with_context(|| format!("{} is damaged", store.url(layout::EVALUATIONS_FILE)))?;
        let column = match (evaluation.moment, evaluation.phase_kind) {
            (EvaluationMoment::Start, _) => "start",
            (EvaluationMoment::PhaseEnd, PhaseKind::Stable) => "stable end",
            (EvaluationMoment::PhaseEnd, PhaseKind::Decay) => "decay end",
            (EvaluationMoment::Interval | EvaluationMoment::Stop, _) => continue,
        };
        columns.insert(column, evaluation);
    }
    let Some(any) = columns.values().next() else {
        return Ok(None);
    };
    let mut table = Table::new([
        "institution",
        "masked",
        "unigram",
        "start",
        "stable end",
        "decay end",
    ]);
    for (institution, score) in &any.institutions {
        let cell = |column: &str| {
            columns
                .get(column)
                .and_then(|evaluation| evaluation.institutions.get(institution))
                .map_or("–".to_owned(), |score| pair(score.loss, score.accuracy))
        };
        let HeldOutScore {
            masked_tokens,
            unigram_loss,
            unigram_accuracy,
            ..
        } = *score;
        table.row(vec![
            institution.clone(),
            grouped(masked_tokens),
            pair(unigram_loss, unigram_accuracy),
            cell("start"),
            cell("stable end"),
            cell("decay end"),
        ]);
    }
    Ok(Some(table.render()))
}

fn pair(loss: f64, accuracy: f64) -> String {
    format!("{loss:.3} {:.1} %", accuracy * 100.0)
}

/// The ledger by institution.
pub(super) fn institutions(ledger: &Ledger) -> String {
    consumed("institution", &ledger.by_institution())
}

/// What the weights have seen, by `what`; and what was skipped, where something was.
pub(super) fn consumed(what: &'static str, by_name: &BTreeMap<String, Consumed>) -> String {
    let skips = by_name.values().any(|consumed| consumed.skipped_tokens > 0);
    let columns = [what, "tokens", "documents begun", "chunks"];
    let mut table = if skips {
        let [what, tokens, documents, chunks] = columns;
        Table::new([what, tokens, documents, chunks, "tokens skipped"])
    } else {
        Table::new(columns)
    };
    for (name, consumed) in by_name {
        let mut row = vec![
            name.clone(),
            grouped(consumed.tokens),
            grouped(consumed.documents),
            grouped(consumed.chunks),
        ];
        row.extend(skips.then(|| grouped(consumed.skipped_tokens)));
        table.row(row);
    }
    table.render()
}
