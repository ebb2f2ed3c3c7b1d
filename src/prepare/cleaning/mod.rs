//! Cleaning that is stated: which documents are dropped, and why, and which marks are replaced.
//!
//! In reading order: [`config`] what is asked for; [`reason`] why a document goes; [`marks`]
//! de-identification marks into one token; [`equality`] and [`exact`] equal documents;
//! [`shingles`], [`minhash`] and [`near`] nearly equal ones; [`index`], [`run`] and [`filter`] how
//! those before are remembered; [`left`] what a later process finds of that; [`report`] what it
//! came to.
//!
//! Invariants: of documents that are the same the first in the configuration's order is kept,
//! whatever the number of threads and wherever a batch ends; every document that is dropped is
//! counted under one reason; memory does not grow with the corpus (at most 256 MiB for equal
//! documents and 640 MiB for nearly equal ones; 16 bytes a document on disk for the former, about
//! 600 for the latter). No text is kept, logged or told of.
//!
//! A source is examined batch by batch. [`Cleaner::examine`] looks at each document, on all cores;
//! [`Cleaner::decide`] then goes through the batch in order. What a finished source leaves in the
//! working folder is taken over by [`Cleaner::open`] in a later process, which begins every other
//! source anew.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::prepare::cleaning::config::{CleaningConfig, Duplicates};
use crate::prepare::cleaning::exact::Exact;
use crate::prepare::cleaning::left::Left;
use crate::prepare::cleaning::marks::Marks;
use crate::prepare::cleaning::near::{Near, Sketch};
use crate::prepare::cleaning::reason::Reason;
use crate::prepare::cleaning::report::{CleaningReport, SourceReport};
use crate::prepare::tokenizer::Chunker;

pub mod config;
pub mod equality;
pub mod exact;
pub mod filter;
pub mod index;
pub mod left;
pub mod marks;
pub mod minhash;
pub mod near;
pub mod reason;
pub mod report;
pub mod run;
pub mod shingles;

/// The working folder in the folder in which a corpus is made; gone with that.
pub const WORKING_FOLDER: &str = ".cleaning";

pub struct Cleaner {
    config: CleaningConfig,
    folder: PathBuf,
    sources: Vec<CleanedSource>,
    /// What each source has left, if it has ended.
    left: Vec<Option<Left>>,
    marks: Option<Marks>,
    exact: Option<Exact>,
    near: Option<Near>,
    source: u32,
    tally: SourceReport,
}

/// A source of the corpus.
#[derive(Clone, Debug)]
pub struct CleanedSource {
    pub name: String,
    /// Of what it, and every source before it, is made from.
    pub fingerprint: String,
}

/// A document beside all that were kept before its batch.
pub struct Examined {
    replaced: Option<String>,
    marks: u64,
    state: State,
}

enum State {
    Kept,
    Dropped(Reason),
    Repeats { first_in: u32, reason: Reason },
    New { text: u128, sketch: Option<Sketch> },
}

impl Examined {
    /// The document's text with its marks replaced.
    pub fn text<'a>(&'a self, original: &'a str) -> &'a str {
        self.replaced.as_deref().unwrap_or(original)
    }
}

impl Cleaner {
    /// Starts in the folder `root` in which a corpus is made, or goes on after those of its sources
    /// that left their files there. `sources` are all of them, in the configuration's order.
    pub fn open(config: &CleaningConfig, root: &Path, sources: Vec<CleanedSource>) -> Result<Self> {
        let folder = root.join(WORKING_FOLDER);
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let left: Vec<Option<Left>> = (0..)
            .zip(&sources)
            .map(|(number, source)| Left::find(&folder, number, &source.fingerprint))
            .collect();
        let files = left::files_of(&left, &folder);
        let exact = (config.duplicates == Duplicates::Drop).then(|| Exact::open(&folder, &files));
        let near = config.near_duplicates.as_ref();
        let near = near.map(|near| Near::open(near, &folder, &files));
        let marks = config.deidentification.as_ref();
        Ok(Self {
            config: config.clone(),
            sources,
            left,
            marks: marks.map(Marks::new).transpose()?,
            exact: exact.transpose()?,
            near: near.transpose()?,
            source: 0,
            tally: SourceReport::default(),
            folder,
        })
    }

    /// Refuses a replacement of marks that is not one token.
    pub fn check_tokenizer(&self, chunker: &Chunker) -> Result<()> {
        self.marks
            .iter()
            .try_for_each(|marks| marks.check_replacement(chunker))
    }

    /// Whether the source of this number has ended, in an earlier process or in this one, and all
    /// that it left is there.
    pub fn has(&self, source: u32) -> bool {
        self.left[source as usize].is_some()
    }

    /// Begins the source of this number; what it, or another of that number, left is removed. What
    /// later sources left stays, and counts again when their turn comes: it depends on the texts of
    /// the sources before them alone, which their fingerprints cover.
    pub fn begin_source(&mut self, source: u32) -> Result<()> {
        self.left[source as usize] = None;
        Left::remove(&self.folder, source)?;
        if let Some(exact) = &mut self.exact {
            exact.begin_source(source)?;
        }
        if let Some(near) = &mut self.near {
            near.begin_source(source)?;
        }
        self.source = source;
        self.tally = SourceReport {
            source: self.sources[source as usize].name.clone(),
            ..SourceReport::default()
        };
        Ok(())
    }

    /// Looks at one document of the next batch; may run on several threads.
    pub fn examine(&self, text: &str) -> Result<Examined> {
        let replaced = self.marks.as_ref().and_then(|marks| marks.replace(text));
        let (replaced, marks) = replaced.map_or((None, 0), |(text, count)| (Some(text), count));
        let state = self.state_of(replaced.as_deref().unwrap_or(text))?;
        Ok(Examined {
            replaced,
            marks,
            state,
        })
    }

    /// Looks at a document of which only token ids are known. It is kept whatever came before:
    /// such documents are pieces of others, and an equal piece makes no equal document.
    pub fn examine_ids(ids: &[u32]) -> Examined {
        Examined {
            replaced: None,
            marks: 0,
            state: if ids.is_empty() {
                State::Dropped(Reason::Empty)
            } else {
                State::Kept
            },
        }
    }

    fn state_of(&self, text: &str) -> Result<State> {
        let trimmed = text.trim();
        if trimmed.is_empty() {
            return Ok(State::Dropped(Reason::Empty));
        }
        // A text has at least a quarter as many characters as bytes.
        let minimum = self.config.minimum_characters;
        let long = trimmed.len() as u64 / 4 >= minimum;
        if !long && (trimmed.chars().count() as u64) < minimum {
            return Ok(State::Dropped(Reason::Short));
        }
        let sketch = || match &self.near {
            Some(near) => near.examine(text),
            None => Ok(None),
        };
        match self.exact {
            Some(_) => self.look_up(equality::of_text(text), sketch),
            None => self.look_up(0, sketch),
        }
    }

    fn look_up(
        &self,
        text: u128,
        sketch: impl FnOnce() -> Result<Option<Sketch>>,
    ) -> Result<State> {
        let known = self.exact.as_ref().map(|exact| exact.examine(text));
        if let Some(first_in) = known.transpose()?.flatten() {
            let reason = Reason::Duplicate;
            return Ok(State::Repeats { first_in, reason });
        }
        let sketch = sketch()?;
        Ok(State::New { text, sketch })
    }

    /// Why each document of a batch is dropped; none where it is kept. Batches come in order.
    pub fn decide(&mut self, batch: &[Examined]) -> Result<Vec<Option<Reason>>> {
        let verdicts = batch
            .iter()
            .map(|document| self.verdict(document))
            .collect();
        if let Some(exact) = &mut self.exact {
            exact.end_batch()?;
        }
        if let Some(near) = &mut self.near {
            near.end_batch()?;
        }
        Ok(verdicts)
    }

    fn verdict(&mut self, document: &Examined) -> Option<Reason> {
        self.tally.documents += 1;
        self.tally.marks_replaced += document.marks;
        let (first_in, reason) = match &document.state {
            State::Kept => return None,
            State::Dropped(reason) => (None, *reason),
            State::Repeats { first_in, reason } => (Some(*first_in), *reason),
            State::New { text, sketch } => {
                let (first_in, reason) = self.repeats_batch(*text, sketch.as_ref())?;
                (Some(first_in), reason)
            }
        };
        *self.tally.dropped.entry(reason).or_default() += 1;
        if let Some(first_in) = first_in {
            let name = self.sources[first_in as usize].name.clone();
            let repeated = self.tally.first_in.entry(name).or_default();
            match reason {
                Reason::NearDuplicate => repeated.near_duplicate += 1,
                _ => repeated.duplicate += 1,
            }
        }
        Some(reason)
    }

    /// What a document that was new to its batch repeats; keeps it where it repeats nothing.
    fn repeats_batch(&mut self, text: u128, sketch: Option<&Sketch>) -> Option<(u32, Reason)> {
        if let Some(source) = self.exact.as_ref().and_then(|exact| exact.find(text)) {
            return Some((source, Reason::Duplicate));
        }
        let near = self.near.as_ref().zip(sketch);
        if let Some(source) = near.and_then(|(near, sketch)| near.find(sketch)) {
            return Some((source, Reason::NearDuplicate));
        }
        if let Some(exact) = &mut self.exact {
            exact.keep(text);
        }
        if let Some((near, sketch)) = self.near.as_mut().zip(sketch) {
            near.keep(sketch);
        }
        None
    }

    /// Counts documents of the current source that were kept and have no token.
    pub fn count_empty(&mut self, documents: u64) {
        if documents > 0 {
            *self.tally.dropped.entry(Reason::Empty).or_default() += documents;
        }
    }

    /// Documents of the current source dropped so far, by the names of the reasons.
    pub fn dropped(&self) -> BTreeMap<String, u64> {
        let named = |(reason, count): (&Reason, &u64)| (reason.name().to_owned(), *count);
        self.tally.dropped.iter().map(named).collect()
    }

    /// Leaves all that later sources need in files.
    pub fn end_source(&mut self) -> Result<()> {
        let mut files = Vec::new();
        if let Some(exact) = &mut self.exact {
            files.extend(exact.end_source()?);
        }
        if let Some(near) = &mut self.near {
            files.extend(near.end_source()?);
        }
        let left = Left {
            fingerprint: self.sources[self.source as usize].fingerprint.clone(),
            files,
            report: self.tally.clone(),
        };
        left.write(&self.folder, self.source)?;
        self.left[self.source as usize] = Some(left);
        Ok(())
    }

    /// Writes the report of all sources into the corpus folder `root`.
    pub fn finish(&self, root: &Path) -> Result<()> {
        let reports = self.left.iter().map(|left| {
            let left = left.as_ref();
            let left = left.expect("a corpus is finished when all of its sources have ended");
            left.report.clone()
        });
        let report = CleaningReport {
            cleaning: self.config.clone(),
            sources: reports.collect(),
        };
        report.write(root)
    }
}
