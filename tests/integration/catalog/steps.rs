//! The steps of the published phases, from `cohort plan` on a corpus of the published size.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch, UInt16Array};
use arrow_ipc::writer::FileWriter;
use arrow_schema::{DataType, Field, Schema};
use cohort::corpus::{
    Institution, MANIFEST_FILE, MANIFEST_VERSION, Manifest, Shard, Source, Split, StoredFile,
    TOKENIZER_FILE, TokenizerInfo,
};

use super::project;

const CHUNK_TOKENS: u16 = 8192;
/// Tokens of one epoch, as the published phases' lengths have them.
const BIOMEDICAL: u64 = 50_735_000_000;
const CLINICAL: u64 = 2_749_112_000;

/// Each run file with the steps of its phases: tokens over those of a full step (576 or 616 rows),
/// rounded up. Rows are full here, so these are the least that a real corpus can come to.
const STEPS: [(&str, &[(&str, u64)]); 6] = [
    ("bioclinical-base", &[("stable", 34_005), ("decay", 1_748)]),
    ("bioclinical-large", &[("stable", 31_797), ("decay", 1_635)]),
    ("bioclinical-base-late-decay", &[("late-decay", 1_748)]),
    ("bioclinical-large-full-decay", &[("full-decay", 1_635)]),
    ("bio-base", &[("bio-decay", 10_753)]),
    ("bio-large", &[("bio-decay", 10_054)]),
];

/// A corpus that can be planned and not read: lengths without shards.
fn write_corpus(folder: &Path) {
    let sources = [("nlm", "pmc", BIOMEDICAL), ("mimic", "notes", CLINICAL)];
    let institutions = sources.map(|(institution, source, tokens)| {
        let chunks = tokens / u64::from(CHUNK_TOKENS);
        let tokens = chunks * u64::from(CHUNK_TOKENS);
        let file = format!("{source}-lengths.arrow");
        let shard = Shard {
            stored: stored(&format!("{source}.arrow"), b""),
            chunks,
            tokens,
            documents: chunks,
        };
        let train = Split {
            documents: chunks,
            chunks,
            tokens,
            shards: vec![shard],
            lengths: Some(write_lengths(folder, &file, chunks)),
        };
        Institution {
            id: institution.to_owned(),
            name: institution.to_owned(),
            country: None,
            sources: vec![Source {
                id: source.to_owned(),
                licence: "none".to_owned(),
                train,
                held_out: Split::default(),
                dropped: std::collections::BTreeMap::new(),
                unigrams: stored("unigrams.arrow", b""),
            }],
        }
    });
    let tokenizer = b"{}";
    fs::write(folder.join(TOKENIZER_FILE), tokenizer).unwrap();
    let manifest = Manifest {
        version: MANIFEST_VERSION,
        name: "bioclinical".to_owned(),
        tokenizer: TokenizerInfo {
            digest: blake3::hash(tokenizer).to_hex().to_string(),
            vocab_size: 50_368,
            cls: 50_281,
            sep: 50_282,
            pad: 50_283,
            mask: 50_284,
            unk: 50_280,
            random_ids_end: 50_285,
            new_tokens: None,
        },
        max_length: u32::from(CHUNK_TOKENS),
        held_out_permille: 0,
        institutions: institutions.into(),
    };
    let json = serde_json::to_vec(&manifest).unwrap();
    fs::write(folder.join(MANIFEST_FILE), json).unwrap();
}

fn stored(file: &str, bytes: &[u8]) -> StoredFile {
    StoredFile {
        file: file.to_owned(),
        bytes: bytes.len() as u64,
        digest: blake3::hash(bytes).to_hex().to_string(),
    }
}

fn write_lengths(folder: &Path, file: &str, chunks: u64) -> StoredFile {
    let field = Field::new("length", DataType::UInt16, false);
    let schema = Arc::new(Schema::new(vec![field]));
    let lengths = vec![CHUNK_TOKENS; usize::try_from(chunks).unwrap()];
    let column: ArrayRef = Arc::new(UInt16Array::from(lengths));
    let batch = RecordBatch::try_new(Arc::clone(&schema), vec![column]).unwrap();
    let mut bytes = Vec::new();
    let mut writer = FileWriter::try_new(&mut bytes, &schema).unwrap();
    writer.write(&batch).unwrap();
    writer.finish().unwrap();
    drop(writer);
    fs::write(folder.join(file), &bytes).unwrap();
    stored(file, &bytes)
}

#[test]
fn the_recipe_takes_its_published_steps() {
    let folder = tempfile::tempdir().unwrap();
    let corpus = folder.path().join("corpora/bioclinical");
    let configs = folder.path().join("configs");
    fs::create_dir_all(&corpus).unwrap();
    fs::create_dir(&configs).unwrap();
    write_corpus(&corpus);
    for (run, phases) in STEPS {
        let file = format!("{run}.yaml");
        fs::copy(project().join("configs").join(&file), configs.join(&file)).unwrap();
        let planned = Command::new(env!("CARGO_BIN_EXE_cohort"))
            .args(["plan", &file])
            .current_dir(&configs)
            .output()
            .unwrap();
        let said = String::from_utf8(planned.stdout).unwrap();
        let error = String::from_utf8(planned.stderr).unwrap();
        assert!(planned.status.success(), "{run}: {error}");
        let found: Vec<(&str, u64)> = said
            .lines()
            .filter_map(|line| line.strip_prefix("phase \""))
            .map(|line| {
                let (name, rest) = line.split_once('"').unwrap();
                let (before, _) = rest.split_once(" steps").unwrap();
                let steps = before.rsplit(' ').next().unwrap().replace(',', "");
                (name, steps.parse().unwrap())
            })
            .collect();
        assert_eq!(found, phases, "{said}");
    }
}
