//! A drawn patient: who it is and what follows from the condition.

use crate::prepare::synthetic::condition::{
    BACKGROUNDS, Background, Condition, Drug, Lab, NORMAL_LABS, all,
};
use crate::prepare::synthetic::dice::Dice;

pub struct Case {
    pub age: usize,
    pub female: bool,
    pub condition: &'static Condition,
    pub backgrounds: Vec<&'static Background>,
    pub symptoms: Vec<String>,
    pub absent: Vec<String>,
    /// Drugs given for the condition, the dose the same wherever the note names it.
    pub drugs: Vec<Prescription>,
    /// Drugs taken at home, in the order of `backgrounds`.
    pub home_drugs: Vec<Prescription>,
    pub days_ill: usize,
    pub allergy: &'static str,
    pub occupation: &'static str,
    pub home: &'static str,
    left: bool,
}

/// A drug at the dose that this patient takes.
#[derive(Clone, Copy)]
pub struct Prescription {
    pub drug: Drug,
    pub dose: &'static str,
}

/// Vital signs on one occasion.
pub struct Vitals {
    pub temperature_tenths: usize,
    pub pulse: usize,
    pub systolic: usize,
    pub diastolic: usize,
    pub breaths: usize,
    pub saturation: usize,
}

const ALLERGIES: &[&str] = &[
    "no known drug allergies",
    "penicillin (rash)",
    "sulfonamides (hives)",
    "codeine (nausea)",
    "latex (contact rash)",
    "iodine contrast (itching)",
    "no known drug allergies",
];
const OCCUPATIONS: &[&str] = &[
    "retired teacher",
    "bus driver",
    "nurse",
    "farmer",
    "baker",
    "office clerk",
    "electrician",
    "student",
    "carpenter",
    "retired miner",
    "cook",
    "librarian",
    "warehouse worker",
    "gardener",
    "accountant",
    "tailor",
    "fisher",
    "welder",
    "musician",
    "caretaker",
];
const HOMES: &[&str] = &[
    "lives alone on the second floor",
    "lives with a spouse",
    "lives with two children",
    "lives in a nursing home",
    "shares a flat with a friend",
    "lives with a daughter",
    "lives in sheltered housing",
    "lives with parents",
];

impl Case {
    pub fn new(dice: &mut Dice) -> Self {
        let condition = dice.pick(&all());
        let age = dice.range(condition.ages.0, condition.ages.1);
        let female = dice.chance(50);
        let possible: Vec<&'static Background> = BACKGROUNDS
            .iter()
            .filter(|b| b.age_min <= age && !(female && b.short == "BPH"))
            .filter(|b| b.name != condition.short)
            .collect();
        let background_count = dice.range(0, 1 + age / 25);
        let backgrounds = dice.some(&possible, background_count);
        let mut case = Self {
            age,
            female,
            condition,
            backgrounds,
            symptoms: Vec::new(),
            absent: Vec::new(),
            drugs: Vec::new(),
            home_drugs: Vec::new(),
            days_ill: dice.range(1, 9),
            allergy: dice.pick(ALLERGIES),
            occupation: dice.pick(OCCUPATIONS),
            home: dice.pick(HOMES),
            left: dice.chance(50),
        };
        let count = dice.range(2, 4);
        case.symptoms = case.filled(&dice.some(condition.symptoms, count));
        let count = dice.range(1, 3);
        case.absent = case.filled(&dice.some(condition.absent, count));
        let count = dice.range(2, 3);
        let drugs = dice.some(condition.drugs, count);
        case.drugs = drugs
            .into_iter()
            .map(|drug| Prescription::new(drug, dice))
            .collect();
        let home = case.backgrounds.iter().map(|background| background.drug);
        case.home_drugs = home.map(|drug| Prescription::new(drug, dice)).collect();
        case
    }

    pub fn side(&self) -> &'static str {
        if self.left { "left" } else { "right" }
    }

    pub fn he(&self) -> &'static str {
        if self.female { "she" } else { "he" }
    }

    pub fn his(&self) -> &'static str {
        if self.female { "her" } else { "his" }
    }

    pub fn noun(&self) -> &'static str {
        if self.female { "woman" } else { "man" }
    }

    /// A text of the tables with side and pronouns put in, a sentence's first letter raised.
    pub fn fill(&self, template: &str) -> String {
        let other = if self.left { "right" } else { "left" };
        let him = if self.female { "her" } else { "him" };
        let text = template
            .replace("{side}", self.side())
            .replace("{other}", other)
            .replace("{he}", self.he())
            .replace("{his}", self.his())
            .replace("{him}", him);
        if text.ends_with('.') {
            capitalize(&text)
        } else {
            text
        }
    }

    pub fn filled(&self, templates: &[&str]) -> Vec<String> {
        templates
            .iter()
            .map(|template| self.fill(template))
            .collect()
    }

    /// The condition's laboratory values, then `count` of the normal ones it leaves alone.
    pub fn labs(&self, count: usize, dice: &mut Dice) -> Vec<Lab> {
        let changed = self.condition.labs;
        let normal: Vec<Lab> = NORMAL_LABS
            .iter()
            .filter(|lab| changed.iter().all(|other| other.name != lab.name))
            .copied()
            .collect();
        changed
            .iter()
            .copied()
            .chain(dice.some(&normal, count))
            .collect()
    }

    /// Vital signs on a day of the illness: abnormal at first, settling by the fourth day.
    pub fn vitals(&self, day: usize, dice: &mut Dice) -> Vitals {
        let unwell = 4_usize.saturating_sub(day + self.condition.urgency / 3);
        let fever = if self.condition.febrile {
            unwell * 5
        } else {
            0
        };
        Vitals {
            temperature_tenths: dice.range(364, 371) + fever,
            pulse: dice.range(62, 84) + unwell * 9,
            systolic: dice.range(112, 138) + self.age / 6,
            diastolic: dice.range(64, 84),
            breaths: dice.range(13, 16) + unwell * 2,
            saturation: dice.range(97, 99) - unwell,
        }
    }
}

impl Prescription {
    fn new(drug: Drug, dice: &mut Dice) -> Self {
        Self {
            drug,
            dose: dice.pick(drug.doses),
        }
    }
}

/// `1 day`, `2 days`.
pub fn days(count: usize) -> String {
    format!("{count} {}", if count == 1 { "day" } else { "days" })
}

/// `a`, `a and b`, `a, b and c`.
pub fn join(items: &[String], last: &str) -> String {
    match items {
        [] => String::new(),
        [only] => only.clone(),
        [start @ .., end] => format!("{} {last} {end}", start.join(", ")),
    }
}

pub fn capitalize(text: &str) -> String {
    let mut characters = text.chars();
    let first = characters
        .next()
        .map(|first| first.to_uppercase().to_string());
    first.unwrap_or_default() + characters.as_str()
}
