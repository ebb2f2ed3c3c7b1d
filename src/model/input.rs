//! What the encoder reads: documents packed back to back, and what is to be predicted in them.
//!
//! Built from host memory and checked there, once, so that no bad id or boundary reaches a kernel.

use anyhow::{Result, ensure};
use tch::{Device, Tensor};

use crate::model::config::ModelConfig;

/// The label of a position that is not predicted.
pub const NOT_PREDICTED: i64 = -100;

/// Documents packed back to back, without padding.
#[derive(Debug)]
pub struct PackedInput {
    input_ids: Tensor,
    cu_seqlens: Vec<i64>,
}

/// The masked positions of a [`PackedInput`].
#[derive(Debug)]
pub struct Targets {
    positions: Tensor,
    labels: Tensor,
}

impl PackedInput {
    /// Takes n token ids and the documents' boundaries: `cu_seqlens` starts with 0, ends with n and
    /// grows strictly.
    ///
    /// # Errors
    /// Ids outside the vocabulary, boundaries that do not fit, a document longer than the model's
    /// positions. No error quotes an id.
    pub fn new(
        config: &ModelConfig,
        input_ids: &[u32],
        cu_seqlens: &[u32],
        device: Device,
    ) -> Result<Self> {
        let outside = input_ids
            .iter()
            .filter(|&&id| i64::from(id) >= config.vocab_size)
            .count();
        ensure!(
            outside == 0,
            "{outside} of {} token ids are outside the model's vocabulary of {}\n  \
             hint: was the corpus prepared with the model's tokenizer?",
            input_ids.len(),
            config.vocab_size
        );
        ensure!(
            cu_seqlens.first() == Some(&0)
                && cu_seqlens
                    .last()
                    .is_some_and(|&end| end as usize == input_ids.len())
                && cu_seqlens.len() > 1
                && cu_seqlens.is_sorted_by(|left, right| left < right),
            "document boundaries must grow strictly from 0 to {} tokens",
            input_ids.len()
        );
        let longest = cu_seqlens
            .windows(2)
            .map(|pair| pair[1] - pair[0])
            .max()
            .unwrap_or(0);
        ensure!(
            i64::from(longest) <= config.max_positions,
            "a document of {longest} tokens is longer than the model's max_positions {}\n  \
             hint: prepare the corpus with a max_length of at most {}",
            config.max_positions,
            config.max_positions
        );
        let ids: Vec<i64> = input_ids.iter().copied().map(i64::from).collect();
        Ok(Self {
            input_ids: Tensor::from_slice(&ids).to_device(device),
            cu_seqlens: cu_seqlens.iter().copied().map(i64::from).collect(),
        })
    }

    /// Token ids, int64 `[n]`.
    pub fn input_ids(&self) -> &Tensor {
        &self.input_ids
    }

    /// Boundaries of the documents, from 0 to n.
    pub fn cu_seqlens(&self) -> &[i64] {
        &self.cu_seqlens
    }

    pub fn tokens(&self) -> i64 {
        self.cu_seqlens.last().copied().unwrap_or(0)
    }
}

impl Targets {
    /// Takes one label a position, [`NOT_PREDICTED`] where there is nothing to predict.
    ///
    /// # Errors
    /// Labels that are not one a position, or outside the vocabulary. No error quotes a label.
    pub fn new(
        config: &ModelConfig,
        input: &PackedInput,
        labels: &[i64],
        device: Device,
    ) -> Result<Self> {
        ensure!(
            labels.len() as i64 == input.tokens(),
            "{} labels for {} tokens",
            labels.len(),
            input.tokens()
        );
        let (positions, labels): (Vec<i64>, Vec<i64>) = labels
            .iter()
            .enumerate()
            .filter(|(_, label)| **label != NOT_PREDICTED)
            .map(|(position, label)| (position as i64, *label))
            .unzip();
        let outside = labels
            .iter()
            .filter(|label| !(0..config.vocab_size).contains(*label))
            .count();
        ensure!(
            outside == 0,
            "{outside} of {} labels are outside the model's vocabulary of {}",
            labels.len(),
            config.vocab_size
        );
        Ok(Self {
            positions: Tensor::from_slice(&positions).to_device(device),
            labels: Tensor::from_slice(&labels).to_device(device),
        })
    }

    /// Indices of the masked tokens, int64 `[m]`, ascending.
    pub fn positions(&self) -> &Tensor {
        &self.positions
    }

    /// Their true ids, int64 `[m]`.
    pub fn labels(&self) -> &Tensor {
        &self.labels
    }

    pub fn count(&self) -> i64 {
        self.labels.size()[0]
    }
}

#[cfg(test)]
mod tests {
    use crate::model::config::Preset;

    use super::*;

    #[test]
    fn bad_packs_are_refused_before_any_kernel_sees_them() {
        let config = ModelConfig {
            max_positions: 4,
            ..Preset::Base.config()
        };
        let pack = |ids: &[u32], ends: &[u32]| PackedInput::new(&config, ids, ends, Device::Cpu);
        let input = pack(&[1, 2, 3, 4, 5], &[0, 1, 5]).unwrap();
        assert_eq!(input.cu_seqlens(), [0, 1, 5]);
        for ends in [&[0, 5][..], &[0], &[], &[1, 5], &[0, 3, 3, 5], &[0, 4]] {
            assert!(pack(&[1, 2, 3, 4, 5], ends).is_err(), "{ends:?}");
        }
        assert!(pack(&[], &[0]).is_err());
        assert!(
            pack(&[50_368], &[0, 1])
                .unwrap_err()
                .to_string()
                .contains("vocabulary of 50368")
        );
        let labels = |labels: &[i64]| Targets::new(&config, &input, labels, Device::Cpu);
        assert_eq!(labels(&[-100, 7, -100, -100, 9]).unwrap().count(), 2);
        assert!(labels(&[-100; 4]).is_err());
        assert!(labels(&[-100, 50_368, -1, -100, -100]).is_err());
    }
}
