//! Checkpoints of Composer: what is taken over, to the bit, and what is refused, run or not.
//!
//! The fixtures are files of `torch.save` (`scripts/make-composer-fixture`), with objects in them
//! of classes that exist nowhere. Damaged and hostile files are made of them.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests fail as tests do"
)]

mod archive;
mod hostile;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use cohort::model::composer::ComposerCheckpoint;
use cohort::model::config::{ModelConfig, Preset, SpecialTokens};
use cohort::model::encoder::{Model, Precision};
use cohort::model::input::{PackedInput, Targets};
use cohort::model::parameters::{Parameters, specifications};
use safetensors::SafeTensors;
use tch::{Device, Kind, Tensor};

use archive::{Archive, text};

/// Steps that the training behind every fixture had taken.
const STEPS: u64 = 52_988;

fn fixture(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/composer");
    folder.join(name)
}

fn config(vocab_size: i64, layers: i64) -> ModelConfig {
    ModelConfig {
        vocab_size,
        hidden_size: 8,
        intermediate_size: 12,
        layers,
        attention_heads: 2,
        local_window: 16,
        special_tokens: SpecialTokens {
            pad: 3,
            cls: 1,
            sep: 2,
        },
        ..Preset::Base.config()
    }
}

fn named() -> ModelConfig {
    config(512, 3)
}

fn numbered() -> ModelConfig {
    config(24, 2)
}

/// Parameters, moments by name, steps.
type Taken = (Parameters, Vec<(String, Tensor)>, u64);

/// All that a run takes of a file.
fn take(path: &Path, config: &ModelConfig) -> Result<Taken> {
    let mut checkpoint = ComposerCheckpoint::open(path)?;
    let parameters = checkpoint.parameters(config, Device::Cpu)?;
    let moments = checkpoint.moments(config)?;
    let mut tensors = Vec::new();
    for each in specifications(config) {
        for moment in ["exp_avg", "exp_avg_sq"] {
            let empty = Tensor::zeros(&each.shape, (Kind::Float, Device::Cpu));
            tensors.push((format!("{}.{moment}", each.name), empty));
        }
    }
    checkpoint.read_moments(&moments, &tensors)?;
    Ok((parameters, tensors, moments.steps))
}

fn error(path: &Path, config: &ModelConfig) -> String {
    let error = take(path, config).unwrap_err();
    cohort::diagnosis::describe(&error).replace(path.to_str().unwrap(), "FILE")
}

fn bits(tensor: &Tensor) -> Vec<u8> {
    let tensor = tensor.detach().contiguous();
    let mut bytes = vec![0; tensor.numel() * size_of::<f32>()];
    tensor.copy_data_u8(&mut bytes, tensor.numel());
    bytes
}

fn integers(bytes: &[u8], name: &str) -> Vec<i64> {
    let file = SafeTensors::deserialize(bytes).unwrap();
    let view = file.tensor(name).unwrap();
    let numbers = view.data().chunks_exact(8);
    numbers
        .map(|bytes| i64::from_le_bytes(bytes.try_into().unwrap()))
        .collect()
}

#[test]
fn weights_moments_and_steps_are_taken_over_to_the_bit() {
    for (name, config) in [("named", named()), ("numbered", numbered())] {
        let (parameters, moments, steps) = take(&fixture(&format!("{name}.pt")), &config).unwrap();
        assert_eq!(steps, STEPS);
        let truth = fs::read(fixture(&format!("{name}.safetensors"))).unwrap();
        let truth = SafeTensors::deserialize(&truth).unwrap();
        let weights = parameters.iter().map(|each| (&each.name, &each.tensor));
        let moments = moments.iter().map(|(name, tensor)| (name, tensor));
        let mut compared = 0;
        for (name, tensor) in weights.chain(moments) {
            let wanted = truth.tensor(name).unwrap();
            assert!(bits(tensor) == wanted.data(), "{name}");
            compared += 1;
        }
        assert_eq!(compared, truth.len());
    }
}

#[test]
fn the_first_loss_is_that_of_transformers() {
    let config = named();
    let mut checkpoint = ComposerCheckpoint::open(&fixture("named.pt")).unwrap();
    let parameters = checkpoint.parameters(&config, Device::Cpu).unwrap();
    let batch = fs::read(fixture("batch.safetensors")).unwrap();
    let unsigned = |name: &str| -> Vec<u32> {
        let numbers = integers(&batch, name).into_iter();
        numbers
            .map(|number| u32::try_from(number).unwrap())
            .collect()
    };
    let (ids, ends) = (unsigned("input_ids"), unsigned("cu_seqlens"));
    let input = PackedInput::new(&config, &ids, &ends, Device::Cpu).unwrap();
    let targets = Targets::new(&config, &input, &integers(&batch, "labels"), Device::Cpu).unwrap();
    let model = Model { config, parameters };
    let loss = model.encoder(Precision::Fp32).loss(&input, &targets, None);
    let found = (loss.sum / loss.masked).double_value(&[]);
    let file = SafeTensors::deserialize(&batch).unwrap();
    let wanted = file.tensor("loss").unwrap().data().try_into().unwrap();
    let wanted = f64::from(f32::from_le_bytes(wanted));
    let apart = (found / wanted - 1.0).abs();
    println!("loss {found}, of transformers {wanted}: {apart:.1e} apart");
    assert!(apart <= 1e-5, "loss {found} is not {wanted}");
}

#[test]
fn another_architecture_is_refused_by_its_fields() {
    let wanted = ModelConfig {
        layers: 4,
        hidden_size: 12,
        global_rope_base: 10_000.0,
        ..named()
    };
    assert_eq!(
        error(&fixture("named.pt"), &wanted),
        "the checkpoint FILE is of another architecture: hidden_size is 8, expected 12; layers is \
         3, expected 4; global_rope_base is 160000, expected 10000\n  \
         hint: set these fields under `model` to the checkpoint's values, or start from another \
         checkpoint"
    );
    // A file without settings: what no tensor shows is believed, the tensors are not.
    let archive = Archive::read(&fixture("named.pt"));
    let bare = archive.with_pickle(|pickle| replace(pickle, b"huggingface", b"hagenbuttee"));
    let heads = ModelConfig {
        attention_heads: 4,
        ..named()
    };
    take(bare.path(), &heads).unwrap();
    assert!(error(&fixture("named.pt"), &heads).contains("attention_heads is 2, expected 4"));
    let wanted = ModelConfig {
        intermediate_size: 16,
        ..named()
    };
    assert!(error(bare.path(), &wanted).contains("intermediate_size is 12, expected 16"));
}

#[test]
fn an_encoder_that_does_something_else_is_refused() {
    let archive = Archive::read(&fixture("named.pt"));
    let changed = archive.with_pickle(|pickle| {
        let pickle = replace(pickle, b"prenorm", b"pstnorm");
        insert_value(&pickle, "rotary_emb_interleaved", b"\x88")
    });
    assert_eq!(
        error(changed.path(), &named()),
        "cannot use FILE: bert_layer is \"pstnorm\", only \"prenorm\" is supported; \
         rotary_emb_interleaved is true, only false is supported\n  \
         hint: only the published ModernBERT architecture can be trained"
    );
    let renamed = archive.with_pickle(|pickle| {
        replace(pickle, b"layers.1.mlp.Wi.weight", b"layers.1.mlp.Wj.weight")
    });
    assert_eq!(
        error(renamed.path(), &named()),
        "the weights in FILE are not those of this model: missing: \
         model.layers.1.mlp.Wi.weight; unexpected: model.layers.1.mlp.Wj.weight\n  \
         hint: set the `model` section of the run to the shape of the checkpoint"
    );
}

#[test]
fn an_optimizer_that_cannot_go_on_is_refused() {
    let archive = Archive::read(&fixture("numbered.pt"));
    let of = |change: &dyn Fn(&[u8]) -> Vec<u8>| {
        let file = archive.with_pickle(|pickle| change(pickle));
        let mut checkpoint = ComposerCheckpoint::open(file.path()).unwrap();
        // Its weights are as good as before.
        checkpoint.parameters(&numbered(), Device::Cpu).unwrap();
        error(file.path(), &numbered())
    };
    let refused = |why: &str| {
        format!(
            "cannot take the optimizer's state from FILE: {why}\n  \
             hint: `start: {{composer_weights: …}}` takes the weights alone"
        )
    };
    for (error, why) in [
        (
            of(&|pickle| replace(pickle, b"StableAdamW", b"DecouplAdam")),
            "it is the state of \"DecouplAdam\", only that of StableAdamW means the same here",
        ),
        (
            of(&|pickle| replace(pickle, b"optimizers", b"optimizerz")),
            "it has no state.optimizers",
        ),
        (
            of(&|pickle| insert_value(pickle, "step", b"K\x05")),
            "its parameters have taken different numbers of steps",
        ),
        (
            of(&|pickle| insert_value(pickle, "step", b"J\xff\xff\xff\xff")),
            "its step is -1, no count",
        ),
        (
            of(&|pickle| insert_value(pickle, "params", b"]")),
            "its parameters are numbered, and a group has 0 of them where the model has 7",
        ),
        (
            of(&|pickle| insert_value(pickle, "exp_avg_sq", b"K\x00")),
            "model.embeddings.norm.weight.exp_avg_sq is an integer, no tensor",
        ),
    ] {
        assert_eq!(error, refused(why));
    }
    let missing = of(&|pickle| replace(pickle, b"exp_avg_sq", b"exp_avg_xx"));
    assert!(missing.contains("it is not that of this model: missing: model.embeddings.tok_"));
}

#[test]
fn moments_that_are_no_numbers_are_refused() {
    let archive = Archive::read(&fixture("named.pt"));
    // The storages are numbered as they are met: the weights, then means and squares in turn.
    let weights = specifications(&named()).len();
    let square = format!("data/{}", weights + 1);
    let changed = archive.with(|name, bytes| match name {
        name if name == square => (-1.0_f32).to_le_bytes().repeat(bytes.len() / 4),
        _ => bytes.to_vec(),
    });
    let negative = error(changed.path(), &named());
    assert!(
        negative.contains("is a mean of squares, but has numbers below 0"),
        "{negative}"
    );
    for (storage, wanted) in [
        ("data/0", "tok_embeddings.weight has values"),
        (square.as_str(), ".exp_avg_sq has values"),
    ] {
        let changed = archive.with(|name, bytes| match name {
            name if name == storage => f32::NAN.to_le_bytes().repeat(bytes.len() / 4),
            _ => bytes.to_vec(),
        });
        let error = error(changed.path(), &named());
        assert!(error.contains(wanted), "{error}");
        assert!(error.contains("that are not finite"), "{error}");
    }
}

/// `pickle` with every `from` changed to `to`, which is as long, so that lengths stay right.
fn replace(pickle: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let mut changed = pickle.to_vec();
    let mut found = 0;
    for at in 0..=changed.len() - from.len() {
        if &changed[at..at + from.len()] == from {
            changed[at..at + to.len()].copy_from_slice(to);
            found += 1;
        }
    }
    assert!(found > 0, "{} is nowhere", String::from_utf8_lossy(from));
    changed
}

/// `pickle` with another value for a key where it first stands; the key's own value comes under
/// another one.
fn insert_value(pickle: &[u8], key: &str, value: &[u8]) -> Vec<u8> {
    let key = text(key);
    let found = pickle.windows(key.len()).position(|window| window == key);
    let mut at = found.unwrap() + key.len();
    at += match pickle[at] {
        b'q' => 2,
        b'r' => 5,
        other => panic!("{other:#x} after a text"),
    };
    [&pickle[..at], value, &text("instead"), &pickle[at..]].concat()
}
