//! Praat's TextGrid files of transcribed speech: the turns of all speakers of one conversation, in
//! the order in which they begin, are one document of a line each.
//!
//! A speaker has a file, where the path says `{speaker}`, or else a tier of that name in the one
//! file. Empty intervals are silence and dropped. Marks of the transcribers in capital letters,
//! such as `<UNIN/>` for what could not be understood, are dropped as they are no speech; what
//! stands between two of them, such as `<UNSURE>` and `</UNSURE>`, stays. Long and short files read
//! alike: Praat itself looks only at free-standing numbers, texts in quotes and flags in angle
//! brackets, and takes everything else for comment (manual page "`TextGrid` file formats").

use std::path::Path;
use std::sync::Arc;

use anyhow::{Error, Result, anyhow};

use crate::prepare::config::readers::TextGridConfig;
use crate::prepare::readers::prose::Prose;
use crate::prepare::readers::{At, Content, Document, Documents, Place};
use crate::prepare::text::{Opening, TextFile};

pub mod files;
mod tokens;

use tokens::Tokens;

/// Something said, from `start` on, in seconds.
struct Turn {
    start: f64,
    /// Place among the configuration's speakers.
    speaker: usize,
    text: String,
}

/// Starts and texts of one tier.
type Intervals = Vec<(f64, String)>;

struct Tier {
    name: String,
    intervals: Intervals,
}

/// The conversations that `paths` hold, which are as [`files::find_files`] orders them.
pub fn read(paths: &[Arc<Path>], config: TextGridConfig, opening: Opening) -> Documents {
    let files = if config.has_file_each() {
        config.speakers.len()
    } else {
        1
    };
    let groups: Vec<Vec<Arc<Path>>> = paths.chunks(files).map(<[_]>::to_vec).collect();
    let conversations = groups.into_iter();
    Box::new(conversations.map(move |paths| conversation(&paths, &config, &opening)))
}

fn conversation(
    paths: &[Arc<Path>],
    config: &TextGridConfig,
    opening: &Opening,
) -> Result<Document> {
    let mut turns = Vec::new();
    let spoken = if config.has_file_each() {
        let own = |path: &Arc<Path>| only_tier(path, tiers(path, opening)?);
        paths.iter().map(own).collect::<Result<Vec<_>>>()?
    } else {
        let mut tiers = tiers(&paths[0], opening)?;
        let of_speaker = |name: &String| take_tier(&paths[0], name, &mut tiers);
        let speakers = config.speakers.keys();
        speakers.map(of_speaker).collect::<Result<Vec<_>>>()?
    };
    for (speaker, intervals) in spoken.into_iter().enumerate() {
        turns.extend(intervals.into_iter().map(|(start, text)| Turn {
            start,
            speaker,
            text,
        }));
    }
    turns.sort_by(|a, b| {
        let by_start = a.start.total_cmp(&b.start);
        by_start.then(a.speaker.cmp(&b.speaker))
    });
    let labels: Vec<&String> = config.speakers.values().collect();
    let mut prose = Prose::default();
    for turn in turns {
        let before = prose.mark();
        prose.push(labels[turn.speaker]);
        prose.push(" ");
        let labeled = prose.mark();
        prose.push(&without_marks(&turn.text));
        if prose.is_at(labeled) {
            prose.back_to(before);
        }
        prose.end_line();
    }
    let place = Place {
        file: Arc::clone(&paths[0]),
        at: At::File,
    };
    Ok(Document {
        content: Content::Text(prose.finish()),
        place,
    })
}

/// The tier of a speaker's own file; a second one is of something else, or of somebody else.
fn only_tier(path: &Path, tiers: Vec<Tier>) -> Result<Intervals> {
    if tiers.len() != 1 {
        return Err(anyhow!(
            "{}: {} tiers of intervals, where a speaker's own file has one\n  hint: leave the \
             others out of the file, or name tiers with `speakers` and no {{speaker}} in `path`",
            path.display(),
            tiers.len()
        ));
    }
    let intervals = tiers.into_iter().map(|tier| tier.intervals);
    Ok(intervals.flatten().collect())
}

/// The tier of the speaker `name` in the file of all.
fn take_tier(path: &Path, name: &str, tiers: &mut Vec<Tier>) -> Result<Intervals> {
    let mut found: Vec<Tier> = tiers.extract_if(.., |tier| tier.name == name).collect();
    let what = match (found.pop(), found.len()) {
        (Some(tier), 0) => return Ok(tier.intervals),
        (None, _) => format!("no tier {name:?}"),
        (Some(_), others) => format!("{} tiers {name:?}", others + 1),
    };
    Err(anyhow!(
        "{}: {what}\n  hint: without {{speaker}} in `path` each of `speakers` is one tier of the \
         file",
        path.display()
    ))
}

/// The interval tiers of one file.
fn tiers(path: &Arc<Path>, opening: &Opening) -> Result<Vec<Tier>> {
    let text = TextFile::open(Arc::clone(path), opening)?.read_whole()?;
    let mut tokens = Tokens::new(&text);
    let wrong = |tokens: &Tokens<'_>, what: &str| wrong(path, tokens, what);
    let kind = tokens.text().filter(|kind| kind.starts_with("ooTextFile"));
    let class = tokens.text().filter(|class| class == "TextGrid");
    if kind.is_none() || class.is_none() {
        return Err(wrong(&tokens, "no TextGrid"));
    }
    let bounds = (tokens.number(), tokens.number());
    if bounds.0.is_none() || bounds.1.is_none() {
        return Err(wrong(&tokens, "a time is missing"));
    }
    let mut tiers = Vec::new();
    if !tokens.flag("<exists>") {
        return Ok(tiers);
    }
    for _ in 0..count(path, &mut tokens)? {
        let Some((class, name)) = tokens.text().zip(tokens.text()) else {
            return Err(wrong(&tokens, "a tier is missing"));
        };
        if tokens.number().zip(tokens.number()).is_none() {
            return Err(wrong(&tokens, "a time is missing"));
        }
        let is_interval = class == "IntervalTier";
        let mut intervals = Vec::new();
        for _ in 0..count(path, &mut tokens)? {
            let start = tokens.number();
            // A point has one time, an interval two.
            let end = if is_interval { tokens.number() } else { start };
            let Some((start, text)) = start.filter(|_| end.is_some()).zip(tokens.text()) else {
                return Err(wrong(&tokens, "an interval is incomplete"));
            };
            if is_interval {
                intervals.push((start, text));
            }
        }
        if is_interval {
            tiers.push(Tier { name, intervals });
        }
    }
    if !tokens.at_end() {
        return Err(wrong(&tokens, "there is more than is counted"));
    }
    Ok(tiers)
}

fn count(path: &Path, tokens: &mut Tokens<'_>) -> Result<u64> {
    let number = tokens.number().filter(|number| *number >= 0.0);
    match number {
        Some(number) => Ok(number as u64),
        None => Err(wrong(path, tokens, "a count is missing")),
    }
}

fn wrong(path: &Path, tokens: &Tokens<'_>, what: &str) -> Error {
    anyhow!(
        "{}, line {}: {what}\n  hint: save the file anew with Praat as a text file, long or short",
        path.display(),
        tokens.line()
    )
}

/// The text without marks such as `<UNIN/>`.
fn without_marks(text: &str) -> String {
    let mut kept = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('<') {
        let (before, mark) = rest.split_at(at);
        kept.push_str(before);
        if let Some(length) = mark_length(mark) {
            rest = &mark[length..];
            // One that stands alone is something between two words; a pair goes around some.
            let alone = mark[..length].ends_with("/>");
            let in_word = |c: char| c.is_alphanumeric();
            if alone && kept.ends_with(in_word) && rest.starts_with(in_word) {
                kept.push(' ');
            }
        } else {
            kept.push('<');
            rest = &mark[1..];
        }
    }
    kept + rest
}

/// The bytes of the mark that `text` begins with, if it does.
fn mark_length(text: &str) -> Option<usize> {
    let inner = &text[1..text.find('>')?];
    let name = inner.strip_prefix('/').unwrap_or(inner);
    let name = name.strip_suffix('/').unwrap_or(name).trim_end();
    let is_name = |c: char| c.is_ascii_uppercase() || c == '_';
    (!name.is_empty() && name.chars().all(is_name)).then(|| inner.len() + 2)
}
