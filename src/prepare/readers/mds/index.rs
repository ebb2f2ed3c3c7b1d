//! `index.json` of an MDS directory: which shards there are, and what stands in them.
//!
//! The directory is a folder, or the address of one. An index may name shards in folders below its
//! own, as one that was merged from several does, and nothing outside. A shard may be there
//! compressed, as it was written, or decompressed since.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::{Component, Path, PathBuf};
use std::slice;
use std::sync::Arc;

use anyhow::{Context, Error, Result, anyhow};
use serde::Deserialize;

use crate::prepare::compression::{self, ReadCounts};
use crate::prepare::config::readers::MdsConfig;
use crate::prepare::fault::file_error;
use crate::prepare::inputs::{InputFile, NothingThere, Places};

pub const INDEX_FILE: &str = "index.json";
/// Some hundred thousand shards.
const INDEX_BYTES_MAX: u64 = 256 << 20;
const VERSION: u64 = 2;
/// Compressions that are read, by their names up to the level.
const COMPRESSIONS: [&str; 2] = ["zstd", "gz"];

/// A shard as the index tells of it.
pub struct Shard {
    pub path: Arc<Path>,
    pub file: InputFile,
    /// Whether the file is compressed.
    pub packed: bool,
    /// Length without compression, and hashes of that, by their names.
    pub bytes: u64,
    pub hashes: BTreeMap<String, String>,
    pub samples: u64,
    pub columns: Vec<Column>,
}

/// In the order in which its values stand in a sample.
pub struct Column {
    pub name: String,
    pub encoding: String,
    /// Bytes of every value; none where each has its own length.
    pub bytes: Option<u64>,
}

#[derive(Deserialize)]
struct Index {
    version: u64,
    shards: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    version: u64,
    format: String,
    #[serde(default)]
    column_names: Vec<String>,
    #[serde(default)]
    column_encodings: Vec<String>,
    #[serde(default)]
    column_sizes: Vec<Option<u64>>,
    compression: Option<String>,
    raw_data: Stored,
    zip_data: Option<Stored>,
    samples: u64,
}

#[derive(Deserialize)]
struct Stored {
    basename: String,
    bytes: u64,
    #[serde(default)]
    hashes: BTreeMap<String, String>,
}

/// Each index that the configuration names with the shards after it.
///
/// # Errors
/// As for a pattern; an index that is none, and shards that are missing or of another size than it
/// says, or that two indexes name: that of a folder, and one that was merged from several.
pub fn find_files(config: &MdsConfig, places: &Places<'_>) -> Result<Vec<InputFile>> {
    let mut files = Vec::new();
    let mut owners: BTreeMap<Arc<Path>, PathBuf> = BTreeMap::new();
    for index in places.expand(&places.resolve(&config.path).join(INDEX_FILE))? {
        let folder = places.folder(folder_of(&index.path))?;
        let counts = Arc::<ReadCounts>::default();
        counts.know(slice::from_ref(&index));
        let shards = read(&index.path, &counts, |path| folder.file(path))?;
        let path = index.path.clone();
        files.push(index);
        for shard in shards {
            if let Some(other) = owners.insert(Arc::clone(&shard.path), path.clone()) {
                return Err(anyhow!(
                    "{} is a shard of both {} and {}\n  hint: let `path` name the folder of one of \
                     them, or a pattern for those that name each shard once",
                    shard.path.display(),
                    other.display(),
                    path.display()
                ));
            }
            files.push(shard.file);
        }
    }
    Ok(files)
}

/// The shards of one index, in its order; `find` gives the file at a path.
pub fn read(
    path: &Path,
    counts: &Arc<ReadCounts>,
    find: impl Fn(&Path) -> Result<InputFile>,
) -> Result<Vec<Shard>> {
    let mut json = Vec::new();
    compression::open_stored(path, counts)?
        .take(INDEX_BYTES_MAX + 1)
        .read_to_end(&mut json)
        .map_err(|error| file_error(path, &error))?;
    if json.len() as u64 > INDEX_BYTES_MAX {
        return Err(damaged(path));
    }
    // The cause is not passed on: it might quote what stands in the file.
    let index: Index = serde_json::from_slice(&json).map_err(|_| damaged(path))?;
    if index.version != VERSION {
        return Err(anyhow!(
            "{}: version {} of the format, and only {VERSION} is read\n  hint: write the directory \
             anew with a newer version of streaming",
            path.display(),
            index.version
        ));
    }
    let mut seen = BTreeSet::new();
    let mut shards = Vec::new();
    for (number, entry) in index.shards.into_iter().enumerate() {
        let shard = shard(path, entry, &find).with_context(|| place(path, number))?;
        if !seen.insert(Arc::clone(&shard.path)) {
            return Err(anyhow!(
                "{}: named twice\n  hint: merge the indexes of the folders anew",
                place(path, number)
            ));
        }
        shards.push(shard);
    }
    Ok(shards)
}

fn shard(index: &Path, entry: Entry, find: &impl Fn(&Path) -> Result<InputFile>) -> Result<Shard> {
    if entry.format != "mds" || entry.version != VERSION {
        return Err(anyhow!(
            "not of the format MDS, version {VERSION}\n  hint: read directories of CSV or JSON \
             shards with `csv` or `json_lines`"
        ));
    }
    let find = |stored: &Stored| find(&folder_of(index).join(inside(stored)?));
    let (stored, is_packed, found) = match (find(&entry.raw_data), &entry.zip_data) {
        (Err(error), Some(packed)) if error.is::<NothingThere>() => (packed, true, find(packed)),
        (found, _) => (&entry.raw_data, false, found),
    };
    let file = found.map_err(NothingThere::in_part)?;
    if file.bytes != stored.bytes {
        return Err(anyhow!(
            "{} has {} bytes, where the index says {}\n  hint: copy the shard again",
            file.path.display(),
            file.bytes,
            stored.bytes
        ));
    }
    let compression = entry.compression.unwrap_or_default();
    let compression = compression.split(':').next().unwrap_or_default();
    if is_packed && !COMPRESSIONS.contains(&compression) {
        return Err(anyhow!(
            "{} is compressed in a way that is not read\n  hint: decompress the shards, or write \
             the directory anew with zstd",
            file.path.display()
        ));
    }
    let (names, encodings) = (entry.column_names, entry.column_encodings);
    if names.len() != encodings.len() || names.len() != entry.column_sizes.len() {
        return Err(anyhow!("{DAMAGED}"));
    }
    let columns = names.into_iter().zip(encodings).zip(entry.column_sizes);
    let columns = columns.map(|((name, encoding), bytes)| Column {
        name,
        encoding,
        bytes,
    });
    Ok(Shard {
        path: file.path.as_path().into(),
        file,
        packed: is_packed,
        bytes: entry.raw_data.bytes,
        hashes: entry.raw_data.hashes,
        samples: entry.samples,
        columns: columns.collect(),
    })
}

fn folder_of(index: &Path) -> &Path {
    index.parent().unwrap_or(Path::new(""))
}

/// A file's name, if it leads to no other folder than one below.
fn inside(stored: &Stored) -> Result<&Path> {
    let path = Path::new(&stored.basename);
    let below = path
        .components()
        .all(|part| matches!(part, Component::Normal(_)));
    let name = path.file_name().filter(|name| *name != INDEX_FILE);
    if below && name.is_some() {
        return Ok(path);
    }
    Err(anyhow!(
        "its file is not in the folder of the index\n  hint: look where the directory comes from"
    ))
}

const DAMAGED: &str = "no index of an MDS directory, or a damaged one\n  hint: `path` is the \
                       folder that holds index.json, as streaming writes it; copy it again";

fn damaged(path: &Path) -> Error {
    anyhow!("{}: {DAMAGED}", path.display())
}

/// Where in the index a shard stands, from 1.
fn place(path: &Path, number: usize) -> String {
    format!("{}, shard {}", path.display(), number + 1)
}
