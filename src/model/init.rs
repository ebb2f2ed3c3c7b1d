//! Megatron initialization: truncated normal numbers, cut at two standard deviations.
//!
//! Standard deviations are those of ModernBERT's own training code (`full_megatron`): 0.02 for
//! embeddings and for matrices that read the residual stream, 0.02 / √(2 x layers) for those that
//! write to it (Shoeybi et al. 2019, <https://arxiv.org/abs/1909.08053>). Norm weights are 1,
//! biases 0. (transformers initializes `head.dense` and the decoder like the latter; the training
//! code, followed here, like the former.)
//!
//! Every parameter has its own `ChaCha8` stream, keyed by seed and name, and only operations that
//! IEEE 754 rounds exactly are used. So the numbers are the same on every machine, and a parameter
//! does not change when another is added.

use std::convert::Infallible;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use rayon::prelude::*;
use tch::{Device, Tensor};

use crate::model::config::ModelConfig;
use crate::model::parameters::{Parameters, Role, Specification};

/// Standard deviation of embeddings and of matrices that read the residual stream.
const DEVIATION: f64 = 0.02;
/// Numbers beyond this many standard deviations are not drawn.
const CUT: f64 = 2.0;
/// Numbers drawn from one stream; longer parameters use several, so that they fill in parallel.
const STREAM_LENGTH: usize = 1 << 20;

/// Fresh parameters from a seed.
pub fn initialize(config: &ModelConfig, seed: u64, device: Device) -> Parameters {
    let built: Result<_, Infallible> = Parameters::build(config, device, |specification| {
        Ok(initial(specification, config.layers, seed))
    });
    match built {
        Ok(parameters) => parameters,
        Err(never) => match never {},
    }
}

/// One fresh parameter, fp32 on the CPU.
pub fn initial(specification: &Specification, layers: i64, seed: u64) -> Tensor {
    let count = specification.shape.iter().product::<i64>() as usize;
    let numbers = match deviation(specification.role, layers) {
        Some(deviation) => truncated_normal(&specification.name, seed, count, deviation),
        None => vec![
            if specification.role == Role::Norm {
                1.0
            } else {
                0.0
            };
            count
        ],
    };
    Tensor::from_slice(&numbers).view(specification.shape.as_slice())
}

/// The standard deviation before the cut; none for norms and biases.
fn deviation(role: Role, layers: i64) -> Option<f64> {
    match role {
        Role::Embedding | Role::Input | Role::QueryKeyValue | Role::GatedInput => Some(DEVIATION),
        Role::Output => Some(DEVIATION / (2.0 * layers as f64).sqrt()),
        Role::Norm | Role::Bias => None,
    }
}

fn truncated_normal(name: &str, seed: u64, count: usize, deviation: f64) -> Vec<f32> {
    let mut hasher = blake3::Hasher::new_derive_key("cohort 2026 initial parameters");
    hasher.update(&seed.to_le_bytes());
    hasher.update(name.as_bytes());
    let key = *hasher.finalize().as_bytes();
    let mut numbers = vec![0f32; count];
    numbers
        .par_chunks_mut(STREAM_LENGTH)
        .enumerate()
        .for_each(|(stream, part)| {
            let mut generator = ChaCha8Rng::from_seed(key);
            generator.set_stream(stream as u64);
            for number in part {
                *number = (truncated_standard_normal(&mut generator) * deviation) as f32;
            }
        });
    numbers
}

/// Rejection sampling under the bell between -2 and 2; three in five candidates are taken. One
/// 64-bit word gives a candidate and the height to compare with.
fn truncated_standard_normal(generator: &mut ChaCha8Rng) -> f64 {
    const HALF_RANGE: f64 = 2_147_483_648.0;
    loop {
        let word = generator.next_u64();
        let candidate = (f64::from((word >> 32) as u32) + 0.5 - HALF_RANGE) * (CUT / HALF_RANGE);
        let height = (f64::from(word as u32) + 0.5) / (2.0 * HALF_RANGE);
        if height < exponential(-0.5 * candidate * candidate) {
            return candidate;
        }
    }
}

/// e^x for x in -2..=0, to 4e-15: Taylor's series of x / 16, squared four times. The platform's
/// `exp` may differ in the last bit from machine to machine, and a bit can decide whether a
/// candidate is taken.
fn exponential(x: f64) -> f64 {
    let x = x / 16.0;
    let mut sum = 1.0;
    for term in (1..=10).rev() {
        sum = 1.0 + sum * x / f64::from(term);
    }
    let squared = sum * sum;
    let squared = squared * squared;
    let squared = squared * squared;
    squared * squared
}

#[cfg(test)]
mod tests {
    use tch::Kind;

    use crate::model::config::Preset;

    use super::*;

    #[test]
    fn exponential_is_that_of_the_library() {
        for step in 0..=2000 {
            let x = -f64::from(step) / 1000.0;
            assert!((exponential(x) / x.exp() - 1.0).abs() < 4e-15, "e^{x}");
        }
    }

    /// A normal cut at ±2σ has variance 1 - 4φ(2) / (2Φ(2) - 1) = 0.773741 and kurtosis 2.36.
    #[test]
    fn numbers_have_the_moments_of_a_cut_normal() {
        let numbers = truncated_normal("test", 3, 1_000_000, 1.0);
        let count = numbers.len() as f64;
        let moment = |power: i32| {
            numbers
                .iter()
                .map(|number| f64::from(*number).powi(power))
                .sum::<f64>()
                / count
        };
        assert!(numbers.iter().all(|number| number.abs() <= 2.0));
        assert!(moment(1).abs() < 0.004, "mean {}", moment(1));
        assert!(
            (moment(2) - 0.773_741).abs() < 0.004,
            "variance {}",
            moment(2)
        );
        assert!(moment(3).abs() < 0.01, "third moment {}", moment(3));
        // E x⁴ = 3 V - 2·2³·φ(2) / (2Φ(2) - 1), with V the variance.
        let fourth = 3.0 * 0.773_741 - 2.0 * 8.0 * 0.053_990_97 / 0.954_499_74;
        assert!(
            (moment(4) - fourth).abs() < 0.02,
            "fourth moment {} is not {fourth}",
            moment(4)
        );
        let within_one = numbers.iter().filter(|number| number.abs() < 1.0).count() as f64 / count;
        assert!(
            (within_one - 0.682_689_5 / 0.954_499_7).abs() < 0.002,
            "{within_one}"
        );
    }

    #[test]
    fn roles_decide_the_scale() {
        let config = ModelConfig {
            vocab_size: 500,
            hidden_size: 96,
            layers: 3,
            special_tokens: crate::model::config::SpecialTokens {
                pad: 0,
                cls: 1,
                sep: 2,
            },
            ..Preset::Base.config()
        };
        let parameters = initialize(&config, 1, Device::Cpu);
        let cut_deviation = 0.773_741f64.sqrt();
        for (name, wanted) in [
            ("model.embeddings.tok_embeddings.weight", 0.02),
            ("model.layers.1.attn.Wqkv.weight", 0.02),
            ("model.layers.1.mlp.Wi.weight", 0.02),
            ("head.dense.weight", 0.02),
            ("model.layers.2.attn.Wo.weight", 0.02 / 6f64.sqrt()),
            ("model.layers.2.mlp.Wo.weight", 0.02 / 6f64.sqrt()),
        ] {
            let found = parameters.tensor(name).std(true).double_value(&[]);
            let wanted = wanted * cut_deviation;
            assert!(
                (found / wanted - 1.0).abs() < 0.03,
                "{name}: {found} is not {wanted}"
            );
        }
        let sum = |name| parameters.tensor(name).sum(Kind::Float).double_value(&[]);
        assert!((sum("model.layers.1.attn_norm.weight") - 96.0).abs() < 1e-9);
        assert!(sum("decoder.bias").abs() < 1e-9);
    }

    /// The first numbers of a stream, pinned: they must never change between releases or machines.
    #[test]
    fn a_seed_gives_the_same_bits_everywhere() {
        let first = truncated_normal("model.layers.0.attn.Wo.weight", 17, 4, 1.0);
        let again = truncated_normal("model.layers.0.attn.Wo.weight", 17, 2_000_000, 1.0);
        assert_eq!(first, again[..4]);
        assert_ne!(
            first,
            truncated_normal("model.layers.1.attn.Wo.weight", 17, 4, 1.0)
        );
        assert_ne!(
            first,
            truncated_normal("model.layers.0.attn.Wo.weight", 18, 4, 1.0)
        );
        let bits: Vec<u32> = first.iter().map(|number| number.to_bits()).collect();
        assert_eq!(bits, PINNED);
    }

    const PINNED: [u32; 4] = [3_204_150_556, 1_051_733_199, 3_215_787_311, 1_031_889_396];
}
