//! A file of JSON lines in the store, each about a step.

use anyhow::Result;
use bytes::Bytes;

use crate::ids::Step;
use crate::store::Store;
use crate::store::error::StoreError;

/// A file of JSON lines, kept whole in memory: object stores cannot append.
pub(super) struct Lines {
    key: &'static str,
    text: String,
    dirty: bool,
    /// How long the file is that was read or written last, where there is one.
    stored_bytes: Option<u64>,
}

impl Lines {
    /// What an earlier life of the run left.
    pub(super) async fn open(store: &Store, key: &'static str) -> Result<Self> {
        let (text, stored_bytes) = match store.get(key).await {
            Ok(bytes) => {
                let text = String::from_utf8_lossy(&bytes).into_owned();
                (text, Some(bytes.len() as u64))
            }
            Err(StoreError::NotFound { .. }) => (String::new(), None),
            Err(error) => return Err(error.into()),
        };
        let mut lines = Self {
            key,
            text,
            dirty: false,
            stored_bytes,
        };
        // A line torn by a crash is of a step that is taken again.
        lines.remove(|line| step_of(line).is_none());
        Ok(lines)
    }

    /// Takes out the steps after `step`.
    pub(super) fn cut(&mut self, step: Step) {
        self.remove(|line| step_of(line).is_none_or(|found| found > step));
    }

    /// The newest lines, while they are of steps after `step`.
    pub(super) fn after(&self, step: Step) -> impl Iterator<Item = &str> {
        let newest = self.text.lines().rev();
        newest.take_while(move |line| step_of(line).is_some_and(|found| found > step))
    }

    pub(super) fn last(&self) -> Option<&str> {
        self.text.lines().next_back()
    }

    pub(super) fn push(&mut self, json: &str) {
        self.text.push_str(json);
        self.text.push('\n');
        self.dirty = true;
    }

    pub(super) fn remove(&mut self, unwanted: impl Fn(&str) -> bool) {
        let kept = self.text.lines().filter(|line| !unwanted(line));
        let kept: String = kept.flat_map(|line| [line, "\n"]).collect();
        self.dirty |= kept != self.text;
        self.text = kept;
    }

    /// Brings the lines into the store, also where others stand there now: a coordinator that was
    /// taken over may have asked whether it may write, stood still, and written.
    pub(super) async fn flush(&mut self, store: &Store) -> Result<(), StoreError> {
        if self.dirty || store.size(self.key).await? != self.stored_bytes {
            store
                .put_large(self.key, Bytes::from(self.text.clone()))
                .await?;
            self.dirty = false;
            self.stored_bytes = Some(self.text.len() as u64);
        }
        Ok(())
    }
}

/// The step that a line is about; none for one that is torn.
fn step_of(line: &str) -> Option<Step> {
    #[derive(serde::Deserialize)]
    struct OfStep {
        step: Step,
    }
    let line: OfStep = serde_json::from_str(line).ok()?;
    Some(line.step)
}
