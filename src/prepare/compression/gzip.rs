//! Members of gzip one after the other, with zeros between and after them, as tapes and block
//! devices fill up with: both gzip and Python's module pass over them.

use std::io::{self, BufRead, Read};

use flate2::bufread::GzDecoder;

/// Reads all members of `input`.
pub struct Gzip<R> {
    /// None after the last member.
    member: Option<GzDecoder<R>>,
}

impl<R: BufRead> Gzip<R> {
    pub fn new(input: R) -> Self {
        Self {
            member: Some(GzDecoder::new(input)),
        }
    }
}

impl<R: BufRead> Read for Gzip<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let Some(member) = &mut self.member {
            let count = member.read(buffer)?;
            if count > 0 || buffer.is_empty() {
                return Ok(count);
            }
            if pass_zeros(member.get_mut())? {
                let input = self.member.take().map(GzDecoder::into_inner);
                self.member = input.map(GzDecoder::new);
            } else {
                self.member = None;
            }
        }
        Ok(0)
    }
}

/// Whether anything comes after the zeros.
fn pass_zeros(input: &mut impl BufRead) -> io::Result<bool> {
    loop {
        let bytes = match input.fill_buf() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            bytes => bytes?,
        };
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
        let (is_end, is_more) = (bytes.is_empty(), zeros < bytes.len());
        input.consume(zeros);
        if is_end || is_more {
            return Ok(is_more);
        }
    }
}
