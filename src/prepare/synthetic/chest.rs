//! Conditions of heart and lungs.

use crate::prepare::synthetic::condition::{Condition, Image, drug, lab};

pub const CONDITIONS: &[Condition] = &[
    Condition {
        name: "community-acquired pneumonia",
        short: "CAP",
        complaints: &[
            "cough and fever",
            "fever, productive cough",
            "short of breath with fever",
        ],
        words: &[
            "I keep coughing up this green stuff",
            "I have been burning up since the weekend",
            "It hurts here on the {side} when I breathe in",
        ],
        symptoms: &[
            "productive cough",
            "fever",
            "chills",
            "pleuritic pain on the {side}",
            "shortness of breath",
            "loss of appetite",
        ],
        absent: &["hemoptysis", "leg swelling", "recent travel", "weight loss"],
        exam: &[
            "Coarse crackles at the {side} base.",
            "Bronchial breathing over the {side} lower zone.",
            "The percussion note is dull on the {side}.",
        ],
        labs: &[
            lab("white cell count", "WBC", (12.5, 22.0), "x10^9/L"),
            lab("C-reactive protein", "CRP", (85.0, 290.0), "mg/L"),
            lab("procalcitonin", "PCT", (0.6, 4.8), "ng/mL"),
        ],
        image: Image {
            study: "chest radiograph, two views",
            findings: &[
                "There is consolidation in the {side} lower lobe with air bronchograms.",
                "A small {side} pleural effusion is present.",
                "The {other} lung is clear.",
            ],
            impression: "{side} lower lobe pneumonia",
        },
        drugs: &[
            drug("ceftriaxone", &["1 g", "2 g"], "intravenously once daily"),
            drug("azithromycin", &["500 mg"], "by mouth once daily"),
            drug(
                "amoxicillin",
                &["500 mg", "1 g"],
                "by mouth three times daily",
            ),
        ],
        course: &[
            "{he} defervesced on the second day of antibiotics.",
            "Supplemental oxygen was weaned as the cough loosened.",
            "Blood cultures remained sterile.",
            "Sputum grew Streptococcus pneumoniae.",
        ],
        advice: &[
            "finish the antibiotic course",
            "repeat the chest radiograph in six weeks",
            "come back if the fever returns",
        ],
        ages: (24, 91),
        febrile: true,
        urgency: 3,
    },
    Condition {
        name: "acute exacerbation of chronic obstructive pulmonary disease",
        short: "AECOPD",
        complaints: &[
            "worsening breathlessness, known COPD",
            "wheeze and cough",
            "cannot finish sentences",
        ],
        words: &[
            "I cannot get up the stairs any more without stopping",
            "My blue inhaler does nothing now",
            "The chest has been tight and whistling for days",
        ],
        symptoms: &[
            "worsening dyspnea",
            "wheeze",
            "increased sputum",
            "chest tightness",
            "poor sleep",
        ],
        absent: &["chest pain", "fever", "calf pain", "palpitations"],
        exam: &[
            "Widespread expiratory wheeze.",
            "Prolonged expiration with pursed lips.",
            "The chest is hyperinflated and the breath sounds are quiet.",
        ],
        labs: &[
            lab("arterial pCO2", "pCO2", (46.0, 71.0), "mmHg"),
            lab("arterial pH", "pH", (7.26, 7.36), ""),
            lab("eosinophils", "Eos", (0.1, 0.8), "x10^9/L"),
        ],
        image: Image {
            study: "chest radiograph, portable",
            findings: &[
                "The lungs are hyperinflated with flattened diaphragms.",
                "No focal consolidation is seen.",
                "Bullae are noted at the {side} apex.",
            ],
            impression: "hyperinflation consistent with chronic obstructive pulmonary disease, \
                         no pneumonia",
        },
        drugs: &[
            drug("prednisone", &["30 mg", "40 mg"], "by mouth once daily"),
            drug(
                "salbutamol",
                &["2.5 mg", "5 mg"],
                "by nebulizer every four hours",
            ),
            drug("ipratropium", &["0.5 mg"], "by nebulizer every six hours"),
            drug("doxycycline", &["100 mg"], "by mouth twice daily"),
        ],
        course: &[
            "Non-invasive ventilation was needed for one night.",
            "The wheeze settled with nebulizers and steroids.",
            "Inhaler technique was reviewed by the respiratory nurse.",
            "{he} was weaned to room air.",
        ],
        advice: &[
            "stop smoking",
            "use the spacer with every inhaler",
            "attend pulmonary rehabilitation",
        ],
        ages: (48, 88),
        febrile: false,
        urgency: 2,
    },
    Condition {
        name: "acute decompensated heart failure",
        short: "ADHF",
        complaints: &[
            "leg swelling and breathlessness",
            "cannot lie flat",
            "weight gain, short of breath",
        ],
        words: &[
            "I have to sleep in the armchair",
            "My shoes do not fit because of the swelling",
            "I wake up at night gasping",
        ],
        symptoms: &[
            "orthopnea",
            "leg edema",
            "exertional dyspnea",
            "weight gain",
            "nocturnal dyspnea",
        ],
        absent: &["chest pain", "syncope", "fever", "cough"],
        exam: &[
            "Pitting edema to both knees.",
            "The jugular venous pressure is raised.",
            "Fine crackles at both bases.",
            "A third heart sound is heard.",
        ],
        labs: &[
            lab("NT-proBNP", "NT-proBNP", (1800.0, 14000.0), "pg/mL"),
            lab("creatinine", "Cr", (1.2, 2.3), "mg/dL"),
            lab("sodium", "Na", (127.0, 135.0), "mmol/L"),
        ],
        image: Image {
            study: "chest radiograph, portable",
            findings: &[
                "The heart is enlarged.",
                "There is upper-lobe diversion with interstitial edema.",
                "Bilateral pleural effusions are present, larger on the {side}.",
            ],
            impression: "cardiomegaly with pulmonary edema",
        },
        drugs: &[
            drug(
                "furosemide",
                &["40 mg", "80 mg"],
                "intravenously twice daily",
            ),
            drug(
                "bisoprolol",
                &["1.25 mg", "2.5 mg", "5 mg"],
                "by mouth once daily",
            ),
            drug("spironolactone", &["25 mg"], "by mouth once daily"),
            drug("ramipril", &["2.5 mg", "5 mg"], "by mouth once daily"),
        ],
        course: &[
            "{he} lost several kilograms with intravenous diuretics.",
            "The echocardiogram showed a reduced ejection fraction.",
            "Diuretics were changed to tablets once {he} could lie flat.",
            "Renal function stayed stable.",
        ],
        advice: &[
            "weigh yourself every morning",
            "limit salt and fluids",
            "call the heart failure nurse if the weight rises by two kilograms",
        ],
        ages: (52, 94),
        febrile: false,
        urgency: 2,
    },
    Condition {
        name: "non-ST-elevation myocardial infarction",
        short: "NSTEMI",
        complaints: &[
            "central chest pain",
            "chest pain to the {side} arm",
            "chest tightness and sweating",
        ],
        words: &[
            "It felt like somebody sitting on my chest",
            "The pain went down my {side} arm",
            "I was sweating and felt sick with it",
        ],
        symptoms: &[
            "central chest pain",
            "sweating",
            "nausea",
            "pain in the {side} arm",
            "shortness of breath",
        ],
        absent: &["fever", "cough", "pleuritic pain", "calf swelling"],
        exam: &[
            "Heart sounds are normal without murmur.",
            "{he} looks pale and clammy.",
            "The lungs are clear.",
        ],
        labs: &[
            lab("troponin I", "TnI", (180.0, 9400.0), "ng/L"),
            lab("LDL cholesterol", "LDL", (112.0, 198.0), "mg/dL"),
            lab("creatine kinase", "CK", (240.0, 1300.0), "U/L"),
        ],
        image: Image {
            study: "coronary angiography",
            findings: &[
                "There is a tight stenosis of the circumflex artery.",
                "The anterior descending artery has diffuse disease.",
                "Left ventricular function is mildly reduced.",
            ],
            impression: "significant coronary artery disease treated with one stent",
        },
        drugs: &[
            drug("aspirin", &["75 mg", "81 mg"], "by mouth once daily"),
            drug("ticagrelor", &["90 mg"], "by mouth twice daily"),
            drug("atorvastatin", &["80 mg"], "by mouth at night"),
            drug("metoprolol", &["25 mg", "50 mg"], "by mouth twice daily"),
        ],
        course: &[
            "The electrocardiogram showed lateral ST depression.",
            "A stent was placed without complication.",
            "{he} had no further pain.",
            "Cardiac rehabilitation was arranged.",
        ],
        advice: &[
            "take both antiplatelet tablets for a year",
            "do not drive for one week",
            "attend cardiac rehabilitation",
        ],
        ages: (42, 89),
        febrile: false,
        urgency: 2,
    },
    Condition {
        name: "pulmonary embolism",
        short: "PE",
        complaints: &[
            "sudden breathlessness",
            "sharp chest pain on the {side}",
            "breathless after a long flight",
        ],
        words: &[
            "It came on all of a sudden",
            "There is a stabbing pain on the {side} when I breathe",
            "My calf was sore a few days before",
        ],
        symptoms: &[
            "sudden dyspnea",
            "pleuritic pain on the {side}",
            "calf pain",
            "palpitations",
            "hemoptysis",
        ],
        absent: &["fever", "productive cough", "wheeze", "abdominal pain"],
        exam: &[
            "The {side} calf is swollen and tender.",
            "The chest is clear on auscultation.",
            "There is a regular tachycardia.",
        ],
        labs: &[
            lab("D-dimer", "DD", (1400.0, 8800.0), "ng/mL"),
            lab("troponin I", "TnI", (12.0, 140.0), "ng/L"),
            lab("arterial pO2", "pO2", (52.0, 71.0), "mmHg"),
        ],
        image: Image {
            study: "CT pulmonary angiography",
            findings: &[
                "Filling defects are present in the {side} lower lobe arteries.",
                "There is no right heart strain.",
                "A wedge-shaped opacity abuts the {side} pleura.",
            ],
            impression: "acute pulmonary embolism of the {side} lower lobe",
        },
        drugs: &[
            drug("apixaban", &["5 mg", "10 mg"], "by mouth twice daily"),
            drug(
                "enoxaparin",
                &["60 mg", "80 mg", "100 mg"],
                "subcutaneously twice daily",
            ),
            drug("rivaroxaban", &["15 mg", "20 mg"], "by mouth with food"),
        ],
        course: &[
            "Anticoagulation was started on arrival.",
            "Oxygen was needed for two days.",
            "A Doppler scan confirmed thrombosis of the {side} leg.",
            "{he} stayed hemodynamically stable.",
        ],
        advice: &[
            "take the anticoagulant for at least three months",
            "report any bleeding",
            "avoid long journeys without a break",
        ],
        ages: (22, 86),
        febrile: false,
        urgency: 2,
    },
];
