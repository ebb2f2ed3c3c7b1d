//! What a Parquet file is read from: a file, or an object.

use std::fs::File;
use std::io::{self, Read};
use std::sync::Arc;

use bytes::Bytes;
use parquet::errors::{ParquetError, Result};
use parquet::file::reader::{ChunkReader, Length};

use crate::prepare::objects::ObjectBlocks;

pub enum ParquetInput {
    File(File),
    Object(Arc<ObjectBlocks>),
}

/// Goes on from a place in an object.
struct From {
    blocks: Arc<ObjectBlocks>,
    at: u64,
}

impl Read for From {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.blocks.read_at(self.at)?;
        let count = bytes.len().min(buffer.len());
        buffer[..count].copy_from_slice(&bytes[..count]);
        self.at += count as u64;
        Ok(count)
    }
}

impl Length for ParquetInput {
    fn len(&self) -> u64 {
        match self {
            Self::File(file) => file.len(),
            Self::Object(blocks) => blocks.bytes(),
        }
    }
}

impl ChunkReader for ParquetInput {
    type T = Box<dyn Read>;

    fn get_read(&self, start: u64) -> Result<Box<dyn Read>> {
        Ok(match self {
            Self::File(file) => Box::new(file.get_read(start)?),
            Self::Object(blocks) => Box::new(From {
                blocks: Arc::clone(blocks),
                at: start,
            }),
        })
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes> {
        match self {
            Self::File(file) => file.get_bytes(start, length),
            Self::Object(_) => {
                // Grows as bytes come: a damaged file may ask for any length.
                let mut bytes = Vec::new();
                self.get_read(start)?
                    .take(length as u64)
                    .read_to_end(&mut bytes)?;
                if bytes.len() < length {
                    return Err(ParquetError::EOF("the file ends early".to_owned()));
                }
                Ok(bytes.into())
            }
        }
    }
}
