//! From institutions' sources to a corpus of token shards with a manifest.
//!
//! In reading order: [`config`] and [`fields`] what to prepare; [`inputs`] and [`objects`] which
//! files that means, [`available`] which sources are there; [`compression`], [`encoding`] and
//! [`text`] files into text, [`fault`] why not; [`readers`] text into documents, or [`synthetic`]
//! invented ones; [`cleaning`] which of them are dropped; [`tokenizer`] documents into chunks, by
//! [`bpe`] as a rule, [`train_tokenizer`] where none is given, [`grow_tokenizer`] where one is
//! given terms; [`held_out`] which ones training never sees; [`source`] one source from end to end
//! and [`output`] what it comes to; [`shards`] and [`files`] how that is stored; [`save_point`] how
//! far a source is, [`staging`] where a corpus is made; [`fingerprint`] whether there is anything
//! to do; [`progress`] what the user sees.
//!
//! Invariants: the same inputs give the same bytes, whatever the number of threads, and however
//! often the process was killed and run again; a manifest stands only beside its own complete
//! shards, at every moment at which the process may be killed; an older corpus stays until its
//! successor is complete; no text leaves this module except as token ids.
//!
//! Memory does not grow with the corpus. At once there are: two batches of text, one being read and
//! one at work, each of 16 MiB and its last document (64 MiB at most); the ids of the batch at
//! work, 4 bytes each, for a moment twice; the shards being filled of both series, as they will be
//! stored (`shard_bytes`, and 12 bytes a chunk), and a copy of one while it is written; 3 MiB a
//! thread for the encoder; a decoder's window (128 MiB for zstd, 320 MiB for xz, at most); 32
//! MiB of parts of an object. At the default of 64 MiB a shard that is under 2 GiB even for the
//! longest documents, and a few hundred MiB for notes and articles; 1 GiB a shard takes 3 GiB for
//! the shards alone. Where a tokenizer is trained, its sample is in memory before (`sample_bytes`).
//! [`cleaning`] adds its own.

use std::fs::{self, File, TryLockError};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};

use crate::corpus::{Institution, MANIFEST_VERSION, Manifest};
use crate::prepare::cleaning::marks::Marks;
use crate::prepare::cleaning::{CleanedSource, Cleaner};
use crate::prepare::config::{CorpusConfig, TokenizerConfig, TrainConfig};
use crate::prepare::fingerprint::Fingerprint;
use crate::prepare::held_out::is_held_out;
use crate::prepare::inputs::Places;
use crate::prepare::progress::{Done, Progress, Stage, Unit};
use crate::prepare::readers::Content;
use crate::prepare::save_point::SavePoint;
use crate::prepare::source::{ShardPlan, SourceIdentity, SourceJob};
use crate::prepare::staging::Staging;
use crate::prepare::tokenizer::{Chunker, Chunking, TokenizerFiles, default_config};

pub mod available;
pub mod bpe;
pub mod cleaning;
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
pub mod objects;
pub mod output;
pub mod pattern;
pub mod progress;
pub mod readers;
pub mod save_point;
pub mod shards;
pub mod source;
pub mod staging;
pub mod synthetic;
pub mod text;
pub mod tokenizer;
pub mod train_tokenizer;
pub mod walk;

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
/// pool. A complete corpus from the same inputs is kept as it is; a preparation that was
/// interrupted goes on from its finished shards.
///
/// # Errors
/// Inputs that are missing, empty, damaged, not as described or changing, with file and line; an
/// output folder that cannot be written, or that another process writes. An older corpus in that
/// folder stays.
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
    let staging = Staging::new(&root);

    // Before the lock, so that a complete corpus may lie in a folder that cannot be written; and
    // under it once more, as another process may have just made it.
    if let Some(manifest) = fingerprint.find(&root)
        && !staging.is_for(&fingerprint)
    {
        progress.kept(&root);
        return Ok(manifest);
    }
    fs::create_dir_all(&root).with_context(|| format!("cannot make {}", root.display()))?;
    let _lock = lock(&root)?;
    if let Some(manifest) = fingerprint.find(&root) {
        if staging.is_for(&fingerprint) {
            staging.remove()?;
        }
        progress.kept(&root);
        return Ok(manifest);
    }
    staging.expect_one_file_system(jobs.iter().map(SourceJob::name))?;
    let manifest = if let Some(manifest) = staging.find_complete(&fingerprint) {
        manifest
    } else {
        let preparation = Preparation {
            config,
            jobs: &jobs,
            fingerprint: &fingerprint,
            staging: &staging,
        };
        preparation.stage(wanted, progress)?
    };
    staging.publish(&manifest)?;
    Ok(manifest)
}

/// A corpus to be made.
struct Preparation<'a> {
    config: &'a CorpusConfig,
    jobs: &'a [SourceJob<'a>],
    fingerprint: &'a Fingerprint,
    staging: &'a Staging,
}

impl Preparation<'_> {
    /// Makes the corpus in the staging folder, with what is there already.
    fn stage(&self, wanted: WantedTokenizer<'_>, progress: &mut dyn Progress) -> Result<Manifest> {
        let config = self.config;
        let staged = self.staging.resume(self.fingerprint)?;
        let is_resumed = staged.is_some();
        let tokenizer = match (staged, wanted) {
            (Some(files), _) | (None, WantedTokenizer::Given(files)) => files,
            (None, WantedTokenizer::Trained(train)) => {
                train_on(self.jobs, config, train, progress)?
            }
        };
        let chunking = Chunking {
            max_length: config.max_length,
            prefix_space: config.prefix_space,
        };
        let chunker =
            Chunker::new(&tokenizer, chunking, config.tokenizer_engine).context("`tokenizer`")?;
        if let Some(reason) = chunker.slow_because() {
            tracing::info!(
                reason,
                "documents go through the tokenizers library, many times slower"
            );
        }
        let folder = self.staging.folder();
        let sources = self.identities().map(|(job, identity)| CleanedSource {
            name: job.name(),
            fingerprint: identity.fingerprint.to_owned(),
        });
        let mut cleaner = Cleaner::open(&config.cleaning, folder, sources.collect())?;
        cleaner.check_tokenizer(&chunker)?;
        if is_resumed {
            self.tell_what_is_kept(&cleaner);
        } else {
            tokenizer.write(folder)?;
        }
        self.staging.begin(self.fingerprint, &tokenizer)?;
        let plan = ShardPlan {
            root: folder,
            chunker: &chunker,
            held_out_permille: config.held_out_permille(),
            shard_bytes: config.shard_bytes,
        };
        let institutions = self.institutions(&plan, &mut cleaner, progress)?;
        cleaner.finish(folder)?;
        let manifest = Manifest {
            version: MANIFEST_VERSION,
            name: config.name.clone(),
            tokenizer: chunker.info().clone(),
            max_length: config.max_length,
            held_out_permille: config.held_out_permille(),
            institutions,
        };
        self.staging.complete(self.fingerprint, &manifest)?;
        Ok(manifest)
    }

    /// Every source, in the configuration's order.
    fn identities(&self) -> impl Iterator<Item = (&SourceJob<'_>, SourceIdentity<'_>)> {
        let made_from = self.fingerprint.sources.iter();
        let sources = (0..).zip(self.jobs).zip(made_from);
        sources.map(|((number, job), fingerprint)| {
            let identity = SourceIdentity {
                number,
                fingerprint,
            };
            (job, identity)
        })
    }

    /// One line about the interrupted preparation that is gone on with.
    fn tell_what_is_kept(&self, cleaner: &Cleaner) {
        let kept: Vec<SavePoint> = self
            .identities()
            .filter_map(|(job, identity)| {
                let point = SavePoint::read(self.staging.folder(), &job.name())?;
                source::usable(point, identity, cleaner).ok()
            })
            .collect();
        tracing::info!(
            shards = kept.iter().flat_map(SavePoint::shards).count(),
            sources = kept.len(),
            "going on with an interrupted preparation: its finished shards are kept"
        );
    }

    fn institutions(
        &self,
        plan: &ShardPlan<'_>,
        cleaner: &mut Cleaner,
        progress: &mut dyn Progress,
    ) -> Result<Vec<Institution>> {
        let institutions = self.config.institutions.iter();
        let mut institutions: Vec<Institution> = institutions
            .map(|institution| Institution {
                id: institution.id.clone(),
                name: institution.name.clone(),
                country: institution.country.clone(),
                sources: Vec::new(),
            })
            .collect();
        progress.expect(self.jobs.iter().map(SourceJob::bytes).sum());
        for (job, identity) in self.identities() {
            let source = source::prepare(job, identity, plan, cleaner, progress)
                .map_err(|error| job.blame(error))
                .with_context(|| job.name())?;
            let institution = institutions
                .iter_mut()
                .find(|institution| institution.id == job.institution.id)
                .expect("every job belongs to an institution of the configuration");
            institution.sources.push(source);
        }
        Ok(institutions)
    }
}

/// Every source with its files, in the configuration's order; paths start at `folder`.
pub fn find_inputs<'a>(config: &'a CorpusConfig, folder: &Path) -> Result<Vec<SourceJob<'a>>> {
    let places = Places::new(folder, &config.store);
    let mut jobs = Vec::new();
    for institution in &config.institutions {
        for source in &institution.sources {
            let mut job = SourceJob {
                institution,
                source,
                files: Vec::new(),
            };
            job.files = readers::find_files(&source.read, &places).with_context(|| job.name())?;
            jobs.push(job);
        }
    }
    Ok(jobs)
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
    let marks = config.cleaning.deidentification.as_ref();
    let marks = marks.map(Marks::new).transpose()?;
    let mut texts = Vec::new();
    for job in jobs {
        let mut taken = 0;
        for document in job.documents(&Arc::default()) {
            let document = document.map_err(|error| job.blame(error));
            let Content::Text(mut text) = document.with_context(|| job.name())?.content else {
                bail!(
                    "{}: no tokenizer can be trained on token ids\n  hint: set `tokenizer: {{file: \
                     …}}` to the tokenizer that made them",
                    job.name()
                );
            };
            if let Some((replaced, _)) = marks.as_ref().and_then(|marks| marks.replace(&text)) {
                text = replaced;
            }
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
                ..Done::default()
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
