//! A corpus for a terminal: tables, and the documents' lengths as lines of bars.

use std::fmt::Write;

use crate::cli::corpus::facts::{Facts, SourceFacts, edge, percent, reasons};
use crate::cli::table::{Table, counted, grouped};
use crate::corpus::lengths::{Bin, LengthSummary};

/// Bars from none to all of the largest.
const BARS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
/// Columns of a bin in the histograms.
const BIN_WIDTH: usize = 5;

pub(super) fn render(facts: &Facts) -> String {
    [
        header(facts),
        amounts(facts),
        "Lengths of the training documents and of their chunks, in tokens".to_owned(),
        lengths(facts),
        histograms(facts),
    ]
    .join("\n\n")
}

fn header(facts: &Facts) -> String {
    let sources = facts.sources().count() as u64;
    let mut lines = vec![
        format!(
            "corpus {}: {} in {}, {}",
            facts.name,
            counted(sources, "source"),
            counted(facts.institutions.len() as u64, "institution"),
            counted(
                facts.train.documents + facts.held_out_split.documents,
                "document"
            ),
        ),
        format!(
            "tokens     {} to train on, {} held out ({} of the documents)",
            grouped(facts.train.tokens),
            grouped(facts.held_out_split.tokens),
            percent(facts.held_out)
        ),
        format!(
            "chunks     of at most {} tokens, [CLS] and [SEP] included",
            grouped(u64::from(facts.max_length))
        ),
        format!(
            "tokenizer  {} ids, digest {}",
            grouped(u64::from(facts.vocab_size)),
            facts.tokenizer_digest
        ),
        format!("manifest   digest {}", facts.manifest_digest),
    ];
    if let Some(date) = &facts.manifest_dated {
        lines.push(format!("           dated {date}"));
    }
    if !facts.dropped.is_empty() {
        lines.push(format!("dropped    {}", reasons(&facts.dropped)));
    }
    lines.join("\n")
}

fn amounts(facts: &Facts) -> String {
    let mut table = Table::new([
        "source",
        "documents",
        "chunks",
        "tokens",
        "share",
        "held-out documents",
        "chunks",
        "tokens",
        "dropped",
        "licence",
    ]);
    for source in facts.sources() {
        let (train, held_out) = (source.train.amount, source.held_out.amount);
        table.row(vec![
            source.name.clone(),
            grouped(train.documents),
            grouped(train.chunks),
            grouped(train.tokens),
            percent(source.share),
            grouped(held_out.documents),
            grouped(held_out.chunks),
            grouped(held_out.tokens),
            none_as_dash(reasons(&source.dropped)),
            source.licence.clone(),
        ]);
    }
    table.render()
}

fn lengths(facts: &Facts) -> String {
    let mut table = Table::new([
        "source",
        "documents: mean",
        "median",
        "95 %",
        "longest",
        "chunks: mean",
        "median",
        "95 %",
        "longest",
    ]);
    for source in facts.sources() {
        let mut cells = vec![source.name.clone()];
        for summary in [&source.train.document_lengths, &source.train.chunk_lengths] {
            cells.extend(length_cells(summary.as_ref()));
        }
        table.row(cells);
    }
    table.render()
}

/// Mean, median, 95th percentile and longest.
pub(super) fn length_cells(summary: Option<&LengthSummary>) -> [String; 4] {
    let Some(summary) = summary else {
        return ["–"; 4].map(str::to_owned);
    };
    let mean = grouped(summary.mean.round() as u64);
    let [median, p95, longest] = [summary.median, summary.p95, summary.longest].map(grouped);
    [mean, median, p95, longest]
}

/// One line a source over a common axis of powers of two.
fn histograms(facts: &Facts) -> String {
    let Some((low, high)) = axis(facts) else {
        return "No training document.".to_owned();
    };
    let width = facts
        .sources()
        .map(|source| source.name.chars().count())
        .max();
    let width = width.unwrap_or(0).max("tokens from".len());
    let mut text = "Training documents by length: % of the source's documents, from the tokens \
                    above to the next\n\n"
        .to_owned();
    let columns = (low..=high).map(|power| format!("{:>BIN_WIDTH$}", edge(1 << power)));
    let columns: String = columns.collect();
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{:<width$}{columns}", "tokens from");
    for source in facts.sources() {
        let shares = shares(source, low, high);
        let cells: String = shares.iter().map(|share| cell(*share)).collect();
        let bars: String = shares.iter().map(|share| bars(*share, &shares)).collect();
        let _ = writeln!(text, "\n{:<width$}{}", source.name, bars.trim_end());
        let _ = writeln!(text, "{:<width$}{}", "", cells.trim_end());
    }
    text.trim_end().to_owned()
}

/// The powers of two that the lengths of training documents lie between.
pub(super) fn axis(facts: &Facts) -> Option<(u32, u32)> {
    let summaries = facts
        .sources()
        .filter_map(|s| s.train.document_lengths.as_ref());
    let bins: Vec<&Bin> = summaries.flat_map(|summary| &summary.histogram).collect();
    let low = bins.iter().map(|bin| bin.from.ilog2()).min()?;
    let high = bins.iter().map(|bin| bin.from.ilog2()).max()?;
    Some((low, high))
}

/// The share of a source's documents in each bin of the axis.
fn shares(source: &SourceFacts, low: u32, high: u32) -> Vec<f64> {
    let bins = source
        .train
        .document_lengths
        .as_ref()
        .map(|s| s.histogram.as_slice());
    let bins = bins.unwrap_or_default();
    let share = |power| {
        let bin = bins.iter().find(|bin| bin.from == 1_u64 << power);
        bin.map_or(0.0, |bin| {
            bin.count as f64 / source.train.amount.documents as f64
        })
    };
    (low..=high).map(share).collect()
}

fn cell(share: f64) -> String {
    let text = match share * 100.0 {
        0.0 => String::new(),
        percent if percent < 0.5 => "<1".to_owned(),
        percent => format!("{percent:.0}"),
    };
    format!("{text:>BIN_WIDTH$}")
}

fn bars(share: f64, all: &[f64]) -> String {
    let largest = all.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
    let steps = (BARS.len() - 1) as f64;
    // What is there is seen.
    let step = (share / largest * steps).ceil() as usize;
    let bar = BARS[step.min(BARS.len() - 1)].to_string();
    format!(" {}", bar.repeat(BIN_WIDTH - 1))
}

fn none_as_dash(text: String) -> String {
    if text.is_empty() {
        "–".to_owned()
    } else {
        text
    }
}
