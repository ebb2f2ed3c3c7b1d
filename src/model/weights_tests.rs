//! What loads and what is refused, with the words of the refusal.

use crate::model::config::{Preset, SpecialTokens};

use super::*;

fn tiny() -> ModelConfig {
    ModelConfig {
        vocab_size: 12,
        hidden_size: 8,
        intermediate_size: 6,
        layers: 2,
        attention_heads: 2,
        special_tokens: SpecialTokens {
            pad: 0,
            cls: 1,
            sep: 2,
        },
        ..Preset::Base.config()
    }
}

fn parameters() -> Parameters {
    init::initialize(&tiny(), 3, Device::Cpu)
}

/// A file with the tensors of `parameters`, renamed, left out (none) or added.
fn file(rename: impl Fn(&str) -> Option<String>, extra: &[(&str, &Tensor)]) -> Vec<u8> {
    let parameters = parameters();
    let kept = parameters
        .iter()
        .filter_map(|each| Some((rename(&each.name)?, &each.tensor)));
    let extra = extra
        .iter()
        .map(|(name, tensor)| ((*name).to_owned(), *tensor));
    let tensors: Vec<(String, &Tensor)> = kept.chain(extra).collect();
    tensor_file::write(
        tensors
            .iter()
            .map(|(name, tensor)| (name.as_str(), *tensor)),
    )
    .unwrap()
}

fn error_of(bytes: &[u8], missing_head: MissingHead) -> String {
    format!(
        "{:#}",
        load(bytes, &tiny(), missing_head, Device::Cpu).unwrap_err()
    )
}

fn assert_equal(left: &Parameters, right: &Parameters) {
    for (left, right) in left.iter().zip(right.iter()) {
        assert_eq!(left.name, right.name);
        assert!(left.tensor.equal(&right.tensor), "{}", left.name);
    }
}

#[test]
fn what_is_saved_loads_bit_for_bit() {
    let saved = save(&parameters()).unwrap();
    let loaded = load(&saved, &tiny(), MissingHead::Refuse, Device::Cpu).unwrap();
    assert_equal(&loaded, &parameters());
    assert!(
        loaded
            .iter()
            .all(|each| each.tensor.requires_grad() && each.tensor.is_leaf())
    );
    assert_eq!(save(&loaded).unwrap(), saved);
    let file = SafeTensors::deserialize(&saved).unwrap();
    assert!(file.tensor("decoder.weight").is_err());
}

#[test]
fn encoder_only_files_need_a_head() {
    let bytes = file(|name| name.strip_prefix("model.").map(str::to_owned), &[]);
    let error = error_of(&bytes, MissingHead::Refuse);
    assert!(
        error.contains("missing: head.dense.weight, head.norm.weight, decoder.bias"),
        "{error}"
    );
    let loaded = load(
        &bytes,
        &tiny(),
        MissingHead::Initialize { seed: 3 },
        Device::Cpu,
    )
    .unwrap();
    assert_equal(&loaded, &parameters()); // the head comes from the same seed
}

#[test]
fn everything_that_does_not_fit_is_named_at_once() {
    let odd = Tensor::ones([3], (Kind::Float, Device::Cpu));
    let rename = |name: &str| match name {
        "model.layers.1.attn_norm.weight" | "model.layers.1.mlp.Wo.weight" => None,
        "model.final_norm.weight" => Some("model.last_norm.weight".to_owned()),
        _ => Some(name.to_owned()),
    };
    let bytes = file(
        rename,
        &[
            ("classifier.bias", &odd),
            ("model.layers.1.mlp.Wo.weight", &odd),
        ],
    );
    let error = error_of(&bytes, MissingHead::Refuse);
    for part in [
        "missing: model.layers.1.attn_norm.weight, model.final_norm.weight",
        "unexpected: classifier.bias, model.last_norm.weight",
        "misfit: model.layers.1.mlp.Wo.weight has shape [3], expected [8, 6]",
    ] {
        assert!(error.contains(part), "{part:?} is missing in {error:?}");
    }
    assert!(error_of(&bytes[..100], MissingHead::Refuse).contains("no intact safetensors"));
}

#[test]
fn an_untied_decoder_is_refused() {
    let embeddings = parameters().tensor(EMBEDDINGS).detach();
    let tied = file(|name| Some(name.to_owned()), &[(DECODER, &embeddings)]);
    let loaded = load(&tied, &tiny(), MissingHead::Refuse, Device::Cpu).unwrap();
    assert_equal(&loaded, &parameters());
    let other = embeddings + 1e-3;
    let untied = file(|name| Some(name.to_owned()), &[(DECODER, &other)]);
    assert!(error_of(&untied, MissingHead::Refuse).contains("tie_word_embeddings false"));
}

#[test]
fn weights_that_are_not_finite_are_refused() {
    for bad in [f32::NAN, f32::INFINITY] {
        let broken = Tensor::from_slice(&[1.0, bad, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
        let name = "model.final_norm.weight";
        let others = |other: &str| (other != name).then(|| other.to_owned());
        assert_eq!(
            error_of(&file(others, &[(name, &broken)]), MissingHead::Refuse),
            "model.final_norm.weight has values that are not finite\n  \
             hint: its training had diverged; start from an earlier checkpoint"
        );
    }
}
