//! From a pattern to the files on disk that match it.
//!
//! Whatever may match and cannot be read is an error: a corpus must not lack a file without a
//! word. `*` and names follow links; `**` follows none, as they may lead in circles or to files
//! that are found under another name already.

use std::ffi::OsString;
use std::fs;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::prepare::inputs::look;
use crate::prepare::pattern::component_matches;

/// The files that match, sorted by path.
///
/// # Errors
/// Where it may match: a link to nothing, a folder that cannot be listed, a file whose name is not
/// UTF-8, and below `**` a link to a folder.
pub fn find(pattern: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let components: Vec<Component<'_>> = pattern.components().collect();
    walk(PathBuf::new(), &components, &mut found)?;
    found.sort();
    found.dedup();
    Ok(found)
}

/// Adds every file that matches `rest` below `base`.
fn walk(base: PathBuf, rest: &[Component<'_>], found: &mut Vec<PathBuf>) -> Result<()> {
    let Some((component, after)) = rest.split_first() else {
        return add(base, found);
    };
    let text = component.as_os_str().to_string_lossy();
    if text == "**" {
        walk(base.clone(), after, found)?;
        for name in names(&base)? {
            if !name.to_string_lossy().starts_with('.') {
                descend(base.join(name), rest, found)?;
            }
        }
        return Ok(());
    }
    if !text.contains(['*', '?']) {
        return walk(base.join(component), after, found);
    }
    for name in names(&base)? {
        // What is not UTF-8 stands for characters of some kind.
        if component_matches(&text, &name.to_string_lossy()) {
            walk(base.join(name), after, found)?;
        }
    }
    Ok(())
}

/// Goes on with `rest`, which begins with `**`, at what stands in a folder.
fn descend(path: PathBuf, rest: &[Component<'_>], found: &mut Vec<PathBuf>) -> Result<()> {
    let is_folder = look(&path)?.is_some_and(|metadata| metadata.is_dir());
    if is_folder && path.is_symlink() {
        bail!(
            "{} is a link to a folder, which `**` does not follow\n  hint: write the levels with \
             `*`, which does, or take the link away",
            path.display()
        );
    }
    // At its end a pattern means the files at every level.
    if is_folder || rest.len() == 1 {
        walk(path, rest, found)?;
    }
    Ok(())
}

fn add(path: PathBuf, found: &mut Vec<PathBuf>) -> Result<()> {
    if !look(&path)?.is_some_and(|metadata| metadata.is_file()) {
        return Ok(());
    }
    if path.to_str().is_none() {
        bail!(
            "{}: the name is not UTF-8\n  hint: rename the file or its folder",
            path.display()
        );
    }
    found.push(path);
    Ok(())
}

/// The sorted names in a folder; none where `folder` is no folder.
fn names(folder: &Path) -> Result<Vec<OsString>> {
    let folder = if folder.as_os_str().is_empty() {
        Path::new(".")
    } else {
        folder
    };
    if !look(folder)?.is_some_and(|metadata| metadata.is_dir()) {
        return Ok(Vec::new());
    }
    let context = || format!("cannot list the folder {}", folder.display());
    let entries = fs::read_dir(folder).with_context(context)?;
    let names = entries.map(|entry| Ok(entry.with_context(context)?.file_name()));
    let mut names = names.collect::<Result<Vec<OsString>>>()?;
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::symlink;

    use tempfile::TempDir;

    use super::*;

    fn folder(names: &[&str]) -> TempDir {
        let folder = tempfile::tempdir().unwrap();
        for name in names {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "x").unwrap();
        }
        folder
    }

    /// What a pattern finds, or why it does not.
    fn found(folder: &TempDir, pattern: &str) -> Result<Vec<String>, String> {
        let start = folder.path();
        match find(&start.join(pattern)) {
            Err(error) => Err(format!("{error:#}").replace(&start.display().to_string(), "DIR")),
            Ok(files) => {
                let names = files.iter().map(|file| file.strip_prefix(start).unwrap());
                Ok(names.map(|name| name.display().to_string()).collect())
            }
        }
    }

    #[test]
    fn files_are_sorted_and_hidden_ones_passed_over() {
        let folder = folder(&[
            "b/2.txt",
            "a/x/1.txt",
            "b/1.txt",
            "b/.hidden.txt",
            "b/1.md",
            ".c/1.txt",
        ]);
        for (pattern, expected) in [
            ("b/*.txt", &["b/1.txt", "b/2.txt"][..]),
            ("*/?.txt", &["b/1.txt", "b/2.txt"]),
            ("**/*.txt", &["a/x/1.txt", "b/1.txt", "b/2.txt"]),
            ("**", &["a/x/1.txt", "b/1.md", "b/1.txt", "b/2.txt"]),
            ("a/**", &["a/x/1.txt"]),
            ("a/**/**", &["a/x/1.txt"]),
            ("**/b/*.md", &["b/1.md"]),
            ("c/*.txt", &[]),
            ("b/1.txt/*", &[]),
            ("b/1.txt/**", &["b/1.txt"]),
        ] {
            assert_eq!(found(&folder, pattern).unwrap(), expected, "{pattern}");
        }
    }

    #[test]
    fn names_that_are_not_utf8_are_refused_where_they_match() {
        let folder = folder(&["a.txt"]);
        let name = OsStr::from_bytes(b"caf\xe9.txt");
        fs::write(folder.path().join(name), "x").unwrap();
        let refused = Err(
            "DIR/caf\u{fffd}.txt: the name is not UTF-8\n  hint: rename the file or \
                           its folder"
                .to_owned(),
        );
        for pattern in ["*.txt", "caf?.txt", "**", "**/*.txt"] {
            assert_eq!(found(&folder, pattern), refused, "{pattern}");
        }
        assert_eq!(found(&folder, "a*.txt").unwrap(), ["a.txt"]);
    }

    #[test]
    fn links_are_followed_or_refused() {
        let folder = folder(&["a/1.txt"]);
        let place = |name: &str| folder.path().join(name);
        symlink(place("a/1.txt"), place("b.txt")).unwrap();
        assert_eq!(found(&folder, "**/*.txt").unwrap(), ["a/1.txt", "b.txt"]);
        symlink(place("a"), place("c")).unwrap();
        assert_eq!(found(&folder, "*/*.txt").unwrap(), ["a/1.txt", "c/1.txt"]);
        assert_eq!(found(&folder, "c/**").unwrap(), ["c/1.txt"]);
        let refused = found(&folder, "**/*.txt").unwrap_err();
        assert!(
            refused.starts_with("DIR/c is a link to a folder"),
            "{refused}"
        );
        fs::remove_file(place("c")).unwrap();

        symlink(place("gone"), place("d.txt")).unwrap();
        for pattern in ["*.txt", "**", "**/*.md", "d.txt/*", "?.txt/*"] {
            let refused = found(&folder, pattern).unwrap_err();
            assert!(
                refused.starts_with("DIR/d.txt is a link to nothing"),
                "{refused}"
            );
        }
        assert_eq!(found(&folder, "b*").unwrap(), ["b.txt"]);
        symlink(place("e"), place("e")).unwrap();
        let refused = found(&folder, "e*").unwrap_err();
        assert!(refused.starts_with("cannot look at DIR/e: "), "{refused}");
    }
}
