//! Shards, batches and held-out rows over small corpora on disk.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use tempfile::TempDir;

use super::batch::{Batch, BatchBuilder, SourceCounts};
use super::held_out::{HeldOutRows, HeldOutSpec, held_out_rows};
use super::{ChunkOrigin, Corpus, SplitName};
use crate::corpus::masking::{MaskRule, NOT_PREDICTED};
use crate::corpus::mixture::Mixture;
use crate::corpus::plan::{ChunkRef, PhasePlan};
use crate::corpus::plan_spec::{PlanSpec, SourceLengths};
use crate::corpus::{MANIFEST_FILE, Manifest};
use crate::ids::{RowIndex, SourceIndex};

mod damage;
mod prefetch;
mod remote;
mod shards;

use shards::{CLS, SEP, chunks, ids_of, write_corpus};

fn corpus() -> (TempDir, Manifest, Arc<Corpus>) {
    let folder = tempfile::tempdir().unwrap();
    let manifest = write_corpus(folder.path());
    let corpus = Arc::new(Corpus::open(folder.path()).unwrap());
    (folder, manifest, corpus)
}

fn builder(corpus: &Arc<Corpus>) -> BatchBuilder {
    let mixture = Mixture::All.resolve(corpus.manifest()).unwrap();
    let sources = mixture
        .sources
        .iter()
        .map(|mixed| {
            SourceLengths::new(
                mixed,
                corpus.lengths(mixed.source, SplitName::Train).unwrap(),
            )
        })
        .collect();
    let plan = PhasePlan::new(PlanSpec {
        seed: 17,
        phase: 1,
        row_tokens: 256,
        block_tokens: 4 * 256,
        shuffle_chunks: 30,
        pass_tokens: mixture.pass_tokens,
        sources,
    })
    .unwrap();
    let rule = MaskRule {
        rate: 0.3,
        protect_special: false,
    };
    BatchBuilder {
        corpus: Arc::clone(corpus),
        plan: Arc::new(plan),
        rule,
    }
}

#[test]
fn chunks_come_back_as_written() {
    let (_folder, _, corpus) = corpus();
    for (source, shard, count) in [(0, 0, 50), (0, 1, 33), (1, 0, 20), (1, 1, 5), (2, 1, 40)] {
        let written = chunks(count, source + shard);
        let index = SourceIndex(source);
        let lengths = corpus.lengths(index, SplitName::Train).unwrap();
        assert_eq!(lengths[shard as usize].len(), written.len());
        for (chunk, expected) in (0_u32..).zip(&written) {
            let length = u32::from(lengths[shard as usize][chunk as usize]);
            assert_eq!(length, expected.tokens);
            let mut ids = vec![9];
            let at = ChunkRef {
                source: index,
                shard,
                chunk,
                length,
            };
            let origin = corpus.read_chunk(SplitName::Train, &at, &mut ids).unwrap();
            let (document, first) = (expected.document, expected.first);
            assert_eq!(origin, ChunkOrigin { document, first });
            assert_eq!(ids[0], 9);
            assert_eq!(ids[1..], ids_of(source, shard, chunk, length));
        }
    }
}

#[test]
fn a_batch_holds_the_planned_chunks_and_counts_them() {
    let (_folder, manifest, corpus) = corpus();
    let builder = builder(&corpus);
    // Rows until every source has been read at least once, which is one pass of the mixture.
    let rows: Vec<RowIndex> = (0..60).map(RowIndex).collect();
    let batch = builder.build(&rows).unwrap();
    let mut counts: BTreeMap<SourceIndex, SourceCounts> = BTreeMap::new();
    for (packed, &row) in batch.rows.iter().zip(&rows) {
        let planned = builder.plan.row(row);
        assert_eq!((packed.row, &packed.chunks), (row, &planned.chunks));
        assert_eq!(packed.cu_seqlens.len(), packed.chunks.len() + 1);
        assert_eq!(packed.input_ids.len() as u32, planned.tokens);
        assert_eq!(packed.labels.len() as u32, planned.tokens);
        for (chunk, ends) in packed.chunks.iter().zip(packed.cu_seqlens.windows(2)) {
            let (start, end) = (ends[0] as usize, ends[1] as usize);
            let written = ids_of(chunk.source.0, chunk.shard, chunk.chunk, chunk.length);
            for (place, &id) in (start..end).zip(&written) {
                match packed.labels[place] {
                    NOT_PREDICTED => assert_eq!(packed.input_ids[place], id),
                    label => assert_eq!(label, i64::from(id)),
                }
            }
            let salt = chunk.source.0 + chunk.shard;
            let source = &manifest.sources().nth(chunk.source.0 as usize).unwrap().2;
            let of = source.train.shards[chunk.shard as usize].chunks as u32;
            let entry = counts.entry(chunk.source).or_default();
            entry.tokens += u64::from(chunk.length);
            entry.chunks += 1;
            entry.documents += u64::from(chunks(of, salt)[chunk.chunk as usize].first);
        }
    }
    assert_eq!(batch.counts, counts);
    assert_eq!(counts.len(), 3);
    let predicted = batch.rows.iter().flat_map(|row| &row.labels);
    let predicted = predicted.filter(|label| **label != NOT_PREDICTED).count() as u64;
    assert_eq!(batch.predicted, predicted);
    assert!(predicted > 0);
}

#[test]
fn any_number_of_ranks_reads_the_same_rows() {
    let (folder, _, corpus) = corpus();
    let step: Vec<RowIndex> = (30..53).map(RowIndex).collect();
    let whole = builder(&corpus).build(&step).unwrap();
    for ranks in [1, 2, 3, 5, 8, 23, 64] {
        let mut shared = Batch::default();
        for share in step.chunks(step.len().div_ceil(ranks)) {
            // Each rank is a process of its own, and starts from nothing.
            let own = Arc::new(Corpus::open(folder.path()).unwrap());
            let part = builder(&own).build(share).unwrap();
            shared.rows.extend(part.rows);
            shared.predicted += part.predicted;
            for (source, counts) in part.counts {
                let sum = shared.counts.entry(source).or_default();
                sum.tokens += counts.tokens;
                sum.documents += counts.documents;
                sum.chunks += counts.chunks;
            }
        }
        assert_eq!(shared, whole, "{ranks} ranks");
    }
}

#[test]
fn held_out_rows_are_packed_by_institution_and_protect_special_tokens() {
    let (_folder, manifest, corpus) = corpus();
    let sources = [SourceIndex(0), SourceIndex(1), SourceIndex(2)];
    let spec = HeldOutSpec {
        row_tokens: 256,
        tokens_max_per_source: u64::MAX,
    };
    let held_out = held_out_rows(&corpus, &sources, spec).unwrap();
    assert_eq!(held_out, held_out_rows(&corpus, &sources, spec).unwrap());
    let ids: Vec<&str> = held_out
        .iter()
        .map(|rows| rows.institution.as_str())
        .collect();
    assert_eq!(ids, ["us", "uk"]);
    let tokens: usize = held_out
        .iter()
        .flat_map(|rows| &rows.rows)
        .map(|row| row.input_ids.len())
        .sum();
    let expected: u64 = manifest
        .sources()
        .map(|(_, _, source)| source.held_out.tokens)
        .sum();
    assert_eq!(tokens as u64, expected);
    for row in held_out.iter().flat_map(|rows| &rows.rows) {
        assert!(row.input_ids.len() <= 256);
        for &label in &row.labels {
            assert!(label != i64::from(CLS) && label != i64::from(SEP));
        }
    }
}

#[test]
fn a_held_out_chunk_is_masked_alike_in_any_row() {
    let (_folder, _, corpus) = corpus();
    let rows = |sources: &[SourceIndex], row_tokens| {
        let spec = HeldOutSpec {
            row_tokens,
            tokens_max_per_source: 500,
        };
        held_out_rows(&corpus, sources, spec).unwrap()
    };
    let small = by_chunk(&rows(&[SourceIndex(0)], 128));
    let large = by_chunk(&rows(
        &[SourceIndex(0), SourceIndex(1), SourceIndex(2)],
        2_048,
    ));
    assert!(large.len() > small.len());
    for (chunk, masked) in &small {
        assert_eq!(large.get(chunk), Some(masked));
    }
    let tokens: u32 = small.keys().map(|chunk| chunk.length).sum();
    assert!((500..500 + 95).contains(&tokens), "{tokens}");
    assert!(
        small
            .values()
            .any(|(_, labels)| labels.iter().any(|&label| label != NOT_PREDICTED))
    );
}

type MaskedChunk = (Vec<u32>, Vec<i64>);

fn by_chunk(held_out: &[HeldOutRows]) -> BTreeMap<ChunkRef, MaskedChunk> {
    let mut chunks = BTreeMap::new();
    for row in held_out.iter().flat_map(|rows| &rows.rows) {
        for (chunk, ends) in row.chunks.iter().zip(row.cu_seqlens.windows(2)) {
            let place = ends[0] as usize..ends[1] as usize;
            let masked = (
                row.input_ids[place.clone()].to_vec(),
                row.labels[place].to_vec(),
            );
            assert!(chunks.insert(*chunk, masked).is_none());
        }
    }
    chunks
}

fn edit_manifest(folder: &Path, edit: impl FnOnce(&mut Manifest)) {
    let text = fs::read(folder.join(MANIFEST_FILE)).unwrap();
    let mut manifest: Manifest = serde_json::from_slice(&text).unwrap();
    edit(&mut manifest);
    shards::write_manifest(folder, &manifest);
}
