//! One contract for every kind of store, and for checkpoints in each: memory, a local folder, a
//! real S3 server, and emulators of Azure and Google where they are installed.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "all of it is test code, also outside the functions that are marked as tests"
)]

use std::path::Path;
use std::time::Duration;

use cohort::store::Store;
use cohort::store::backend::{Credentials, MissingFolder};
use cohort::store::error::StoreError;
use cohort::store::settings::StoreSettings;

use crate::support::emulator::{Azurite, FakeGcs};
use crate::support::google::{GoogleXml, Writes};
use crate::support::s3::S3Server;

mod checkpoints;
mod conditions;
mod journals;
mod lives;
mod objects;
mod proof;
mod servers;

/// Every part of the contract, each in a prefix of its own.
async fn check_contract(store: &Store) {
    let part = |name: &str| store.child(name).unwrap();
    store.check_writable().await.unwrap();
    assert_eq!(store.list("").await.unwrap(), [], "the probe is gone");

    objects::are_read_as_written(&part("objects")).await;
    objects::are_not_found_by_name(&part("missing")).await;
    objects::larger_than_a_part_are_whole(&part("large")).await;
    objects::list_sorted_and_complete_beyond_a_page(&part("pages")).await;
    objects::create_has_one_winner(&part("create")).await;
    objects::epochs_go_to_one_claimant_each(&part("epochs")).await;

    checkpoints::exist_once_published(&part("publish")).await;
    checkpoints::get_the_strongest_reason(&part("reason")).await;
    checkpoints::without_a_manifest_are_never_picked(&part("crash")).await;
    checkpoints::that_are_damaged_are_named_and_passed_over(&part("damage")).await;
    checkpoints::are_repaired_by_the_same_content_only(&part("again")).await;
    checkpoints::that_are_damaged_give_way(&part("give-way")).await;
    checkpoints::of_a_fenced_coordinator_are_refused(&part("fence")).await;
    checkpoints::go_manifest_first(&part("delete")).await;
    checkpoints::are_kept_by_a_branch(&part("pin")).await;
    checkpoints::download_as_a_folder(&part("download")).await;

    journals::end_where_a_later_epoch_begins(&part("journal")).await;
    journals::pass_over_an_entry_that_an_attempt_tore(&part("torn-entry")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_keeps_the_contract() {
    check_contract(&Store::in_memory()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_local_folder_keeps_the_contract() {
    let folder = tempfile::tempdir().unwrap();
    let settings = StoreSettings::at(folder.path().join("new/runs").to_str().unwrap());
    let missing = Store::open_existing(&settings).unwrap_err();
    assert!(matches!(missing, StoreError::NotFound { .. }), "{missing}");

    let store = Store::open(&settings).unwrap();
    check_contract(&store).await;

    // The same folder by another address, seen by another process as it were.
    let url = format!("file://{}/new/runs/publish", folder.path().display());
    let again = Store::open_existing(&StoreSettings::at(url)).unwrap();
    assert_eq!(
        again.list("").await.unwrap(),
        store.child("publish").unwrap().list("").await.unwrap()
    );
    assert!(!again.list("").await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_s3_server_keeps_the_contract() {
    let server = S3Server::start().await;
    check_contract(&server.store("some/prefix")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn azurite_keeps_the_contract() {
    if let Some(azurite) = Azurite::start().await {
        let settings = Azurite::settings(&azurite.origin, "some/prefix");
        check_contract(&Azurite::open(&settings)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fake_gcs_server_keeps_the_contract() {
    if let Some(server) = FakeGcs::start().await {
        let xml = GoogleXml::start(&server.origin, Writes::Conditional).await;
        let settings = FakeGcs::settings(&xml.origin, "some/prefix");
        check_contract(&FakeGcs::open(&settings)).await;
    }
}

/// The variable by which the test below tells its second self where the store is.
const CHILD_STORE_VARIABLE: &str = "COHORT_TEST_CHILD_STORE";

/// The processes of a run get their settings from the configuration and their credentials from
/// the environment. The environment of this process must stay as it is, so the test starts itself
/// once more with another.
#[tokio::test(flavor = "multi_thread")]
#[expect(
    clippy::disallowed_methods,
    reason = "how the second self knows what it is"
)]
async fn a_child_process_takes_its_credentials_from_the_environment() {
    if let Ok(yaml) = std::env::var(CHILD_STORE_VARIABLE) {
        let settings = cohort::config::parse(&yaml, "child").unwrap();
        let store = Store::open(&settings).unwrap();
        store.check_writable().await.unwrap();
        store.put("from-child", "written").await.unwrap();
        return;
    }
    let server = S3Server::start().await;
    let settings = server.settings("child");
    check_child(&settings, &server.environment(), &server.store("child")).await;

    if let Some(azurite) = Azurite::start().await {
        let settings = Azurite::settings(&azurite.origin, "child");
        let store = Azurite::open(&settings);
        check_child(&settings, &Azurite::environment(), &store).await;
    }
    if let Some(server) = FakeGcs::start().await {
        let xml = GoogleXml::start(&server.origin, Writes::Conditional).await;
        let settings = FakeGcs::settings(&xml.origin, "child");
        check_child(&settings, &[], &FakeGcs::open(&settings)).await;
    }
}

async fn check_child(settings: &StoreSettings, environment: &[(&str, &str)], store: &Store) {
    let yaml = serde_json::to_string(settings).unwrap();
    let output = tokio::process::Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "store::a_child_process_takes_its_credentials_from_the_environment",
        ])
        .env(CHILD_STORE_VARIABLE, yaml)
        .envs(environment.iter().copied())
        .output()
        .await
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{said}"
    );
    assert_eq!(store.get("from-child").await.unwrap(), "written");
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_keys_and_buckets_end_in_one_clear_error() {
    let server = S3Server::start().await;
    let wrong_key = Credentials::S3Key {
        access_key_id: server.access_key_id.clone(),
        secret_access_key: "a-wrong-secret".to_owned(),
    };
    let store = Store::open_as(&server.settings("x"), &wrong_key, MissingFolder::Refuse).unwrap();
    let error = store.check_writable().await.unwrap_err();
    assert!(matches!(error, StoreError::Denied { .. }), "{error:?}");
    let message = error.to_string();
    assert!(
        message.starts_with("cannot write s3://cohort-test/x/write-probe-"),
        "{message}"
    );
    assert!(!message.contains("a-wrong-secret"), "{message}");
    assert!(!format!("{wrong_key:?}").contains("a-wrong-secret"));
    assert_eq!(message.lines().count(), 2, "{message}");

    let nowhere = StoreSettings {
        url: "s3://no-such-bucket/x".to_owned(),
        ..server.settings("x")
    };
    let right_key = Credentials::S3Key {
        access_key_id: server.access_key_id.clone(),
        secret_access_key: server.secret_access_key.clone(),
    };
    let store = Store::open_as(&nowhere, &right_key, MissingFolder::Refuse).unwrap();
    let error = store.check_writable().await.unwrap_err();
    assert!(matches!(error, StoreError::Invalid { .. }), "{error:?}");
    assert!(error.to_string().contains("create the bucket"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_gone_is_unavailable_not_empty() {
    let server = S3Server::start().await;
    let settings = StoreSettings {
        retry_timeout: Duration::ZERO,
        ..server.settings("x")
    };
    let credentials = Credentials::S3Key {
        access_key_id: server.access_key_id.clone(),
        secret_access_key: server.secret_access_key.clone(),
    };
    drop(server);
    let store = Store::open_as(&settings, &credentials, MissingFolder::Refuse).unwrap();
    for error in [
        store.list("").await.unwrap_err(),
        store.exists("run.yaml").await.unwrap_err(),
        store.check_writable().await.unwrap_err(),
    ] {
        assert!(matches!(error, StoreError::Unavailable { .. }), "{error:?}");
    }
    checkpoints::are_not_passed_over_where_the_store_fails(&store).await;
}

#[tokio::test]
async fn folders_that_cannot_be_written_end_in_one_clear_error() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a-file");
    std::fs::write(&file, "x").unwrap();
    let file = file.to_str().unwrap();

    let error = Store::open(&StoreSettings::at(file)).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "the store {file} is a file, not a folder\n  \
             hint: name a folder; it is created where it is missing"
        )
    );
    let error = Store::open(&StoreSettings::at(format!("{file}/runs"))).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "cannot create the store's folder {file}/runs: Not a directory (os error 20)\n  \
             hint: name a folder that this user may write to"
        )
    );
    // A folder that even root may not write to.
    if Path::new("/sys/kernel").is_dir() {
        let store = Store::open(&StoreSettings::at("/sys/kernel")).unwrap();
        let error = store.check_writable().await.unwrap_err();
        assert!(matches!(error, StoreError::Denied { .. }), "{error:?}");
        assert!(
            error
                .to_string()
                .starts_with("cannot write /sys/kernel/write-probe-"),
            "{error}"
        );
    } else {
        crate::support::skipped("this system has no /sys/kernel");
    }
}

#[test]
fn settings_read_from_yaml_and_wrong_ones_are_refused() {
    let read = |yaml: &str| cohort::config::parse::<StoreSettings>(yaml, "run.yaml");
    let settings = read(
        "url: s3://bucket/prefix\nendpoint: http://127.0.0.1:9000\nregion: eu-west-1\n\
         allow_http: true\nretry_timeout: 1m",
    )
    .unwrap();
    assert_eq!(settings.retry_timeout, Duration::from_mins(1));
    assert_eq!(
        read("url: runs/here").unwrap(),
        StoreSettings::at("runs/here")
    );

    for (wrong, said) in [
        ("url: ''", "a store's address is empty"),
        (
            "url: ftp://host/x",
            "begins with s3://, gs://, az:// or file://",
        ),
        (
            "url: https://example.com/x",
            "begins with s3://, gs://, az:// or file://",
        ),
        (
            "url: 's3://key:secret@bucket/x'",
            "credentials come from the environment",
        ),
        (
            "url: x\nendpoint: 127.0.0.1:9000",
            "not an address that begins with http://",
        ),
        ("url: x\nretry_timeout: 1h", "longer than 5m"),
        ("url: x\nsecret: y", "unknown field"),
    ] {
        let error = format!("{:#}", read(wrong).unwrap_err());
        assert!(error.contains(said), "{wrong}: {error}");
    }
}
