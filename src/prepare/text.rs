//! From a file's bytes to text: decompressed, decoded, and never too much of it at once.
//!
//! What leaves a [`TextReader`] is valid UTF-8 without byte-order mark and without NUL characters;
//! anything else ends in a [`Fault`] that names the place and never the text. Memory holds two
//! blocks, however large the file.

use std::io::{self, BufRead, Cursor, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::Result;

use crate::prepare::compression::{self, Bytes, ReadCounts};
use crate::prepare::encoding::{self, Decoding, Encoding, START_BYTES, Sequence};
use crate::prepare::fault::{Fault, file_error};
use crate::prepare::text::meter::{Meter, newlines};

pub mod meter;

const READ_BYTES: usize = 128 << 10;

/// How the files of a source are opened.
#[derive(Clone, Debug, Default)]
pub struct Opening {
    pub encoding: Encoding,
    pub counts: Arc<ReadCounts>,
}

/// A text with the name under which errors tell of it.
pub struct TextFile {
    pub path: Arc<Path>,
    pub reader: TextReader,
}

/// Streams one file as valid UTF-8.
pub struct TextReader {
    input: Bytes,
    opening: Opening,
    decoding: Option<Decoding>,
    /// Bytes read and not yet decoded: less than one character between calls.
    raw: Vec<u8>,
    ended: bool,
    /// Whether a control character stands in what was decoded.
    binary: bool,
    /// Decoded text, handed out up to `given`.
    text: Vec<u8>,
    given: usize,
    /// Line of the first byte of `raw`, from 1, and its place in the decompressed file, from 0.
    line: u64,
    byte: u64,
    meter: Arc<Meter>,
}

impl TextFile {
    /// Opens a file for reading as text.
    pub fn open(path: Arc<Path>, opening: &Opening) -> Result<Self> {
        let input = compression::open(&path, &opening.counts)?;
        let reader = TextReader::new(input, opening.clone());
        Ok(Self { path, reader })
    }

    /// Reads bytes that are in memory as if they were a file; they may be compressed.
    pub fn of_bytes(path: Arc<Path>, bytes: Vec<u8>, opening: &Opening) -> Result<Self> {
        let input = compression::decompress(Cursor::new(bytes))
            .map_err(|error| file_error(&path, &error))?;
        let reader = TextReader::new(input, opening.clone());
        Ok(Self { path, reader })
    }

    /// The whole text, line ends normalized.
    pub fn read_whole(mut self) -> Result<String> {
        let mut text = String::new();
        self.reader
            .read_to_string(&mut text)
            .map_err(|error| file_error(&self.path, &error))?;
        Ok(normalize_line_ends(text))
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
    pub fn new(input: Bytes, opening: Opening) -> Self {
        Self {
            input,
            opening,
            decoding: None,
            raw: Vec::new(),
            ended: false,
            binary: false,
            text: Vec::new(),
            given: 0,
            line: 1,
            byte: 0,
            meter: Arc::default(),
        }
    }

    /// Tells where the owner of this reader stands.
    pub fn meter(&self) -> Arc<Meter> {
        Arc::clone(&self.meter)
    }

    /// Reads until there is text to hand out or the file has ended.
    fn fill(&mut self) -> io::Result<()> {
        self.text.clear();
        self.given = 0;
        loop {
            let before = (self.raw.len(), self.decoding);
            let decoded = self.decode()?;
            if let Some(at) = self.text.iter().position(|byte| *byte == 0) {
                return Err(self.nul(at).into());
            }
            self.line += newlines(&self.text);
            self.byte += decoded as u64;
            self.raw.drain(..decoded);
            if !self.text.is_empty() {
                return Ok(());
            }
            if before != (self.raw.len(), self.decoding) {
                continue;
            }
            if self.ended {
                assert!(self.raw.is_empty(), "at its end a text is decoded whole");
                return Ok(());
            }
            self.read_raw()?;
        }
    }

    fn read_raw(&mut self) -> io::Result<()> {
        let kept = self.raw.len();
        self.raw.resize(kept + READ_BYTES, 0);
        let result = self.input.read(&mut self.raw[kept..]);
        self.raw.truncate(kept + *result.as_ref().unwrap_or(&0));
        match result {
            Ok(count) => self.ended = count == 0,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Moves whole characters from the start of `raw` to `text`, or finds out how that is done.
    /// Returns the bytes that are done with; none where more must be read first. What stands
    /// before a fault is handed out before it.
    fn decode(&mut self) -> Result<usize, Fault> {
        match self.decoding {
            None if self.raw.len() < START_BYTES && !self.ended => Ok(0),
            None => {
                // No more than that, or the guess would depend on how much a read gives.
                let start = &self.raw[..self.raw.len().min(START_BYTES)];
                let (decoding, mark) = encoding::recognize(start, self.opening.encoding)?;
                self.decoding = Some(decoding);
                Ok(mark)
            }
            Some(_) if self.raw.is_empty() => Ok(0),
            Some(Decoding::Open) => self.decode_ascii(),
            Some(Decoding::Utf8) => self.decode_utf8(),
            Some(Decoding::Utf16Little) => self.decode_utf16(u16::from_le_bytes),
            Some(Decoding::Utf16Big) => self.decode_utf16(u16::from_be_bytes),
            Some(Decoding::Windows1252 { guessed }) => self.decode_windows_1252(guessed),
        }
    }

    /// Up to the first byte beyond ASCII, where the choice falls.
    fn decode_ascii(&mut self) -> Result<usize, Fault> {
        let ascii = self.raw.iter().position(|byte| !byte.is_ascii());
        let ascii = ascii.unwrap_or(self.raw.len());
        let start = &self.raw[..ascii];
        if ascii > 0 {
            self.binary = self.binary || start.iter().any(|byte| encoding::is_binary(*byte));
            self.text.extend_from_slice(start);
            return Ok(ascii);
        }
        if !self.ended && encoding::first_sequence(&self.raw) == Sequence::Incomplete {
            return Ok(0);
        }
        let decoding = encoding::decide(&self.raw, self.ended);
        match decoding {
            Some(Decoding::Windows1252 { .. }) if !self.binary => {
                let files = &self.opening.counts.windows_1252_files;
                files.fetch_add(1, Ordering::Relaxed);
            }
            Some(Decoding::Utf8) => {}
            _ => return Err(self.fault("UTF-8 or Windows-1252")),
        }
        self.decoding = decoding;
        Ok(0)
    }

    fn decode_utf8(&mut self) -> Result<usize, Fault> {
        let valid = match std::str::from_utf8(&self.raw) {
            Ok(text) => text.len(),
            Err(error) if error.valid_up_to() > 0 => error.valid_up_to(),
            Err(error) if error.error_len().is_none() && !self.ended => 0,
            Err(_) => return Err(self.fault("UTF-8")),
        };
        self.text.extend_from_slice(&self.raw[..valid]);
        Ok(valid)
    }

    fn decode_utf16(&mut self, unit: fn([u8; 2]) -> u16) -> Result<usize, Fault> {
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
            match char::decode_utf16(units).next() {
                Some(Ok(character)) if character != '\0' => {
                    at += character.len_utf16() * 2;
                    self.push(character);
                }
                _ if at > 0 => break,
                Some(Ok(_)) => return Err(self.nul(0)),
                _ => return Err(self.fault("UTF-16")),
            }
        }
        Ok(at)
    }

    fn decode_windows_1252(&mut self, guessed: bool) -> Result<usize, Fault> {
        let mut at = 0;
        while at < self.raw.len() {
            let rest = &self.raw[at..];
            let doubtful = guessed && !rest[0].is_ascii();
            let other = doubtful.then(|| encoding::first_sequence(rest));
            let refused = guessed && encoding::is_binary(rest[0]);
            match (encoding::windows_1252(rest[0]), other) {
                (_, Some(Sequence::Incomplete)) if !self.ended => break,
                (Some(character), _) if is_plain(character, other) && !refused => {
                    self.push(character);
                    at += 1;
                }
                _ if at > 0 => break,
                (Some('\0'), _) => return Err(self.nul(0)),
                (Some(_), Some(Sequence::Valid(_))) => {
                    let (line, byte) = (self.line, self.byte);
                    return Err(Fault::Mixed { line, byte });
                }
                _ => return Err(self.fault("Windows-1252")),
            }
        }
        Ok(at)
    }

    fn push(&mut self, character: char) {
        let mut bytes = [0; 4];
        let encoded = character.encode_utf8(&mut bytes);
        self.text.extend_from_slice(encoded.as_bytes());
    }

    /// The first character of `raw` is none of this encoding.
    fn fault(&self, encoding: &'static str) -> Fault {
        Fault::Encoding {
            encoding,
            line: self.line,
            byte: self.byte,
        }
    }

    /// A NUL at `text[at]`, or at the start of `raw` where there is no text.
    fn nul(&self, at: usize) -> Fault {
        Fault::Nul {
            line: self.line + newlines(&self.text[..at]),
            byte: self.byte + at as u64,
        }
    }
}

impl BufRead for TextReader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.meter.check()?;
        if self.given == self.text.len() {
            self.fill()?;
        }
        Ok(&self.text[self.given..])
    }

    fn consume(&mut self, count: usize) {
        self.meter
            .advance(&self.text[self.given..self.given + count]);
        self.given += count;
    }
}

impl Read for TextReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let count = buffer.len().min(available.len());
        buffer[..count].copy_from_slice(&available[..count]);
        self.consume(count);
        Ok(count)
    }
}

/// Whether a character of Windows-1252 may stand where `other` would stand in UTF-8.
fn is_plain(character: char, other: Option<Sequence>) -> bool {
    let contradicted =
        matches!(other, Some(Sequence::Valid(other)) if encoding::in_windows_1252(other));
    character != '\0' && !contradicted
}

#[cfg(test)]
mod tests;
