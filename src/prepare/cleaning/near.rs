//! Finding the earlier documents that a document is nearly equal to.
//!
//! Signatures of kept documents lie in a file for each source, the keys of their bands in an
//! [`Index`]. A document is compared with those that share a band with it, at most
//! [`SHARING_MAX`] for each of its bands: what thousands of forms have in common does not make each
//! of them be compared with thousands. The answer depends on the documents before it alone, not on
//! where a batch or a file ends.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Error, Result};

use crate::prepare::cleaning::config::NearDuplicatesConfig;
use crate::prepare::cleaning::index::{self, Index, LIMITS, Limits};
use crate::prepare::cleaning::left::LeftFile;
use crate::prepare::cleaning::minhash::{self, Bands, PLACES, Signature};
use crate::prepare::cleaning::run::entry;
use crate::prepare::files;

/// Documents that one key of a band names; later ones are found by their other bands.
const SHARING_MAX: usize = 32;
/// A document has some twenty keys: filters for 360 million of them are for 17 million documents.
const BAND_LIMITS: Limits = Limits {
    filter_bytes: 512 << 20,
    ..LIMITS
};
const INDEX_KIND: &str = "bands";
const SIGNATURES_KIND: &str = "signatures";
const SIGNATURES_ENDING: &str = ".bin";
const SIGNATURE_BYTES: usize = 2 * PLACES;
/// A document's number has its source above these bits, and its place among the kept ones below.
const PLACE_BITS: u32 = 40;

pub struct Near {
    folder: PathBuf,
    bands: Bands,
    equal_places_min: usize,
    index: Index,
    files: BTreeMap<u32, File>,
    source: u32,
    /// Kept documents of this source whose signatures are in its file.
    stored: u64,
    batch: Batch,
}

/// What the batch at hand has added; the index is not changed while others read it.
#[derive(Default)]
struct Batch {
    signatures: Vec<Signature>,
    bands: BTreeSet<u128>,
}

/// A document beside all that were kept before its batch.
pub struct Sketch {
    signature: Box<Signature>,
    keys: Vec<u64>,
    /// For each key, the documents that have it.
    sharing: Vec<usize>,
    /// The number of the first document that it is nearly equal to.
    first: Option<u64>,
}

impl Near {
    /// Takes over what sources left in `folder`.
    pub fn open(
        config: &NearDuplicatesConfig,
        folder: &Path,
        left: &[(u32, PathBuf)],
    ) -> Result<Self> {
        let mut files = BTreeMap::new();
        let of_kind = |(_, path): &&(u32, PathBuf)| index::is_of(path, SIGNATURES_KIND);
        for (source, path) in left.iter().filter(of_kind) {
            let file = File::open(path);
            let file = file.with_context(|| format!("cannot read {}", path.display()))?;
            files.insert(*source, file);
        }
        Ok(Self {
            folder: folder.to_owned(),
            bands: Bands::for_threshold(config.threshold),
            equal_places_min: (config.threshold * PLACES as f64).ceil() as usize,
            index: Index::open(folder, INDEX_KIND, BAND_LIMITS, left)?,
            files,
            source: 0,
            stored: 0,
            batch: Batch::default(),
        })
    }

    /// Begins a source anew; what it left before is removed.
    pub fn begin_source(&mut self, source: u32) -> Result<()> {
        self.index.begin_source(source)?;
        index::remove_files(&self.folder, SIGNATURES_KIND, source)?;
        (self.source, self.stored) = (source, 0);
        self.batch = Batch::default();
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true);
        let file = options.open(self.path());
        let file = file.map_err(|error| self.cannot_write(error, 0))?;
        self.files.insert(source, file);
        Ok(())
    }

    /// Compares a text with all that were kept before this batch; nothing where it has no word.
    pub fn examine(&self, text: &str) -> Result<Option<Sketch>> {
        let Some(signature) = minhash::signature(text) else {
            return Ok(None);
        };
        let keys = self.bands.keys(&signature);
        let mut candidates = BTreeSet::new();
        let mut sharing = Vec::with_capacity(keys.len());
        for key in &keys {
            let mut count = 0;
            self.index.find(*key, |_, number| {
                candidates.insert(number);
                count += 1;
            })?;
            sharing.push(count);
        }
        let mut first = None;
        for number in candidates {
            if self.is_near(&signature, &self.read(number)?) {
                first = Some(number);
                break;
            }
        }
        Ok(Some(Sketch {
            signature: Box::new(signature),
            keys,
            sharing,
            first,
        }))
    }

    /// The source of the first document that this one is nearly equal to, those included that were
    /// kept in this batch.
    pub fn find(&self, sketch: &Sketch) -> Option<u32> {
        if let Some(number) = sketch.first {
            return Some((number >> PLACE_BITS) as u32);
        }
        let here = |key: &u64| index::recent(&self.batch.bands, *key);
        let places: BTreeSet<u64> = sketch.keys.iter().flat_map(here).collect();
        let near = places.iter().any(|number| {
            let place = number - self.number(0);
            self.is_near(&sketch.signature, &self.batch.signatures[place as usize])
        });
        near.then_some(self.source)
    }

    /// Keeps a document that none was found for.
    pub fn keep(&mut self, sketch: &Sketch) {
        let number = self.number(self.batch.signatures.len() as u64);
        self.batch.signatures.push(*sketch.signature);
        for (key, before) in sketch.keys.iter().zip(&sketch.sharing) {
            let here = index::recent(&self.batch.bands, *key).count();
            if before + here < SHARING_MAX {
                self.batch.bands.insert(entry(*key, number));
            }
        }
    }

    /// Makes the documents kept in this batch known to the next.
    pub fn end_batch(&mut self) -> Result<()> {
        let Batch { signatures, bands } = std::mem::take(&mut self.batch);
        let bytes: Vec<u8> = signatures
            .as_flattened()
            .iter()
            .flat_map(|place| place.to_le_bytes())
            .collect();
        let file = self.files.get_mut(&self.source);
        let file = file.expect("a source's file is made where it begins");
        file.write_all(&bytes)
            .map_err(|error| self.cannot_write(error, bytes.len()))?;
        self.stored += signatures.len() as u64;
        self.index.add(bands)
    }

    /// Leaves all that the current source kept in files.
    pub fn end_source(&mut self) -> Result<Vec<LeftFile>> {
        self.files[&self.source]
            .sync_all()
            .map_err(|error| self.cannot_write(error, 0))?;
        let mut left = self.index.end_source()?;
        left.push(LeftFile {
            name: signatures_file(self.source),
            bytes: self.stored * SIGNATURE_BYTES as u64,
        });
        Ok(left)
    }

    /// Where the signatures of the current source are.
    fn path(&self) -> PathBuf {
        self.folder.join(signatures_file(self.source))
    }

    /// The error of the current source's signatures, when `more` bytes were to be written.
    fn cannot_write(&self, error: io::Error, more: usize) -> Error {
        let path = self.path();
        let needed = self.stored * SIGNATURE_BYTES as u64 + more as u64;
        files::explain(&path, needed, error.into())
            .context(format!("cannot write {}", path.display()))
    }

    /// The number of a document of this batch.
    fn number(&self, place: u64) -> u64 {
        (u64::from(self.source) << PLACE_BITS) + self.stored + place
    }

    fn is_near(&self, one: &Signature, other: &Signature) -> bool {
        minhash::equal_places(one, other) >= self.equal_places_min
    }

    fn read(&self, number: u64) -> Result<Signature> {
        let source = (number >> PLACE_BITS) as u32;
        let place = number & ((1 << PLACE_BITS) - 1);
        let mut bytes = [0; SIGNATURE_BYTES];
        let file = self.files.get(&source);
        let read = file.map(|file| file.read_exact_at(&mut bytes, place * SIGNATURE_BYTES as u64));
        read.with_context(|| format!("the signatures of source {source} are gone"))?
            .with_context(|| format!("cannot read from {}", self.folder.display()))?;
        let mut signature = [0; PLACES];
        for (place, pair) in signature.iter_mut().zip(bytes.as_chunks().0) {
            *place = u16::from_le_bytes(*pair);
        }
        Ok(signature)
    }
}

fn signatures_file(source: u32) -> String {
    format!("{SIGNATURES_KIND}-{source:05}{SIGNATURES_ENDING}")
}
