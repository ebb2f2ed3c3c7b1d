//! The optimizer's formulas as tensor operations, for parameters that are not on the CPU. Nothing
//! here waits for the device but the two functions that return numbers.

use tch::{Kind, Tensor};

use crate::torch::stable_adamw::{Coefficients, Operands};

/// The sum of squares of each gradient, accumulated in float64.
pub(super) fn sums_of_squares(gradients: &[Tensor]) -> Vec<f64> {
    let sums: Vec<Tensor> = gradients
        .iter()
        .map(|g| g.square().sum(Kind::Double))
        .collect();
    to_numbers(&sums)
}

/// Updates moments and parameter in place; the RMS is a float32 scalar on the device.
pub(super) fn update(operands: &Operands<'_>, coefficients: &Coefficients) -> Tensor {
    let Coefficients {
        gradient_share,
        square_decay,
        epsilon,
        lr,
        decay_per_lr,
    } = *coefficients;
    let mut parameter = operands.parameter.shallow_clone();
    let mut exp_avg = operands.exp_avg.shallow_clone();
    let mut exp_avg_sq = operands.exp_avg_sq.shallow_clone();

    let squared = operands.gradient.square();
    let _ = exp_avg.lerp_(operands.gradient, gradient_share);
    let _ = exp_avg_sq.lerp_(&squared, 1.0 - square_decay);

    let rms = (squared / exp_avg_sq.clamp_min(epsilon * epsilon))
        .mean(Kind::Float)
        .sqrt();
    let step_lr = rms.clamp_min(1.0).reciprocal() * lr;
    // Decay and update in one subtraction: 1 - lr * decay is close to 1 beyond float32's
    // resolution.
    let mut direction = &exp_avg / (exp_avg_sq.sqrt() + epsilon);
    if decay_per_lr > 0.0 {
        direction += &parameter * decay_per_lr;
    }
    parameter -= direction * step_lr;
    rms
}

/// The largest of scalars on one device; 0 if there are none.
pub(super) fn largest(scalars: &[Tensor]) -> f64 {
    to_numbers(scalars).into_iter().fold(0.0, f64::max)
}

/// One transfer for all.
fn to_numbers(scalars: &[Tensor]) -> Vec<f64> {
    if scalars.is_empty() {
        return Vec::new();
    }
    let stacked = Tensor::stack(scalars, 0).to_kind(Kind::Double);
    Vec::<f64>::try_from(stacked).expect("a one-dimensional float64 tensor becomes a vector")
}
