//! An image, its findings and the impression.

use crate::prepare::synthetic::Writer;
use crate::prepare::synthetic::dice::Dice;
use crate::prepare::synthetic::patient::{capitalize, days, join};

const COMPARISONS: &[&str] = &[
    "none available",
    "outside study not available",
    "study of last year",
    "prior of two weeks ago",
    "prior of three days ago",
    "study on admission",
];
const INCIDENTAL: &[&str] = &[
    "Degenerative change of the spine.",
    "A simple cyst of the {side} kidney.",
    "Old fracture of a {side} rib.",
    "Vascular calcification.",
    "A 4 mm nodule of the {side} lung.",
    "Small hiatal hernia.",
    "Healed surgical scar.",
    "Mild scoliosis.",
    "No free fluid.",
    "The soft tissues are unremarkable.",
    "The bones are intact.",
];
const QUALITY: &[&str] = &[
    "Quality is good.",
    "Limited by motion.",
    "Limited by body habitus.",
    "Adequate study.",
];

pub fn write(writer: &Writer<'_>, dice: &mut Dice) -> String {
    let (case, house) = (writer.case, writer.house);
    let image = &case.condition.image;
    let study = case.fill(image.study);
    let sex = if case.female { "F" } else { "M" };
    let finding_count = dice.range(2, 3);
    let mut findings = case.filled(&dice.some(image.findings, finding_count));
    let incidental_count = dice.range(1, 4);
    findings.extend(case.filled(&dice.some(INCIDENTAL, incidental_count)));
    if dice.chance(70) {
        findings.push(dice.pick(QUALITY).to_owned());
    }
    let mut impressions = vec![format!("{}.", capitalize(&case.fill(image.impression)))];
    if dice.chance(40) {
        impressions.push(format!("In keeping with clinical {}.", case.condition.name));
    }
    if dice.chance(30) {
        impressions.push("Findings discussed with the referring team.".to_owned());
    }
    format!(
        "{}{}\n{}{}\n{}{}{}, {} of {}. {}?\n{}{}.\n{}{}\n\n{}\n{}",
        house.heading("Examination"),
        capitalize(&study),
        house.heading("Date"),
        house.date(dice.below(336)),
        house.heading(house.term("Clinical information", "Hx")),
        case.age,
        sex,
        days(case.days_ill),
        join(&case.symptoms, "and"),
        capitalize(house.term(case.condition.name, case.condition.short)),
        house.heading("Comparison"),
        capitalize(dice.pick(COMPARISONS)),
        house.heading("Findings"),
        findings.join(" "),
        house.heading("Impression").trim_end(),
        house.list(&impressions),
    )
}
