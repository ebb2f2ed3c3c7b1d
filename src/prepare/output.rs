//! What a source comes to: two series of shards, and what is counted on the way.
//!
//! Goes on from a save point: what that says is in finished shards is only counted.

use anyhow::{Result, bail};
use rayon::prelude::{IntoParallelRefIterator, ParallelIterator};

use crate::corpus::{Source, StoredFile};
use crate::prepare::cleaning::Cleaner;
use crate::prepare::files;
use crate::prepare::save_point::{Position, SavePoint, SeriesPoint, State};
use crate::prepare::shards::{Series, SeriesOptions, ShardSeries, write_unigrams};
use crate::prepare::source::{Cut, OTHER_DOCUMENTS, ShardPlan, SourceJob, Starts};

/// What an earlier run has come to.
pub enum Resumed<'a> {
    Finished(Box<Source>),
    Unfinished(Box<Output<'a>>),
}

/// What a source has come to so far.
pub struct Output<'a> {
    pub job: &'a SourceJob<'a>,
    pub plan: &'a ShardPlan<'a>,
    train: OutputSeries<'a>,
    held_out: OutputSeries<'a>,
    /// Documents that the cleaning kept and that have no token.
    empty: u64,
    /// Documents read, the dropped ones included: the next one's number.
    pub documents: u64,
    /// Tokens of this run.
    pub tokens: u64,
    /// Tokens of the finished shards that an earlier run left.
    pub kept_tokens: u64,
}

struct OutputSeries<'a> {
    shards: ShardSeries<'a>,
    /// Where an earlier run has come to.
    start: Position,
    /// Documents that are whole in finished shards of an earlier run.
    kept: u64,
    /// Documents read again and not tokenized; those beyond `kept` had no token then.
    passed: u64,
}

impl<'a> OutputSeries<'a> {
    fn new(
        job: &SourceJob<'_>,
        plan: &ShardPlan<'a>,
        split: &str,
        point: SeriesPoint,
    ) -> Result<Self> {
        let options = SeriesOptions {
            root: plan.root,
            stem: format!("{}/{split}", job.name()),
            vocab_size: plan.chunker.info().vocab_size,
            shard_bytes: plan.shard_bytes,
        };
        Ok(Self {
            start: point.next,
            kept: point.documents(),
            passed: 0,
            shards: ShardSeries::resume(options, point)?,
        })
    }

    /// The finished series, and how many of the documents passed by had no token.
    fn finish(self, documents: u64) -> Result<(Series, u64)> {
        let reached = self.start == Position::default() || documents > self.start.document;
        match self.passed.checked_sub(self.kept) {
            Some(empty) if reached => Ok((self.shards.finish()?, empty)),
            _ => bail!(OTHER_DOCUMENTS),
        }
    }
}

impl<'a> Output<'a> {
    pub fn new(job: &'a SourceJob<'a>, plan: &'a ShardPlan<'a>) -> Result<Self> {
        Self::at(job, plan, SeriesPoint::default(), SeriesPoint::default())
    }

    fn at(
        job: &'a SourceJob<'a>,
        plan: &'a ShardPlan<'a>,
        train: SeriesPoint,
        held_out: SeriesPoint,
    ) -> Result<Self> {
        Ok(Self {
            job,
            plan,
            kept_tokens: train.tokens() + held_out.tokens(),
            train: OutputSeries::new(job, plan, "train", train)?,
            held_out: OutputSeries::new(job, plan, "held-out", held_out)?,
            empty: 0,
            documents: 0,
            tokens: 0,
        })
    }

    /// Goes on from what a save point says.
    ///
    /// # Errors
    /// A file is not there any more as it was written.
    pub fn resume(
        job: &'a SourceJob<'a>,
        plan: &'a ShardPlan<'a>,
        state: State,
    ) -> Result<Resumed<'a>> {
        match state {
            State::Unfinished { train, held_out } => Ok(Resumed::Unfinished(Box::new(Self::at(
                job, plan, train, held_out,
            )?))),
            State::Finished(source) => {
                let stored: Vec<&StoredFile> = source.files().collect();
                stored
                    .par_iter()
                    .try_for_each(|stored| files::expect(plan.root, stored))?;
                Ok(Resumed::Finished(source))
            }
        }
    }

    pub fn starts(&self) -> Starts {
        Starts {
            train: self.train.start,
            held_out: self.held_out.start,
        }
    }

    /// Returns whether shards were finished.
    pub fn add(&mut self, document: &Cut) -> Result<bool> {
        let number = self.documents;
        self.documents += 1;
        let held_out = match document {
            Cut::TakenOver { held_out } | Cut::Chunks { held_out, .. } => held_out,
            Cut::Empty => {
                self.empty += 1;
                return Ok(false);
            }
            Cut::Dropped => return Ok(false),
        };
        let series = if *held_out {
            &mut self.held_out
        } else {
            &mut self.train
        };
        let Cut::Chunks {
            taken_over, chunks, ..
        } = document
        else {
            series.passed += 1;
            return Ok(false);
        };
        self.tokens += chunks.iter().map(|chunk| chunk.len() as u64).sum::<u64>();
        let at = Position {
            document: number,
            chunk: *taken_over,
        };
        series.shards.add(at, chunks)
    }

    pub fn save(&self, fingerprint: &str) -> Result<()> {
        let point = SavePoint {
            fingerprint: fingerprint.to_owned(),
            state: State::Unfinished {
                train: self.train.shards.point().clone(),
                held_out: self.held_out.shards.point().clone(),
            },
        };
        point.write(self.plan.root, &self.job.name())
    }

    /// # Errors
    /// Nothing is left, or nothing to train on; documents that are others than before.
    pub fn finish(self, cleaner: &mut Cleaner) -> Result<Source> {
        let (train, train_empty) = self.train.finish(self.documents)?;
        let (held_out, held_out_empty) = self.held_out.finish(self.documents)?;
        cleaner.count_empty(self.empty + train_empty + held_out_empty);
        let dropped = cleaner.dropped();
        if train.split.documents + held_out.split.documents == 0 {
            return Err(self.job.nothing_left(&dropped));
        }
        if train.split.documents == 0 {
            bail!(
                "every document ({}) is held out, none is left to train on\n  hint: lower \
                 `held_out`, or join this source with another",
                held_out.split.documents
            );
        }
        Ok(Source {
            id: self.job.source.id.clone(),
            licence: self.job.source.licence.clone(),
            train: train.split,
            held_out: held_out.split,
            dropped,
            unigrams: write_unigrams(
                self.plan.root,
                &format!("{}/unigrams.arrow", self.job.name()),
                train.unigrams,
            )?,
        })
    }
}
