//! What a run needs before it may begin: its corpus, its tokenizer, a model that can be built and
//! the weights to start from. `cohort plan`, the coordinator and every rank look at the same.
//!
//! Reads only; whatever is refused here has left nothing behind.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::num::{NonZeroU16, NonZeroUsize};
use std::sync::Arc;
use std::thread;

use anyhow::{Context, Result, anyhow, bail, ensure};
use tokenizers::Tokenizer;
use tracing::warn;

use crate::config::{RunConfig, Start};
use crate::corpus::TOKENIZER_FILE;
use crate::corpus::new_tokens::{NEW_TOKENS_FILE, NewTokens};
use crate::data::blueprint::Blueprint;
use crate::data::{Corpus, SplitName};
use crate::model::composer::ComposerCheckpoint;
use crate::model::config::ModelConfig;
use crate::model::encoder::Precision as ModelPrecision;
use crate::model::new_rows::NewRows;
use crate::model::{tile, weights};
use crate::run::ledger::Ledger;
use crate::run::schedule::Schedule;
use crate::store::backend::Credentials;
use crate::store::layout;
use crate::torch::cpu;
use crate::train::settings::Precision;

/// Refuses a run that its ranks would refuse. Of the corpus it reads the lengths and looks whether
/// every shard is there; of the weights that a new run starts from it reads the shape alone. The
/// schedule with its lengths.
pub fn check(config: &RunConfig, is_new: bool) -> Result<Schedule> {
    let blueprint = open_blueprint(config)?;
    let corpus = &blueprint.corpus;
    corpus.expect_complete()?;
    for (source, _, _) in corpus.manifest().sources() {
        corpus.lengths(source, SplitName::HeldOut)?;
    }
    let model = config.model.resolve(&corpus.manifest().tokenizer)?;
    if is_new {
        let new_tokens = new_tokens(corpus, &config.start)?;
        check_start(&config.start, &model, new_tokens)?;
        ledger_of_start(&config.start)?;
    }
    Ok(blueprint.schedule)
}

fn check_start(start: &Start, model: &ModelConfig, new_tokens: Pieces) -> Result<()> {
    let folder = match start {
        Start::Random => return Ok(()),
        Start::Composer(file) | Start::ComposerWeights(file) => {
            let mut checkpoint = ComposerCheckpoint::open(file)?;
            let rows = checkpoint.rows(model);
            let before = NewRows::between(new_tokens, rows, model)?.before(model);
            checkpoint.check_weights(&before)?;
            if matches!(start, Start::Composer(_)) {
                checkpoint.moments(&before)?;
            }
            return Ok(());
        }
        Start::HuggingFace(folder) | Start::Tile(folder) => folder,
    };
    let found = weights::read_config(folder)?;
    let before = NewRows::between(new_tokens, found.vocab_size, model)?.before(model);
    match start {
        Start::Tile(_) => tile::expect_smaller(&found, &before)
            .with_context(|| format!("cannot tile {}", folder.display()))?,
        _ => before.expect_same_architecture(&found, &folder.display().to_string())?,
    }
    let file = folder.join(weights::WEIGHTS_FILE);
    ensure!(
        file.is_file(),
        "there are no weights at {}\n  hint: only unsharded safetensors weights load",
        file.display()
    );
    Ok(())
}

/// What is in the weights that a run starts from, where those are a checkpoint of Cohort's: its
/// ledger lies beside them. Of other weights nothing is known.
pub fn ledger_of_start(start: &Start) -> Result<Ledger> {
    let (Start::HuggingFace(folder) | Start::Tile(folder)) = start else {
        return Ok(Ledger::default());
    };
    let file = folder.join(layout::LEDGER_FILE);
    let text = match fs::read(&file) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Ledger::default()),
        Err(error) => return Err(error).context(format!("cannot read {}", file.display())),
    };
    let ledger: Ledger = serde_json::from_slice(&text).with_context(|| {
        format!(
            "{} is damaged\n  hint: start from another checkpoint: this one does not say whose \
             text it has seen",
            file.display()
        )
    })?;
    Ok(ledger.of_start())
}

/// Draws the blueprint of a run's configuration.
pub fn open_blueprint(config: &RunConfig) -> Result<Blueprint> {
    let corpus = Arc::new(Corpus::open_at(&config.corpus, &Credentials::Environment)?);
    check_tokenizer(&corpus)?;
    Blueprint::draw(corpus, &config.blueprint_spec())
}

/// New tokens with the pieces that each was made of, as [`NewTokens`] has them.
pub type Pieces = BTreeMap<u32, Vec<u32>>;

/// The corpus's tokens that the model to start from has not seen: those that its tokenizer was
/// given, as far as the tokenizer in the start's folder does not have them under the same ids.
///
/// # Errors
/// Any other id that is another token in that folder's tokenizer: its row would be another's.
pub fn new_tokens(corpus: &Corpus, start: &Start) -> Result<Pieces> {
    if matches!(start, Start::Random) {
        return Ok(BTreeMap::new());
    }
    let pieces = record_of_new_tokens(corpus)?;
    let (Start::HuggingFace(folder) | Start::Tile(folder)) = start else {
        return Ok(pieces);
    };
    let own = folder.join(TOKENIZER_FILE);
    if !own.is_file() {
        if folder.is_dir() {
            warn!(
                folder = %folder.display(),
                "no tokenizer.json there to compare with the corpus's: a model of another one \
                 would begin with the rows of other tokens"
            );
        }
        return Ok(pieces);
    }
    let own = Tokenizer::from_file(&own)
        .map_err(|error| anyhow!("cannot read {}: {error}", own.display()))?;
    let new = read_tokenizer(corpus)?;
    let differs = |id: &u32| own.id_to_token(*id) != new.id_to_token(*id);
    let mut kept =
        (0..corpus.manifest().tokenizer.vocab_size).filter(|id| !pieces.contains_key(id));
    if let Some(id) = kept.find(|id| own.id_to_token(*id).is_some() && differs(id)) {
        bail!(
            "token {id} of the model in {} is another one in the corpus's tokenizer\n  hint: \
             prepare the corpus with the tokenizer.json in that folder, or with one that `cohort \
             tokenizer grow` made of it",
            folder.display()
        );
    }
    Ok(pieces.into_iter().filter(|(id, _)| differs(id)).collect())
}

/// What the corpus says of tokens that its tokenizer was given.
fn record_of_new_tokens(corpus: &Corpus) -> Result<Pieces> {
    let info = &corpus.manifest().tokenizer;
    let Some(expected) = &info.new_tokens else {
        return Ok(BTreeMap::new());
    };
    let path = corpus.address_of(NEW_TOKENS_FILE);
    let about = || format!("{path}\n  hint: run cohort prepare again");
    let text = corpus.read_file(NEW_TOKENS_FILE)?;
    let found = blake3::hash(&text).to_hex();
    ensure!(
        found.as_str() == expected,
        "the digest is {found}, the manifest says {expected}: {}",
        about()
    );
    let record = NewTokens::parse(&text, &info.digest).with_context(about)?;
    Ok(record.pieces)
}

/// The tokenizer beside the shards.
pub fn read_tokenizer(corpus: &Corpus) -> Result<Tokenizer> {
    let name = corpus.address_of(TOKENIZER_FILE);
    Tokenizer::from_bytes(corpus.read_file(TOKENIZER_FILE)?)
        .map_err(|error| anyhow!("cannot read {name}: {error}"))
}

/// The tokenizer beside the shards must be the one that made them.
pub fn check_tokenizer(corpus: &Corpus) -> Result<()> {
    let text = corpus.read_file(TOKENIZER_FILE)?;
    let found = blake3::hash(&text).to_hex();
    let expected = &corpus.manifest().tokenizer.digest;
    if found.as_str() != expected {
        bail!(
            "{} has digest {found}, but the corpus was prepared with tokenizer {expected}\n  \
             hint: put the right tokenizer.json back, or run cohort prepare again",
            corpus.address_of(TOKENIZER_FILE)
        );
    }
    Ok(())
}

/// Threads of a rank's tensor operations: as configured, or the cores shared out.
pub fn threads_per_rank(config: &RunConfig) -> NonZeroU16 {
    let cores = thread::available_parallelism().map_or(1, NonZeroUsize::get) as u32;
    let threads = config
        .threads_per_rank
        .unwrap_or((cores / config.ranks).max(1));
    NonZeroU16::new(threads.min(u32::from(u16::MAX)) as u16).unwrap_or(NonZeroU16::MIN)
}

/// The number format of a run's matrix products on this machine.
pub fn model_precision(precision: Precision) -> ModelPrecision {
    match precision {
        Precision::Bf16 => ModelPrecision::Bf16,
        Precision::Auto if cpu::multiplies_bfloat16() => ModelPrecision::Bf16,
        Precision::Fp32 | Precision::Auto => ModelPrecision::Fp32,
    }
}
