//! What a user writes to say where a run's store is.
//!
//! Pure. Holds no secrets and refuses addresses that do: configuration files are copied and shown.

use std::time::Duration;

use garde::Validate;
use object_store::ObjectStoreScheme;
use object_store::path::Path;
use serde::{Deserialize, Serialize};
use url::Url;

use crate::store::error::StoreError;
use crate::store::patience::Patience;

/// `object_store` signs a request once for all its retries, and signatures live for five minutes.
const RETRY_TIMEOUT_MAX: Duration = Duration::from_mins(5);
const REQUEST_TIMEOUT_MAX: Duration = Duration::from_hours(1);

pub(super) const SCHEMES_HINT: &str =
    "use a folder's path, or an address that begins with s3://, gs://, az:// or file://";

/// Where a run keeps everything it leaves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Validate)]
#[serde(deny_unknown_fields)]
pub struct StoreSettings {
    /// A folder's path, or `s3://bucket/prefix`, `gs://bucket/prefix`, `az://container/prefix`,
    /// `file:///folder`.
    #[garde(custom(known_address))]
    pub url: String,
    /// The server's address where it is not the cloud's own, as `http://127.0.0.1:9000`.
    #[serde(default)]
    #[garde(inner(custom(http_address)))]
    pub endpoint: Option<String>,
    /// The region of an S3 bucket; without it, that of the environment, else `us-east-1`.
    #[serde(default)]
    #[garde(inner(length(min = 1)))]
    pub region: Option<String>,
    /// Allows an endpoint without TLS: for a server on the same machine.
    #[serde(default)]
    #[garde(skip)]
    pub allow_http: bool,
    /// Asks without credentials: for public buckets and for servers that check none.
    #[serde(default)]
    #[garde(skip)]
    pub anonymous: bool,
    /// How long a failing request is tried again before the error is reported.
    #[serde(default = "default_retry_timeout", with = "humantime_serde")]
    #[garde(custom(retry_timeout_limit))]
    pub retry_timeout: Duration,
    /// How long one request may take, its body included: of an upload, up to four at a time of
    /// 16 MiB each.
    #[serde(default = "default_request_timeout", with = "humantime_serde")]
    #[garde(custom(request_timeout_limit))]
    pub request_timeout: Duration,
}

/// How a store that is only read from is reached, beside its address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Validate)]
#[serde(default, deny_unknown_fields)]
pub struct ReadSettings {
    /// The server's address where it is not the cloud's own, as `http://127.0.0.1:9000`.
    #[garde(inner(custom(http_address)))]
    pub endpoint: Option<String>,
    /// The region of an S3 bucket; without it, that of the environment, else `us-east-1`.
    #[garde(inner(length(min = 1)))]
    pub region: Option<String>,
    /// Allows an endpoint without TLS: for a server on the same machine.
    #[garde(skip)]
    pub allow_http: bool,
    /// Asks without credentials: for public buckets and for servers that check none.
    #[garde(skip)]
    pub anonymous: bool,
    /// How long reading goes on without a byte before the error is reported.
    #[serde(with = "humantime_serde")]
    #[garde(custom(retry_timeout_limit))]
    pub retry_timeout: Duration,
    /// How long one request may bring no byte before it is given up and repeated.
    #[serde(with = "humantime_serde")]
    #[garde(custom(stall_timeout_limit))]
    pub stall_timeout: Duration,
}

impl Default for ReadSettings {
    fn default() -> Self {
        Self {
            endpoint: None,
            region: None,
            allow_http: false,
            anonymous: false,
            retry_timeout: default_retry_timeout(),
            stall_timeout: default_stall_timeout(),
        }
    }
}

impl ReadSettings {
    /// The same for the store at an address.
    pub(super) fn at(&self, url: &str) -> StoreSettings {
        StoreSettings {
            url: url.to_owned(),
            endpoint: self.endpoint.clone(),
            region: self.region.clone(),
            allow_http: self.allow_http,
            anonymous: self.anonymous,
            retry_timeout: self.retry_timeout,
            request_timeout: self.stall_timeout,
        }
    }
}

const fn default_request_timeout() -> Duration {
    Duration::from_mins(2)
}

const fn default_stall_timeout() -> Duration {
    Duration::from_secs(30)
}

const fn default_retry_timeout() -> Duration {
    Duration::from_mins(3)
}

impl StoreSettings {
    /// Of a store whose library repeats requests itself, or does not.
    pub(super) fn patience(&self, repeats: bool) -> Patience {
        let repeating = if repeats {
            self.retry_timeout
        } else {
            Duration::ZERO
        };
        Patience {
            request: self.request_timeout,
            call: repeating + self.request_timeout,
            give_up: self.retry_timeout,
        }
    }

    /// The settings of an address alone, all else as by default.
    pub fn at(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            endpoint: None,
            region: None,
            allow_http: false,
            anonymous: false,
            retry_timeout: default_retry_timeout(),
            request_timeout: default_request_timeout(),
        }
    }
}

/// The address taken apart: its scheme, one of the four that are known, and where its keys begin.
pub(super) fn parse_address(address: &str) -> Result<(Url, ObjectStoreScheme, Path), StoreError> {
    let refused =
        |reason: &str| StoreError::invalid(format!("the store {address}: {reason}"), SCHEMES_HINT);
    let url = Url::parse(address).map_err(|error| refused(&error.to_string()))?;
    if !url.username().is_empty() && url.scheme() != "abfss" && url.scheme() != "abfs" {
        return Err(StoreError::invalid(
            "the store's address holds a user name or a password",
            "remove them; credentials come from the environment",
        ));
    }
    let (scheme, root) = ObjectStoreScheme::parse(&url)
        .map_err(|_| refused("no store is known by such an address"))?;
    match scheme {
        ObjectStoreScheme::Local
        | ObjectStoreScheme::AmazonS3
        | ObjectStoreScheme::GoogleCloudStorage
        | ObjectStoreScheme::MicrosoftAzure => Ok((url, scheme, root)),
        _ => Err(refused("no store is known by such an address")),
    }
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "the signature that garde calls"
)]
fn known_address(address: &str, _context: &()) -> garde::Result {
    if address.trim().is_empty() {
        return Err(garde::Error::new("a store's address is empty"));
    }
    if !address.contains("://") {
        return Ok(());
    }
    parse_address(address)
        .map(drop)
        .map_err(|error| garde::Error::new(error.to_string()))
}

/// Whether a text that may be a path is an address.
pub fn is_address(text: &str) -> bool {
    text.contains("://")
}

/// For validation: an address of one of the known schemes, not a path.
pub fn only_address(address: &str, context: &()) -> garde::Result {
    if is_address(address) {
        return known_address(address, context);
    }
    Err(garde::Error::new(
        "not an address that begins with s3://, gs://, az:// or file://",
    ))
}

/// For validation: how long one request may stall.
pub fn stall_timeout_limit(timeout: &Duration, _context: &()) -> garde::Result {
    if timeout.is_zero() || *timeout > RETRY_TIMEOUT_MAX {
        return Err(garde::Error::new("not between 0 and 5m"));
    }
    Ok(())
}

/// For validation: how long one request may take.
pub fn request_timeout_limit(timeout: &Duration, _context: &()) -> garde::Result {
    if timeout.is_zero() || *timeout > REQUEST_TIMEOUT_MAX {
        return Err(garde::Error::new("not between 0 and 1h"));
    }
    Ok(())
}

/// For validation: a server's address.
pub fn http_address(address: &str, _context: &()) -> garde::Result {
    match Url::parse(address) {
        Ok(url) if matches!(url.scheme(), "http" | "https") => Ok(()),
        _ => Err(garde::Error::new(
            "not an address that begins with http:// or https://",
        )),
    }
}

/// For validation: how long requests are repeated.
pub fn retry_timeout_limit(timeout: &Duration, _context: &()) -> garde::Result {
    if *timeout > RETRY_TIMEOUT_MAX {
        return Err(garde::Error::new(
            "longer than 5m, the life of a request's signature",
        ));
    }
    Ok(())
}
