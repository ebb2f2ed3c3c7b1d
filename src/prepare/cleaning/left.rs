//! What a source that has ended leaves in the working folder for a later process.
//!
//! The files of a source carry its number alone, and another configuration may have given that
//! number to another source. Hence a record beside them, with the fingerprint of the source and all
//! files that it needs.
//!
//! Invariants: a record is written after the files that it names, and removed before any of them
//! changes. It counts only for the source of its fingerprint, and only where every file has its
//! size; otherwise that source has to begin anew.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::prepare::cleaning::report::SourceReport;
use crate::prepare::files;

/// The record of one source, `report-<source>.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Left {
    /// Of what the source is made from.
    pub fingerprint: String,
    pub files: Vec<LeftFile>,
    pub report: SourceReport,
}

/// A file in the working folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftFile {
    pub name: String,
    pub bytes: u64,
}

impl Left {
    /// The record of source number `source`, if it is the one of this fingerprint and all that it
    /// left is there.
    pub fn find(folder: &Path, source: u32, fingerprint: &str) -> Option<Self> {
        let left: Self = files::read_json(&folder.join(name(source))).ok()?;
        let is_there = |file: &LeftFile| {
            fs::metadata(folder.join(&file.name)).is_ok_and(|found| found.len() == file.bytes)
        };
        (left.fingerprint == fingerprint && left.files.iter().all(is_there)).then_some(left)
    }

    pub fn write(&self, folder: &Path, source: u32) -> Result<()> {
        files::write_json(folder, &name(source), self)?;
        Ok(())
    }

    /// Removes the record of a source before its files change, also where the power is cut.
    pub fn remove(folder: &Path, source: u32) -> Result<()> {
        files::remove(&folder.join(name(source)))?;
        files::sync_folder(folder)
    }
}

/// The files of all sources that have left a record, with the sources' numbers, in order.
pub fn files_of(left: &[Option<Left>], folder: &Path) -> Vec<(u32, PathBuf)> {
    let mut found = Vec::new();
    for (source, left) in (0..).zip(left) {
        let files = left.iter().flat_map(|left| &left.files);
        found.extend(files.map(|file| (source, folder.join(&file.name))));
    }
    found
}

fn name(source: u32) -> String {
    format!("report-{source:05}.json")
}
