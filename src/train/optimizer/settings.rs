//! The optimizer's configuration, and which parameters decay.

use garde::Validate;
use serde::{Deserialize, Serialize};

/// The optimizer's part of a run's configuration. The defaults are those of the base
/// model of `BioClinical` ModernBERT.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, Validate)]
#[serde(default, deny_unknown_fields)]
pub struct OptimizerSettings {
    /// How much of the gradient's running mean a step keeps.
    #[garde(range(min = 0.0, max = 0.999_999), custom(finite))]
    pub beta1: f64,
    /// How much of the squared gradient's running mean a step keeps.
    #[garde(range(min = 0.0, max = 0.999_999), custom(finite))]
    pub beta2: f64,
    /// Added to the root of the second moment before dividing by it.
    #[garde(range(min = 1e-15, max = 1.0), custom(finite))]
    pub epsilon: f64,
    /// Share of each decaying parameter that a step at `max_lr` takes away (decoupled), or that a
    /// step takes away per unit of learning rate.
    #[garde(range(min = 0.0, max = 1.0), custom(finite))]
    pub weight_decay: f64,
    /// Whether `weight_decay` is relative to `max_lr` instead of multiplied by the learning rate.
    #[garde(skip)]
    pub decouple_lr: bool,
    /// The learning rate at which the whole `weight_decay` applies; without it, the highest
    /// learning rate of the run's phases. The reference implementation keeps the learning rate of
    /// its very first construction in the checkpoint, also when a later run lowers the rate: a run
    /// at 3e-4 restarted from one at 8e-4 silently decays by 3/8 of what its file says. Here the
    /// run's own file decides; set 8e-4 to train as such a restarted run did.
    #[garde(inner(range(min = 1e-12, max = 10.0), custom(finite)))]
    pub max_lr: Option<f64>,
}

impl Default for OptimizerSettings {
    fn default() -> Self {
        Self {
            beta1: 0.9,
            beta2: 0.98,
            epsilon: 1e-6,
            weight_decay: 1e-5,
            decouple_lr: true,
            max_lr: None,
        }
    }
}

/// Range rules let a NaN through.
#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "the signature that garde calls"
)]
fn finite(value: &f64, (): &()) -> garde::Result {
    if value.is_finite() {
        Ok(())
    } else {
        Err(garde::Error::new("must be a finite number"))
    }
}

/// Whether the recipe decays a parameter: everything does, embeddings included, but biases and
/// what has fewer than two dimensions.
pub fn decays(name: &str, dimensions: usize) -> bool {
    dimensions > 1 && name.rsplit('.').next() != Some("bias")
}
