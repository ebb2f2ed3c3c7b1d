//! What follows an opcode in a pickle: numbers, texts and bytes, never beyond its end.

use anyhow::{Context, Result, ensure};

use super::Machine;
use crate::model::torch_file::object::{Object, Span};

/// Longer texts are no names, and are not looked at again and again.
const TEXT_BYTES_MAX: u64 = 4096;

impl Machine {
    /// The next bytes.
    pub(super) fn take(&mut self, length: usize) -> Result<&[u8]> {
        let span = self.span(length as u64)?;
        Ok(&self.objects.bytes[span.start as usize..span.end as usize])
    }

    fn span(&mut self, length: u64) -> Result<Span> {
        let left = self.objects.bytes.len() - self.at;
        ensure!(length <= left as u64, "it ends in the middle of a value");
        let start = self.at;
        self.at += length as usize;
        Ok(start as u32..self.at as u32)
    }

    /// A little-endian number without a sign.
    pub(super) fn number(&mut self, width: usize) -> Result<u64> {
        let bytes = self.take(width)?;
        let number = bytes
            .iter()
            .rev()
            .fold(0, |number, &byte| number << 8 | u64::from(byte));
        Ok(number)
    }

    /// A little-endian integer in two's complement, after its length.
    pub(super) fn long(&mut self, width: usize) -> Result<Object> {
        let length = self.number(width)?;
        let span = self.span(length)?;
        let bytes = &self.objects.bytes[span.start as usize..span.end as usize];
        let Some(last) = bytes.last() else {
            return Ok(Object::Integer(0));
        };
        if bytes.len() > size_of::<i64>() {
            return Ok(Object::BigInteger);
        }
        let sign = if last & 0x80 == 0 { 0 } else { -1_i64 };
        let number = bytes
            .iter()
            .rev()
            .fold(sign, |number, &byte| number << 8 | i64::from(byte));
        Ok(Object::Integer(number))
    }

    /// UTF-8 after its length. Python lets halves of surrogate pairs through: bytes to us, as is
    /// what is too long for a name.
    pub(super) fn string(&mut self, width: usize) -> Result<Object> {
        let length = self.number(width)?;
        let span = self.span(length)?;
        Ok(if length <= TEXT_BYTES_MAX && self.is_text(&span) {
            Object::Text(span)
        } else {
            Object::Bytes
        })
    }

    pub(super) fn bytes(&mut self, width: usize) -> Result<Object> {
        let length = self.number(width)?;
        self.span(length)?;
        Ok(Object::Bytes)
    }

    /// UTF-8 up to the end of the line.
    pub(super) fn line(&mut self) -> Result<Span> {
        let rest = &self.objects.bytes[self.at..];
        let length = rest.iter().position(|&byte| byte == b'\n');
        let length = length.context("a name has no end")? as u64;
        ensure!(length <= TEXT_BYTES_MAX, "a name is too long");
        let span = self.span(length)?;
        self.at += 1;
        ensure!(self.is_text(&span), "a name is no UTF-8");
        Ok(span)
    }

    fn is_text(&self, span: &Span) -> bool {
        let bytes = &self.objects.bytes[span.start as usize..span.end as usize];
        std::str::from_utf8(bytes).is_ok()
    }
}
