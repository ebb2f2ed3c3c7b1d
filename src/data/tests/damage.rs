//! Every kind of damage is an error that names file and source and says what to do.

use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;

use arrow_array::{ArrayRef, BooleanArray, RecordBatch, UInt64Array};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use super::shards::{VOCAB_SIZE, chunks, describe, lists, record_batch, write_batches};
use super::{ChunkRef, Corpus, MANIFEST_FILE, SourceIndex, SplitName, corpus};
use super::{edit_manifest, shards};
use crate::data::shard::TokenShard;

const SHARD: &str = "us/notes/train-00001.arrow";
const AT: ChunkRef = ChunkRef {
    source: SourceIndex(0),
    shard: 1,
    chunk: 2,
    length: 90,
};

fn open(folder: &Path) -> Corpus {
    Corpus::open(folder).unwrap()
}

/// An error with the corpus folder's name taken out.
fn nameless(error: &anyhow::Error, folder: &Path) -> String {
    format!("{error:#}").replace(&folder.display().to_string(), "CORPUS")
}

fn lengths_error(folder: &Path) -> String {
    let lengths = open(folder).lengths(SourceIndex(0), SplitName::Train);
    nameless(&lengths.unwrap_err(), folder)
}

fn read_error(folder: &Path) -> String {
    let read = open(folder).read_chunk(SplitName::Train, &AT, &mut Vec::new());
    nameless(&read.unwrap_err(), folder)
}

#[test]
fn a_missing_manifest_points_to_prepare() {
    let folder = tempfile::tempdir().unwrap();
    let error = Corpus::open(folder.path()).unwrap_err();
    let message = format!("{error:#}").replace(&folder.path().display().to_string(), "CORPUS");
    assert!(
        message.starts_with(
            "cannot read the corpus manifest CORPUS/manifest.json\n  hint: run cohort prepare first"
        ),
        "{message}"
    );
}

#[test]
fn another_version_and_broken_json_are_refused() {
    let (folder, _, _) = corpus();
    let refusal = || {
        let error = Corpus::open(folder.path()).unwrap_err();
        format!("{error:#}").replace(&folder.path().display().to_string(), "CORPUS")
    };
    edit_manifest(folder.path(), |manifest| manifest.version = 7);
    assert_eq!(
        refusal(),
        "the corpus manifest CORPUS/manifest.json has version 7, this Cohort reads version 2\n  \
         hint: run cohort prepare again"
    );
    fs::write(folder.path().join(MANIFEST_FILE), "{\"version\": 2, ").unwrap();
    assert!(
        refusal().contains("is not JSON\n  hint: run cohort prepare again"),
        "{}",
        refusal()
    );
    fs::write(folder.path().join(MANIFEST_FILE), "{\"version\": 2}").unwrap();
    assert!(refusal().contains("is incomplete"), "{}", refusal());
}

#[test]
fn a_missing_or_cut_shard_names_itself_before_it_is_read() {
    let (folder, _, _) = corpus();
    let path = folder.path().join(SHARD);
    let bytes = fs::read(&path).unwrap();
    let digest = blake3::hash(&bytes).to_hex();
    fs::write(&path, &bytes[..bytes.len() - 8]).unwrap();
    let early = || {
        nameless(
            &open(folder.path()).expect_complete().unwrap_err(),
            folder.path(),
        )
    };
    let cut = format!(
        "source `us/notes`, file CORPUS/{SHARD}: the file has {} bytes, the manifest says {} \
         (digest {digest})\n  hint: run cohort prepare again",
        bytes.len() - 8,
        bytes.len()
    );
    assert_eq!([early(), read_error(folder.path())], [cut.clone(), cut]);
    fs::remove_file(&path).unwrap();
    for message in [early(), read_error(folder.path())] {
        assert!(
            message.starts_with(&format!(
                "source `us/notes`, file CORPUS/{SHARD}: cannot open the shard of digest \
                 {digest}\n  hint: run cohort prepare again"
            )),
            "{message}"
        );
    }
}

#[test]
fn a_flipped_bit_is_found_when_the_shard_is_read() {
    let (folder, manifest, _) = corpus();
    let path = folder.path().join(SHARD);
    let mut bytes = fs::read(&path).unwrap();
    // An id in the middle of the first batch: the structure stays whole.
    let place = bytes
        .windows(2)
        .position(|pair| pair == 1_120_u16.to_le_bytes())
        .unwrap();
    bytes[place] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let source = &manifest.institutions[0].sources[0];
    let expected = format!(
        "source `us/notes`, file CORPUS/{SHARD}: the file's digest is {}, the manifest says {}\n  \
         hint: delete the file, then run cohort prepare again",
        blake3::hash(&bytes).to_hex(),
        source.train.shards[1].stored.digest
    );
    assert_eq!(read_error(folder.path()), expected);
    assert!(
        open(folder.path())
            .lengths(SourceIndex(0), SplitName::Train)
            .is_ok()
    );
}

#[test]
fn lengths_that_are_not_the_manifests_are_refused() {
    let (folder, manifest, _) = corpus();
    let file = "us/notes/train-lengths.arrow";
    let path = folder.path().join(file);
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, [&bytes[..], b"x"].concat()).unwrap();
    assert_eq!(
        lengths_error(folder.path()),
        format!(
            "source `us/notes`: file CORPUS/{file}: the file has {} bytes, the manifest says {} \
             (digest {})\n  hint: run cohort prepare again",
            bytes.len() + 1,
            bytes.len(),
            blake3::hash(&bytes).to_hex()
        )
    );
    fs::write(&path, &bytes).unwrap();
    let mut other = manifest;
    other.institutions[0].sources[0].train.shards[1].tokens += 1;
    shards::write_manifest(folder.path(), &other);
    assert_eq!(
        lengths_error(folder.path()),
        format!(
            "source `us/notes`: file CORPUS/{file}: the lengths are not those of the manifest's \
             shards\n  hint: run cohort prepare again"
        )
    );
}

#[test]
fn counts_that_differ_from_the_manifest_are_refused() {
    let (folder, _, _) = corpus();
    edit_manifest(folder.path(), |manifest| {
        manifest.institutions[0].sources[0].train.shards[1].documents += 1;
    });
    let message = read_error(folder.path());
    assert_eq!(
        message,
        format!(
            "source `us/notes`, file CORPUS/{SHARD}: the file has 17 documents, the manifest says \
             18\n  hint: run cohort prepare again"
        )
    );
}

#[test]
fn a_plan_of_another_corpus_is_refused() {
    let (folder, _, _) = corpus();
    let open = open(folder.path());
    let refusal = |at: ChunkRef| {
        open.read_chunk(SplitName::Train, &at, &mut Vec::new())
            .unwrap_err()
            .to_string()
    };
    assert!(refusal(ChunkRef { length: 7, ..AT }).contains("planned with 7"));
    assert!(refusal(ChunkRef { chunk: 33, ..AT }).contains("has no chunk 33 in shard 1"));
    assert!(refusal(ChunkRef { shard: 2, ..AT }).contains("has no shard 2"));
    assert!(
        refusal(ChunkRef {
            source: SourceIndex(3),
            ..AT
        })
        .contains("none with number 3")
    );
}

/// Replaces the shard by these batches, with digest and size put right.
fn replace(folder: &Path, batches: &[RecordBatch]) {
    let path = folder.join(SHARD);
    write_batches(&path, batches);
    let (bytes, digest) = describe(&path);
    edit_manifest(folder, |manifest| {
        let shard = &mut manifest.institutions[0].sources[0].train.shards[1];
        (shard.stored.bytes, shard.stored.digest) = (bytes, digest);
    });
}

#[test]
fn wrong_columns_are_refused_by_name_and_type() {
    let (folder, _, _) = corpus();
    let written = chunks(33, 1);
    let documents = Arc::new(UInt64Array::from(vec![0_u64; 33])) as ArrayRef;
    let first = Arc::new(BooleanArray::from(vec![true; 33])) as ArrayRef;
    let check = |columns: Vec<(&str, ArrayRef)>, expected: &str| {
        replace(
            folder.path(),
            &[RecordBatch::try_from_iter(columns).unwrap()],
        );
        let message = read_error(folder.path());
        assert!(message.contains(expected), "{message}");
    };
    check(
        vec![("document", documents.clone()), ("first", first.clone())],
        "no column `input_ids` (list<uint16 or uint32>)",
    );
    check(
        vec![
            ("input_ids", documents.clone()),
            ("document", documents.clone()),
        ],
        "column `input_ids` is UInt64, expected list<uint16 or uint32>",
    );
    let ids = lists(
        written.iter().map(|chunk| vec![5; chunk.tokens as usize]),
        false,
    );
    check(
        vec![("input_ids", ids.clone()), ("document", first.clone())],
        "column `document` is Boolean, expected uint64",
    );
    let nulls = Arc::new(BooleanArray::from(vec![None; 33])) as ArrayRef;
    check(
        vec![
            ("input_ids", ids),
            ("document", documents),
            ("first", nulls),
        ],
        "column `first` has nulls",
    );
}

#[test]
fn an_id_beyond_the_vocabulary_is_refused_before_the_device_sees_it() {
    let (folder, _, _) = corpus();
    let written = chunks(33, 1);
    let ids = written
        .iter()
        .map(|chunk| vec![VOCAB_SIZE; chunk.tokens as usize]);
    replace(folder.path(), &[record_batch(lists(ids, true), &written)]);
    let message = read_error(folder.path());
    assert!(
        message.contains("an id is not below the vocabulary's size of 60000"),
        "{message}"
    );
}

#[test]
fn no_damage_makes_the_decoder_panic() {
    let (folder, _, _) = corpus();
    let bytes = fs::read(folder.path().join(SHARD)).unwrap();
    let damaged = folder.path().join("damaged.arrow");
    let strategy = (
        prop::collection::vec((0..bytes.len(), any::<u8>()), 1..6),
        0..bytes.len(),
    );
    TestRunner::deterministic()
        .run(&strategy, |(flips, cut)| {
            let mut bytes = bytes.clone();
            for &(place, value) in &flips {
                bytes[place] = value;
            }
            bytes.truncate(if cut % 4 == 0 { cut } else { bytes.len() });
            if bytes.is_empty() {
                return Ok(());
            }
            fs::write(&damaged, &bytes).unwrap();
            let mut shard = TokenShard::map(&File::open(&damaged).unwrap()).unwrap();
            if shard.decode().is_ok() {
                let mut ids = Vec::new();
                let lengths = shard.lengths().len() as u32;
                for chunk in 0..=lengths {
                    prop_assert_eq!(shard.append(chunk, &mut ids).is_some(), chunk < lengths);
                }
            }
            Ok(())
        })
        .unwrap();
}

#[test]
fn a_path_out_of_the_corpus_folder_is_refused() {
    let (folder, _, _) = corpus();
    edit_manifest(folder.path(), |manifest| {
        let shards = &mut manifest.institutions[0].sources[0].train.shards;
        shards[1].stored.file = "../secret.arrow".to_owned();
    });
    let message = read_error(folder.path());
    assert!(message.contains("leaves the corpus folder"), "{message}");
}

#[test]
fn a_source_named_twice_is_refused() {
    let (folder, manifest, _) = corpus();
    let mut twice = manifest;
    twice.institutions[0].sources[1].id = "notes".to_owned();
    shards::write_manifest(folder.path(), &twice);
    let error = Corpus::open(folder.path()).unwrap_err().to_string();
    assert!(
        error.contains("source `us/notes` is in the manifest twice"),
        "{error}"
    );
}
