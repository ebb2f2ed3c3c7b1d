//! MDS directories written by hand, after the published layout of the format.

use std::hash::Hasher;

use bytes::Bytes;
use serde_json::{Value, json};
use sha1::{Digest, Sha1};
use twox_hash::XxHash64;

/// A column: name, encoding, bytes of a value where all have as many.
pub type Column = (&'static str, &'static str, Option<u64>);

/// How the shards of a directory are written.
#[derive(Clone)]
pub struct Writing {
    /// Sorted by name, as the library does.
    pub columns: Vec<Column>,
    pub compression: Option<&'static str>,
    pub hashes: Vec<&'static str>,
    pub size_limit: u64,
}

pub const IDS: Column = ("input_ids", "ndarray:uint16", None);

impl Writing {
    pub fn plain(columns: &[Column]) -> Self {
        Self {
            columns: columns.to_vec(),
            compression: None,
            hashes: Vec::new(),
            size_limit: 1 << 26,
        }
    }

    /// The bytes of a sample with these values.
    pub fn sample(&self, values: &[Vec<u8>]) -> Vec<u8> {
        let pairs = self.columns.iter().zip(values);
        let own = pairs.filter(|((_, _, size), _)| size.is_none());
        let lengths = own.flat_map(|(_, value)| (value.len() as u32).to_le_bytes());
        lengths.chain(values.concat()).collect()
    }

    /// A shard, as it is before compression.
    pub fn shard(&self, samples: &[Vec<u8>]) -> Vec<u8> {
        let description = self.description();
        let first = 4 + 4 * (samples.len() + 1) + description.len();
        let mut bytes = (samples.len() as u32).to_le_bytes().to_vec();
        let mut place = first as u32;
        bytes.extend(place.to_le_bytes());
        for sample in samples {
            place += sample.len() as u32;
            bytes.extend(place.to_le_bytes());
        }
        bytes.extend(description.bytes());
        bytes.extend(samples.concat());
        bytes
    }

    /// The JSON in a shard, with the spaces of Python's.
    fn description(&self) -> String {
        let list = |values: Vec<Value>| {
            let values: Vec<String> = values.iter().map(Value::to_string).collect();
            format!("[{}]", values.join(", "))
        };
        let columns = |of: fn(&Column) -> Value| list(self.columns.iter().map(of).collect());
        format!(
            "{{\"column_encodings\": {}, \"column_names\": {}, \"column_sizes\": {}, \
             \"compression\": {}, \"format\": \"mds\", \"hashes\": {}, \"size_limit\": {}, \
             \"version\": 2}}",
            columns(|column| json!(column.1)),
            columns(|column| json!(column.0)),
            columns(|column| json!(column.2)),
            json!(self.compression),
            list(self.hashes.iter().map(|name| json!(name)).collect()),
            self.size_limit,
        )
    }

    /// The index and the shards as files in `folder`.
    pub fn directory(&self, folder: &str, shards: &[Vec<Vec<u8>>]) -> Vec<(String, Vec<u8>)> {
        let mut files = Vec::new();
        let mut entries = Vec::new();
        for (number, samples) in shards.iter().enumerate() {
            let (raw, name) = (self.shard(samples), format!("shard.{number:05}.mds"));
            let mut entry = json!({
                "column_encodings": self.columns.iter().map(|column| column.1).collect::<Vec<_>>(),
                "column_names": self.columns.iter().map(|column| column.0).collect::<Vec<_>>(),
                "column_sizes": self.columns.iter().map(|column| column.2).collect::<Vec<_>>(),
                "compression": self.compression,
                "format": "mds",
                "hashes": self.hashes,
                "raw_data": self.stored(&name, &raw),
                "samples": samples.len(),
                "size_limit": self.size_limit,
                "version": 2,
                "zip_data": null,
            });
            let stored = match self.compression.map(|name| &name[..2]) {
                None => (name, raw),
                Some("zs") => (
                    format!("{name}.zstd"),
                    zstd::encode_all(&raw[..], 3).unwrap(),
                ),
                Some("gz") => (format!("{name}.gz"), super::gzip(&[&raw])),
                Some(_) => (format!("{name}.br"), raw),
            };
            if self.compression.is_some() {
                entry["zip_data"] = self.stored(&stored.0, &stored.1);
            }
            entries.push(entry);
            files.push((format!("{folder}/{}", stored.0), stored.1));
        }
        let index = json!({"shards": entries, "version": 2}).to_string();
        files.push((format!("{folder}/index.json"), index.into_bytes()));
        files
    }

    fn stored(&self, name: &str, bytes: &[u8]) -> Value {
        let hash = |name: &str| match name {
            "sha1" => format!("{:x}", Bytes::from(Sha1::digest(bytes).to_vec())),
            "xxh64" => {
                let mut hasher = XxHash64::with_seed(0);
                hasher.write(bytes);
                format!("{:016x}", hasher.finish())
            }
            _ => "unknown".to_owned(),
        };
        let hashes = self
            .hashes
            .iter()
            .map(|name| ((*name).to_owned(), hash(name).into()));
        let hashes: serde_json::Map<String, Value> = hashes.collect();
        json!({"basename": name, "bytes": bytes.len(), "hashes": hashes})
    }
}

/// An array of one dimension that names its shape.
pub fn array(ids: &[u16]) -> Vec<u8> {
    let length = ids.len();
    let shape = match u8::try_from(length) {
        Ok(length) => vec![1 << 2, length],
        Err(_) => [vec![1 << 2 | 1], (length as u16).to_le_bytes().to_vec()].concat(),
    };
    shape.into_iter().chain(flat(ids)).collect()
}

/// The values alone.
pub fn flat(ids: &[u16]) -> impl Iterator<Item = u8> {
    ids.iter().flat_map(|id| id.to_le_bytes())
}
