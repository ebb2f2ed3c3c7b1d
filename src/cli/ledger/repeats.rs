//! What de-duplication has to do with an institution's text: a document that several sources have
//! is in the corpus once, under the name of the source that had it first.

use crate::cli::table::counted;
use crate::data::Corpus;
use crate::prepare::cleaning::report::{CleaningReport, REPORT_FILE};

/// What a withdrawal takes from others and what it leaves with them; nothing where the corpus does
/// not say.
pub(super) fn describe(corpus: &Corpus, institution: &str) -> Option<String> {
    let bytes = corpus.read_file(REPORT_FILE).ok()?;
    let report: CleaningReport = serde_json::from_slice(&bytes).ok()?;
    let (lost, kept) = counts(&report, institution)?;
    Some(format!(
        "\n{} of other sources were dropped as repetitions of {institution}'s; preparing the \
         corpus again\nwithout {institution} brings them back. {} of {institution} were dropped \
         as repetitions of\nothers', which are read on under those sources' names. As long as the \
         corpus has {institution}, its\nheld-out documents are scored too, and never trained on.",
        counted(lost, "document"),
        counted(kept, "document")
    ))
}

/// Documents of others that were dropped for one of the institution's, and the other way round.
fn counts(report: &CleaningReport, institution: &str) -> Option<(u64, u64)> {
    let start = format!("{institution}/");
    let is_its = |source: &str| source.starts_with(&start);
    if !report.sources.iter().any(|source| is_its(&source.source)) {
        return None;
    }
    let (mut lost, mut kept) = (0, 0);
    for source in &report.sources {
        for (first, repeated) in &source.first_in {
            let count = repeated.duplicate + repeated.near_duplicate;
            match (is_its(&source.source), is_its(first)) {
                (false, true) => lost += count,
                (true, false) => kept += count,
                _ => {}
            }
        }
    }
    Some((lost, kept))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use crate::prepare::cleaning::config::CleaningConfig;
    use crate::prepare::cleaning::report::{Repeated, SourceReport};

    use super::*;

    #[test]
    fn repetitions_are_counted_both_ways() {
        let source = |name: &str, first_in: &[(&str, u64, u64)]| SourceReport {
            source: name.to_owned(),
            first_in: first_in
                .iter()
                .map(|&(first, duplicate, near_duplicate)| {
                    let repeated = Repeated {
                        duplicate,
                        near_duplicate,
                    };
                    (first.to_owned(), repeated)
                })
                .collect::<BTreeMap<_, _>>(),
            ..SourceReport::default()
        };
        let report = CleaningReport {
            cleaning: CleaningConfig::default(),
            sources: vec![
                source("east/a", &[("east/a", 7, 0), ("north/a", 1, 2)]),
                source("north/a", &[("east/a", 10, 20), ("eastern/a", 40, 0)]),
                source("eastern/a", &[("east/b", 100, 0)]),
            ],
        };
        assert_eq!(counts(&report, "east"), Some((130, 3)));
        assert_eq!(counts(&report, "west"), None);
    }
}
