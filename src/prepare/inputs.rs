//! From the paths and patterns of a configuration to the files they mean, in sorted order.
//!
//! Looks at names and sizes, never into a file. Runs before anything is written, so that a
//! misspelled path costs no half-prepared corpus. What a pattern means stands in
//! [`crate::prepare::pattern`].

use std::fs;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use anyhow::{Context, Error, Result, anyhow, bail};
use serde::Serialize;
use thiserror::Error;

use crate::prepare::objects::{ObjectInput, Objects, is_object};
use crate::prepare::pattern::{component_matches, is_pattern};
use crate::store::backend::Credentials;
use crate::store::settings::ReadSettings;

/// Nothing lies where a path or a pattern points.
#[derive(Debug, Error)]
#[error("{what}\n  hint: {hint}")]
pub struct NothingThere {
    what: String,
    hint: &'static str,
}

impl NothingThere {
    /// Of a path or an address, named in words.
    pub fn new(what: String, hint: &'static str) -> Self {
        Self { what, hint }
    }

    /// The error of a source that is there in part, which is damaged and not absent.
    pub fn in_part(error: Error) -> Error {
        match error.downcast::<Self>() {
            Ok(nothing) => anyhow!("{nothing}"),
            Err(error) => error,
        }
    }

    /// Which path leads nowhere.
    pub fn what(&self) -> &str {
        &self.what
    }
}

/// What to know of a path that leads nowhere.
pub const FOLDER_HINT: &str = "relative paths start at the folder of the configuration";

/// A file to read, as it was found.
#[derive(Clone, Debug, Serialize)]
pub struct InputFile {
    /// An object's address is its path.
    pub path: PathBuf,
    pub bytes: u64,
    /// Last change, in nanoseconds since 1970; part of the corpus's fingerprint.
    pub modified_ns: u64,
    /// The same of an object: its version in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// How to read it, where it is an object.
    #[serde(skip)]
    pub object: Option<Arc<ObjectInput>>,
}

/// Where the paths of a configuration lead.
#[derive(Debug)]
pub struct Places<'a> {
    /// Where relative paths start.
    pub folder: &'a Path,
    /// Where addresses lead.
    pub objects: Objects,
}

impl<'a> Places<'a> {
    pub fn new(folder: &'a Path, store: &ReadSettings) -> Self {
        Self {
            folder,
            objects: Objects::new(store, Credentials::Environment),
        }
    }

    /// A path or a pattern of the configuration as it is to be opened.
    pub fn resolve(&self, path: &Path) -> PathBuf {
        if is_object(path) {
            path.to_owned()
        } else {
            self.folder.join(path)
        }
    }

    /// The files or objects that a resolved path or pattern names.
    pub fn expand(&self, path: &Path) -> Result<Vec<InputFile>> {
        if is_object(path) {
            self.objects.expand(path)
        } else {
            expand(path)
        }
    }
}

impl InputFile {
    /// # Errors
    /// The file has gone, or has another size or time than when it was found.
    pub fn expect_unchanged(&self) -> Result<()> {
        if self.object.is_some() {
            // Each of its parts came with the version that was found.
            return Ok(());
        }
        let path = self.path.display();
        let what = match literal(&self.path) {
            Err(_) => format!("{path} is gone since the preparation began"),
            Ok(now) if now.bytes != self.bytes => format!(
                "{path} has changed since the preparation began: {} bytes, not {}",
                now.bytes, self.bytes
            ),
            Ok(now) if now.modified_ns != self.modified_ns => {
                format!("{path} was written to since the preparation began")
            }
            Ok(_) => return Ok(()),
        };
        bail!("{what}\n  hint: run again when nothing writes to the source any more")
    }
}

/// The files that a path or a pattern names, sorted by path; at least one.
///
/// # Errors
/// [`NothingThere`], a folder instead of files, or a folder that cannot be listed.
pub fn expand(pattern: &Path) -> Result<Vec<InputFile>> {
    if !is_pattern(pattern) {
        return Ok(vec![literal(pattern)?]);
    }
    let mut found = Vec::new();
    let components: Vec<Component<'_>> = pattern.components().collect();
    walk(PathBuf::new(), &components, &mut found)?;
    found.sort();
    found.dedup();
    if found.is_empty() {
        bail!(NothingThere::new(
            format!("no file matches {}", pattern.display()),
            FOLDER_HINT
        ));
    }
    found.iter().map(|path| literal(path)).collect()
}

/// The file at exactly this path.
pub fn literal(path: &Path) -> Result<InputFile> {
    let Ok(metadata) = fs::metadata(path) else {
        bail!(NothingThere::new(
            format!("no file at {}", path.display()),
            FOLDER_HINT
        ));
    };
    if metadata.is_dir() {
        bail!(
            "{} is a folder, not a file\n  hint: name its files with a pattern such as {}",
            path.display(),
            path.join("*.txt").display()
        );
    }
    let modified_ns = metadata
        .modified()
        .ok()
        .and_then(|time| time.duration_since(UNIX_EPOCH).ok())
        .map_or(0, |age| age.as_nanos() as u64);
    Ok(InputFile {
        path: path.to_owned(),
        bytes: metadata.len(),
        modified_ns,
        version: None,
        object: None,
    })
}

/// Adds every file that matches `rest` below `base`.
fn walk(base: PathBuf, rest: &[Component<'_>], found: &mut Vec<PathBuf>) -> Result<()> {
    let Some((component, after)) = rest.split_first() else {
        if base.is_file() {
            found.push(base);
        }
        return Ok(());
    };
    let text = component.as_os_str().to_string_lossy();
    if text == "**" {
        walk(base.clone(), after, found)?;
        for name in names(&base)? {
            let path = base.join(&name);
            if !name.starts_with('.') && path.is_dir() && !path.is_symlink() {
                walk(path, rest, found)?;
            }
        }
        return Ok(());
    }
    if !text.contains(['*', '?']) {
        let next = base.join(component);
        return if next.exists() {
            walk(next, after, found)
        } else {
            Ok(())
        };
    }
    for name in names(&base)? {
        if component_matches(&text, &name) {
            walk(base.join(&name), after, found)?;
        }
    }
    Ok(())
}

/// The sorted names in a folder; none where `folder` is no folder. Names that are not UTF-8 cannot
/// be matched by a pattern and are left out.
fn names(folder: &Path) -> Result<Vec<String>> {
    let folder = if folder.as_os_str().is_empty() {
        Path::new(".")
    } else {
        folder
    };
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let context = || format!("cannot list the folder {}", folder.display());
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).with_context(context)? {
        if let Ok(name) = entry.with_context(context)?.file_name().into_string() {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expansion_is_sorted_and_skips_hidden_files() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["b/2.txt", "a/x/1.txt", "b/1.txt", "b/.hidden.txt", "b/1.md"] {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "x").unwrap();
        }
        let found = |pattern: &str| -> Vec<String> {
            expand(&folder.path().join(pattern))
                .unwrap()
                .iter()
                .map(|file| {
                    file.path
                        .strip_prefix(folder.path())
                        .unwrap()
                        .display()
                        .to_string()
                })
                .collect()
        };
        assert_eq!(found("b/*.txt"), ["b/1.txt", "b/2.txt"]);
        assert_eq!(found("*/?.txt"), ["b/1.txt", "b/2.txt"]);
        assert_eq!(found("**/*.txt"), ["a/x/1.txt", "b/1.txt", "b/2.txt"]);
        assert_eq!(found("b/1.txt"), ["b/1.txt"]);
        assert!(expand(&folder.path().join("c/*.txt")).is_err());
        assert!(expand(&folder.path().join("b")).is_err());
    }
}
