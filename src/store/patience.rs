//! How long a store may take: the deadline of every call, and the pauses between attempts.
//!
//! Invariants: no call waits without a deadline; only what can get better by waiting is repeated;
//! whoever gives up says what was tried, how often, and since when.

use std::future::Future;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, warn};

use crate::corpus::random::{keyed_number, unit_interval};
use crate::store::error::StoreError;

const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// So often in a row a request fails before a person is told of it.
const FAILURES_TOLD: u32 = 4;

/// How long somebody waits for a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Patience {
    /// One request: until its end, or until its next byte where the caller watches its bytes.
    pub(super) request: Duration,
    /// One call of the library, which may repeat its requests itself.
    pub(super) call: Duration,
    /// How long failures are repeated.
    pub(super) give_up: Duration,
}

impl Patience {
    /// When the last attempt must have ended, counted from the first.
    pub(super) fn deadline(self) -> Duration {
        self.give_up + self.request
    }
}

/// A future that must end within a span of time; `operation` and `url` name it where it does not.
pub(super) async fn within<T>(
    span: Duration,
    operation: &'static str,
    url: &str,
    future: impl Future<Output = T>,
) -> Result<T, StoreError> {
    timeout(span, future).await.map_err(|_| {
        let cause = format!("nothing came within {span:?}");
        StoreError::unavailable(operation, url, cause)
    })
}

/// Failures in a row, and since when nothing came.
pub(super) struct Waiting {
    patience: Patience,
    pub(super) since: Instant,
    pub(super) failures: u32,
}

impl Waiting {
    pub(super) fn new(patience: Patience) -> Self {
        Self {
            patience,
            since: Instant::now(),
            failures: 0,
        }
    }

    /// How long the next attempt may take.
    pub(super) fn left(&self) -> Duration {
        let deadline = self.patience.deadline();
        let left = deadline.saturating_sub(self.since.elapsed());
        left.min(self.patience.call)
    }

    /// Waits before the next attempt, longer after each failure; the error itself where waiting
    /// does not help or has lasted long enough.
    pub(super) async fn pause(&mut self, what: &str, error: StoreError) -> Result<(), StoreError> {
        let StoreError::Unavailable {
            operation,
            url,
            cause,
        } = error
        else {
            return Err(error);
        };
        self.failures += 1;
        let (waited, failures) = (self.since.elapsed(), self.failures);
        let left = self.patience.give_up.saturating_sub(waited);
        if left.is_zero() {
            let cause = format!(
                "{cause} (attempt {failures}; nothing has come for {:.0} s)",
                waited.as_secs_f64()
            );
            return Err(StoreError::unavailable(operation, &url, cause));
        }
        if failures >= FAILURES_TOLD && failures.is_power_of_two() {
            warn!(%url, failures, "the store does not answer well, trying on: {cause}");
        } else {
            debug!(%url, failures, "trying again: {cause}");
        }
        sleep(pause_after(failures, what).min(left)).await;
        Ok(())
    }
}

/// How long to wait after so many failures in a row. Half of it differs between processes, so that
/// ranks which failed together do not return together.
pub(super) fn pause_after(failures: u32, what: &str) -> Duration {
    let doubled = PAUSE_FIRST.saturating_mul(1 << failures.saturating_sub(1).min(16));
    let numbers = [u64::from(std::process::id()), u64::from(failures)];
    let share = 0.5 + 0.5 * unit_interval(keyed_number(0, what, &numbers));
    doubled.min(PAUSE_MAX).mul_f64(share)
}
