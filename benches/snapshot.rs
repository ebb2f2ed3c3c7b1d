//! How long training stands still for a checkpoint: the copy of weights and moments into the bytes
//! of their files, beside a plain copy of the same tensors. `scripts/bench-snapshot` runs it.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark prints what it measures, and may end where it cannot go on"
)]

use cohort::model::config::Preset;
use cohort::model::parameters::specifications;
use cohort::model::tensor_file;
use cohort::telemetry::Stopwatch;
use safetensors::tensor::{Dtype, TensorView};
use tch::{Device, Kind, Tensor};

const ROUNDS: usize = 5;

fn tensors(kinds: &[&str]) -> Vec<(String, Tensor)> {
    let wanted = specifications(&Preset::Base.config());
    let of_kind = |kind: &&str| {
        let kind = (*kind).to_owned();
        wanted.iter().map(move |each| {
            let tensor = Tensor::rand(&each.shape, (Kind::Float, Device::Cpu));
            (format!("{kind}{}", each.name), tensor)
        })
    };
    kinds.iter().flat_map(of_kind).collect()
}

fn best(mut times: Vec<f64>) -> f64 {
    times.sort_unstable_by(f64::total_cmp);
    times[0] * 1e3
}

/// As files were made before: a copy of each tensor, and the library's copy of all of them.
fn write_twice(tensors: &[(String, Tensor)]) -> Vec<u8> {
    let copies: Vec<(&str, Vec<usize>, Vec<u8>)> = tensors
        .iter()
        .map(|(name, tensor)| {
            let mut bytes = vec![0; tensor.numel() * 4];
            tensor.view(-1).copy_data_u8(&mut bytes, tensor.numel());
            let shape = tensor.size().iter().map(|&size| size as usize).collect();
            (name.as_str(), shape, bytes)
        })
        .collect();
    let views = copies.iter().map(|(name, shape, bytes)| {
        let view = TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap();
        (*name, view)
    });
    safetensors::serialize(views, None).unwrap()
}

fn main() {
    let files = [tensors(&[""]), tensors(&["exp_avg.", "exp_avg_sq."])];
    let (mut ours, mut plain, mut library) = (Vec::new(), Vec::new(), Vec::new());
    let mut bytes = 0;
    for _ in 0..ROUNDS {
        let watch = Stopwatch::start();
        let written = files.each_ref().map(|tensors| {
            let tensors = tensors.iter();
            tensor_file::write(tensors.map(|(name, tensor)| (name.as_str(), tensor))).unwrap()
        });
        ours.push(watch.seconds());
        bytes = written.iter().map(Vec::len).sum();
        drop(written);

        let watch = Stopwatch::start();
        let copies: Vec<Tensor> = files
            .iter()
            .flatten()
            .map(|(_, each)| each.copy())
            .collect();
        plain.push(watch.seconds());
        drop(copies);

        let watch = Stopwatch::start();
        let written = files.each_ref().map(|tensors| write_twice(tensors));
        library.push(watch.seconds());
        drop(written);
    }
    let [ours, plain, library] = [ours, plain, library].map(best);
    println!(
        "modernbert-base, {:.2} GB: files in {ours:.0} ms; a copy of the same tensors {plain:.0} ms, \
         ratio {:.2}; tensors copied one by one and written by the library {library:.0} ms",
        bytes as f64 / 1e9,
        ours / plain
    );
}
