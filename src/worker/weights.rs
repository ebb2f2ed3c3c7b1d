//! The weights and moments that a rank begins with: fresh, of another model, from a checkpoint, or
//! from the lead rank.

use anyhow::{Context, Result, anyhow};
use tch::no_grad;

use crate::collective::Collective;
use crate::config::{RunConfig, Start};
use crate::ids::Rank;
use crate::model::config::ModelConfig;
use crate::model::encoder::Model;
use crate::model::parameters::Parameters;
use crate::model::weights::MissingHead;
use crate::model::{huggingface, init, tile, weights};
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
    }
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

/// Gives every rank the lead rank's weights and moments.
pub(super) fn spread(engine: &Engine, collective: &dyn Collective) -> Result<()> {
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
        Ok(())
    })
}
