//! From a file's bytes to text: decompression by magic number, decoding by byte-order mark.
//!
//! What leaves a [`TextReader`] is valid UTF-8 without byte-order mark and without NUL characters;
//! anything else ends in a [`Fault`] that names the place and never the text. UTF-16 is recognized
//! by its mark alone: guessing an encoding would corrupt notes silently.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Error, Result, anyhow};
use thiserror::Error as ThisError;

const READ_BYTES: usize = 128 << 10;
const GZIP_MAGIC: &[u8] = &[0x1f, 0x8b];
const ZSTD_MAGIC: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];

/// Why a file is no text. Travels inside an [`io::Error`] through the parsers above.
#[derive(Debug, ThisError, PartialEq, Eq)]
pub enum Fault {
    #[error(
        "line {line}, byte {byte}: not valid {encoding}\n  hint: convert the file to UTF-8, for \
         example with iconv"
    )]
    Encoding {
        encoding: &'static str,
        line: u64,
        byte: u64,
    },
    #[error(
        "line {line}, byte {byte}: a NUL character\n  hint: UTF-16 needs a byte-order mark; \
         otherwise this is no text file"
    )]
    Nul { line: u64, byte: u64 },
    #[error("the {format} data ends early\n  hint: the file is incomplete; copy it again")]
    EndsEarly { format: &'static str },
    #[error("the {format} data is damaged\n  hint: copy the file again")]
    Damaged { format: &'static str },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Encoding {
    Utf8,
    Utf16Little,
    Utf16Big,
}

/// Streams one file as valid UTF-8.
pub struct TextReader {
    input: Box<dyn Read + Send>,
    compression: Option<&'static str>,
    encoding: Option<Encoding>,
    /// Bytes read and not yet decoded: less than one character between calls.
    raw: Vec<u8>,
    ended: bool,
    /// Decoded text, handed out up to `given`.
    text: Vec<u8>,
    given: usize,
    /// Line of the first byte of `raw`, from 1, and its place in the decompressed file, from 0.
    line: u64,
    byte: u64,
}

/// Opens a file for reading as text; `bytes_read` counts the bytes taken from the file itself.
pub fn open(path: &Path, bytes_read: &Arc<AtomicU64>) -> Result<TextReader> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let counted = Counted {
        file,
        bytes_read: Arc::clone(bytes_read),
    };
    let mut buffered = BufReader::with_capacity(READ_BYTES, counted);
    let start = buffered
        .fill_buf()
        .map_err(|error| file_error(path, error))?;
    if start.starts_with(GZIP_MAGIC) {
        let input = flate2::bufread::MultiGzDecoder::new(buffered);
        return Ok(TextReader::new(Box::new(input), Some("gzip")));
    }
    if start.starts_with(ZSTD_MAGIC) {
        let input = zstd::stream::read::Decoder::with_buffer(buffered)
            .map_err(|error| file_error(path, error))?;
        return Ok(TextReader::new(Box::new(input), Some("zstd")));
    }
    Ok(TextReader::new(Box::new(buffered), None))
}

/// Names the file in an error of its reader.
pub fn file_error(path: &Path, error: io::Error) -> Error {
    match error.downcast::<Fault>() {
        Ok(fault @ (Fault::Encoding { .. } | Fault::Nul { .. })) => {
            anyhow!("{}, {fault}", path.display())
        }
        Ok(fault) => anyhow!("{}: {fault}", path.display()),
        Err(other) => anyhow!("cannot read {}: {other}", path.display()),
    }
}

/// Line ends as `\n`, whatever system the text came from.
pub fn normalize_line_ends(text: String) -> String {
    if text.contains('\r') {
        text.replace("\r\n", "\n").replace('\r', "\n")
    } else {
        text
    }
}

impl TextReader {
    fn new(input: Box<dyn Read + Send>, compression: Option<&'static str>) -> Self {
        Self {
            input,
            compression,
            encoding: None,
            raw: Vec::new(),
            ended: false,
            text: Vec::new(),
            given: 0,
            line: 1,
            byte: 0,
        }
    }

    /// Reads until there is text to hand out or the file has ended.
    fn fill(&mut self) -> io::Result<()> {
        self.text.clear();
        self.given = 0;
        while self.text.is_empty() && !self.ended {
            self.read_raw()?;
            if self.encoding.is_none() {
                if self.raw.len() < 3 && !self.ended {
                    continue;
                }
                self.recognize_mark();
            }
            let decoded = match self.encoding.unwrap_or(Encoding::Utf8) {
                Encoding::Utf8 => self.decode_utf8()?,
                Encoding::Utf16Little => self.decode_utf16("UTF-16", u16::from_le_bytes)?,
                Encoding::Utf16Big => self.decode_utf16("UTF-16", u16::from_be_bytes)?,
            };
            if let Some(at) = self.text.iter().position(|byte| *byte == 0) {
                let line = self.line + newlines(&self.text[..at]);
                return Err(io::Error::other(Fault::Nul {
                    line,
                    byte: self.byte + at as u64,
                }));
            }
            self.line += newlines(&self.text);
            self.byte += decoded as u64;
            self.raw.drain(..decoded);
        }
        Ok(())
    }

    fn read_raw(&mut self) -> io::Result<()> {
        let kept = self.raw.len();
        self.raw.resize(kept + READ_BYTES, 0);
        let result = self.input.read(&mut self.raw[kept..]);
        let count = match (result, self.compression) {
            (Ok(count), _) => count,
            (Err(error), _) if error.kind() == io::ErrorKind::Interrupted => {
                self.raw.truncate(kept);
                return Ok(());
            }
            (Err(error), None) => return Err(error),
            (Err(error), Some(format)) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(io::Error::other(Fault::EndsEarly { format }));
            }
            (Err(_), Some(format)) => return Err(io::Error::other(Fault::Damaged { format })),
        };
        self.raw.truncate(kept + count);
        self.ended = count == 0;
        Ok(())
    }

    fn recognize_mark(&mut self) {
        let (encoding, mark) = match self.raw.as_slice() {
            [0xef, 0xbb, 0xbf, ..] => (Encoding::Utf8, 3),
            [0xff, 0xfe, ..] => (Encoding::Utf16Little, 2),
            [0xfe, 0xff, ..] => (Encoding::Utf16Big, 2),
            _ => (Encoding::Utf8, 0),
        };
        self.encoding = Some(encoding);
        self.raw.drain(..mark);
        self.byte += mark as u64;
    }

    /// Moves whole characters from `raw` to `text`; returns the bytes they took.
    fn decode_utf8(&mut self) -> io::Result<usize> {
        let valid = match std::str::from_utf8(&self.raw) {
            Ok(text) => text.len(),
            Err(error) if error.error_len().is_none() && !self.ended => error.valid_up_to(),
            Err(error) => {
                return Err(self.fault("UTF-8", error.valid_up_to(), error.valid_up_to()));
            }
        };
        self.text.extend_from_slice(&self.raw[..valid]);
        Ok(valid)
    }

    fn decode_utf16(&mut self, name: &'static str, unit: fn([u8; 2]) -> u16) -> io::Result<usize> {
        let mut at = 0;
        let unit_at = |raw: &[u8], at: usize| Some(unit([*raw.get(at)?, *raw.get(at + 1)?]));
        while at < self.raw.len() {
            let first = unit_at(&self.raw, at);
            let second = unit_at(&self.raw, at + 2);
            let leads = first.is_some_and(|unit| (0xd800..0xdc00).contains(&unit));
            if !self.ended && (first.is_none() || (leads && second.is_none())) {
                break;
            }
            let units = first.into_iter().chain(second.filter(|_| leads));
            let Some(Ok(character)) = char::decode_utf16(units).next() else {
                return Err(self.fault(name, at, 0));
            };
            self.text
                .extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
            at += character.len_utf16() * 2;
        }
        Ok(at)
    }

    /// A decoding fault at `raw[at]`, of which `raw[..undecoded]` is not in `text` yet.
    fn fault(&self, encoding: &'static str, at: usize, undecoded: usize) -> io::Error {
        let line = self.line + newlines(&self.text) + newlines(&self.raw[..undecoded]);
        io::Error::other(Fault::Encoding {
            encoding,
            line,
            byte: self.byte + at as u64,
        })
    }
}

impl Read for TextReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.given == self.text.len() {
            self.fill()?;
        }
        let count = buffer.len().min(self.text.len() - self.given);
        buffer[..count].copy_from_slice(&self.text[self.given..self.given + count]);
        self.given += count;
        Ok(count)
    }
}

/// The line ends in `bytes`.
pub fn newlines(bytes: &[u8]) -> u64 {
    bytes.iter().map(|byte| u64::from(*byte == b'\n')).sum()
}

/// Counts what is read, for progress.
struct Counted {
    file: File,
    bytes_read: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer)?;
        self.bytes_read.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Hands out its bytes in small pieces, so that characters fall on every boundary.
    struct Trickle(Vec<u8>, usize);

    impl Read for Trickle {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let count = self.1.min(self.0.len()).min(buffer.len());
            buffer[..count].copy_from_slice(&self.0[..count]);
            self.0.drain(..count);
            Ok(count)
        }
    }

    fn decode(bytes: &[u8], piece: usize) -> Result<String, Fault> {
        let mut reader = TextReader::new(Box::new(Trickle(bytes.to_vec(), piece)), None);
        let mut text = Vec::new();
        match reader.read_to_end(&mut text) {
            Ok(_) => Ok(String::from_utf8(text).expect("the reader's promise")),
            Err(error) => Err(error.downcast::<Fault>().expect("a fault of the text")),
        }
    }

    proptest! {
        #[test]
        fn texts_survive_every_encoding(text in "[^\u{0}\u{feff}]{0,40}", piece in 1_usize..9) {
            let units: Vec<u16> = text.encode_utf16().collect();
            let little: Vec<u8> = units.iter().flat_map(|unit| unit.to_le_bytes()).collect();
            let big: Vec<u8> = units.iter().flat_map(|unit| unit.to_be_bytes()).collect();
            let marked = |mark: &[u8], rest: &[u8]| [mark, rest].concat();
            for bytes in [
                text.as_bytes().to_vec(),
                marked(&[0xef, 0xbb, 0xbf], text.as_bytes()),
                marked(&[0xff, 0xfe], &little),
                marked(&[0xfe, 0xff], &big),
            ] {
                prop_assert_eq!(decode(&bytes, piece), Ok(text.clone()));
            }
        }
    }

    #[test]
    fn faults_name_line_and_byte() {
        let utf8 = |line, byte| {
            Err(Fault::Encoding {
                encoding: "UTF-8",
                line,
                byte,
            })
        };
        let utf16 = |line, byte| {
            Err(Fault::Encoding {
                encoding: "UTF-16",
                line,
                byte,
            })
        };
        for piece in 1..9 {
            assert_eq!(decode(b"ab\ncd\nna\xefve", piece), utf8(3, 8));
            assert_eq!(decode(b"caf\xc3", piece), utf8(1, 3));
            assert_eq!(decode(b"\xff\xfea\0\n\0\0\xd8b\0", piece), utf16(2, 6));
            assert_eq!(decode(b"\xff\xfea\0b", piece), utf16(1, 4));
            assert_eq!(
                decode(b"a\nb\0", piece),
                Err(Fault::Nul { line: 2, byte: 3 })
            );
        }
    }

    #[test]
    fn line_ends_become_newlines() {
        assert_eq!(normalize_line_ends("a\r\nb\rc\n".to_owned()), "a\nb\nc\n");
    }
}
