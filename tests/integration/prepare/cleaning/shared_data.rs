//! Real text from `../shared/data`, where that is there.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cohort::config;
use cohort::prepare;
use cohort::prepare::cleaning::Cleaner;
use cohort::prepare::cleaning::report::CleaningReport;
use cohort::prepare::config::CorpusConfig;
use cohort::prepare::inputs::Places;
use cohort::prepare::readers;
use cohort::prepare::source::SourceJob;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::{IntoParallelRefIterator, ParallelIterator};
use tokio::time::Instant;

use super::likeness::{edited, jaccard, named, runs, settings};
use crate::prepare::text_of;

/// The configuration of the shared texts; nothing where they are not there.
fn origin() -> Option<PathBuf> {
    let project = Path::new(env!("CARGO_MANIFEST_DIR"));
    if !project.join("../shared/data").exists() {
        crate::support::skipped("no ../shared/data");
        return None;
    }
    Some(project.join("configs/corpus/shared.yaml"))
}

/// Documents that repeat earlier ones, by source and the source that had them first.
fn repeated(report: &CleaningReport) -> Vec<(String, u64, u64)> {
    let mut pairs = Vec::new();
    for source in &report.sources {
        for (first, repeated) in &source.first_in {
            let pair = format!("{} < {first}", source.source);
            pairs.push((pair, repeated.duplicate, repeated.near_duplicate));
        }
    }
    pairs
}

#[test]
fn the_shared_sources_repeat_each_other() {
    let Some(origin) = origin() else { return };
    let config: CorpusConfig = config::load(&origin).unwrap();
    let jobs = prepare::find_inputs(&config, origin.parent().unwrap()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let names = named(jobs.iter().map(SourceJob::name));
    let mut cleaner = Cleaner::open(&settings(0.8), folder.path(), names).unwrap();
    let started = Instant::now();
    let pool = rayon::ThreadPoolBuilder::new().build().unwrap();
    for (number, job) in jobs.iter().enumerate() {
        cleaner.begin_source(number as u32).unwrap();
        let mut documents = job.documents(&Arc::default());
        loop {
            let batch = documents
                .by_ref()
                .take(1000)
                .map(|document| text_of(document.unwrap()));
            let batch: Vec<String> = batch.collect();
            let examine = || {
                batch
                    .par_iter()
                    .map(|text| cleaner.examine(text).unwrap())
                    .collect()
            };
            let examined: Vec<_> = pool.install(examine);
            cleaner.decide(&examined).unwrap();
            if batch.is_empty() {
                break;
            }
        }
        cleaner.end_source().unwrap();
    }
    cleaner.finish(folder.path()).unwrap();
    let found = repeated(&CleaningReport::find(folder.path()).unwrap());
    println!("{found:#?}\nin {:.1} s", started.elapsed().as_secs_f64());
    let count = |pair: &str| {
        let found = found.iter().find(|(name, _, _)| name == pair);
        found.map_or((0, 0), |(_, equal, near)| (*equal, *near))
    };
    // Pages that stand in two files, and sections such as "Noncontributory.": counted by another
    // program. Those whose first copy is nearly equal to a third text count as such.
    assert_eq!(count("nih/medquad-pages < nih/medquad-pages").0, 48);
    let (equal, near) = count("mts-dialog/sections < mts-dialog/sections");
    assert!(
        (180..=203).contains(&equal) && equal + near >= 203,
        "{equal} {near}"
    );
    // One page for each gene or disease, and articles that are their abstract.
    assert!(count("nih/medquad < nih/medquad").1 > 500);
    assert!(count("nlm/pubmed < nlm/pmc").1 > 10);
    // Other articles, as the shingles of the originals say.
    assert_eq!(count("nlm/jats < nlm/pmc"), (0, 0));
}

#[test]
fn planted_edits_of_real_abstracts_are_found() {
    let Some(origin) = origin() else { return };
    let config: CorpusConfig = config::load(&origin).unwrap();
    let institution = &config.institutions[0];
    let source = institution
        .sources
        .iter()
        .find(|source| source.id == "pubmed")
        .unwrap();
    let places = Places::new(origin.parent().unwrap(), &config.store);
    let files = readers::find_files(&source.read, &places).unwrap();
    let documents = readers::open(institution, source, files, Arc::default());
    let texts: Vec<String> = documents
        .take(250)
        .map(|document| text_of(document.unwrap()))
        .collect();

    let folder = tempfile::tempdir().unwrap();
    let names = named(["pubmed".to_owned()].into_iter());
    let mut cleaner = Cleaner::open(&settings(0.8), folder.path(), names).unwrap();
    cleaner.begin_source(0).unwrap();
    let mut decide = |texts: &[String]| {
        let examined: Vec<_> = texts
            .iter()
            .map(|text| cleaner.examine(text).unwrap())
            .collect();
        cleaner.decide(&examined).unwrap()
    };
    let before = decide(&texts);
    let kept: Vec<&String> = texts
        .iter()
        .zip(&before)
        .filter(|(_, reason)| reason.is_none())
        .map(|(text, _)| text)
        .collect();
    let mut random = ChaCha8Rng::seed_from_u64(7);
    let (mut near, mut found, mut far, mut wrong) = (0, 0, 0, 0);
    let originals: Vec<BTreeSet<Vec<String>>> = kept.iter().map(|text| runs(text)).collect();
    for (number, text) in kept.iter().enumerate() {
        let words = text.split_whitespace().count();
        let copy = edited(text, 1 + words * (number % 8) / 100, &mut random);
        let copied = runs(&copy);
        let likest = originals
            .iter()
            .map(|other| jaccard(other, &copied))
            .fold(0.0, f64::max);
        let dropped = decide(&[copy])[0].is_some();
        if likest >= 0.8 {
            near += 1;
            found += u32::from(dropped);
        } else {
            far += 1;
            wrong += u32::from(dropped);
        }
    }
    println!("{found} of {near} at 0.8 or above found; {wrong} of {far} below dropped");
    assert!(near > 50 && far > 100);
    // Those that lie within a standard deviation of the threshold may fall on either side.
    assert!(
        f64::from(found) > 0.85 * f64::from(near),
        "{found} of {near}"
    );
    assert!(f64::from(wrong) < 0.15 * f64::from(far), "{wrong} of {far}");
}
