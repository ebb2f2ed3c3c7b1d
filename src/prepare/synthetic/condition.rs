//! What a note can be about: conditions with all that follows from them.
//!
//! Texts may hold `{side}`, `{other}` (the other side), `{he}`, `{his}`, `{him}`; the tables of
//! conditions are [`chest`], [`abdomen`] and [`systemic`].

use crate::prepare::synthetic::{abdomen, chest, systemic};

pub struct Condition {
    pub name: &'static str,
    /// As a house writes it that abbreviates.
    pub short: &'static str,
    /// What triage writes down.
    pub complaints: &'static [&'static str],
    /// What the patient says.
    pub words: &'static [&'static str],
    pub symptoms: &'static [&'static str],
    /// Symptoms whose absence matters.
    pub absent: &'static [&'static str],
    pub exam: &'static [&'static str],
    /// Laboratory values as this condition changes them.
    pub labs: &'static [Lab],
    pub image: Image,
    pub drugs: &'static [Drug],
    pub course: &'static [&'static str],
    pub advice: &'static [&'static str],
    /// Ages in years, both possible.
    pub ages: (usize, usize),
    pub febrile: bool,
    /// Triage category, 1 (now) to 5 (can wait).
    pub urgency: usize,
}

#[derive(Clone, Copy)]
pub struct Lab {
    pub name: &'static str,
    pub short: &'static str,
    pub low: f64,
    pub high: f64,
    pub decimals: usize,
    pub unit: &'static str,
}

pub struct Image {
    pub study: &'static str,
    pub findings: &'static [&'static str],
    pub impression: &'static str,
}

#[derive(Clone, Copy)]
pub struct Drug {
    pub name: &'static str,
    pub doses: &'static [&'static str],
    /// Way and times: "by mouth twice daily".
    pub how: &'static str,
}

/// A disease the patient has had for years, with its drug.
pub struct Background {
    pub name: &'static str,
    pub short: &'static str,
    pub drug: Drug,
    pub age_min: usize,
}

pub const fn lab(
    name: &'static str,
    short: &'static str,
    range: (f64, f64),
    unit: &'static str,
) -> Lab {
    let decimals = if range.1 < 5.0 {
        2
    } else if range.1 < 30.0 {
        1
    } else {
        0
    };
    Lab {
        name,
        short,
        low: range.0,
        high: range.1,
        decimals,
        unit,
    }
}

pub const fn drug(name: &'static str, doses: &'static [&'static str], how: &'static str) -> Drug {
    Drug { name, doses, how }
}

/// Every condition, in a fixed order.
pub fn all() -> Vec<&'static Condition> {
    chest::CONDITIONS
        .iter()
        .chain(abdomen::CONDITIONS)
        .chain(systemic::CONDITIONS)
        .collect()
}

/// Values that are normal unless the condition says otherwise.
pub const NORMAL_LABS: &[Lab] = &[
    lab("hemoglobin", "Hb", (12.4, 15.9), "g/dL"),
    lab("white cell count", "WBC", (4.6, 10.2), "x10^9/L"),
    lab("platelets", "PLT", (160.0, 380.0), "x10^9/L"),
    lab("sodium", "Na", (136.0, 144.0), "mmol/L"),
    lab("potassium", "K", (3.6, 4.9), "mmol/L"),
    lab("creatinine", "Cr", (0.6, 1.1), "mg/dL"),
    lab("C-reactive protein", "CRP", (0.3, 4.9), "mg/L"),
    lab("glucose", "Glu", (82.0, 118.0), "mg/dL"),
    lab("bilirubin", "Bili", (0.3, 1.1), "mg/dL"),
    lab("alanine aminotransferase", "ALT", (12.0, 38.0), "U/L"),
];

pub const BACKGROUNDS: &[Background] = &[
    Background {
        name: "hypertension",
        short: "HTN",
        drug: drug("amlodipine", &["5 mg", "10 mg"], "by mouth once daily"),
        age_min: 35,
    },
    Background {
        name: "type 2 diabetes mellitus",
        short: "T2DM",
        drug: drug(
            "metformin",
            &["500 mg", "850 mg", "1000 mg"],
            "by mouth twice daily",
        ),
        age_min: 35,
    },
    Background {
        name: "hypothyroidism",
        short: "hypothyroidism",
        drug: drug(
            "levothyroxine",
            &["50 mcg", "75 mcg", "100 mcg"],
            "by mouth every morning",
        ),
        age_min: 25,
    },
    Background {
        name: "hyperlipidemia",
        short: "HLD",
        drug: drug(
            "atorvastatin",
            &["20 mg", "40 mg", "80 mg"],
            "by mouth at night",
        ),
        age_min: 40,
    },
    Background {
        name: "gout",
        short: "gout",
        drug: drug("allopurinol", &["100 mg", "300 mg"], "by mouth once daily"),
        age_min: 40,
    },
    Background {
        name: "gastroesophageal reflux",
        short: "GERD",
        drug: drug(
            "omeprazole",
            &["20 mg", "40 mg"],
            "by mouth before breakfast",
        ),
        age_min: 20,
    },
    Background {
        name: "depression",
        short: "MDD",
        drug: drug("sertraline", &["50 mg", "100 mg"], "by mouth once daily"),
        age_min: 18,
    },
    Background {
        name: "osteoarthritis of the knee",
        short: "knee OA",
        drug: drug(
            "acetaminophen",
            &["500 mg", "1000 mg"],
            "by mouth as needed",
        ),
        age_min: 50,
    },
    Background {
        name: "migraine",
        short: "migraine",
        drug: drug("sumatriptan", &["50 mg", "100 mg"], "by mouth as needed"),
        age_min: 18,
    },
    Background {
        name: "benign prostatic hyperplasia",
        short: "BPH",
        drug: drug("tamsulosin", &["0.4 mg"], "by mouth at night"),
        age_min: 55,
    },
    Background {
        name: "epilepsy",
        short: "epilepsy",
        drug: drug(
            "levetiracetam",
            &["500 mg", "750 mg"],
            "by mouth twice daily",
        ),
        age_min: 18,
    },
    Background {
        name: "osteoporosis",
        short: "osteoporosis",
        drug: drug("alendronate", &["70 mg"], "by mouth once weekly"),
        age_min: 60,
    },
];
