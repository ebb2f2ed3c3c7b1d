//! A larger encoder from a smaller one: each parameter of the larger is the smaller one's, centered
//! and repeated outward, as ModernBERT-large started from ModernBERT-base ("tiling", Warner et al.
//! 2024, <https://arxiv.org/abs/2412.13663>, after Phi).
//!
//! Index rules, as in ModernBERT's own training code: index i of a dimension that grows from `old`
//! to `new` copies index (i - ⌊(new - old) / 2⌋) mod `old`; query, key and value rows tile
//! separately, and so do the two GeGLU halves. Layer i copies layer round(i x old layers / new
//! layers), halves rounded to even. Nothing is rescaled.

use anyhow::{Result, ensure};
use tch::{Device, Tensor};

use crate::model::config::ModelConfig;
use crate::model::encoder::Model;
use crate::model::parameters::{Parameters, Role, Specification};

/// Parameters for the shape `large`, tiled from `small`.
///
/// # Errors
/// A target that is smaller in some dimension, or has another vocabulary.
pub fn enlarge(small: &Model, large: &ModelConfig, device: Device) -> Result<Parameters> {
    expect_smaller(&small.config, large)?;
    Parameters::build(large, device, |wanted| {
        Ok(enlarge_one(small, large, wanted))
    })
}

/// Refuses shapes of which one cannot be tiled into the other.
pub fn expect_smaller(old: &ModelConfig, large: &ModelConfig) -> Result<()> {
    large.validate()?;
    for (name, old, new) in [
        ("hidden_size", old.hidden_size, large.hidden_size),
        (
            "intermediate_size",
            old.intermediate_size,
            large.intermediate_size,
        ),
        ("layers", old.layers, large.layers),
    ] {
        ensure!(
            new >= old,
            "{name} {new} is smaller than the source model's {old}\n  \
             hint: tiling only makes models larger"
        );
    }
    ensure!(
        old.vocab_size == large.vocab_size,
        "vocab_size {} is not the source model's {}\n  hint: tiling keeps the tokenizer",
        large.vocab_size,
        old.vocab_size
    );
    Ok(())
}

fn enlarge_one(small: &Model, large: &ModelConfig, wanted: &Specification) -> Tensor {
    let Some(name) = source_name(&wanted.name, small.config.layers, large.layers) else {
        return Tensor::ones(wanted.shape.as_slice(), (tch::Kind::Float, Device::Cpu));
    };
    let source = small.parameters.tensor(&name).detach();
    let old_shape = source.size();
    let parts = match wanted.role {
        Role::QueryKeyValue => 3,
        Role::GatedInput => 2,
        _ => 1,
    };
    let rows = stacked_indices(old_shape[0], wanted.shape[0], parts);
    let tiled = source.index_select(0, &Tensor::from_slice(&rows).to_device(source.device()));
    match (old_shape.get(1), wanted.shape.get(1)) {
        (Some(&old), Some(&new)) => {
            let columns = stacked_indices(old, new, 1);
            tiled.index_select(1, &Tensor::from_slice(&columns).to_device(source.device()))
        }
        _ => tiled,
    }
}

/// The parameter to copy from; none for the attention norm of a layer whose source is layer 0,
/// which has none.
fn source_name(name: &str, old_layers: i64, new_layers: i64) -> Option<String> {
    let Some(rest) = name.strip_prefix("model.layers.") else {
        return Some(name.to_owned());
    };
    let (layer, rest) = rest
        .split_once('.')
        .expect("layer parameters are model.layers.N.…");
    let layer: i64 = layer.parse().expect("N is a number");
    let source = source_layer(layer, old_layers, new_layers);
    (source > 0 || rest != "attn_norm.weight").then(|| format!("model.layers.{source}.{rest}"))
}

/// round(layer x old / new), halves to even, in integers.
fn source_layer(layer: i64, old: i64, new: i64) -> i64 {
    let (whole, rest) = ((layer * old) / new, (layer * old) % new);
    let up = 2 * rest > new || (2 * rest == new && whole % 2 == 1);
    (whole + i64::from(up)).min(old - 1)
}

/// Source indices of a dimension that holds `parts` equal stacked parts.
fn stacked_indices(old: i64, new: i64, parts: i64) -> Vec<i64> {
    let (old, new) = (old / parts, new / parts);
    let offset = (new - old) / 2;
    (0..parts)
        .flat_map(|part| (0..new).map(move |index| part * old + (index - offset).rem_euclid(old)))
        .collect()
}

#[cfg(test)]
mod tests {
    use crate::model::config::{Preset, SpecialTokens};
    use crate::model::init;

    use super::*;

    #[test]
    fn indices_are_centered_and_wrap_outward() {
        assert_eq!(stacked_indices(3, 7, 1), [1, 2, 0, 1, 2, 0, 1]);
        assert_eq!(stacked_indices(3, 4, 1), [0, 1, 2, 0]);
        assert_eq!(stacked_indices(4, 8, 2), [1, 0, 1, 0, 3, 2, 3, 2]);
        assert_eq!(stacked_indices(5, 5, 1), [0, 1, 2, 3, 4]);
        // ModernBERT's own: 768 to 1024 starts with base column 640.
        assert_eq!(stacked_indices(768, 1024, 1)[0], 640);
    }

    /// 22 layers to 28: i·11/14, with 77/14 = 5.5 and 231/14 = 16.5 rounded to the even neighbor.
    #[test]
    fn base_layers_spread_over_large_ones() {
        let map: Vec<i64> = (0..28).map(|layer| source_layer(layer, 22, 28)).collect();
        assert_eq!(
            map,
            [
                0, 1, 2, 2, 3, 4, 5, 6, 6, 7, 8, 9, 9, 10, 11, 12, 13, 13, 14, 15, 16, 16, 17, 18,
                19, 20, 20, 21
            ]
        );
    }

    #[test]
    fn parameters_follow_the_rules() {
        let config = ModelConfig {
            vocab_size: 5,
            hidden_size: 4,
            intermediate_size: 3,
            layers: 2,
            attention_heads: 2,
            special_tokens: SpecialTokens {
                pad: 0,
                cls: 1,
                sep: 2,
            },
            ..Preset::Base.config()
        };
        let large = ModelConfig {
            hidden_size: 6,
            intermediate_size: 4,
            layers: 3,
            attention_heads: 3,
            ..config.clone()
        };
        let parameters = init::initialize(&config, 5, Device::Cpu);
        let small = Model { config, parameters };
        let tiled = enlarge(&small, &large, Device::Cpu).unwrap();
        let number = |from: &Parameters, name: &str, at: &[i64]| from.tensor(name).double_value(at);
        // Layer 1 of 3 copies round(2/3) = 1; hidden offset 1, intermediate offset 0.
        for (at, from) in [
            ([0, 0], [3, 3]),
            ([1, 1], [0, 0]),
            ([6, 5], [4 + 3, 0]),
            ([17, 2], [8, 1]),
        ] {
            let wanted = number(&small.parameters, "model.layers.1.attn.Wqkv.weight", &from);
            let found = number(&tiled, "model.layers.1.attn.Wqkv.weight", &at);
            assert!((wanted - found).abs() < 1e-12, "Wqkv {at:?}");
        }
        for (at, from) in [([3, 0], [0, 3]), ([4, 1], [3, 0]), ([7, 5], [3, 0])] {
            let wanted = number(&small.parameters, "model.layers.1.mlp.Wi.weight", &from);
            let found = number(&tiled, "model.layers.1.mlp.Wi.weight", &at);
            assert!((wanted - found).abs() < 1e-12, "Wi {at:?}");
        }
        let error = enlarge(
            &small,
            &ModelConfig {
                hidden_size: 2,
                attention_heads: 1,
                ..large
            },
            Device::Cpu,
        );
        assert!(
            error
                .unwrap_err()
                .to_string()
                .contains("hidden_size 2 is smaller")
        );
    }
}
