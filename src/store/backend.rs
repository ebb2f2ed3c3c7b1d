//! From an address in the configuration to an open object store.
//!
//! The only place that knows the schemes, their builders and where credentials come from. Secrets
//! never come from the configuration file and never reach a message.

use std::fmt;
use std::path::Path as FilePath;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::{GcpCredential, GoogleCloudStorageBuilder};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    BackoffConfig, ClientOptions, ObjectStore, ObjectStoreScheme, RetryConfig,
    StaticCredentialProvider,
};

use crate::store::error::StoreError;
use crate::store::settings::{SCHEMES_HINT, StoreSettings, parse_address};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
pub(super) const RETRIES_MAX: usize = 10;
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(15);

/// Who asks. A run's processes take the environment's; a caller that holds keys passes them.
#[derive(Clone)]
pub enum Credentials {
    /// The clouds' usual chains: `AWS_…`, `GOOGLE_…` and `AZURE_…` variables, mounted tokens, the
    /// machine's own identity.
    Environment,
    /// An access key of an S3 server.
    S3Key {
        access_key_id: String,
        secret_access_key: String,
    },
    /// An access key of an Azure storage account.
    AzureKey { account: String, access_key: String },
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Environment => "Environment",
            Self::S3Key { .. } => "S3Key(hidden)",
            Self::AzureKey { .. } => "AzureKey(hidden)",
        })
    }
}

/// Who repeats a request that failed, and how long one may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Requests {
    /// Of one request, its body included; none where the caller watches the body itself.
    pub(super) timeout: Option<Duration>,
    /// How often the library repeats a request; 0 where the caller does.
    pub(super) retries_max: usize,
}

/// What to do where the folder of a local store is missing. Buckets are never created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MissingFolder {
    Create,
    Refuse,
}

/// An open store: the objects, where its keys begin among them, and the address to show.
pub(super) struct Backend {
    pub(super) objects: Arc<dyn ObjectStore>,
    pub(super) root: Path,
    pub(super) address: String,
    /// Whether a call repeats its requests before it fails.
    pub(super) repeats: bool,
}

pub(super) fn connect(
    settings: &StoreSettings,
    credentials: &Credentials,
    missing: MissingFolder,
    requests: Requests,
) -> Result<Backend, StoreError> {
    if !settings.url.contains("://") {
        return local_folder(FilePath::new(&settings.url), missing);
    }
    let (url, scheme, root) = parse_address(&settings.url)?;
    if scheme == ObjectStoreScheme::Local {
        let folder = url.to_file_path().map_err(|()| {
            StoreError::invalid(
                format!("{url} names no folder of this machine"),
                SCHEMES_HINT,
            )
        })?;
        return local_folder(&folder, missing);
    }
    let objects = match scheme {
        ObjectStoreScheme::AmazonS3 => s3(settings, credentials, requests),
        ObjectStoreScheme::GoogleCloudStorage => google(settings, requests),
        _ => azure(settings, credentials, requests),
    };
    let objects = objects.map_err(|error| StoreError::sort("open", url.as_str(), &error))?;
    Ok(Backend {
        objects,
        root,
        address: url.as_str().trim_end_matches('/').to_owned(),
        repeats: requests.retries_max > 0,
    })
}

fn s3(
    settings: &StoreSettings,
    credentials: &Credentials,
    requests: Requests,
) -> object_store::Result<Arc<dyn ObjectStore>> {
    let mut builder = AmazonS3Builder::from_env()
        .with_url(&settings.url)
        .with_client_options(client_options(settings, requests))
        .with_retry(retry(settings, requests));
    if let Some(endpoint) = &settings.endpoint {
        // The more special of two keys: an AWS_ENDPOINT_URL_S3 of the environment would win over
        // the other one.
        builder = builder.with_config(AmazonS3ConfigKey::S3Endpoint, endpoint);
    }
    if settings.anonymous {
        builder = builder.with_skip_signature(true);
    }
    if let Some(region) = &settings.region {
        builder = builder.with_region(region);
    }
    if let Credentials::S3Key {
        access_key_id,
        secret_access_key,
    } = credentials
    {
        builder = builder
            .with_access_key_id(access_key_id)
            .with_secret_access_key(secret_access_key);
    }
    Ok(Arc::new(builder.build()?))
}

fn google(
    settings: &StoreSettings,
    requests: Requests,
) -> object_store::Result<Arc<dyn ObjectStore>> {
    let mut builder = GoogleCloudStorageBuilder::from_env()
        .with_url(&settings.url)
        .with_client_options(client_options(settings, requests))
        .with_retry(retry(settings, requests));
    if let Some(endpoint) = &settings.endpoint {
        builder = builder.with_base_url(endpoint);
    }
    if settings.anonymous {
        // Writes ask for a token even so.
        let token = GcpCredential {
            bearer: String::new(),
        };
        builder = builder
            .with_skip_signature(true)
            .with_credentials(Arc::new(StaticCredentialProvider::new(token)));
    }
    Ok(Arc::new(builder.build()?))
}

fn azure(
    settings: &StoreSettings,
    credentials: &Credentials,
    requests: Requests,
) -> object_store::Result<Arc<dyn ObjectStore>> {
    let mut builder = MicrosoftAzureBuilder::from_env()
        .with_url(&settings.url)
        .with_client_options(client_options(settings, requests))
        .with_retry(retry(settings, requests));
    if settings.anonymous {
        builder = builder.with_skip_signature(true);
    }
    if let Some(endpoint) = &settings.endpoint {
        builder = builder.with_endpoint(endpoint.clone());
    }
    if let Credentials::AzureKey {
        account,
        access_key,
    } = credentials
    {
        builder = builder.with_account(account).with_access_key(access_key);
    }
    Ok(Arc::new(builder.build()?))
}

fn client_options(settings: &StoreSettings, requests: Requests) -> ClientOptions {
    let options = ClientOptions::new()
        .with_connect_timeout(CONNECT_TIMEOUT)
        .with_allow_http(settings.allow_http);
    match requests.timeout {
        Some(timeout) => options.with_timeout(timeout),
        None => options.with_timeout_disabled(),
    }
}

fn retry(settings: &StoreSettings, requests: Requests) -> RetryConfig {
    RetryConfig {
        backoff: BackoffConfig {
            init_backoff: BACKOFF_FIRST,
            max_backoff: BACKOFF_MAX,
            base: 2.0,
        },
        max_retries: requests.retries_max,
        retry_timeout: settings.retry_timeout,
    }
}

/// A folder as a store. Writes are flushed to disk before they count: a manifest that survives a
/// power cut must not outlive the files it names.
fn local_folder(folder: &FilePath, missing: MissingFolder) -> Result<Backend, StoreError> {
    let folder = std::path::absolute(folder).map_err(|error| folder_error(folder, &error))?;
    if folder.exists() && !folder.is_dir() {
        return Err(StoreError::invalid(
            format!("the store {} is a file, not a folder", folder.display()),
            "name a folder; it is created where it is missing",
        ));
    }
    match missing {
        MissingFolder::Create => {
            std::fs::create_dir_all(&folder).map_err(|error| folder_error(&folder, &error))?;
        }
        MissingFolder::Refuse if !folder.is_dir() => {
            return Err(StoreError::NotFound {
                operation: "open",
                url: folder.display().to_string(),
            });
        }
        MissingFolder::Refuse => {}
    }
    let address = folder.display().to_string();
    let objects = LocalFileSystem::new_with_prefix(&folder)
        .map_err(|error| StoreError::sort("open", &address, &error))?
        .with_automatic_cleanup(true)
        .with_fsync(true);
    Ok(Backend {
        objects: Arc::new(objects),
        root: Path::default(),
        address,
        repeats: false,
    })
}

fn folder_error(folder: &FilePath, error: &std::io::Error) -> StoreError {
    StoreError::invalid(
        format!(
            "cannot create the store's folder {}: {error}",
            folder.display()
        ),
        "name a folder that this user may write to",
    )
}
