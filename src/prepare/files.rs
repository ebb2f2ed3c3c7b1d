//! Writing files so that each is there in full or not at all.
//!
//! A file is written under a temporary name in its own folder, synced, and renamed; then the folder
//! is synced. A write that fails takes its temporary file away; a killed process leaves one, which
//! no one reads.

use std::fs::{self, File};
use std::io::{self, BufWriter, ErrorKind, Write};
use std::path::Path;

use anyhow::{Context, Error, Result, anyhow, ensure};
use blake3::Hasher;
use indicatif::HumanBytes;
use serde::{Deserialize, Serialize};

use crate::corpus::StoredFile;

/// The ending of a file that is still being written.
pub const TEMPORARY: &str = "tmp";

/// Writes `<root>/<file>`, whose folder is made where it lacks; `produce` gives the bytes.
///
/// # Errors
/// Those of the disk, and of `produce`; where there is no room, with what is needed and free.
pub fn write(
    root: &Path,
    file: &str,
    produce: impl FnOnce(&mut DigestWriter) -> Result<()>,
) -> Result<StoredFile> {
    let path = root.join(file);
    let mut needed = 0;
    write_all(&path, produce, &mut needed)
        .map(|digest| StoredFile {
            file: file.to_owned(),
            bytes: needed,
            digest,
        })
        .map_err(|error| explain(&path, needed, error))
        .with_context(|| format!("cannot write {}", path.display()))
}

/// Returns the digest; `bytes` counts what was to be written, also where that failed.
fn write_all(
    path: &Path,
    produce: impl FnOnce(&mut DigestWriter) -> Result<()>,
    bytes: &mut u64,
) -> Result<String> {
    let folder = path.parent().expect("a file in a folder has a parent");
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".{TEMPORARY}"));
    let temporary = Path::new(&temporary);
    fs::create_dir_all(folder)?;
    let mut writer = DigestWriter {
        output: BufWriter::new(File::create(temporary)?),
        hasher: Hasher::new(),
        bytes: 0,
    };
    let produced = produce(&mut writer);
    *bytes = writer.bytes;
    let digest = writer.hasher.finalize().to_hex().to_string();
    // Taken apart, so that a buffer that failed once is not written again when it is dropped.
    let (file, buffered) = writer.output.into_parts();
    let written = produced.and_then(|()| {
        let rest = buffered.expect("a buffer that never panicked is whole");
        (&file).write_all(&rest)?;
        Ok(file.sync_all()?)
    });
    if let Err(error) = written.and_then(|()| Ok(fs::rename(temporary, path)?)) {
        // The room is wanted; the error that is told is the first one.
        let _ = fs::remove_file(temporary);
        return Err(error);
    }
    sync_folder(folder)?;
    Ok(digest)
}

/// The error of writing a file of `needed` bytes, in other words where it found no room.
pub fn explain(path: &Path, needed: u64, error: Error) -> Error {
    without_room(path, needed).explain(error)
}

/// What to say where a file finds no room.
struct WithoutRoom {
    needed: u64,
    free: Option<u64>,
}

fn without_room(path: &Path, needed: u64) -> WithoutRoom {
    let folder = path.ancestors().skip(1).find(|folder| folder.is_dir());
    let system = folder.and_then(|folder| rustix::fs::statvfs(folder).ok());
    let free = system.map(|system| system.f_bavail.saturating_mul(system.f_frsize));
    WithoutRoom { needed, free }
}

impl WithoutRoom {
    fn explain(&self, error: Error) -> Error {
        let kind = |cause: &(dyn std::error::Error + 'static)| {
            Some(cause.downcast_ref::<io::Error>()?.kind())
        };
        let (what, remedy) = match error.chain().find_map(kind) {
            Some(ErrorKind::StorageFull) => ("the disk is full", "make room"),
            Some(ErrorKind::QuotaExceeded) => ("the quota is used up", "make room or raise it"),
            Some(ErrorKind::FileTooLarge) => {
                ("files may not become that large here", "raise the limit")
            }
            _ => return error,
        };
        let free = self.free.map_or_else(String::new, |free| {
            format!(", {} are free on the disk", HumanBytes(free))
        });
        anyhow!(
            "{what}; the file needs at least {}{free}\n  hint: {remedy} and run the same command \
             again; it goes on from the shards that are finished",
            HumanBytes(self.needed)
        )
    }
}

/// Writes a value as pretty JSON.
pub fn write_json<T: Serialize>(root: &Path, file: &str, value: &T) -> Result<StoredFile> {
    let mut json = serde_json::to_vec_pretty(value).context("cannot write JSON")?;
    json.push(b'\n');
    write(root, file, |output| Ok(output.write_all(&json)?))
}

pub fn read_json<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<T> {
    Ok(serde_json::from_slice(&fs::read(path)?)?)
}

/// Whether a file is there with its size; looks at no byte of it.
pub fn has_size(root: &Path, stored: &StoredFile) -> bool {
    fs::metadata(root.join(&stored.file)).is_ok_and(|found| found.len() == stored.bytes)
}

/// Reads a file to see whether it is the one that was written.
///
/// # Errors
/// It cannot be read, or has another size or digest.
pub fn expect(root: &Path, stored: &StoredFile) -> Result<()> {
    let path = root.join(&stored.file);
    let check = || {
        let mut hasher = Hasher::new();
        hasher.update_reader(File::open(&path)?)?;
        let digest = hasher.finalize().to_hex();
        ensure!(
            hasher.count() == stored.bytes && digest.as_str() == stored.digest,
            "it is not as it was written"
        );
        Ok(())
    };
    check().with_context(|| path.display().to_string())
}

/// Removes a file; it is no error that there is none.
pub fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(anyhow!("cannot remove {}: {error}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Makes renames and removals in a folder last through a power cut.
pub fn sync_folder(folder: &Path) -> Result<()> {
    File::open(folder)
        .and_then(|opened| opened.sync_all())
        .with_context(|| format!("cannot sync the folder {}", folder.display()))
}

/// Counts and hashes what passes through it.
pub struct DigestWriter {
    output: BufWriter<File>,
    hasher: Hasher,
    bytes: u64,
}

impl Write for DigestWriter {
    /// Takes all of the buffer, so that `bytes` counts also what finds no room.
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.bytes += buffer.len() as u64;
        self.output.write_all(buffer)?;
        self.hasher.update(buffer);
        Ok(buffer.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }
}
