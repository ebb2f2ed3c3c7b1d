//! From the paths and patterns of a configuration to the files they mean, in sorted order.
//!
//! Looks at names and sizes, never into a file. Runs before anything is written, so that a
//! misspelled path costs no half-prepared corpus. What a pattern means stands in
//! [`crate::prepare::pattern`].

use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use anyhow::{Error, Result, anyhow, bail};
use serde::Serialize;
use thiserror::Error;

use crate::prepare::objects::{ObjectInput, Objects, is_object};
use crate::prepare::pattern::is_pattern;
use crate::prepare::walk;
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

const MISSING_HINT: &str = "copy what is missing to where the other files are";

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

/// A folder whose files are found by their paths.
pub enum Folder {
    Disk,
    /// The files that were found.
    Listed(BTreeMap<PathBuf, InputFile>),
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

    /// For files at or below a resolved path; one listing where that is an address.
    pub fn folder(&self, path: &Path) -> Result<Folder> {
        Ok(if is_object(path) {
            Folder::Listed(self.objects.below(path)?)
        } else {
            Folder::Disk
        })
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

impl Folder {
    /// The file or object at a path of this folder.
    ///
    /// # Errors
    /// [`NothingThere`]; a folder instead of a file, and what the system does not show.
    pub fn file(&self, path: &Path) -> Result<InputFile> {
        match self {
            Self::Disk => literal(path),
            Self::Listed(files) => files.get(path).cloned().ok_or_else(|| {
                let what = format!("no object at {}", path.display());
                Error::new(NothingThere::new(what, MISSING_HINT))
            }),
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
/// [`NothingThere`], a folder instead of files, and what may match but cannot be read: see
/// [`walk::find`].
pub fn expand(pattern: &Path) -> Result<Vec<InputFile>> {
    if !is_pattern(pattern) {
        return Ok(vec![literal(pattern)?]);
    }
    let found = walk::find(pattern)?;
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
    let Some(metadata) = look(path)? else {
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

/// What lies at a path; none where nothing does.
///
/// # Errors
/// A link to nothing, and what the system does not show.
pub fn look(path: &Path) -> Result<Option<Metadata>> {
    match fs::metadata(path) {
        Ok(metadata) => Ok(Some(metadata)),
        Err(error) if !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            Err(anyhow!("cannot look at {}: {error}", path.display()))
        }
        Err(_) if path.is_symlink() => Err(anyhow!(
            "{} is a link to nothing\n  hint: mend the link, or take it away",
            path.display()
        )),
        Err(_) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_path_is_a_file_or_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let place = |name: &str| folder.path().join(name);
        fs::write(place("a.txt"), "x").unwrap();
        symlink(place("gone"), place("b.txt")).unwrap();
        assert_eq!(expand(&place("a.txt")).unwrap()[0].bytes, 1);
        for (path, is_absent) in [
            ("c.txt", true),
            ("a.txt/c", true),
            ("*.md", true),
            ("", false),
            ("b.txt", false),
            ("b*", false),
        ] {
            let error = expand(&place(path)).unwrap_err();
            assert_eq!(error.is::<NothingThere>(), is_absent, "{path}: {error}");
        }
    }
}
