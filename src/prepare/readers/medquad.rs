//! The pages of `MedQuAD` (Ben Abacha and Demner-Fushman, 2019): each pair of a question and its
//! answer is a document, a line of the question before those of the answer.
//!
//! A pair without an answer is no document: some pages are published without theirs. The answers'
//! indentation is the file's and goes; their line ends are the page's and stay.

use crate::prepare::readers::prose::tidy_lines;
use crate::prepare::readers::xml::Extract;
use crate::prepare::readers::xml::element::{Element, Flaw};

/// One pair.
#[derive(Default)]
pub struct MedQuad {
    question: String,
    answer: String,
    part: Part,
}

#[derive(Clone, Copy, Default)]
enum Part {
    #[default]
    Neither,
    Question,
    Answer,
}

impl Extract for MedQuad {
    const FORMAT: &'static str = "MedQuAD page";
    // Some pages are in lower case.
    const SIGNS: &'static [&'static str] = &["QAPairs", "qaPairs"];
    const DOCUMENTS: &'static [&'static str] = &["QAPair", "pair"];

    fn start(&mut self, element: &Element<'_>, open: &[String]) -> Result<(), Flaw> {
        if open.len() == 1 {
            self.part = part(element.name);
        }
        Ok(())
    }

    fn text(&mut self, text: &str) {
        match self.part {
            Part::Neither => {}
            Part::Question => self.question.push_str(text),
            Part::Answer => self.answer.push_str(text),
        }
    }

    fn end(&mut self, _name: &str, open: &[String]) {
        if open.len() == 1 {
            self.part = Part::Neither;
        }
    }

    fn finish(self) -> Option<String> {
        let (question, answer) = (tidy_lines(&self.question), tidy_lines(&self.answer));
        if answer.is_empty() {
            return None;
        }
        // A question broken over lines is still one.
        let question = question.replace('\n', " ");
        Some(format!("{question}\n{answer}"))
    }
}

fn part(name: &str) -> Part {
    match name {
        "Question" | "question" => Part::Question,
        "Answer" | "answer" => Part::Answer,
        _ => Part::Neither,
    }
}
