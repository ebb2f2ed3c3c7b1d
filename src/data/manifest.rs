//! Reading a corpus manifest, or saying why it cannot be read.

use anyhow::{Context, Result, ensure};

use crate::corpus::{MANIFEST_FILE, MANIFEST_VERSION, Manifest};
use crate::data::PREPARE_AGAIN;
use crate::data::files::Files;

pub(super) fn read(files: &Files) -> Result<Manifest> {
    let name = files.name_of(MANIFEST_FILE);
    let text = files.read(MANIFEST_FILE).with_context(|| {
        let first = match files {
            Files::Folder(_) => "run cohort prepare first",
            Files::Remote(_) => "upload the folder that cohort prepare wrote",
        };
        format!("cannot read the corpus manifest {name}\n  hint: {first}")
    })?;
    let value: serde_json::Value = serde_json::from_slice(&text)
        .with_context(|| format!("the corpus manifest {name} is not JSON{PREPARE_AGAIN}"))?;
    // The version first: the fields of another version are another version's business.
    let version = value.get("version").and_then(serde_json::Value::as_u64);
    ensure!(
        version == Some(u64::from(MANIFEST_VERSION)),
        "the corpus manifest {name} has version {}, this Cohort reads version \
         {MANIFEST_VERSION}{PREPARE_AGAIN}",
        version.map_or_else(|| "none".to_owned(), |version| version.to_string())
    );
    let manifest: Manifest = serde_json::from_value(value)
        .with_context(|| format!("the corpus manifest {name} is incomplete{PREPARE_AGAIN}"))?;
    ensure!(
        u16::try_from(manifest.max_length).is_ok(),
        "the corpus manifest {name} has max_length {}, at most {} can be read\n  \
         hint: prepare the corpus with shorter chunks",
        manifest.max_length,
        u16::MAX
    );
    Ok(manifest)
}
