//! Reading a prepared corpus: its manifest, its token shards, and the batches made of them.
//!
//! Shards are mapped into memory when they are first wanted, checked against the manifest, and
//! kept. No document text leaves here but as the ids of a batch: errors name files, sources and
//! numbers only. Invariant: what is handed out belongs to the file that the manifest describes, or
//! there is an error.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, bail, ensure};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::corpus::plan::ChunkRef;
use crate::corpus::{MANIFEST_FILE, Manifest, Shard, Source, Split, StoredFile};
use crate::data::shard::TokenShard;
use crate::ids::SourceIndex;

pub mod batch;
pub mod blueprint;
pub mod held_out;
mod manifest;
pub mod prefetch;
pub mod shard;
pub mod unigrams;

const PREPARE_AGAIN: &str = "\n  hint: run cohort prepare again";

/// Which documents of a source are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SplitName {
    Train,
    HeldOut,
}

/// When a shard's bytes are compared with the digest in the manifest. Its size, structure and
/// counts are compared on opening in every case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DigestCheck {
    /// Once, when the shard is opened. Reading the lengths of a corpus then reads all of it.
    #[default]
    OnOpen,
    /// Once, before the first chunk is read: a corpus of terabytes starts in seconds.
    OnFirstRead,
    Never,
}

/// What is known of a chunk beside its ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkOrigin {
    /// The document's number in its source, from 0.
    pub document: u64,
    /// Whether this is the document's first chunk.
    pub first: bool,
}

/// A prepared corpus, open for reading from any number of threads.
#[derive(Debug)]
pub struct Corpus {
    folder: PathBuf,
    manifest: Manifest,
    digest_check: DigestCheck,
    sources: Vec<OpenSource>,
}

#[derive(Debug)]
struct OpenSource {
    name: String,
    source: Source,
    train: Vec<Mutex<Slot>>,
    held_out: Vec<Mutex<Slot>>,
}

/// A shard's place: empty until the shard is first wanted.
#[derive(Debug, Default)]
struct Slot {
    shard: Option<Arc<TokenShard>>,
    digest_known: bool,
}

impl Corpus {
    /// Reads `<folder>/manifest.json`; opens no shard yet.
    pub fn open(folder: &Path, digest_check: DigestCheck) -> Result<Self> {
        let manifest = manifest::read(&folder.join(MANIFEST_FILE))?;
        let mut names = BTreeSet::new();
        let mut sources = Vec::new();
        for (_, institution, source) in manifest.sources() {
            let name = format!("{}/{}", institution.id, source.id);
            ensure!(
                names.insert(name.clone()),
                "corpus {}: source `{name}` is in the manifest twice{PREPARE_AGAIN}",
                folder.display()
            );
            let slots = |split: &Split| split.shards.iter().map(|_| Mutex::default()).collect();
            let (train, held_out) = (slots(&source.train), slots(&source.held_out));
            sources.push(OpenSource {
                name,
                source: source.clone(),
                train,
                held_out,
            });
        }
        Ok(Self {
            folder: folder.to_owned(),
            manifest,
            digest_check,
            sources,
        })
    }

    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The name `institution/source` of a source of this corpus.
    pub fn source_name(&self, source: SourceIndex) -> Result<&str> {
        Ok(&self.source(source)?.name)
    }

    /// Tokens of every chunk of a split, shard by shard in manifest order. Opens the shards in
    /// parallel.
    pub fn lengths(&self, source: SourceIndex, split: SplitName) -> Result<Vec<Arc<[u16]>>> {
        let shards = self.source(source)?.split(split).0.shards.len();
        (0..shards as u32)
            .into_par_iter()
            .map(|shard| Ok(self.shard(source, split, shard, Use::Lengths)?.lengths()))
            .collect()
    }

    /// Appends the ids of a chunk to `into`, all below the vocabulary's size.
    pub fn read_chunk(
        &self,
        split: SplitName,
        at: &ChunkRef,
        into: &mut Vec<u32>,
    ) -> Result<ChunkOrigin> {
        let shard = self.shard(at.source, split, at.shard, Use::Content)?;
        let start = into.len();
        let Some(origin) = shard.append(at.chunk, into) else {
            bail!(
                "source `{}` has no chunk {} in shard {}\n  \
                 hint: the run's plan belongs to another corpus",
                self.source_name(at.source)?,
                at.chunk,
                at.shard
            );
        };
        let ids = &into[start..];
        ensure!(
            ids.len() == at.length as usize,
            "source `{}`, shard {}, chunk {}: {} tokens, planned with {}\n  \
             hint: the run's plan belongs to another corpus",
            self.source_name(at.source)?,
            at.shard,
            at.chunk,
            ids.len(),
            at.length
        );
        let vocab_size = self.manifest.tokenizer.vocab_size;
        ensure!(
            ids.iter().all(|&id| id < vocab_size),
            "source `{}`, shard {}, chunk {}: an id is not below the vocabulary's size of \
             {vocab_size}{PREPARE_AGAIN}",
            self.source_name(at.source)?,
            at.shard,
            at.chunk
        );
        Ok(origin)
    }

    fn source(&self, source: SourceIndex) -> Result<&OpenSource> {
        self.sources.get(source.0 as usize).with_context(|| {
            format!(
                "corpus `{}` has {} sources, none with number {source}",
                self.manifest.name,
                self.sources.len()
            )
        })
    }

    fn shard(
        &self,
        index: SourceIndex,
        split: SplitName,
        shard: u32,
        purpose: Use,
    ) -> Result<Arc<TokenShard>> {
        let source = self.source(index)?;
        let (described, slots) = source.split(split);
        let place = shard as usize;
        let (Some(described), Some(slot)) = (described.shards.get(place), slots.get(place)) else {
            bail!("source `{}` has no shard {shard}", source.name);
        };
        // Held while the shard is opened, so that it is checked once. Opening uses no thread pool,
        // so nothing it waits for can wait for this lock.
        let mut slot = slot.lock().expect("opening a shard does not panic");
        let about = || {
            let file = self.folder.join(&described.stored.file);
            format!("source `{}`, file {}", source.name, file.display())
        };
        let opened = match &slot.shard {
            Some(opened) => Arc::clone(opened),
            None => Arc::new(self.map(&described.stored).with_context(about)?),
        };
        if !slot.digest_known && self.wants_digest(purpose) {
            check_digest(&opened, &described.stored).with_context(about)?;
            slot.digest_known = true;
        }
        if slot.shard.is_none() {
            let mut decoded = Arc::into_inner(opened).expect("just made, and not yet shared");
            decoded.decode().with_context(about)?;
            check_counts(&decoded, described).with_context(about)?;
            slot.shard = Some(Arc::new(decoded));
        }
        Ok(Arc::clone(slot.shard.as_ref().expect("set just above")))
    }

    fn wants_digest(&self, purpose: Use) -> bool {
        match self.digest_check {
            DigestCheck::OnOpen => true,
            DigestCheck::OnFirstRead => purpose == Use::Content,
            DigestCheck::Never => false,
        }
    }

    fn map(&self, stored: &StoredFile) -> Result<TokenShard> {
        let relative = Path::new(&stored.file);
        ensure!(
            relative
                .components()
                .all(|part| matches!(part, Component::Normal(_))),
            "the manifest's path leaves the corpus folder{PREPARE_AGAIN}"
        );
        let mapped = TokenShard::map(&self.folder.join(relative))
            .with_context(|| format!("cannot open the shard{PREPARE_AGAIN}"))?;
        ensure!(
            mapped.bytes().len() as u64 == stored.bytes,
            "the file has {} bytes, the manifest says {}{PREPARE_AGAIN}",
            mapped.bytes().len(),
            stored.bytes
        );
        Ok(mapped)
    }
}

impl OpenSource {
    fn split(&self, split: SplitName) -> (&Split, &[Mutex<Slot>]) {
        match split {
            SplitName::Train => (&self.source.train, &self.train),
            SplitName::HeldOut => (&self.source.held_out, &self.held_out),
        }
    }
}

/// What a shard is opened for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    Lengths,
    Content,
}

fn check_digest(shard: &TokenShard, stored: &StoredFile) -> Result<()> {
    let found = blake3::hash(shard.bytes()).to_hex();
    ensure!(
        found.as_str() == stored.digest,
        "the file's digest is {found}, the manifest says {}{PREPARE_AGAIN}",
        stored.digest
    );
    Ok(())
}

fn check_counts(shard: &TokenShard, described: &Shard) -> Result<()> {
    let counts = shard.counts();
    for (what, found, expected) in [
        ("chunks", counts.chunks, described.chunks),
        ("tokens", counts.tokens, described.tokens),
        ("documents", counts.documents, described.documents),
    ] {
        ensure!(
            found == expected,
            "the file has {found} {what}, the manifest says {expected}{PREPARE_AGAIN}"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests;
