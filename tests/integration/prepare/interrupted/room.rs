//! A disk that is full, and one that refuses large files.

use std::fs;
use std::io;
use std::process::{Command, Output};

use super::super::folders::contents;
use super::super::{Workspace, synthetic};
use super::{CORPUS_FILE, GOING_ON, assert_same};

/// Prepares on a disk of its own that is too small, makes it larger, and prepares again.
const ON_A_SMALL_DISK: &str = r#"
mount -t tmpfs -o size=512k none "$3" || exit 77
"$1" prepare "$2" > /dev/null 2> first.txt && exit 1
(cd "$3" && find . -type f) > left.txt
mount -o remount,size=64m "$3"
"$1" prepare "$2" > /dev/null 2> second.txt || exit 2
cp -r "$3"/out copied
"#;
/// The shell's blocks are of 512 or 1024 bytes.
const WITH_SMALL_FILES: &str = r#"
trap '' XFSZ
(ulimit -f 200; exec "$1" prepare "$2" > /dev/null 2> first.txt) && exit 1
(cd "$3" && find . -type f) > left.txt
"$1" prepare "$2" > /dev/null 2> second.txt || exit 2
cp -r "$3"/out copied
"#;

/// A source that is soon finished and one of large shards.
fn workspace() -> Workspace {
    with_stays("shard_bytes: 262144", "discharge_summary, documents: 500")
}

/// A source that is soon finished and one of notes in a style.
fn with_stays(settings: &str, style: &str) -> Workspace {
    let stays = format!("  - {{id: stays, licence: x, read: {{synthetic: {{style: {style}}}}}}}");
    let workspace = Workspace::new(
        &format!("max_length: 128\n{settings}"),
        &format!("{}\n{stays}", synthetic("triage_line", 20)),
    );
    let yaml = fs::read_to_string(workspace.path(CORPUS_FILE)).unwrap();
    let yaml = yaml.replace("output: out", "output: disk/out");
    workspace.write(CORPUS_FILE, yaml.as_bytes());
    workspace
}

fn run(workspace: &Workspace, program: &[&str], script: &str) -> io::Result<Output> {
    let disk = workspace.path("disk");
    fs::create_dir_all(&disk)?;
    Command::new(program[0])
        .args(&program[1..])
        .args(["sh", "-c", script, "sh", env!("CARGO_BIN_EXE_cohort")])
        .args([workspace.path(CORPUS_FILE), disk])
        .current_dir(workspace.folder.path())
        .output()
}

/// The error of the first run. No half file must have been left, and the second run must have gone
/// on to the corpus of an undisturbed one.
fn first_error(workspace: &Workspace, output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {said}", output.status);
    let read = |name: &str| fs::read_to_string(workspace.path(name)).unwrap();
    let left = read("left.txt");
    assert!(
        !left.contains("manifest.json") && !left.contains(".tmp"),
        "{left}"
    );
    assert!(
        left.contains("train-00000.arrow"),
        "{left}\n{}",
        read("first.txt")
    );
    let second = read("second.txt");
    let line = second.lines().find(|line| line.contains(GOING_ON)).unwrap();
    assert!(!line.contains("shards=0"), "{line}");
    if workspace.path("disk/out").exists() {
        fs::remove_dir_all(workspace.path("disk/out")).unwrap();
    }
    workspace.prepare().unwrap();
    let expected = contents(&workspace.path("disk/out"));
    assert_same(&contents(&workspace.path("copied")), &expected);
    let first = read("first.txt");
    let error = &first[first.find("error: ").unwrap()..];
    error.replace(&workspace.folder.path().display().to_string(), "DIR")
}

/// An error with digits in place of its numbers, which depend on the disk.
fn shape(error: &str) -> String {
    let mut shape = String::new();
    for character in error.chars() {
        let character = if character.is_ascii_digit() {
            '0'
        } else {
            character
        };
        if character != '0' || !shape.ends_with('0') {
            shape.push(character);
        }
    }
    let units = ["MiB", "GiB", "TiB"].into_iter();
    units.fold(shape.replace("0.0 ", "0 "), |shape, unit| {
        shape.replace(unit, "KiB")
    })
}

#[test]
fn a_full_disk_costs_what_was_not_finished() {
    let workspace = workspace();
    let output = match run(&workspace, &["unshare", "-rm"], ON_A_SMALL_DISK) {
        Err(error) => return crate::support::skipped(&format!("no program unshare: {error}")),
        Ok(output) => output,
    };
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.code() == Some(77) || said.contains("unshare failed") {
        crate::support::skipped(&format!("no disk of its own for this test: {said}"));
        return;
    }
    let error = first_error(&workspace, &output);
    insta::assert_snapshot!(shape(&error), @r"
    error: clinic/stays: cannot write DIR/disk/out/.preparing/clinic/stays/train-0.arrow: the disk is full; the file needs at least 0 KiB, 0 KiB are free on the disk
      hint: make room and run the same command again; it goes on from the shards that are finished
    ");
}

#[test]
fn a_limit_on_files_is_told_of_as_one() {
    let workspace = workspace();
    let output = run(&workspace, &["env"], WITH_SMALL_FILES).unwrap();
    let error = first_error(&workspace, &output);
    insta::assert_snapshot!(shape(&error), @r"
    error: clinic/stays: cannot write DIR/disk/out/.preparing/clinic/stays/train-0.arrow: files may not become that large here; the file needs at least 0 KiB, 0 KiB are free on the disk
      hint: raise the limit and run the same command again; it goes on from the shards that are finished
    ");
}

#[test]
fn a_limit_that_the_cleaning_meets_is_told_of_too() {
    // Shards far below the limit, and signatures of 256 bytes a note.
    let settings = "shard_bytes: 8192\ncleaning: {near_duplicates: {threshold: 1.0}}";
    let workspace = with_stays(settings, "dialogue, documents: 1500");
    let output = run(&workspace, &["env"], WITH_SMALL_FILES).unwrap();
    let error = first_error(&workspace, &output);
    insta::assert_snapshot!(shape(&error), @r"
    error: clinic/stays: cannot write DIR/disk/out/.preparing/.cleaning/signatures-0.bin: files may not become that large here; the file needs at least 0 KiB, 0 KiB are free on the disk
      hint: raise the limit and run the same command again; it goes on from the shards that are finished
    ");
}
