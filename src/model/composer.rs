//! Checkpoints of MosaicML Composer, as the training of ModernBERT and of its successors wrote them
//! (AnswerDotAI/ModernBERT `main.py`; `composer/core/state.py`): one file of `torch.save` with the
//! weights under FlexBERT's names, the moments and steps of StableAdamW, and much that is of no use
//! elsewhere.
//!
//! What is read of it, by its path in the file:
//!
//! ```text
//! state.model.<parameter>                               weights
//! state.optimizers.StableAdamW.state.<parameter>        exp_avg, exp_avg_sq
//! state.optimizers.StableAdamW.param_groups[…].step     optimizer steps
//! state.integrations.huggingface.model.config.content   the shape, as far as no tensor shows it
//! ```
//!
//! Weights, moments and steps are taken over bit for bit. Schedule, data position, random states
//! and hyperparameters are not: those are the run's own.

mod flex_bert;
mod optimizer;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail, ensure};
use tch::{Device, Kind, Tensor, no_grad};

use crate::model::composer::flex_bert::hub_name;
use crate::model::composer::optimizer::{SQUARES, SavedOptimizer};
use crate::model::config::ModelConfig;
use crate::model::parameters::{Parameters, specifications};
use crate::model::torch_file::TorchFile;
use crate::model::torch_file::value::{TensorRecord, Value, shown};
use crate::model::weights::{DECODER, EMBEDDINGS, expect_finite, problems, untied};

/// Parameters of one file, and bytes of their names: far above any encoder's.
const PARAMETERS_MAX: usize = 10_000;
const NAME_BYTES_MAX: usize = 500;

/// An open checkpoint whose tensors are still in the file.
#[derive(Debug)]
pub struct ComposerCheckpoint {
    file: TorchFile,
    /// Under the Hub's names, in the file's order.
    weights: Vec<(String, TensorRecord)>,
}

/// The optimizer's state in a checkpoint, its tensors still in the file.
#[derive(Debug)]
pub struct Moments {
    /// As `<parameter>.exp_avg` and `<parameter>.exp_avg_sq`.
    records: BTreeMap<String, TensorRecord>,
    pub steps: u64,
    /// The learning rate that the weight decay of that training was relative to.
    pub max_lr: Option<f64>,
}

impl ComposerCheckpoint {
    /// Opens a checkpoint and reads which weights it has.
    pub fn open(path: &Path) -> Result<Self> {
        let file = TorchFile::open(path)?;
        let weights = state(&file)
            .and_then(|state| {
                let model = state.get("model").context("it has no state.model")?;
                listed_tensors(model)
            })
            .with_context(|| not_of_composer(path))?;
        Ok(Self { file, weights })
    }

    /// Rows of its embeddings; those of `config` where it has no such matrix, which
    /// [`check_weights`](Self::check_weights) then says.
    pub fn rows(&self, config: &ModelConfig) -> i64 {
        let embeddings = self.weight(EMBEDDINGS);
        let rows = embeddings.and_then(|record| record.shape.first().copied());
        rows.unwrap_or(config.vocab_size)
    }

    /// Refuses a checkpoint whose weights are not those of an encoder of this shape.
    ///
    /// # Errors
    /// Every field of the architecture that differs, or every tensor that does.
    pub fn check_weights(&self, config: &ModelConfig) -> Result<()> {
        let path = self.file.path().display().to_string();
        let content = [
            "state",
            "integrations",
            "huggingface",
            "model",
            "config",
            "content",
        ]
        .into_iter()
        .try_fold(self.file.root(), Value::get);
        let found = flex_bert::read_config(content, &self.weights, config)
            .with_context(|| format!("cannot use {path}"))?;
        config.expect_same_architecture(&found, &path)?;
        let wanted: Vec<_> = specifications(config)
            .into_iter()
            .map(|each| (each.name, each.shape))
            .collect();
        let found: BTreeMap<_, _> = self
            .weights
            .iter()
            .filter(|(name, _)| name != DECODER)
            .map(|(name, record)| (name.as_str(), record))
            .collect();
        if let Some(problems) = misfits(&wanted, &found) {
            bail!(
                "the weights in {path} are not those of this model: {problems}\n  \
                 hint: set the `model` section of the run to the shape of the checkpoint"
            );
        }
        Ok(())
    }

    /// Reads the parameters of an encoder of this shape.
    ///
    /// # Errors
    /// What [`check_weights`](Self::check_weights) refuses, damaged storages, numbers that are not
    /// finite, and a decoder matrix that is not the embeddings.
    pub fn parameters(&mut self, config: &ModelConfig, device: Device) -> Result<Parameters> {
        self.check_weights(config)?;
        let origin = format!("cannot use {}", self.file.path().display());
        let parameters = Parameters::build(config, device, |each| {
            let record = self.weight(&each.name).context("checked above")?;
            read_floats(&mut self.file, &each.name, &record)
        })
        .with_context(|| origin.clone())?;
        self.check_tied_decoder(&parameters).context(origin)?;
        Ok(parameters)
    }

    /// Finds the optimizer's state for an encoder of this shape, and reads its steps.
    ///
    /// # Errors
    /// The state of another optimizer, or one that is missing, incomplete or of another shape.
    pub fn moments(&mut self, config: &ModelConfig) -> Result<Moments> {
        let path = self.file.path().display().to_string();
        let origin = || {
            format!(
                "cannot take the optimizer's state from {path}\n  \
                 hint: `start: {{composer_weights: …}}` takes the weights alone"
            )
        };
        let found = state(&self.file)
            .and_then(|state| SavedOptimizer::read(state, &self.weights))
            .with_context(origin)?;
        let wanted: Vec<_> = specifications(config)
            .into_iter()
            .flat_map(|each| {
                optimizer::moment_names(&each.name).map(|name| (name, each.shape.clone()))
            })
            .collect();
        let names = found.moments.iter();
        let names = names
            .map(|(name, record)| (name.as_str(), record))
            .collect();
        if let Some(problems) = misfits(&wanted, &names) {
            return Err(anyhow!("it is not that of this model: {problems}")).with_context(origin);
        }
        let steps = found.steps(&mut self.file).with_context(origin)?;
        Ok(Moments {
            records: found.moments,
            steps,
            max_lr: found.max_lr,
        })
    }

    /// Copies the moments, one at a time, into tensors that are named as in
    /// [`Moments`] and have their shapes.
    pub fn read_moments(&mut self, moments: &Moments, into: &[(String, Tensor)]) -> Result<()> {
        let origin = format!("cannot use {}", self.file.path().display());
        for (name, tensor) in into {
            let record = moments.records.get(name);
            let record = record.with_context(|| format!("{origin}: {name} is missing"))?;
            let read = read_floats(&mut self.file, name, record).with_context(|| origin.clone())?;
            let is_square = name.ends_with(SQUARES);
            if is_square && read.numel() > 0 && read.min().double_value(&[]) < 0.0 {
                bail!("{origin}: {name} is a mean of squares, but has numbers below 0");
            }
            no_grad(|| tensor.shallow_clone().copy_(&read));
        }
        Ok(())
    }

    fn weight(&self, name: &str) -> Option<TensorRecord> {
        let found = self.weights.iter().find(|(own, _)| own == name);
        found.map(|(_, record)| record.clone())
    }

    /// Where the file repeats the embeddings as the decoder, they are one storage or equal.
    fn check_tied_decoder(&mut self, parameters: &Parameters) -> Result<()> {
        let Some(decoder) = self.weight(DECODER) else {
            return Ok(());
        };
        if self.weight(EMBEDDINGS).as_ref() == Some(&decoder) {
            return Ok(());
        }
        let embeddings = parameters.tensor(EMBEDDINGS).detach();
        let fits = decoder.shape == embeddings.size();
        if !fits
            || !read_floats(&mut self.file, DECODER, &decoder)?
                .equal(&embeddings.to_device(Device::Cpu))
        {
            return Err(untied());
        }
        Ok(())
    }
}

fn not_of_composer(path: &Path) -> String {
    format!(
        "{} is no checkpoint of Composer\n  \
         hint: name the `….pt` of a training run, as `ep0-ba52988-rank0.pt`",
        path.display()
    )
}

fn state(file: &TorchFile) -> Result<Value<'_>> {
    file.root().get("state").context("it has no `state`")
}

/// The tensors of a dictionary, under the Hub's names.
fn listed_tensors(model: Value<'_>) -> Result<Vec<(String, TensorRecord)>> {
    let mut names = BTreeSet::new();
    let mut tensors = Vec::new();
    for (name, value) in named_entries(model, "state.model")? {
        let record = value.tensor().with_context(|| {
            format!(
                "state.model: {} is {}, no tensor",
                shown(&name),
                value.describe()
            )
        })?;
        ensure!(
            names.insert(name.clone()),
            "state.model has {} twice",
            shown(&name)
        );
        tensors.push((name, record));
    }
    Ok(tensors)
}

/// The entries of a dictionary by parameter, under the Hub's names.
fn named_entries<'a>(value: Value<'a>, place: &str) -> Result<Vec<(String, Value<'a>)>> {
    let Some(entries) = value.entries() else {
        bail!("{place} is {}, no dictionary", value.describe());
    };
    ensure!(
        entries.len() <= PARAMETERS_MAX,
        "{place} has {} entries, at most {PARAMETERS_MAX} are read",
        entries.len()
    );
    let named = |(key, value): (Value<'a>, Value<'a>)| {
        let Some(name) = key.text() else {
            bail!("{place} has {} for a name", key.describe());
        };
        ensure!(
            name.len() <= NAME_BYTES_MAX,
            "{place} has a name of {} bytes",
            name.len()
        );
        Ok((hub_name(name), value))
    };
    entries.map(named).collect()
}

/// All that keeps the tensors of a file from being the wanted ones.
fn misfits(wanted: &[(String, Vec<i64>)], found: &BTreeMap<&str, &TensorRecord>) -> Option<String> {
    let (mut missing, mut unfit) = (Vec::new(), Vec::new());
    for (name, shape) in wanted {
        match found.get(name.as_str()) {
            None => missing.push(name.clone()),
            Some(record) if !is_float(record.kind) => {
                unfit.push(format!("{name} has type {:?}", record.kind));
            }
            Some(record) if record.shape != *shape => {
                unfit.push(format!(
                    "{name} has shape {:?}, expected {shape:?}",
                    record.shape
                ));
            }
            Some(_) => {}
        }
    }
    let names: BTreeSet<&str> = wanted.iter().map(|(name, _)| name.as_str()).collect();
    let strangers = found.keys().filter(|name| !names.contains(**name));
    let unexpected: Vec<String> = strangers.map(|name| shown(name)).collect();
    problems(&missing, &unexpected, &unfit)
}

/// Types whose numbers fp32 holds exactly.
fn is_float(kind: Kind) -> bool {
    matches!(kind, Kind::Float | Kind::Half | Kind::BFloat16)
}

/// Reads a tensor as fp32.
fn read_floats(file: &mut TorchFile, name: &str, record: &TensorRecord) -> Result<Tensor> {
    ensure!(is_float(record.kind), "{name} has type {:?}", record.kind);
    let tensor = file.tensor(record).with_context(|| name.to_owned())?;
    let tensor = tensor.to_kind(Kind::Float);
    expect_finite(name, &tensor)?;
    Ok(tensor)
}
