//! A day on the ward: subjective, objective, assessment, plan.

use crate::prepare::synthetic::Writer;
use crate::prepare::synthetic::dice::Dice;
use crate::prepare::synthetic::patient::{Vitals, capitalize};

pub fn write(writer: &Writer<'_>, dice: &mut Dice) -> String {
    let (case, house) = (writer.case, writer.house);
    let day = dice.range(1, 6);
    let ward = dice.pick(&house.wards);
    format!(
        "Hospital day {day}, {ward}. {} {} y.\n{}",
        capitalize(case.noun()),
        case.age,
        writer.day(day, dice)
    )
}

impl Writer<'_> {
    /// One day of a stay, as every note on the ward has it.
    pub fn day(&self, day: usize, dice: &mut Dice) -> String {
        let (case, house) = (self.case, self.house);
        let symptom = &case.symptoms[dice.below(case.symptoms.len())];
        let feeling = if day <= 2 {
            dice.pick(&[
                "still troubled by",
                "no change in",
                "slept badly because of",
            ])
        } else {
            dice.pick(&["much less", "hardly any", "improving", "no more"])
        };
        let exam = case.fill(dice.pick(case.condition.exam));
        let labs: Vec<String> = case
            .labs(2, dice)
            .iter()
            .take(4)
            .map(|lab| house.lab(lab, dice))
            .collect();
        let drug = house.drug(&dice.pick(&case.drugs));
        let action = dice.pick(&["continue", "start", "check response to", "change to"]);
        let name = house.term(case.condition.name, case.condition.short);
        let course = case.fill(dice.pick(case.condition.course));
        let vitals = self.vitals(&case.vitals(day, dice));
        format!(
            "{}{} {feeling} {symptom}.\n{}{vitals} {exam} {}.\n\
             {}{name}, day {day}. {course}\n{}{action} {drug}.\n",
            house.heading(house.term("Subjective", "S")),
            capitalize(house.person),
            house.heading(house.term("Objective", "O")),
            labs.join(", "),
            house.heading(house.term("Assessment", "A")),
            house.heading(house.term("Plan", "P")),
        )
    }

    pub fn vitals(&self, vitals: &Vitals) -> String {
        let temperature = self.house.temperature(vitals.temperature_tenths);
        let Vitals {
            pulse,
            systolic,
            diastolic,
            breaths,
            saturation,
            ..
        } = vitals;
        if self.house.terse {
            format!(
                "T {temperature}, HR {pulse}, BP {systolic}/{diastolic}, RR {breaths}, \
                 SpO2 {saturation}%."
            )
        } else {
            format!(
                "Temperature {temperature}, pulse {pulse}, blood pressure {systolic}/{diastolic}, \
                 respiratory rate {breaths}, oxygen saturation {saturation}%."
            )
        }
    }
}
