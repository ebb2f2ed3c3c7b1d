//! Citations within a text: those that are superscripts are taken out, and so are the commas,
//! brackets and dashes between them; the others stay, parted from the word before them.
//!
//! A superscript may hold a number of its own before its citation, as in 10<sup>6[4]</sup>, which
//! stays. A dash alone is taken for one between citations only where it follows one: elsewhere it
//! is a charge, or the sign that cells lack a marker.

use crate::prepare::readers::prose::{Mark, Prose};

/// The citation and the superscript that are open, by the number of elements around them.
#[derive(Default)]
pub struct Citations {
    citation: Option<Citation>,
    superscript: Option<Superscript>,
    last: Option<Last>,
}

struct Citation {
    depth: usize,
    before: Mark,
}

struct Superscript {
    depth: usize,
    before: Mark,
    /// Where its first citation begins.
    cites: Option<Mark>,
}

/// Where the last citation ends, or was taken out.
struct Last {
    end: Mark,
    taken_out: bool,
}

impl Citations {
    pub fn start_superscript(&mut self, depth: usize, prose: &mut Prose) {
        if self.superscript.is_some() {
            return;
        }
        let before = prose.mark();
        let cites = self.citation.is_some().then_some(before);
        self.superscript = Some(Superscript {
            depth,
            before,
            cites,
        });
        prose.begin_superscript();
    }

    pub fn start_citation(&mut self, depth: usize, prose: &Prose) {
        let before = prose.mark();
        if let Some(superscript) = &mut self.superscript {
            superscript.cites.get_or_insert(before);
        }
        self.citation = Some(Citation { depth, before });
    }

    /// The element at `depth` ends, whatever it is.
    pub fn end(&mut self, depth: usize, prose: &mut Prose) {
        let superscript = self.superscript.take_if(|open| open.depth == depth);
        if let Some(superscript) = superscript {
            self.end_superscript(&superscript, prose);
        }
        let citation = self.citation.take_if(|open| open.depth == depth);
        if let Some(citation) = citation
            && self.superscript.is_none()
            && !prose.is_at(citation.before)
        {
            self.end_citation(&citation, prose);
        }
    }

    fn end_superscript(&mut self, superscript: &Superscript, prose: &mut Prose) {
        let before = superscript.before;
        if let Some(cites) = superscript.cites {
            let own = prose.between(before, cites);
            let has_own = !own.is_empty() && !own.ends_with(is_between) && !cites.follows_space();
            prose.take_out(if has_own { cites } else { before });
            self.last = Some(Last {
                end: prose.mark(),
                taken_out: true,
            });
        } else {
            let last = self.last.as_ref();
            let follows = last.is_some_and(|last| last.taken_out && last.end.is_at(before));
            let debris = |c: char| c == ' ' || is_mark(c) || (follows && is_dash(c));
            if prose.since(before).chars().all(debris) {
                prose.take_out(before);
            }
        }
        prose.end_superscript();
    }

    fn end_citation(&mut self, citation: &Citation, prose: &mut Prose) {
        let before = citation.before;
        let is_listed = self.last.as_ref().is_some_and(|last| {
            let between = prose.between(last.end, before);
            !last.taken_out
                && !between.is_empty()
                && between.chars().all(|c| c == ' ' || is_between(c))
        });
        if !is_listed && is_number(prose.since(before)) && prose.until(before).ends_with(is_glued) {
            prose.insert_space(before);
        }
        self.last = Some(Last {
            end: prose.mark(),
            taken_out: false,
        });
    }
}

fn is_mark(character: char) -> bool {
    matches!(character, ',' | ';' | '[' | ']' | '(' | ')')
}

fn is_dash(character: char) -> bool {
    matches!(character, '-' | '\u{2010}'..='\u{2014}' | '\u{2212}')
}

/// Whether a character stands between the numbers of citations.
fn is_between(character: char) -> bool {
    is_mark(character) || is_dash(character)
}

/// Whether a citation is nothing but numbers.
fn is_number(text: &str) -> bool {
    let known = |c: char| c.is_ascii_digit() || c == ' ' || is_between(c);
    text.starts_with(|c: char| c.is_ascii_digit()) && text.chars().all(known)
}

/// Whether a number after this character would read as part of its word.
fn is_glued(character: char) -> bool {
    let ends = matches!(
        character,
        '.' | ',' | ';' | ':' | '!' | '?' | ')' | ']' | '%' | '"'
    );
    ends || character.is_alphanumeric() || matches!(character, '\u{2019}' | '\u{201d}')
}
