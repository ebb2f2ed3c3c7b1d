//! Invented clinical notes, for a first run without any text.
//!
//! A note is a pure function of (institution, source, number): the same on every machine. A patient
//! with one condition is drawn first; symptoms, vital signs, laboratory values, images, drugs and
//! advice all follow from it, and each institution writes in a style of its own. So there is
//! something to learn beyond word order: a masked drug can be told from a finding pages earlier.
//!
//! No person and no text of any data set stands behind it. The medicine is simplified and must
//! never advise anybody.

use serde::{Deserialize, Serialize};

use crate::prepare::synthetic::dice::Dice;
use crate::prepare::synthetic::house::House;
use crate::prepare::synthetic::patient::Case;

pub mod abdomen;
pub mod chest;
pub mod condition;
pub mod dialogue;
pub mod dice;
pub mod discharge_summary;
pub mod house;
pub mod patient;
pub mod progress_note;
pub mod radiology_report;
pub mod systemic;
pub mod triage_line;

/// The kinds of note.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Style {
    /// A stay in hospital from admission to plan; one in five is a long stay of many pages.
    DischargeSummary,
    /// An image, its findings and the impression.
    RadiologyReport,
    /// One line of an emergency department's triage.
    TriageLine,
    /// A consultation as it was spoken; one in five is long.
    Dialogue,
    /// A day on the ward in four paragraphs.
    ProgressNote,
}

/// The notes of one synthetic source.
pub struct Notes {
    style: Style,
    house: House,
    seed: blake3::Hasher,
}

impl Notes {
    pub fn new(style: Style, institution: &str, source: &str) -> Self {
        let mut seed = blake3::Hasher::new();
        seed.update(institution.as_bytes()).update(&[0]);
        let house = House::new(&mut Dice::new(
            seed.clone().update(b"house style").finalize(),
        ));
        seed.update(source.as_bytes()).update(&[0]);
        Self { style, house, seed }
    }

    /// The text of note number `number`.
    pub fn note(&self, number: u64) -> String {
        let seed = self.seed.clone().update(&number.to_le_bytes()).finalize();
        let mut dice = Dice::new(seed);
        let case = Case::new(&mut dice);
        let writer = Writer {
            case: &case,
            house: &self.house,
        };
        match self.style {
            Style::DischargeSummary => discharge_summary::write(&writer, &mut dice),
            Style::RadiologyReport => radiology_report::write(&writer, &mut dice),
            Style::TriageLine => triage_line::write(&writer, &mut dice),
            Style::Dialogue => dialogue::write(&writer, &mut dice),
            Style::ProgressNote => progress_note::write(&writer, &mut dice),
        }
    }
}

/// Who is written about, and in whose style.
pub struct Writer<'a> {
    pub case: &'a Case,
    pub house: &'a House,
}

#[cfg(test)]
mod tests;
