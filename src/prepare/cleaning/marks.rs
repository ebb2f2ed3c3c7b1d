//! De-identification marks: finding them, and writing one token for each.
//!
//! Never takes more than a mark: a `[**` that is not closed within its limit stays as it is. All
//! kinds are looked for in the text as it was, so that no mark is found in what was written for
//! another.

use std::cmp::Reverse;
use std::ops::Range;

use anyhow::{Context, Result, bail};
use regex::Regex;

use crate::prepare::cleaning::config::{DeidentificationConfig, MarkKind};
use crate::prepare::tokenizer::Chunker;

const OPENING: &str = "[**";
const CLOSING: &str = "**]";
/// Characters between the brackets of a mark; the longest of MIMIC-III has a few dozen.
const BRACKETED_CHARACTERS_MAX: usize = 200;
/// A shorter run stands in identifiers.
const UNDERSCORES_MIN: usize = 3;

/// The marks that a configuration asks for.
#[derive(Clone, Debug)]
pub struct Marks {
    replacement: String,
    kinds: Vec<MarkKind>,
    patterns: Vec<Regex>,
}

impl Marks {
    pub fn new(config: &DeidentificationConfig) -> Result<Self> {
        let patterns = config.patterns.iter().map(|pattern| Regex::new(pattern));
        Ok(Self {
            replacement: config.replace_with.clone(),
            kinds: config.marks.clone(),
            patterns: patterns
                .collect::<Result<_, _>>()
                .context("`cleaning.deidentification.patterns`")?,
        })
    }

    /// Refuses a replacement that is not one token between words.
    pub fn check_replacement(&self, chunker: &Chunker) -> Result<()> {
        let replacement = &self.replacement;
        let ids = |text: &str| -> Result<Vec<u32>> {
            let chunks = chunker.chunks(text)?;
            let bodies = chunks.iter().map(|chunk| &chunk[1..chunk.len() - 1]);
            Ok(bodies.flatten().copied().collect())
        };
        let whole = ids(&format!("a {replacement} b"))?;
        let (before, space, after) = (ids("a")?, ids(" ")?, ids(" b")?);
        let between = whole
            .strip_prefix(&before[..])
            .and_then(|rest| rest.strip_suffix(&after[..]));
        // A token that was added to the vocabulary does not take the space before it.
        let between = between.map(|ids| ids.strip_prefix(&space[..]).unwrap_or(ids));
        match between {
            Some([id]) if *id == chunker.info().unk => bail!(self.refusal("is not known")),
            Some([_]) => Ok(()),
            Some(ids) => bail!(self.refusal(&format!("is {} tokens", ids.len()))),
            None => bail!(self.refusal("changes the tokens beside it")),
        }
    }

    fn refusal(&self, what: &str) -> String {
        format!(
            "`cleaning.deidentification.replace_with`: {:?} {what}, not one token of this \
             tokenizer\n  hint: name a token of its vocabulary, such as an added one that is not \
             special",
            self.replacement
        )
    }

    /// The text with its marks replaced, and how many there were; nothing where there is none.
    pub fn replace(&self, text: &str) -> Option<(String, u64)> {
        let spans = self.find(text);
        if spans.is_empty() {
            return None;
        }
        let mut replaced = String::with_capacity(text.len());
        let mut from = 0;
        for span in &spans {
            replaced.push_str(&text[from..span.start]);
            replaced.push_str(&self.replacement);
            from = span.end;
        }
        replaced.push_str(&text[from..]);
        Some((replaced, spans.len() as u64))
    }

    /// Where the marks stand, in order and apart from each other; of two that overlap the one that
    /// begins first, or else the longer one.
    fn find(&self, text: &str) -> Vec<Range<usize>> {
        let mut spans = Vec::new();
        for kind in &self.kinds {
            match kind {
                MarkKind::Bracketed => bracketed(text, &mut spans),
                MarkKind::Underscores => underscores(text, &mut spans),
            }
        }
        for pattern in &self.patterns {
            let found = pattern.find_iter(text).map(|found| found.range());
            spans.extend(found.filter(|span| !span.is_empty()));
        }
        spans.sort_by_key(|span| (span.start, Reverse(span.end)));
        let mut end = 0;
        spans.retain(|span| {
            let apart = span.start >= end;
            if apart {
                end = span.end;
            }
            apart
        });
        spans
    }
}

fn bracketed(text: &str, spans: &mut Vec<Range<usize>>) {
    let mut at = 0;
    while let Some(found) = text[at..].find(OPENING) {
        let start = at + found;
        let inside = start + OPENING.len();
        let rest = &text[inside..];
        // Up to where the closing brackets may begin.
        let limit = rest.char_indices().nth(BRACKETED_CHARACTERS_MAX);
        let reach = limit.map_or(rest.len(), |(reach, _)| reach + CLOSING.len());
        let window = &rest.as_bytes()[..reach.min(rest.len())];
        let first = |mark: &str| {
            window
                .windows(mark.len())
                .position(|w| w == mark.as_bytes())
        };
        at = inside;
        if let Some(close) = first(CLOSING)
            && first(OPENING).is_none_or(|open| open > close)
        {
            at = inside + close + CLOSING.len();
            spans.push(start..at);
        }
    }
}

fn underscores(text: &str, spans: &mut Vec<Range<usize>>) {
    let mut at = 0;
    while let Some(found) = text[at..].find('_') {
        let start = at + found;
        let run = text[start..].bytes().take_while(|byte| *byte == b'_');
        at = start + run.count();
        if at - start >= UNDERSCORES_MIN {
            spans.push(start..at);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::proptest;

    use super::*;

    fn marks(marks: &[MarkKind], patterns: &[&str]) -> Marks {
        Marks::new(&DeidentificationConfig {
            replace_with: "<M>".to_owned(),
            marks: marks.to_vec(),
            patterns: patterns.iter().map(ToString::to_string).collect(),
        })
        .unwrap()
    }

    fn check(marks: &Marks, text: &str, expected: &str, count: u64) {
        let (replaced, found) = marks.replace(text).unwrap_or((text.to_owned(), 0));
        assert_eq!((replaced.as_str(), found), (expected, count));
    }

    #[test]
    fn marks_in_brackets() {
        let marks = marks(&[MarkKind::Bracketed], &[]);
        check(
            &marks,
            "Dr. [**First Name8 (NamePattern2) **] [**Last Name (un) **], [**2151-7-16**]:",
            "Dr. <M> <M>, <M>:",
            3,
        );
        check(&marks, "at [**Hospital1\n 18**].", "at <M>.", 1);
        check(&marks, "[****][** **] ___", "<M><M> ___", 2);
        check(&marks, "[***Name***]", "<M>", 1);
        for malformed in [
            "[**Name",
            "[**]",
            "[**Name*]",
            "Name**]",
            "[** [*",
            "[**",
            "[*",
        ] {
            check(&marks, malformed, malformed, 0);
        }
        check(&marks, "[**Na [**Name**] x", "[**Na <M> x", 1);
        check(&marks, "[**Name[**] x **]", "[**Name<M>", 1);
    }

    #[test]
    fn a_mark_in_brackets_has_a_longest_length_in_characters() {
        let marks = marks(&[MarkKind::Bracketed], &[]);
        let inside = "é".repeat(BRACKETED_CHARACTERS_MAX);
        check(&marks, &format!("a [**{inside}**] b"), "a <M> b", 1);
        let longer = format!("a [**{inside}é**] b");
        check(&marks, &longer, &longer, 0);
    }

    #[test]
    fn runs_of_underscores() {
        let marks = marks(&[MarkKind::Underscores], &[]);
        check(
            &marks,
            "Ms. ___ was seen on ___-__-_____ by snake_case __ and ________________",
            "Ms. <M> was seen on <M>-__-<M> by snake_case __ and <M>",
            4,
        );
    }

    #[test]
    fn patterns_of_the_user_stand_beside_the_known_marks() {
        let marks = marks(
            &[MarkKind::Underscores],
            &[r"\bXXXX\b", r"<DATE:[^>]*>", r"\b"],
        );
        check(
            &marks,
            "XXXX-year-old, <DATE:___>, ___ XXXXX",
            "<M>-year-old, <M>, <M> XXXXX",
            3,
        );
    }

    proptest! {
        #[test]
        fn what_is_no_mark_stays(pieces in proptest::collection::vec(
            proptest::sample::select(vec!["[**", "**]", "_", "___", "é", " a", "\n", "*", "]"]),
            0..40,
        )) {
            let text = pieces.concat();
            let both = marks(&[MarkKind::Bracketed, MarkKind::Underscores], &[]);
            let spans = both.find(&text);
            let mut end = 0;
            for span in &spans {
                let mark = &text[span.clone()];
                let inside = mark.strip_prefix(OPENING).and_then(|rest| rest.strip_suffix(CLOSING));
                let in_brackets = inside.is_some_and(|inside| !inside.contains(OPENING));
                let of_underscores = mark.len() >= 3 && mark.bytes().all(|byte| byte == b'_');
                assert!(span.start >= end && (in_brackets || of_underscores), "{mark:?}");
                end = span.end;
            }
            let (replaced, count) = both.replace(&text).unwrap_or((text.clone(), 0));
            assert_eq!(count, spans.len() as u64);
            assert!(!replaced.contains("___"));
        }
    }
}
