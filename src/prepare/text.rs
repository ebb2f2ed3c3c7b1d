//! From a file's bytes to text: decompressed, decoded, and never too much of it at once.
//!
//! What leaves a [`TextReader`] is valid UTF-8 without byte-order mark and without NUL characters,
//! with line ends that are `\n`; anything else ends in a [`Fault`] that names the place and never
//! the text. Memory holds two blocks, however large the file.
//!
//! [`Fault`]: crate::prepare::fault::Fault

use std::io::{self, BufRead, Cursor, Read};
use std::path::Path;
use std::sync::Arc;

use anyhow::Result;

use crate::prepare::compression::{self, Bytes, ReadCounts};
use crate::prepare::encoding::Encoding;
use crate::prepare::fault::file_error;
use crate::prepare::text::decoder::Decoder;
use crate::prepare::text::meter::Meter;

mod decoder;
pub mod line_ends;
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
    decoder: Decoder,
    /// How much of what was decoded last is handed out.
    given: usize,
    meter: Arc<Meter>,
}

impl TextFile {
    /// Opens a file for reading as text.
    pub fn open(path: Arc<Path>, opening: &Opening) -> Result<Self> {
        let input = compression::open(&path, &opening.counts)?;
        let reader = TextReader::new(Arc::clone(&path), input, opening.clone());
        Ok(Self { path, reader })
    }

    /// Reads bytes that are in memory as if they were a file; they may be compressed.
    pub fn of_bytes(path: Arc<Path>, bytes: Vec<u8>, opening: &Opening) -> Result<Self> {
        let input = compression::decompress(Cursor::new(bytes))
            .map_err(|error| file_error(&path, &error))?;
        let reader = TextReader::new(Arc::clone(&path), input, opening.clone());
        Ok(Self { path, reader })
    }

    /// The whole text.
    pub fn read_whole(mut self) -> Result<String> {
        let mut text = String::new();
        self.reader
            .read_to_string(&mut text)
            .map_err(|error| file_error(&self.path, &error))?;
        Ok(text)
    }
}

impl TextReader {
    pub fn new(path: Arc<Path>, input: Bytes, opening: Opening) -> Self {
        Self {
            input,
            decoder: Decoder::new(path, opening),
            given: 0,
            meter: Arc::default(),
        }
    }

    /// Tells where the owner of this reader stands.
    pub fn meter(&self) -> Arc<Meter> {
        Arc::clone(&self.meter)
    }

    /// Reads until there is text to hand out or the file has ended.
    fn fill(&mut self) -> io::Result<()> {
        self.given = 0;
        loop {
            let advanced = self.decoder.advance()?;
            if !self.decoder.text.is_empty() {
                return Ok(());
            }
            if advanced {
                continue;
            }
            if self.decoder.ended {
                let rest = &self.decoder.raw;
                assert!(rest.is_empty(), "at its end a text is decoded whole");
                return Ok(());
            }
            self.read_raw()?;
        }
    }

    fn read_raw(&mut self) -> io::Result<()> {
        let raw = &mut self.decoder.raw;
        let kept = raw.len();
        raw.resize(kept + READ_BYTES, 0);
        let result = self.input.read(&mut raw[kept..]);
        raw.truncate(kept + *result.as_ref().unwrap_or(&0));
        match result {
            Ok(count) => self.decoder.ended = count == 0,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

impl BufRead for TextReader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.meter.check()?;
        if self.given == self.decoder.text.len() {
            self.fill()?;
        }
        Ok(&self.decoder.text[self.given..])
    }

    fn consume(&mut self, count: usize) {
        self.meter
            .advance(&self.decoder.text[self.given..self.given + count]);
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

#[cfg(test)]
mod tests;
