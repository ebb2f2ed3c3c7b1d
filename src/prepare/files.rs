//! Writing files so that each is there in full or not at all.
//!
//! A file is written under a temporary name in its own folder, synced, and renamed; then the folder
//! is synced. A killed process leaves temporary files, which no one reads.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;

use anyhow::{Context, Result};
use blake3::Hasher;

use crate::corpus::StoredFile;

/// The ending of a file that is still being written.
pub const TEMPORARY: &str = "tmp";

/// Writes `<root>/<file>`, whose folder is made where it lacks; `produce` gives the bytes.
pub fn write(
    root: &Path,
    file: &str,
    produce: impl FnOnce(&mut DigestWriter) -> Result<()>,
) -> Result<StoredFile> {
    let path = root.join(file);
    let folder = path.parent().expect("a file in a folder has a parent");
    let temporary = folder.join(format!(
        "{}.{TEMPORARY}",
        path.file_name()
            .expect("the caller names a file")
            .to_string_lossy()
    ));
    let context = || format!("cannot write {}", path.display());
    fs::create_dir_all(folder).with_context(context)?;
    let output = File::create(&temporary).with_context(context)?;
    let mut writer = DigestWriter {
        output: BufWriter::new(output),
        hasher: Hasher::new(),
        bytes: 0,
    };
    produce(&mut writer).with_context(context)?;
    let output = writer
        .output
        .into_inner()
        .map_err(io::IntoInnerError::into_error);
    output
        .and_then(|output| output.sync_all())
        .with_context(context)?;
    fs::rename(&temporary, &path).with_context(context)?;
    sync_folder(folder)?;
    Ok(StoredFile {
        file: file.to_owned(),
        bytes: writer.bytes,
        digest: writer.hasher.finalize().to_hex().to_string(),
    })
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
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let count = self.output.write(buffer)?;
        self.hasher.update(&buffer[..count]);
        self.bytes += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }
}
