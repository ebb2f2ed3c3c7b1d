//! From a file's bytes to what they are compressed from, by the magic number at the start.
//!
//! Plain, gzip, zstd and xz, each of one or several streams after each other. The memory of a
//! decoder is bounded whatever its data say; data that ask for more are told from damaged ones.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use anyhow::{Context, Result};
use liblzma::stream::{self, CONCATENATED, Stream};

use crate::prepare::compression::gzip::Gzip;
use crate::prepare::fault::{Fault, file_error};
use crate::prepare::inputs::InputFile;
use crate::prepare::objects::ObjectInput;
use crate::store::error::StoreError;

mod gzip;

const READ_BYTES: usize = 128 << 10;
const GZIP_MAGIC: &[u8] = &[0x1f, 0x8b];
const ZSTD_MAGIC: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
const XZ_MAGIC: &[u8] = &[0xfd, b'7', b'z', b'X', b'Z', 0];
/// The first byte of a frame that zstd passes over counts up to 0x5f (RFC 8878, 3.1.2); pzstd puts
/// one before each of its frames.
const ZSTD_SKIPPABLE_MAGIC: (u8, &[u8]) = (0x50, &[0x2a, 0x4d, 0x18]);
/// What the library says of a window beyond its limit, 128 MiB; it passes no code on.
const ZSTD_TOO_LARGE: &str = "Frame requires too much memory for decoding";
/// For the dictionary that xz data ask for; `xz -9` asks for 64 MiB.
const XZ_MEMORY_BYTES_MAX: u64 = 320 << 20;

/// What has been read from the files of a source.
#[derive(Debug, Default)]
pub struct ReadCounts {
    /// Bytes of the files as stored.
    pub bytes: AtomicU64,
    /// Files that were taken for Windows-1252 because they are no UTF-8.
    pub windows_1252: Guessed,
    /// How to open those of the source's files that are objects.
    objects: OnceLock<BTreeMap<PathBuf, Arc<ObjectInput>>>,
}

/// Files of which something was guessed.
#[derive(Debug, Default)]
pub struct Guessed {
    count: AtomicU64,
    first: OnceLock<Arc<Path>>,
}

impl Guessed {
    pub fn add(&self, path: &Arc<Path>) {
        self.first.get_or_init(|| Arc::clone(path));
        self.count.fetch_add(1, Ordering::Relaxed);
    }

    /// The first file and the number of all, if there is any.
    pub fn told(&self) -> Option<(&Path, u64)> {
        Some((self.first.get()?, self.count.load(Ordering::Relaxed)))
    }
}

impl ReadCounts {
    /// Says which of the files that will be opened are objects.
    pub fn know(&self, files: &[InputFile]) {
        self.objects.get_or_init(|| {
            let object = |file: &InputFile| Some((file.path.clone(), file.object.clone()?));
            files.iter().filter_map(object).collect()
        });
    }

    /// The object at an address.
    pub fn object(&self, path: &Path) -> Option<&Arc<ObjectInput>> {
        self.objects.get()?.get(path)
    }
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
    let file: Bytes = match counts.object(path) {
        Some(object) => Box::new(object.open(0)),
        None => {
            Box::new(File::open(path).with_context(|| format!("cannot open {}", path.display()))?)
        }
    };
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
        ("gzip", Box::new(Gzip::new(input)))
    } else if start.starts_with(ZSTD_MAGIC) || is_skippable(start) {
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
            _ if is_of_store(&error) => error,
            _ if asks_for_memory(&error) => Fault::Memory { format }.into(),
            _ => Fault::Damaged { format }.into(),
        })
    }
}

fn is_of_store(error: &io::Error) -> bool {
    let inner = error.get_ref();
    inner.is_some_and(|inner| inner.downcast_ref::<StoreError>().is_some())
}

fn is_skippable(start: &[u8]) -> bool {
    let (first, rest) = ZSTD_SKIPPABLE_MAGIC;
    start.first().is_some_and(|byte| byte & 0xf0 == first) && start[1..].starts_with(rest)
}

fn asks_for_memory(error: &io::Error) -> bool {
    let inner = error.get_ref();
    let of_xz = inner.and_then(|inner| inner.downcast_ref::<stream::Error>());
    of_xz == Some(&stream::Error::MemLimit) || error.to_string() == ZSTD_TOO_LARGE
}

/// Counts what is read, for progress.
struct Counted {
    file: Bytes,
    counts: Arc<ReadCounts>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer)?;
        self.counts.bytes.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}
