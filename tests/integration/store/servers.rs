//! Lives of runs on real servers behind a proxy that fails, and large uploads through it.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use cohort::store::backend::{Credentials, MissingFolder};
use cohort::store::error::StoreError;
use cohort::store::settings::StoreSettings;
use cohort::store::{PART_BYTES, Store};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

use super::lives::{Case, Dice};
use crate::support::emulator::{Azurite, FakeGcs};
use crate::support::google::{GoogleXml, Writes};
use crate::support::http::{Request, answer};
use crate::support::proxy::{Fate, Faults, Proxy};
use crate::support::s3::S3Server;

const LIVES: u64 = 6;
/// Requests of a life that meets faults, about.
const REQUESTS_OF_A_LIFE: u64 = 150;

/// A store that answers within milliseconds or not at all, and a test that waits no longer.
fn hurried(settings: StoreSettings) -> StoreSettings {
    StoreSettings {
        request_timeout: Duration::from_millis(800),
        retry_timeout: Duration::from_secs(30),
        ..settings
    }
}

/// A sixth of all requests meet a fault.
fn every_fault(seed: u64) -> Faults {
    Faults {
        seed,
        errors: 50,
        cut: 20,
        stalled: 5,
        flipped: 0,
        lost: 30,
        torn: 30,
        lies: 40,
        altered: 40,
    }
}

async fn run_lives(seed: u64, proxy: &Proxy, store: Store, honest: Store) {
    let case = Case::new(seed, store, honest);
    let mut dice = Dice::new(seed);
    for life in 1..=LIVES {
        proxy.set(every_fault(seed + life));
        let requests = 40 + dice.below(2 * REQUESTS_OF_A_LIFE);
        let ended = tokio::select! {
            ended = case.live(life, 2) => format!("{ended:?}"),
            () = proxy.requests(requests) => format!("death after {requests} requests"),
        };
        proxy.set(Faults::default());
        proxy.quiet().await;
        case.check(&format!("life {life} ended with {ended}")).await;
        if dice.below(3) == 0 {
            case.rot(&mut dice).await;
            case.check(&format!("rotten after life {life}")).await;
        }
    }
    case.recover().await;
}

/// Uploads in parts, each with the faults of its own seed.
async fn upload_large(proxy: &Proxy, store: &Store, honest: &Store) {
    let bytes: Bytes = (0..=PART_BYTES).map(|at| (at / 1021 % 251) as u8).collect();
    for seed in 0..3 {
        proxy.set(Faults {
            stalled: 0,
            ..every_fault(seed)
        });
        store.put_proven("large", bytes.clone()).await.unwrap();
        proxy.set(Faults::default());
        assert!(honest.get("large").await.unwrap() == bytes, "seed {seed}");
    }
}

#[expect(clippy::print_stdout, reason = "what a test met is worth reading")]
fn tell(server: &str, met: &BTreeMap<Fate, u64>) {
    println!("{server}: {met:?}");
    assert!(met.len() >= 6, "faults were met: {met:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn lives_on_an_s3_server_leave_no_damaged_checkpoint() {
    let server = S3Server::start().await;
    let proxy = Proxy::start(&server, Faults::default()).await;
    let credentials = Credentials::S3Key {
        access_key_id: server.access_key_id.clone(),
        secret_access_key: server.secret_access_key.clone(),
    };
    let settings = hurried(proxy.settings(&server, "run"));
    let store = Store::open_as(&settings, &credentials, MissingFolder::Refuse).unwrap();
    run_lives(31, &proxy, store, server.store("run")).await;

    let patient = StoreSettings {
        request_timeout: Duration::from_secs(20),
        ..settings
    };
    let store = Store::open_as(&patient, &credentials, MissingFolder::Refuse).unwrap();
    upload_large(&proxy, &store, &server.store("run")).await;
    tell("s3s-fs", &proxy.seen.lock().unwrap().met);
}

#[tokio::test(flavor = "multi_thread")]
async fn lives_on_azurite_leave_no_damaged_checkpoint() {
    let Some(azurite) = Azurite::start().await else {
        return;
    };
    let proxy = Proxy::before(&azurite.origin, Faults::default()).await;
    let settings = hurried(Azurite::settings(proxy.origin(), "run"));
    let honest = Azurite::open(&Azurite::settings(&azurite.origin, "run"));
    run_lives(32, &proxy, Azurite::open(&settings), honest.clone()).await;

    let patient = StoreSettings {
        request_timeout: Duration::from_secs(20),
        ..settings
    };
    upload_large(&proxy, &Azurite::open(&patient), &honest).await;
    tell("Azurite", &proxy.seen.lock().unwrap().met);
}

#[tokio::test(flavor = "multi_thread")]
async fn lives_on_fake_gcs_server_leave_no_damaged_checkpoint() {
    let Some(server) = FakeGcs::start().await else {
        return;
    };
    let xml = GoogleXml::start(&server.origin, Writes::Conditional).await;
    let proxy = Proxy::before(&xml.origin, Faults::default()).await;
    let settings = hurried(FakeGcs::settings(proxy.origin(), "run"));
    let honest = FakeGcs::open(&FakeGcs::settings(&xml.origin, "run"));
    run_lives(33, &proxy, FakeGcs::open(&settings), honest.clone()).await;

    let patient = StoreSettings {
        request_timeout: Duration::from_secs(20),
        ..settings
    };
    upload_large(&proxy, &FakeGcs::open(&patient), &honest).await;
    tell("fake-gcs-server", &proxy.seen.lock().unwrap().met);
}

/// A server that gives every request the same answer, and how many it got.
async fn server_that_says(reply: Vec<u8>) -> (String, Arc<AtomicU32>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let requests = Arc::<AtomicU32>::default();
    let counted = Arc::clone(&requests);
    tokio::spawn(async move {
        loop {
            let (mut client, _) = listener.accept().await.unwrap();
            if Request::read(&mut client).await.is_ok() {
                counted.fetch_add(1, Ordering::Relaxed);
                drop(client.write_all(&reply).await);
            }
        }
    });
    (endpoint, requests)
}

/// The library tells such answers apart by their words alone, so a release that words them anew
/// must fail here.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_server_refuses_is_told_at_once_and_what_may_pass_is_repeated() {
    let credentials = Credentials::S3Key {
        access_key_id: "key".to_owned(),
        secret_access_key: "secret".to_owned(),
    };
    for (status, body, repeated) in [
        (
            "400 Bad Request",
            "<Error><Code>InvalidArgument</Code></Error>",
            false,
        ),
        ("405 Method Not Allowed", "this is a web page", false),
        (
            "400 Bad Request",
            "<Error><Code>RequestTimeout</Code></Error>",
            true,
        ),
        (
            "400 Bad Request",
            "<Error><Code>BadDigest</Code></Error>",
            true,
        ),
    ] {
        let (endpoint, requests) = server_that_says(answer(status, "", body)).await;
        let settings = StoreSettings {
            endpoint: Some(endpoint),
            allow_http: true,
            retry_timeout: Duration::from_millis(400),
            ..StoreSettings::at("s3://bucket/x")
        };
        let store = Store::open_as(&settings, &credentials, MissingFolder::Refuse).unwrap();
        let error = store.put("key", "bytes").await.unwrap_err();
        let requests = requests.load(Ordering::Relaxed);
        assert!(error.to_string().contains(status), "{error}");
        match error {
            StoreError::Refused { .. } => assert!(!repeated && requests == 1, "{requests}"),
            StoreError::Unavailable { .. } => assert!(repeated && requests > 1, "{requests}"),
            error => panic!("{error:?}"),
        }
    }
}
