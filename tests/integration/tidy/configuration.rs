//! docs/configuration.md against the settings in the code: every key and every word that YAML may
//! say stands there, nothing else does, and what it shows loads.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use cohort::config::{self, RunConfig};
use cohort::prepare::config::{CorpusConfig, SourceConfig};
use cohort::run::schedule::PhaseSettings;

use super::source::{Source, first_word, sources};
use super::{expect_none, root};

/// What the files are read into, and the mapping that a hand-written reader of `text` hides.
const ROOTS: [&str; 3] = ["CorpusConfig", "RunConfig", "Join"];

/// Not of the YAML, but with the name of a type that is: what a run's `precision` comes to.
const NAMESAKES: [&str; 1] = ["src/model/encoder.rs"];

/// What stands between the words of a variant's name, by serde's rules.
const SEPARATORS: [(&str, &str); 3] = [("snake_case", "_"), ("kebab-case", "-"), ("lowercase", "")];

/// A type that YAML is read into.
struct Settings {
    file: String,
    /// Its keys, or the words of its variants, as they stand in YAML.
    words: Vec<String>,
    /// Every word of its fields' types.
    mentions: BTreeSet<String>,
}

fn page() -> String {
    fs::read_to_string(root().join("docs/configuration.md")).unwrap()
}

#[test]
fn every_key_is_described() {
    let page = page();
    let reached = reached();
    assert!(reached.len() >= 30, "only {} types", reached.len());
    let mut complaints = Vec::new();
    for (name, settings) in &reached {
        for word in &settings.words {
            if !page.contains(&format!("`{word}`")) {
                complaints.push(format!(
                    "docs/configuration.md does not say what `{word}` is, of {name} in {}",
                    settings.file
                ));
            }
        }
    }
    expect_none(&complaints);
}

#[test]
fn no_key_is_described_that_is_none() {
    let reached = reached();
    let known: BTreeSet<&str> = reached
        .values()
        .flat_map(|settings| settings.words.iter().map(String::as_str))
        .collect();
    let page = page();
    let keys: Vec<&str> = page
        .lines()
        .filter_map(|row| row.strip_prefix("| `")?.split(" | ").next())
        .flat_map(|cell| cell.trim_end_matches('`').split("`, `"))
        .map(|key| key.split(':').next().unwrap_or(key))
        .collect();
    assert!(keys.len() >= 100, "only {} rows", keys.len());
    let complaints: Vec<String> = keys
        .iter()
        .filter(|key| !known.contains(**key))
        .map(|key| format!("docs/configuration.md describes `{key}`, which is no key"))
        .collect();
    expect_none(&complaints);
}

#[test]
fn every_example_loads() {
    let page = page();
    let mut loaded = BTreeMap::new();
    for example in page.split("\n```yaml\n").skip(1) {
        let (example, _) = example.split_once("\n```\n").unwrap();
        let marker = example.lines().next().unwrap();
        let origin = format!("docs/configuration.md, {marker}");
        let result = match marker {
            "# corpus" => config::parse::<CorpusConfig>(example, &origin).map(drop),
            "# source" => config::parse::<SourceConfig>(example, &origin).map(drop),
            "# run" => config::parse::<RunConfig>(example, &origin).map(drop),
            "# phase" => config::parse::<PhaseSettings>(example, &origin).map(drop),
            other => panic!("an example begins with {other:?}, and not with what it is"),
        };
        result.unwrap();
        *loaded.entry(marker).or_insert(0) += 1;
    }
    for marker in ["# corpus", "# run"] {
        assert!(loaded[marker] >= 2, "{loaded:?}");
    }
}

/// The types that a corpus or a run is made of, by name.
fn reached() -> BTreeMap<String, Settings> {
    let mut known: BTreeMap<String, Vec<Settings>> = BTreeMap::new();
    let sources = sources("src");
    let with_settings = sources
        .iter()
        .filter(|source| !NAMESAKES.contains(&source.name.as_str()));
    for source in with_settings {
        for (name, settings) in settings_of(source) {
            known.entry(name).or_default().push(settings);
        }
    }
    let mut reached = BTreeMap::new();
    let mut wanted: Vec<String> = ROOTS.map(str::to_owned).to_vec();
    for root in ROOTS {
        assert!(known.contains_key(root), "there is no {root} any more");
    }
    while let Some(name) = wanted.pop() {
        let Some(mut found) = known.remove(&name) else {
            continue;
        };
        assert_eq!(found.len(), 1, "two types of settings are named {name}");
        let settings = found.remove(0);
        wanted.extend(settings.mentions.iter().cloned());
        reached.insert(name, settings);
    }
    reached
}

/// The types of a file that are read or validated. Relies on how rustfmt breaks lines.
fn settings_of(source: &Source) -> Vec<(String, Settings)> {
    let mut found = Vec::new();
    let mut attributes = String::new();
    let mut lines = source.text.lines();
    while let Some(line) = lines.next() {
        if line.starts_with("#[") {
            attributes.push_str(line);
            continue;
        }
        let item = line.strip_prefix("pub ").unwrap_or(line);
        let is_enum = item.starts_with("enum ");
        let is_read = attributes.contains("Deserialize") || attributes.contains("Validate");
        if (is_enum || item.starts_with("struct ")) && item.ends_with('{') && is_read {
            let name = first_word(item.split_once(' ').unwrap().1).to_owned();
            let body: Vec<&str> = lines.by_ref().take_while(|line| *line != "}").collect();
            let settings = read_body(&source.name, &body, is_enum, &attributes);
            found.push((name, settings));
        }
        attributes.clear();
    }
    found
}

fn read_body(file: &str, body: &[&str], is_enum: bool, attributes: &str) -> Settings {
    // These have no words of their own: YAML says what is inside.
    let is_bare = attributes.contains("untagged") || attributes.contains("transparent");
    let rule = quoted(attributes, "rename_all = \"");
    let separator = rule.map(|rule| {
        let found = SEPARATORS.iter().find(|(known, _)| *known == rule);
        assert!(found.is_some(), "{file}: this test does not know {rule}");
        found.unwrap().1
    });
    let mut settings = Settings {
        file: file.to_owned(),
        words: Vec::new(),
        mentions: BTreeSet::new(),
    };
    let mut renamed = None;
    for line in body {
        let Some(line) = line.strip_prefix("    ") else {
            continue;
        };
        if line.starts_with("#[") {
            renamed = quoted(line, "(rename = \"").or(renamed);
            continue;
        }
        let line = line.strip_prefix("pub ").unwrap_or(line);
        let name = first_word(line);
        if name.is_empty() || line.starts_with("//") {
            continue;
        }
        let words = line[name.len()..].split(|c: char| !c.is_alphanumeric() && c != '_');
        settings.mentions.extend(words.map(str::to_owned));
        if !is_bare {
            let word = match renamed.take() {
                Some(renamed) => renamed.to_owned(),
                None => match separator {
                    Some(separator) if is_enum => in_yaml(name, separator),
                    _ => name.to_owned(),
                },
            };
            settings.words.push(word);
        }
    }
    settings
}

/// What stands in quotes after `before`, which ends with the opening one.
fn quoted<'a>(text: &'a str, before: &str) -> Option<&'a str> {
    text.split_once(before)?.1.split('"').next()
}

/// A variant's name as serde writes it.
fn in_yaml(variant: &str, separator: &str) -> String {
    let mut word = String::new();
    for letter in variant.chars() {
        if letter.is_uppercase() && !word.is_empty() {
            word.push_str(separator);
        }
        word.extend(letter.to_lowercase());
    }
    word
}

#[test]
fn settings_are_read_as_serde_reads_them() {
    let read = |text: &str| {
        let source = Source::of("src/x.rs", text);
        let found = settings_of(&source);
        let words = |(name, settings): &(String, Settings)| format!("{name}: {:?}", settings.words);
        found.iter().map(words).collect::<Vec<_>>()
    };
    let text = concat!(
        "#[derive(Deserialize)]\n#[serde(rename_all = \"snake_case\")]\npub enum A {\n",
        "    /// The first: a comment.\n    #[default]\n    TwoWords,\n",
        "    #[serde(rename = \"utf-8\")]\n    Utf8(#[garde(dive)] B),\n}\n\n",
        "#[derive(Deserialize)]\nstruct B {\n    #[garde(\n        length(min = 1),\n    )]\n",
        "    pub some_key: Option<C>,\n    other: u8,\n}\n\n",
        "#[derive(Clone)]\npub struct C {\n    pub hidden: u8,\n}\n",
    );
    assert_eq!(
        read(text),
        [
            "A: [\"two_words\", \"utf-8\"]",
            "B: [\"some_key\", \"other\"]"
        ]
    );
}
