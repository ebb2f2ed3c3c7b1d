//! One optimizer step: forward and backward over this rank's rows, the two all-reduces, the update.
//!
//! The objective is the mean cross-entropy over the masked tokens of the whole step: gradients of
//! the summed loss are added up over micro-batches and ranks, then divided by the step's masked
//! tokens. So the number of ranks changes nothing but the order of floating-point sums.

use std::ops::Range;

use anyhow::{Context, Result};
use tch::{Device, Kind, Tensor, no_grad};

use crate::collective::Collective;
use crate::data::batch::{Batch, PackedRow};
use crate::ids::RowIndex;
use crate::model::dropout::{Dropout, DroppedRow};
use crate::model::encoder::{Encoder, Model, Precision};
use crate::model::head::MaskedLoss;
use crate::model::input::{PackedInput, Targets};
use crate::telemetry::Stopwatch;
use crate::telemetry::pulse::Pulse;
use crate::train::optimizer::{Parameter, StableAdamW};
use crate::train::sums::Sums;

/// How a step is computed; the same on every rank.
#[derive(Clone, Copy, Debug)]
pub struct StepRules {
    pub precision: Precision,
    /// Rows computed at once.
    pub micro_rows: usize,
    /// Probability of dropping a number of the attention output projection.
    pub dropout: f64,
    /// Keys the dropout masks together with the row index.
    pub dropout_seed: u64,
}

/// The weights, their gradients and the optimizer of one rank.
#[derive(Debug)]
pub struct Engine {
    pub model: Model,
    pub optimizer: StableAdamW,
    rules: StepRules,
    /// Gradients of all parameters back to back, fp32, so that one all-reduce adds them up.
    gradient: Tensor,
    /// `gradient` cut into the parameters' shapes.
    gradient_views: Vec<Tensor>,
}

/// What the update did.
#[derive(Clone, Copy, Debug)]
pub struct Update {
    /// L2 norm of the averaged gradient.
    pub gradient_norm: f64,
    pub collective_seconds: f64,
}

impl Engine {
    pub fn new(model: Model, optimizer: StableAdamW, rules: StepRules) -> Self {
        let numbers = model
            .parameters
            .iter()
            .map(|each| each.tensor.numel() as i64)
            .sum::<i64>();
        let gradient = Tensor::zeros([numbers], (Kind::Float, model.parameters.device()));
        let mut offset = 0;
        let gradient_views = model
            .parameters
            .iter()
            .map(|parameter| {
                let length = parameter.tensor.numel() as i64;
                let view = gradient
                    .narrow(0, offset, length)
                    .view(parameter.tensor.size().as_slice());
                offset += length;
                view
            })
            .collect();
        Self {
            model,
            optimizer,
            rules,
            gradient,
            gradient_views,
        }
    }

    /// Forward and backward over a batch: fills the gradient and enters what was seen into `sums`.
    /// `phase` is the plan's key of the phase; it keys the dropout beside the row.
    /// Returns the first micro-batch whose loss is not finite, as first row and number of rows.
    pub fn accumulate(
        &mut self,
        batch: &Batch,
        phase: u32,
        sums: &mut Sums,
        pulse: &Pulse,
    ) -> Result<Option<(RowIndex, u64)>> {
        let _ = self.gradient.zero_();
        sums.count(batch);
        let encoder = self.model.encoder(self.rules.precision);
        let parameters: Vec<&Tensor> = self
            .model
            .parameters
            .iter()
            .map(|parameter| &parameter.tensor)
            .collect();
        for rows in batch.rows.chunks(self.rules.micro_rows) {
            pulse.tick();
            let micro = MicroBatch::pack(rows);
            let Some(loss) = self.forward(&encoder, &micro, phase)? else {
                continue;
            };
            let sum = loss.sum.double_value(&[]);
            sums.loss += sum;
            sums.masked += loss.masked as u64;
            sums.correct += loss.correct.int64_value(&[]) as u64;
            if !sum.is_finite() {
                // As if all rows had been computed: the step's line tells of all.
                sums.masked = batch.predicted;
                return Ok(Some((rows[0].row, rows.len() as u64)));
            }
            let gradients = Tensor::f_run_backward(&[&loss.sum], &parameters, false, false)
                .context("the backward pass failed")?;
            no_grad(|| {
                for (view, gradient) in self.gradient_views.iter().zip(&gradients) {
                    let _ = view.shallow_clone().g_add_(gradient);
                }
            });
        }
        Ok(None)
    }

    fn forward(
        &self,
        encoder: &Encoder<'_>,
        micro: &MicroBatch,
        phase: u32,
    ) -> Result<Option<MaskedLoss>> {
        let device = self.model.parameters.device();
        let config = &self.model.config;
        let input = PackedInput::new(config, &micro.input_ids, &micro.cu_seqlens, device)?;
        let targets = Targets::new(config, &input, &micro.labels, device)?;
        if targets.count() == 0 {
            return Ok(None);
        }
        let dropout = (self.rules.dropout > 0.0).then(|| {
            let seed = self.rules.dropout_seed ^ u64::from(phase).rotate_left(32);
            Dropout::new(self.rules.dropout, seed, micro.rows.clone())
        });
        Ok(Some(encoder.loss(&input, &targets, dropout.as_ref())))
    }

    /// Adds the gradient up over all ranks, divides it by the step's masked tokens and updates the
    /// weights. Nothing changes when the gradient is not finite.
    pub fn update(
        &mut self,
        collective: &dyn Collective,
        masked: u64,
        learning_rate: f64,
    ) -> Result<Update> {
        let watch = Stopwatch::start();
        collective.all_reduce_sum(&self.gradient)?;
        let collective_seconds = watch.seconds();
        no_grad(|| {
            let _ = self
                .gradient
                .shallow_clone()
                .g_div_scalar_(masked.max(1) as f64);
        });
        let statistics = self.optimizer.step(&self.gradient_views, learning_rate)?;
        Ok(Update {
            gradient_norm: statistics.gradient_norm,
            collective_seconds,
        })
    }
}

/// Rows back to back, as one pack.
struct MicroBatch {
    input_ids: Vec<u32>,
    labels: Vec<i64>,
    cu_seqlens: Vec<u32>,
    rows: Vec<DroppedRow>,
}

impl MicroBatch {
    fn pack(rows: &[PackedRow]) -> Self {
        let mut micro = Self {
            input_ids: Vec::new(),
            labels: Vec::new(),
            cu_seqlens: vec![0],
            rows: Vec::with_capacity(rows.len()),
        };
        for row in rows {
            let start = micro.input_ids.len() as u32;
            micro.input_ids.extend_from_slice(&row.input_ids);
            micro.labels.extend_from_slice(&row.labels);
            micro
                .cu_seqlens
                .extend(row.cu_seqlens[1..].iter().map(|end| start + end));
            let tokens: Range<i64> = i64::from(start)..micro.input_ids.len() as i64;
            micro.rows.push(DroppedRow {
                row: row.row.0,
                tokens,
            });
        }
        micro
    }
}

/// The optimizer's view of a model's parameters: the same tensors.
pub fn optimizer_parameters(model: &Model) -> Vec<Parameter> {
    model
        .parameters
        .iter()
        .map(|parameter| Parameter {
            name: parameter.name.clone(),
            tensor: parameter.tensor.shallow_clone(),
            weight_decay: parameter.has_weight_decay(),
        })
        .collect()
}

/// The device that a rank computes on.
pub const fn device() -> Device {
    Device::Cpu
}
