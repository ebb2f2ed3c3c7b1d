//! From a file's bytes, as they come, to text.
//!
//! The bytes of a character may come in two pieces; what is decoded holds whole characters. Faults
//! name the line of the text and the byte of the file, which is no place in the text: line ends are
//! normalized here.

use std::path::Path;
use std::sync::Arc;

use crate::prepare::encoding::{self, Decoding, START_BYTES, Sequence};
use crate::prepare::fault::Fault;
use crate::prepare::text::Opening;
use crate::prepare::text::line_ends::LineEnds;
use crate::prepare::text::meter::newlines;

/// Decodes one file.
pub struct Decoder {
    path: Arc<Path>,
    opening: Opening,
    decoding: Option<Decoding>,
    /// Bytes read and not yet decoded: less than one character between calls.
    pub raw: Vec<u8>,
    /// Whether no bytes come after those.
    pub ended: bool,
    /// Whether a control character stands in what was decoded.
    binary: bool,
    /// What was decoded last.
    pub text: Vec<u8>,
    line_ends: LineEnds,
    /// Line of the first byte of `raw`, from 1, and its place in the decompressed file, from 0.
    line: u64,
    byte: u64,
}

impl Decoder {
    pub fn new(path: Arc<Path>, opening: Opening) -> Self {
        Self {
            path,
            opening,
            decoding: None,
            raw: Vec::new(),
            ended: false,
            binary: false,
            text: Vec::new(),
            line_ends: LineEnds::default(),
            line: 1,
            byte: 0,
        }
    }

    /// Puts what can be decoded of `raw` into `text`, with its line ends normalized. False where
    /// more bytes must come first.
    pub fn advance(&mut self) -> Result<bool, Fault> {
        self.text.clear();
        let before = (self.raw.len(), self.decoding);
        let decoded = self.decode()?;
        if let Some(at) = self.text.iter().position(|byte| *byte == 0) {
            return Err(self.nul(at));
        }
        self.line_ends.normalize(&mut self.text);
        self.line += newlines(&self.text);
        self.byte += decoded as u64;
        self.raw.drain(..decoded);
        Ok(before != (self.raw.len(), self.decoding))
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
                self.opening.counts.windows_1252.add(&self.path);
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
    fn nul(&mut self, at: usize) -> Fault {
        let mut before: Vec<u8> = self.text.drain(..).take(at).collect();
        self.line_ends.normalize(&mut before);
        Fault::Nul {
            line: self.line + newlines(&before),
            byte: self.byte + at as u64,
        }
    }
}

/// Whether a character of Windows-1252 may stand where `other` would stand in UTF-8.
fn is_plain(character: char, other: Option<Sequence>) -> bool {
    let contradicted =
        matches!(other, Some(Sequence::Valid(other)) if encoding::contradicts_windows_1252(other));
    character != '\0' && !contradicted
}
