//! The weights and moments that a rank begins with: fresh, of another model or training, from a
//! checkpoint, or from the lead rank.

use anyhow::{Context, Result, anyhow};
use tch::{Tensor, no_grad};
use tracing::{info, warn};

use crate::collective::Collective;
use crate::config::{RunConfig, Start};
use crate::ids::Rank;
use crate::model::composer::ComposerCheckpoint;
use crate::model::config::ModelConfig;
use crate::model::encoder::Model;
use crate::model::parameters::Parameters;
use crate::model::weights::MissingHead;
use crate::model::{huggingface, init, tile, weights};
use crate::train::optimizer::StableAdamW;
use crate::train::state::{TensorFiles, read_tensors};
use crate::train::step::{Engine, device};

/// The weights of a run that begins, on the lead rank.
pub(super) fn initial_parameters(settings: &RunConfig, config: &ModelConfig) -> Result<Parameters> {
    let missing_head = MissingHead::Initialize {
        seed: settings.seed,
    };
    match &settings.start {
        Start::Random => Ok(init::initialize(config, settings.seed, device())),
        Start::HuggingFace(folder) => {
            let (found, parameters) = weights::load_directory(folder, missing_head, device())?;
            config.expect_same_architecture(&found, &folder.display().to_string())?;
            Ok(parameters)
        }
        Start::Tile(folder) => {
            let (found, parameters) = weights::load_directory(folder, missing_head, device())?;
            tile::enlarge(
                &Model {
                    config: found,
                    parameters,
                },
                config,
                device(),
            )
        }
        Start::Composer(file) | Start::ComposerWeights(file) => {
            ComposerCheckpoint::open(file)?.parameters(config, device())
        }
    }
}

/// The moments and steps of a run that begins, on the lead rank, where its start has any.
pub(super) fn initial_moments(
    settings: &RunConfig,
    config: &ModelConfig,
    optimizer: &mut StableAdamW,
) -> Result<()> {
    let Start::Composer(file) = &settings.start else {
        let no_warmup = settings.phases[0].warmup_tokens == 0;
        if settings.start.loses_moments() && no_warmup {
            warn!(
                "the run begins with trained weights, fresh moments and no warm-up: its first \
                 steps are large and rough; give the first phase `warmup_tokens`"
            );
        }
        return Ok(());
    };
    let mut checkpoint = ComposerCheckpoint::open(file)?;
    let moments = checkpoint.moments(config)?;
    checkpoint.read_moments(&moments, &optimizer.state_dict())?;
    optimizer.set_steps(moments.steps);
    info!(
        steps = moments.steps,
        max_lr = optimizer.max_lr(),
        max_lr_of_checkpoint = moments.max_lr,
        "took over the optimizer of {}; weight decay is relative to max_lr",
        file.display()
    );
    Ok(())
}

/// Puts a checkpoint's weights and moments into the engine.
pub(super) fn load_tensors(engine: &mut Engine, files: &TensorFiles, origin: &str) -> Result<()> {
    let text = std::str::from_utf8(&files.model_config)
        .with_context(|| format!("{origin}: config.json is damaged"))?;
    let found = huggingface::read(text, &format!("{origin}/config.json"))?;
    engine
        .model
        .config
        .expect_same_architecture(&found, origin)?;
    let config = &engine.model.config;
    let loaded = weights::load(&files.model, config, MissingHead::Refuse, device())
        .with_context(|| format!("{origin}/model.safetensors"))?;
    no_grad(|| {
        for (into, from) in engine.model.parameters.iter().zip(loaded.iter()) {
            into.tensor.shallow_clone().copy_(&from.tensor);
        }
    });
    let moments = read_tensors(&files.optimizer, &format!("{origin}/optimizer.safetensors"))?;
    let steps = engine.optimizer.steps();
    engine
        .optimizer
        .load_state(&moments, steps)
        .map_err(|error| anyhow!("{origin}/optimizer.safetensors: {error}"))
}

/// Gives every rank the lead rank's weights, moments and steps.
pub(super) fn spread(engine: &mut Engine, collective: &dyn Collective) -> Result<()> {
    if collective.world() == 1 {
        return Ok(());
    }
    no_grad(|| {
        for parameter in engine.model.parameters.iter() {
            collective.broadcast(&parameter.tensor.detach(), Rank(0))?;
        }
        for (_, moment) in engine.optimizer.state_dict() {
            collective.broadcast(&moment, Rank(0))?;
        }
        let steps = Tensor::from_slice(&[engine.optimizer.steps() as i64]).to_device(device());
        collective.broadcast(&steps, Rank(0))?;
        engine.optimizer.set_steps(steps.int64_value(&[0]) as u64);
        Ok(())
    })
}
