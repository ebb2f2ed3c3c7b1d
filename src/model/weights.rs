//! Parameters as safetensors bytes, as Hugging Face reads and writes them.
//!
//! Saves fp32 under the Hub's names, without the decoder matrix (it is the embeddings), in the
//! fixed order of the format: equal parameters give equal bytes. Loads fp32, fp16 and bf16, from
//! `ModernBertForMaskedLM` and from `ModernBertModel` files, and refuses whatever does not fit, all
//! of it in one error.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use tch::{Device, Kind, Tensor};

use crate::model::config::ModelConfig;
use crate::model::huggingface;
use crate::model::init;
use crate::model::parameters::{Parameters, Specification, specifications};
use crate::model::tensor_file;

/// The weights' file name in a model directory.
pub const WEIGHTS_FILE: &str = "model.safetensors";
/// The configuration's file name in a model directory.
pub const CONFIG_FILE: &str = "config.json";

/// A matrix that a file may repeat: it is the embeddings.
pub(super) const DECODER: &str = "decoder.weight";
pub(super) const EMBEDDINGS: &str = "model.embeddings.tok_embeddings.weight";
/// Names of one kind of problem that an error lists before it only counts.
const NAMES_MAX: usize = 40;

/// What to do with a file that has an encoder but no masked-language-model head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MissingHead {
    Refuse,
    /// Give it a fresh head from this seed.
    Initialize {
        seed: u64,
    },
}

/// Reads `config.json` and `model.safetensors` of a model directory.
///
/// # Errors
/// Files that cannot be read, or that do not fit each other.
pub fn load_directory(
    folder: &Path,
    missing_head: MissingHead,
    device: Device,
) -> Result<(ModelConfig, Parameters)> {
    let config = read_config(folder)?;
    let path = folder.join(WEIGHTS_FILE);
    let bytes = fs::read(&path).with_context(|| {
        format!(
            "cannot read {}\n  hint: only unsharded safetensors weights load",
            path.display()
        )
    })?;
    let parameters = load(&bytes, &config, missing_head, device)
        .with_context(|| format!("cannot use {}", path.display()))?;
    Ok((config, parameters))
}

/// Reads `config.json` of a model directory.
pub fn read_config(folder: &Path) -> Result<ModelConfig> {
    let path = folder.join(CONFIG_FILE);
    let text = fs::read_to_string(&path).with_context(|| {
        format!(
            "cannot read {}\n  hint: name a Hugging Face model directory",
            path.display()
        )
    })?;
    huggingface::read(&text, &path.display().to_string())
}

/// Reads parameters of the shape `config`.
///
/// # Errors
/// What is no safetensors file; every tensor that is missing, unexpected, of another shape or of a
/// type that is not floating point; a decoder matrix that is not the embeddings.
pub fn load(
    bytes: &[u8],
    config: &ModelConfig,
    missing_head: MissingHead,
    device: Device,
) -> Result<Parameters> {
    let file = SafeTensors::deserialize(bytes).context("this is no intact safetensors file")?;
    let source = Source::new(&file);
    let fresh_head = match missing_head {
        MissingHead::Initialize { seed } if !source.has_head() => Some(seed),
        _ => None,
    };
    let wanted = specifications(config);
    source.check(&wanted, fresh_head.is_some())?;
    let parameters = Parameters::build(config, device, |each| match fresh_head {
        Some(seed) if is_head(&each.name) => anyhow::Ok(init::initial(each, config.layers, seed)),
        _ => {
            let tensor = to_tensor(&source.get(&each.name).context("checked above")?)?;
            expect_finite(&each.name, &tensor)?;
            Ok(tensor)
        }
    })?;
    source.check_tied_decoder(&parameters)?;
    Ok(parameters)
}

/// Writes the parameters as safetensors, fp32.
///
/// # Errors
/// Only if the format cannot hold them.
pub fn save(parameters: &Parameters) -> Result<Vec<u8>> {
    tensor_file::write(
        parameters
            .iter()
            .map(|each| (each.name.as_str(), &each.tensor)),
    )
}

fn is_head(name: &str) -> bool {
    !name.starts_with("model.")
}

/// A file's tensors under full names, whichever of the two ways it names them.
struct Source<'a> {
    file: &'a SafeTensors<'a>,
    /// `ModernBertModel` files leave out `model.`.
    prefix: &'static str,
}

impl<'a> Source<'a> {
    fn new(file: &'a SafeTensors<'a>) -> Self {
        let bare = file.iter().any(|(name, _)| name.starts_with("embeddings."));
        Self {
            file,
            prefix: if bare { "model." } else { "" },
        }
    }

    fn get(&self, name: &str) -> Option<TensorView<'a>> {
        self.file
            .tensor(name.strip_prefix(self.prefix).unwrap_or(name))
            .ok()
    }

    /// The name of one of the file's tensors with its prefix.
    fn full_name(&self, name: &str) -> String {
        let of_encoder = ["embeddings.", "layers.", "final_norm."];
        let bare = of_encoder.iter().any(|start| name.starts_with(start));
        if bare {
            format!("{}{name}", self.prefix)
        } else {
            name.to_owned()
        }
    }

    fn has_head(&self) -> bool {
        self.file
            .iter()
            .any(|(name, _)| name.starts_with("head.") || name.starts_with("decoder."))
    }

    fn check(&self, wanted: &[Specification], without_head: bool) -> Result<()> {
        let (mut missing, mut misfits) = (Vec::new(), Vec::new());
        for each in wanted
            .iter()
            .filter(|each| !(without_head && is_head(&each.name)))
        {
            match self.get(&each.name) {
                None => missing.push(each.name.clone()),
                Some(view) => misfits.extend(misfit(each, &view)),
            }
        }
        let mut unexpected: Vec<String> = self
            .file
            .iter()
            .map(|(name, _)| self.full_name(name))
            .filter(|name| name != DECODER && !wanted.iter().any(|each| each.name == *name))
            .collect();
        unexpected.sort();
        if let Some(problems) = problems(&missing, &unexpected, &misfits) {
            bail!(
                "the weights are not those of this model: {problems}\n  \
                 hint: compare config.json with the `model` section of the run"
            );
        }
        Ok(())
    }

    fn check_tied_decoder(&self, parameters: &Parameters) -> Result<()> {
        let Ok(view) = self.file.tensor(DECODER) else {
            return Ok(());
        };
        let embeddings = parameters
            .tensor(EMBEDDINGS)
            .detach()
            .to_device(Device::Cpu);
        let fits = view
            .shape()
            .iter()
            .map(|&size| size as i64)
            .eq(embeddings.size());
        if !fits || !to_tensor(&view)?.equal(&embeddings) {
            return Err(untied());
        }
        Ok(())
    }
}

/// Why a decoder that differs from the embeddings is refused.
pub(super) fn untied() -> anyhow::Error {
    anyhow!(
        "{DECODER} differs from {EMBEDDINGS}, but the decoder is tied to the embeddings\n  \
         hint: this checkpoint was trained with tie_word_embeddings false"
    )
}

/// Refuses weights or moments of a run that had diverged.
pub(super) fn expect_finite(name: &str, tensor: &Tensor) -> Result<()> {
    if !bool::try_from(tensor.isfinite().all())? {
        bail!(
            "{name} has values that are not finite\n  \
             hint: its training had diverged; start from an earlier checkpoint"
        );
    }
    Ok(())
}

/// All that keeps some tensors from being a model's, by kind; none where they are.
pub(super) fn problems(
    missing: &[String],
    unexpected: &[String],
    misfits: &[String],
) -> Option<String> {
    let problems: Vec<String> = [
        ("missing", missing),
        ("unexpected", unexpected),
        ("misfit", misfits),
    ]
    .into_iter()
    .filter(|(_, names)| !names.is_empty())
    .map(|(kind, names)| listed(kind, names))
    .collect();
    (!problems.is_empty()).then(|| problems.join("; "))
}

fn misfit(wanted: &Specification, found: &TensorView<'_>) -> Option<String> {
    if kind_of(found.dtype()).is_none() {
        return Some(format!("{} has type {:?}", wanted.name, found.dtype()));
    }
    let same = found
        .shape()
        .iter()
        .map(|&size| size as i64)
        .eq(wanted.shape.iter().copied());
    (!same).then(|| {
        format!(
            "{} has shape {:?}, expected {:?}",
            wanted.name,
            found.shape(),
            wanted.shape
        )
    })
}

fn listed(kind: &str, names: &[String]) -> String {
    let shown = names[..names.len().min(NAMES_MAX)].join(", ");
    match names.len().saturating_sub(NAMES_MAX) {
        0 => format!("{kind}: {shown}"),
        more => format!("{kind}: {shown} and {more} more"),
    }
}

fn kind_of(dtype: Dtype) -> Option<Kind> {
    match dtype {
        Dtype::F32 => Some(Kind::Float),
        Dtype::F16 => Some(Kind::Half),
        Dtype::BF16 => Some(Kind::BFloat16),
        _ => None,
    }
}

/// fp32 on the CPU.
fn to_tensor(view: &TensorView<'_>) -> Result<Tensor> {
    let kind = kind_of(view.dtype()).context("only floating-point tensors load")?;
    let shape: Vec<i64> = view.shape().iter().map(|&size| size as i64).collect();
    Ok(Tensor::f_from_data_size(view.data(), &shape, kind)?.to_kind(Kind::Float))
}

#[cfg(test)]
#[path = "weights_tests.rs"]
mod tests;
