//! A configuration that is changed while its preparation is interrupted, and changed back; and a
//! preparation that has lost some of what it needs to go on.

use std::fs;
use std::process::Command;

use cohort::corpus::Manifest;
use cohort::prepare::synthetic::{Notes, Style};
use serde_json::json;

use super::super::folders::contents;
use super::super::{CORPUS_FILE, Workspace, synthetic};
use super::{STAGING, assert_same, copy, identity};

const SETTINGS: &str = "max_length: 64\nheld_out: 0.2\nshard_bytes: 4096\n\
    cleaning: {near_duplicates: {threshold: 0.8}}";
const NOTES: u64 = 30;
/// The sources of the corpus that is wanted; the last repeats what `one` and `two` have.
const WANTED: [&str; 3] = ["zero", "one", "last"];
/// What is finished of it when it is interrupted: a damaged source stands in the last one's place.
const BEGUN: [&str; 3] = ["zero", "one", "cut"];

/// Files of sources, and a tokenizer that depends on none of them.
fn workspace() -> Workspace {
    let workspace = Workspace::new(SETTINGS, &synthetic("triage_line", 50));
    workspace.prepare().unwrap();
    fs::rename(
        workspace.path("out/tokenizer.json"),
        workspace.path("given.json"),
    )
    .unwrap();
    fs::remove_dir_all(workspace.path("out")).unwrap();
    let lines = |name: &str| -> String {
        let notes = Notes::new(Style::RadiologyReport, "clinic", name);
        let line = |number| json!({ "text": notes.note(number) }).to_string() + "\n";
        (0..NOTES).map(line).collect()
    };
    for name in ["zero", "one", "two"] {
        workspace.write(&format!("{name}.jsonl"), lines(name).as_bytes());
    }
    let last = ["one", "last", "two"].map(lines).concat();
    workspace.write("last.jsonl", last.as_bytes());
    let cut = lines("cut") + "{\"text\": \"";
    workspace.write("cut.jsonl", cut.as_bytes());
    workspace
}

/// Prepares these sources, each from the file of its name or the one after `=`.
fn prepare(workspace: &Workspace, sources: &[&str]) -> anyhow::Result<Manifest> {
    configure(workspace, SETTINGS, sources);
    workspace.prepare()
}

fn configure(workspace: &Workspace, settings: &str, sources: &[&str]) {
    let source = |source: &&str| {
        let (id, file) = source.split_once('=').unwrap_or((source, source));
        format!(
            "  - {{id: {id}, licence: x, read: {{json_lines: {{path: {file}.jsonl, text: text}}}}}}"
        )
    };
    let sources: Vec<String> = sources.iter().map(source).collect();
    workspace.configure(settings, &sources.join("\n"));
    let yaml = fs::read_to_string(workspace.path(CORPUS_FILE)).unwrap();
    let yaml = yaml.replace("{train: {vocab_size: 600}}", "{file: given.json}");
    workspace.write(CORPUS_FILE, yaml.as_bytes());
}

#[test]
fn sources_that_were_changed_and_changed_back_come_to_the_same_bytes() {
    let workspace = workspace();
    let manifest = prepare(&workspace, &WANTED).unwrap();
    let dropped = manifest.sources().map(|(_, _, source)| &source.dropped);
    assert_eq!(dropped.last().unwrap()["duplicate"], NOTES);
    let expected = contents(&workspace.path("out"));

    // What is prepared between the two runs of the wanted corpus, and whether the first source's
    // shards have to be those of the first run.
    let between: [(&[&[&str]], bool); 7] = [
        (&[], true),
        (&[&["zero", "two", "cut"]], true),
        (&[&["zero", "cut"]], true),
        (&[&["zero", "one=cut"]], true),
        (&[&["zero", "two", "one", "cut"], &["zero", "cut"]], true),
        (
            &[&["zero", "one", "two", "cut"], &["zero", "two", "cut"]],
            true,
        ),
        (&[&["cut"]], false),
    ];
    for (between, is_kept) in between {
        fs::remove_dir_all(workspace.path("out")).unwrap();
        prepare(&workspace, &BEGUN).unwrap_err();
        let shard = "clinic/zero/train-00000.arrow";
        let begun = identity(&workspace.path("out").join(STAGING).join(shard));
        for sources in between {
            prepare(&workspace, sources).unwrap_err();
        }
        assert_eq!(
            prepare(&workspace, &WANTED).unwrap(),
            manifest,
            "{between:?}"
        );
        assert_same(&contents(&workspace.path("out")), &expected);
        let found = identity(&workspace.path("out").join(shard));
        assert_eq!(found == begun, is_kept, "{between:?}");
    }
}

#[test]
fn whatever_is_lost_of_the_cleaning_is_made_again() {
    let workspace = workspace();
    prepare(&workspace, &WANTED).unwrap();
    let expected = contents(&workspace.path("out"));
    fs::remove_dir_all(workspace.path("out")).unwrap();
    prepare(&workspace, &BEGUN).unwrap_err();
    let (out, begun) = (workspace.path("out"), workspace.path("begun"));
    fs::rename(&out, &begun).unwrap();
    let folder = format!("{STAGING}/.cleaning");
    let files = contents(&begun.join(&folder));
    let kinds = ["texts-", "bands-", "signatures-", "report-"];
    for kind in kinds {
        let of_kind = |name: &&String| name.starts_with(kind);
        assert!(files.keys().filter(of_kind).count() >= 2, "{kind}");
    }
    for (name, bytes) in &files {
        for left in [None, Some(&bytes[..bytes.len() / 2])] {
            copy(&begun, &out);
            let path = out.join(&folder).join(name);
            match left {
                None => fs::remove_file(path).unwrap(),
                Some(bytes) => fs::write(path, bytes).unwrap(),
            }
            prepare(&workspace, &WANTED).unwrap();
            assert_same(&contents(&out), &expected);
            fs::remove_dir_all(&out).unwrap();
        }
    }

    // Damage that no size tells of is told of, with a way out.
    copy(&begun, &out);
    let name = files.keys().find(|name| name.starts_with("texts-"));
    let (path, mut bytes) = (out.join(&folder).join(name.unwrap()), Vec::new());
    bytes.clone_from(&files[name.unwrap()]);
    bytes[40] = 0xff;
    bytes[47] = 0xff;
    fs::write(path, bytes).unwrap();
    let error = prepare(&workspace, &WANTED).unwrap_err();
    insta::assert_snapshot!(workspace.shown(&error), @r"
    cannot read DIR/out/.preparing/.cleaning/texts-00000-00001.run: it is damaged: its entries are out of order
      hint: delete the folder .preparing in `output`, and run again
    ");
    fs::remove_dir_all(out.join(STAGING)).unwrap();
    prepare(&workspace, &WANTED).unwrap();
    assert_same(&contents(&out), &expected);
}

/// A file on which another is mounted cannot be removed.
const WITH_A_FILE_THAT_STAYS: &str = r#"
mount --bind "$3" "$3" || exit 77
"$1" prepare "$2" && exit 1
exit 0
"#;

#[test]
fn what_is_left_of_a_discarded_preparation_is_no_beginning() {
    let workspace = workspace();
    prepare(&workspace, &WANTED).unwrap();
    let expected = contents(&workspace.path("out"));
    fs::remove_dir_all(workspace.path("out")).unwrap();
    prepare(&workspace, &BEGUN).unwrap_err();

    // Other settings: all is given up, and that stops where it may.
    let staging = workspace.path("out").join(STAGING);
    configure(&workspace, "max_length: 32", &BEGUN);
    let run = Command::new("unshare")
        .args(["-rm", "sh", "-c", WITH_A_FILE_THAT_STAYS, "sh"])
        .arg(env!("CARGO_BIN_EXE_cohort"))
        .arg(workspace.path(CORPUS_FILE))
        .arg(staging.join("tokenizer.json"))
        .output();
    let said = match run {
        Err(error) => return crate::support::skipped(&format!("no program unshare: {error}")),
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            if output.status.code() == Some(77) || said.contains("unshare failed") {
                return crate::support::skipped(&format!("nothing can be mounted: {said}"));
            }
            assert!(output.status.success(), "{said}");
            said
        }
    };
    assert!(said.contains("cannot remove "), "{said}");
    assert!(staging.join("tokenizer.json").exists());
    assert!(!staging.join("begun.json").exists());
    prepare(&workspace, &WANTED).unwrap();
    assert_same(&contents(&workspace.path("out")), &expected);
}

#[test]
fn a_tokenizer_that_is_staged_is_not_written_again() {
    let workspace = workspace();
    prepare(&workspace, &BEGUN).unwrap_err();
    let staged = workspace.path("out").join(STAGING);
    let files = ["tokenizer.json", "tokenizer_config.json"];
    let begun = files.map(|file| identity(&staged.join(file)).unwrap());
    prepare(&workspace, &BEGUN).unwrap_err();
    prepare(&workspace, &WANTED).unwrap();
    let published = files.map(|file| identity(&workspace.path("out").join(file)).unwrap());
    assert_eq!(published, begun);
}
