//! The members of a tar archive that match a pattern, in the archive's order, each as if it were a
//! file.
//!
//! The archive streams, compressed or not, and members may be compressed themselves; memory holds
//! one of them. What follows the end mark of an archive is another one, as after `cat a.tar b.tar`:
//! nothing in a file is left unread. Names match as those of files do: one that begins with a dot
//! is passed over unless the pattern asks for it. Only files count, neither links nor folders. What
//! matches must not have the name of one before it: appending to an archive leaves the old versions
//! of a file in it.

use std::collections::BTreeSet;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Error, Result, anyhow};
use tar::{Archive, Entry, EntryType};

use crate::prepare::compression::{self, Bytes};
use crate::prepare::fault::{DOCUMENT_BYTES_MAX, Fault, file_error};
use crate::prepare::pattern::path_matches;
use crate::prepare::text::{Opening, TextFile};

const BLOCK_BYTES: usize = 512;
/// For the headers of one member: long names and attributes.
const HEADER_BYTES_MAX: u64 = 1 << 20;
/// The longest path that systems take.
const NAME_BYTES_MAX: usize = 4096;
/// Of the hash that stands for a name, so that memory holds many.
const NAME_HASH_BYTES: usize = 16;
/// Of the attributes that describe a sparse file, and the one with its name (GNU tar's manual,
/// "Storing Sparse Files").
const SPARSE: &[u8] = b"GNU.sparse.";
const SPARSE_NAME: &[u8] = b"GNU.sparse.name";

/// The matching members of one archive.
pub struct Members {
    path: Arc<Path>,
    pattern: String,
    opening: Opening,
    archive: Bytes,
    /// Names that matched since the last end mark.
    seen: BTreeSet<[u8; NAME_HASH_BYTES]>,
    /// Whether an end mark was the last thing read.
    marked: bool,
    ended: bool,
}

/// A member as its header tells of it, and its bytes where it matches.
struct Member {
    name: String,
    /// Bytes up to the next header that have not been read.
    left: u64,
    bytes: Option<Vec<u8>>,
}

/// Opens an archive for the members that match `pattern`.
pub fn open(path: Arc<Path>, pattern: String, opening: Opening) -> Result<Members> {
    let archive = compression::open(&path, &opening.counts)?;
    Ok(Members {
        path,
        pattern,
        opening,
        archive,
        seen: BTreeSet::new(),
        marked: false,
        ended: false,
    })
}

impl Iterator for Members {
    type Item = Result<TextFile>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.ended {
            let found = self.next_member();
            self.ended = !matches!(found, Ok(Some(_)));
            match found {
                Err(error) => return Some(Err(error)),
                Ok(Some(Member {
                    name,
                    bytes: Some(bytes),
                    ..
                })) => {
                    let path = member_path(&self.path, &name);
                    return Some(TextFile::of_bytes(path, bytes, &self.opening));
                }
                Ok(_) => {}
            }
        }
        None
    }
}

impl Members {
    /// The next member; none at the end of the archive.
    fn next_member(&mut self) -> Result<Option<Member>> {
        let mut block = [0; BLOCK_BYTES];
        // End marks, and the filling that follows them, are blocks of zeros.
        loop {
            let count = read_block(&mut self.archive, &mut block);
            let count = count.map_err(|error| file_error(&self.path, &error))?;
            let is_zero = block[..count].iter().all(|byte| *byte == 0);
            match count {
                BLOCK_BYTES if is_zero => self.marked = true,
                BLOCK_BYTES => break,
                _ if self.marked && is_zero => return Ok(None),
                _ if self.marked => return Err(self.damaged()),
                _ => return Err(self.ends_early()),
            }
        }
        if std::mem::take(&mut self.marked) {
            self.seen.clear();
        }
        let member = self.read_member(&block)?;
        let skipped = io::copy(
            &mut self.archive.by_ref().take(member.left),
            &mut io::sink(),
        )
        .map_err(|error| file_error(&self.path, &error))?;
        if skipped < member.left {
            return Err(self.ends_early());
        }
        Ok(Some(member))
    }

    /// Reads the headers that begin with `block`, and the member where it matches. An archive of
    /// its own for each member, as one for all could not be kept beside the stream it reads.
    fn read_member(&mut self, block: &[u8]) -> Result<Member> {
        let limit = DOCUMENT_BYTES_MAX + HEADER_BYTES_MAX;
        let mut archive = Archive::new(block.chain(&mut self.archive).take(limit));
        let entry = archive.entries().and_then(|mut entries| {
            let entry = entries.next().transpose()?;
            entry.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
        });
        let mut entry = match entry {
            Ok(entry) => entry,
            Err(error) => return Err(self.header_error(&error)),
        };
        let (name, is_sparse) = match describe(&mut entry) {
            Ok(described) => described,
            Err(error) => return Err(self.header_error(&error)),
        };
        if name.len() > NAME_BYTES_MAX {
            return Err(anyhow!(
                "{}: a member whose name is longer than {NAME_BYTES_MAX} bytes\n  hint: look where \
                 the archive comes from; pack it anew with shorter names",
                self.path.display()
            ));
        }
        let name = String::from_utf8_lossy(&name).into_owned();
        let kind = entry.header().entry_type();
        // Of a sparse member the entry tells the size that it would be unpacked to.
        let size = match kind {
            EntryType::GNUSparse => entry.header().entry_size().ok(),
            _ => Some(entry.size()),
        };
        let blocks = |size: u64| size.checked_next_multiple_of(BLOCK_BYTES as u64);
        let (Some(size), Some(stored)) = (size, size.and_then(blocks)) else {
            return Err(self.damaged());
        };
        let is_file = kind.is_file() || kind == EntryType::GNUSparse;
        if !is_file || !path_matches(&self.pattern, &name) {
            return Ok(Member {
                name,
                left: stored,
                bytes: None,
            });
        }
        let path = member_path(&self.path, &name);
        let is_new = self.seen.insert(name_hash(&name));
        expect_readable(&path, is_sparse, is_new)?;
        if size > DOCUMENT_BYTES_MAX {
            return Err(Fault::TooLong { line: 1 }.of(&path));
        }
        let mut bytes = Vec::new();
        let read = entry.read_to_end(&mut bytes);
        if let Err(error) = read {
            return Err(file_error(&self.path, &error));
        }
        if (bytes.len() as u64) < size {
            return Err(self.ends_early());
        }
        Ok(Member {
            name,
            left: stored - size,
            bytes: Some(bytes),
        })
    }

    fn header_error(&self, error: &io::Error) -> Error {
        match error.get_ref() {
            Some(inner) if inner.is::<Fault>() => file_error(&self.path, error),
            // The archive's own messages may repeat names.
            _ => self.damaged(),
        }
    }

    fn damaged(&self) -> Error {
        anyhow!(
            "{}: no tar archive, or a damaged one\n  hint: `members` is for archives alone; copy \
             the file again if it is one",
            self.path.display()
        )
    }

    fn ends_early(&self) -> Error {
        Fault::EndsEarly { format: "tar" }.of(&self.path)
    }
}

/// The name under which errors tell of a member; no name in an archive hides the archive's.
fn member_path(archive: &Path, name: &str) -> Arc<Path> {
    Path::new(&format!("{}/{name}", archive.display())).into()
}

/// A member's name, and whether it is stored without its zeros, which nothing here puts back.
fn describe(entry: &mut Entry<'_, impl Read>) -> io::Result<(Vec<u8>, bool)> {
    let mut name = entry.path_bytes().into_owned();
    let kind = entry.header().entry_type();
    let mut is_sparse = kind == EntryType::GNUSparse;
    if kind.is_file() {
        let attributes = entry.pax_extensions()?.into_iter().flatten();
        // Values may hold line ends, at which the library cuts them.
        for attribute in attributes.flatten() {
            is_sparse |= attribute.key_bytes().starts_with(SPARSE);
            if attribute.key_bytes() == SPARSE_NAME {
                name = attribute.value_bytes().to_vec();
            }
        }
    }
    Ok((name, is_sparse))
}

fn name_hash(name: &str) -> [u8; NAME_HASH_BYTES] {
    let mut hasher = blake3::Hasher::new();
    // As patterns see names.
    for part in name.split('/').filter(|part| !matches!(*part, "" | ".")) {
        hasher.update(part.as_bytes()).update(b"/");
    }
    let mut hash = [0; NAME_HASH_BYTES];
    hasher.finalize_xof().fill(&mut hash);
    hash
}

fn expect_readable(path: &Path, is_sparse: bool, is_new: bool) -> Result<()> {
    let (what, hint) = match (is_sparse, is_new) {
        (true, _) => (
            "stored as a sparse file, which is not read",
            "pack the archive anew, without --sparse",
        ),
        (_, false) => (
            "a second member of this name, as tar leaves them when it appends or updates",
            "unpack the archive, where the last one counts, and pack it anew",
        ),
        _ => return Ok(()),
    };
    Err(anyhow!("{}: {what}\n  hint: {hint}", path.display()))
}

/// Fills `block` as far as there are bytes; returns how many.
fn read_block(input: &mut Bytes, block: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < block.len() {
        match input.read(&mut block[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
