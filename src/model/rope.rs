//! Rotary position embeddings (Su et al. 2021, <https://arxiv.org/abs/2104.09864>) in the
//! arrangement of GPT-NeoX: number i of a head turns with number i + half.
//!
//! Angles are fp32 whatever the precision of the products, and positions restart at 0 in every
//! document.

use tch::{Device, Kind, Tensor};

/// Cosines and sines for the positions of one pack and one base.
#[derive(Debug)]
pub struct RotaryTable {
    /// fp32 `[n, 1, 1, head_size]`.
    cosine: Tensor,
    /// fp32 `[n, 1, 1, head_size]`, the first half negated.
    signed_sine: Tensor,
}

/// The place of every token in its document: int64 `[n]`.
pub fn positions(cu_seqlens: &[i64], device: Device) -> Tensor {
    let positions: Vec<i64> = cu_seqlens
        .windows(2)
        .flat_map(|pair| 0..pair[1] - pair[0])
        .collect();
    Tensor::from_slice(&positions).to_device(device)
}

impl RotaryTable {
    /// The angle of pair i at position p is p x base^(-2i / `head_size`).
    pub fn new(positions: &Tensor, head_size: i64, base: f64) -> Self {
        let device = positions.device();
        let exponents =
            Tensor::arange_start_step(0, head_size, 2, (Kind::Float, device)) / head_size;
        let frequencies = Tensor::pow_scalar(base, &exponents).reciprocal();
        let angles = positions.to_kind(Kind::Float).unsqueeze(1) * frequencies.unsqueeze(0);
        let (cosine, sine) = (angles.cos(), angles.sin());
        let shape = [positions.size()[0], 1, 1, head_size];
        Self {
            cosine: Tensor::cat(&[&cosine, &cosine], 1).view(shape),
            signed_sine: Tensor::cat(&[&-&sine, &sine], 1).view(shape),
        }
    }

    /// Turns queries and keys `[n, 2, heads, head_size]`; computed in fp32 (or fp64, if they are),
    /// returned in their own kind.
    pub fn apply(&self, queries_and_keys: &Tensor) -> Tensor {
        let kind = queries_and_keys.kind();
        let wide = if kind == Kind::Double {
            kind
        } else {
            Kind::Float
        };
        let numbers = queries_and_keys.to_kind(wide);
        let half = numbers.size()[3] / 2;
        let swapped = numbers.roll(half, 3);
        (numbers * &self.cosine)
            .addcmul(&swapped, &self.signed_sine)
            .to_kind(kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A rotation by p·f of the plane of numbers i and i + half, worked out by hand.
    #[test]
    fn pairs_turn_by_position_times_frequency() {
        let positions = positions(&[0, 1, 4], Device::Cpu);
        assert_eq!(Vec::<i64>::try_from(&positions).unwrap(), [0, 0, 1, 2]);
        let table = RotaryTable::new(&positions, 4, 100.0);
        let input = Tensor::from_slice(&[1f32, 2.0, 3.0, 4.0])
            .view([1, 1, 1, 4])
            .repeat([4, 2, 1, 1]);
        let turned = table.apply(&input);
        for (token, position) in [0f64, 0.0, 1.0, 2.0].into_iter().enumerate() {
            for (pair, frequency) in [1.0, 0.1].into_iter().enumerate() {
                let (sine, cosine) = (position * frequency).sin_cos();
                let (x, y) = (pair as f64 + 1.0, pair as f64 + 3.0);
                for (index, wanted) in [
                    (pair, x * cosine - y * sine),
                    (pair + 2, y * cosine + x * sine),
                ] {
                    let found = turned.double_value(&[token as i64, 1, 0, index as i64]);
                    assert!((found - wanted).abs() < 1e-6, "{found} is not {wanted}");
                }
            }
        }
    }
}
