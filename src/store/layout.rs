//! Every key of a run's store, built and parsed here and nowhere else.
//!
//! Pure. Parsers accept exactly what the builders build, so that a stray file is never taken for
//! part of a run. Keys are relative to the run's store:
//!
//! ```text
//! run.yaml
//! coordinator.json
//! metrics.jsonl
//! journal/epoch-00000007.json
//! journal/epoch-00000007/entry-00000042.json
//! checkpoints/step-00001200/MANIFEST.json …
//! pins/step-00001200/<branch>.json
//! ```

use crate::ids::{Epoch, Step};

/// The run as started.
pub const RUN_FILE: &str = "run.yaml";
/// Where the current coordinator listens; overwritten by each.
pub const COORDINATOR_FILE: &str = "coordinator.json";
/// One line a step.
pub const METRICS_FILE: &str = "metrics.jsonl";
/// The held-out scores, one line each.
pub const EVALUATIONS_FILE: &str = "evaluations.jsonl";
/// How the run went on after each generation that ended, one line each.
pub const RECOVERIES_FILE: &str = "recoveries.jsonl";
/// Where the run's time went.
pub const GOODPUT_FILE: &str = "goodput.json";
/// The checkpoint that a branch grew from.
pub const BRANCH_FILE: &str = "branch.json";

/// The folder of epochs and the coordinators' events.
pub const JOURNAL_FOLDER: &str = "journal";
/// The folder of all checkpoints.
pub const CHECKPOINTS_FOLDER: &str = "checkpoints";
/// The folder of the marks that keep a branch's parent.
pub const PINS_FOLDER: &str = "pins";

/// The file whose existence makes a checkpoint exist.
pub const MANIFEST_FILE: &str = "MANIFEST.json";
pub const MODEL_FILE: &str = "model.safetensors";
pub const MODEL_CONFIG_FILE: &str = "config.json";
pub const OPTIMIZER_FILE: &str = "optimizer.safetensors";
pub const STATE_FILE: &str = "state.json";
pub const LEDGER_FILE: &str = "ledger.json";

/// Bytes of the longest file or branch name in a key.
const NAME_BYTES_MAX: usize = 128;

/// The claim of an epoch: `journal/epoch-00000007.json`.
pub fn epoch(epoch: Epoch) -> String {
    format!("{JOURNAL_FOLDER}/epoch-{:08}.json", epoch.0)
}

pub fn parse_epoch(key: &str) -> Option<Epoch> {
    let middle = key
        .strip_prefix(JOURNAL_FOLDER)?
        .strip_prefix("/epoch-")?
        .strip_suffix(".json")?;
    parse_number(middle).map(Epoch)
}

/// One record of a coordinator's events: `journal/epoch-00000007/entry-00000042.json`. Numbers
/// begin anew with each epoch, so two coordinators never want the same key.
pub fn journal_entry(epoch: Epoch, number: u64) -> String {
    format!(
        "{JOURNAL_FOLDER}/epoch-{:08}/entry-{number:08}.json",
        epoch.0
    )
}

pub fn parse_journal_entry(key: &str) -> Option<(Epoch, u64)> {
    let rest = key.strip_prefix(JOURNAL_FOLDER)?.strip_prefix("/epoch-")?;
    let (epoch, entry) = rest.split_once('/')?;
    let number = entry.strip_prefix("entry-")?.strip_suffix(".json")?;
    Some((Epoch(parse_number(epoch)?), parse_number(number)?))
}

/// `checkpoints/step-00001200`.
pub fn checkpoint_folder(step: Step) -> String {
    format!("{CHECKPOINTS_FOLDER}/step-{:08}", step.0)
}

/// `checkpoints/step-00001200/<name>`; the name must be a [`plain_name`].
pub fn checkpoint_file(step: Step, name: &str) -> String {
    assert!(
        plain_name(name),
        "a checkpoint's file name was not checked: {name:?}"
    );
    format!("{}/{name}", checkpoint_folder(step))
}

pub fn parse_checkpoint_file(key: &str) -> Option<(Step, &str)> {
    let rest = key.strip_prefix(CHECKPOINTS_FOLDER)?.strip_prefix('/')?;
    let (folder, name) = rest.split_once('/')?;
    let step = parse_step_folder(folder)?;
    plain_name(name).then_some((step, name))
}

/// The step of a folder named `step-00001200`, as users type checkpoints.
pub fn parse_step_folder(folder: &str) -> Option<Step> {
    parse_number(folder.strip_prefix("step-")?).map(Step)
}

/// The mark that a branch grows from a checkpoint: `pins/step-00001200/<branch>.json`; the branch
/// must be a [`plain_name`].
pub fn pin(step: Step, branch: &str) -> String {
    assert!(
        plain_name(branch),
        "a branch's name was not checked: {branch:?}"
    );
    format!("{PINS_FOLDER}/step-{:08}/{branch}.json", step.0)
}

pub fn parse_pin(key: &str) -> Option<(Step, &str)> {
    let rest = key.strip_prefix(PINS_FOLDER)?.strip_prefix('/')?;
    let (folder, file) = rest.split_once('/')?;
    let branch = file.strip_suffix(".json")?;
    plain_name(branch).then_some((parse_step_folder(folder)?, branch))
}

/// A throw-away object that tries whether the store takes writes.
pub fn probe(unique: u64) -> String {
    format!("write-probe-{unique:016x}")
}

/// Whether a name can stand as the last segment of a key in every store and as a file name on every
/// disk: letters, digits, `.`, `-` and `_`, not beginning with a dot.
pub fn plain_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= NAME_BYTES_MAX
        && !name.starts_with('.')
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte))
}

/// A number as the builders write it: eight digits, more only where it needs them.
fn parse_number(digits: &str) -> Option<u64> {
    let number: u64 = digits.parse().ok()?;
    (format!("{number:08}") == digits).then_some(number)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn keys_are_those_of_the_documented_layout() {
        assert_eq!(epoch(Epoch(7)), "journal/epoch-00000007.json");
        assert_eq!(
            journal_entry(Epoch(7), 42),
            "journal/epoch-00000007/entry-00000042.json"
        );
        assert_eq!(
            checkpoint_file(Step(1200), MANIFEST_FILE),
            "checkpoints/step-00001200/MANIFEST.json"
        );
        assert_eq!(
            pin(Step(1200), "decay-a"),
            "pins/step-00001200/decay-a.json"
        );
    }

    #[test]
    fn strays_are_not_taken_for_keys() {
        for stray in [
            "journal/epoch-7.json",
            "journal/epoch-+0000007.json",
            "journal/epoch-00000007.json.bak",
            "journal/epoch-00000007/entry-00000042.json",
            "journals/epoch-00000007.json",
        ] {
            assert_eq!(parse_epoch(stray), None, "{stray}");
        }
        for stray in [
            "checkpoints/step-1200/model.safetensors",
            "checkpoints/step-000001200/model.safetensors",
            "checkpoints/step-00001200/",
            "checkpoints/step-00001200/sub/model.safetensors",
            "checkpoints/step-00001200/.hidden",
            "checkpoints/step-00001200",
        ] {
            assert_eq!(parse_checkpoint_file(stray), None, "{stray}");
        }
        for name in [
            "",
            ".",
            "..",
            "a/b",
            "../state.json",
            "a b",
            "model#1",
            "é",
            "a\\b",
        ] {
            assert!(!plain_name(name), "{name:?}");
        }
    }

    proptest! {
        #[test]
        fn every_key_parses_back(number in any::<u64>(), other in any::<u64>(),
                                 name in "[A-Za-z0-9_][A-Za-z0-9._-]{0,40}") {
            prop_assert_eq!(parse_epoch(&epoch(Epoch(number))), Some(Epoch(number)));
            prop_assert_eq!(
                parse_journal_entry(&journal_entry(Epoch(number), other)),
                Some((Epoch(number), other))
            );
            let step = Step(number);
            let key = checkpoint_file(step, &name);
            prop_assert_eq!(parse_checkpoint_file(&key), Some((step, &*name)));
            let key = pin(step, &name);
            prop_assert_eq!(parse_pin(&key), Some((step, &*name)));
        }

        #[test]
        fn what_parses_is_what_the_builder_builds(
            key in "(journal|checkpoints|pins)/(epoch|step)-[0-9]{7,10}\
                    (/entry-[0-9]{8}|/[a-z.]{1,6})?(\\.json)?"
        ) {
            if let Some(number) = parse_epoch(&key) {
                prop_assert_eq!(epoch(number), key.clone());
            }
            if let Some((number, entry)) = parse_journal_entry(&key) {
                prop_assert_eq!(journal_entry(number, entry), key.clone());
            }
            if let Some((step, name)) = parse_checkpoint_file(&key) {
                prop_assert_eq!(checkpoint_file(step, name), key.clone());
            }
            if let Some((step, branch)) = parse_pin(&key) {
                prop_assert_eq!(pin(step, branch), key.clone());
            }
        }
    }
}
