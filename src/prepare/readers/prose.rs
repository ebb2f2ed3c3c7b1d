//! Text out of markup: white space as a reader sees it, lines where paragraphs end.
//!
//! Runs of white space become one space; at the ends of a line there is none. What is inline adds
//! nothing of its own, so that a subscript neither parts its word nor glues two.

/// A text that grows piece by piece; where the pieces are cut leaves no trace.
#[derive(Default)]
pub struct Prose {
    text: String,
    /// White space was seen since the last character.
    space: bool,
    /// It stood before what was taken out since.
    before_gap: bool,
    /// The superscript that is open, if it touches a digit before it.
    raised: Option<usize>,
}

/// A point to go back to.
#[derive(Clone, Copy, Debug)]
pub struct Mark {
    length: usize,
    space: bool,
}

impl Prose {
    /// Adds a piece of the current line.
    pub fn push(&mut self, piece: &str) {
        for character in piece.chars() {
            if is_space(character) {
                self.space = true;
                self.before_gap = false;
                continue;
            }
            let is_stray = self.before_gap && is_closing(character);
            if self.space && !is_stray && !self.at_line_start() {
                self.text.push(' ');
            }
            self.space = false;
            self.before_gap = false;
            self.text.push(character);
        }
    }

    /// What comes next is raised.
    pub fn begin_superscript(&mut self) {
        let after_digit = self.text.ends_with(|c: char| c.is_ascii_digit());
        self.raised = (after_digit && !self.space).then_some(self.text.len());
    }

    /// After a digit a number gets a caret, as 10 to the power of 5 would read 105 without it.
    pub fn end_superscript(&mut self) {
        if let Some(at) = self.raised.take()
            && self.text.get(at..).is_some_and(is_exponent)
        {
            self.text.insert(at, '^');
        }
    }

    pub fn end_line(&mut self) {
        self.space = false;
        if !self.at_line_start() {
            self.text.push('\n');
        }
    }

    pub fn mark(&self) -> Mark {
        Mark {
            length: self.text.len(),
            space: self.space,
        }
    }

    /// Takes back what was added since. White space at its ends still parts what stands around it.
    pub fn back_to(&mut self, mark: Mark) {
        let began_with_space = self.text[mark.length..].starts_with(' ');
        self.space = mark.space || began_with_space || self.space;
        self.text.truncate(mark.length);
    }

    /// The same of what stood within a sentence: a space before it does not part what is left
    /// from a full stop or the like.
    pub fn take_out(&mut self, mark: Mark) {
        let began_with_space = self.text[mark.length..].starts_with(' ');
        self.back_to(mark);
        self.before_gap = mark.space || began_with_space;
    }

    pub fn is_at(&self, mark: Mark) -> bool {
        self.text.len() == mark.length
    }

    /// The text before a mark.
    pub fn until(&self, mark: Mark) -> &str {
        &self.text[..mark.length]
    }

    /// What was added since.
    pub fn since(&self, mark: Mark) -> &str {
        &self.text[mark.length..]
    }

    /// What stands between two marks; nothing where the text was taken back beyond the first.
    pub fn between(&self, start: Mark, end: Mark) -> &str {
        self.text.get(start.length..end.length).unwrap_or_default()
    }

    /// Parts what was added since from what stands before.
    pub fn insert_space(&mut self, mark: Mark) {
        self.text.insert(mark.length, ' ');
    }

    /// The text, without a last line end.
    pub fn finish(mut self) -> String {
        while self.text.ends_with('\n') {
            self.text.pop();
        }
        self.text
    }

    fn at_line_start(&self) -> bool {
        self.text.is_empty() || self.text.ends_with('\n')
    }
}

impl Mark {
    /// Whether nothing but white space is between two marks.
    pub fn is_at(self, other: Self) -> bool {
        self.length == other.length
    }

    pub fn follows_space(self) -> bool {
        self.space
    }
}

/// Whether no space stands before a character in running text.
fn is_closing(character: char) -> bool {
    matches!(character, '.' | ',' | ';' | ':' | '!' | '?' | ')' | ']')
}

/// White space of XML; a no-break space is a character like others.
pub fn is_space(character: char) -> bool {
    matches!(character, ' ' | '\t' | '\n' | '\r')
}

/// Each line with its white space collapsed, the blank ones left out.
pub fn tidy_lines(text: &str) -> String {
    let mut prose = Prose::default();
    for line in text.lines() {
        prose.push(line);
        prose.end_line();
    }
    prose.finish()
}

/// Whether a text begins with a number, with or without a sign.
fn is_exponent(piece: &str) -> bool {
    let unsigned = piece.trim_start_matches(['-', '+', '\u{2212}', '\u{2013}']);
    let signs = piece[..piece.len() - unsigned.len()].chars().count();
    signs <= 1 && unsigned.starts_with(|c: char| c.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn raised(base: &str, superscript: &str, rest: &str) -> String {
        let mut prose = Prose::default();
        prose.push(base);
        prose.begin_superscript();
        prose.push(superscript);
        prose.end_superscript();
        prose.push(rest);
        prose.finish()
    }

    #[test]
    fn exponents_get_a_caret_and_other_superscripts_none() {
        assert_eq!(raised("2 x 10", "5", " cells"), "2 x 10^5 cells");
        assert_eq!(raised("10", "\u{2212}3", ""), "10^\u{2212}3");
        assert_eq!(raised("kg/m", "2", "."), "kg/m2.");
        assert_eq!(raised("the 2", "nd ", "day"), "the 2nd day");
        assert_eq!(raised("HCO3", "-", " is"), "HCO3- is");
        assert_eq!(raised("in 10 ", "5", ""), "in 10 5");
    }

    #[test]
    fn what_is_taken_back_glues_no_words() {
        for (before, taken, after) in [("a", "1 ", "b"), ("a", " 1", "b"), ("a ", "1", "b")] {
            let mut prose = Prose::default();
            prose.push(before);
            let mark = prose.mark();
            prose.push(taken);
            assert!(!prose.is_at(mark));
            prose.back_to(mark);
            assert!(prose.is_at(mark));
            prose.push(after);
            assert_eq!(prose.finish(), "a b");
        }
    }

    #[test]
    fn inline_markup_parts_no_word_and_glues_none() {
        let mut prose = Prose::default();
        for piece in ["\n  SaO", "2 ", "and", " CO", "2", "\n "] {
            prose.push(piece);
        }
        prose.end_line();
        prose.end_line();
        prose.push(" next\u{a0}one ");
        assert_eq!(prose.finish(), "SaO2 and CO2\nnext\u{a0}one");
    }

    proptest! {
        #[test]
        fn superscripts_are_the_same_however_they_are_cut(
            base in "[a1 ]{0,3}",
            superscript in "[\u{2212}+ 1a]{0,5}",
            cut in 0_usize..6,
        ) {
            let mut prose = Prose::default();
            prose.push(&base);
            prose.begin_superscript();
            for character in superscript.chars().take(cut) {
                prose.push(character.encode_utf8(&mut [0; 4]));
            }
            prose.push(&superscript.chars().skip(cut).collect::<String>());
            prose.end_superscript();
            prose.push("s");
            prop_assert_eq!(prose.finish(), raised(&base, &superscript, "s"));
        }

        #[test]
        fn the_cuts_between_pieces_leave_no_trace(text in "[a1 \n\t.]{0,30}", cut in 0_usize..30) {
            let mut whole = Prose::default();
            whole.push(&text);
            let mut parts = Prose::default();
            let (head, tail) = text.split_at(cut.min(text.len()));
            parts.push(head);
            parts.push(tail);
            let words: Vec<&str> = text.split_whitespace().collect();
            prop_assert_eq!(parts.finish(), words.join(" "));
            prop_assert_eq!(whole.finish(), words.join(" "));
        }
    }
}
