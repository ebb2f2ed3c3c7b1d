//! Reading a prepared corpus: its manifest, its token shards, and the batches made of them.
//!
//! A plan needs the chunks' lengths alone, which have files of their own. Shards are mapped into
//! memory when a chunk of theirs is first wanted, checked against size, digest and counts in the
//! manifest, and kept as long as they are used: a corpus of terabytes opens in seconds. One in
//! object storage is read through a cache on the local disk, which is filled ahead of the plan.
//! No document text leaves here but as the ids of a batch: errors name files, sources and numbers
//! only. Invariant: what is handed out belongs to the file that the manifest describes, or there is
//! an error.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex, Once};

use anyhow::{Context, Result, bail, ensure};
use tracing::warn;

use crate::corpus::plan::{ChunkRef, PhasePlan};
use crate::corpus::{Manifest, Shard, Source, Split, StoredFile};
use crate::data::files::{Files, expect_size};
use crate::data::location::CorpusLocation;
use crate::data::open_shards::{OpenShards, ShardAt, Slot};
use crate::data::shard::TokenShard;
use crate::ids::{RowIndex, SourceIndex};
use crate::store::backend::Credentials;

pub mod batch;
pub mod blueprint;
pub mod document;
mod files;
pub mod held_out;
mod lengths;
pub mod location;
mod manifest;
mod open_shards;
pub mod prefetch;
mod remote;
pub mod shard;
pub mod unigrams;

const PREPARE_AGAIN: &str = "\n  hint: run cohort prepare again";
/// Blocks of rows whose shards are fetched before they are wanted.
const BLOCKS_AHEAD: u64 = 4;

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
    files: Files,
    manifest: Manifest,
    sources: Vec<OpenSource>,
    open: OpenShards,
    /// The phase and the block whose shards were last asked for ahead.
    foreseen: Mutex<Option<(u32, u64)>>,
    small_cache: Once,
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
    shards: Vec<Slot>,
}

impl OpenSplit {
    fn new(split: &Split) -> Self {
        Self {
            lengths: Mutex::default(),
            shards: split.shards.iter().map(|_| Slot::default()).collect(),
        }
    }
}

impl Corpus {
    /// Reads the manifest of a corpus in a folder; opens no shard yet.
    pub fn open(folder: &Path) -> Result<Self> {
        let location = CorpusLocation::Folder(folder.to_owned());
        Self::open_at(&location, &Credentials::Environment)
    }

    /// The same for a corpus anywhere.
    pub fn open_at(location: &CorpusLocation, credentials: &Credentials) -> Result<Self> {
        let files = Files::open(location, credentials)?;
        let manifest = manifest::read(&files)?;
        let mut names = BTreeSet::new();
        let mut sources = Vec::new();
        for (_, institution, source) in manifest.sources() {
            let name = institution.name_of(source);
            ensure!(
                names.insert(name.clone()),
                "corpus {}: source `{name}` is in the manifest twice{PREPARE_AGAIN}",
                files.address()
            );
            sources.push(OpenSource {
                name,
                source: source.clone(),
                train: OpenSplit::new(&source.train),
                held_out: OpenSplit::new(&source.held_out),
            });
        }
        let corpus = Self {
            open: OpenShards::new(files.cache_bytes().unwrap_or(u64::MAX)),
            files,
            manifest,
            sources,
            foreseen: Mutex::default(),
            small_cache: Once::new(),
        };
        corpus.files.expect(corpus.lengths_files());
        Ok(corpus)
    }

    fn lengths_files(&self) -> Vec<StoredFile> {
        let sources = self.sources.iter().map(|source| &source.source);
        let splits = sources.flat_map(|source| [&source.train, &source.held_out]);
        splits.filter_map(|split| split.lengths.clone()).collect()
    }

    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The corpus's folder; nothing for one in object storage.
    pub fn folder(&self) -> Option<&Path> {
        match &self.files {
            Files::Folder(folder) => Some(folder),
            Files::Remote(_) => None,
        }
    }

    /// Where the corpus is, for messages.
    pub fn address(&self) -> String {
        self.files.address()
    }

    /// Where one of its files is, for messages.
    pub fn address_of(&self, file: &str) -> String {
        self.files.name_of(file)
    }

    /// A file beside the manifest that the manifest does not describe.
    pub fn read_file(&self, file: &str) -> Result<Vec<u8>> {
        self.files
            .read(file)
            .with_context(|| format!("cannot read {}{PREPARE_AGAIN}", self.address_of(file)))
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
        let lengths = lengths::read(&self.files, described)
            .with_context(|| format!("source `{}`", source.name))?;
        *known = Some(lengths.clone());
        Ok(lengths)
    }

    /// Refuses a corpus of which a shard is missing or has another size; reads none.
    pub fn expect_complete(&self) -> Result<()> {
        let listed = self
            .files
            .list()
            .with_context(|| format!("cannot list the corpus {}", self.address()))?;
        for source in &self.sources {
            let splits = [&source.source.train, &source.source.held_out];
            for shard in splits.iter().flat_map(|split| &split.shards) {
                self.files
                    .size(&listed, &shard.stored)
                    .and_then(|found| expect_size(found, &shard.stored))
                    .with_context(|| self.about(source, &shard.stored))?;
            }
        }
        Ok(())
    }

    /// Bytes that have been fetched from object storage so far: while they grow, a wait for data is
    /// slow and not stuck.
    pub fn received_bytes(&self) -> u64 {
        self.files.received_bytes()
    }

    /// Says that rows from `row` on are about to be read, so that a corpus in object storage
    /// fetches the shards of that row's block and of the next ones in the background.
    pub fn foresee(&self, plan: &PhasePlan, row: RowIndex) {
        let Some(cache_bytes) = self.files.cache_bytes() else {
            return;
        };
        let block = plan.block_at(row);
        let now = Some((plan.phase(), block));
        {
            let mut foreseen = self
                .foreseen
                .lock()
                .expect("nothing panics while it holds it");
            if *foreseen == now {
                return;
            }
            *foreseen = now;
        }
        let mut seen = BTreeSet::new();
        let mut wishes: Vec<StoredFile> = Vec::new();
        let mut bytes = 0;
        'ahead: for ahead in block..=block + BLOCKS_AHEAD {
            for (source, shard) in plan.shards(ahead) {
                let stored = self.stored(source, SplitName::Train, shard);
                let Some(stored) = stored.filter(|_| seen.insert((source, shard))) else {
                    continue;
                };
                bytes += stored.bytes;
                // What comes later must not push out of the cache what is read now.
                if ahead > block && bytes > cache_bytes / 2 {
                    break 'ahead;
                }
                wishes.push(stored.clone());
            }
            if ahead == block && bytes > cache_bytes {
                self.tell_once_of_a_small_cache(bytes, cache_bytes);
            }
        }
        self.files.expect(wishes);
    }

    fn tell_once_of_a_small_cache(&self, needed_bytes: u64, cache_bytes: u64) {
        self.small_cache.call_once(|| {
            warn!(
                needed_bytes,
                cache_bytes,
                "the rows of one block lie in more shards than the cache holds, so that shards are \
                 fetched again and again; raise `cache_bytes` of `corpus`"
            );
        });
    }

    /// The same for some chunks of any split.
    pub fn foresee_chunks(&self, split: SplitName, chunks: impl Iterator<Item = ChunkRef>) {
        let shards: BTreeSet<(SourceIndex, u32)> =
            chunks.map(|chunk| (chunk.source, chunk.shard)).collect();
        let stored = shards
            .into_iter()
            .filter_map(|(source, shard)| self.stored(source, split, shard).cloned());
        self.files.expect(stored.collect());
    }

    fn stored(&self, source: SourceIndex, split: SplitName, shard: u32) -> Option<&StoredFile> {
        let (described, _) = self.sources.get(source.0 as usize)?.split(split);
        Some(&described.shards.get(shard as usize)?.stored)
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
        self.open.touch(slot);
        // Held while the shard is opened, so that it is checked once. What opening waits for, a
        // download, runs on a thread that never waits for this lock.
        let mut state = slot.state.lock().expect("opening a shard does not panic");
        if let Some(opened) = &state.shard {
            return Ok(Arc::clone(opened));
        }
        let opened = self
            .open_shard(described, state.checked)
            .with_context(|| self.about(source, &described.stored))?;
        let opened = Arc::new(opened);
        state.checked = true;
        state.shard = Some(Arc::clone(&opened));
        drop(state);
        let at = (index, split, shard);
        self.open
            .opened(at, described.stored.bytes, |at| self.slot(at));
        Ok(opened)
    }

    fn slot(&self, (source, split, shard): ShardAt) -> &Slot {
        let (_, open) = self.sources[source.0 as usize].split(split);
        &open.shards[shard as usize]
    }

    fn open_shard(&self, described: &Shard, checked: bool) -> Result<TokenShard> {
        let mut shard = self.files.open_mapped(&described.stored, checked)?;
        shard.decode()?;
        check_counts(&shard, described)?;
        Ok(shard)
    }

    fn about(&self, source: &OpenSource, stored: &StoredFile) -> String {
        let file = self.files.name_of(&stored.file);
        format!("source `{}`, file {file}", source.name)
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
