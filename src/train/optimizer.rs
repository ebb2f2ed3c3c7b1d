//! StableAdamW: `AdamW` whose learning rate is divided, per tensor, by the root mean square (RMS)
//! of the gradient normalized by its second moment, where that is above 1 (Wortsman et al., "Stable
//! and low-precision training for large-scale vision-language models", arXiv:2304.13013), as the
//! training of ModernBERT uses it (AnswerDotAI/ModernBERT `src/optimizer.py`,
//! warner-benjamin/optimi `StableAdamW`).
//!
//! Step t, counted from 1, of a parameter p with gradient g, with the debiased betas
//! `b(beta) = (beta^t - beta) / (beta^t - 1)`:
//!
//! ```text
//! m   += (1 - b(beta1)) * (g - m)
//! v    = b(beta2) * v + (1 - b(beta2)) * g^2
//! RMS  = sqrt(mean(g^2 / max(v, epsilon^2)))
//! lr_t = lr / max(1, RMS)
//! p   *= 1 - lr_t / max_lr * weight_decay      (decoupled; else 1 - lr_t * weight_decay)
//! p   -= lr_t * m / (sqrt(v) + epsilon)
//! ```
//!
//! There is no gradient clipping: the division by RMS does its work.
//!
//! Invariants: the state is a function of the gradients and learning rates alone, bit for bit, on
//! any number of threads; a step that is refused has changed nothing.

mod eager;
pub mod settings;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use garde::Validate;
use tch::{Device, Kind, Tensor, no_grad};
use thiserror::Error;

use crate::torch::stable_adamw::{self, Coefficients, Operands};
use crate::torch::status::ShimError;
use crate::train::optimizer::settings::OptimizerSettings;

/// A tensor to train.
#[derive(Debug)]
pub struct Parameter {
    pub name: String,
    /// Float32, contiguous; updated in place.
    pub tensor: Tensor,
    pub weight_decay: bool,
}

/// What one step was like.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepStatistics {
    /// L2 norm of all gradients together, accumulated in float64.
    pub gradient_norm: f64,
    /// The largest RMS of all parameters; above 1, that parameter's learning rate was cut.
    pub rms_max: f64,
}

/// Why a step or a state was refused. Parameters and state are then as before.
#[derive(Debug, Error)]
pub enum OptimizerError {
    /// The same on every rank, for all hold the same summed gradients.
    #[error(
        "the gradient of {parameter} is not finite\n  \
         hint: go back to the last checkpoint with a lower learning rate, or inspect this step's \
         batch"
    )]
    NotFinite { parameter: String },

    /// Parameters, gradients, state or settings that do not fit together.
    #[error("the optimizer cannot take {what}: {why}")]
    Mismatch { what: String, why: String },

    /// libtorch failed.
    #[error("the optimizer's update failed: {0}")]
    Kernel(#[from] ShimError),
}

/// The optimizer with the moments of every parameter, which live on the parameter's device.
#[derive(Debug)]
pub struct StableAdamW {
    slots: Vec<Slot>,
    settings: OptimizerSettings,
    max_lr: f64,
    steps: u64,
}

#[derive(Debug)]
struct Slot {
    parameter: Parameter,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
}

impl StableAdamW {
    /// `highest_lr` is the highest learning rate of the run's phases: what `max_lr` is unless the
    /// settings name one.
    ///
    /// # Errors
    /// Settings out of range, a parameter twice, or one that is not contiguous float32.
    pub fn new(
        parameters: Vec<Parameter>,
        settings: OptimizerSettings,
        highest_lr: f64,
    ) -> Result<Self, OptimizerError> {
        settings
            .validate()
            .map_err(|report| mismatch("its settings", report.to_string().trim()))?;
        let max_lr = settings.max_lr.unwrap_or(highest_lr);
        if !(max_lr.is_finite() && max_lr > 0.0) {
            return Err(mismatch(
                "its settings",
                format!("max_lr is {max_lr}, not above 0"),
            ));
        }
        let mut names = BTreeSet::new();
        for parameter in &parameters {
            let Parameter { name, tensor, .. } = parameter;
            if tensor.kind() != Kind::Float || !tensor.is_contiguous() {
                return Err(mismatch(name, "a parameter must be contiguous float32"));
            }
            if !names.insert(name.as_str()) {
                return Err(mismatch(name, "there are two parameters of this name"));
            }
        }
        let slots = parameters
            .into_iter()
            .map(|parameter| Slot {
                exp_avg: parameter.tensor.zeros_like().detach(),
                exp_avg_sq: parameter.tensor.zeros_like().detach(),
                parameter,
            })
            .collect();
        Ok(Self {
            slots,
            settings,
            max_lr,
            steps: 0,
        })
    }

    /// Steps taken, which the debiased betas depend on.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Sets the steps taken, on a rank whose moments come from a peer.
    pub fn set_steps(&mut self, steps: u64) {
        self.steps = steps;
    }

    /// The learning rate at which the whole weight decay applies.
    pub fn max_lr(&self) -> f64 {
        self.max_lr
    }

    /// Takes one step. `gradients` are in the parameters' order, of their shapes, float32, summed
    /// over ranks and divided already.
    ///
    /// # Errors
    /// `NotFinite` for a gradient with a NaN or an infinity, `Mismatch` for gradients or a learning
    /// rate that no step can be taken with; in both cases nothing has changed.
    pub fn step(
        &mut self,
        gradients: &[Tensor],
        lr: f64,
    ) -> Result<StepStatistics, OptimizerError> {
        if !(lr.is_finite() && lr >= 0.0) {
            return Err(mismatch("this learning rate", lr.to_string()));
        }
        let gradients = self.check_gradients(gradients)?;
        no_grad(|| {
            let gradient_norm = self.gradient_norm(&gradients)?;
            self.steps += 1;
            let rms_max = self.update(&gradients, lr)?;
            Ok(StepStatistics {
                gradient_norm,
                rms_max,
            })
        })
    }

    /// The moments, as `<parameter>.exp_avg` and `<parameter>.exp_avg_sq` in the parameters' order.
    /// These are handles to the live tensors: copy them before the next step, or write to them to
    /// receive a peer's state.
    pub fn state_dict(&self) -> Vec<(String, Tensor)> {
        let mut state = Vec::with_capacity(2 * self.slots.len());
        for slot in &self.slots {
            let name = &slot.parameter.name;
            state.push((format!("{name}.exp_avg"), slot.exp_avg.shallow_clone()));
            state.push((
                format!("{name}.exp_avg_sq"),
                slot.exp_avg_sq.shallow_clone(),
            ));
        }
        state
    }

    /// Takes over moments that [`state_dict`](Self::state_dict) gave, bit for bit, in any order,
    /// and the steps taken by then.
    ///
    /// # Errors
    /// A tensor that is missing, unknown, or of another shape or dtype; then nothing has changed.
    pub fn load_state(
        &mut self,
        state: &[(String, Tensor)],
        steps: u64,
    ) -> Result<(), OptimizerError> {
        let given: BTreeMap<&str, &Tensor> = state
            .iter()
            .map(|(name, tensor)| (name.as_str(), tensor))
            .collect();
        let own = self.state_dict();
        for (name, tensor) in &own {
            let Some(source) = given.get(name.as_str()) else {
                return Err(mismatch(name, "it is missing from the saved state"));
            };
            if source.size() != tensor.size() || source.kind() != tensor.kind() {
                let saved = (source.size(), source.kind());
                let why = format!(
                    "saved as {saved:?}, needed as {:?}",
                    (tensor.size(), tensor.kind())
                );
                return Err(mismatch(name, why));
            }
        }
        if state.len() != own.len() {
            let known = |name: &str| own.iter().any(|(own, _)| own == name);
            let stranger = state.iter().map(|(name, _)| name).find(|name| !known(name));
            return Err(match stranger {
                Some(name) => mismatch(name, "no parameter of this model has it as its state"),
                None => mismatch("the saved state", "it holds a tensor twice"),
            });
        }
        no_grad(|| {
            for (name, mut tensor) in own {
                tensor.copy_(given[name.as_str()]);
            }
        });
        self.steps = steps;
        Ok(())
    }

    /// Checks number, shapes and dtypes; gives handles to contiguous gradients.
    fn check_gradients(&self, gradients: &[Tensor]) -> Result<Vec<Tensor>, OptimizerError> {
        if gradients.len() != self.slots.len() {
            let why = format!("there are {} parameters", self.slots.len());
            return Err(mismatch(format!("{} gradients", gradients.len()), why));
        }
        let mut checked = Vec::with_capacity(gradients.len());
        for (Slot { parameter, .. }, gradient) in self.slots.iter().zip(gradients) {
            if !gradient.defined() {
                return Err(mismatch(&parameter.name, "it has no gradient"));
            }
            let of = |tensor: &Tensor| (tensor.size(), tensor.kind(), tensor.device());
            if of(gradient) != of(&parameter.tensor) {
                let why = format!(
                    "its gradient is {:?}, not {:?}",
                    of(gradient),
                    of(&parameter.tensor)
                );
                return Err(mismatch(&parameter.name, why));
            }
            checked.push(gradient.contiguous());
        }
        Ok(checked)
    }

    /// L2 norm over all gradients.
    fn gradient_norm(&self, gradients: &[Tensor]) -> Result<f64, OptimizerError> {
        let fused = self.slots.iter().all(Slot::is_fused);
        let sums = if fused {
            gradients
                .iter()
                .map(stable_adamw::sum_of_squares)
                .collect::<Result<Vec<f64>, _>>()?
        } else {
            eager::sums_of_squares(gradients)
        };
        if let Some(at) = sums.iter().position(|sum| !sum.is_finite()) {
            return Err(OptimizerError::NotFinite {
                parameter: self.slots[at].parameter.name.clone(),
            });
        }
        Ok(sums.iter().sum::<f64>().sqrt())
    }

    /// Updates all parameters and returns the largest RMS.
    fn update(&self, gradients: &[Tensor], lr: f64) -> Result<f64, OptimizerError> {
        let mut rms_max = 0.0_f64;
        let mut pending = Vec::new();
        for (slot, gradient) in self.slots.iter().zip(gradients) {
            let operands = Operands {
                parameter: &slot.parameter.tensor,
                gradient,
                exp_avg: &slot.exp_avg,
                exp_avg_sq: &slot.exp_avg_sq,
            };
            let coefficients = self.coefficients(lr, slot.parameter.weight_decay);
            if slot.is_fused() {
                rms_max = rms_max.max(stable_adamw::update(&operands, &coefficients)?);
            } else {
                pending.push(eager::update(&operands, &coefficients));
            }
        }
        Ok(rms_max.max(eager::largest(&pending)))
    }

    fn coefficients(&self, lr: f64, weight_decay: bool) -> Coefficients {
        let OptimizerSettings {
            beta1,
            beta2,
            epsilon,
            decouple_lr,
            ..
        } = self.settings;
        let decay_per_lr = match (weight_decay, decouple_lr) {
            (false, _) => 0.0,
            (true, true) => self.settings.weight_decay / self.max_lr,
            (true, false) => self.settings.weight_decay,
        };
        Coefficients {
            gradient_share: 1.0 - debiased(beta1, self.steps),
            square_decay: debiased(beta2, self.steps),
            epsilon,
            lr,
            decay_per_lr,
        }
    }
}

impl Slot {
    fn is_fused(&self) -> bool {
        self.parameter.tensor.device() == Device::Cpu
    }
}

/// `(beta^t - beta) / (beta^t - 1)`: 0 at step 1, where the moments are the gradient's own, and
/// rising to beta. It folds Adam's bias correction into the running means.
fn debiased(beta: f64, step: u64) -> f64 {
    let power = beta.powf(step as f64);
    (power - beta) / (power - 1.0)
}

fn mismatch(what: impl Into<String>, why: impl Into<String>) -> OptimizerError {
    OptimizerError::Mismatch {
        what: what.into(),
        why: why.into(),
    }
}
