//! Going on from every save point that a preparation may leave.

use std::collections::BTreeMap;
use std::fs;

use cohort::corpus::{Manifest, Shard, Split};
use cohort::prepare::save_point::{Position, SavePoint, SeriesPoint, State};
use serde_json::{Value, json};

use super::super::folders::contents;
use super::super::{CORPUS_FILE, Workspace, only_source, read_shard};
use super::{STAGING, assert_same, copy};

/// Long and short documents, blank ones, and some in which the tokenizer finds nothing.
fn workspace() -> Workspace {
    let source = "  - {id: notes, licence: x, read: {json_lines: {path: notes.jsonl, text: text}}}";
    let settings = "max_length: 16\nheld_out: 0.3\nshard_bytes: 1024\nprefix_space: false";
    let workspace = Workspace::new(settings, source);
    let mut lines = String::new();
    for number in 0_usize..66 {
        let text = match number % 6 {
            0 => "  ".to_owned(),
            1 => "\u{1}".repeat(number),
            2 => format!("a long note, number {number}: no fever, no cough. ").repeat(number),
            _ => format!("note {number}"),
        };
        lines.push_str(&json!({"text": text}).to_string());
        lines.push('\n');
    }
    workspace.write("notes.jsonl", lines.as_bytes());
    workspace.prepare().unwrap();

    // A tokenizer that drops one character. The text trains it, hence the first preparation.
    let bytes = fs::read(workspace.path("out/tokenizer.json")).unwrap();
    let mut tokenizer: Value = serde_json::from_slice(&bytes).unwrap();
    let dropped = json!({"type": "Replace", "pattern": {"String": "\u{1}"}, "content": ""});
    tokenizer["normalizer"] = json!({"type": "Sequence", "normalizers": [dropped]});
    workspace.write("given.json", tokenizer.to_string().as_bytes());
    let yaml = fs::read_to_string(workspace.path(CORPUS_FILE)).unwrap();
    let yaml = yaml.replace("{train: {vocab_size: 600}}", "{file: given.json}");
    workspace.write(CORPUS_FILE, yaml.as_bytes());
    fs::remove_dir_all(workspace.path("out")).unwrap();
    workspace
}

/// The point after the first `count` shards of a split, from what the next one begins with.
fn point_after(workspace: &Workspace, split: &Split, count: usize) -> SeriesPoint {
    let shards: Vec<Shard> = split.shards[..count].to_vec();
    if count == 0 {
        return SeriesPoint::default();
    }
    let first = &workspace.shard_chunks(&split.shards[count..=count])[0];
    let before = workspace.shard_chunks(&shards);
    let same = before
        .iter()
        .filter(|chunk| chunk.document == first.document);
    let next = Position {
        document: first.document,
        chunk: same.count() as u64,
    };
    SeriesPoint { shards, next }
}

/// The shards that a point calls finished, as files of the staging folder.
fn stage(workspace: &Workspace, corpus: &BTreeMap<String, Vec<u8>>, point: &SavePoint) {
    for shard in point.shards() {
        let file = &shard.stored.file;
        workspace.write(&format!("out/{STAGING}/{file}"), &corpus[file]);
    }
    point
        .write(&workspace.path("out").join(STAGING), "clinic/notes")
        .unwrap();
}

#[test]
fn from_every_save_point_the_corpus_comes_to_the_same_bytes() {
    let workspace = workspace();
    fs::create_dir_all(workspace.path("out/tokenizer.json")).unwrap();
    // Stopped before the end, so that the staging folder stays.
    workspace.prepare().unwrap_err();
    let staging = workspace.path("out").join(STAGING);
    copy(&staging, &workspace.path("staged"));
    let fingerprint = SavePoint::read(&staging, "clinic/notes")
        .unwrap()
        .fingerprint;
    fs::remove_dir(workspace.path("out/tokenizer.json")).unwrap();
    let manifest: Manifest = workspace.prepare().unwrap();
    let corpus = contents(&workspace.path("out"));
    fs::rename(workspace.path("out"), workspace.path("whole")).unwrap();
    let source = only_source(&manifest);
    assert_eq!(source.dropped["empty"], 22);
    let (train, held_out) = (&source.train, &source.held_out);
    let ends = [train.shards.len(), held_out.shards.len()];
    assert!(ends[0] > 3 && ends[1] > 3, "{ends:?} shards");
    assert!(read_shard(&workspace.path("whole"), &train.shards[1])[0].document > 0);

    fs::rename(workspace.path("whole"), workspace.path("out")).unwrap();
    let points: Vec<(SeriesPoint, SeriesPoint)> = (0..ends[0])
        .flat_map(|train_end| (0..ends[1]).map(move |held_out_end| (train_end, held_out_end)))
        .map(|(train_end, held_out_end)| {
            (
                point_after(&workspace, train, train_end),
                point_after(&workspace, held_out, held_out_end),
            )
        })
        .collect();
    let cut_documents = points.iter().filter(|(train, _)| train.next.chunk > 0);
    assert!(cut_documents.count() > 0);
    for (train, held_out) in points {
        fs::remove_dir_all(workspace.path("out")).unwrap();
        for file in ["begun.json", "tokenizer.json", "tokenizer_config.json"] {
            let bytes = fs::read(workspace.path("staged").join(file)).unwrap();
            workspace.write(&format!("out/{STAGING}/{file}"), &bytes);
        }
        let point = SavePoint {
            fingerprint: fingerprint.clone(),
            state: State::Unfinished { train, held_out },
        };
        stage(&workspace, &corpus, &point);
        assert_eq!(workspace.prepare().unwrap(), manifest);
        assert_same(&contents(&workspace.path("out")), &corpus);
    }
}

#[test]
fn a_damaged_save_point_costs_its_source_and_nothing_else() {
    let workspace = workspace();
    fs::create_dir_all(workspace.path("out/prepared.json")).unwrap();
    workspace.prepare().unwrap_err();
    fs::remove_dir(workspace.path("out/prepared.json")).unwrap();
    copy(&workspace.path("out"), &workspace.path("stopped"));
    workspace.prepare().unwrap();
    let corpus = contents(&workspace.path("out"));
    let shard = "clinic/notes/held-out-00000.arrow";
    for (file, bytes) in [
        (shard, None),
        (shard, Some(&b"other bytes"[..])),
        (shard, Some(&corpus["clinic/notes/train-00000.arrow"][..])),
        ("clinic/notes/unigrams.arrow", None),
        ("clinic/notes/save-point.json", None),
        (
            "clinic/notes/save-point.json",
            Some(b"{\"fingerprint\": \""),
        ),
        ("begun.json", Some(b"{}")),
        ("tokenizer.json", Some(b"{}")),
    ] {
        fs::remove_dir_all(workspace.path("out")).unwrap();
        // What it was before the move began, but for one file.
        let stopped = workspace.path("stopped");
        let staged = workspace.path("out").join(STAGING);
        copy(&stopped, &staged);
        copy(&stopped.join(STAGING), &staged);
        fs::remove_dir_all(staged.join(STAGING)).unwrap();
        fs::remove_file(staged.join("manifest.json")).unwrap();
        match bytes {
            Some(bytes) => fs::write(staged.join(file), bytes).unwrap(),
            None => fs::remove_file(staged.join(file)).unwrap(),
        }
        workspace.prepare().unwrap();
        assert_same(&contents(&workspace.path("out")), &corpus);
    }
}
