//! PubMed's own XML (`PubmedArticleSet`, as the yearly baseline and its updates have it): each
//! citation is a document of its title and its abstract.
//!
//! A labeled section is a line that begins with its label. Left out: abstracts in other languages
//! and for other readers (`OtherAbstract`), copyright lines, formulas that are no text, and the
//! lists of citations that an update withdraws.

use crate::prepare::readers::prose::{Mark, Prose};
use crate::prepare::readers::xml::Extract;
use crate::prepare::readers::xml::element::{Element, Flaw};

const LEFT_OUT: [&str; 2] = ["math", "tex-math"];

/// The text of one citation.
#[derive(Default)]
pub struct PubMed {
    prose: Prose,
    // Elements that matter while they are open, by the number of elements around them.
    left_out: Option<usize>,
    line: Option<Line>,
}

struct Line {
    depth: usize,
    before: Mark,
    labeled: Mark,
}

impl Extract for PubMed {
    const FORMAT: &'static str = "PubMed file";
    const SIGNS: &'static [&'static str] = &["PubmedArticleSet", "PubmedArticle"];
    const DOCUMENTS: &'static [&'static str] = &["PubmedArticle", "PubmedBookArticle"];

    fn start(&mut self, element: &Element<'_>, open: &[String]) -> Result<(), Flaw> {
        let depth = open.len();
        if self.left_out.is_some() {
            return Ok(());
        }
        if LEFT_OUT.contains(&element.name) {
            self.left_out = Some(depth);
        } else if self.line.is_some() {
            match element.name {
                "sup" => self.prose.begin_superscript(),
                // A formula of its own, of which nothing is text, parts what stands around it.
                "DispFormula" => self.prose.push(" "),
                _ => {}
            }
        } else if is_line(element.name, open) {
            self.prose.end_line();
            let before = self.prose.mark();
            let label = element.attribute("Label")?.unwrap_or_default();
            if !label.trim().is_empty() && label != "UNLABELLED" {
                self.prose.push(&label);
                self.prose.push(": ");
            }
            self.line = Some(Line {
                depth,
                before,
                labeled: self.prose.mark(),
            });
        }
        Ok(())
    }

    fn text(&mut self, text: &str) {
        if self.line.is_some() && self.left_out.is_none() {
            self.prose.push(text);
        }
    }

    fn end(&mut self, name: &str, open: &[String]) {
        let depth = open.len();
        if self.left_out.is_some() {
            self.left_out = self.left_out.filter(|opened| *opened != depth);
            return;
        }
        if name == "sup" {
            self.prose.end_superscript();
        }
        if let Some(line) = self.line.take_if(|line| line.depth == depth) {
            if self.prose.is_at(line.labeled) {
                self.prose.back_to(line.before);
            }
            self.prose.end_line();
        }
    }

    fn finish(self) -> Option<String> {
        Some(self.prose.finish())
    }
}

/// Whether an element is the title or a part of the abstract, of an article or of a book.
fn is_line(name: &str, open: &[String]) -> bool {
    let is_work = |name: &String| name == "Article" || name == "BookDocument";
    match (name, open) {
        ("ArticleTitle", [.., parent]) => is_work(parent),
        ("AbstractText", [.., work, parent]) => parent == "Abstract" && is_work(work),
        _ => false,
    }
}
