//! JATS, the XML of PubMed Central and of publishers (ANSI/NISO Z39.96): each `<article>` is a
//! document of its title, its abstracts and its body.
//!
//! Section titles and paragraphs are lines. Left out: references, tables, figures, formulas that
//! are no text, labels, footnotes, supplements, appendices, abstracts that repeat the text as
//! pictures or catchwords, sections of which nothing but the title remains, and citations that are
//! superscripts, as their numbers would grow together with words. Citations within the line stay
//! as they are written.

use crate::prepare::readers::prose::{Mark, Prose};
use crate::prepare::readers::xml::{Element, Extract};

/// Elements that are left out with all that is in them.
const LEFT_OUT: [&str; 38] = [
    "alt-text",
    "array",
    "back",
    "chem-struct-wrap",
    "contrib-group",
    "disp-formula",
    "disp-formula-group",
    "fig",
    "fig-group",
    "floats-group",
    "fn",
    "fn-group",
    "glyph-data",
    "graphic",
    "inline-graphic",
    "inline-media",
    "inline-supplementary-material",
    "kwd-group",
    "label",
    "long-desc",
    "math",
    "media",
    "object-id",
    "permissions",
    "private-char",
    "processing-meta",
    "ref-list",
    "response",
    "sec-meta",
    "sub-article",
    "supplementary-material",
    "table",
    "table-wrap",
    "table-wrap-foot",
    "table-wrap-group",
    "tex-math",
    "trans-abstract",
    "trans-title-group",
];

/// Elements that are lines of their own.
const LINES: [&str; 19] = [
    "article-title",
    "attrib",
    "boxed-text",
    "code",
    "def-item",
    "disp-quote",
    "list",
    "list-item",
    "p",
    "preformat",
    "sec",
    "sig",
    "speech",
    "statement",
    "subtitle",
    "term",
    "title",
    "verse-group",
    "verse-line",
];

/// Abstracts that are no prose.
const ABSTRACTS_LEFT_OUT: [&str; 3] = ["graphical", "teaser", "toc"];

/// The text of one article.
#[derive(Default)]
pub struct Jats {
    prose: Prose,
    // Elements that matter while they are open, by the number of elements around them.
    left_out: Option<usize>,
    kept: Option<usize>,
    title: Option<usize>,
    citation: Option<usize>,
    superscript: Option<Superscript>,
    sections: Vec<Section>,
}

struct Superscript {
    depth: usize,
    before: Mark,
    cites: bool,
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

    fn start(&mut self, element: &Element<'_>, open: &[String]) {
        let depth = open.len();
        if self.left_out.is_some() {
            return;
        }
        if is_left_out(element) {
            self.left_out = Some(depth);
            return;
        }
        if self.kept.is_none() {
            self.kept = is_kept(element.name, open).then_some(depth);
            return;
        }
        match element.name {
            "break" => self.prose.push(" "),
            "sup" if self.superscript.is_none() => {
                self.superscript = Some(Superscript {
                    depth,
                    before: self.prose.mark(),
                    cites: self.citation.is_some(),
                });
                self.prose.begin_superscript();
            }
            "xref" if element.attribute("ref-type").as_deref() == Some("bibr") => {
                self.citation = Some(depth);
                if let Some(superscript) = &mut self.superscript {
                    superscript.cites = true;
                }
            }
            name if LINES.contains(&name) => self.start_line(name, depth),
            _ => {}
        }
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
        if self.citation == depth {
            self.citation = None;
        }
        if self.title == depth {
            self.title = None;
        }
        if let Some(superscript) = self
            .superscript
            .take_if(|superscript| Some(superscript.depth) == depth)
        {
            self.prose.end_superscript();
            if superscript.cites {
                self.prose.back_to(superscript.before);
            }
        }
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

fn is_left_out(element: &Element<'_>) -> bool {
    let attribute = |name: &str| element.attribute(name).unwrap_or_default();
    match element.name {
        "xref" => matches!(attribute("ref-type").as_str(), "fn" | "table-fn"),
        "abstract" => ABSTRACTS_LEFT_OUT.contains(&attribute("abstract-type").as_str()),
        name => LEFT_OUT.contains(&name),
    }
}

/// Whether an element of the article is part of its text: the title, an abstract, the body.
fn is_kept(name: &str, open: &[String]) -> bool {
    let parent = open.last().map_or("", String::as_str);
    match name {
        "article-title" | "subtitle" => parent == "title-group",
        "abstract" => true,
        "body" => parent == "article",
        _ => false,
    }
}
