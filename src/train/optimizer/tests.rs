//! The fused kernel against the eager formulas, and the choice of decayed parameters.

use tch::{Kind, Tensor, no_grad};

use super::settings::decays;
use super::{debiased, eager};
use crate::torch::stable_adamw::{self, Coefficients, Operands};

/// Four tensors that a step may work on, the same at every call.
fn operands(count: i64) -> [Tensor; 4] {
    let wave = |scale: f64, phase: f64| {
        ((Tensor::arange(count, (Kind::Double, tch::Device::Cpu)) * 0.37 + phase).sin() * scale)
            .to_kind(Kind::Float)
    };
    [
        wave(0.5, 0.1),
        wave(0.02, 0.7),
        wave(0.01, 1.3),
        wave(0.01, 2.1).square(),
    ]
}

fn view(tensors: &[Tensor; 4]) -> Operands<'_> {
    let [parameter, gradient, exp_avg, exp_avg_sq] = tensors;
    Operands {
        parameter,
        gradient,
        exp_avg,
        exp_avg_sq,
    }
}

const COEFFICIENTS: Coefficients = Coefficients {
    gradient_share: 0.1,
    square_decay: 0.98,
    epsilon: 1e-6,
    lr: 3e-3,
    decay_per_lr: 0.03,
};

#[test]
fn the_fused_loop_and_tensor_operations_agree() {
    for count in [1, 7, 255, 256, 257, 32_767, 100_003] {
        let (fused, eager) = (operands(count), operands(count));
        let fused_rms = stable_adamw::update(&view(&fused), &COEFFICIENTS).unwrap();
        let eager_rms = no_grad(|| eager::update(&view(&eager), &COEFFICIENTS)).double_value(&[]);
        assert!(
            (fused_rms / eager_rms - 1.0).abs() < 1e-5,
            "{count}: {fused_rms} {eager_rms}"
        );
        for (ours, theirs) in fused.iter().zip(&eager) {
            let scale = theirs.abs().max().double_value(&[]);
            let apart = (ours - theirs).abs().max().double_value(&[]);
            assert!(apart <= 3e-6 * scale, "{count}: {apart} of {scale}");
        }
        let squares = stable_adamw::sum_of_squares(&fused[1]).unwrap();
        let expected = eager::sums_of_squares(&[fused[1].to_kind(Kind::Double)])[0];
        assert!(
            (squares / expected - 1.0).abs() < 1e-12,
            "{count}: {squares} {expected}"
        );
    }
}

#[test]
fn the_fused_loop_gives_equal_bits_on_any_number_of_threads() {
    let before = tch::get_num_threads();
    let runs: Vec<([Tensor; 4], f64)> = [1, 2, 3]
        .into_iter()
        .map(|threads| {
            tch::set_num_threads(threads);
            let tensors = operands(1_000_003);
            let rms = stable_adamw::update(&view(&tensors), &COEFFICIENTS).unwrap();
            (tensors, rms)
        })
        .collect();
    tch::set_num_threads(before);
    for (tensors, rms) in &runs[1..] {
        assert_eq!(rms.to_bits(), runs[0].1.to_bits());
        for (ours, first) in tensors.iter().zip(&runs[0].0) {
            assert_eq!(ours, first);
        }
    }
}

#[test]
fn the_fused_loop_refuses_what_it_cannot_read() {
    let [parameter, gradient, exp_avg, exp_avg_sq] = operands(64);
    let before = parameter.copy();
    let wide = gradient.to_kind(Kind::Double);
    let strided = operands(128)[1].view([64, 2]).select(1, 0);
    let short = operands(63)[1].shallow_clone();
    for gradient in [&wide, &strided, &short] {
        let operands = Operands {
            parameter: &parameter,
            gradient,
            exp_avg: &exp_avg,
            exp_avg_sq: &exp_avg_sq,
        };
        let error = stable_adamw::update(&operands, &COEFFICIENTS).unwrap_err();
        assert!(error.message.contains("contiguous float32"), "{error}");
    }
    assert_eq!(parameter, before);
}

#[test]
fn debiased_betas_start_at_zero_and_end_at_beta() {
    assert!(debiased(0.98, 1).abs() < 1e-300);
    // Two steps weigh the newer gradient by 1 / (1 + beta).
    assert!((debiased(0.9, 2) - 0.9 / 1.9).abs() < 1e-15);
    assert!((debiased(0.98, 10_000) - 0.98).abs() < 1e-15);
    assert!(debiased(0.0, 5).abs() < 1e-300);
}

#[test]
fn biases_and_norms_do_not_decay() {
    assert!(decays("embeddings.tok_embeddings.weight", 2));
    assert!(!decays("layers.0.attn_norm.weight", 1));
    assert!(!decays("decoder.bias", 1));
    assert!(!decays("odd.bias", 2));
}
