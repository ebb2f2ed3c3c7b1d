//! The weights that a run begins with, and what stops it when they become useless.
//!
//! The first step of a warm-up has learning rate 0, so the checkpoint after it has the weights that
//! the run began with.

use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use cohort::run::ledger::Ledger;
use cohort::store::layout;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::run::{Run, checkpoint_path, stable};

const QUERY_KEY_VALUE: &str = "model.layers.1.attn.Wqkv.weight";

/// A run of few steps, to start others from.
pub(super) fn trained() -> (Run, String) {
    let run = Run::new(json!({"phases": [stable(2_000)]}));
    run.train();
    let newest = run.manifests().pop().unwrap().step;
    let checkpoint = checkpoint_path(&run, newest);
    (run, checkpoint)
}

/// A run of one step.
fn begun(patch: Value) -> Run {
    let mut run = Run::new(json!({"phases": [stable(500)]}));
    run.change(patch);
    run.train();
    assert_eq!(run.metrics().len(), 1);
    assert!(run.metrics()[0].learning_rate.abs() < 1e-30);
    run
}

/// The weights of the newest checkpoint.
fn model_file(run: &Run) -> Bytes {
    checkpoint_file(run, layout::MODEL_FILE)
}

/// A parameter of the newest checkpoint, row by row.
fn parameter(run: &Run, name: &str) -> Vec<Vec<f64>> {
    let bytes = model_file(run);
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let view = file.tensor(name).unwrap();
    floats(&file, name)
        .chunks_exact(view.shape()[1])
        .map(<[f64]>::to_vec)
        .collect()
}

#[test]
fn a_run_starts_from_a_hugging_face_folder() {
    let (first, checkpoint) = trained();
    let second = begun(json!({"start": {"hugging_face": checkpoint}, "ranks": 2}));
    for name in [QUERY_KEY_VALUE, "model.embeddings.tok_embeddings.weight"] {
        assert_eq!(parameter(&first, name), parameter(&second, name), "{name}");
    }
    // The same weights give the same held-out scores, whichever run they stand in.
    let end = first.evaluations().pop().unwrap();
    let start = second.evaluations().swap_remove(0);
    assert_eq!(start.institutions.len(), 3);
    for (end, start) in end.institutions.iter().zip(&start.institutions) {
        assert_eq!(end.0, start.0);
        let apart = (end.1.loss - start.1.loss).abs() / end.1.loss;
        assert!(apart < 1e-6, "{end:?} and {start:?}");
    }
    // What was in the weights stays on record.
    let tokens = |run: &Run| -> u64 {
        let ledger: Ledger =
            serde_json::from_slice(&checkpoint_file(run, layout::LEDGER_FILE)).unwrap();
        let sums = ledger.by_institution().into_values();
        sums.map(|consumed| consumed.tokens).sum()
    };
    let own = second.metrics().pop().unwrap().tokens;
    assert_eq!(tokens(&second), tokens(&first) + own);
    let ledger = Path::new(&checkpoint).join(layout::LEDGER_FILE);
    fs::write(&ledger, "{").unwrap();
    let third = Run::new(json!({"start": {"hugging_face": checkpoint}}));
    let error = third.error();
    assert!(error.contains("ledger.json is damaged"), "{error}");
}

#[test]
fn a_run_starts_from_a_smaller_model() {
    let (small, checkpoint) = trained();
    let large = begun(json!({
        "start": {"tile": checkpoint},
        "model": {"layers": 3, "hidden_size": 96, "attention_heads": 3, "intermediate_size": 80},
    }));
    // Layer 1 of 3 is layer round(1 · 2/3) of 2; 96 columns begin 16 before the 64 that they
    // center on; the queries, the keys and the values are tiled apart.
    let (old, new) = (
        parameter(&small, QUERY_KEY_VALUE),
        parameter(&large, QUERY_KEY_VALUE),
    );
    assert_eq!((new.len(), new[0].len()), (3 * 96, 96));
    let source = |index: usize| (index + 64 - 16) % 64;
    for (row, values) in new.iter().enumerate() {
        let old_row = &old[row / 96 * 64 + source(row % 96)];
        for (column, value) in values.iter().enumerate() {
            assert!(value.to_bits() == old_row[source(column)].to_bits());
        }
    }
}

const COMPOSER_STEPS: u64 = 52_988;

/// The shape of the encoder in `tests/fixtures/composer/named.pt`.
fn of_composer() -> Value {
    json!({
        "layers": 3,
        "hidden_size": 8,
        "attention_heads": 2,
        "intermediate_size": 12,
        "sliding_window": 16,
    })
}

fn composer_fixture(name: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    root.join("tests/fixtures/composer").join(name)
}

/// A file of the newest checkpoint, as `state.json`.
fn checkpoint_file(run: &Run, name: &str) -> Bytes {
    let newest = run.manifests().pop().unwrap().step;
    run.read(&layout::checkpoint_file(newest, name))
}

fn optimizer_steps(run: &Run) -> u64 {
    let state = checkpoint_file(run, layout::STATE_FILE);
    let state: Value = serde_json::from_slice(&state).unwrap();
    state["optimizer_steps"].as_u64().unwrap()
}

fn floats(file: &SafeTensors<'_>, name: &str) -> Vec<f64> {
    let view = file.tensor(name).unwrap();
    let numbers = view.data().chunks_exact(4);
    numbers
        .map(|bytes| f64::from(f32::from_le_bytes(bytes.try_into().unwrap())))
        .collect()
}

#[test]
fn a_run_goes_on_from_a_checkpoint_of_composer() {
    let truth = fs::read(composer_fixture("named.safetensors")).unwrap();
    let truth = SafeTensors::deserialize(&truth).unwrap();
    for ranks in [1, 2] {
        let start = |how: &str| {
            begun(json!({
                "start": {how: composer_fixture("named.pt")},
                "model": of_composer(),
                "ranks": ranks,
            }))
        };
        let (kept, fresh) = (start("composer"), start("composer_weights"));
        assert_eq!(optimizer_steps(&kept), COMPOSER_STEPS + 1, "{ranks} ranks");
        assert_eq!(optimizer_steps(&fresh), 1, "{ranks} ranks");
        let weights = model_file(&kept);
        assert_eq!(weights, model_file(&fresh));
        let weights = SafeTensors::deserialize(&weights).unwrap();
        for (name, found) in weights.iter() {
            assert!(found.data() == truth.tensor(name).unwrap().data(), "{name}");
        }
        // The first step of an optimizer without moments makes them the gradient and its square;
        // after so many steps the debiased betas are the betas.
        let (kept, fresh) = (
            checkpoint_file(&kept, layout::OPTIMIZER_FILE),
            checkpoint_file(&fresh, layout::OPTIMIZER_FILE),
        );
        let kept = SafeTensors::deserialize(&kept).unwrap();
        let fresh = SafeTensors::deserialize(&fresh).unwrap();
        assert_eq!(kept.len(), 2 * weights.len());
        for name in kept.names() {
            let beta = if name.ends_with(".exp_avg") {
                0.9
            } else {
                0.98
            };
            let moments = (
                floats(&truth, name),
                floats(&fresh, name),
                floats(&kept, name),
            );
            for ((before, of_step), after) in moments.0.iter().zip(&moments.1).zip(&moments.2) {
                let wanted = beta * before + (1.0 - beta) * of_step;
                let apart = (after - wanted).abs();
                let scale = before.abs() + of_step.abs();
                assert!(apart <= 1e-6 * scale, "{name}: {after} is not {wanted}");
            }
        }
    }
}

/// The lead rank alone reads the file: a rank that got no moments, or no count of steps, would
/// step differently from then on.
#[test]
fn every_rank_goes_on_from_a_checkpoint_of_composer() {
    let mut phase = stable(5_000);
    phase["warmup_tokens"] = json!(0);
    let losses = |ranks: u32| -> Vec<f64> {
        let run = Run::new(json!({
            "start": {"composer": composer_fixture("named.pt")},
            "model": of_composer(),
            "phases": [phase],
            "ranks": ranks,
        }));
        run.train();
        run.metrics().iter().map(|line| line.loss).collect()
    };
    let (one, two) = (losses(1), losses(2));
    assert!(one.len() >= 8 && one.len() == two.len());
    for (one, two) in one.iter().zip(&two) {
        assert!((one - two).abs() <= 1e-5 * one, "{one} and {two}");
    }
}

#[test]
fn a_checkpoint_of_composer_that_does_not_fit_is_refused() {
    let file = composer_fixture("named.pt");
    let mut run = Run::new(json!({"start": {"composer": file}, "model": of_composer()}));
    run.change(json!({"model": {"layers": 4}}));
    assert_eq!(
        run.error(),
        format!(
            "the checkpoint {} is of another architecture: layers is 3, expected 4\n  \
             hint: set these fields under `model` to the checkpoint's values, or start from \
             another checkpoint",
            file.display()
        )
    );
    assert!(run.keys().is_empty(), "nothing was begun");
}

/// A copy of a checkpoint whose logits are `scale` times as large.
pub(super) fn near_overflow(run: &Run, checkpoint: &str, scale: f32) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for file in fs::read_dir(checkpoint).unwrap().map(Result::unwrap) {
        fs::copy(file.path(), folder.path().join(file.file_name())).unwrap();
    }
    let weights = model_file(run);
    let file = SafeTensors::deserialize(&weights).unwrap();
    let width = file.tensor("head.norm.weight").unwrap().shape().to_vec();
    let large: Vec<u8> = [scale.to_le_bytes()].repeat(width[0]).concat();
    let large = TensorView::new(Dtype::F32, width, &large).unwrap();
    let tensors = file.iter().map(|(name, tensor)| match name {
        "head.norm.weight" => (name, large.clone()),
        _ => (name, tensor),
    });
    let bytes = safetensors::serialize(tensors, None).unwrap();
    fs::write(folder.path().join("model.safetensors"), bytes).unwrap();
    folder
}

/// The loss of one held-out row at a time is still finite with these weights.
#[test]
fn numbers_that_are_not_finite_stop_the_run_and_name_the_rows() {
    const LOSS: (f32, &str, &str) = (
        6e36,
        "the loss is not finite: ",
        "\n  hint: look at the batch with `cohort inspect`; lower the learning rate, or continue \
         from an earlier checkpoint",
    );
    const GRADIENT: (f32, &str, &str) = (
        5e35,
        "",
        ": the gradient of model.embeddings.tok_embeddings.weight is not finite\n  hint: go back \
         to the last checkpoint with a lower learning rate, or inspect this step's batch",
    );
    let (first, checkpoint) = trained();
    for (ranks, (scale, start, end)) in [(1, LOSS), (2, LOSS), (2, GRADIENT)] {
        let folder = near_overflow(&first, &checkpoint, scale);
        let run = Run::new(json!({
            "start": {"hugging_face": folder.path()},
            "ranks": ranks,
            "batch": {"rows": 61, "micro_rows": 61},
        }));
        let error = run.error();
        let place = "step 1, rows 0 to 60 of phase \"stable\", sources north/triage, \
                     north/progress, south/radiology, east/visits";
        assert_eq!(error, format!("{start}{place}{end}"));
        assert!(run.manifests().is_empty(), "bad weights are not saved");
    }
}

#[test]
fn held_out_losses_that_are_not_finite_stop_the_run() {
    let (first, checkpoint) = trained();
    let folder = near_overflow(&first, &checkpoint, 3e38);
    let run = Run::new(json!({"start": {"hugging_face": folder.path()}}));
    assert_eq!(
        run.error(),
        "the held-out loss of institution \"north\" is not finite\n  hint: the weights have \
         diverged; lower the learning rate, or continue from an earlier checkpoint"
    );
    assert!(run.manifests().is_empty(), "no step was taken");
}
