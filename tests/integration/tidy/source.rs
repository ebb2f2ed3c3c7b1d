//! Rust files as the tidy test sees them: whole, without comments and texts, and without tests.

use std::fs;
use std::path::{Path, PathBuf};

use super::root;

pub struct Source {
    /// From the repository's root, such as `src/store/mod.rs`.
    pub name: String,
    pub text: String,
    /// The text with comments, strings and characters blanked out, line by line.
    pub code: String,
    /// The code without what is compiled for tests alone.
    pub shipped: String,
}

impl Source {
    /// Nothing where the file is not text.
    pub fn read(path: &Path) -> Option<Self> {
        let text = String::from_utf8(fs::read(path).unwrap()).ok()?;
        let name = path.strip_prefix(root()).unwrap().display().to_string();
        Some(Self::of(&name, &text))
    }

    /// A file of this name and text.
    pub fn of(name: &str, text: &str) -> Self {
        let code = blank(text);
        let is_test =
            name.starts_with("src/") && (name.ends_with("tests.rs") || name.contains("/tests/"));
        let shipped = if is_test { "" } else { before_tests(&code) };
        Self {
            shipped: shipped.to_owned(),
            name: name.to_owned(),
            text: text.to_owned(),
            code,
        }
    }

    /// The module of the crate that the file belongs to.
    pub fn module(&self) -> &str {
        first_word(self.name.strip_prefix("src/").unwrap_or(&self.name))
    }
}

/// The Rust files below a folder of the repository.
pub fn sources(folder: &str) -> Vec<Source> {
    let paths = files(&root().join(folder));
    let rust = paths.iter().filter(|path| is_rust(path));
    let found: Vec<Source> = rust.filter_map(|path| Source::read(path)).collect();
    assert!(!found.is_empty(), "no Rust in {folder}");
    found
}

/// Every file below a folder, sorted; none where there is no such folder.
pub fn files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found.sort();
    found
}

pub fn is_rust(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "rs")
}

pub fn first_word(text: &str) -> &str {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    text.split(|c: char| !is_word(c)).next().unwrap_or("")
}

/// Whether a line of a file stands in a text that goes over several lines, as snapshots do.
pub fn is_quoted(source: &Source, line: &str) -> bool {
    let place = source.text.lines().position(|other| other == line);
    place.is_some_and(|place| {
        source
            .code
            .lines()
            .nth(place)
            .is_some_and(|code| code.trim().is_empty())
    }) && !line.trim_start().starts_with("//")
}

fn before_tests(code: &str) -> &str {
    match code.find("\n#[cfg(test)]\nmod tests {") {
        Some(end) => &code[..=end],
        None => code,
    }
}

/// Blanks comments, strings and character literals, and keeps every line end.
fn blank(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = quoted_length(rest, code.chars().next_back());
        if length == 0 {
            code.push(first);
            rest = &rest[first.len_utf8()..];
            continue;
        }
        let (quoted, after) = rest.split_at(length);
        code.extend(quoted.chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
        rest = after;
    }
    code
}

/// Bytes of the comment, string or character that `text` begins with, else 0.
fn quoted_length(text: &str, before: Option<char>) -> usize {
    let end = |found: Option<usize>, length: usize| found.map_or(text.len(), |at| at + length);
    if text.starts_with("//") {
        return end(text.find('\n'), 0);
    }
    if text.starts_with("/*") {
        return end(text.find("*/"), 2);
    }
    let in_word = before.is_some_and(|c| c.is_alphanumeric() || c == '_');
    let raw = text.strip_prefix("br").or_else(|| text.strip_prefix('r'));
    if let (Some(raw), false) = (raw, in_word) {
        let hashes = raw.len() - raw.trim_start_matches('#').len();
        if raw[hashes..].starts_with('"') {
            let start = text.len() - raw.len() + hashes + 1;
            let close = format!("\"{}", "#".repeat(hashes));
            return end(text[start..].find(&close), start + close.len());
        }
    }
    if text.starts_with('"') {
        return closing(text, '"');
    }
    // A lifetime has no closing quote after its first letter.
    let mut characters = text.chars();
    match (characters.next(), characters.next(), characters.next()) {
        (Some('\''), Some('\\'), _) => closing(text, '\''),
        (Some('\''), Some(letter), Some('\'')) => 2 + letter.len_utf8(),
        _ => 0,
    }
}

/// Bytes up to and with the quote that closes the one `text` begins with.
fn closing(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, character) in text.char_indices().skip(1) {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if character == quote => return at + 1,
            _ => {}
        }
    }
    text.len()
}

#[test]
fn texts_and_comments_are_blanked() {
    let rust = concat!(
        "let a = \"crate::x \\\" y\"; // crate::y\n",
        "let b: &'a str = r#\"a \" b\"#; 'x' '\\n' br\"c\" d"
    );
    let blanked = blank(rust);
    assert_eq!(blanked.len(), rust.len());
    let words: Vec<&str> = blanked.split_whitespace().collect();
    assert_eq!(
        words,
        [
            "let", "a", "=", ";", "let", "b:", "&'a", "str", "=", ";", "d"
        ]
    );
}

#[test]
fn tests_are_left_out() {
    let code = "fn a() {}\n#[cfg(test)]\nmod tests {\n    fn b() {}\n}\n";
    assert_eq!(before_tests(code), "fn a() {}\n");
}
