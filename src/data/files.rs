//! The files of a corpus, wherever they are: in a folder, or in object storage behind a cache.
//!
//! Invariant: what is handed out as checked has the manifest's size and digest. A file in a folder
//! is hashed when this process first opens it; one of the cache when this process downloads it, or
//! else when it first opens it, and then a bad one is fetched again.

use std::fs::{self, File};
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::corpus::StoredFile;
use crate::data::PREPARE_AGAIN;
use crate::data::location::CorpusLocation;
use crate::data::remote::{Obtained, Remote, UPLOAD_AGAIN};
use crate::data::shard::TokenShard;
use crate::store::backend::Credentials;
use crate::store::reader::Described;

#[derive(Debug)]
pub(super) enum Files {
    Folder(PathBuf),
    Remote(Box<Remote>),
}

impl Files {
    pub(super) fn open(location: &CorpusLocation, credentials: &Credentials) -> Result<Self> {
        Ok(match location {
            CorpusLocation::Folder(folder) => Self::Folder(folder.clone()),
            CorpusLocation::Store(store) => {
                Self::Remote(Box::new(Remote::open(store, credentials)?))
            }
        })
    }

    /// The corpus's address for messages.
    pub(super) fn address(&self) -> String {
        match self {
            Self::Folder(folder) => folder.display().to_string(),
            Self::Remote(remote) => remote.address().to_owned(),
        }
    }

    /// A file's address for messages.
    pub(super) fn name_of(&self, file: &str) -> String {
        match self {
            Self::Folder(folder) => folder.join(file).display().to_string(),
            Self::Remote(remote) => remote.url(file),
        }
    }

    /// A file that the manifest does not describe, as it is.
    pub(super) fn read(&self, file: &str) -> Result<Vec<u8>> {
        match self {
            Self::Folder(folder) => Ok(fs::read(folder.join(file))?),
            Self::Remote(remote) => Ok(remote.read(file)?.into()),
        }
    }

    /// One of the smaller files that the manifest describes.
    pub(super) fn read_checked(&self, stored: &StoredFile) -> Result<Vec<u8>> {
        let context = || format!("file {}", self.name_of(&stored.file));
        match self {
            Self::Folder(folder) => {
                let path = path_of(folder, stored)?;
                let bytes = fs::read(&path)
                    .with_context(|| format!("cannot read {}{PREPARE_AGAIN}", path.display()))?;
                expect_content(&bytes, stored).with_context(context)?;
                Ok(bytes)
            }
            Self::Remote(_) => {
                let shard = self.open_mapped(stored, false).with_context(context)?;
                Ok(shard.bytes().to_vec())
            }
        }
    }

    /// Maps a file that the manifest describes; `checked` where this process has hashed it before.
    pub(super) fn open_mapped(&self, stored: &StoredFile, checked: bool) -> Result<TokenShard> {
        let remote = match self {
            Self::Folder(folder) => {
                let shard = File::open(path_of(folder, stored)?)
                    .map_err(anyhow::Error::from)
                    .and_then(|file| TokenShard::map(&file))
                    .with_context(|| cannot_open(stored))?;
                if checked {
                    expect_size(shard.bytes().len() as u64, stored)?;
                } else {
                    expect_content(shard.bytes(), stored)?;
                }
                return Ok(shard);
            }
            Self::Remote(remote) => remote,
        };
        let Obtained { file, checked: new } = remote.obtain(stored, None)?;
        let shard = TokenShard::map(&file)?;
        if checked || new || expect_content(shard.bytes(), stored).is_ok() {
            return Ok(shard);
        }
        tracing::warn!(
            file = stored.file,
            digest = stored.digest,
            "damaged in the cache, fetched again"
        );
        let Obtained { file, checked: new } = remote.obtain(stored, Some(file))?;
        let shard = TokenShard::map(&file)?;
        if !new {
            expect_content(shard.bytes(), stored)
                .context("damaged in the cache, twice; its disk may be failing")?;
        }
        Ok(shard)
    }

    /// Every object of the corpus, for [`Files::size`]; nothing for a folder.
    pub(super) fn list(&self) -> Result<Vec<Described>> {
        match self {
            Self::Folder(_) => Ok(Vec::new()),
            Self::Remote(remote) => remote.list(),
        }
    }

    /// The size of a file that the manifest describes, read of nothing but its folder.
    pub(super) fn size(&self, listed: &[Described], stored: &StoredFile) -> Result<u64> {
        match self {
            Self::Folder(folder) => {
                let found =
                    fs::metadata(path_of(folder, stored)?).with_context(|| cannot_open(stored))?;
                Ok(found.len())
            }
            Self::Remote(_) => {
                let place = listed.binary_search_by(|object| object.key.cmp(&stored.file));
                let place = place.ok().with_context(|| {
                    format!(
                        "there is no such object, of digest {}{UPLOAD_AGAIN}",
                        stored.digest
                    )
                })?;
                Ok(listed[place].bytes)
            }
        }
    }

    /// Sets what is downloaded in the background, most urgent first.
    pub(super) fn expect(&self, wishes: Vec<StoredFile>) {
        if let Self::Remote(remote) = self {
            remote.expect(wishes);
        }
    }

    /// Bytes that have been fetched so far; for a folder, none are.
    pub(super) fn received_bytes(&self) -> u64 {
        match self {
            Self::Folder(_) => 0,
            Self::Remote(remote) => remote.received_bytes(),
        }
    }

    /// Bytes that the cache may hold; nothing for a folder, which needs none.
    pub(super) fn cache_bytes(&self) -> Option<u64> {
        match self {
            Self::Folder(_) => None,
            Self::Remote(remote) => Some(remote.cache_bytes()),
        }
    }
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

fn cannot_open(stored: &StoredFile) -> String {
    let digest = &stored.digest;
    format!("cannot open the shard of digest {digest}{PREPARE_AGAIN}")
}

pub(super) fn expect_size(found: u64, stored: &StoredFile) -> Result<()> {
    ensure!(
        found == stored.bytes,
        "the file has {found} bytes, the manifest says {} (digest {}){PREPARE_AGAIN}",
        stored.bytes,
        stored.digest
    );
    Ok(())
}

fn expect_content(bytes: &[u8], stored: &StoredFile) -> Result<()> {
    expect_size(bytes.len() as u64, stored)?;
    let found = blake3::hash(bytes).to_hex();
    ensure!(
        found.as_str() == stored.digest,
        "the file's digest is {found}, the manifest says {}\n  \
         hint: delete the file, then run cohort prepare again",
        stored.digest
    );
    Ok(())
}
