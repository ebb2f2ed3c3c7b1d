//! The run's YAML: the settings of every module composed into one file, and the checks that need
//! more than one of them. Alone with `yaml_error` it knows the YAML crate.

use std::fs;
use std::net::SocketAddr;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use garde::Validate;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::data::blueprint::BlueprintSpec;
use crate::data::location::CorpusLocation;
use crate::evaluate::EvaluationSettings;
use crate::model::settings::ModelSettings;
use crate::run::schedule::PhaseSettings;
use crate::run::spike::SpikeSettings;
use crate::store::retention::Retention;
use crate::store::settings::StoreSettings;
use crate::train::optimizer::settings::OptimizerSettings;
use crate::train::settings::{BatchSettings, MaskingSettings, Precision};

mod yaml_error;

/// One run, as it stands in its YAML. Paths are relative to the file.
#[derive(Clone, Debug, Serialize, Deserialize, Validate)]
#[serde(deny_unknown_fields)]
pub struct RunConfig {
    /// Names the run's folder in the store: letters, digits, `-`, `_` and `.`.
    #[garde(custom(check_name))]
    pub name: String,
    /// Where runs are kept: a folder, or an `s3://`, `gs://` or `az://` URL.
    #[garde(dive)]
    pub store: StoreSettings,
    /// The prepared corpus: the folder that `cohort prepare` wrote, or where it was uploaded to.
    #[garde(dive)]
    pub corpus: CorpusLocation,
    /// Order of the data, masks, dropout and random weights all come from it.
    #[garde(skip)]
    pub seed: u64,
    /// Worker processes, one device each.
    #[garde(range(min = 1, max = 4096))]
    pub ranks: u32,
    /// Threads of each rank's matrix products. Without it the local cores are shared out. Losses
    /// are equal to the bit only for an equal number.
    #[serde(default)]
    #[garde(inner(range(min = 1, max = 1024)))]
    pub threads_per_rank: Option<u32>,
    /// Where the coordinator listens. Port 0 takes a free one.
    #[serde(default = "default_listen")]
    #[garde(custom(check_loopback))]
    pub listen: SocketAddr,
    #[garde(dive)]
    pub model: ModelSettings,
    /// Where the weights come from when the run begins.
    #[serde(default)]
    #[garde(skip)]
    pub start: Start,
    #[serde(default)]
    #[garde(skip)]
    pub precision: Precision,
    #[garde(dive)]
    pub batch: BatchSettings,
    #[serde(default)]
    #[garde(dive)]
    pub masking: MaskingSettings,
    #[serde(default)]
    #[garde(dive)]
    pub optimizer: OptimizerSettings,
    /// The schedule: phases one after the other.
    #[garde(
        length(min = 1, max = 64),
        custom(check_names),
        custom(check_rows(&self.batch)),
        dive
    )]
    pub phases: Vec<PhaseSettings>,
    #[serde(default)]
    #[garde(dive)]
    pub checkpoints: CheckpointSettings,
    #[serde(default)]
    #[garde(dive)]
    pub evaluation: EvaluationSettings,
    #[serde(default)]
    #[garde(dive)]
    pub loss_spikes: SpikeSettings,
    #[serde(default)]
    #[garde(custom(check_min_ranks(&self.ranks)), dive)]
    pub recovery: RecoverySettings,
    #[serde(default)]
    #[garde(dive)]
    pub timeouts: Timeouts,
}

/// Where the weights come from when the run begins.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Start {
    /// Megatron initialization from the run's seed.
    #[default]
    Random,
    /// A Hugging Face model folder (`model.safetensors`, `config.json`); a checkpoint of Cohort is
    /// one. Only its weights are taken.
    HuggingFace(PathBuf),
    /// A smaller model's folder, whose weights are tiled into this one from the middle.
    Tile(PathBuf),
    /// A checkpoint file (`….pt`) of Composer, as the training of ModernBERT publishes them: its
    /// weights, the optimizer's moments and its steps. So the run goes on where that training
    /// stood, without a warm-up; learning rate, weight decay and data are the run's own.
    Composer(PathBuf),
    /// The same, but the weights alone, for a file whose optimizer was another one or is missing.
    ComposerWeights(PathBuf),
}

impl Start {
    /// What is taken, and what that costs, for people.
    pub fn describe(&self) -> String {
        match self {
            Self::Random => "random weights".to_owned(),
            Self::HuggingFace(path) => format!("weights of {}{FRESH_MOMENTS}", path.display()),
            Self::Tile(path) => format!("weights tiled from {}{FRESH_MOMENTS}", path.display()),
            Self::ComposerWeights(path) => {
                format!("weights of {}{FRESH_MOMENTS}", path.display())
            }
            Self::Composer(path) => {
                format!("weights, moments and steps of {}", path.display())
            }
        }
    }

    /// The file or folder that is read.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Random => None,
            Self::HuggingFace(path)
            | Self::Tile(path)
            | Self::Composer(path)
            | Self::ComposerWeights(path) => Some(path),
        }
    }

    /// Whether trained weights come without the moments of their training.
    pub fn loses_moments(&self) -> bool {
        matches!(
            self,
            Self::HuggingFace(_) | Self::Tile(_) | Self::ComposerWeights(_)
        )
    }
}

const FRESH_MOMENTS: &str = "; the optimizer's moments are fresh";

/// When checkpoints are made (also at phase ends, on command and at stop), and which are kept.
#[derive(Clone, Debug, Serialize, Deserialize, Validate)]
#[serde(default, deny_unknown_fields)]
pub struct CheckpointSettings {
    /// Steps between two checkpoints.
    #[garde(inner(range(min = 1)))]
    pub every_steps: Option<u64>,
    /// Time between two checkpoints, such as `30m`.
    #[serde(with = "humantime_serde")]
    #[garde(skip)]
    pub every: Option<Duration>,
    #[garde(dive)]
    pub keep: Retention,
}

impl Default for CheckpointSettings {
    fn default() -> Self {
        Self {
            every_steps: None,
            every: Some(Duration::from_mins(30)),
            keep: Retention::default(),
        }
    }
}

/// How the run goes on when ranks are lost.
#[derive(Clone, Debug, Serialize, Deserialize, Validate)]
#[serde(default, deny_unknown_fields)]
pub struct RecoverySettings {
    /// The fewest ranks that train; with fewer the run waits for more.
    #[garde(range(min = 1, max = 4096))]
    pub min_ranks: u32,
    /// How often in a row a process may die soon after its start before it is given up.
    #[garde(range(min = 1))]
    pub restarts_max: u32,
    /// Steps between two comparisons of the weights of all ranks.
    #[garde(range(min = 1))]
    pub compare_every_steps: u64,
}

impl Default for RecoverySettings {
    fn default() -> Self {
        Self {
            min_ranks: 1,
            restarts_max: 10,
            compare_every_steps: 200,
        }
    }
}

/// How long to wait before a wait becomes a named failure.
#[derive(Clone, Debug, Serialize, Deserialize, Validate)]
#[serde(default, deny_unknown_fields)]
pub struct Timeouts {
    /// For all ranks to join, and again for them to connect to each other.
    #[serde(with = "humantime_serde")]
    #[garde(skip)]
    pub gather: Duration,
    /// For one collective operation: the slowest rank's step must fit.
    #[serde(with = "humantime_serde")]
    #[garde(skip)]
    pub collective: Duration,
    /// For the coordinator to come back, while the ranks step on without it.
    #[serde(with = "humantime_serde")]
    #[garde(skip)]
    pub coordinator: Duration,
    /// For the store to work again, while the run goes on without new checkpoints.
    #[serde(with = "humantime_serde")]
    #[garde(skip)]
    pub store: Duration,
    /// For a process to leave in order once a scheduler has said, by SIGTERM or SIGUSR1, that it
    /// will take the machine away.
    #[serde(with = "humantime_serde")]
    #[garde(skip)]
    pub grace: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            gather: Duration::from_mins(5),
            collective: Duration::from_mins(10),
            coordinator: Duration::from_mins(10),
            store: Duration::from_hours(1),
            grace: Duration::from_mins(5),
        }
    }
}

fn default_listen() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "the signature that garde calls"
)]
fn check_loopback(address: &SocketAddr, (): &()) -> garde::Result {
    if address.ip().is_loopback() {
        return Ok(());
    }
    Err(garde::Error::new(
        "must be a loopback address such as 127.0.0.1:7077; without TLS and a token the \
         coordinator serves this machine only",
    ))
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "the signature that garde calls"
)]
fn check_name(name: &str, (): &()) -> garde::Result {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let starts_well = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    if starts_well && name.len() <= 80 && name.chars().all(allowed) {
        return Ok(());
    }
    Err(garde::Error::new(
        "must be 1 to 80 letters, digits, '.', '_' or '-', and begin with a letter or a digit",
    ))
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "the signature that garde calls"
)]
fn check_names(phases: &[PhaseSettings], (): &()) -> garde::Result {
    let mut names: Vec<&str> = phases.iter().map(|phase| phase.name.as_str()).collect();
    names.sort_unstable();
    match names.array_windows().find(|[left, right]| left == right) {
        Some([name, _]) => Err(garde::Error::new(format!(
            "the name \"{name}\" is used twice"
        ))),
        None => Ok(()),
    }
}

fn check_min_ranks(ranks: &u32) -> impl Fn(&RecoverySettings, &()) -> garde::Result + '_ {
    move |recovery, ()| {
        if recovery.min_ranks <= *ranks {
            return Ok(());
        }
        let least = recovery.min_ranks;
        Err(garde::Error::new(format!(
            "min_ranks is {least}, but the run has only {ranks} ranks"
        )))
    }
}

fn check_rows(batch: &BatchSettings) -> impl Fn(&Vec<PhaseSettings>, &()) -> garde::Result + '_ {
    |phases, ()| {
        for phase in phases {
            if let Some(warmup) = &phase.rows_warmup
                && warmup.from_rows > batch.rows
            {
                return Err(garde::Error::new(format!(
                    "phase \"{}\": rows_warmup.from_rows is {}, but a full step has only {} rows",
                    phase.name, warmup.from_rows, batch.rows
                )));
            }
        }
        Ok(())
    }
}

impl RunConfig {
    /// Reads a run's YAML and makes its paths absolute.
    pub fn load(path: &Path) -> Result<Self> {
        let mut config: Self = load(path)?;
        let base = path.parent().unwrap_or(Path::new("."));
        config.resolve(base)?;
        Ok(config)
    }

    /// The run as YAML that [`RunConfig::load`] reads.
    pub fn to_yaml(&self) -> Result<String> {
        serde_saphyr::to_string(self).context("cannot write the run as YAML")
    }

    fn resolve(&mut self, base: &Path) -> Result<()> {
        let absolute = |path: &Path| {
            std::path::absolute(base.join(path))
                .map(|path| without_parents(&path))
                .with_context(|| format!("cannot make {} absolute", path.display()))
        };
        match &mut self.corpus {
            CorpusLocation::Folder(folder) => *folder = absolute(folder)?,
            CorpusLocation::Store(store) => {
                if let Some(cache) = &mut store.cache {
                    *cache = absolute(cache)?;
                }
            }
        }
        if !self.store.url.contains("://") {
            self.store.url = absolute(Path::new(&self.store.url))?.display().to_string();
        }
        match &mut self.start {
            Start::Random => {}
            Start::HuggingFace(path)
            | Start::Tile(path)
            | Start::Composer(path)
            | Start::ComposerWeights(path) => *path = absolute(path)?,
        }
        Ok(())
    }

    /// What the run's blueprint is drawn from.
    pub fn blueprint_spec(&self) -> BlueprintSpec {
        BlueprintSpec {
            seed: self.seed,
            row_tokens: self.batch.row_tokens,
            rows: self.batch.rows,
            protect_special: self.masking.protect_special_tokens,
            phases: self.phases.clone(),
        }
    }

    /// The run's highest learning rate, against which decoupled weight decay is scaled.
    pub fn learning_rate_max(&self) -> f64 {
        self.phases
            .iter()
            .map(|phase| phase.learning_rate)
            .fold(0.0, f64::max)
    }
}

/// Takes `folder/..` out of a path, so that messages show where things really are.
fn without_parents(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(plain.pop()),
            other => plain.push(other),
        }
    }
    plain
}

/// Reads and validates a YAML file. Errors name the file, line, column and field, and quote nothing
/// but the configuration itself: a file that is not named as YAML could be a document, and is
/// refused unread.
pub fn load<T>(path: &Path) -> Result<T>
where
    T: DeserializeOwned + Validate<Context = ()>,
{
    let is_yaml = path
        .extension()
        .is_some_and(|extension| extension == "yaml" || extension == "yml");
    ensure!(
        is_yaml,
        "{} is no configuration: its name does not end in .yaml or .yml\n  \
         hint: `cohort --help` says which files a command takes",
        path.display()
    );
    let text = fs::read_to_string(path)
        .with_context(|| format!("cannot read the configuration {}", path.display()))?;
    parse(&text, &path.display().to_string())
}

/// Parses and validates YAML text; `origin` names it in errors.
pub fn parse<T>(text: &str, origin: &str) -> Result<T>
where
    T: DeserializeOwned + Validate<Context = ()>,
{
    serde_saphyr::from_str_valid(text)
        .map_err(|error| anyhow!("{}", yaml_error::describe(&error, text, origin)))
}
