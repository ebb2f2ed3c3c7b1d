//! The last step of a preparation, the move to where the corpus belongs, failing anywhere.

use std::fs;

use cohort::corpus::MANIFEST_FILE;
use cohort::prepare;

use super::super::folders::{Recorder, contents};
use super::super::{CORPUS_FILE, Workspace, synthetic};
use super::{STAGING, assert_same, copy};

const SETTINGS: [&str; 2] = ["max_length: 64", "max_length: 32\nshard_bytes: 2048"];

fn old_sources() -> String {
    let more = "  - {id: zebra, licence: x, read: {synthetic: {style: dialogue, documents: 5}}}";
    format!("{}\n{more}", synthetic("triage_line", 60))
}

fn new_sources() -> String {
    let more = "  - {id: talks, licence: x, read: {synthetic: {style: dialogue, documents: 5}}}";
    format!("{}\n{more}", synthetic("triage_line", 70))
}

/// Prepares, and tells which stages that had.
fn stages(workspace: &Workspace) -> anyhow::Result<Vec<String>> {
    let mut recorder = Recorder::default();
    let origin = workspace.path(CORPUS_FILE);
    prepare::run(&workspace.config(), &origin, &mut recorder)?;
    Ok(recorder.begun)
}

#[test]
fn a_move_that_was_interrupted_is_finished() {
    let workspace = Workspace::new(SETTINGS[1], &new_sources());
    stages(&workspace).unwrap();
    let new = contents(&workspace.path("out"));
    fs::remove_dir_all(workspace.path("out")).unwrap();
    workspace.configure(SETTINGS[0], &old_sources());
    stages(&workspace).unwrap();
    fs::rename(workspace.path("out"), workspace.path("old")).unwrap();
    let old = contents(&workspace.path("old"));

    // A folder in the place of a file stops the move there; shards move in the order of their
    // names, what stands beside the manifest after them, and the manifest last.
    for obstacle in [
        "clinic/notes/train-00000.arrow",
        "clinic/talks/train-00002.arrow",
        "tokenizer_config.json",
        "prepared.json",
    ] {
        let out = workspace.path("out");
        fs::create_dir(&out).unwrap();
        copy(&workspace.path("old"), &out);
        if old.contains_key(obstacle) {
            fs::remove_file(out.join(obstacle)).unwrap();
        }
        fs::create_dir_all(out.join(obstacle).join("in the way")).unwrap();
        workspace.configure(SETTINGS[1], &new_sources());
        let error = format!("{:#}", stages(&workspace).unwrap_err());
        assert!(error.contains("cannot move "), "{error}");
        assert!(!out.join(MANIFEST_FILE).exists(), "{obstacle}");
        let staged = contents(&out.join(STAGING));
        assert!(staged.contains_key(MANIFEST_FILE) && staged.contains_key("begun.json"));
        copy(&out, &workspace.path("stopped"));

        fs::remove_dir_all(out.join(obstacle)).unwrap();
        assert_eq!(stages(&workspace).unwrap(), Vec::<String>::new());
        assert_same(&contents(&out), &new);
        assert!(!out.join(STAGING).exists());

        // Killed after its last move, before all that was left in the staging folder had gone.
        let begun = &staged["begun.json"];
        workspace.write("out/.preparing/begun.json", begun);
        workspace.write("out/.preparing/clinic/notes/save-point.json", b"{}");
        assert_eq!(stages(&workspace).unwrap(), Vec::<String>::new());
        assert_same(&contents(&out), &new);
        assert!(!out.join(STAGING).exists());

        // Another corpus is wanted by now: nothing of the half-moved one stays.
        fs::remove_dir_all(&out).unwrap();
        fs::rename(workspace.path("stopped"), &out).unwrap();
        workspace.configure(SETTINGS[0], &old_sources());
        assert_eq!(stages(&workspace).unwrap().len(), 3);
        assert_same(&contents(&out), &old);
        fs::remove_dir_all(&out).unwrap();
    }
}

#[test]
fn a_half_moved_corpus_that_was_damaged_is_made_anew() {
    let workspace = Workspace::new(SETTINGS[1], &new_sources());
    stages(&workspace).unwrap();
    let new = contents(&workspace.path("out"));
    fs::remove_dir_all(workspace.path("out")).unwrap();
    fs::create_dir_all(workspace.path("out/prepared.json")).unwrap();
    stages(&workspace).unwrap_err();
    fs::remove_dir(workspace.path("out/prepared.json")).unwrap();
    let shard = workspace.path("out/clinic/notes/train-00000.arrow");
    let mut bytes = fs::read(&shard).unwrap();
    bytes[100] ^= 1;
    fs::write(&shard, bytes).unwrap();
    assert_eq!(stages(&workspace).unwrap().len(), 3);
    assert_same(&contents(&workspace.path("out")), &new);
}
