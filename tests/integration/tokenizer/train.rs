//! Training a tokenizer by itself.

use crate::support::python;

use super::*;

fn corpus(tokenizer: &Value) -> String {
    let read = json!({"synthetic": {"style": "progress_note", "documents": 60}});
    let yaml = json!({
        "name": "tiny",
        "output": "corpus",
        "tokenizer": tokenizer,
        "max_length": 64,
        "held_out": 0.1,
        "institutions": [{"id": "north", "name": "North", "sources": [
            {"id": "notes", "licence": "none", "read": read},
        ]}],
    });
    yaml.to_string()
}

#[test]
fn it_is_the_one_that_a_corpus_trains() {
    let place = Place::new();
    place.write(
        "corpus.yaml",
        corpus(&json!({"train": {"vocab_size": 704}})),
    );
    place.good(&["prepare", "corpus.yaml"]);
    place.good(&[
        "tokenizer",
        "train",
        "corpus.yaml",
        "--vocab-size",
        "704",
        "--output",
        "trained",
    ]);
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        let read = |folder: &str| fs::read(place.path(folder).join(file)).unwrap();
        assert!(read("corpus") == read("trained"), "{file}");
    }
    // A corpus takes it, and comes to the same shards.
    let digest = |manifest: &Value| manifest["institutions"][0]["sources"][0]["train"].clone();
    let manifest = || -> Value {
        let text = fs::read(place.path("corpus/manifest.json")).unwrap();
        serde_json::from_slice(&text).unwrap()
    };
    let before = manifest();
    place.write("corpus.yaml", corpus(&json!({"file": "trained"})));
    place.good(&["prepare", "corpus.yaml"]);
    assert_eq!(digest(&before), digest(&manifest()));
    let trained = place.path("trained");
    if python::has_transformers() {
        let (_, fast) = place.tokenizer("trained");
        let texts = ["Fever, 38.5 since Monday.\n\nNo cough.", " [SEP] naïve", ""];
        let cases = texts.map(|text| json!({"text": text, "ids": fast.encode(text)}));
        place.write("cases.json", json!(cases).to_string());
        python::run_script("check-tokenizer", &[trained, place.path("cases.json")]);
    }
}

#[test]
fn it_trains_on_files() {
    let place = Place::new();
    place.write("one.txt", "fever and pain, ".repeat(50));
    place.write("two.txt", "feverish nights ".repeat(50));
    let train = |output: &str, files: &[&str]| {
        let options = ["--vocab-size", "512", "--output", output];
        place.good(&[&["tokenizer", "train"], files, &options].concat())
    };
    assert_eq!(train("both", &["one.txt", "two.txt"]), "written to both\n");
    train("one", &["one.txt"]);
    let (_, both) = place.tokenizer("both");
    let (_, one) = place.tokenizer("one");
    assert_eq!(both.encode(" feverish").len(), 1);
    assert!(one.encode(" feverish").len() > 1);
    insta::assert_snapshot!(place.refused(
        &["tokenizer", "train", "three.txt", "--vocab-size", "512", "--output", "three"]
    ), @r"
    error: files/1: no file at three.txt
      hint: relative paths start at the folder of the configuration
    ");
    assert!(!place.path("three").exists());
}
