//! Writes a small corpus of real Arrow shards. The ids of a chunk say which chunk it is.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;

use arrow_array::builder::{ListBuilder, UInt16Builder, UInt32Builder};
use arrow_array::{ArrayRef, BooleanArray, RecordBatch, UInt16Array, UInt64Array};
use arrow_ipc::writer::FileWriter;

use crate::corpus::{
    Institution, MANIFEST_FILE, MANIFEST_VERSION, Manifest, Shard, Source, Split, StoredFile,
    TokenizerInfo,
};
use crate::data::shard::TokenShard;

pub(super) const CLS: u32 = 1;
pub(super) const SEP: u32 = 2;
pub(super) const VOCAB_SIZE: u32 = 60_000;

/// A chunk to be written: its document, whether it begins it, and its tokens.
#[derive(Clone, Copy, Debug)]
pub(super) struct TestChunk {
    pub document: u64,
    pub first: bool,
    pub tokens: u32,
}

/// The ids that the test corpus holds for a chunk: `[CLS]`, marks of the chunk, `[SEP]`.
pub(super) fn ids_of(source: u32, shard: u32, chunk: u32, tokens: u32) -> Vec<u32> {
    let mark = |place: u32| 100 + (source * 7_919 + shard * 1_009 + chunk * 31 + place) % 50_000;
    let inner = (0..tokens - 2).map(mark);
    std::iter::once(CLS)
        .chain(inner)
        .chain(std::iter::once(SEP))
        .collect()
}

/// Documents of one to three chunks with lengths that vary by a fixed rule.
pub(super) fn chunks(count: u32, salt: u32) -> Vec<TestChunk> {
    let mut chunks = Vec::new();
    let mut document = 0;
    while chunks.len() < count as usize {
        for part in 0..=(document + u64::from(salt)) % 3 {
            let tokens = 5 + (chunks.len() as u32 * 37 + salt * 11) % 90;
            chunks.push(TestChunk {
                document,
                first: part == 0,
                tokens,
            });
        }
        document += 1;
    }
    chunks.truncate(count as usize);
    chunks
}

/// Writes one shard in batches of seven chunks, and describes it.
pub(super) fn write_shard(
    folder: &Path,
    file: &str,
    place: (u32, u32),
    chunks: &[TestChunk],
) -> Shard {
    let path = folder.join(file);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let (source, shard) = place;
    let wide = source % 2 == 1;
    let batches: Vec<RecordBatch> = chunks
        .chunks(7)
        .enumerate()
        .map(|(batch, part)| {
            let start = batch as u32 * 7;
            let ids = (start..)
                .zip(part)
                .map(|(chunk, c)| ids_of(source, shard, chunk, c.tokens));
            record_batch(lists(ids, wide), part)
        })
        .collect();
    write_batches(&path, &batches);
    let (bytes, digest) = describe(&path);
    Shard {
        stored: StoredFile {
            file: file.to_owned(),
            bytes,
            digest,
        },
        chunks: chunks.len() as u64,
        tokens: chunks.iter().map(|chunk| u64::from(chunk.tokens)).sum(),
        documents: chunks.iter().filter(|chunk| chunk.first).count() as u64,
    }
}

pub(super) fn lists(rows: impl Iterator<Item = Vec<u32>>, wide: bool) -> ArrayRef {
    if wide {
        let mut builder = ListBuilder::new(UInt32Builder::new());
        rows.for_each(|ids| builder.append_value(ids.into_iter().map(Some)));
        Arc::new(builder.finish())
    } else {
        let mut builder = ListBuilder::new(UInt16Builder::new());
        rows.for_each(|ids| builder.append_value(ids.into_iter().map(|id| Some(id as u16))));
        Arc::new(builder.finish())
    }
}

pub(super) fn record_batch(input_ids: ArrayRef, chunks: &[TestChunk]) -> RecordBatch {
    let documents: UInt64Array = chunks.iter().map(|chunk| Some(chunk.document)).collect();
    let first: BooleanArray = chunks.iter().map(|chunk| Some(chunk.first)).collect();
    RecordBatch::try_from_iter([
        ("input_ids", input_ids),
        ("document", Arc::new(documents) as ArrayRef),
        ("first", Arc::new(first) as ArrayRef),
    ])
    .unwrap()
}

pub(super) fn write_batches(path: &Path, batches: &[RecordBatch]) {
    let schema = batches[0].schema();
    let mut writer = FileWriter::try_new(File::create(path).unwrap(), &schema).unwrap();
    for batch in batches {
        writer.write(batch).unwrap();
    }
    writer.finish().unwrap();
}

/// Size and digest of a file.
pub(super) fn describe(path: &Path) -> (u64, String) {
    let bytes = fs::read(path).unwrap();
    (
        bytes.len() as u64,
        blake3::hash(&bytes).to_hex().to_string(),
    )
}

/// Three sources of two institutions: `us/notes` (uint16), `us/reports` (uint32), `uk/letters`
/// (uint16), with two shards of training and one held-out shard each.
pub(super) fn write_corpus(folder: &Path) -> Manifest {
    let source = |number: u32, institution: &str, id: &str, counts: [u32; 3]| {
        let shard = |shard: u32, split: &str, count: u32| {
            let file = format!("{institution}/{id}/{split}-{shard:05}.arrow");
            write_shard(
                folder,
                &file,
                (number, shard),
                &chunks(count, number + shard),
            )
        };
        Source {
            id: id.to_owned(),
            licence: "CC0".to_owned(),
            train: split(
                folder,
                &format!("{institution}/{id}/train"),
                vec![shard(0, "train", counts[0]), shard(1, "train", counts[1])],
            ),
            held_out: split(
                folder,
                &format!("{institution}/{id}/held-out"),
                vec![shard(0, "held-out", counts[2])],
            ),
            dropped: BTreeMap::new(),
            unigrams: StoredFile {
                file: String::new(),
                bytes: 0,
                digest: String::new(),
            },
        }
    };
    let institution = |id: &str, sources| Institution {
        id: id.to_owned(),
        name: id.to_uppercase(),
        country: None,
        sources,
    };
    let manifest = Manifest {
        version: MANIFEST_VERSION,
        name: "test".to_owned(),
        tokenizer: TokenizerInfo {
            digest: String::new(),
            new_tokens: None,
            vocab_size: VOCAB_SIZE,
            cls: CLS,
            sep: SEP,
            pad: 0,
            mask: 4,
            unk: 3,
            random_ids_end: 59_000,
        },
        max_length: 128,
        held_out_permille: 20,
        institutions: vec![
            institution(
                "us",
                vec![
                    source(0, "us", "notes", [50, 33, 20]),
                    source(1, "us", "reports", [20, 5, 9]),
                ],
            ),
            institution("uk", vec![source(2, "uk", "letters", [11, 40, 12])]),
        ],
    };
    write_manifest(folder, &manifest);
    manifest
}

pub(super) fn write_manifest(folder: &Path, manifest: &Manifest) {
    fs::write(
        folder.join(MANIFEST_FILE),
        serde_json::to_vec_pretty(manifest).unwrap(),
    )
    .unwrap();
}

/// A split of these shards, with its file of lengths.
fn split(folder: &Path, stem: &str, shards: Vec<Shard>) -> Split {
    let lengths = |shard: &Shard| {
        let shard = TokenShard::open(&folder.join(&shard.stored.file)).unwrap();
        let lengths: ArrayRef = Arc::new(UInt16Array::from(shard.lengths().to_vec()));
        RecordBatch::try_from_iter([("length", lengths)]).unwrap()
    };
    let file = format!("{stem}-lengths.arrow");
    let path = folder.join(&file);
    write_batches(&path, &shards.iter().map(lengths).collect::<Vec<_>>());
    let (bytes, digest) = describe(&path);
    Split {
        documents: shards.iter().map(|shard| shard.documents).sum(),
        chunks: shards.iter().map(|shard| shard.chunks).sum(),
        tokens: shards.iter().map(|shard| shard.tokens).sum(),
        shards,
        lengths: Some(StoredFile {
            file,
            bytes,
            digest,
        }),
    }
}
