//! Patterns of paths: `*` and `?` match within one component, `**` any number of folders. A name
//! that begins with a dot is matched only by a component that does too.
//!
//! Pure. No recursion: names in archives are other people's.

use std::path::Path;

/// Whether a path is a pattern.
pub fn is_pattern(path: &Path) -> bool {
    path.as_os_str()
        .as_encoded_bytes()
        .iter()
        .any(|byte| matches!(byte, b'*' | b'?'))
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

/// Whether a file's or folder's name matches a component of a pattern.
pub fn component_matches(pattern: &str, name: &str) -> bool {
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
}
