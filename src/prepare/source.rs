//! One source from documents to shards.
//!
//! Reads ahead one batch while the cores tokenize the last one, so memory holds two batches and two
//! half-filled shards, however long the source. Shards hold documents in their source's order, so
//! their bytes do not depend on the number of threads.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::{Context, Result, bail};
use rayon::prelude::{IndexedParallelIterator, IntoParallelRefIterator, ParallelIterator};

use crate::corpus::{Source, Split};
use crate::prepare::compression::ReadCounts;
use crate::prepare::config::readers::ReadConfig;
use crate::prepare::config::{InstitutionConfig, SourceConfig};
use crate::prepare::held_out::{ids_are_held_out, is_held_out};
use crate::prepare::inputs::InputFile;
use crate::prepare::progress::{Done, Progress, Stage, Unit};
use crate::prepare::readers::{self, Content, Document, Documents};
use crate::prepare::shards::{SeriesOptions, ShardSeries, write_unigrams};
use crate::prepare::tokenizer::Chunker;

/// A batch ends with the document that reaches either limit.
const BATCH_BYTES: usize = 16 << 20;
const BATCH_DOCUMENTS: usize = 4096;

/// One source with its files found.
pub struct SourceJob<'a> {
    pub institution: &'a InstitutionConfig,
    pub source: &'a SourceConfig,
    pub files: Vec<InputFile>,
}

/// Where shards go and how they are cut.
pub struct ShardPlan<'a> {
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

    /// The error for a source in which nothing was found.
    pub fn without_document(&self) -> anyhow::Error {
        let files = self.files.len();
        anyhow::anyhow!(
            "no document in {files} {}\n  hint: check `path` and the `text` field of this source",
            if files == 1 { "file" } else { "files" }
        )
    }
}

/// Writes the shards of one source.
///
/// # Errors
/// Input that cannot be read, a source without a document, and one of which nothing is left to
/// train on.
pub fn prepare(
    job: &SourceJob<'_>,
    plan: &ShardPlan<'_>,
    progress: &mut dyn Progress,
) -> Result<Source> {
    let stage = job.stage();
    progress.begin(&stage);
    let counts = Arc::<ReadCounts>::default();
    let mut documents = job.documents(&counts);
    let mut output = Output::new(job, plan);
    let mut batch = next_batch(&mut documents)?;
    while !batch.is_empty() {
        let first = output.documents;
        let (next, cut) = rayon::join(|| next_batch(&mut documents), || cut(&batch, first, plan));
        for document in cut? {
            output.add(&document)?;
        }
        let done = match stage.unit {
            Unit::Bytes => counts.bytes.load(Ordering::Relaxed),
            Unit::Documents => output.documents,
        };
        progress.advance(&Done {
            done,
            documents: output.documents,
            tokens: output.tokens,
        });
        batch = next?;
    }
    let source = output.finish(job, plan)?;
    progress.end();
    let guessed = counts.windows_1252_files.load(Ordering::Relaxed);
    if guessed > 0 {
        tracing::warn!(
            source = %job.name(),
            files = guessed,
            "not UTF-8, read as Windows-1252; `encoding` of the source says it for certain"
        );
    }
    Ok(source)
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

/// A document cut into chunks; no chunk means that the text is empty.
struct Cut {
    held_out: bool,
    chunks: Vec<Vec<u32>>,
}

/// `first` is the number of the batch's first document in its source.
fn cut(batch: &[Document], first: u64, plan: &ShardPlan<'_>) -> Result<Vec<Cut>> {
    let one = |(index, document): (usize, &Document)| {
        let cut = match &document.content {
            Content::Text(text) => cut_text(text, first + index as u64, plan),
            Content::Tokens(ids) => take_ids(ids, plan),
        };
        cut.with_context(|| document.place.to_string())
    };
    batch.par_iter().enumerate().map(one).collect()
}

fn cut_text(text: &str, number: u64, plan: &ShardPlan<'_>) -> Result<Cut> {
    if text.trim().is_empty() {
        return Ok(Cut {
            held_out: false,
            chunks: Vec::new(),
        });
    }
    plan.chunker.check(text, number)?;
    Ok(Cut {
        held_out: is_held_out(text, plan.held_out_permille),
        chunks: plan.chunker.chunks(text)?,
    })
}

/// Ids that others made are a chunk as they stand.
fn take_ids(ids: &[u32], plan: &ShardPlan<'_>) -> Result<Cut> {
    plan.chunker.check_ids(ids)?;
    let chunk = (!ids.is_empty()).then(|| ids.to_vec());
    Ok(Cut {
        held_out: ids_are_held_out(ids, plan.held_out_permille),
        chunks: chunk.into_iter().collect(),
    })
}

/// What a source has come to so far.
struct Output<'a> {
    train: ShardSeries<'a>,
    held_out: ShardSeries<'a>,
    unigrams: Vec<u64>,
    empty: u64,
    /// Documents read, the dropped ones included: the next one's number.
    documents: u64,
    tokens: u64,
}

impl<'a> Output<'a> {
    fn new(job: &SourceJob<'_>, plan: &ShardPlan<'a>) -> Self {
        let vocab_size = plan.chunker.info().vocab_size;
        let series = |split: &str| {
            ShardSeries::new(SeriesOptions {
                root: plan.root,
                stem: format!("{}/{split}", job.name()),
                vocab_size,
                shard_bytes: plan.shard_bytes,
            })
        };
        Self {
            train: series("train"),
            held_out: series("held-out"),
            unigrams: vec![0; vocab_size as usize],
            empty: 0,
            documents: 0,
            tokens: 0,
        }
    }

    fn add(&mut self, document: &Cut) -> Result<()> {
        let number = self.documents;
        self.documents += 1;
        if document.chunks.is_empty() {
            self.empty += 1;
            return Ok(());
        }
        self.tokens += document
            .chunks
            .iter()
            .map(|chunk| chunk.len() as u64)
            .sum::<u64>();
        if document.held_out {
            return self.held_out.add(number, &document.chunks);
        }
        for id in document.chunks.iter().flatten() {
            self.unigrams[*id as usize] += 1;
        }
        self.train.add(number, &document.chunks)
    }

    fn finish(self, job: &SourceJob<'_>, plan: &ShardPlan<'_>) -> Result<Source> {
        let (train, held_out): (Split, Split) = (self.train.finish()?, self.held_out.finish()?);
        if train.documents + held_out.documents == 0 {
            return Err(job.without_document());
        }
        if train.documents == 0 {
            bail!(
                "every document ({}) is held out, none is left to train on\n  hint: lower \
                 `held_out`, or join this source with another",
                held_out.documents
            );
        }
        let counted: u64 = self.unigrams.iter().sum();
        assert_eq!(
            counted, train.tokens,
            "every training token is counted once"
        );
        let dropped = BTreeMap::from([("empty".to_owned(), self.empty)]);
        Ok(Source {
            id: job.source.id.clone(),
            licence: job.source.licence.clone(),
            train,
            held_out,
            dropped: dropped
                .into_iter()
                .filter(|(_, count)| *count > 0)
                .collect(),
            unigrams: write_unigrams(
                plan.root,
                &format!("{}/unigrams.arrow", job.name()),
                self.unigrams,
            )?,
        })
    }
}
