//! Reading a prepared corpus: its manifest, its token shards, and the batches made of them.
//!
//! A plan needs the chunks' lengths alone, which have files of their own. Shards are mapped into
//! memory when a chunk of theirs is first wanted, checked against size, digest and counts in the
//! manifest, and kept: a corpus of terabytes opens in seconds. No document text leaves here but as
//! the ids of a batch: errors name files, sources and numbers only. Invariant: what is handed out
//! belongs to the file that the manifest describes, or there is an error.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, bail, ensure};

use crate::corpus::plan::ChunkRef;
use crate::corpus::{MANIFEST_FILE, Manifest, Shard, Source, Split, StoredFile};
use crate::data::shard::TokenShard;
use crate::ids::SourceIndex;

pub mod batch;
pub mod blueprint;
pub mod document;
pub mod held_out;
mod lengths;
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
    sources: Vec<OpenSource>,
}

#[derive(Debug)]
struct OpenSource {
    name: String,
    source: Source,
    train: OpenSplit,
    held_out: OpenSplit,
}

/// What of a split has been wanted so far.
#[derive(Debug, Default)]
struct OpenSplit {
    lengths: Mutex<Option<Vec<Arc<[u16]>>>>,
    shards: Vec<Mutex<Option<Arc<TokenShard>>>>,
}

impl OpenSplit {
    fn new(split: &Split) -> Self {
        Self {
            lengths: Mutex::default(),
            shards: split.shards.iter().map(|_| Mutex::default()).collect(),
        }
    }
}

impl Corpus {
    /// Reads `<folder>/manifest.json`; opens no shard yet.
    pub fn open(folder: &Path) -> Result<Self> {
        let manifest = manifest::read(&folder.join(MANIFEST_FILE))?;
        let mut names = BTreeSet::new();
        let mut sources = Vec::new();
        for (_, institution, source) in manifest.sources() {
            let name = institution.name_of(source);
            ensure!(
                names.insert(name.clone()),
                "corpus {}: source `{name}` is in the manifest twice{PREPARE_AGAIN}",
                folder.display()
            );
            sources.push(OpenSource {
                name,
                source: source.clone(),
                train: OpenSplit::new(&source.train),
                held_out: OpenSplit::new(&source.held_out),
            });
        }
        Ok(Self {
            folder: folder.to_owned(),
            manifest,
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

    /// Tokens of every chunk of a split, shard by shard in manifest order. Opens no shard.
    pub fn lengths(&self, source: SourceIndex, split: SplitName) -> Result<Vec<Arc<[u16]>>> {
        let source = self.source(source)?;
        let (described, open) = source.split(split);
        let mut known = open.lengths.lock().expect("reading lengths does not panic");
        if let Some(lengths) = &*known {
            return Ok(lengths.clone());
        }
        let lengths = lengths::read(&self.folder, described)
            .with_context(|| format!("source `{}`", source.name))?;
        *known = Some(lengths.clone());
        Ok(lengths)
    }

    /// Refuses a corpus of which a shard is missing or has another size; reads none.
    pub fn expect_complete(&self) -> Result<()> {
        for source in &self.sources {
            let splits = [&source.source.train, &source.source.held_out];
            for shard in splits.iter().flat_map(|split| &split.shards) {
                let about = || self.about(source, &shard.stored);
                let path = path_of(&self.folder, &shard.stored).with_context(about)?;
                let metadata = std::fs::metadata(path)
                    .with_context(|| format!("cannot open the shard{PREPARE_AGAIN}"))
                    .with_context(about)?;
                expect_size(metadata.len(), &shard.stored).with_context(about)?;
            }
        }
        Ok(())
    }

    /// Appends the ids of a chunk to `into`, all below the vocabulary's size.
    pub fn read_chunk(
        &self,
        split: SplitName,
        at: &ChunkRef,
        into: &mut Vec<u32>,
    ) -> Result<ChunkOrigin> {
        let shard = self.shard(at.source, split, at.shard)?;
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

    fn shard(&self, index: SourceIndex, split: SplitName, shard: u32) -> Result<Arc<TokenShard>> {
        let source = self.source(index)?;
        let (described, open) = source.split(split);
        let place = shard as usize;
        let (Some(described), Some(slot)) = (described.shards.get(place), open.shards.get(place))
        else {
            bail!("source `{}` has no shard {shard}", source.name);
        };
        // Held while the shard is opened, so that it is checked once. Opening uses no thread pool,
        // so nothing it waits for can wait for this lock.
        let mut slot = slot.lock().expect("opening a shard does not panic");
        if let Some(opened) = &*slot {
            return Ok(Arc::clone(opened));
        }
        let opened = self
            .open_shard(described)
            .with_context(|| self.about(source, &described.stored))?;
        Ok(Arc::clone(slot.insert(Arc::new(opened))))
    }

    fn open_shard(&self, described: &Shard) -> Result<TokenShard> {
        let path = path_of(&self.folder, &described.stored)?;
        let mut shard = TokenShard::map(&path)
            .with_context(|| format!("cannot open the shard{PREPARE_AGAIN}"))?;
        expect_content(shard.bytes(), &described.stored)?;
        shard.decode()?;
        check_counts(&shard, described)?;
        Ok(shard)
    }

    fn about(&self, source: &OpenSource, stored: &StoredFile) -> String {
        let file = self.folder.join(&stored.file);
        format!("source `{}`, file {}", source.name, file.display())
    }
}

impl OpenSource {
    fn split(&self, split: SplitName) -> (&Split, &OpenSplit) {
        match split {
            SplitName::Train => (&self.source.train, &self.train),
            SplitName::HeldOut => (&self.source.held_out, &self.held_out),
        }
    }
}

/// The bytes of one of the corpus's smaller files.
fn read_checked(folder: &Path, stored: &StoredFile) -> Result<Vec<u8>> {
    let path = path_of(folder, stored)?;
    let bytes = std::fs::read(&path)
        .with_context(|| format!("cannot read {}{PREPARE_AGAIN}", path.display()))?;
    expect_content(&bytes, stored).with_context(|| format!("file {}", path.display()))?;
    Ok(bytes)
}

fn path_of(folder: &Path, stored: &StoredFile) -> Result<PathBuf> {
    let relative = Path::new(&stored.file);
    ensure!(
        relative
            .components()
            .all(|part| matches!(part, Component::Normal(_))),
        "the manifest's path leaves the corpus folder{PREPARE_AGAIN}"
    );
    Ok(folder.join(relative))
}

fn expect_size(found: u64, stored: &StoredFile) -> Result<()> {
    ensure!(
        found == stored.bytes,
        "the file has {found} bytes, the manifest says {}{PREPARE_AGAIN}",
        stored.bytes
    );
    Ok(())
}

fn expect_content(bytes: &[u8], stored: &StoredFile) -> Result<()> {
    expect_size(bytes.len() as u64, stored)?;
    let found = blake3::hash(bytes).to_hex();
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
