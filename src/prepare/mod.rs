//! From institutions' sources to a corpus of token shards with a manifest.
//!
//! In reading order: [`config`] and [`fields`] what to prepare; [`inputs`] which files that means;
//! [`compression`], [`encoding`] and [`text`] files into text, [`fault`] why not; [`readers`] text
//! into documents, or [`synthetic`] invented ones; [`tokenizer`] documents into chunks,
//! by [`bpe`] as a rule, [`train_tokenizer`] where none is given,
//! [`grow_tokenizer`] where one is given terms; [`held_out`] which ones training
//! never sees; [`source`] one source from end to end; [`shards`] and [`files`] how they are stored;
//! [`fingerprint`] whether there is anything to do; [`progress`] what the user sees.
//!
//! Invariants: the same inputs give the same bytes, whatever the number of threads; a manifest
//! stands only beside complete shards, at every moment at which the process may be killed; no text
//! leaves this module except as token ids.

use std::fs::{self, File, TryLockError};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};

use crate::corpus::{Institution, MANIFEST_FILE, MANIFEST_VERSION, Manifest};
use crate::prepare::config::{CorpusConfig, TokenizerConfig, TrainConfig};
use crate::prepare::fingerprint::Fingerprint;
use crate::prepare::held_out::is_held_out;
use crate::prepare::progress::{Done, Progress, Stage, Unit};
use crate::prepare::source::{ShardPlan, SourceJob};
use crate::prepare::tokenizer::{Chunker, Chunking, TokenizerFiles, default_config};

pub mod bpe;
pub mod compression;
pub mod config;
pub mod encoding;
pub mod fault;
pub mod fields;
pub mod files;
pub mod fingerprint;
pub mod grow_tokenizer;
pub mod held_out;
pub mod inputs;
pub mod progress;
pub mod readers;
pub mod shards;
pub mod source;
pub mod synthetic;
pub mod text;
pub mod tokenizer;
pub mod train_tokenizer;

/// Held by the one process that writes a corpus folder; the system frees it when that ends.
const LOCK_FILE: &str = ".prepare.lock";

/// The tokenizer before anything is written: read, or still to be trained.
enum WantedTokenizer<'a> {
    Given(TokenizerFiles),
    Trained(&'a TrainConfig),
}

impl WantedTokenizer<'_> {
    fn digest(&self) -> Option<String> {
        match self {
            Self::Given(files) => Some(files.digest()),
            Self::Trained(_) => None,
        }
    }
}

/// Prepares the corpus of a configuration that stands in the file `origin`, on the current rayon
/// pool. A complete corpus from the same inputs is kept as it is.
///
/// # Errors
/// Inputs that are missing, empty, damaged or not as described, with file and line; an output
/// folder that cannot be written, or that another process writes.
pub fn run(config: &CorpusConfig, origin: &Path, progress: &mut dyn Progress) -> Result<Manifest> {
    let folder = origin.parent().unwrap_or(Path::new(""));
    let root = folder.join(&config.output);
    let jobs = find_inputs(config, folder)?;
    let wanted = match &config.tokenizer {
        TokenizerConfig::File(path) => {
            WantedTokenizer::Given(TokenizerFiles::read(&folder.join(path), config.max_length)?)
        }
        TokenizerConfig::Train(train) => WantedTokenizer::Trained(train),
    };
    let fingerprint = Fingerprint::new(config, folder, wanted.digest().as_deref(), &jobs)?;

    // Before the lock, so that a complete corpus may lie in a folder that cannot be written; and
    // under it once more, as another process may have just made it.
    if let Some(manifest) = fingerprint.find(&root) {
        progress.kept(&root);
        return Ok(manifest);
    }
    fs::create_dir_all(&root).with_context(|| format!("cannot make {}", root.display()))?;
    let _lock = lock(&root)?;
    if let Some(manifest) = fingerprint.find(&root) {
        progress.kept(&root);
        return Ok(manifest);
    }
    fingerprint::clear(&root, &jobs)?;
    let files = match wanted {
        WantedTokenizer::Given(files) => files,
        WantedTokenizer::Trained(train) => train_on(&jobs, config, train, progress)?,
    };
    let manifest = write_corpus(config, &root, &jobs, &files, progress)?;
    fingerprint.write(&root)?;
    fingerprint::write_json(&root, MANIFEST_FILE, &manifest)?;
    Ok(manifest)
}

/// Writes everything but the fingerprint and the manifest.
fn write_corpus(
    config: &CorpusConfig,
    root: &Path,
    jobs: &[SourceJob<'_>],
    tokenizer: &TokenizerFiles,
    progress: &mut dyn Progress,
) -> Result<Manifest> {
    let chunking = Chunking {
        max_length: config.max_length,
        prefix_space: config.prefix_space,
    };
    let chunker =
        Chunker::new(tokenizer, chunking, config.tokenizer_engine).context("`tokenizer`")?;
    if let Some(reason) = chunker.slow_because() {
        tracing::info!(
            reason,
            "documents go through the tokenizers library, many times slower"
        );
    }
    tokenizer.write(root)?;
    let plan = ShardPlan {
        root,
        chunker: &chunker,
        held_out_permille: config.held_out_permille(),
        shard_bytes: config.shard_bytes,
    };
    Ok(Manifest {
        version: MANIFEST_VERSION,
        name: config.name.clone(),
        tokenizer: chunker.info().clone(),
        max_length: config.max_length,
        held_out_permille: config.held_out_permille(),
        institutions: prepare_institutions(config, jobs, &plan, progress)?,
    })
}

/// Every source with its files, in the configuration's order; paths start at `folder`.
pub fn find_inputs<'a>(config: &'a CorpusConfig, folder: &Path) -> Result<Vec<SourceJob<'a>>> {
    let mut jobs = Vec::new();
    for institution in &config.institutions {
        for source in &institution.sources {
            let mut job = SourceJob {
                institution,
                source,
                files: Vec::new(),
            };
            job.files = readers::find_files(&source.read, folder).with_context(|| job.name())?;
            jobs.push(job);
        }
    }
    Ok(jobs)
}

fn prepare_institutions(
    config: &CorpusConfig,
    jobs: &[SourceJob<'_>],
    plan: &ShardPlan<'_>,
    progress: &mut dyn Progress,
) -> Result<Vec<Institution>> {
    let mut institutions: Vec<Institution> = config
        .institutions
        .iter()
        .map(|institution| Institution {
            id: institution.id.clone(),
            name: institution.name.clone(),
            country: institution.country.clone(),
            sources: Vec::new(),
        })
        .collect();
    for job in jobs {
        let source = source::prepare(job, plan, progress).with_context(|| job.name())?;
        let institution = institutions
            .iter_mut()
            .find(|institution| institution.id == job.institution.id)
            .expect("every job belongs to an institution of the configuration");
        institution.sources.push(source);
    }
    Ok(institutions)
}

/// Trains a tokenizer on the documents that are not held out, an equal share of bytes from each
/// source, from its beginning.
pub fn train_on(
    jobs: &[SourceJob<'_>],
    config: &CorpusConfig,
    train: &TrainConfig,
    progress: &mut dyn Progress,
) -> Result<TokenizerFiles> {
    let share = (train.sample_bytes / jobs.len() as u64).max(1);
    progress.begin(&Stage {
        name: "tokenizer".to_owned(),
        unit: Unit::Bytes,
        total: 0,
    });
    let mut texts = Vec::new();
    for job in jobs {
        let mut taken = 0;
        for document in job.documents(&Arc::default()) {
            let mut text = document.with_context(|| job.name())?.text;
            if is_held_out(&text, config.held_out_permille()) {
                continue;
            }
            if config.prefix_space && !text.starts_with(char::is_whitespace) {
                text.insert(0, ' ');
            }
            taken += text.len() as u64;
            texts.push(text);
            progress.advance(&Done {
                done: taken,
                documents: texts.len() as u64,
                tokens: 0,
            });
            if taken >= share {
                break;
            }
        }
    }
    let tokenizer = train_tokenizer::train(&texts, train.vocab_size)?;
    progress.end();
    Ok(TokenizerFiles {
        tokenizer,
        config: default_config(config.max_length)?,
        new_tokens: None,
    })
}

fn lock(root: &Path) -> Result<File> {
    let path = root.join(LOCK_FILE);
    let context = || format!("cannot lock {}", path.display());
    let file = File::create(&path).with_context(context)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => bail!(
            "another process is preparing {}\n  hint: wait for it, or end it",
            root.display()
        ),
        // Some network file systems have no locks; a second writer is then the operator's to avoid.
        Err(TryLockError::Error(error)) if error.kind() == std::io::ErrorKind::Unsupported => {
            Ok(file)
        }
        Err(TryLockError::Error(error)) => Err(anyhow!(error).context(context())),
    }
}
