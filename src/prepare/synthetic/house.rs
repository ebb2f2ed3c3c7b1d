//! How an institution writes: its headings, abbreviations, units and habits.
//!
//! Drawn once from the institution's name, so that all of its notes agree and differ from others'.

use crate::prepare::synthetic::condition::Lab;
use crate::prepare::synthetic::dice::Dice;
use crate::prepare::synthetic::patient::Prescription;

pub struct House {
    /// Abbreviations instead of words.
    pub terse: bool,
    capitals: bool,
    fahrenheit: bool,
    heading_end: &'static str,
    bullet: &'static str,
    lab_join: &'static str,
    dates: usize,
    /// How the patient is called: "patient", "pt".
    pub person: &'static str,
    pub wards: Vec<&'static str>,
    pub doctor: &'static str,
}

const WARDS: &[&str] = &[
    "Ward 3 East",
    "Ward 7B",
    "the medical unit",
    "the short-stay unit",
    "the surgical floor",
    "Station Linden",
    "the step-down unit",
    "Bay C",
    "the observation unit",
    "the stroke unit",
];
const MONTHS: &[&str] = &[
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

impl House {
    pub fn new(dice: &mut Dice) -> Self {
        let terse = dice.chance(50);
        Self {
            terse,
            capitals: dice.chance(50),
            fahrenheit: dice.chance(50),
            heading_end: dice.pick(&[":", " -", ":\n", "\n---"]),
            bullet: dice.pick(&["- ", "* ", "1. ", ""]),
            lab_join: dice.pick(&[" ", ": ", " = "]),
            dates: dice.below(3),
            person: if terse { "pt" } else { "patient" },
            wards: dice.some(WARDS, 4),
            doctor: dice.pick(&["DOCTOR", "Dr", "Clinician", "D", "GP"]),
        }
    }

    pub fn heading(&self, text: &str) -> String {
        let text = if self.capitals {
            text.to_uppercase()
        } else {
            text.to_owned()
        };
        format!("{text}{} ", self.heading_end)
            .replace("\n ", "\n")
            .replace("--- ", "---\n")
    }

    pub fn list(&self, items: &[String]) -> String {
        let line = |(index, item): (usize, &String)| match self.bullet {
            "1. " => format!("{}. {item}\n", index + 1),
            bullet => format!("{bullet}{item}\n"),
        };
        items.iter().enumerate().map(line).collect()
    }

    /// The long or the short form of a name.
    pub fn term(&self, name: &'static str, short: &'static str) -> &'static str {
        if self.terse { short } else { name }
    }

    /// A laboratory value within the range of `lab`.
    pub fn lab(&self, lab: &Lab, dice: &mut Dice) -> String {
        let value = dice.decimal(lab.low, lab.high, lab.decimals);
        let name = self.term(lab.name, lab.short);
        format!("{name}{}{value} {}", self.lab_join, lab.unit)
            .trim_end()
            .to_owned()
    }

    pub fn drug(&self, prescription: &Prescription) -> String {
        let Prescription { drug, dose } = prescription;
        let how = if self.terse {
            abbreviate(drug.how)
        } else {
            drug.how.to_owned()
        };
        format!("{} {dose} {how}", drug.name)
    }

    /// A body temperature in tenths of a degree Celsius, as this house writes it.
    pub fn temperature(&self, tenths: usize) -> String {
        let celsius = tenths as f64 / 10.0;
        if self.fahrenheit {
            format!("{:.1} F", celsius * 1.8 + 32.0)
        } else {
            format!("{celsius:.1} C")
        }
    }

    /// A day of a year of 12 months with 28 days.
    pub fn date(&self, day_of_year: usize) -> String {
        let (month, day) = (day_of_year / 28 % 12, day_of_year % 28 + 1);
        match self.dates {
            0 => format!("{:02}/{day:02}", month + 1),
            1 => format!("{day} {}", MONTHS[month]),
            _ => format!("{} {day}", MONTHS[month]),
        }
    }
}

/// Prescription shorthand.
fn abbreviate(how: &str) -> String {
    [
        ("by mouth", "PO"),
        ("intravenously", "IV"),
        ("subcutaneously", "SC"),
        ("by nebulizer", "NEB"),
        ("once daily", "daily"),
        ("twice daily", "BID"),
        ("three times daily", "TID"),
        ("four times daily", "QID"),
        ("at night", "qHS"),
        ("as needed", "PRN"),
        ("every four hours", "q4h"),
        ("every six hours", "q6h"),
        ("every morning", "qAM"),
        ("before breakfast", "AC"),
    ]
    .iter()
    .fold(how.to_owned(), |text, (long, short)| {
        text.replace(long, short)
    })
}
