//! The lengths of a split's chunks, from the file that stands beside its shards.

use std::io::Cursor;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use arrow_array::UInt16Array;
use arrow_array::cast::AsArray;
use arrow_ipc::reader::FileReader;

use crate::corpus::Split;
use crate::data::PREPARE_AGAIN;
use crate::data::files::Files;

/// Tokens of every chunk, shard by shard; checked against what the manifest says of each shard.
pub(super) fn read(files: &Files, split: &Split) -> Result<Vec<Arc<[u16]>>> {
    let Some(stored) = &split.lengths else {
        ensure!(
            split.shards.is_empty(),
            "the manifest names no file of lengths{PREPARE_AGAIN}"
        );
        return Ok(Vec::new());
    };
    decode(files.read_checked(stored)?, split)
        .with_context(|| format!("file {}", files.name_of(&stored.file)))
}

fn decode(bytes: Vec<u8>, split: &Split) -> Result<Vec<Arc<[u16]>>> {
    let mut shards = Vec::with_capacity(split.shards.len());
    for batch in FileReader::try_new(Cursor::new(bytes), None)? {
        let batch = batch?;
        let column: &UInt16Array = batch
            .column_by_name("length")
            .and_then(|column| column.as_primitive_opt())
            .with_context(|| format!("there is no uint16 column `length`{PREPARE_AGAIN}"))?;
        shards.push(Arc::from(&column.values()[..]));
    }
    let sums = |lengths: &Arc<[u16]>| -> (u64, u64) {
        let tokens = lengths.iter().map(|&length| u64::from(length)).sum();
        (lengths.len() as u64, tokens)
    };
    let described = split
        .shards
        .iter()
        .map(|shard| (shard.chunks, shard.tokens));
    ensure!(
        shards.iter().map(sums).eq(described),
        "the lengths are not those of the manifest's shards{PREPARE_AGAIN}"
    );
    Ok(shards)
}
