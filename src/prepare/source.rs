//! One source from documents to shards.
//!
//! Reads ahead one batch while the cores tokenize the last one. Shards hold documents in their
//! source's order, so their bytes do not depend on the number of threads, nor on where an earlier
//! run was killed: documents that are in finished shards are read again, and no more.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::{Context, Error, Result, ensure};
use rayon::prelude::{IntoParallelIterator, IntoParallelRefIterator, ParallelIterator};

use crate::corpus::Source;
use crate::prepare::cleaning::reason::Reason;
use crate::prepare::cleaning::{Cleaner, Examined};
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

    /// Bytes of its files, as stored.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    fn stage(&self) -> Stage {
        let (unit, total) = match &self.source.read {
            ReadConfig::Synthetic(config) => (Unit::Documents, config.documents),
            _ => (Unit::Bytes, self.bytes()),
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

    /// The error for a source of which nothing is left.
    pub fn nothing_left(&self, dropped: &BTreeMap<String, u64>) -> Error {
        if dropped.keys().all(|reason| reason == Reason::Empty.name()) {
            return self.without_document();
        }
        let counts: Vec<String> = dropped
            .iter()
            .map(|(reason, count)| format!("{count} {reason}"))
            .collect();
        anyhow::anyhow!(
            "every document is dropped ({})\n  hint: remove this source, or change `cleaning`",
            counts.join(", ")
        )
    }

    /// The error for a source in which nothing was found.
    fn without_document(&self) -> Error {
        let files = self.files.len();
        anyhow::anyhow!(
            "no document in {files} {}\n  hint: check `path` and the `text` field of this source",
            if files == 1 { "file" } else { "files" }
        )
    }
}

/// Which source of the corpus it is.
#[derive(Clone, Copy)]
pub struct SourceIdentity<'a> {
    /// Its place in the configuration's order.
    pub number: u32,
    /// Of what it is made from.
    pub fingerprint: &'a str,
}

/// Writes the shards of one source, from its save point on if it has one.
///
/// # Errors
/// Input that cannot be read or has changed, a source without a document, and one of which nothing
/// is left to train on.
pub fn prepare(
    job: &SourceJob<'_>,
    identity: SourceIdentity<'_>,
    plan: &ShardPlan<'_>,
    cleaner: &mut Cleaner,
    progress: &mut dyn Progress,
) -> Result<Source> {
    let stage = job.stage();
    progress.begin(&stage);
    let source = match resume(job, identity, plan, cleaner)? {
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
            cleaner.begin_source(identity.number)?;
            let mut work = Work {
                output: *output,
                fingerprint: identity.fingerprint,
                cleaner,
            };
            work.read(&stage, progress)?;
            let Work {
                output, cleaner, ..
            } = work;
            let source = output.finish(cleaner)?;
            cleaner.end_source()?;
            let finished = SavePoint {
                fingerprint: identity.fingerprint.to_owned(),
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
    identity: SourceIdentity<'_>,
    plan: &'a ShardPlan<'a>,
    cleaner: &Cleaner,
) -> Result<Resumed<'a>> {
    let name = job.name();
    let point = SavePoint::read(plan.root, &name);
    let why_not = match point.map(|point| usable(point, identity, cleaner)) {
        Some(Ok(point)) => match Output::resume(job, plan, point.state) {
            Ok(resumed) => return Ok(resumed),
            Err(error) => format!("what the interrupted preparation left is damaged: {error:#}"),
        },
        Some(Err(why_not)) => why_not.to_owned(),
        None => return Ok(Resumed::Unfinished(Box::new(Output::new(job, plan)?))),
    };
    tracing::warn!(source = %name, why_not, "not gone on with but begun anew");
    Ok(Resumed::Unfinished(Box::new(Output::new(job, plan)?)))
}

/// The save point of a source, if what it says holds for this preparation; else why not.
///
/// The shards of an unfinished source hold in any case, as its documents are cleaned anew. A
/// finished one is not read again, so that its cleaning has to be there too.
pub fn usable(
    point: SavePoint,
    identity: SourceIdentity<'_>,
    cleaner: &Cleaner,
) -> Result<SavePoint, &'static str> {
    if point.fingerprint != identity.fingerprint {
        return Err("it, or a source before it, is not as it was");
    }
    match &point.state {
        State::Finished(_) if !cleaner.has(identity.number) => {
            Err("what its cleaning left is gone, or is that of another source")
        }
        _ => Ok(point),
    }
}

/// A source that is being read.
struct Work<'a, 'b> {
    output: Output<'a>,
    fingerprint: &'b str,
    cleaner: &'b mut Cleaner,
}

impl Work<'_, '_> {
    /// Reads the source and writes what of it is in no finished shard.
    fn read(&mut self, stage: &Stage, progress: &mut dyn Progress) -> Result<()> {
        let (job, plan) = (self.output.job, self.output.plan);
        job.expect_unchanged()?;
        let counts = Arc::<ReadCounts>::default();
        let mut documents = job.documents(&counts);
        let starts = self.output.starts();
        let mut batch = next_batch(&mut documents)?;
        while !batch.is_empty() {
            let (next, cut) = rayon::join(
                || next_batch(&mut documents),
                || self.cut(&batch, plan, starts),
            );
            for document in cut? {
                if self.output.add(&document)? {
                    self.output.save(self.fingerprint)?;
                }
            }
            let output = &self.output;
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
        if let Some((first, files)) = counts.windows_1252.told() {
            tracing::warn!(
                source = %job.name(),
                files,
                first = %first.display(),
                "not UTF-8, read as Windows-1252; `encoding` of the source says it for certain"
            );
        }
        Ok(())
    }

    /// Cleans and cuts the next documents.
    fn cut(
        &mut self,
        batch: &[Document],
        plan: &ShardPlan<'_>,
        starts: Starts,
    ) -> Result<Vec<Cut>> {
        let first = self.output.documents;
        let examined = batch.par_iter().map(|document| match &document.content {
            Content::Text(text) => self.cleaner.examine(text),
            Content::Tokens(ids) => Ok(Cleaner::examine_ids(ids)),
        });
        let examined: Vec<Result<Examined>> = examined.collect();
        let examined = examined.into_iter().collect::<Result<Vec<_>>>()?;
        let dropped = self.cleaner.decide(&examined)?;
        let one = |index: usize| {
            if dropped[index].is_some() {
                return Ok(Cut::Dropped);
            }
            let document = &batch[index];
            let content = match &document.content {
                Content::Text(text) => Kept::Text(examined[index].text(text)),
                Content::Tokens(ids) => Kept::Tokens(ids),
            };
            let cut = cut(content, first + index as u64, plan, starts);
            cut.with_context(|| document.place.to_string())
        };
        let cut: Vec<Result<Cut>> = (0..batch.len()).into_par_iter().map(one).collect();
        // One after the other, so that of several errors the first document's is told.
        cut.into_iter().collect()
    }
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
    /// The cleaning drops it.
    Dropped,
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

/// The content of a document that the cleaning keeps.
#[derive(Clone, Copy)]
enum Kept<'a> {
    Text(&'a str),
    Tokens(&'a [u32]),
}

/// The document numbered `number`, or as much of it as is not in a finished shard.
fn cut(content: Kept<'_>, number: u64, plan: &ShardPlan<'_>, starts: Starts) -> Result<Cut> {
    let held_out = match content {
        Kept::Text(text) => is_held_out(text, plan.held_out_permille),
        Kept::Tokens(ids) => ids_are_held_out(ids, plan.held_out_permille),
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
        Kept::Text(text) => {
            plan.chunker.check(text, number)?;
            plan.chunker.chunks(text)?
        }
        // Ids that others made are a chunk as they stand.
        Kept::Tokens(ids) => {
            plan.chunker.check_ids(ids)?;
            vec![ids.to_vec()]
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
