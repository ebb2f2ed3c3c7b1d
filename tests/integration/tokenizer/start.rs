//! Runs that start from a model which has not seen the corpus's new tokens.

use std::collections::BTreeMap;

use cohort::store::layout;
use safetensors::SafeTensors;

use crate::support::python;
use crate::support::run::{Corpus, Run, checkpoint_path, stable};

use super::*;

const EMBEDDINGS: &str = "model.embeddings.tok_embeddings.weight";

/// The corpus of all runs, once more with another tokenizer.
fn corpus(place: &Place, tokenizer: &str, output: &str) -> String {
    let source = |id: &str, style: &str| {
        let read = json!({"synthetic": {"style": style, "documents": 60}});
        json!({"id": id, "licence": "none", "read": read})
    };
    let yaml = json!({
        "name": "tiny",
        "output": output,
        "tokenizer": {"file": tokenizer},
        "max_length": 96,
        "held_out": 0.1,
        "institutions": [{"id": "north", "name": "North", "sources": [
            source("triage", "triage_line"), source("progress", "progress_note"),
        ]}],
    });
    place.write("corpus.yaml", yaml.to_string());
    place.good(&["prepare", "corpus.yaml"]);
    place.path(output).to_str().unwrap().to_owned()
}

fn grow(place: &Place, from: &Path, terms: &str, output: &str) {
    place.write("terms.txt", terms);
    place.good(&[
        "tokenizer",
        "grow",
        from.to_str().unwrap(),
        "--terms",
        "terms.txt",
        "--output",
        output,
        "--grow",
    ]);
}

/// A parameter of a run's newest checkpoint, row by row.
fn rows(run: &Run, name: &str) -> Vec<Vec<f64>> {
    let newest = run.manifests().pop().unwrap().step;
    let bytes = run.read(&layout::checkpoint_file(newest, layout::MODEL_FILE));
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let view = file.tensor(name).unwrap();
    let width = view.shape().get(1).copied().unwrap_or(1);
    let numbers = view.data().chunks_exact(4);
    let numbers: Vec<f64> = numbers
        .map(|bytes| f64::from(f32::from_le_bytes(bytes.try_into().unwrap())))
        .collect();
    numbers.chunks_exact(width).map(<[f64]>::to_vec).collect()
}

/// One step at learning rate 0: the checkpoint has the weights that the run began with.
fn begun(corpus: &str, start: &Value) -> Run {
    let run = Run::new(json!({"corpus": corpus, "start": start, "phases": [stable(500)]}));
    run.train();
    run
}

fn newest(run: &Run) -> String {
    checkpoint_path(run, run.manifests().pop().unwrap().step)
}

fn pieces(place: &Place, folder: &str) -> BTreeMap<u32, Vec<u32>> {
    serde_json::from_value(place.record(folder)["pieces"].clone()).unwrap()
}

#[track_caller]
fn check_rows(before: &Run, after: &Run, pieces: &BTreeMap<u32, Vec<u32>>) {
    for name in [EMBEDDINGS, "decoder.bias"] {
        let (before, after) = (rows(before, name), rows(after, name));
        for (id, row) in after.iter().enumerate() {
            let Some(own) = pieces.get(&(id as u32)) else {
                assert_eq!(*row, before[id], "{name} {id}");
                continue;
            };
            let all: Vec<u32> = (0..before.len() as u32).collect();
            let own = if own.is_empty() { &all } else { own };
            for (column, number) in row.iter().enumerate() {
                let sum: f64 = own
                    .iter()
                    .map(|piece| before[*piece as usize][column])
                    .sum();
                let mean = sum / own.len() as f64;
                assert!(
                    (number - mean).abs() < 1e-6,
                    "{name} {id}: {number} is not {mean}"
                );
            }
        }
    }
}

fn held_out_loss(run: &Run, at: usize) -> f64 {
    run.evaluations()[at].institutions["north"].loss
}

/// From 512 tokens to 576, from there to terms in the free ids, and a start from what knows them.
#[test]
fn new_tokens_start_as_the_mean_of_their_pieces() {
    let place = Place::new();
    let common = Corpus::shared();
    let shared = common.path();
    let old = corpus(&place, shared.to_str().unwrap(), "old");
    // Trained well enough that the mean of all tokens is improbable.
    let first = Run::new(json!({"corpus": old, "phases": [stable(20_000)]}));
    first.train();

    // None of these is in any text, so every id of the corpus stays what it was.
    grow(&place, &shared, "zqxolol\nzqx fever\n", "more");
    let more = corpus(&place, "more", "more-corpus");
    let start = json!({"hugging_face": newest(&first)});
    let second = begun(&more, &start);
    check_rows(&first, &second, &pieces(&place, "more"));
    let (end, start_loss) = (
        first.evaluations().pop().unwrap().institutions["north"].loss,
        held_out_loss(&second, 0),
    );
    // 64 tokens more in the softmax, none of which is more probable than the mean of its pieces.
    let rows_before = rows(&first, EMBEDDINGS).len();
    assert_eq!((rows_before, rows(&second, EMBEDDINGS).len()), (512, 576));
    assert!(
        start_loss > end && start_loss < end + 64_f64.ln_1p() / 2.0,
        "{end} {start_loss}"
    );

    // Free ids become terms; the model has as many rows as before.
    grow(
        &place,
        Path::new(&newest(&second)),
        "zqylol\nzqy fever\n",
        "given",
    );
    let given = corpus(&place, "given", "given-corpus");
    let start = json!({"hugging_face": newest(&second)});
    let third = begun(&given, &start);
    // Its record tells of both growths; the second model knows the tokens of the first.
    let mut set = pieces(&place, "given");
    assert_eq!(
        set.keys().copied().collect::<Vec<_>>(),
        (512..576).collect::<Vec<_>>()
    );
    set.retain(|id, _| [514, 515].contains(id));
    check_rows(&second, &third, &set);
    let apart = held_out_loss(&third, 0) - held_out_loss(&second, 0);
    assert!(apart.abs() < 2.0 / 576.0 * 10.0, "{apart}");
    println!("loss {end:.4}, with 64 more ids {start_loss:.4}, with 2 given away {apart:+.2e}");

    // The record travels with the checkpoint, for whoever prepares a corpus with its tokenizer.
    let in_checkpoint = Path::new(&newest(&third)).join("new_tokens.json");
    assert_eq!(
        fs::read(in_checkpoint).unwrap(),
        fs::read(place.path("given/new_tokens.json")).unwrap()
    );

    // Its own checkpoint knows the tokens: they are not set again.
    let trained = Run::new(json!({"corpus": given, "start": start, "phases": [stable(5_000)]}));
    trained.train();
    let again = begun(&given, &json!({"hugging_face": newest(&trained)}));
    for name in [EMBEDDINGS, "decoder.bias"] {
        assert_eq!(rows(&trained, name), rows(&again, name), "{name}");
    }
    if python::has_transformers() {
        let program = env!("CARGO_BIN_EXE_cohort");
        let checkpoint = newest(&again);
        let texts = [
            program,
            &checkpoint,
            "zqylol and [MASK] zqy fever.",
            "The [MASK] pain",
        ];
        python::run_script("check-checkpoint", &texts);
    }
}

/// The published checkpoints have moments: those of the old tokens are taken over, those of the
/// new ones begin at zero, as if they were the first step's.
#[test]
fn moments_of_new_tokens_begin_at_zero() {
    let place = Place::new();
    let common = Corpus::shared();
    let shared = common.path();
    grow(&place, &shared, "zqxolol\n", "more");
    let more = corpus(&place, "more", "more-corpus");
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/composer/named.pt");
    let start = |how: &str| {
        let run = Run::new(json!({
            "corpus": more,
            "start": {how: fixture},
            "phases": [stable(500)],
            "model": {
                "layers": 3,
                "hidden_size": 8,
                "attention_heads": 2,
                "intermediate_size": 12,
                "sliding_window": 16,
            },
        }));
        run.train();
        let newest = run.manifests().pop().unwrap().step;
        run.read(&layout::checkpoint_file(newest, layout::OPTIMIZER_FILE))
    };
    let (kept, fresh) = (start("composer"), start("composer_weights"));
    let kept = SafeTensors::deserialize(&kept).unwrap();
    let fresh = SafeTensors::deserialize(&fresh).unwrap();
    // Moments that are zero become the gradient's share of the first step; its weight in fresh
    // moments is 1, and in those that go on 1 minus beta.
    let name = "decoder.bias.exp_avg";
    let floats = |file: &SafeTensors<'_>| -> Vec<f64> {
        let view = file.tensor(name).unwrap();
        let numbers = view.data().chunks_exact(4);
        let float = |bytes: &[u8]| f64::from(f32::from_le_bytes(bytes.try_into().unwrap()));
        numbers.map(float).collect()
    };
    let (kept, fresh) = (floats(&kept), floats(&fresh));
    assert_eq!((kept.len(), fresh.len()), (576, 576));
    let mut old_ones_differ = false;
    for (id, (kept, fresh)) in kept.iter().zip(&fresh).enumerate() {
        let of_zero = (kept - 0.1 * fresh).abs() <= 1e-6 * fresh.abs();
        assert!(
            of_zero || id < 512,
            "{id}: {kept} is not a tenth of {fresh}"
        );
        old_ones_differ |= !of_zero;
    }
    assert!(old_ones_differ);
}

/// Rows belong to tokens, not to numbers.
#[test]
fn a_model_of_another_tokenizer_is_refused() {
    let place = Place::new();
    let common = Corpus::shared();
    let first = Run::new(json!({"corpus": common.path(), "phases": [stable(2_000)]}));
    first.train();
    place.write("other/tokenizer.json", small());
    let other = corpus(&place, "other", "other-corpus");
    let start = json!({"hugging_face": newest(&first)});
    let run = Run::new(json!({"corpus": other, "start": start, "phases": [stable(500)]}));
    let error = run.refused("train");
    assert!(
        error.contains("is another one in the corpus's tokenizer"),
        "{error}"
    );
    assert!(
        error.contains("hint: prepare the corpus with the tokenizer.json"),
        "{error}"
    );
}

/// Some models have more rows than their tokenizer has tokens.
#[test]
fn rows_beyond_the_tokenizer_stay() {
    let common = Corpus::shared();
    let padded = json!({"vocab_size": 576});
    let phases = [stable(500)];
    let first = Run::new(json!({"corpus": common.path(), "model": padded, "phases": phases}));
    first.train();
    assert_eq!(rows(&first, EMBEDDINGS).len(), 576);
    let start = json!({"hugging_face": newest(&first)});
    let run = |model: &Value| {
        let model = model.clone();
        Run::new(json!({"corpus": common.path(), "start": start, "model": model, "phases": phases}))
    };
    let error = run(&json!({})).refused("train");
    assert!(error.contains("vocab_size is 576, expected 512"), "{error}");
    let second = run(&padded);
    second.train();
    assert_eq!(
        rows(&first, EMBEDDINGS)[512..],
        rows(&second, EMBEDDINGS)[512..]
    );
    let error = run(&json!({"vocab_size": 511})).refused("train");
    assert!(error.contains("`vocab_size` of `model` is 511"), "{error}");
}
