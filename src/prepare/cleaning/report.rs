//! What cleaning came to: `cleaning.json` beside the manifest.
//!
//! Names sources and counts, never a text.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::prepare::cleaning::config::CleaningConfig;
use crate::prepare::cleaning::reason::Reason;
use crate::prepare::files::write_json;

pub const REPORT_FILE: &str = "cleaning.json";

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CleaningReport {
    /// The settings, in full.
    pub cleaning: CleaningConfig,
    /// In the manifest's order.
    pub sources: Vec<SourceReport>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceReport {
    /// `institution/source`.
    pub source: String,
    /// Documents read.
    pub documents: u64,
    /// Documents dropped, by reason.
    pub dropped: BTreeMap<Reason, u64>,
    /// Documents dropped because of one that another source, or this one, had before.
    pub first_in: BTreeMap<String, Repeated>,
    /// De-identification marks replaced, in documents that were dropped later too.
    pub marks_replaced: u64,
}

/// Documents of one source that were dropped because an earlier one had them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repeated {
    pub duplicate: u64,
    pub near_duplicate: u64,
}

impl CleaningReport {
    /// The report of a corpus; none where it has none that can be read.
    pub fn find(root: &Path) -> Option<Self> {
        let bytes = fs::read(root.join(REPORT_FILE)).ok()?;
        serde_json::from_slice(&bytes).ok()
    }

    pub fn write(&self, root: &Path) -> Result<()> {
        write_json(root, REPORT_FILE, self)?;
        Ok(())
    }
}
