//! Conditions of abdomen and urinary tract.

use crate::prepare::synthetic::condition::{Condition, Image, drug, lab};

pub const CONDITIONS: &[Condition] = &[
    Condition {
        name: "acute appendicitis",
        short: "appendicitis",
        complaints: &[
            "right lower abdominal pain",
            "abdominal pain, vomiting",
            "belly pain since last night",
        ],
        words: &[
            "It began around my belly button and then moved down to the right",
            "Every bump in the road hurt",
            "I could not eat anything today",
        ],
        symptoms: &[
            "right iliac fossa pain",
            "nausea",
            "vomiting",
            "loss of appetite",
            "low-grade fever",
        ],
        absent: &["dysuria", "diarrhea", "jaundice", "blood in the stool"],
        exam: &[
            "Tenderness with guarding in the right iliac fossa.",
            "Rovsing's sign is positive.",
            "Rebound tenderness at McBurney's point.",
        ],
        labs: &[
            lab("white cell count", "WBC", (11.8, 19.5), "x10^9/L"),
            lab("C-reactive protein", "CRP", (24.0, 160.0), "mg/L"),
            lab("neutrophils", "Neut", (9.1, 16.8), "x10^9/L"),
        ],
        image: Image {
            study: "CT of the abdomen and pelvis with contrast",
            findings: &[
                "The appendix is dilated with a thickened wall.",
                "There is stranding of the fat around the cecum.",
                "No abscess and no free gas are seen.",
            ],
            impression: "acute uncomplicated appendicitis",
        },
        drugs: &[
            drug(
                "cefuroxime",
                &["750 mg", "1.5 g"],
                "intravenously three times daily",
            ),
            drug(
                "metronidazole",
                &["500 mg"],
                "intravenously three times daily",
            ),
            drug("ibuprofen", &["400 mg"], "by mouth three times daily"),
        ],
        course: &[
            "Laparoscopic appendectomy was uneventful.",
            "{he} ate and walked on the first day after surgery.",
            "Histology confirmed acute inflammation.",
            "The wounds were clean and dry.",
        ],
        advice: &[
            "keep the wounds dry for two days",
            "lift nothing heavy for four weeks",
            "come back with fever or spreading redness",
        ],
        ages: (18, 54),
        febrile: true,
        urgency: 3,
    },
    Condition {
        name: "acute cholecystitis",
        short: "cholecystitis",
        complaints: &[
            "right upper abdominal pain after meals",
            "upper abdominal pain and fever",
            "pain under the ribs",
        ],
        words: &[
            "It comes after greasy food and goes to my shoulder blade",
            "The pain under my right ribs does not let up",
            "I threw up twice",
        ],
        symptoms: &[
            "right upper quadrant pain",
            "pain in the right shoulder",
            "nausea",
            "fever",
            "vomiting",
        ],
        absent: &["dark urine", "diarrhea", "chest pain", "weight loss"],
        exam: &[
            "Murphy's sign is positive.",
            "The right upper quadrant is tender.",
            "The sclerae are not icteric.",
        ],
        labs: &[
            lab("white cell count", "WBC", (12.1, 20.2), "x10^9/L"),
            lab("alkaline phosphatase", "ALP", (130.0, 310.0), "U/L"),
            lab("bilirubin", "Bili", (1.2, 3.4), "mg/dL"),
        ],
        image: Image {
            study: "abdominal ultrasound",
            findings: &[
                "The gallbladder wall is thickened and holds several stones.",
                "There is fluid around the gallbladder.",
                "The common bile duct is of normal width.",
            ],
            impression: "gallstones with acute cholecystitis",
        },
        drugs: &[
            drug(
                "piperacillin-tazobactam",
                &["4.5 g"],
                "intravenously three times daily",
            ),
            drug(
                "amoxicillin-clavulanate",
                &["625 mg", "875 mg"],
                "by mouth twice daily",
            ),
            drug("hyoscine", &["20 mg"], "intravenously as needed"),
        ],
        course: &[
            "Laparoscopic cholecystectomy was done on the second day.",
            "The fever settled with antibiotics.",
            "Liver tests returned towards normal.",
            "{he} tolerated a light diet.",
        ],
        advice: &[
            "eat low-fat meals for two weeks",
            "come back if the skin turns yellow",
            "have the stitches removed in ten days",
        ],
        ages: (28, 82),
        febrile: true,
        urgency: 3,
    },
    Condition {
        name: "acute pancreatitis",
        short: "pancreatitis",
        complaints: &[
            "severe upper abdominal pain through to the back",
            "epigastric pain, vomiting",
            "abdominal pain after drinking",
        ],
        words: &[
            "It bores straight through to my back",
            "Leaning forward is the only thing that helps",
            "I have not kept anything down",
        ],
        symptoms: &[
            "epigastric pain radiating to the back",
            "vomiting",
            "nausea",
            "abdominal distension",
            "loss of appetite",
        ],
        absent: &["fever", "blood in the stool", "chest pain", "dysuria"],
        exam: &[
            "The epigastrium is tender with voluntary guarding.",
            "Bowel sounds are reduced.",
            "There is no bruising of the flanks.",
        ],
        labs: &[
            lab("lipase", "Lip", (640.0, 4900.0), "U/L"),
            lab("calcium", "Ca", (7.4, 8.6), "mg/dL"),
            lab("triglycerides", "TG", (180.0, 940.0), "mg/dL"),
        ],
        image: Image {
            study: "CT of the abdomen with contrast",
            findings: &[
                "The pancreas is swollen with surrounding fat stranding.",
                "No necrosis is seen.",
                "A little fluid lies in the {side} anterior pararenal space.",
            ],
            impression: "acute interstitial pancreatitis",
        },
        drugs: &[
            drug(
                "lactated Ringer's solution",
                &["150 mL/h", "200 mL/h", "250 mL/h"],
                "intravenously",
            ),
            drug(
                "hydromorphone",
                &["0.5 mg", "1 mg"],
                "intravenously as needed",
            ),
            drug("ondansetron", &["4 mg", "8 mg"], "intravenously as needed"),
        ],
        course: &[
            "Generous fluids were given in the first day.",
            "Pain came under control and feeding was resumed.",
            "No gallstones were found.",
            "The lipase fell by half in two days.",
        ],
        advice: &[
            "drink no alcohol",
            "eat small meals with little fat",
            "see the clinic in four weeks",
        ],
        ages: (27, 78),
        febrile: false,
        urgency: 3,
    },
    Condition {
        name: "acute pyelonephritis",
        short: "pyelonephritis",
        complaints: &[
            "flank pain and fever",
            "burning urine with shaking chills",
            "{side} sided back pain, fever",
        ],
        words: &[
            "It burns when I pass water",
            "My {side} side aches and I have had the shakes",
            "I run to the toilet every half hour",
        ],
        symptoms: &[
            "{side} flank pain",
            "fever",
            "rigors",
            "dysuria",
            "urinary frequency",
        ],
        absent: &["vaginal discharge", "cough", "diarrhea", "hematuria"],
        exam: &[
            "Tenderness on percussion of the {side} costovertebral angle.",
            "The abdomen is soft.",
            "{he} is flushed and warm.",
        ],
        labs: &[
            lab("white cell count", "WBC", (12.9, 21.4), "x10^9/L"),
            lab("C-reactive protein", "CRP", (70.0, 240.0), "mg/L"),
            lab("urine leukocytes", "U-Leu", (75.0, 500.0), "per uL"),
        ],
        image: Image {
            study: "renal ultrasound",
            findings: &[
                "The {side} kidney is enlarged.",
                "There is no hydronephrosis.",
                "The {other} kidney is normal.",
            ],
            impression: "swollen {side} kidney consistent with pyelonephritis, no obstruction",
        },
        drugs: &[
            drug(
                "gentamicin",
                &["240 mg", "320 mg"],
                "intravenously once daily",
            ),
            drug("ciprofloxacin", &["500 mg"], "by mouth twice daily"),
            drug("ceftriaxone", &["1 g"], "intravenously once daily"),
        ],
        course: &[
            "Urine grew Escherichia coli.",
            "The fever settled within two days.",
            "Antibiotics were changed to tablets by sensitivity.",
            "Renal function was normal throughout.",
        ],
        advice: &[
            "drink two liters a day",
            "finish the antibiotic course",
            "bring a urine sample in two weeks",
        ],
        ages: (19, 79),
        febrile: true,
        urgency: 3,
    },
    Condition {
        name: "ureteric stone",
        short: "renal colic",
        complaints: &[
            "{side} loin pain in waves",
            "severe flank pain, restless",
            "pain from back to groin",
        ],
        words: &[
            "It comes in waves and I cannot sit still",
            "It shoots from my {side} side down to the groin",
            "There was some blood in my urine",
        ],
        symptoms: &[
            "colicky {side} loin pain",
            "pain radiating to the groin",
            "hematuria",
            "nausea",
            "restlessness",
        ],
        absent: &["fever", "rigors", "diarrhea", "jaundice"],
        exam: &[
            "The {side} loin is tender.",
            "The abdomen is soft without guarding.",
            "{he} cannot find a comfortable position.",
        ],
        labs: &[
            lab("urine red cells", "U-RBC", (50.0, 300.0), "per uL"),
            lab("creatinine", "Cr", (0.9, 1.6), "mg/dL"),
            lab("uric acid", "UA", (5.2, 9.8), "mg/dL"),
        ],
        image: Image {
            study: "CT of the urinary tract without contrast",
            findings: &[
                "A stone lies in the distal {side} ureter.",
                "There is mild {side} hydronephrosis.",
                "The {other} urinary tract is normal.",
            ],
            impression: "obstructing {side} ureteric stone",
        },
        drugs: &[
            drug("diclofenac", &["50 mg", "75 mg"], "by mouth twice daily"),
            drug("tamsulosin", &["0.4 mg"], "by mouth once daily"),
            drug("morphine", &["5 mg", "10 mg"], "subcutaneously as needed"),
        ],
        course: &[
            "Pain settled with diclofenac.",
            "The stone passed on the second day.",
            "A ureteric stent was not needed.",
            "The stone was sent for analysis.",
        ],
        advice: &[
            "drink enough to keep the urine pale",
            "sieve the urine and keep the stone",
            "come back at once with fever",
        ],
        ages: (21, 71),
        febrile: false,
        urgency: 3,
    },
];
