//! Where a prepared corpus is, as a run's YAML says it: a folder, or an address in object storage.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use garde::Validate;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};

use crate::store::settings::{
    ReadSettings, http_address, is_address, only_address, retry_timeout_limit, stall_timeout_limit,
};

/// A folder's path, an address as `s3://bucket/corpus`, or a mapping of [`CorpusStore`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Validate)]
#[serde(untagged)]
pub enum CorpusLocation {
    /// Mapped where it lies.
    Folder(#[garde(skip)] PathBuf),
    /// Read through a cache on the local disk.
    Store(#[garde(dive)] CorpusStore),
}

/// A corpus in object storage, and the local cache that it is read through.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Validate)]
#[serde(deny_unknown_fields)]
pub struct CorpusStore {
    /// `s3://bucket/prefix`, `gs://bucket/prefix`, `az://container/prefix` or `file:///folder`:
    /// what stands beside the manifest.
    #[garde(custom(only_address))]
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
    /// How long a file may bring no byte before the run stops with an error.
    #[serde(default = "default_retry_timeout", with = "humantime_serde")]
    #[garde(custom(retry_timeout_limit))]
    pub retry_timeout: Duration,
    /// How long one request may bring no byte before it is repeated.
    #[serde(default = "default_stall_timeout", with = "humantime_serde")]
    #[garde(custom(stall_timeout_limit))]
    pub stall_timeout: Duration,
    /// The folder of the cache, on a disk of the machine, shared by its ranks and by runs; without
    /// it, `.cache/cohort` in the user's home. It holds token ids, which are text to who has the
    /// tokenizer: it is made for this user alone.
    #[serde(default)]
    #[garde(skip)]
    pub cache: Option<PathBuf>,
    /// Bytes that the cache may hold. The files that one block of rows reads should fit, or they
    /// are fetched again and again: some shards of every source.
    #[serde(default = "default_cache_bytes")]
    #[garde(range(min = 1))]
    pub cache_bytes: u64,
}

const fn default_cache_bytes() -> u64 {
    64 << 30
}

fn default_retry_timeout() -> Duration {
    ReadSettings::default().retry_timeout
}

fn default_stall_timeout() -> Duration {
    ReadSettings::default().stall_timeout
}

impl CorpusStore {
    /// The corpus at an address, all else as by default.
    pub fn at(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            endpoint: None,
            region: None,
            allow_http: false,
            anonymous: false,
            retry_timeout: default_retry_timeout(),
            stall_timeout: default_stall_timeout(),
            cache: None,
            cache_bytes: default_cache_bytes(),
        }
    }

    /// How its store is reached.
    pub fn reading(&self) -> ReadSettings {
        ReadSettings {
            endpoint: self.endpoint.clone(),
            region: self.region.clone(),
            allow_http: self.allow_http,
            anonymous: self.anonymous,
            retry_timeout: self.retry_timeout,
            stall_timeout: self.stall_timeout,
        }
    }
}

impl<'de> Deserialize<'de> for CorpusLocation {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(LocationVisitor)
    }
}

struct LocationVisitor;

impl<'de> Visitor<'de> for LocationVisitor {
    type Value = CorpusLocation;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a folder, an address, or {url: an address, …}")
    }

    fn visit_str<E>(self, text: &str) -> Result<CorpusLocation, E> {
        Ok(if is_address(text) {
            CorpusLocation::Store(CorpusStore::at(text))
        } else {
            CorpusLocation::Folder(PathBuf::from(text))
        })
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<CorpusLocation, A::Error> {
        CorpusStore::deserialize(MapAccessDeserializer::new(map)).map(CorpusLocation::Store)
    }
}
