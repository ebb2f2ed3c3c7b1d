//! Reading a corpus manifest, or saying why it cannot be read.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::corpus::{MANIFEST_VERSION, Manifest};
use crate::data::PREPARE_AGAIN;

pub(super) fn read(path: &Path) -> Result<Manifest> {
    let text = fs::read(path).with_context(|| {
        format!(
            "cannot read the corpus manifest {}\n  hint: run cohort prepare first",
            path.display()
        )
    })?;
    let value: serde_json::Value = serde_json::from_slice(&text).with_context(|| {
        format!(
            "the corpus manifest {} is not JSON{PREPARE_AGAIN}",
            path.display()
        )
    })?;
    // The version first: the fields of another version are another version's business.
    let version = value.get("version").and_then(serde_json::Value::as_u64);
    ensure!(
        version == Some(u64::from(MANIFEST_VERSION)),
        "the corpus manifest {} has version {}, this Cohort reads version \
         {MANIFEST_VERSION}{PREPARE_AGAIN}",
        path.display(),
        version.map_or_else(|| "none".to_owned(), |version| version.to_string())
    );
    let manifest: Manifest = serde_json::from_value(value).with_context(|| {
        format!(
            "the corpus manifest {} is incomplete{PREPARE_AGAIN}",
            path.display()
        )
    })?;
    ensure!(
        u16::try_from(manifest.max_length).is_ok(),
        "the corpus manifest {} has max_length {}, at most {} can be read\n  \
         hint: prepare the corpus with shorter chunks",
        path.display(),
        manifest.max_length,
        u16::MAX
    );
    Ok(manifest)
}
