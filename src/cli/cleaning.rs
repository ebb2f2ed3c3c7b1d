//! What `cohort prepare` says of the documents that it dropped.

use std::path::Path;

use crate::cli::table::{Table, counted, grouped};
use crate::prepare::cleaning::reason::Reason;
use crate::prepare::cleaning::report::{CleaningReport, SourceReport};

const REASONS: [Reason; 4] = [
    Reason::Empty,
    Reason::Short,
    Reason::Duplicate,
    Reason::NearDuplicate,
];

/// The dropped documents of the corpus in `root`, by source and reason and by pair of sources;
/// nothing where none was dropped and nothing replaced.
pub(super) fn describe(root: &Path) -> Option<String> {
    let report = CleaningReport::find(root)?;
    let sources = report.sources.iter();
    let parts: Vec<String> = [
        by_reason(&report),
        by_pair(&report),
        marks(sources.map(|source| source.marks_replaced).sum()),
    ]
    .into_iter()
    .flatten()
    .collect();
    (!parts.is_empty()).then(|| parts.join("\n\n"))
}

fn by_reason(report: &CleaningReport) -> Option<String> {
    let count = |source: &SourceReport, reason| source.dropped.get(&reason).copied().unwrap_or(0);
    let seen = |reason: &Reason| {
        report
            .sources
            .iter()
            .any(|source| count(source, *reason) > 0)
    };
    let reasons: Vec<Reason> = REASONS.into_iter().filter(seen).collect();
    let header = ["dropped from"].into_iter();
    let names = reasons.iter().map(|reason| match reason {
        Reason::NearDuplicate => "near duplicate",
        other => other.name(),
    });
    let mut table = Table::with_columns(header.chain(names).chain(["of"]));
    for source in report
        .sources
        .iter()
        .filter(|source| !source.dropped.is_empty())
    {
        let counts = reasons.iter().map(|reason| grouped(count(source, *reason)));
        let mut row = vec![source.source.clone()];
        row.extend(counts.chain([grouped(source.documents)]));
        table.row(row);
    }
    (!reasons.is_empty()).then(|| table.render())
}

fn by_pair(report: &CleaningReport) -> Option<String> {
    let mut table = Table::new(["repeated in", "first in", "duplicate", "near duplicate"]);
    for source in &report.sources {
        for (first, repeated) in &source.first_in {
            table.row(vec![
                source.source.clone(),
                first.clone(),
                grouped(repeated.duplicate),
                grouped(repeated.near_duplicate),
            ]);
        }
    }
    (!table.is_empty()).then(|| table.render())
}

fn marks(count: u64) -> Option<String> {
    (count > 0).then(|| format!("{} replaced", counted(count, "de-identification mark")))
}
