//! The weights and moments that a lead rank begins with: fresh, of another model or training, or
//! from a checkpoint.

use anyhow::{Context, Result, anyhow};
use tch::no_grad;
use tracing::{info, warn};

use crate::config::{RunConfig, Start};
use crate::model::composer::ComposerCheckpoint;
use crate::model::config::ModelConfig;
use crate::model::encoder::Model;
use crate::model::new_rows::NewRows;
use crate::model::parameters::Parameters;
use crate::model::weights::MissingHead;
use crate::model::{huggingface, init, tensor_file, tile, weights};
use crate::preflight::Pieces;
use crate::train::optimizer::StableAdamW;
use crate::train::state::TensorFiles;
use crate::train::step::{Engine, device};

/// What a run that begins has to begin from, on the lead rank.
pub(super) struct Beginning<'a> {
    pub(super) settings: &'a RunConfig,
    pub(super) config: &'a ModelConfig,
    pub(super) new_tokens: Pieces,
}

impl Beginning<'_> {
    /// The weights.
    pub(super) fn parameters(&self) -> Result<Parameters> {
        let Self {
            settings, config, ..
        } = *self;
        let missing_head = MissingHead::Initialize {
            seed: settings.seed,
        };
        match &settings.start {
            Start::Random => Ok(init::initialize(config, settings.seed, device())),
            Start::HuggingFace(folder) => {
                let (found, parameters) = weights::load_directory(folder, missing_head, device())?;
                let new = self.new_rows(found.vocab_size)?;
                let before = new.before(config);
                before.expect_same_architecture(&found, &folder.display().to_string())?;
                Ok(filled(&new, parameters, config))
            }
            Start::Tile(folder) => {
                let (found, parameters) = weights::load_directory(folder, missing_head, device())?;
                let new = self.new_rows(found.vocab_size)?;
                tile::expect_smaller(&found, &new.before(config))?;
                let found = ModelConfig {
                    vocab_size: config.vocab_size,
                    ..found
                };
                let parameters = filled(&new, parameters, &found);
                let small = Model {
                    config: found,
                    parameters,
                };
                tile::enlarge(&small, config, device())
            }
            Start::Composer(file) | Start::ComposerWeights(file) => {
                let mut checkpoint = ComposerCheckpoint::open(file)?;
                let new = self.new_rows(checkpoint.rows(config))?;
                let parameters = checkpoint.parameters(&new.before(config), device())?;
                Ok(filled(&new, parameters, config))
            }
        }
    }

    /// The moments and steps, where the start has any. Those of new tokens are zero.
    pub(super) fn moments(&self, optimizer: &mut StableAdamW) -> Result<()> {
        let Start::Composer(file) = &self.settings.start else {
            let no_warmup = self.settings.phases[0].warmup_tokens == 0;
            if self.settings.start.loses_moments() && no_warmup {
                warn!(
                    "the run begins with trained weights, fresh moments and no warm-up: its first \
                     steps are large and rough; give the first phase `warmup_tokens`"
                );
            }
            return Ok(());
        };
        let mut checkpoint = ComposerCheckpoint::open(file)?;
        let new = self.new_rows(checkpoint.rows(self.config))?;
        let moments = checkpoint.moments(&new.before(self.config))?;
        let own = optimizer.state_dict();
        checkpoint.read_moments(&moments, &new.old_part(&own))?;
        new.clear_moments(&own);
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

    fn new_rows(&self, old_rows: i64) -> Result<NewRows> {
        NewRows::between(self.new_tokens.clone(), old_rows, self.config)
    }
}

fn filled(new: &NewRows, parameters: Parameters, config: &ModelConfig) -> Parameters {
    if new.is_empty() {
        return parameters;
    }
    info!(
        tokens = new.len(),
        "gave new tokens the means of their pieces"
    );
    new.fill(&parameters, config)
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
    let moments = tensor_file::read(&files.optimizer, &format!("{origin}/optimizer.safetensors"))?;
    let steps = engine.optimizer.steps();
    engine
        .optimizer
        .load_state(&moments, steps)
        .map_err(|error| anyhow!("{origin}/optimizer.safetensors: {error}"))
}
