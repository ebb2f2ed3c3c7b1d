//! The samples of one shard, read from its beginning to its end.
//!
//! A shard is the number of samples, where each begins and the last one ends, a description for
//! people, and the samples: four bytes for a number, the lowest first. Memory holds the places of
//! the samples and one of them. The hashes of the index are compared after the last sample; no
//! corpus is complete before that.

use std::io::Read;
use std::sync::Arc;
use std::vec;

use anyhow::{Error, Result, anyhow};

use crate::prepare::compression::{self, Bytes, ReadCounts};
use crate::prepare::fault::{DOCUMENT_BYTES_MAX, Fault, file_error};
use crate::prepare::readers::mds::hash::Check;
use crate::prepare::readers::mds::index::Shard;
use crate::prepare::readers::{At, Place};

/// Their places take 64 MiB.
const SAMPLES_MAX: u64 = 1 << 24;
const NUMBER_BYTES: u64 = 4;

/// What is left of a shard.
pub struct Samples {
    pub shard: Shard,
    input: Bytes,
    check: Check,
    /// Where the samples end that are still to come, and where the last one did.
    ends: vec::IntoIter<u32>,
    position: u32,
    /// Samples handed out.
    number: u64,
}

impl Samples {
    pub fn open(shard: Shard, counts: &Arc<ReadCounts>) -> Result<Self> {
        // The first bytes of a shard are a number, which may look like a mark of compressed data.
        let input = if shard.packed {
            compression::open(&shard.path, counts)?
        } else {
            compression::open_stored(&shard.path, counts)?
        };
        let mut samples = Self {
            check: Check::new(&shard.hashes),
            shard,
            input,
            ends: Vec::new().into_iter(),
            position: 0,
            number: 0,
        };
        samples.read_places()?;
        Ok(samples)
    }

    fn read_places(&mut self) -> Result<()> {
        let (samples, bytes) = (self.shard.samples, self.shard.bytes);
        let places_end = (samples.min(SAMPLES_MAX) + 2) * NUMBER_BYTES;
        if samples > SAMPLES_MAX || bytes > u64::from(u32::MAX) || places_end > bytes {
            return Err(self.damaged());
        }
        let count = self.read(NUMBER_BYTES)?;
        if u64::from(number(&count)) != samples {
            return Err(self.damaged());
        }
        let places = self.read(places_end - NUMBER_BYTES)?;
        let places: Vec<u32> = places.chunks_exact(4).map(number).collect();
        let first = u64::from(places[0]);
        let last = places.last().map(|last| u64::from(*last));
        if !places.is_sorted() || first < places_end || last != Some(bytes) {
            return Err(self.damaged());
        }
        let description = first - places_end;
        if description > DOCUMENT_BYTES_MAX {
            return Err(self.damaged());
        }
        self.read(description)?;
        self.position = places[0];
        self.ends = places.into_iter();
        self.ends.next();
        Ok(())
    }

    /// The next sample and where it stands; none at the end, where everything agrees.
    pub fn next_sample(&mut self) -> Result<Option<(Vec<u8>, Place)>> {
        let Some(end) = self.ends.next() else {
            return self.finish().map(|()| None);
        };
        self.number += 1;
        let place = Place {
            file: Arc::clone(&self.shard.path),
            at: At::Row(self.number),
        };
        let bytes = u64::from(end - self.position);
        self.position = end;
        if bytes > DOCUMENT_BYTES_MAX {
            return Err(anyhow!(
                "{place}: a sample of more than {} MiB\n  hint: the limit guards the memory; cut \
                 such documents",
                DOCUMENT_BYTES_MAX >> 20
            ));
        }
        Ok(Some((self.read(bytes)?, place)))
    }

    fn finish(&mut self) -> Result<()> {
        let mut more = Vec::new();
        let read = self.input.by_ref().take(1).read_to_end(&mut more);
        read.map_err(|error| file_error(&self.shard.path, &error))?;
        if !more.is_empty() {
            return Err(self.damaged());
        }
        match self.check.differing() {
            None => Ok(()),
            Some(name) => Err(anyhow!(
                "{}: its {name} is not the one in the index\n  hint: copy the shard again",
                self.shard.path.display()
            )),
        }
    }

    fn read(&mut self, count: u64) -> Result<Vec<u8>> {
        // Grows with what is there, not with what is promised.
        let mut bytes = Vec::new();
        let read = self.input.by_ref().take(count).read_to_end(&mut bytes);
        read.map_err(|error| file_error(&self.shard.path, &error))?;
        if (bytes.len() as u64) < count {
            return Err(Fault::EndsEarly { format: "MDS" }.of(&self.shard.path));
        }
        self.check.update(&bytes);
        Ok(bytes)
    }

    fn damaged(&self) -> Error {
        anyhow!(
            "{}: no MDS shard as the index describes it, or a damaged one\n  hint: copy the \
             directory again",
            self.shard.path.display()
        )
    }
}

/// The values of a sample's columns: the lengths of those that have their own, then all values.
/// None where they are not as long as the sample.
pub fn values<'a>(shard: &Shard, sample: &'a [u8]) -> Option<Vec<&'a [u8]>> {
    let mut rest = sample;
    let mut lengths = Vec::new();
    for column in &shard.columns {
        let Some(bytes) = column.bytes else {
            let (length, after) = rest.split_at_checked(NUMBER_BYTES as usize)?;
            rest = after;
            lengths.push(number(length) as usize);
            continue;
        };
        lengths.push(usize::try_from(bytes).ok()?);
    }
    let mut values = Vec::new();
    for length in lengths {
        let (value, after) = rest.split_at_checked(length)?;
        values.push(value);
        rest = after;
    }
    rest.is_empty().then_some(values)
}

/// Of the four bytes of one.
fn number(bytes: &[u8]) -> u32 {
    let mut four = [0; 4];
    four.copy_from_slice(bytes);
    u32::from_le_bytes(four)
}
