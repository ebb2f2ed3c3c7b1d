//! Held-out loss and accuracy per institution, beside the unigram baseline.
//!
//! Every rank scores its share of the held-out rows; the sums are added up by the collective.

use anyhow::{Result, ensure};
use garde::Validate;
use serde::{Deserialize, Serialize};
use tch::{Tensor, no_grad};

use crate::collective::Collective;
use crate::corpus::masking::NOT_PREDICTED;
use crate::data::Corpus;
use crate::data::batch::PackedRow;
use crate::data::held_out::{HeldOutSpec, held_out_rows};
use crate::data::unigrams::Unigrams;
use crate::ids::SourceIndex;
use crate::model::encoder::{Model, Precision};
use crate::model::input::{PackedInput, Targets};
use crate::telemetry::HeldOutScore;
use crate::telemetry::pulse::Pulse;

/// When and on how much the held-out documents are scored. They are also scored at the start, at
/// phase ends and when asked.
#[derive(Clone, Debug, Serialize, Deserialize, Validate)]
#[serde(default, deny_unknown_fields)]
pub struct EvaluationSettings {
    /// Steps between two evaluations; without it, at the start and at phase ends only.
    #[garde(inner(range(min = 1)))]
    pub every_steps: Option<u64>,
    /// At most this many held-out tokens of each source are scored.
    #[garde(range(min = 1))]
    pub tokens_per_source: u64,
}

impl Default for EvaluationSettings {
    fn default() -> Self {
        Self {
            every_steps: None,
            tokens_per_source: 32_768,
        }
    }
}

/// Numbers that are summed for one institution: masked tokens, loss, right predictions, and the
/// last two for the unigram baseline.
const SUMS: usize = 5;

/// The held-out rows that this rank scores.
#[derive(Debug)]
pub struct HeldOut {
    institutions: Vec<(String, Vec<PackedRow>)>,
    unigrams: Unigrams,
}

impl HeldOut {
    /// Reads the held-out rows of all sources and keeps those of this rank's `share`.
    pub fn read(
        corpus: &Corpus,
        spec: HeldOutSpec,
        share: impl Fn(&PackedRow) -> bool,
    ) -> Result<Self> {
        let sources: Vec<SourceIndex> = corpus
            .manifest()
            .sources()
            .map(|(index, _, _)| index)
            .collect();
        let institutions = held_out_rows(corpus, &sources, spec)?
            .into_iter()
            .map(|held_out| {
                let rows = held_out.rows.into_iter().filter(|row| share(row)).collect();
                (held_out.institution, rows)
            })
            .collect();
        Ok(Self {
            institutions,
            unigrams: Unigrams::read(corpus)?,
        })
    }

    /// Scores the model; all ranks call it together and get the same answer.
    pub fn score(
        &self,
        model: &Model,
        precision: Precision,
        collective: &dyn Collective,
        pulse: &Pulse,
    ) -> Result<Vec<(String, HeldOutScore)>> {
        let mut sums = Vec::with_capacity(self.institutions.len() * SUMS);
        for (_, rows) in &self.institutions {
            sums.extend(self.sums_of(rows, model, precision, pulse)?);
        }
        let sums = Tensor::from_slice(&sums);
        collective.all_reduce_sum(&sums)?;
        let sums = Vec::<f64>::try_from(&sums)?;
        let scores = self.institutions.iter().zip(sums.chunks_exact(SUMS));
        scores
            .map(|((name, _), sums)| {
                let score = mean(sums);
                ensure!(
                    score.loss.is_finite(),
                    "the held-out loss of institution \"{name}\" is not finite\n  \
                     hint: the weights have diverged; lower the learning rate, or continue from \
                     an earlier checkpoint"
                );
                Ok((name.clone(), score))
            })
            .collect()
    }

    fn sums_of(
        &self,
        rows: &[PackedRow],
        model: &Model,
        precision: Precision,
        pulse: &Pulse,
    ) -> Result<[f64; SUMS]> {
        let mut sums = [0.0; SUMS];
        let device = model.parameters.device();
        no_grad(|| {
            let encoder = model.encoder(precision);
            for row in rows {
                pulse.tick();
                let input =
                    PackedInput::new(&model.config, &row.input_ids, &row.cu_seqlens, device)?;
                let targets = Targets::new(&model.config, &input, &row.labels, device)?;
                if targets.count() == 0 {
                    continue;
                }
                let loss = encoder.loss(&input, &targets, None);
                sums[0] += loss.masked as f64;
                sums[1] += loss.sum.double_value(&[]);
                sums[2] += loss.correct.int64_value(&[]) as f64;
                for &label in row.labels.iter().filter(|&&label| label != NOT_PREDICTED) {
                    let (surprisal, right) = self.unigrams.score(label as usize);
                    sums[3] += surprisal;
                    sums[4] += f64::from(u8::from(right));
                }
            }
            Ok(sums)
        })
    }
}

fn mean(sums: &[f64]) -> HeldOutScore {
    let count = sums[0].max(1.0);
    HeldOutScore {
        masked_tokens: sums[0] as u64,
        loss: sums[1] / count,
        accuracy: sums[2] / count,
        unigram_loss: sums[3] / count,
        unigram_accuracy: sums[4] / count,
    }
}
