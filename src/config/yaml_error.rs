//! What is wrong with a YAML file, as its author reads it: `file:line:column: field: problem`, and
//! the line itself with a mark. All broken rules of a file are shown at once.

use std::fmt::Write;

use serde_saphyr::path_map::{PathKey, PathKind};
use serde_saphyr::{Error, Location, Locations, MessageFormatter, UserMessageFormatter};

/// Characters of a line that are shown, at most.
const EXCERPT_MAX: usize = 100;

struct Problem {
    at: Option<Location>,
    what: String,
}

/// Puts an error of reading `text` into words; `origin` names the text.
pub(super) fn describe(error: &Error, text: &str, origin: &str) -> String {
    let mut problems = Vec::new();
    collect(error, &mut problems);
    problems.sort_by_key(|problem| problem.at.map_or((0, 0), |at| (at.line(), at.column())));
    let shown: Vec<String> = problems
        .iter()
        .map(|problem| show(problem, text, origin))
        .collect();
    match shown.as_slice() {
        [only] => only.clone(),
        _ => format!(
            "{origin} has {} problems\n{}",
            shown.len(),
            shown.join("\n")
        ),
    }
}

fn collect(error: &Error, problems: &mut Vec<Problem>) {
    match error.without_snippet() {
        Error::ValidationErrors { errors, .. } => {
            for error in errors {
                collect(error, problems);
            }
        }
        Error::ValidationError {
            issues, locations, ..
        } => {
            for issue in issues {
                let at = locations
                    .locations_for(&issue.path)
                    .and_then(Locations::primary_location);
                let rule = issue.message.as_deref().unwrap_or(&issue.code);
                problems.push(Problem {
                    at,
                    what: format!("{}: {}", field(&issue.path), rule_in_words(rule)),
                });
            }
        }
        other => problems.push(Problem {
            at: other.location(),
            what: in_words(other),
        }),
    }
}

/// A field's place in the file, such as `phases[0].mask_rate`.
fn field(path: &PathKey) -> String {
    let mut name = String::new();
    for (kind, segment) in path.segments() {
        match kind {
            PathKind::Index => name.extend(["[", segment, "]"]),
            PathKind::Key if name.is_empty() => name.push_str(segment),
            PathKind::Key => name.extend([".", segment]),
        }
    }
    name
}

/// The range rules' own words say what is wrong; these say what is right.
fn rule_in_words(rule: &str) -> String {
    for (prefix, words) in [
        ("lower than ", "must be at least "),
        ("greater than ", "must be at most "),
        ("length is lower than ", "its length must be at least "),
        ("length is greater than ", "its length must be at most "),
    ] {
        if let Some(limit) = rule.strip_prefix(prefix) {
            return format!("{words}{limit}");
        }
    }
    rule.to_owned()
}

/// The parser's errors speak to the program's author where these speak to the file's.
fn in_words(error: &Error) -> String {
    match error {
        Error::SerdeMissingField { field, .. } => {
            format!("`{field}` is missing from the fields that end here")
        }
        Error::SerdeInvalidValue { expected, .. } if expected == "a duration" => {
            "expected a duration such as 90s or 30m".to_owned()
        }
        Error::Message { msg, .. } if msg == "invalid socket address syntax" => {
            "expected an address such as 127.0.0.1:7077".to_owned()
        }
        Error::InvalidScalar { ty, .. } => match *ty {
            "u8" | "u16" | "u32" | "u64" | "usize" => {
                "expected a whole number, 0 or more".to_owned()
            }
            "i8" | "i16" | "i32" | "i64" | "isize" => "expected a whole number".to_owned(),
            "floating point" => "expected a number".to_owned(),
            other => format!("expected {other}"),
        },
        Error::Unexpected { expected, .. } => match *expected {
            "mapping start" => "expected fields, as in `name: value`".to_owned(),
            "sequence start" => "expected a list".to_owned(),
            "string scalar" => "expected a single value".to_owned(),
            other => format!("expected {other}"),
        },
        Error::DuplicateMappingKey { key: Some(key), .. } => format!("`{key}` stands here twice"),
        Error::NullIntoString { .. } => "expected text, found nothing".to_owned(),
        Error::Eof { .. } => "the file ends where fields are expected".to_owned(),
        other => UserMessageFormatter.format_message(other).into_owned(),
    }
}

fn show(problem: &Problem, text: &str, origin: &str) -> String {
    let (what, hint) = problem.what.split_once('\n').unwrap_or((&problem.what, ""));
    let mut hint = visible(hint);
    if !hint.is_empty() {
        hint.insert(0, '\n');
    }
    let what = visible(what);
    let Some(at) = problem.at else {
        return format!("{origin}: {what}{hint}");
    };
    let (line, column) = (at.line(), at.column());
    let mut shown = format!("{origin}:{line}:{column}: {what}");
    let number = usize::try_from(line).unwrap_or(usize::MAX);
    let column = usize::try_from(column).unwrap_or(usize::MAX);
    // Where the end of the file is the place, there is no line to show.
    if let Some(line) = number
        .checked_sub(1)
        .and_then(|index| text.lines().nth(index))
        && column <= EXCERPT_MAX
    {
        let excerpt: String = visible(line).chars().take(EXCERPT_MAX).collect();
        let margin = " ".repeat(number.to_string().len());
        let mark = " ".repeat(column.saturating_sub(1));
        write!(
            shown,
            "\n{margin} |\n{number} | {excerpt}\n{margin} | {mark}^"
        )
        .expect("writing to a string cannot fail");
    }
    shown + &hint
}

/// The text with every control character replaced, so that a file cannot drive the terminal.
fn visible(text: &str) -> String {
    text.chars()
        .map(|character| {
            if character.is_control() {
                char::REPLACEMENT_CHARACTER
            } else {
                character
            }
        })
        .collect()
}
