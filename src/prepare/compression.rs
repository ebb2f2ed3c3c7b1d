//! From a file's bytes to what they are compressed from, by the magic number at the start.
//!
//! Plain, gzip, zstd and xz, each of one or several streams after each other. The memory of a
//! decoder is bounded whatever its data say.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result};
use liblzma::stream::{CONCATENATED, Stream};

use crate::prepare::fault::{Fault, file_error};

const READ_BYTES: usize = 128 << 10;
const GZIP_MAGIC: &[u8] = &[0x1f, 0x8b];
const ZSTD_MAGIC: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
const XZ_MAGIC: &[u8] = &[0xfd, b'7', b'z', b'X', b'Z', 0];
/// For the dictionary that xz data ask for; `xz -9` asks for 64 MiB.
const XZ_MEMORY_BYTES_MAX: u64 = 320 << 20;

/// What has been read from the files of a source.
#[derive(Debug, Default)]
pub struct ReadCounts {
    /// Bytes of the files as stored.
    pub bytes: AtomicU64,
    /// Files that were taken for Windows-1252 because they are no UTF-8.
    pub windows_1252_files: AtomicU64,
}

/// Bytes as they were before compression, if any.
pub type Bytes = Box<dyn Read + Send>;

/// Opens a file and undoes its compression; `counts.bytes` grows with what is read of it.
pub fn open(path: &Path, counts: &Arc<ReadCounts>) -> Result<Bytes> {
    let stored = open_buffered(path, counts)?;
    decompress(stored).map_err(|error| file_error(path, &error))
}

/// Opens a file for its bytes as they are stored.
pub fn open_stored(path: &Path, counts: &Arc<ReadCounts>) -> Result<Bytes> {
    Ok(Box::new(open_buffered(path, counts)?))
}

fn open_buffered(path: &Path, counts: &Arc<ReadCounts>) -> Result<BufReader<Counted>> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let counted = Counted {
        file,
        counts: Arc::clone(counts),
    };
    Ok(BufReader::with_capacity(READ_BYTES, counted))
}

/// Undoes the compression that the first bytes of `input` tell of. Errors in the data are
/// [`Fault`]s.
pub fn decompress(mut input: impl BufRead + Send + 'static) -> io::Result<Bytes> {
    let start = input.fill_buf()?;
    let (format, input): (_, Bytes) = if start.starts_with(GZIP_MAGIC) {
        let decoder = flate2::bufread::MultiGzDecoder::new(input);
        ("gzip", Box::new(decoder))
    } else if start.starts_with(ZSTD_MAGIC) {
        let decoder = zstd::stream::read::Decoder::with_buffer(input)?;
        ("zstd", Box::new(decoder))
    } else if start.starts_with(XZ_MAGIC) {
        let stream = Stream::new_stream_decoder(XZ_MEMORY_BYTES_MAX, CONCATENATED)?;
        let decoder = liblzma::bufread::XzDecoder::new_stream(input, stream);
        ("xz", Box::new(decoder))
    } else {
        return Ok(Box::new(input));
    };
    Ok(Box::new(Decompressor { format, input }))
}

/// Tells faults of the data from those of the disk.
struct Decompressor {
    format: &'static str,
    input: Bytes,
}

impl Read for Decompressor {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let format = self.format;
        self.input.read(buffer).map_err(|error| match error.kind() {
            io::ErrorKind::Interrupted => error,
            io::ErrorKind::UnexpectedEof => Fault::EndsEarly { format }.into(),
            _ if error.raw_os_error().is_some() => error,
            _ => Fault::Damaged { format }.into(),
        })
    }
}

/// Counts what is read, for progress.
struct Counted {
    file: File,
    counts: Arc<ReadCounts>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer)?;
        self.counts.bytes.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}
