//! Stores whose creates are none, of every kind: refused before a run relies on them.

use std::sync::Arc;

use cohort::store::Store;
use cohort::store::error::StoreError;
use cohort::store::settings::StoreSettings;
use object_store::memory::InMemory;

use crate::support::emulator::FakeGcs;
use crate::support::google::{GoogleXml, Writes};
use crate::support::s3::{Creates, S3Server};
use crate::support::unconditional::{Second, UnconditionalObjects};

const HINT: &str = "\n  hint: its server ignores the condition of a write (`If-None-Match`, with \
                    Google `x-goog-if-generation-match`), and two coordinators could both commit: \
                    use one that supports conditional writes";

async fn refusal(store: &Store) -> String {
    let error = store.check_writable().await.unwrap_err();
    assert!(matches!(error, StoreError::Invalid { .. }), "{error:?}");
    assert_eq!(store.list("").await.unwrap(), [], "the probe is gone");
    error.to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_ignores_the_condition_is_refused() {
    let server = S3Server::start_with(Creates::Unconditional).await;
    assert_eq!(
        refusal(&server.store("x")).await,
        format!("the store s3://cohort-test/x lets several create one object at once{HINT}")
    );
}

/// Version 1.54 forgets the condition of uploads with a plain body.
#[tokio::test(flavor = "multi_thread")]
async fn a_fake_gcs_server_that_forgets_the_condition_is_refused() {
    if let Some(server) = FakeGcs::start().await {
        let xml = GoogleXml::start(&server.origin, Writes::Unconditional).await;
        let store = FakeGcs::open(&FakeGcs::settings(&xml.origin, "x"));
        assert_eq!(
            refusal(&store).await,
            format!("the store gs://cohort-test/x lets several create one object at once{HINT}")
        );
    }
}

/// The file server as it is looks first and writes later.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_whose_creates_race_is_refused() {
    let server = S3Server::start_with(Creates::Racing).await;
    assert_eq!(
        refusal(&server.store("x")).await,
        format!("the store s3://cohort-test/x lets several create one object at once{HINT}")
    );
}

#[tokio::test]
async fn each_way_to_ignore_it_is_told() {
    for (second, said) in [
        (Second::Overwrites, "lets a create overwrite what exists"),
        (
            Second::SaysItCreated,
            "says that it created an object that exists already",
        ),
        (
            Second::OverwritesAndRefuses,
            "refuses to create what exists, and overwrites it",
        ),
    ] {
        let objects = UnconditionalObjects::over(Arc::new(InMemory::new()), second);
        let store = Store::over(Arc::new(objects), &StoreSettings::at("memory:"));
        assert_eq!(
            refusal(&store).await,
            format!("the store memory: {said}{HINT}")
        );
    }
    let objects = UnconditionalObjects::over(Arc::new(InMemory::new()), Second::HiddenFromLists);
    let store = Store::over(Arc::new(objects), &StoreSettings::at("memory:"));
    let said = refusal(&store).await;
    assert!(
        said.starts_with("the store memory: does not list what was just written\n  hint: "),
        "{said}"
    );
}
