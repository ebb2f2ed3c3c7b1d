//! A consultation as it was spoken.

use crate::prepare::synthetic::Writer;
use crate::prepare::synthetic::dice::Dice;
use crate::prepare::synthetic::patient::{capitalize, days, join};

const OPENINGS: &[&str] = &[
    "Good morning, what brings you in today?",
    "Hello, how can I help?",
    "Hi, tell me what has been going on.",
    "Please have a seat. What is the trouble?",
    "Hello again, what can I do for you?",
];
const FILLERS: &[&str] = &[
    "um,",
    "well,",
    "you know,",
    "I mean,",
    "so,",
    "uh,",
    "",
    "",
    "",
];
const ECHOES: &[&str] = &[
    "Okay.",
    "I see.",
    "Right.",
    "Mm-hmm.",
    "Thank you.",
    "That must be hard.",
    "Got it.",
];
const CHECKS: &[&str] = &[
    "Any questions?",
    "Does that make sense?",
    "Is there anything else?",
    "Are you happy with that?",
];
const THANKS: &[&str] = &[
    "No, that is clear, thank you.",
    "Thanks, doctor.",
    "Okay, I will do that.",
    "Will it come back?",
];
/// Small talk of long visits: a question and its answers.
const ASIDES: &[(&str, &[&str])] = &[
    (
        "Do you smoke?",
        &[
            "No, never.",
            "About ten a day.",
            "I stopped five years ago.",
            "Only at weekends.",
        ],
    ),
    (
        "And alcohol?",
        &[
            "A glass of wine now and then.",
            "None at all.",
            "Two beers most evenings.",
            "More than I should.",
        ],
    ),
    (
        "How are you sleeping?",
        &[
            "Badly.",
            "Like a log.",
            "I wake up at four every night.",
            "Fine, really.",
        ],
    ),
    (
        "Does anything run in the family?",
        &[
            "My father had heart trouble.",
            "My mother has diabetes.",
            "Not that I know of.",
            "My brother had a stroke.",
        ],
    ),
    (
        "Have you been abroad lately?",
        &[
            "No, we stayed at home.",
            "We were at the coast in spring.",
            "Only for work.",
            "Not for years.",
        ],
    ),
    (
        "How is your appetite?",
        &[
            "I pick at my food.",
            "Same as ever.",
            "I am never hungry.",
            "Good, too good.",
        ],
    ),
    (
        "Who is at home with you?",
        &[
            "My husband.",
            "Nobody, I live alone.",
            "The whole family.",
            "Just me and the dog.",
        ],
    ),
    (
        "Do you get any exercise?",
        &[
            "I walk the dog.",
            "Not since this began.",
            "I cycle to work.",
            "I used to swim.",
        ],
    ),
    (
        "Any operations in the past?",
        &[
            "My tonsils as a child.",
            "A hernia, years ago.",
            "None.",
            "They took out my gallbladder.",
        ],
    ),
    (
        "How is your mood?",
        &[
            "Up and down.",
            "I worry a lot.",
            "Fine, thank you.",
            "Not great since the winter.",
        ],
    ),
    (
        "Are your vaccinations up to date?",
        &[
            "I think so.",
            "I had the flu shot.",
            "No idea.",
            "I missed the last one.",
        ],
    ),
    (
        "Has work been stressful?",
        &[
            "Terribly.",
            "I am off sick now.",
            "Not really.",
            "We are short of people.",
        ],
    ),
];

pub fn write(writer: &Writer<'_>, dice: &mut Dice) -> String {
    let mut talk = Talk {
        writer,
        lines: Vec::new(),
    };
    let long = dice.chance(20);
    talk.opening(dice);
    talk.symptoms(dice);
    talk.background(dice);
    let aside_count = if long { ASIDES.len() } else { dice.range(1, 4) };
    talk.asides(aside_count, dice);
    talk.examination(dice);
    talk.plan(dice);
    if long {
        for visit in 1..=dice.range(3, 7) {
            talk.review(visit, dice);
        }
    }
    talk.closing(dice);
    talk.lines.join("\n")
}

struct Talk<'a> {
    writer: &'a Writer<'a>,
    lines: Vec<String>,
}

impl Talk<'_> {
    fn doctor(&mut self, text: &str) {
        self.lines
            .push(format!("{}: {text}", self.writer.house.doctor));
    }

    fn patient(&mut self, text: &str, dice: &mut Dice) {
        let filler = dice.pick(FILLERS);
        let stays_capital = text.starts_with("I ");
        let text = match text.chars().next() {
            Some(first) if !filler.is_empty() && !stays_capital => {
                format!(
                    "{filler} {}{}",
                    first.to_lowercase(),
                    &text[first.len_utf8()..]
                )
            }
            _ => format!("{filler} {text}"),
        };
        let label = if self.writer.house.terse {
            "P"
        } else {
            "Patient"
        };
        self.lines
            .push(format!("{label}: {}", capitalize(text.trim())));
    }

    fn opening(&mut self, dice: &mut Dice) {
        let case = self.writer.case;
        self.doctor(dice.pick(OPENINGS));
        let count = dice.range(2, 3);
        for words in dice.some(case.condition.words, count) {
            self.patient(&format!("{}.", case.fill(words)), dice);
            self.doctor(dice.pick(ECHOES));
        }
        self.doctor("How long has this been going on?");
        self.patient(&format!("About {} now.", days(case.days_ill)), dice);
    }

    fn symptoms(&mut self, dice: &mut Dice) {
        let case = self.writer.case;
        for symptom in &case.symptoms {
            self.doctor(&format!("Have you noticed any {symptom}?"));
            let answer = dice.pick(&[
                "Yes, quite a bit.",
                "Yes, since the start.",
                "A little.",
                "Yes, it is the worst part.",
            ]);
            self.patient(answer, dice);
        }
        for symptom in &case.absent {
            self.doctor(&format!("Any {symptom}?"));
            let answer = dice.pick(&[
                "No.",
                "No, none of that.",
                "Not at all.",
                "I do not think so.",
            ]);
            self.patient(answer, dice);
        }
    }

    fn background(&mut self, dice: &mut Dice) {
        let (case, house) = (self.writer.case, self.writer.house);
        self.doctor("What illnesses do you have, and what do you take for them?");
        for (background, drug) in case.backgrounds.iter().zip(&case.home_drugs) {
            let drug = house.drug(drug).replace("by mouth ", "");
            self.patient(
                &format!("I have {}, for that I take {drug}.", background.name),
                dice,
            );
        }
        if case.backgrounds.is_empty() {
            self.patient("Nothing, I was always healthy.", dice);
        }
        self.doctor("Allergies?");
        self.patient(&format!("{}.", capitalize(case.allergy)), dice);
    }

    fn asides(&mut self, count: usize, dice: &mut Dice) {
        for (question, answers) in dice.some(ASIDES, count) {
            self.doctor(question);
            self.patient(dice.pick(answers), dice);
        }
    }

    fn examination(&mut self, dice: &mut Dice) {
        let (case, writer) = (self.writer.case, self.writer);
        self.doctor("Let me examine you.");
        let vitals = writer.vitals(&case.vitals(0, dice));
        let exam = case.filled(&dice.some(case.condition.exam, 2)).join(" ");
        self.doctor(&format!("{vitals} {exam}"));
        let study = case.fill(case.condition.image.study);
        let result = case.fill(case.condition.image.impression);
        self.doctor(&format!("The {study} shows {result}."));
    }

    fn plan(&mut self, dice: &mut Dice) {
        let (case, house) = (self.writer.case, self.writer.house);
        self.doctor(&format!("I think that this is {}.", case.condition.name));
        self.patient(
            dice.pick(&[
                "Is that serious?",
                "I was afraid of that.",
                "Okay. What now?",
            ]),
            dice,
        );
        let drugs: Vec<String> = case.drugs.iter().map(|drug| house.drug(drug)).collect();
        self.doctor(&format!("We will treat you with {}.", join(&drugs, "and")));
        for advice in case.filled(&dice.some(case.condition.advice, 2)) {
            self.doctor(&format!("Please {advice}."));
        }
    }

    /// A later visit on the same record.
    fn review(&mut self, visit: usize, dice: &mut Dice) {
        let (case, house) = (self.writer.case, self.writer.house);
        self.lines.push(format!(
            "\n[Review {visit}, {}]",
            house.date(visit * 9 + case.days_ill)
        ));
        self.doctor(&format!(
            "How are you getting on with the {}?",
            dice.pick(&case.drugs).drug.name
        ));
        self.patient(
            dice.pick(&[
                "Better, thank you.",
                "No side effects.",
                "It upsets my stomach.",
                "I forget it at times.",
            ]),
            dice,
        );
        let symptom = case.symptoms[dice.below(case.symptoms.len())].clone();
        self.doctor(&format!("And the {symptom}?"));
        self.patient(
            dice.pick(&[
                "Nearly gone.",
                "Still there in the evening.",
                "Comes and goes.",
                "Gone since last week.",
            ]),
            dice,
        );
        let labs: Vec<String> = case
            .labs(2, dice)
            .iter()
            .map(|lab| house.lab(lab, dice))
            .collect();
        self.doctor(&format!("Your results: {}.", labs.join(", ")));
        let vitals = self.writer.vitals(&case.vitals(visit + 2, dice));
        self.doctor(&format!(
            "{vitals} {}",
            case.fill(dice.pick(case.condition.course))
        ));
        self.asides(2, dice);
    }

    fn closing(&mut self, dice: &mut Dice) {
        self.doctor(dice.pick(CHECKS));
        self.patient(dice.pick(THANKS), dice);
        let weeks = self.writer.case.condition.urgency + 1;
        self.doctor(&format!("I will see you in {weeks} weeks."));
    }
}
