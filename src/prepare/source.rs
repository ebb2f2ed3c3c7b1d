//! One source from documents to shards.
//!
//! Reads ahead one batch while the cores tokenize the last one. Shards hold documents in their
//! source's order, so their bytes do not depend on the number of threads, nor on where an earlier
//! run was killed: documents that are in finished shards are read again, and no more.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::{Context, Error, Result, ensure};
use rayon::prelude::{IndexedParallelIterator, IntoParallelRefIterator, ParallelIterator};

use crate::corpus::Source;
use crate::prepare::compression::ReadCounts;
use crate::prepare::config::readers::ReadConfig;
use crate::prepare::config::{InstitutionConfig, SourceConfig};
use crate::prepare::held_out::{ids_are_held_out, is_held_out};
use crate::prepare::inputs::InputFile;
use crate::prepare::output::{Output, Resumed};
use crate::prepare::progress::{Done, Progress, Stage, Unit};
use crate::prepare::readers::{self, Content, Document, Documents};
use crate::prepare::save_point::{Position, SavePoint, State};
use crate::prepare::tokenizer::Chunker;

/// A batch ends with the document that reaches either limit.
const BATCH_BYTES: usize = 16 << 20;
const BATCH_DOCUMENTS: usize = 4096;

/// What a resumed run says where it meets other documents than the one that was interrupted.
pub const OTHER_DOCUMENTS: &str = "the documents are others than when the preparation was \
    interrupted\n  hint: delete the folder .preparing in `output`, and run again";

/// One source with its files found.
pub struct SourceJob<'a> {
    pub institution: &'a InstitutionConfig,
    pub source: &'a SourceConfig,
    pub files: Vec<InputFile>,
}

/// Where shards go and how they are cut.
pub struct ShardPlan<'a> {
    /// The folder that shards and save points are written to.
    pub root: &'a Path,
    pub chunker: &'a Chunker,
    pub held_out_permille: u32,
    pub shard_bytes: u64,
}

impl SourceJob<'_> {
    /// The source's name across the corpus.
    pub fn name(&self) -> String {
        format!("{}/{}", self.institution.id, self.source.id)
    }

    /// The documents of this source; `counts` grows as its files are read.
    pub fn documents(&self, counts: &Arc<ReadCounts>) -> Documents {
        let files = self.files.clone();
        readers::open(self.institution, self.source, files, Arc::clone(counts))
    }

    fn stage(&self) -> Stage {
        let (unit, total) = match &self.source.read {
            ReadConfig::Synthetic(config) => (Unit::Documents, config.documents),
            _ => (Unit::Bytes, self.files.iter().map(|file| file.bytes).sum()),
        };
        Stage {
            name: self.name(),
            unit,
            total,
        }
    }

    /// # Errors
    /// A file is not as it was found.
    fn expect_unchanged(&self) -> Result<()> {
        self.files.iter().try_for_each(InputFile::expect_unchanged)
    }

    /// A file that changed while it was read is what was wrong, whatever the reader said.
    pub fn blame(&self, error: Error) -> Error {
        self.expect_unchanged().err().unwrap_or(error)
    }

    /// The error for a source in which nothing was found.
    pub fn without_document(&self) -> Error {
        let files = self.files.len();
        anyhow::anyhow!(
            "no document in {files} {}\n  hint: check `path` and the `text` field of this source",
            if files == 1 { "file" } else { "files" }
        )
    }
}

/// Writes the shards of one source, from its save point on if it has one. `fingerprint` is that of
/// what the source is made from.
///
/// # Errors
/// Input that cannot be read or has changed, a source without a document, and one of which nothing
/// is left to train on.
pub fn prepare(
    job: &SourceJob<'_>,
    fingerprint: &str,
    plan: &ShardPlan<'_>,
    progress: &mut dyn Progress,
) -> Result<Source> {
    let stage = job.stage();
    progress.begin(&stage);
    let source = match resume(job, fingerprint, plan)? {
        Resumed::Finished(source) => {
            let splits = [&source.train, &source.held_out];
            let dropped: u64 = source.dropped.values().sum();
            progress.advance(&Done {
                done: stage.total,
                documents: splits.map(|split| split.documents).iter().sum::<u64>() + dropped,
                tokens: 0,
                kept_tokens: splits.map(|split| split.tokens).iter().sum(),
                catching_up: true,
            });
            *source
        }
        Resumed::Unfinished(output) => {
            let source = prepare_from(*output, &stage, fingerprint, progress)?;
            let finished = SavePoint {
                fingerprint: fingerprint.to_owned(),
                state: State::Finished(Box::new(source.clone())),
            };
            finished.write(plan.root, &job.name())?;
            source
        }
    };
    progress.end();
    Ok(source)
}

/// What an earlier run has come to, if that can be gone on with.
fn resume<'a>(
    job: &'a SourceJob<'a>,
    fingerprint: &str,
    plan: &'a ShardPlan<'a>,
) -> Result<Resumed<'a>> {
    let name = job.name();
    let why_not = match SavePoint::read(plan.root, &name) {
        Some(point) if point.fingerprint == fingerprint => {
            match Output::resume(job, plan, point.state) {
                Ok(resumed) => return Ok(resumed),
                Err(error) => {
                    format!("what the interrupted preparation left is damaged: {error:#}")
                }
            }
        }
        Some(_) => "it, or a source before it, is not as it was".to_owned(),
        None => return Ok(Resumed::Unfinished(Box::new(Output::new(job, plan)?))),
    };
    tracing::warn!(source = %name, why_not, "not gone on with but begun anew");
    Ok(Resumed::Unfinished(Box::new(Output::new(job, plan)?)))
}

/// Reads the source and writes what of it is in no finished shard.
fn prepare_from(
    mut output: Output<'_>,
    stage: &Stage,
    fingerprint: &str,
    progress: &mut dyn Progress,
) -> Result<Source> {
    let (job, plan) = (output.job, output.plan);
    job.expect_unchanged()?;
    let counts = Arc::<ReadCounts>::default();
    let mut documents = job.documents(&counts);
    let starts = output.starts();
    let mut batch = next_batch(&mut documents)?;
    while !batch.is_empty() {
        let first = output.documents;
        let (next, cut) = rayon::join(
            || next_batch(&mut documents),
            || cut(&batch, first, plan, starts),
        );
        for document in cut? {
            if output.add(&document)? {
                output.save(fingerprint)?;
            }
        }
        progress.advance(&Done {
            done: match stage.unit {
                Unit::Bytes => counts.bytes.load(Ordering::Relaxed),
                Unit::Documents => output.documents,
            },
            documents: output.documents,
            tokens: output.tokens,
            kept_tokens: output.kept_tokens,
            catching_up: output.documents <= starts.train.max(starts.held_out).document,
        });
        batch = next?;
    }
    job.expect_unchanged()?;
    let guessed = counts.windows_1252_files.load(Ordering::Relaxed);
    if guessed > 0 {
        tracing::warn!(
            source = %job.name(),
            files = guessed,
            "not UTF-8, read as Windows-1252; `encoding` of the source says it for certain"
        );
    }
    output.finish()
}

fn next_batch(documents: &mut Documents) -> Result<Vec<Document>> {
    let mut batch = Vec::new();
    let mut bytes = 0;
    while bytes < BATCH_BYTES && batch.len() < BATCH_DOCUMENTS {
        let Some(document) = documents.next() else {
            break;
        };
        let document = document?;
        bytes += document.content.bytes();
        batch.push(document);
    }
    Ok(batch)
}

/// From where on the chunks of the two series are in no finished shard.
#[derive(Clone, Copy)]
pub struct Starts {
    pub train: Position,
    pub held_out: Position,
}

/// What becomes of a document.
pub enum Cut {
    /// It has no token.
    Empty,
    /// All of it is in finished shards.
    TakenOver { held_out: bool },
    Chunks {
        held_out: bool,
        /// How many of its chunks are in finished shards.
        taken_over: u64,
        /// The others.
        chunks: Vec<Vec<u32>>,
    },
}

/// `first` is the number of the batch's first document in its source.
fn cut(batch: &[Document], first: u64, plan: &ShardPlan<'_>, starts: Starts) -> Result<Vec<Cut>> {
    let one = |(index, document): (usize, &Document)| {
        let cut = cut_one(&document.content, first + index as u64, plan, starts);
        cut.with_context(|| document.place.to_string())
    };
    batch.par_iter().enumerate().map(one).collect()
}

/// The document numbered `number`, or as much of it as is not in a finished shard.
fn cut_one(content: &Content, number: u64, plan: &ShardPlan<'_>, starts: Starts) -> Result<Cut> {
    let held_out = match content {
        Content::Text(text) if text.trim().is_empty() => return Ok(Cut::Empty),
        Content::Text(text) => is_held_out(text, plan.held_out_permille),
        Content::Tokens(ids) => ids_are_held_out(ids, plan.held_out_permille),
    };
    let start = if held_out {
        starts.held_out
    } else {
        starts.train
    };
    if number < start.document {
        return Ok(Cut::TakenOver { held_out });
    }
    let mut chunks = match content {
        Content::Text(text) => {
            plan.chunker.check(text, number)?;
            plan.chunker.chunks(text)?
        }
        // Ids that others made are a chunk as they stand.
        Content::Tokens(ids) => {
            plan.chunker.check_ids(ids)?;
            let chunk = (!ids.is_empty()).then(|| ids.clone());
            chunk.into_iter().collect()
        }
    };
    let taken_over = if number == start.document {
        start.chunk
    } else {
        0
    };
    if chunks.is_empty() {
        return Ok(Cut::Empty);
    }
    ensure!((taken_over as usize) < chunks.len(), OTHER_DOCUMENTS);
    drop(chunks.drain(..taken_over as usize));
    Ok(Cut::Chunks {
        held_out,
        taken_over,
        chunks,
    })
}
