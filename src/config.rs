//! Reading YAML files. The only user of the YAML crate, so that a swap touches one file.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, anyhow};
use garde::Validate;
use serde::de::DeserializeOwned;

/// Reads and validates a YAML file. Errors name the file, line, column and field, and never quote
/// anything but the configuration itself.
pub fn load<T>(path: &Path) -> Result<T>
where
    T: DeserializeOwned + Validate<Context = ()>,
{
    let text = fs::read_to_string(path)
        .with_context(|| format!("cannot read the configuration {}", path.display()))?;
    parse(&text, &path.display().to_string())
}

/// Parses and validates YAML text; `origin` names it in errors.
pub fn parse<T>(text: &str, origin: &str) -> Result<T>
where
    T: DeserializeOwned + Validate<Context = ()>,
{
    serde_saphyr::from_str_valid(text).map_err(|error| anyhow!("{origin}: {error}"))
}
