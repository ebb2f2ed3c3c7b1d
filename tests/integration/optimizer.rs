//! StableAdamW against its formulas in plain float64, and its state across a restart.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "all of this is test code"
)]

use cohort::config;
use cohort::train::optimizer::settings::{OptimizerSettings, decays};
use cohort::train::optimizer::{OptimizerError, Parameter, StableAdamW};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tch::{Kind, Tensor};

const STEPS: usize = 50;
const PEAK_LR: f64 = 3e-3;

/// Name, shape, and the scale of its gradients.
const SHAPES: [(&str, &[i64], f64); 4] = [
    ("embeddings.weight", &[301, 64], 1e-3),
    ("layers.0.mlp.weight", &[64, 48], 1.0),
    ("layers.0.norm.weight", &[64], 0.1),
    ("head.bias", &[301], 1e-8),
];

fn values(generator: &mut ChaCha8Rng, count: i64, scale: f64) -> Vec<f64> {
    (0..count)
        .map(|_| f64::from((generator.random::<f64>() * 2.0 - 1.0) as f32 * scale as f32))
        .collect()
}

fn tensor(values: &[f64], shape: &[i64]) -> Tensor {
    Tensor::from_slice(values)
        .to_kind(Kind::Float)
        .reshape(shape)
}

fn numbers(tensor: &Tensor) -> Vec<f64> {
    Vec::try_from(tensor.to_kind(Kind::Double).flatten(0, -1)).unwrap()
}

fn initial(generator: &mut ChaCha8Rng) -> Vec<Vec<f64>> {
    SHAPES
        .iter()
        .map(|(_, shape, _)| values(generator, shape.iter().product(), 0.5))
        .collect()
}

/// One step's gradients. Every seventh is a burst, so that the RMS rule has something to cut.
fn gradients(generator: &mut ChaCha8Rng, step: usize) -> Vec<Vec<f64>> {
    let burst = if step % 7 == 6 { 40.0 } else { 1.0 };
    SHAPES
        .iter()
        .map(|(_, shape, scale)| values(generator, shape.iter().product(), scale * burst))
        .collect()
}

/// Rises to the peak and falls again.
fn learning_rate(step: usize) -> f64 {
    PEAK_LR * (1.0 - (step as f64 - 20.0).abs() / 60.0)
}

fn optimizer(start: &[Vec<f64>], settings: OptimizerSettings) -> (StableAdamW, Vec<Tensor>) {
    let tensors: Vec<Tensor> = start
        .iter()
        .zip(SHAPES)
        .map(|(values, (_, shape, _))| tensor(values, shape))
        .collect();
    let parameters = tensors
        .iter()
        .zip(SHAPES)
        .map(|(tensor, (name, shape, _))| Parameter {
            name: name.into(),
            tensor: tensor.shallow_clone(),
            weight_decay: decays(name, shape.len()),
        })
        .collect();
    (
        StableAdamW::new(parameters, settings, PEAK_LR).unwrap(),
        tensors,
    )
}

fn as_tensors(gradients: &[Vec<f64>]) -> Vec<Tensor> {
    gradients
        .iter()
        .zip(SHAPES)
        .map(|(values, (_, shape, _))| tensor(values, shape))
        .collect()
}

/// The formulas, element by element, with no thought for speed.
struct Reference {
    p: Vec<f64>,
    m: Vec<f64>,
    v: Vec<f64>,
    weight_decay: f64,
}

impl Reference {
    fn step(&mut self, g: &[f64], t: i32, lr: f64, settings: &OptimizerSettings) -> f64 {
        let hat = |beta: f64| (beta.powi(t) - beta) / (beta.powi(t) - 1.0);
        let (b1_comp, b2_hat) = (1.0 - hat(settings.beta1), hat(settings.beta2));
        let eps = settings.epsilon;
        let mut mean = 0.0;
        for (i, g) in g.iter().enumerate() {
            self.m[i] += b1_comp * (g - self.m[i]);
            self.v[i] = b2_hat * self.v[i] + (1.0 - b2_hat) * g * g;
            mean += g * g / self.v[i].max(eps * eps) / self.p.len() as f64;
        }
        let rms = mean.sqrt();
        let lr_t = lr / rms.max(1.0);
        let decay = if settings.decouple_lr {
            lr_t / settings.max_lr.unwrap_or(PEAK_LR)
        } else {
            lr_t
        };
        for i in 0..self.p.len() {
            self.p[i] *= 1.0 - decay * self.weight_decay;
            self.p[i] -= lr_t * self.m[i] / (self.v[i].sqrt() + eps);
        }
        rms
    }
}

/// Largest difference over the reference's largest element.
fn relative_error(ours: &[f64], reference: &[f64]) -> f64 {
    let scale = reference
        .iter()
        .fold(0.0_f64, |largest, value| largest.max(value.abs()));
    let apart = ours.iter().zip(reference).map(|(a, b)| (a - b).abs());
    apart.fold(0.0_f64, f64::max) / scale
}

fn follow_the_reference(settings: &OptimizerSettings) {
    let mut generator = ChaCha8Rng::seed_from_u64(11);
    let start = initial(&mut generator);
    let (mut ours, tensors) = optimizer(&start, settings.clone());
    let mut references: Vec<Reference> = start
        .iter()
        .zip(SHAPES)
        .map(|(p, (name, _, _))| Reference {
            p: p.clone(),
            m: vec![0.0; p.len()],
            v: vec![0.0; p.len()],
            weight_decay: if name.ends_with("norm.weight") || name.ends_with("bias") {
                0.0
            } else {
                settings.weight_decay
            },
        })
        .collect();

    let (mut error_max, mut cut_steps) = (0.0_f64, 0);
    for step in 0..STEPS {
        let gradients = gradients(&mut generator, step);
        let lr = learning_rate(step);
        let statistics = ours.step(&as_tensors(&gradients), lr).unwrap();
        let t = i32::try_from(step).unwrap() + 1;
        let rms_max = references
            .iter_mut()
            .zip(&gradients)
            .map(|(reference, g)| reference.step(g, t, lr, settings))
            .fold(0.0, f64::max);
        let norm = gradients
            .iter()
            .flatten()
            .map(|g| g * g)
            .sum::<f64>()
            .sqrt();
        assert!(
            (statistics.gradient_norm / norm - 1.0).abs() < 1e-9,
            "step {t}"
        );
        assert!(
            (statistics.rms_max / rms_max - 1.0).abs() < 1e-5,
            "step {t}"
        );
        cut_steps += usize::from(rms_max > 1.5);
        for (tensor, reference) in tensors.iter().zip(&references) {
            error_max = error_max.max(relative_error(&numbers(tensor), &reference.p));
        }
    }
    let state = ours.state_dict();
    for (pair, reference) in state.chunks_exact(2).zip(&references) {
        error_max = error_max.max(relative_error(&numbers(&pair[0].1), &reference.m));
        error_max = error_max.max(relative_error(&numbers(&pair[1].1), &reference.v));
    }
    println!("largest relative error {error_max:.2e}, {cut_steps} steps with an RMS above 1.5");
    assert!(error_max <= 1e-5, "{error_max:e}");
    assert!(cut_steps >= 5, "the data no longer exercises the RMS rule");
}

#[test]
fn fifty_steps_follow_the_formulas_with_decoupled_decay() {
    follow_the_reference(&OptimizerSettings {
        weight_decay: 1e-2,
        ..Default::default()
    });
}

#[test]
fn fifty_steps_follow_the_formulas_with_a_max_lr_of_an_earlier_run() {
    let settings = OptimizerSettings {
        max_lr: Some(8e-3),
        weight_decay: 1e-2,
        ..Default::default()
    };
    follow_the_reference(&settings);
}

#[test]
fn fifty_steps_follow_the_formulas_with_coupled_decay() {
    let settings = OptimizerSettings {
        decouple_lr: false,
        weight_decay: 0.5,
        epsilon: 1e-8,
        ..Default::default()
    };
    follow_the_reference(&settings);
}

fn bits(tensors: &[Tensor]) -> Vec<Vec<u32>> {
    let of = |tensor: &Tensor| {
        let values: Vec<f32> = Vec::try_from(tensor.flatten(0, -1)).unwrap();
        values.iter().map(|value| value.to_bits()).collect()
    };
    tensors.iter().map(of).collect()
}

#[test]
fn a_restart_in_the_middle_gives_equal_bits() {
    let mut generator = ChaCha8Rng::seed_from_u64(5);
    let start = initial(&mut generator);
    let all: Vec<Vec<Tensor>> = (0..20)
        .map(|step| as_tensors(&gradients(&mut generator, step)))
        .collect();
    let (mut whole, expected) = optimizer(&start, OptimizerSettings::default());
    for (step, gradients) in all.iter().enumerate() {
        whole.step(gradients, learning_rate(step)).unwrap();
    }

    let (mut first, middle) = optimizer(&start, OptimizerSettings::default());
    for (step, gradients) in all[..9].iter().enumerate() {
        first.step(gradients, learning_rate(step)).unwrap();
    }
    let mut saved: Vec<(String, Tensor)> = first
        .state_dict()
        .into_iter()
        .map(|(name, tensor)| (name, tensor.copy()))
        .collect();
    saved.reverse();
    let steps = first.steps();
    let weights: Vec<Vec<f64>> = middle.iter().map(numbers).collect();
    let (mut second, actual) = optimizer(&weights, OptimizerSettings::default());
    second.load_state(&saved, steps).unwrap();
    for (step, gradients) in all.iter().enumerate().skip(9) {
        second.step(gradients, learning_rate(step)).unwrap();
    }
    assert_eq!(bits(&actual), bits(&expected));
    let state = |optimizer: &StableAdamW| {
        let tensors: Vec<Tensor> = optimizer.state_dict().into_iter().map(|(_, t)| t).collect();
        bits(&tensors)
    };
    assert_eq!(state(&second), state(&whole));
    assert_eq!((second.steps(), whole.steps()), (20, 20));
}

#[test]
fn refused_steps_and_states_change_nothing() {
    let mut generator = ChaCha8Rng::seed_from_u64(7);
    let start = initial(&mut generator);
    let (mut ours, tensors) = optimizer(&start, OptimizerSettings::default());
    let good = as_tensors(&gradients(&mut generator, 0));
    ours.step(&good, PEAK_LR).unwrap();
    let before = bits(&tensors);

    let mut with_nan = as_tensors(&gradients(&mut generator, 1));
    with_nan[2] = with_nan[2].copy();
    let _ = with_nan[2].get(3).fill_(f64::NAN);
    let error = ours.step(&with_nan, PEAK_LR).unwrap_err();
    assert!(matches!(&error, OptimizerError::NotFinite { parameter } if parameter == SHAPES[2].0));
    assert!(ours.step(&good[..3], PEAK_LR).is_err());
    assert!(ours.step(&good, f64::NAN).is_err());

    let mut state = ours.state_dict();
    let (name, tensor) = state.pop().unwrap();
    let error = ours.load_state(&state, 9).unwrap_err().to_string();
    assert!(
        error.contains("head.bias.exp_avg_sq") && error.contains("missing"),
        "{error}"
    );
    state.push((name, tensor.narrow(0, 0, 5)));
    assert!(
        ours.load_state(&state, 9)
            .unwrap_err()
            .to_string()
            .contains("head.bias.exp_avg_sq")
    );
    let mut state = ours.state_dict();
    state.push(("stranger.exp_avg".into(), tensor));
    assert!(
        ours.load_state(&state, 9)
            .unwrap_err()
            .to_string()
            .contains("stranger.exp_avg")
    );

    assert_eq!(bits(&tensors), before);
    assert_eq!(ours.steps(), 1);
}

#[test]
fn settings_are_read_and_bounded() {
    let read = |text: &str| config::parse::<OptimizerSettings>(text, "run.yaml");
    assert_eq!(read("{}").unwrap(), OptimizerSettings::default());
    let settings = read("weight_decay: 1e-6\nmax_lr: 5e-4\n").unwrap();
    assert_eq!((settings.weight_decay, settings.max_lr), (1e-6, Some(5e-4)));
    for wrong in [
        "beta2: 1.0",
        "epsilon: 0",
        "beta1: .nan",
        "max_lr: -1",
        "clip: 1.0",
    ] {
        assert!(read(wrong).is_err(), "{wrong}");
    }
}
