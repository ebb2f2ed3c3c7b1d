//! A corpus at an address is the corpus in its folder: through a cache that is shared, bounded,
//! damaged, or left behind by a process that died.

use std::fs::{self, File};
use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;

use tempfile::TempDir;

use super::{builder, corpus, edit_manifest};
use crate::corpus::plan::ChunkRef;
use crate::corpus::{Manifest, StoredFile};
use crate::data::location::{CorpusLocation, CorpusStore};
use crate::data::remote::cache::Cache;
use crate::data::{Corpus, SplitName};
use crate::ids::{RowIndex, SourceIndex};
use crate::store::backend::Credentials;

const AMPLE: u64 = 1 << 30;

struct Place {
    origin: TempDir,
    cache: TempDir,
    manifest: Manifest,
    local: Arc<Corpus>,
}

impl Place {
    fn new() -> Self {
        let (origin, manifest, local) = corpus();
        let cache = tempfile::tempdir().unwrap();
        Self {
            origin,
            cache,
            manifest,
            local,
        }
    }

    fn open(&self, cache_bytes: u64) -> Corpus {
        let location = CorpusStore {
            cache: Some(self.cache.path().join("corpus")),
            cache_bytes,
            ..CorpusStore::at(format!("file://{}", self.origin.path().display()))
        };
        Corpus::open_at(&CorpusLocation::Store(location), &Credentials::Environment).unwrap()
    }

    fn shard(&self) -> StoredFile {
        let source = &self.manifest.institutions[0].sources[0];
        source.train.shards[1].stored.clone()
    }

    fn cached(&self, stored: &StoredFile) -> PathBuf {
        self.cache.path().join("corpus").join(&stored.digest)
    }

    /// The whole files of the cache: name and bytes.
    fn files(&self) -> Vec<(String, u64)> {
        let mut files: Vec<_> = fs::read_dir(self.cache.path().join("corpus"))
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                let name = entry.file_name().into_string().unwrap();
                (name, entry.metadata().unwrap().len())
            })
            .filter(|(name, _)| !name.contains('.'))
            .collect();
        files.sort();
        files
    }
}

/// A chunk of the shard that [`Place::shard`] names.
const AT: ChunkRef = ChunkRef {
    source: SourceIndex(0),
    shard: 1,
    chunk: 2,
    length: 90,
};

fn read(corpus: &Corpus) -> anyhow::Result<Vec<u32>> {
    let mut ids = Vec::new();
    corpus.read_chunk(SplitName::Train, &AT, &mut ids)?;
    Ok(ids)
}

#[test]
fn rows_are_those_of_the_folder_also_where_next_to_nothing_fits() {
    let place = Place::new();
    let rows: Vec<RowIndex> = (0..60).map(RowIndex).collect();
    let expected = builder(&place.local).build(&rows).unwrap();
    for cache_bytes in [AMPLE, 20_000, 1] {
        let remote = Arc::new(place.open(cache_bytes));
        assert_eq!(builder(&remote).build(&rows).unwrap(), expected);
        let open = remote.open.count();
        assert!(open >= 1, "something was read");
        if cache_bytes == 1 {
            assert_eq!(open, 1, "only the newest shard stays open");
            assert!(place.files().len() <= 1, "{:?}", place.files());
        } else {
            let bytes: u64 = place.files().iter().map(|(_, bytes)| bytes).sum();
            assert!(bytes <= cache_bytes, "{bytes} in a cache of {cache_bytes}");
        }
    }
    assert_eq!(place.local.open.count(), 6, "a folder's shards stay open");
}

#[test]
fn a_damaged_or_cut_file_of_the_cache_is_fetched_again() {
    let place = Place::new();
    let expected = read(&place.local).unwrap();
    assert_eq!(read(&place.open(AMPLE)).unwrap(), expected);
    let path = place.cached(&place.shard());
    let good = fs::read(&path).unwrap();
    let mut flipped = good.clone();
    flipped[good.len() / 2] ^= 1;
    for damaged in [&flipped[..], &good[..100], &[]] {
        fs::write(&path, damaged).unwrap();
        assert_eq!(read(&place.open(AMPLE)).unwrap(), expected);
        assert_eq!(fs::read(&path).unwrap(), good);
    }
}

#[test]
fn an_object_of_other_content_stops_with_both_digests() {
    let place = Place::new();
    let stored = place.shard();
    let path = place.origin.path().join(&stored.file);
    let url = path.display().to_string();
    let mut bytes = fs::read(&path).unwrap();
    bytes[100] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let error = read(&place.open(AMPLE)).unwrap_err();
    assert_eq!(
        format!("{error:#}"),
        format!(
            "source `us/notes`, file {url}: the object has the digest {} on two downloads, the \
             manifest says {}\n  hint: upload the corpus again, from the folder that cohort \
             prepare wrote",
            blake3::hash(&bytes).to_hex(),
            stored.digest
        )
    );
    fs::write(&path, &bytes[1..]).unwrap();
    let remote = place.open(AMPLE);
    for error in [
        read(&remote).unwrap_err(),
        remote.expect_complete().unwrap_err(),
    ] {
        let error = format!("{error:#}");
        assert!(
            error.contains(&format!("has {} bytes", bytes.len() - 1)),
            "{error}"
        );
        assert!(error.contains(&stored.bytes.to_string()), "{error}");
    }
    fs::remove_file(&path).unwrap();
    let remote = place.open(AMPLE);
    for error in [
        read(&remote).unwrap_err(),
        remote.expect_complete().unwrap_err(),
    ] {
        let error = format!("{error:#}");
        for part in ["`us/notes`", &url, &stored.digest] {
            assert!(error.contains(part), "{part} in {error}");
        }
    }
    assert!(!place.cached(&stored).exists());
}

#[test]
fn a_download_that_another_holds_is_waited_for() {
    let place = Place::new();
    let stored = place.shard();
    let expected = read(&place.local).unwrap();
    let remote = place.open(AMPLE);
    let cache = Cache::open(&place.cache.path().join("corpus"), AMPLE).unwrap();
    let claim = cache.try_claim(&stored.digest).unwrap().unwrap();
    assert!(cache.try_claim(&stored.digest).unwrap().is_none());
    thread::scope(|scope| {
        let waiting = scope.spawn(|| read(&remote).unwrap());
        let mut part = cache.part(&stored.digest).unwrap();
        part.write(&fs::read(place.origin.path().join(&stored.file)).unwrap())
            .unwrap();
        // What was found under the lock is used, not fetched: the object is gone by now.
        fs::remove_file(place.origin.path().join(&stored.file)).unwrap();
        drop(cache.keep(&part, &stored.digest).unwrap());
        drop(claim);
        assert_eq!(waiting.join().unwrap(), expected);
    });
}

#[test]
fn what_dead_downloaders_leave_is_removed_and_mapped_files_stay_readable() {
    let place = Place::new();
    let remote = place.open(AMPLE);
    let expected = read(&remote).unwrap();
    let stored = place.shard();
    let folder = place.cache.path().join("corpus");
    let abandoned = folder.join(format!("{}.1-0.part", "ab".repeat(32)));
    fs::write(&abandoned, [0; 1_000]).unwrap();
    let cache = Cache::open(&folder, 1).unwrap();
    let mut kept = cache.find(&stored).unwrap();
    cache.make_room(0, None).unwrap();
    assert!(!place.cached(&stored).exists() && !abandoned.exists());
    assert_eq!(read(&remote).unwrap(), expected);
    let mut bytes = Vec::new();
    kept.read_to_end(&mut bytes).unwrap();
    assert_eq!(blake3::hash(&bytes).to_hex().as_str(), stored.digest);
}

#[test]
fn the_file_used_longest_ago_goes_first() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::open(folder.path(), 2_500).unwrap();
    let add = |content: u8| {
        let bytes = [content; 1_000];
        let digest = blake3::hash(&bytes).to_hex().to_string();
        let _claim = cache.try_claim(&digest).unwrap().unwrap();
        let mut part = cache.part(&digest).unwrap();
        part.write(&bytes).unwrap();
        let file: File = cache.keep(&part, &digest).unwrap();
        drop(file);
        StoredFile {
            file: String::new(),
            bytes: 1_000,
            digest,
        }
    };
    let (first, second) = (add(1), add(2));
    // The first is used again, so the second is the older one now.
    assert!(cache.find(&first).is_some());
    let third = add(3);
    assert_eq!(
        [&first, &second, &third].map(|stored| cache.has(stored)),
        [true, false, true]
    );
}

#[test]
fn a_digest_that_is_none_names_no_file() {
    let place = Place::new();
    edit_manifest(place.origin.path(), |manifest| {
        let shards = &mut manifest.institutions[0].sources[0].train.shards;
        shards[1].stored.digest = "../../../x".to_owned();
    });
    let error = format!("{:#}", read(&place.open(AMPLE)).unwrap_err());
    assert!(error.contains("a file without a blake3 digest"), "{error}");
}

#[test]
fn shards_of_the_next_blocks_come_ahead() {
    let place = Place::new();
    let remote = Arc::new(place.open(AMPLE));
    let plan = builder(&remote);
    remote.foresee(&plan.plan, RowIndex(0));
    let shards = place
        .manifest
        .sources()
        .flat_map(|(_, _, source)| &source.train.shards);
    let shards: Vec<_> = shards.map(|shard| shard.stored.clone()).collect();
    // Far longer than six small files take; only a bug reaches it.
    for _ in 0..3_000 {
        if shards.iter().all(|stored| place.cached(stored).exists()) {
            return;
        }
        thread::sleep(std::time::Duration::from_millis(20));
    }
    panic!("{:?}", place.files());
}
