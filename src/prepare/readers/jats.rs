//! JATS, the XML of PubMed Central and of publishers (ANSI/NISO Z39.96): each `<article>` is a
//! document of its title, its abstracts and its body.
//!
//! Section titles and paragraphs are lines. Left out: references, tables, figures, formulas that
//! are no text, labels, footnotes, supplements, appendices, abstracts that repeat the text as
//! pictures or catchwords, sections of which nothing but the title remains, and citations that are
//! superscripts, as their numbers would grow together with words. What is left out within a
//! sentence and would stand on lines of its own leaves a space. Citations within the line stay as
//! they are written, but for a space before a number that touches the word before it.

use crate::prepare::readers::jats::citations::Citations;
use crate::prepare::readers::jats::elements::{LINES, is_block, is_kept, is_left_out};
use crate::prepare::readers::prose::{Mark, Prose};
use crate::prepare::readers::xml::Extract;
use crate::prepare::readers::xml::element::{Element, Flaw};

mod citations;
mod elements;

/// The text of one article.
#[derive(Default)]
pub struct Jats {
    prose: Prose,
    // Elements that matter while they are open, by the number of elements around them.
    left_out: Option<usize>,
    kept: Option<usize>,
    title: Option<usize>,
    citations: Citations,
    sections: Vec<Section>,
}

struct Section {
    before: Mark,
    /// Whether there is more to it than titles.
    filled: bool,
}

impl Extract for Jats {
    const FORMAT: &'static str = "JATS article";
    const SIGNS: &'static [&'static str] = &["article"];
    const DOCUMENTS: &'static [&'static str] = &["article"];

    fn start(&mut self, element: &Element<'_>, open: &[String]) -> Result<(), Flaw> {
        let depth = open.len();
        if self.left_out.is_some() {
            return Ok(());
        }
        if is_left_out(element)? {
            self.left_out = Some(depth);
            if self.kept.is_some() && is_block(element.name, open) {
                self.prose.push(" ");
            }
            return Ok(());
        }
        if self.kept.is_none() {
            self.kept = is_kept(element.name, open).then_some(depth);
            return Ok(());
        }
        match element.name {
            "break" | "hr" => self.prose.push(" "),
            "sup" => self.citations.start_superscript(depth, &mut self.prose),
            "xref" if element.attribute("ref-type")?.as_deref() == Some("bibr") => {
                self.citations.start_citation(depth, &self.prose);
            }
            name if LINES.contains(&name) => self.start_line(name, depth),
            _ => {}
        }
        Ok(())
    }

    fn text(&mut self, text: &str) {
        if self.left_out.is_some() || self.kept.is_none() {
            return;
        }
        self.prose.push(text);
        if self.title.is_none()
            && !text.trim().is_empty()
            && let Some(section) = self.sections.last_mut()
        {
            section.filled = true;
        }
    }

    fn end(&mut self, name: &str, open: &[String]) {
        let depth = Some(open.len());
        if self.left_out.is_some() {
            self.left_out = self.left_out.filter(|opened| Some(*opened) != depth);
            return;
        }
        if self.kept == depth {
            self.kept = None;
            self.prose.end_line();
        }
        if self.kept.is_none() {
            return;
        }
        if self.title == depth {
            self.title = None;
        }
        self.citations.end(open.len(), &mut self.prose);
        if LINES.contains(&name) {
            self.end_line(name);
        }
    }

    fn finish(self) -> Option<String> {
        Some(self.prose.finish())
    }
}

impl Jats {
    fn start_line(&mut self, name: &str, depth: usize) {
        self.prose.end_line();
        match name {
            "title" if self.title.is_none() => self.title = Some(depth),
            "sec" => self.sections.push(Section {
                before: self.prose.mark(),
                filled: false,
            }),
            _ => {}
        }
    }

    fn end_line(&mut self, name: &str) {
        self.prose.end_line();
        if name != "sec" {
            return;
        }
        let Some(section) = self.sections.pop() else {
            return;
        };
        if !section.filled {
            self.prose.back_to(section.before);
        } else if let Some(parent) = self.sections.last_mut() {
            parent.filled = true;
        }
    }
}
