//! The index against a map in memory, with limits so low that everything goes to disk.

use std::collections::BTreeMap;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;

const LOW: Limits = Limits {
    entries: 40,
    filter_bytes: 3000,
};

/// The sources and values of each key.
type Model = BTreeMap<u64, BTreeSet<(u32, u64)>>;

fn check(index: &Index, model: &Model, random: &mut ChaCha8Rng) {
    for (key, expected) in model {
        let mut found = BTreeSet::new();
        index
            .find(*key, |source, value| assert!(found.insert((source, value))))
            .unwrap();
        assert_eq!(found, *expected);
    }
    for _ in 0..200 {
        let other = random.next_u64();
        index
            .find(other, |_, _| assert!(model.contains_key(&other)))
            .unwrap();
    }
}

fn fill(index: &mut Index, model: &mut Model, entries: u64, random: &mut ChaCha8Rng) {
    for number in 0..entries {
        // Most keys are alone, some have many values; the highest key is one of those.
        let key = match random.next_u64() % 40 {
            0 => u64::MAX,
            1 => 7 << 60,
            _ => random.next_u64(),
        };
        let value = (u64::from(index.source) << 40) | number;
        index.add([run::entry(key, value)]).unwrap();
        model.entry(key).or_default().insert((index.source, value));
    }
}

/// The files of the source that ends, with their sizes as they are.
fn end_source(index: &mut Index) -> Vec<(u32, PathBuf)> {
    let left = index.end_source().unwrap();
    let files = left.iter().map(|file| {
        let path = index.folder.join(&file.name);
        assert_eq!(fs::metadata(&path).unwrap().len(), file.bytes);
        (index.source, path)
    });
    files.collect()
}

/// The entries of some sources.
fn only(model: &Model, wanted: impl Fn(u32) -> bool) -> Model {
    let mut found = Model::new();
    for (key, values) in model {
        for value in values.iter().filter(|(source, _)| wanted(*source)) {
            found.entry(*key).or_default().insert(*value);
        }
    }
    found
}

#[test]
fn entries_are_found_wherever_they_lie_and_by_later_processes() {
    let folder = tempfile::tempdir().unwrap();
    let mut random = ChaCha8Rng::seed_from_u64(5);
    let mut index = Index::open(folder.path(), "test", LOW, &[]).unwrap();
    let mut model = Model::new();
    let mut left = Vec::new();
    for (source, entries) in [(0, 30), (1, 0), (2, 40 * 71), (3, 270)] {
        index.begin_source(source).unwrap();
        fill(&mut index, &mut model, entries, &mut random);
        check(&index, &model, &mut random);
        left.extend(end_source(&mut index));
        assert!(index.recent.is_empty());
        check(&index, &model, &mut random);
    }
    let of = |source: u32| {
        index
            .runs
            .iter()
            .filter(move |run| run.source == source)
            .count()
    };
    // 71 runs: one of 64, and seven.
    assert_eq!([of(0), of(1), of(2), of(3)], [1, 0, 8, 7]);
    let filters: usize = index
        .runs
        .iter()
        .map(|stored| stored.run.filter_bytes())
        .sum();
    assert!(filters <= LOW.filter_bytes);
    assert!(
        index
            .runs
            .iter()
            .any(|stored| stored.run.filter_bytes() == 0)
    );

    // A process that died in source 4; the next one has to begin with source 2 again.
    index.begin_source(4).unwrap();
    fill(&mut index, &mut Model::new(), 100, &mut random);
    drop(index);
    let mut again = Index::open(folder.path(), "test", LOW, &left).unwrap();
    let later: Model = only(&model, |source| source == 3);
    model = only(&model, |source| source < 2);
    again.begin_source(2).unwrap();
    check(&again, &model, &mut random);
    fill(&mut again, &mut model, 500, &mut random);
    again.end_source().unwrap();
    check(&again, &model, &mut random);
    again.begin_source(4).unwrap();
    for (key, values) in later {
        model.entry(key).or_default().extend(values);
    }
    check(&again, &model, &mut random);
    again.end_source().unwrap();
    let names = fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(names, again.runs.len(), "no file is left that is not a run");
}

#[test]
fn a_damaged_run_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut index = Index::open(folder.path(), "test", LOW, &[]).unwrap();
    index.begin_source(0).unwrap();
    index.add((0..30).map(|n| run::entry(n, n))).unwrap();
    let left = end_source(&mut index);
    let path = left[0].1.clone();
    let mut bytes = fs::read(&path).unwrap();
    bytes[40] = 0xff;
    fs::write(&path, bytes).unwrap();
    let error = Index::open(folder.path(), "test", LOW, &left);
    let error = format!("{:#}", error.err().unwrap());
    assert!(error.contains("out of order\n  hint: delete "), "{error}");
}
