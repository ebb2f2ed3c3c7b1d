//! The fused loops of the optimizer (`shim/stable_adamw.cc`): contiguous float32 tensors on the
//! CPU.
//!
//! Invariant: the same inputs give the same bits on any number of threads and any x86-64 CPU.

#![expect(unsafe_code, reason = "calls the C++ shim")]

use std::ffi::c_void;

use tch::Tensor;

use crate::torch::status::{MessageBuffer, ShimError, call};

/// One step's numbers, the same for all tensors but `decay_per_lr`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Coefficients {
    /// Weight of the new gradient in the first moment: 1 - debiased beta1.
    pub gradient_share: f64,
    /// Weight of the old second moment in the new one: debiased beta2.
    pub square_decay: f64,
    pub epsilon: f64,
    /// The schedule's learning rate, before the division by max(1, RMS).
    pub lr: f64,
    /// What a parameter loses per unit of learning rate; 0 for one without weight decay.
    pub decay_per_lr: f64,
}

/// One parameter with its gradient and moments: four tensors of one size.
#[derive(Debug)]
pub struct Operands<'a> {
    pub parameter: &'a Tensor,
    pub gradient: &'a Tensor,
    pub exp_avg: &'a Tensor,
    pub exp_avg_sq: &'a Tensor,
}

unsafe extern "C" {
    fn cohort_sum_of_squares(tensor: *const c_void, sum: *mut f64, message: MessageBuffer) -> i32;

    fn cohort_stable_adamw(
        parameter: *const c_void,
        gradient: *const c_void,
        exp_avg: *const c_void,
        exp_avg_sq: *const c_void,
        coefficients: *const Coefficients,
        rms: *mut f64,
        message: MessageBuffer,
    ) -> i32;
}

/// The sum of a tensor's squared elements, accumulated in float64.
///
/// # Errors
/// A tensor that is not contiguous float32 on the CPU.
pub fn sum_of_squares(tensor: &Tensor) -> Result<f64, ShimError> {
    let mut sum = 0.0;
    // SAFETY: `as_ptr` is a live `at::Tensor*` for as long as the reference; `sum` and the message
    // buffer outlive the call; the shim checks device, dtype and layout before it reads elements.
    call(|message| unsafe {
        cohort_sum_of_squares(tensor.as_ptr().cast(), &raw mut sum, message)
    })?;
    Ok(sum)
}

/// Updates the moments and then the parameter in place, and returns the RMS of the gradient
/// normalized by the second moment (the optimizer's documentation has the formulas).
///
/// # Errors
/// Tensors that are not contiguous float32 on the CPU, or differ in their number of elements;
/// then nothing was written.
pub fn update(operands: &Operands<'_>, coefficients: &Coefficients) -> Result<f64, ShimError> {
    let mut rms = 0.0;
    // SAFETY: the four `as_ptr` are live `at::Tensor*` for as long as the references; tch tensors
    // are handles to shared storage that libtorch itself mutates through `&Tensor`, and `Tensor` is
    // not `Sync`, so no other thread uses these handles now. The shim checks device, dtype, layout
    // and sizes before it touches elements. `coefficients`, `rms` and the message outlive the call.
    call(|message| unsafe {
        cohort_stable_adamw(
            operands.parameter.as_ptr().cast(),
            operands.gradient.as_ptr().cast(),
            operands.exp_avg.as_ptr().cast(),
            operands.exp_avg_sq.as_ptr().cast(),
            coefficients,
            &raw mut rms,
            message,
        )
    })?;
    Ok(rms)
}
