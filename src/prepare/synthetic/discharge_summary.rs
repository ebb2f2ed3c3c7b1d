//! A stay in hospital from admission to plan.

use crate::prepare::synthetic::Writer;
use crate::prepare::synthetic::dice::Dice;
use crate::prepare::synthetic::patient::{capitalize, days, join};

pub fn write(writer: &Writer<'_>, dice: &mut Dice) -> String {
    let long = dice.chance(20);
    let days = if long {
        dice.range(6, 16)
    } else {
        dice.range(2, 6)
    };
    let mut text = writer.admission(days, dice);
    text += &writer.findings(dice);
    text += &writer.stay(days, long, dice);
    text += &writer.leaving(dice);
    text
}

impl Writer<'_> {
    fn admission(&self, stay_days: usize, dice: &mut Dice) -> String {
        let (case, house) = (self.case, self.house);
        let admitted = dice.below(336);
        let name = house.term(case.condition.name, case.condition.short);
        let history: Vec<String> = case
            .backgrounds
            .iter()
            .map(|b| house.term(b.name, b.short).to_owned())
            .collect();
        let history = if history.is_empty() {
            "none".to_owned()
        } else {
            join(&history, "and")
        };
        format!(
            "{}\n{}{}\n{}{}\n{}{}\n\n{}A {}-year-old {} ({}, {}) with {} presented after {} of {}. \
             {} denied {}.\n{}{history}.\n{}{}.\n",
            if house.terse {
                "DISCHARGE SUMMARY"
            } else {
                "Discharge summary"
            },
            house.heading("Admitted"),
            house.date(admitted),
            house.heading("Discharged"),
            house.date(admitted + stay_days),
            house.heading(house.term("Principal diagnosis", "Dx")),
            capitalize(name),
            house.heading(house.term("History of present illness", "HPI")),
            case.age,
            case.noun(),
            case.occupation,
            case.home,
            if case.backgrounds.is_empty() {
                "no past illness".to_owned()
            } else {
                format!("a history of {history}")
            },
            days(case.days_ill),
            join(&case.symptoms, "and"),
            capitalize(case.he()),
            join(&case.absent, "or"),
            house.heading(house.term("Past medical history", "PMH")),
            house.heading("Allergies"),
            capitalize(case.allergy),
        )
    }

    fn findings(&self, dice: &mut Dice) -> String {
        let (case, house) = (self.case, self.house);
        let exam = case.filled(&dice.some(case.condition.exam, 3)).join(" ");
        let labs: Vec<String> = case
            .labs(dice.range(2, 6), dice)
            .iter()
            .map(|lab| house.lab(lab, dice))
            .collect();
        let vitals = self.vitals(&case.vitals(0, dice));
        let image = &case.condition.image;
        let seen = case.filled(&dice.some(image.findings, 2)).join(" ");
        format!(
            "{}{vitals} {exam}\n{}{}.\n{}{}: {seen} Impression: {}.\n",
            house.heading(house.term("Physical examination", "PE")),
            house.heading(house.term("Laboratory data", "Labs")),
            labs.join(dice.pick(&[", ", "; "])),
            house.heading("Imaging"),
            capitalize(&case.fill(image.study)),
            case.fill(image.impression),
        )
    }

    /// The course in a paragraph, and for a long stay day by day.
    fn stay(&self, days: usize, long: bool, dice: &mut Dice) -> String {
        let (case, house) = (self.case, self.house);
        let drugs: Vec<String> = case
            .drugs
            .iter()
            .map(|drug| drug.drug.name.to_owned())
            .collect();
        let count = dice.range(2, 4);
        let course = case
            .filled(&dice.some(case.condition.course, count))
            .join(" ");
        let mut text = format!(
            "{}The {} was admitted to {} and treated for {} with {}. {course}\n",
            house.heading("Hospital course"),
            house.person,
            dice.pick(&house.wards),
            case.condition.name,
            join(&drugs, "and"),
        );
        for day in 1..=days {
            if long {
                let note = self.day(day, dice);
                text.extend(["\nDay ", &day.to_string(), "\n", &note]);
            }
        }
        text
    }

    fn leaving(&self, dice: &mut Dice) -> String {
        let (case, house) = (self.case, self.house);
        let drugs = case.drugs.iter().chain(&case.home_drugs);
        let drugs: Vec<String> = drugs.map(|drug| house.drug(drug)).collect();
        let advice: Vec<String> = case.filled(&dice.some(case.condition.advice, 3));
        let state = dice.pick(&["Good", "Stable", "Improved", "Fair"]);
        let weeks = dice.range(2, 6);
        let review = format!(
            "{}Clinic in {weeks} weeks.\n",
            house.heading(house.term("Follow-up", "F/U"))
        );
        format!(
            "{}\n{}{}{state}\n{}\n{}{review}",
            house
                .heading(house.term("Discharge medications", "Meds at discharge"))
                .trim_end(),
            house.list(&drugs),
            house.heading(house.term("Condition at discharge", "Condition")),
            house
                .heading(house.term("Instructions to the patient", "Instructions"))
                .trim_end(),
            house.list(
                &advice
                    .iter()
                    .map(|item| format!("{}.", capitalize(item)))
                    .collect::<Vec<_>>()
            ),
        )
    }
}
