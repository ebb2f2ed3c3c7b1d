//! From the paths and patterns of a configuration to the files they mean, in sorted order.
//!
//! Looks at names and sizes, never into a file. Runs before anything is written, so that a
//! misspelled path costs no half-prepared corpus.
//!
//! Patterns: `*` and `?` match within one path component, `**` any number of folders. A name that
//! begins with a dot is matched only by a component that does too.

use std::fs;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use anyhow::{Context, Result, bail};
use serde::Serialize;
use thiserror::Error;

use crate::prepare::objects::{ObjectInput, Objects, is_object};
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

    /// Which path leads nowhere.
    pub fn what(&self) -> &str {
        &self.what
    }
}

const FOLDER_HINT: &str = "relative paths start at the folder of the configuration";

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

/// Whether a path is a pattern.
pub fn is_pattern(path: &Path) -> bool {
    path.as_os_str()
        .as_encoded_bytes()
        .iter()
        .any(|byte| matches!(byte, b'*' | b'?'))
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

/// Whether a path inside an archive matches a pattern; empty components and `.` do not count.
/// Greedy with one point of return, like [`matches`]: what an earlier `**` could take instead, the
/// last one can take too.
pub fn path_matches(pattern: &str, path: &str) -> bool {
    fn components(path: &str) -> Vec<&str> {
        let parts = path.split('/');
        parts.filter(|part| !matches!(*part, "" | ".")).collect()
    }
    let (pattern, path) = (components(pattern), components(path));
    let (mut at_pattern, mut at_path) = (0, 0);
    let mut stars: Option<(usize, usize)> = None;
    loop {
        match (pattern.get(at_pattern), path.get(at_path)) {
            (None, None) => return true,
            (Some(&"**"), _) => {
                at_pattern += 1;
                stars = Some((at_pattern, at_path));
            }
            (Some(component), Some(name)) if component_matches(component, name) => {
                at_pattern += 1;
                at_path += 1;
            }
            _ => {
                let Some((after, taken)) = stars else {
                    return false;
                };
                if path.get(taken).is_none_or(|name| name.starts_with('.')) {
                    return false;
                }
                stars = Some((after, taken + 1));
                at_pattern = after;
                at_path = taken + 1;
            }
        }
    }
}

fn component_matches(pattern: &str, name: &str) -> bool {
    let hidden = name.starts_with('.') && !pattern.starts_with('.');
    !hidden && name_matches(pattern, name)
}

/// Whether `name` matches a pattern of `*` and `?`, dots like other characters.
pub fn name_matches(pattern: &str, name: &str) -> bool {
    matches(pattern.as_bytes(), name.as_bytes())
}

/// Whether `name` matches a pattern of `*` (any run) and `?` (one character, by its bytes).
/// Greedy with one point of return: linear in practice, quadratic at worst.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut at_pattern, mut at_name) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while at_name < name.len() {
        match pattern.get(at_pattern) {
            Some(b'*') => {
                star = Some((at_pattern, at_name));
                at_pattern += 1;
            }
            Some(b'?') => {
                at_pattern += 1;
                at_name += character_bytes(name[at_name]);
            }
            Some(byte) if *byte == name[at_name] => {
                at_pattern += 1;
                at_name += 1;
            }
            _ => {
                let Some((star_pattern, star_name)) = star else {
                    return false;
                };
                star = Some((star_pattern, star_name + 1));
                at_pattern = star_pattern + 1;
                at_name = star_name + 1;
            }
        }
    }
    pattern[at_pattern..].iter().all(|byte| *byte == b'*')
}

fn character_bytes(first: u8) -> usize {
    match first.leading_ones() {
        0 | 1 => 1,
        ones => ones as usize,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn patterns_match_like_a_shell() {
        for (pattern, name, expected) in [
            ("*.txt", "a.txt", true),
            ("*.txt", "a.txt.gz", false),
            ("*a*b", "xxaxxab", true),
            ("*a*b", "xxbxxa", false),
            ("day?", "day1", true),
            ("day?", "dayé", true),
            ("day?", "day", false),
            ("*", "", true),
            ("a**", "a", true),
        ] {
            assert_eq!(
                matches(pattern.as_bytes(), name.as_bytes()),
                expected,
                "{pattern} {name}"
            );
        }
    }

    #[test]
    fn patterns_match_paths_in_archives() {
        for (pattern, path, expected) in [
            ("*.txt", "a.txt", true),
            ("*.txt", "./a.txt", true),
            ("*.txt", "b/a.txt", false),
            ("**/*.txt", "a.txt", true),
            ("**/*.txt", "c/b/a.txt", true),
            ("**/*.txt", "c/.b/a.txt", false),
            ("**/*.txt", "c/._a.txt", false),
            ("c/**/b/*", "c/b/x/b/y", true),
            ("c/**/b/*", "c/b/x/y", false),
            ("c/**", "c/b/a.txt", true),
        ] {
            assert_eq!(path_matches(pattern, path), expected, "{pattern} {path}");
        }
    }

    /// What a pattern means, at the price of exponential time.
    fn means(pattern: &[&str], path: &[&str]) -> bool {
        match (pattern, path) {
            ([], []) => true,
            (["**", after @ ..], _) => {
                let longer = path.split_first();
                means(after, path)
                    || longer
                        .is_some_and(|(name, rest)| !name.starts_with('.') && means(pattern, rest))
            }
            ([component, after @ ..], [name, rest @ ..]) => {
                component_matches(component, name) && means(after, rest)
            }
            _ => false,
        }
    }

    fn components(names: &'static [&'static str]) -> impl Strategy<Value = Vec<&'static str>> {
        prop::collection::vec(prop::sample::select(names), 0..8)
    }

    proptest! {
        #[test]
        fn paths_match_as_patterns_mean(
            pattern in components(&["**", "*", "a", ".a", ".*"]),
            path in components(&["a", "b", ".a"]),
        ) {
            let found = path_matches(&pattern.join("/"), &path.join("/"));
            prop_assert_eq!(found, means(&pattern, &path));
        }
    }

    #[test]
    fn a_path_without_end_exhausts_no_stack() {
        let path = "a/".repeat(1_000_000);
        assert!(path_matches("**/a", &path));
        assert!(!path_matches("**/b", &path));
    }

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
