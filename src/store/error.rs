//! What can go wrong with objects and checkpoints, grouped by what the caller does next.
//!
//! Never quotes the content of an object. Each message names the address, and a second line says
//! what to try.

use std::error::Error;
use std::io;

use thiserror::Error as ThisError;

use crate::ids::Epoch;

/// Why a store operation failed. The operations already retried what is worth retrying.
#[derive(Debug, ThisError)]
pub enum StoreError {
    /// Go on without the object, or report its name.
    #[error(
        "cannot {operation} {url}: it does not exist\n  hint: check the name; list what is there"
    )]
    NotFound {
        operation: &'static str,
        url: String,
    },
    /// Somebody created it before: the loser of a conditional create.
    #[error("cannot create {url}: it exists already\n  hint: another process wrote it first")]
    AlreadyExists { url: String },
    /// Stop: trying again changes nothing until a person grants the right.
    #[error(
        "cannot {operation} {url}: {cause}\n  \
         hint: give this user the right to read, write, list and delete there, or name another \
         store"
    )]
    Denied {
        operation: &'static str,
        url: String,
        cause: String,
    },
    /// Go on with what needs no store, and try again later.
    #[error(
        "cannot {operation} {url}: {cause}\n  \
         hint: check the network, the endpoint, the credentials in the environment and the free \
         space, then try again"
    )]
    Unavailable {
        operation: &'static str,
        url: String,
        cause: String,
    },
    /// Stop: the server refuses such a request each time.
    #[error(
        "cannot {operation} {url}: {cause}\n  \
         hint: check that the endpoint is a server of the protocol that the address begins with, \
         and the store's settings"
    )]
    Refused {
        operation: &'static str,
        url: String,
        cause: String,
    },
    /// Stop: the store says what is not so.
    #[error(
        "cannot {operation} {url}: {found}, though the store says that it succeeded\n  \
         hint: check the store's disks and what lies between, or use another store"
    )]
    Disproved {
        operation: &'static str,
        url: String,
        found: &'static str,
    },
    /// Begin again: what was read of the object belongs to another one than what is there now.
    #[error(
        "{url} has changed since it was first looked at\n  \
         hint: run again when nothing writes to it any more"
    )]
    Changed { url: String },
    /// Fix the configuration or the name.
    #[error("{problem}\n  hint: {hint}")]
    Invalid { problem: String, hint: String },
}

impl StoreError {
    /// Whether an error comes from a store that may work again.
    pub fn may_pass(error: &anyhow::Error) -> bool {
        error.chain().any(|cause| {
            let own = cause.downcast_ref::<Self>();
            let of_checkpoint = match cause.downcast_ref::<CheckpointError>() {
                Some(CheckpointError::Store(error)) => Some(error),
                _ => None,
            };
            matches!(own.or(of_checkpoint), Some(Self::Unavailable { .. }))
        })
    }
}

/// Why a checkpoint could not be written, read or deleted.
#[derive(Debug, ThisError)]
pub enum CheckpointError {
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Stop: another coordinator runs this run.
    #[error(
        "coordinator epoch {ours} may not publish {url}: epoch {newest} began\n  \
         hint: another coordinator of this run was started; this one must stop"
    )]
    Fenced {
        ours: Epoch,
        newest: Epoch,
        url: String,
    },
    /// Keep the published one: it is whole, and a published checkpoint never changes but for the
    /// reason that it has.
    #[error(
        "{url} is published already with other content\n  \
         hint: resume from it, or delete it before publishing that step again"
    )]
    AlreadyPublished { url: String },
    /// Write the files again, then publish.
    #[error(
        "{url} cannot be published: {file} is not there as it was written\n  \
         hint: another process wrote or deleted it; take the checkpoint again"
    )]
    Incomplete { url: String, file: String },
    /// Use another checkpoint.
    #[error(
        "{url} is not a checkpoint that can be used: {reason}\n  \
         hint: use another checkpoint; `cohort verify` checks each"
    )]
    Unusable { url: String, reason: String },
    /// Leave it there.
    #[error("{url} may not be deleted: {reason}\n  hint: delete what depends on it first")]
    Kept { url: String, reason: String },
    #[error("cannot write {path}: {source}\n  hint: check the folder's rights and free space")]
    Local { path: String, source: io::Error },
}

impl StoreError {
    pub(super) fn invalid(problem: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Invalid {
            problem: problem.into(),
            hint: hint.into(),
        }
    }

    pub(super) fn unavailable(operation: &'static str, url: &str, cause: String) -> Self {
        Self::Unavailable {
            operation,
            url: url.to_owned(),
            cause,
        }
    }

    /// Sorts an error of the `object_store` crate by what the caller does next.
    pub(super) fn sort(operation: &'static str, url: &str, error: &object_store::Error) -> Self {
        use object_store::Error as Kind;
        if let Some(cause) = passing(error) {
            return Self::unavailable(operation, url, cause);
        }
        let url = url.to_owned();
        match error {
            // A write or a listing names no existing object, so what is missing is the bucket.
            Kind::NotFound { .. } if matches!(operation, "write" | "list") => Self::invalid(
                format!("cannot {operation} {url}: its bucket or folder does not exist"),
                "create the bucket or container first, or correct the store's address",
            ),
            Kind::NotFound { .. } => Self::NotFound { operation, url },
            Kind::AlreadyExists { .. } | Kind::Precondition { .. } => Self::AlreadyExists { url },
            Kind::PermissionDenied { .. } | Kind::Unauthenticated { .. } => Self::Denied {
                operation,
                url,
                cause: cause(error),
            },
            Kind::InvalidPath { .. }
            | Kind::NotSupported { .. }
            | Kind::NotImplemented { .. }
            | Kind::UnknownConfigurationKey { .. } => Self::invalid(
                format!("cannot {operation} {url}: {}", cause(error)),
                "correct the store's address and settings",
            ),
            _ => Self::sort_io(operation, url, error),
        }
    }

    /// A local folder reports everything but a missing file as a generic error around the
    /// operating system's.
    fn sort_io(operation: &'static str, url: String, error: &object_store::Error) -> Self {
        let cause = cause(error);
        match io_kind(error) {
            Some(io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem) => {
                Self::Denied {
                    operation,
                    url,
                    cause,
                }
            }
            Some(io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory) => Self::invalid(
                format!("cannot {operation} {url}: {cause}"),
                "a file stands where the store needs a folder: move it, or name another folder",
            ),
            Some(io::ErrorKind::InvalidFilename) => Self::invalid(
                format!("cannot {operation} {url}: {cause}"),
                "shorten the store's path or the run's name",
            ),
            None if cause.contains(REFUSAL) => Self::Refused {
                operation,
                url,
                cause,
            },
            _ => Self::Unavailable {
                operation,
                url,
                cause,
            },
        }
    }
}

/// How the `object_store` crate begins to tell of an answer that the client is to blame for; the
/// kinds of its errors do not.
const REFUSAL: &str = "non-2xx status code: 4";

/// Words of answers that blame the client for what a network or a repetition did: another attempt
/// may succeed.
const PASSING: [&str; 10] = [
    "status code: 408",
    "status code: 429",
    "RequestTimeout",
    "IncompleteBody",
    "BadDigest",
    "XAmzContentSHA256Mismatch",
    "Md5Mismatch",
    "NoSuchUpload",
    "InvalidPart",
    "InvalidBlockList",
];

/// The cause, where the error is of an answer that another attempt may not get.
fn passing(error: &object_store::Error) -> Option<String> {
    let cause = cause(error);
    let passing = cause.contains(REFUSAL) && PASSING.iter().any(|words| cause.contains(words));
    passing.then_some(cause)
}

/// The error in words, on one line: servers answer with XML of many lines.
fn cause(error: &object_store::Error) -> String {
    let text = match error {
        object_store::Error::Generic { source, .. } => source.to_string(),
        other => other.to_string(),
    };
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn io_kind(error: &object_store::Error) -> Option<io::ErrorKind> {
    let mut next: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(current) = next {
        if let Some(io) = current.downcast_ref::<io::Error>() {
            return Some(io.kind());
        }
        next = current.source();
    }
    None
}
