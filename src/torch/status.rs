//! How a shim function reports: a status, and a message when it did not succeed.

use std::ffi::{CStr, c_char};

use thiserror::Error;

/// Longer messages are cut.
const MESSAGE_BYTES_MAX: usize = 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// The C++ side threw.
    Failed,
    /// The operation was still running at its deadline.
    TimedOut,
    /// Somebody called abort, before or during the operation.
    Aborted,
}

/// What libtorch said, in its own words: one line, without a stack trace.
#[derive(Debug, Error)]
#[error("{message}")]
pub struct ShimError {
    pub status: Status,
    pub message: String,
}

/// `CohortMessage` of shim/status.h: where the shim may write a message, passed by value.
#[repr(C)]
pub(super) struct MessageBuffer {
    text: *mut c_char,
    capacity: usize,
}

/// Calls a shim function with a message buffer and turns its status into a result.
pub(super) fn call(function: impl FnOnce(MessageBuffer) -> i32) -> Result<(), ShimError> {
    let mut bytes = [0_u8; MESSAGE_BYTES_MAX];
    let status = function(MessageBuffer {
        text: bytes.as_mut_ptr().cast(),
        capacity: bytes.len(),
    });
    let status = match status {
        0 => return Ok(()),
        2 => Status::TimedOut,
        3 => Status::Aborted,
        _ => Status::Failed,
    };
    let text = CStr::from_bytes_until_nul(&bytes).map_or("".into(), CStr::to_string_lossy);
    let message = text.lines().next().unwrap_or_default().trim().to_owned();
    Err(ShimError { status, message })
}
