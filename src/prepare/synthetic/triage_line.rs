//! One line of an emergency department's triage.

use crate::prepare::synthetic::Writer;
use crate::prepare::synthetic::dice::Dice;
use crate::prepare::synthetic::patient::join;

const ARRIVALS: &[&str] = &[
    "walked in",
    "by ambulance",
    "with family",
    "sent by GP",
    "by police",
    "wheelchair",
];

pub fn write(writer: &Writer<'_>, dice: &mut Dice) -> String {
    let (case, house) = (writer.case, writer.house);
    let sex = if case.female { "F" } else { "M" };
    let complaint = case.fill(dice.pick(case.condition.complaints));
    let vitals = case.vitals(0, dice);
    let history: Vec<String> = case
        .backgrounds
        .iter()
        .take(3)
        .map(|b| b.short.to_owned())
        .collect();
    let history = if history.is_empty() {
        "nil hx".to_owned()
    } else {
        join(&history, "+")
    };
    let duration = match case.days_ill {
        1 => "since today".to_owned(),
        days => format!("{days}/7"),
    };
    let arrival = dice.pick(ARRIVALS);
    let pain = dice.range(0, 10);
    let category = case.condition.urgency;
    let temperature = house.temperature(vitals.temperature_tenths);
    if house.terse {
        format!(
            "{}{sex} {arrival}. c/o {complaint} {duration}. {history}. {temperature} HR{} \
             BP{}/{} sat{} \
             pain {pain}/10. cat {category}",
            case.age, vitals.pulse, vitals.systolic, vitals.diastolic, vitals.saturation,
        )
    } else {
        format!(
            "Triage category {category}. {}-year-old {}, {arrival}: {complaint}, {duration}; \
             also {}; \
             denies {}. Temp {temperature}, pulse {}, SpO2 {}%. Pain {pain} of 10. Allergies: {}.",
            case.age,
            case.noun(),
            case.symptoms[0],
            join(&case.absent, "or"),
            vitals.pulse,
            vitals.saturation,
            case.allergy,
        )
    }
}
