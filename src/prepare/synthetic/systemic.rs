//! Conditions of nerves, limbs, skin and metabolism.

use crate::prepare::synthetic::condition::{Condition, Image, drug, lab};

pub const CONDITIONS: &[Condition] = &[
    Condition {
        name: "diabetic ketoacidosis",
        short: "DKA",
        complaints: &[
            "vomiting, very thirsty, known diabetic",
            "high blood sugar",
            "drowsy with fast breathing",
        ],
        words: &[
            "I am thirsty all the time and up all night to pee",
            "I ran out of insulin on Friday",
            "I feel sick and washed out",
        ],
        symptoms: &[
            "polyuria",
            "thirst",
            "vomiting",
            "abdominal pain",
            "fatigue",
        ],
        absent: &["cough", "headache", "dysuria", "chest pain"],
        exam: &[
            "Deep sighing respiration.",
            "The mucous membranes are dry.",
            "The breath smells of acetone.",
        ],
        labs: &[
            lab("glucose", "Glu", (380.0, 690.0), "mg/dL"),
            lab("beta-hydroxybutyrate", "BHB", (3.4, 9.2), "mmol/L"),
            lab("bicarbonate", "HCO3", (5.0, 14.8), "mmol/L"),
            lab("potassium", "K", (5.0, 6.3), "mmol/L"),
        ],
        image: Image {
            study: "chest radiograph, portable",
            findings: &[
                "The lungs are clear.",
                "The heart is of normal size.",
                "A central line ends in the superior vena cava.",
            ],
            impression: "no acute disease of the chest",
        },
        drugs: &[
            drug(
                "insulin glargine",
                &["14 units", "18 units", "24 units"],
                "subcutaneously at night",
            ),
            drug(
                "insulin lispro",
                &["4 units", "6 units", "8 units"],
                "subcutaneously with meals",
            ),
            drug(
                "potassium chloride",
                &["20 mmol", "40 mmol"],
                "intravenously with each liter",
            ),
        ],
        course: &[
            "An insulin infusion was run until the ketones cleared.",
            "Potassium was replaced by protocol.",
            "The diabetes educator reviewed sick-day rules.",
            "{he} returned to {his} usual insulin.",
        ],
        advice: &[
            "never stop the insulin, also when sick",
            "check ketones when the sugar is above 250",
            "see the diabetes clinic in one week",
        ],
        ages: (18, 58),
        febrile: false,
        urgency: 2,
    },
    Condition {
        name: "ischemic stroke of the middle cerebral artery",
        short: "MCA stroke",
        complaints: &[
            "{side} arm weakness and slurred speech",
            "face droop since this morning",
            "sudden weakness on the {side}",
        ],
        words: &[
            "My {side} hand would not hold the cup",
            "My wife said that my face was hanging",
            "The words came out wrong",
        ],
        symptoms: &[
            "weakness of the {side} arm",
            "facial droop on the {side}",
            "slurred speech",
            "unsteady gait",
        ],
        absent: &["headache", "seizure", "neck pain", "fever"],
        exam: &[
            "Power is 3/5 in the {side} arm and 4/5 in the {side} leg.",
            "There is a {side} facial droop.",
            "Reflexes are brisk on the {side}.",
        ],
        labs: &[
            lab("LDL cholesterol", "LDL", (118.0, 204.0), "mg/dL"),
            lab("HbA1c", "HbA1c", (5.6, 8.9), "%"),
            lab("glucose", "Glu", (104.0, 212.0), "mg/dL"),
        ],
        image: Image {
            study: "MRI of the brain",
            findings: &[
                "There is restricted diffusion in the {other} frontal lobe.",
                "No hemorrhage is seen.",
                "Flow is reduced in the {other} middle cerebral artery.",
            ],
            impression: "acute infarct in the {other} middle cerebral artery territory",
        },
        drugs: &[
            drug("clopidogrel", &["75 mg"], "by mouth once daily"),
            drug("aspirin", &["75 mg", "300 mg"], "by mouth once daily"),
            drug("atorvastatin", &["40 mg", "80 mg"], "by mouth at night"),
            drug("perindopril", &["4 mg"], "by mouth once daily"),
        ],
        course: &[
            "Thrombolysis was given within three hours.",
            "Power in the {side} arm improved with therapy.",
            "Telemetry showed sinus rhythm.",
            "The swallow was judged safe.",
        ],
        advice: &[
            "do not drive for four weeks",
            "keep to the blood pressure tablets",
            "continue physiotherapy at home",
        ],
        ages: (49, 92),
        febrile: false,
        urgency: 1,
    },
    Condition {
        name: "cellulitis of the lower leg",
        short: "cellulitis",
        complaints: &[
            "red, hot {side} leg",
            "leg redness spreading",
            "swollen painful shin",
        ],
        words: &[
            "The redness is creeping up from my ankle",
            "I scratched an insect bite and then my {side} leg blew up",
            "It is hot and it throbs",
        ],
        symptoms: &[
            "redness of the {side} leg",
            "swelling",
            "pain",
            "fever",
            "shivering",
        ],
        absent: &["calf tenderness", "trauma", "numbness", "cough"],
        exam: &[
            "A warm, tender erythema covers the {side} shin.",
            "The border is marked with a pen.",
            "Fissures are seen between the toes of the {side} foot.",
        ],
        labs: &[
            lab("white cell count", "WBC", (11.4, 18.2), "x10^9/L"),
            lab("C-reactive protein", "CRP", (45.0, 210.0), "mg/L"),
            lab("lactate", "Lac", (0.9, 2.4), "mmol/L"),
        ],
        image: Image {
            study: "Doppler ultrasound of the {side} leg",
            findings: &[
                "The deep veins of the {side} leg compress fully.",
                "There is subcutaneous edema.",
                "No collection is seen.",
            ],
            impression: "soft tissue edema of the {side} leg, no deep vein thrombosis",
        },
        drugs: &[
            drug(
                "flucloxacillin",
                &["500 mg", "1 g"],
                "by mouth four times daily",
            ),
            drug(
                "cefazolin",
                &["1 g", "2 g"],
                "intravenously three times daily",
            ),
            drug(
                "clindamycin",
                &["300 mg", "450 mg"],
                "by mouth three times daily",
            ),
        ],
        course: &[
            "The redness withdrew behind the pen mark.",
            "The leg was kept raised.",
            "Athlete's foot was treated with a cream.",
            "Blood cultures remained sterile.",
        ],
        advice: &[
            "keep the leg raised",
            "finish the antibiotic course",
            "dry well between the toes",
        ],
        ages: (27, 87),
        febrile: true,
        urgency: 4,
    },
    Condition {
        name: "fracture of the distal radius",
        short: "DRF",
        complaints: &[
            "fell on outstretched hand, {side} wrist pain",
            "{side} wrist deformity after a fall",
            "wrist injury",
        ],
        words: &[
            "I slipped on the ice and landed on my {side} hand",
            "The wrist looks bent like a fork",
            "I cannot turn a key with it",
        ],
        symptoms: &[
            "pain in the {side} wrist",
            "swelling of the {side} wrist",
            "deformity",
            "reduced grip",
        ],
        absent: &[
            "numbness of the fingers",
            "head injury",
            "loss of consciousness",
            "elbow pain",
        ],
        exam: &[
            "Dorsal angulation of the {side} wrist with swelling.",
            "Pulses and sensation of the {side} hand are intact.",
            "The skin is closed.",
        ],
        labs: &[
            lab("vitamin D", "VitD", (9.0, 27.0), "ng/mL"),
            lab("calcium", "Ca", (8.6, 9.9), "mg/dL"),
        ],
        image: Image {
            study: "radiograph of the {side} wrist, two views",
            findings: &[
                "There is a transverse fracture of the distal {side} radius with dorsal tilt.",
                "The ulnar styloid is avulsed.",
                "The carpal bones are aligned.",
            ],
            impression: "displaced fracture of the distal {side} radius",
        },
        drugs: &[
            drug("acetaminophen", &["1000 mg"], "by mouth four times daily"),
            drug(
                "ibuprofen",
                &["400 mg", "600 mg"],
                "by mouth three times daily",
            ),
            drug("tramadol", &["50 mg"], "by mouth as needed"),
        ],
        course: &[
            "The fracture was reduced under a hematoma block.",
            "A plaster cast was applied to the {side} forearm.",
            "The position was good on the check radiograph.",
            "Bone density was requested.",
        ],
        advice: &[
            "move the fingers every hour",
            "keep the cast dry",
            "have a check radiograph in one week",
        ],
        ages: (36, 88),
        febrile: false,
        urgency: 4,
    },
    Condition {
        name: "migraine without aura",
        short: "migraine",
        complaints: &[
            "throbbing headache",
            "headache with vomiting, lights hurt",
            "{side} sided headache for two days",
        ],
        words: &[
            "It pounds behind my {side} eye",
            "I have to lie in a dark room",
            "The smell of food makes me sick",
        ],
        symptoms: &[
            "throbbing headache on the {side}",
            "nausea",
            "photophobia",
            "phonophobia",
        ],
        absent: &["fever", "neck stiffness", "weakness", "head injury"],
        exam: &[
            "Cranial nerves are intact.",
            "There is no neck stiffness.",
            "The fundi are normal.",
        ],
        labs: &[
            lab("C-reactive protein", "CRP", (0.4, 3.8), "mg/L"),
            lab("ferritin", "Ferr", (8.0, 64.0), "ng/mL"),
        ],
        image: Image {
            study: "CT of the head without contrast",
            findings: &[
                "There is no hemorrhage and no mass.",
                "The ventricles are of normal size.",
                "The {side} maxillary sinus holds a retention cyst.",
            ],
            impression: "no acute intracranial disease",
        },
        drugs: &[
            drug("sumatriptan", &["50 mg", "100 mg"], "by mouth as needed"),
            drug("metoclopramide", &["10 mg"], "intravenously once"),
            drug("propranolol", &["40 mg", "80 mg"], "by mouth twice daily"),
            drug("naproxen", &["500 mg"], "by mouth twice daily"),
        ],
        course: &[
            "The headache settled with fluids and metoclopramide.",
            "{he} could eat the next morning.",
            "A headache diary was begun.",
            "Prevention was discussed.",
        ],
        advice: &[
            "keep a headache diary",
            "use the triptan early",
            "limit painkillers to two days a week",
        ],
        ages: (18, 56),
        febrile: false,
        urgency: 4,
    },
    Condition {
        name: "iron deficiency anemia",
        short: "IDA",
        complaints: &[
            "tired and pale",
            "dizzy on standing, low hemoglobin",
            "referred for low blood count",
        ],
        words: &[
            "I am worn out by noon",
            "I get dizzy when I stand up",
            "My heart races on the stairs",
        ],
        symptoms: &[
            "fatigue",
            "dizziness",
            "exertional dyspnea",
            "palpitations",
            "brittle nails",
        ],
        absent: &["weight loss", "night sweats", "chest pain", "fever"],
        exam: &[
            "The conjunctivae are pale.",
            "There is a soft systolic flow murmur.",
            "The abdomen is soft without masses.",
        ],
        labs: &[
            lab("hemoglobin", "Hb", (6.4, 9.6), "g/dL"),
            lab("ferritin", "Ferr", (3.0, 13.0), "ng/mL"),
            lab("mean cell volume", "MCV", (62.0, 76.0), "fL"),
        ],
        image: Image {
            study: "CT of the abdomen with contrast",
            findings: &[
                "The wall of the cecum is thickened.",
                "There are no enlarged lymph nodes.",
                "The liver is normal.",
            ],
            impression: "thickening of the cecal wall, colonoscopy advised",
        },
        drugs: &[
            drug(
                "ferric carboxymaltose",
                &["500 mg", "1000 mg"],
                "intravenously once",
            ),
            drug(
                "ferrous sulfate",
                &["200 mg", "325 mg"],
                "by mouth once daily",
            ),
            drug("pantoprazole", &["40 mg"], "by mouth before breakfast"),
        ],
        course: &[
            "Two units of red cells were transfused.",
            "Gastroscopy showed an erosive gastritis.",
            "Iron was given intravenously.",
            "The hemoglobin rose and stayed stable.",
        ],
        advice: &[
            "take the iron with orange juice",
            "have the blood count checked in two weeks",
            "report black stools",
        ],
        ages: (20, 85),
        febrile: false,
        urgency: 4,
    },
];
