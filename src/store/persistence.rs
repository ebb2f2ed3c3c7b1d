//! Outlasting a store that does not work for a while.

use std::time::Duration;

use anyhow::Result;
use tokio::time::{Instant, sleep};
use tracing::warn;

use crate::diagnosis;
use crate::store::error::StoreError;

const PAUSE_FIRST: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// How long something that a run depends on is tried again, after the store's own patience is at
/// its end. The pauses double up to half a minute.
#[derive(Debug)]
pub struct Persistence {
    limit: Duration,
    since: Instant,
    pause: Duration,
}

impl Persistence {
    pub fn new(limit: Duration) -> Self {
        Self {
            limit,
            since: Instant::now(),
            pause: PAUSE_FIRST,
        }
    }

    /// Says what fails, and waits before the next attempt. False when the limit is reached.
    pub async fn goes_on(&mut self, trouble: &str) -> bool {
        if self.since.elapsed() >= self.limit {
            return false;
        }
        let pause = self.pause;
        warn!("{trouble}; tried again in {} ms", pause.as_millis());
        sleep(pause).await;
        self.pause = PAUSE_MAX.min(pause * 2);
        true
    }
}

/// Tries something until it works, or fails for good, or the limit is reached.
///
/// # Errors
/// The last one.
pub async fn outlast<T, F>(limit: Duration, attempt: impl Fn() -> F) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    let mut persistence = Persistence::new(limit);
    loop {
        let error = match attempt().await {
            Ok(done) => return Ok(done),
            Err(error) => error,
        };
        let may_pass = StoreError::may_pass(&error);
        if !may_pass || !persistence.goes_on(&diagnosis::describe(&error)).await {
            return Err(error);
        }
    }
}
