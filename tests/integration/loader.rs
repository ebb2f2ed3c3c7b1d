//! Corpora in object storage: a real S3 server, behind a proxy that does what networks do.

#![expect(
    clippy::unwrap_used,
    reason = "in a test, a step that fails is a panic"
)]

use std::fs;
use std::path::Path;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use cohort::config::RunConfig;
use cohort::corpus::{MANIFEST_FILE, Manifest, Shard};
use cohort::data::Corpus as OpenCorpus;
use cohort::data::blueprint::Blueprint;
use cohort::data::location::{CorpusLocation, CorpusStore};
use cohort::data::prefetch::BatchRequest;
use cohort::ids::RowIndex;
use cohort::store::Store;
use cohort::store::backend::Credentials;
use cohort::telemetry::Stopwatch;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::proxy::{Faults, Proxy};
use crate::support::run::{Chance, Corpus, Run, assert_same_bits, stable, wait_for};
use crate::support::s3::S3Server;

const PREFIX: &str = "corpora/tiny";

/// A corpus of some forty shards, and the same in an S3 bucket.
struct Uploaded {
    corpus: Corpus,
    server: S3Server,
    manifest: Manifest,
}

static UPLOADED: LazyLock<Uploaded> = LazyLock::new(Uploaded::new);

impl Uploaded {
    fn new() -> Self {
        let corpus = Corpus::prepare_in_shards(512, 4_096);
        let server = wait_for(S3Server::start());
        wait_for(upload(&server.store(PREFIX), &corpus.path(), ""));
        let manifest = fs::read(corpus.path().join(MANIFEST_FILE)).unwrap();
        Self {
            corpus,
            server,
            manifest: serde_json::from_slice(&manifest).unwrap(),
        }
    }

    fn shards(&self) -> Vec<&Shard> {
        self.manifest
            .sources()
            .flat_map(|(_, _, source)| &source.train.shards)
            .collect()
    }

    fn credentials(&self) -> Credentials {
        Credentials::S3Key {
            access_key_id: self.server.access_key_id.clone(),
            secret_access_key: self.server.secret_access_key.clone(),
        }
    }
}

async fn upload(store: &Store, folder: &Path, prefix: &str) {
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let key = format!("{prefix}{}", entry.file_name().to_str().unwrap());
        if entry.path().is_dir() {
            Box::pin(upload(store, &entry.path(), &format!("{key}/"))).await;
        } else {
            store
                .put(&key, fs::read(entry.path()).unwrap())
                .await
                .unwrap();
        }
    }
}

/// A store that answers within milliseconds or not at all, and a test that waits no longer.
fn location(proxy: &Proxy, cache: &Path) -> CorpusStore {
    let settings = proxy.settings(&UPLOADED.server, PREFIX);
    CorpusStore {
        endpoint: settings.endpoint,
        region: settings.region,
        allow_http: true,
        retry_timeout: Duration::from_secs(20),
        stall_timeout: Duration::from_millis(300),
        cache: Some(cache.join("cache")),
        ..CorpusStore::at(settings.url)
    }
}

fn open(location: CorpusStore) -> anyhow::Result<OpenCorpus> {
    let credentials = UPLOADED.credentials();
    OpenCorpus::open_at(&CorpusLocation::Store(location), &credentials)
}

/// The run's settings with the corpus at an address, as YAML would have them.
fn yaml(location: &CorpusStore) -> Value {
    serde_json::to_value(location).unwrap()
}

fn blueprint(corpus: OpenCorpus, config: &RunConfig) -> Blueprint {
    Blueprint::draw(Arc::new(corpus), &config.blueprint_spec()).unwrap()
}

fn batch(first: u64) -> BatchRequest {
    BatchRequest {
        phase: 0,
        rows: (first..first + 40).map(RowIndex).collect(),
    }
}

#[test]
fn rows_survive_errors_cuts_stalls_and_flipped_bits() {
    let mut chance = Chance::new();
    let run = Run::new(json!({"corpus": UPLOADED.corpus.path()}));
    let config = RunConfig::load(&run.yaml()).unwrap();
    let expected = blueprint(OpenCorpus::open(&UPLOADED.corpus.path()).unwrap(), &config);
    let faults = Faults {
        seed: chance.between(0, 1_000_000),
        errors: 200,
        cut: 100,
        stalled: 50,
        flipped: 0,
        ..Faults::default()
    };
    for (flipped, cache_bytes) in [(0, 1 << 30), (100, 40_000)] {
        let proxy = wait_for(Proxy::start(&UPLOADED.server, faults));
        let folder = TempDir::new().unwrap();
        let mut location = location(&proxy, folder.path());
        location.cache_bytes = cache_bytes;
        let corpus = open(location).unwrap();
        // The manifest has no digest, so it must come as it is: the transport's own sums see to it.
        proxy.set(Faults { flipped, ..faults });
        corpus.expect_complete().unwrap();
        let found = blueprint(corpus, &config);
        for first in [0, 40, 400] {
            assert_eq!(
                found.build(&batch(first)).unwrap(),
                expected.build(&batch(first)).unwrap()
            );
        }
        let seen = proxy.seen.lock().unwrap();
        println!("{} faults in {} requests", seen.faults, seen.requests);
        assert!(seen.faults > 0);
    }
}

#[test]
fn a_run_of_two_ranks_from_a_bad_store_is_the_run_from_a_folder() {
    let mut chance = Chance::new();
    let settings = json!({"ranks": 2, "phases": [stable(15_000)]});
    let mut local = Run::new(settings.clone());
    local.change(json!({"corpus": UPLOADED.corpus.path()}));
    local.train();
    let faults = Faults {
        seed: chance.between(0, 1_000_000),
        errors: 200,
        cut: 100,
        stalled: 20,
        flipped: 0,
        ..Faults::default()
    };
    for (faults, cache_bytes) in [(Faults::default(), 1 << 30), (faults, 60_000)] {
        let proxy = wait_for(Proxy::start(&UPLOADED.server, faults));
        let folder = TempDir::new().unwrap();
        let mut location = location(&proxy, folder.path());
        location.cache_bytes = cache_bytes;
        if faults.errors == 0 {
            // No request is repeated on a machine that is only busy: they are counted.
            location.stall_timeout = Duration::from_secs(30);
        }
        let mut run = Run::new(settings.clone());
        run.change(json!({"corpus": yaml(&location)}));
        run.set_environment(&UPLOADED.server);
        let watch = Stopwatch::start();
        run.train();
        let seen = proxy.seen.lock().unwrap();
        println!(
            "{} faults in {} requests, {:.1} s",
            seen.faults,
            seen.requests,
            watch.seconds()
        );
        assert_same_bits(&local, &run);
        if cache_bytes == 1 << 30 {
            // Two ranks and one cache: each shard came over the wire once.
            for shard in UPLOADED.shards() {
                let name = shard.stored.file.rsplit('/').next().unwrap();
                let same_name = UPLOADED.shards();
                let same_name = same_name
                    .iter()
                    .filter(|other| other.stored.file.ends_with(name));
                let served = seen.served.get(name).copied().unwrap_or(0);
                assert!(
                    served as usize <= same_name.count(),
                    "{name}: {served} times"
                );
            }
        } else {
            assert!(seen.faults > 0);
        }
    }
}

#[test]
fn a_store_that_never_answers_ends_with_its_name() {
    for (faults, said) in [
        (
            Faults {
                errors: 1_000,
                ..Faults::default()
            },
            "50",
        ),
        (
            Faults {
                stalled: 1_000,
                ..Faults::default()
            },
            "nothing came within 100ms",
        ),
        (
            Faults {
                cut: 1_000,
                ..Faults::default()
            },
            "error",
        ),
    ] {
        let proxy = wait_for(Proxy::start(&UPLOADED.server, faults));
        let folder = TempDir::new().unwrap();
        let mut location = location(&proxy, folder.path());
        // Where nothing stalls on purpose, a busy machine must not seem to.
        location.stall_timeout =
            Duration::from_millis(if faults.stalled > 0 { 100 } else { 30_000 });
        location.retry_timeout = Duration::from_millis(900);
        let error = format!("{:#}", open(location).unwrap_err());
        assert!(
            error.contains("s3://cohort-test/corpora/tiny/manifest.json"),
            "{error}"
        );
        if faults.cut == 0 {
            for part in [
                "cannot read the corpus manifest s3://cohort-test/corpora/tiny/manifest.json",
                said,
                "nothing has come for",
                "hint: check the network",
            ] {
                assert!(error.contains(part), "{part:?} in {error}");
            }
        }
    }
}

#[test]
fn damaged_and_missing_objects_stop_the_run_by_name() {
    let uploaded = Uploaded::new();
    let proxy = wait_for(Proxy::start(&uploaded.server, Faults::default()));
    let store = uploaded.server.store(PREFIX);
    let shard = uploaded.shards()[0];
    let key = &shard.stored.file;
    let url = format!("s3://cohort-test/{PREFIX}/{key}");
    let folder = TempDir::new().unwrap();
    let settings = proxy.settings(&uploaded.server, PREFIX);
    let location = CorpusStore {
        endpoint: settings.endpoint,
        allow_http: true,
        cache: Some(folder.path().join("cache")),
        ..CorpusStore::at(settings.url)
    };
    let mut run = Run::new(json!({"ranks": 2, "phases": [stable(15_000)]}));
    run.change(json!({"corpus": yaml(&location)}));
    run.set_environment(&uploaded.server);

    let mut bytes = fs::read(uploaded.corpus.path().join(key)).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    wait_for(store.put(key, bytes.clone())).unwrap();
    let error = run.error();
    let expected = format!(
        "source `north/triage`, file {url}: the object has the digest {} on two downloads, the \
         manifest says {}\n  hint: upload the corpus again, from the folder that cohort prepare \
         wrote",
        blake3::hash(&bytes).to_hex(),
        shard.stored.digest
    );
    assert!(error.ends_with(&expected), "{error}");

    // A shard that is not there is found before anything starts.
    wait_for(store.delete(key)).unwrap();
    let expected = format!(
        "source `north/triage`, file {url}: there is no such object, of digest {}\n  \
         hint: upload the corpus again, from the folder that cohort prepare wrote",
        shard.stored.digest
    );
    assert_eq!(run.error(), expected);
    let said = run.operate_on_yaml(&["plan"]).good().stdout;
    assert!(said.contains("north/triage"), "{said}");
}
