//! Records read one after the other, each of which makes some documents.

use std::iter;

use anyhow::Result;

use crate::prepare::readers::{Document, Documents};

/// The documents of every record that `next` gives, up to the first error.
pub fn documents(
    mut next: impl FnMut() -> Result<Option<Vec<Document>>> + Send + 'static,
) -> Documents {
    let mut failed = false;
    let records = iter::from_fn(move || {
        if failed {
            return None;
        }
        let record = next().transpose()?;
        failed = record.is_err();
        Some(match record {
            Ok(documents) => documents.into_iter().map(Ok).collect(),
            Err(error) => vec![Err(error)],
        })
    });
    Box::new(records.flatten())
}
