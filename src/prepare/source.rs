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
use rayon::prelude::{IntoParallelIterator, IntoParallelRefIterator, ParallelIterator};

use crate::corpus::{Source, Split};
use crate::prepare::cleaning::{Cleaner, Reason};
use crate::prepare::compression::ReadCounts;
use crate::prepare::config::{InstitutionConfig, ReadConfig, SourceConfig};
use crate::prepare::held_out::is_held_out;
use crate::prepare::inputs::InputFile;
use crate::prepare::progress::{Done, Progress, Stage, Unit};
use crate::prepare::readers::{self, Document, Documents};
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

    /// The error for a source of which nothing is left.
    fn nothing_left(&self, dropped: &BTreeMap<String, u64>) -> anyhow::Error {
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
    cleaner: &mut Cleaner,
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
        let (next, cut) = rayon::join(
            || next_batch(&mut documents),
            || cut(&batch, first, plan, cleaner),
        );
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
    let source = output.finish(job, plan, cleaner.dropped())?;
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
        bytes += document.text.len();
        batch.push(document);
    }
    Ok(batch)
}

/// A document cut into chunks; no chunk means that it is dropped.
#[derive(Default)]
struct Cut {
    held_out: bool,
    chunks: Vec<Vec<u32>>,
}

/// `first` is the number of the batch's first document in its source.
fn cut(
    batch: &[Document],
    first: u64,
    plan: &ShardPlan<'_>,
    cleaner: &mut Cleaner,
) -> Result<Vec<Cut>> {
    let examined = batch
        .par_iter()
        .map(|document| cleaner.examine(&document.text));
    let examined = examined.collect::<Result<Vec<_>>>()?;
    let dropped = cleaner.decide(&examined)?;
    let one = |index: usize| {
        if dropped[index].is_some() {
            return Ok(Cut::default());
        }
        let document = &batch[index];
        let text = examined[index].text(&document.text);
        let place = || document.place.to_string();
        let (chunker, number) = (plan.chunker, first + index as u64);
        chunker.check(text, number).with_context(place)?;
        Ok(Cut {
            held_out: is_held_out(text, plan.held_out_permille),
            chunks: chunker.chunks(text).with_context(place)?,
        })
    };
    let cut = (0..batch.len()).into_par_iter().map(one);
    let cut = cut.collect::<Result<Vec<Cut>>>()?;
    for (cut, dropped) in cut.iter().zip(&dropped) {
        if cut.chunks.is_empty() && dropped.is_none() {
            cleaner.count_drop(Reason::Empty);
        }
    }
    Ok(cut)
}

/// What a source has come to so far.
struct Output<'a> {
    train: ShardSeries<'a>,
    held_out: ShardSeries<'a>,
    unigrams: Vec<u64>,
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
            documents: 0,
            tokens: 0,
        }
    }

    fn add(&mut self, document: &Cut) -> Result<()> {
        let number = self.documents;
        self.documents += 1;
        if document.chunks.is_empty() {
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

    fn finish(
        self,
        job: &SourceJob<'_>,
        plan: &ShardPlan<'_>,
        dropped: BTreeMap<String, u64>,
    ) -> Result<Source> {
        let (train, held_out): (Split, Split) = (self.train.finish()?, self.held_out.finish()?);
        if train.documents + held_out.documents == 0 {
            return Err(job.nothing_left(&dropped));
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
        Ok(Source {
            id: job.source.id.clone(),
            licence: job.source.licence.clone(),
            train,
            held_out,
            dropped,
            unigrams: write_unigrams(
                plan.root,
                &format!("{}/unigrams.arrow", job.name()),
                self.unigrams,
            )?,
        })
    }
}
