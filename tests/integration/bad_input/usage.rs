//! Arguments that name nothing usable.

use super::{PRIVATE, Place};

#[test]
fn bad_usage_ends_with_code_2() {
    let place = Place::new();
    for arguments in [
        &["plan"][..],
        &["trian", "run.yaml"],
        &["work"],
        &["inspect", "run.yaml", "--output", "rows.safetensors"],
    ] {
        let outcome = place.cohort(arguments);
        assert_eq!(outcome.code, Some(2), "{arguments:?}: {}", outcome.stderr);
        assert!(
            outcome.stderr.contains("Usage: cohort"),
            "{}",
            outcome.stderr
        );
    }
}

#[test]
fn a_configuration_that_is_not_there() {
    let place = Place::new();
    for command in ["plan", "train", "coordinate", "prepare"] {
        let stderr = place.refused(&[command, "missing.yaml"]);
        assert_eq!(
            stderr,
            "error: cannot read the configuration missing.yaml: No such file or directory \
             (os error 2)\n"
        );
    }
}

#[test]
fn documents_are_not_taken_for_a_configuration() {
    let place = Place::new();
    place.write("notes.jsonl", format!("{{\"text\": \"{PRIVATE}\"}}\n"));
    for command in ["plan", "train", "prepare"] {
        insta::allow_duplicates! {
            insta::assert_snapshot!(place.refused(&[command, "notes.jsonl"]), @r"
            error: notes.jsonl is no configuration: its name does not end in .yaml or .yml
              hint: `cohort --help` says which files a command takes
            ");
        }
    }
}

#[test]
fn runs_and_checkpoints_that_are_not_there() {
    let place = Place::new();
    for command in [
        "status",
        "decay",
        "checkpoint",
        "pause",
        "resume",
        "stop",
        "checkpoints",
    ] {
        insta::allow_duplicates! {
            insta::assert_snapshot!(place.refused(&[command, "--run", "nowhere"]), @r"
            error: there is no run at nowhere
              hint: name the run's folder, its YAML, or its coordinator's http:// address
            ");
        }
    }
    insta::assert_snapshot!(place.refused(&["ledger", "nowhere"]), @r"
    error: there is no run at nowhere
      hint: name the run's folder, its YAML, or its coordinator's http:// address
    ");
    insta::assert_snapshot!(place.refused(&["fill-mask", "nowhere", PRIVATE]), @r"
    error: cannot read nowhere/config.json: No such file or directory (os error 2)
      hint: name a Hugging Face model directory
    ");
}
