//! What is left of a schedule after a checkpoint, and what of a mixture without an institution.

use crate::corpus::{Institution, Source, Split, StoredFile, TokenizerInfo};
use crate::ids::{CommandId, Epoch, Generation, RowIndex, Step};
use crate::run::ledger::Consumed;
use crate::run::progress::Progress;
use crate::run::schedule::{RowsWarmup, Shape};
use crate::store::manifest::MANIFEST_VERSION;
use crate::train::state::STATE_VERSION;

use super::*;

fn numbers(pairs: &[(&str, f64)]) -> BTreeMap<String, f64> {
    let owned = pairs.iter().map(|&(name, value)| (name.to_owned(), value));
    owned.collect()
}

/// A corpus of institutions with one source `a` each, which has so many chunks.
fn corpus(institutions: &[(&str, u64)]) -> Manifest {
    let file = StoredFile {
        file: String::new(),
        bytes: 0,
        digest: String::new(),
    };
    let institution = |&(id, chunks): &(&str, u64)| Institution {
        id: id.to_owned(),
        name: id.to_owned(),
        country: None,
        sources: vec![Source {
            id: "a".to_owned(),
            licence: "none".to_owned(),
            train: Split {
                documents: chunks,
                chunks,
                tokens: chunks * 10,
                ..Split::default()
            },
            held_out: Split::default(),
            dropped: BTreeMap::new(),
            unigrams: file.clone(),
        }],
    };
    Manifest {
        version: 2,
        name: "test".to_owned(),
        tokenizer: TokenizerInfo {
            digest: String::new(),
            new_tokens: None,
            vocab_size: 100,
            cls: 1,
            sep: 2,
            pad: 3,
            mask: 4,
            unk: 5,
            random_ids_end: 90,
        },
        max_length: 64,
        held_out_permille: 0,
        institutions: institutions.iter().map(institution).collect(),
    }
}

#[test]
fn mixtures_leave_an_institution_out() {
    let epochs = |pairs| Mixture::Epochs(numbers(pairs));
    let whole = [("north", 5), ("south", 5), ("west", 5), ("east", 5)];
    let prepared_again = &whole[..3];
    let named = [
        ("*", 1.0),
        ("north/*", 1.0),
        ("south/a", 2.0),
        ("west/*", 1.0),
    ];
    let cases = [
        // Without a corpus to look at, what was always right for one that has the institution.
        (None, Mixture::All, epochs(&[("*", 1.0), ("east/*", 0.0)])),
        (
            None,
            Mixture::Weights(numbers(&[("east/a", 2.0), ("eastern/a", 1.0)])),
            Mixture::Weights(numbers(&[("eastern/a", 1.0)])),
        ),
        (
            Some(&whole[..]),
            Mixture::All,
            epochs(&[("*", 1.0), ("east/*", 0.0)]),
        ),
        (Some(prepared_again), Mixture::All, Mixture::All),
        (
            Some(prepared_again),
            epochs(&[("*", 1.0), ("east/*", 3.0)]),
            epochs(&[("*", 1.0)]),
        ),
        // All others are named, so that `*` decides nothing without the institution.
        (Some(&whole[..]), epochs(&named), epochs(&named[1..])),
        (Some(prepared_again), epochs(&named), epochs(&named[1..])),
        // A pattern whose sources are empty is refused, also with a zero.
        (
            Some(&[("north", 5), ("east", 0)][..]),
            epochs(&[("*", 1.0)]),
            epochs(&[("*", 1.0)]),
        ),
    ];
    for (institutions, mut mixture, expected) in cases {
        let manifest = institutions.map(corpus);
        leave_out(&mut mixture, "east", manifest.as_ref());
        assert_eq!(mixture, expected);
        assert!(reads(&mixture));
        if let Some(manifest) = manifest {
            mixture.resolve(&manifest).unwrap();
        }
    }
    for manifest in [None, Some(corpus(&whole))] {
        let mut alone = epochs(&[("east/*", 2.0)]);
        leave_out(&mut alone, "east", manifest.as_ref());
        assert!(!reads(&alone));
    }
    let mut all = Mixture::All;
    leave_out(&mut all, "east", Some(&corpus(&[("east", 5)])));
    assert!(!reads(&all));
}

fn phase(name: &str, tokens: Option<u64>, shape: Shape) -> PhaseSettings {
    PhaseSettings {
        name: name.to_owned(),
        tokens,
        mixture: Mixture::All,
        max_epochs: BTreeMap::new(),
        mask_rate: 0.3,
        learning_rate: 1e-3,
        warmup_tokens: 100,
        shape,
        decay_tokens: None,
        floor: 0.0,
        rows_warmup: Some(RowsWarmup {
            from_rows: 1,
            tokens: 500,
        }),
    }
}

/// A checkpoint in the phase `phase` of which 400 of 1,000 tokens are done.
fn manifest(phase: &PhaseSettings, reason: Reason) -> CheckpointManifest {
    CheckpointManifest {
        version: MANIFEST_VERSION,
        run: "trial".to_owned(),
        step: Step(4),
        epoch: Epoch(1),
        generation: Generation(1),
        phase: phase.name.clone(),
        phase_kind: phase.kind(),
        tokens: 400,
        rows: 4,
        created_at: String::new(),
        reason,
        parent: None,
        pinned: false,
        files: Vec::new(),
    }
}

fn progress(phase: usize) -> Progress {
    Progress {
        step: Step(4),
        tokens: 400,
        phase,
        phase_tokens: 400,
        phase_length_tokens: 1_000,
        next_row: RowIndex(4),
        ..Progress::default()
    }
}

fn start<'a>(
    manifest: &'a CheckpointManifest,
    ledger: &'a Ledger,
    progress: Progress,
) -> Start<'a> {
    Start {
        url: "runs/trial/checkpoints/step-00000004".to_owned(),
        manifest,
        ledger,
        state: TrainingState {
            version: STATE_VERSION,
            tokenizer: String::new(),
            plan: String::new(),
            optimizer_steps: 4,
            rows: 4,
            progress,
        },
        decay: None,
        is_parent: false,
    }
}

/// Names and lengths.
fn lengths(phases: &[PhaseSettings]) -> Vec<(&str, Option<u64>)> {
    let lengths = phases
        .iter()
        .map(|phase| (phase.name.as_str(), phase.tokens));
    lengths.collect()
}

#[test]
fn only_what_is_left_of_a_schedule_stays() {
    let stable = phase("stable", None, Shape::Constant);
    let more = phase("more", None, Shape::Constant);
    let decay = phase("decay", Some(300), Shape::Linear);
    let phases = [stable.clone(), more, decay.clone()];
    let ledger = Ledger::default();

    let halfway = manifest(&stable, Reason::Interval);
    let half = left(&phases, &start(&halfway, &ledger, progress(0))).unwrap();
    let expected = [("stable", Some(600)), ("more", None), ("decay", Some(300))];
    assert_eq!(lengths(&half), expected);
    assert_eq!((half[0].warmup_tokens, half[0].rows_warmup), (0, None));
    assert_eq!(half[1].warmup_tokens, 100, "that one has yet to begin");

    let ended = manifest(&stable, Reason::PhaseEnd);
    let next = Progress {
        phase_start: Step(4),
        phase_tokens: 0,
        next_row: RowIndex(0),
        ..progress(1)
    };
    let rest = left(&phases, &start(&ended, &ledger, next)).unwrap();
    assert_eq!(lengths(&rest), [("more", None), ("decay", Some(300))]);
    assert_eq!(rest[0].warmup_tokens, 100);

    // Left on command: the decay comes next, as long as the operator said.
    let mut commanded = start(&ended, &ledger, progress(0));
    for (tokens, expected) in [(None, 300), (Some(120), 120)] {
        commanded.decay = Some(AppliedDecay {
            command: CommandId(1),
            step: Step(4),
            tokens,
        });
        let rest = left(&phases, &commanded).unwrap();
        assert_eq!(lengths(&rest), [("decay", Some(expected))]);
    }

    let over = Progress {
        finished: true,
        phase_length_tokens: 400,
        ..progress(0)
    };
    let last = [phase("stable", Some(400), Shape::Constant)];
    assert!(
        left(&last, &start(&ended, &ledger, over.clone()))
            .unwrap()
            .is_empty()
    );
    let longer = [phase("stable", Some(900), Shape::Constant)];
    let rest = left(&longer, &start(&ended, &ledger, over)).unwrap();
    assert_eq!(lengths(&rest), [("stable", Some(500))], "made longer since");
}

#[test]
fn a_decay_is_not_gone_on_in_and_a_branch_begins_where_it_began() {
    let stable = phase("stable", None, Shape::Constant);
    let decay = phase("decay", Some(1_000), Shape::Linear);
    let phases = [stable.clone(), decay.clone()];
    let mut ledger = Ledger::default();
    let one = Consumed {
        tokens: 1,
        chunks: 1,
        documents: 1,
        ..Consumed::default()
    };
    ledger.add("stable", "north/a", one);
    let inside = manifest(&decay, Reason::Interval);
    let error = left(&phases, &start(&inside, &ledger, progress(1))).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("stands inside the decay \"decay\""),
        "{error}"
    );

    let parent = manifest(&stable, Reason::Interval);
    let parent = Start {
        is_parent: true,
        ..start(&parent, &ledger, progress(0))
    };
    assert_eq!(
        lengths(&left(&phases, &parent).unwrap()),
        [("decay", Some(1_000))]
    );
    let mut renamed = left(&phases, &parent).unwrap();
    renamed.push(phase("decay-without-east", None, Shape::Linear));
    rename(&mut renamed, "east", &ledger);
    assert_ne!(renamed[0].name, "decay-without-east", "that name is taken");
    assert!(renamed[0].name.starts_with("decay-without-east-"));
}
