//! The coordinator's decisions, event by event.

use crate::corpus::mixture::{Mixture, repeats};
use crate::corpus::{Institution, Manifest, Source, Split, StoredFile, TokenizerInfo};
use crate::run::command::{Command, CommandKind, CommandStage};
use crate::run::progress::Progress;
use crate::run::schedule::{PhaseKind, PhaseSettings, Shape};

use super::*;

const HOUR: Duration = Duration::from_hours(1);

fn rules(ranks: u32) -> Rules {
    Rules {
        ranks,
        gather_timeout: HOUR,
        checkpoint_interval: None,
        schedule: schedule(),
    }
}

/// A stable phase and a decay, each named by its kind.
fn schedule() -> Schedule {
    let phase = |kind: PhaseKind, shape: Shape| PhaseSettings {
        name: kind.to_string(),
        tokens: None,
        mixture: Mixture::All,
        max_epochs: BTreeMap::new(),
        mask_rate: 0.3,
        learning_rate: 1e-3,
        warmup_tokens: 0,
        shape,
        decay_tokens: None,
        floor: 0.0,
        rows_warmup: None,
    };
    Schedule {
        phases: vec![
            phase(PhaseKind::Stable, Shape::Constant),
            phase(PhaseKind::Decay, Shape::Linear),
        ],
        lengths_tokens: vec![1_000, 100],
        limits: vec![None, None],
        rows: 4,
    }
}

fn joined(process: u32) -> Event {
    Event::Joined {
        host: "host".to_owned(),
        process,
    }
}

fn training(ranks: u32) -> RunState {
    let mut state = RunState::new(rules(ranks), &[], CommandId(1), Millis(0));
    for process in 0..ranks {
        state.handle(joined(process), Millis(0));
    }
    for member in 1..=ranks {
        state.handle(
            Event::Ready {
                member: MemberId(member.into()),
            },
            Millis(0),
        );
    }
    assert_eq!(state.stage, Stage::Training);
    state.handle(at(Step(5), PhaseKind::Stable), Millis(0));
    state
}

fn at(step: Step, phase_kind: PhaseKind) -> Event {
    let position = Position {
        step,
        tokens: 100,
        phase: phase_kind.to_string(),
        phase_kind,
    };
    Event::StepTaken { position }
}

fn ask(state: &mut RunState, kind: CommandKind) -> CommandStage {
    let effects = state.handle(Event::CommandAsked { kind }, Millis(0));
    match effects.last() {
        Some(Effect::Answer { record }) => record.stage.clone(),
        other => panic!("an asked command is answered, not {other:?}"),
    }
}

fn refused(state: &mut RunState, kind: CommandKind) -> String {
    match ask(state, kind) {
        CommandStage::Refused { reason } => reason,
        other => panic!("{other:?} instead of a refusal"),
    }
}

const DECAY: CommandKind = CommandKind::Decay { tokens: None };

#[test]
fn members_become_ranks_in_the_order_of_joining() {
    let mut state = RunState::new(rules(2), &[], CommandId(1), Millis(0));
    assert_eq!(
        state.handle(joined(7), Millis(0)),
        vec![Effect::Welcome {
            member: MemberId(1)
        }]
    );
    let effects = state.handle(joined(8), Millis(0));
    let assign = |member, rank| Effect::Assign {
        member: MemberId(member),
        rank: Rank(rank),
        world: 2,
        generation: Generation(1),
    };
    assert_eq!(
        effects[0],
        Effect::Welcome {
            member: MemberId(2)
        }
    );
    assert_eq!(effects[1..3], [assign(1, 0), assign(2, 1)]);
    let reason = "the run has its 2 ranks already".to_owned();
    assert_eq!(
        state.handle(joined(9), Millis(0)),
        vec![Effect::Refuse { reason }]
    );
}

#[test]
fn a_decay_is_taken_once() {
    let mut state = training(2);
    assert_eq!(ask(&mut state, DECAY), CommandStage::Accepted);
    assert_eq!(
        refused(&mut state, DECAY),
        "command 1 asks for the same and has not taken effect yet"
    );
    let applied = CommandStage::Applied { step: Step(6) };
    state.handle(
        Event::CommandOutcome {
            id: CommandId(1),
            stage: applied,
        },
        Millis(0),
    );
    state.handle(at(Step(7), PhaseKind::Decay), Millis(0));
    assert_eq!(
        refused(&mut state, DECAY),
        "the run is already in its decay phase \"decay\""
    );
}

/// A cap of so many epochs on a decay that reads its one source of 1,000 tokens.
fn capped(epochs: f64) -> Schedule {
    let source = Source {
        id: "a".to_owned(),
        licence: String::new(),
        train: Split {
            documents: 10,
            chunks: 10,
            tokens: 1_000,
            ..Split::default()
        },
        held_out: Split::default(),
        dropped: BTreeMap::new(),
        unigrams: StoredFile {
            file: String::new(),
            bytes: 0,
            digest: String::new(),
        },
    };
    let manifest = Manifest {
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
        institutions: vec![Institution {
            id: "north".to_owned(),
            name: String::new(),
            country: None,
            sources: vec![source],
        }],
    };
    let mixture = Mixture::All.resolve(&manifest).unwrap();
    let caps = BTreeMap::from([("*".to_owned(), epochs)]);
    Schedule {
        limits: vec![None, repeats::limit(&caps, &mixture, &manifest).unwrap()],
        ..schedule()
    }
}

/// By the coordinator, which knows where the ranks stand, and by the ranks.
#[test]
fn a_decay_that_repeats_a_source_too_often_is_refused() {
    let mut state = training(1);
    state.rules.schedule = capped(2.0);
    let ask_for = |tokens| CommandKind::Decay {
        tokens: Some(tokens),
    };
    let reason = "source `north/a` would be read 2.50 times in phase \"decay\", more often than \
                  `max_epochs` allows, 2; 2004 tokens are the most that it allows";
    assert_eq!(refused(&mut state, ask_for(2_500)), reason);
    let mut progress = Progress::new(&state.rules.schedule);
    let refusal = progress.decay(Some(2_500), &state.rules.schedule);
    assert_eq!(refusal.unwrap_err().to_string(), reason);
    assert_eq!(progress.phase, 0, "nothing has changed");

    assert_eq!(ask(&mut state, ask_for(2_004)), CommandStage::Accepted);
    progress.decay(Some(2_004), &state.rules.schedule).unwrap();
    assert_eq!((progress.phase, progress.phase_length_tokens), (1, 2_004));
}

#[test]
fn commands_before_the_start_and_after_the_end_are_refused() {
    let mut early = RunState::new(rules(1), &[], CommandId(1), Millis(0));
    assert_eq!(
        refused(&mut early, CommandKind::Stop),
        "the run has not started training: waiting for 1 ranks to join"
    );
    let mut done = training(1);
    done.handle(
        Event::RankFinished {
            member: MemberId(1),
            stopped: false,
        },
        Millis(0),
    );
    assert_eq!(
        refused(&mut done, DECAY),
        "the run is over: all phases are done"
    );
}

#[test]
fn pause_and_resume_refuse_what_is_already_so() {
    let mut state = training(1);
    assert_eq!(
        refused(&mut state, CommandKind::Resume),
        "the run is not paused"
    );
    assert_eq!(ask(&mut state, CommandKind::Pause), CommandStage::Accepted);
    let applied = CommandStage::Applied { step: Step(6) };
    state.handle(
        Event::CommandOutcome {
            id: CommandId(2),
            stage: applied,
        },
        Millis(0),
    );
    assert_eq!(state.stage, Stage::Paused);
    assert_eq!(
        refused(&mut state, CommandKind::Pause),
        "the run is paused already"
    );
}

#[test]
fn a_dead_rank_ends_the_run_with_its_name() {
    let mut state = training(2);
    let effects = state.handle(
        Event::Left {
            member: MemberId(2),
        },
        Millis(0),
    );
    let error = "rank 1 (process 1 on host) died after step 5".to_owned();
    assert_eq!(
        effects.last(),
        Some(&Effect::End {
            error: Some(error.clone())
        })
    );
    assert_eq!((&state.stage, &state.reason), (&Stage::Failed, &error));
}

#[test]
fn the_first_failure_is_the_one_reported() {
    let mut state = training(2);
    let error = "non-finite loss".to_owned();
    state.handle(
        Event::RankFailed {
            member: MemberId(2),
            error,
        },
        Millis(0),
    );
    assert_eq!(
        state.handle(
            Event::Left {
                member: MemberId(1)
            },
            Millis(0)
        ),
        vec![]
    );
    assert_eq!(state.reason, "rank 1 (process 1 on host): non-finite loss");
}

#[test]
fn a_finished_rank_may_leave_while_another_still_uploads() {
    let mut state = training(2);
    state.handle(
        Event::RankFinished {
            member: MemberId(2),
            stopped: true,
        },
        Millis(0),
    );
    assert_eq!(
        state.handle(
            Event::Left {
                member: MemberId(2)
            },
            Millis(0)
        ),
        vec![]
    );
    let effects = state.handle(
        Event::RankFinished {
            member: MemberId(1),
            stopped: true,
        },
        Millis(0),
    );
    assert_eq!(effects.last(), Some(&Effect::End { error: None }));
    assert_eq!(state.stage, Stage::Stopped);
}

#[test]
fn waiting_for_ranks_has_a_deadline() {
    let mut state = RunState::new(rules(3), &[], CommandId(1), Millis(0));
    state.handle(joined(1), Millis(0));
    assert_eq!(state.handle(Event::Tick, Millis(3_600_000)), vec![]);
    state.handle(Event::Tick, Millis(3_600_001));
    assert_eq!(state.reason, "only 1 of 3 ranks joined in 3600 s");
}

#[test]
fn checkpoints_are_asked_for_by_time() {
    let mut state = training(1);
    state.rules.checkpoint_interval = Some(Duration::from_mins(1));
    assert_eq!(state.handle(Event::Tick, Millis(59_999)), vec![]);
    let effects = state.handle(Event::Tick, Millis(60_000));
    let command = Command {
        id: CommandId(1),
        kind: CommandKind::Checkpoint { by_time: true },
    };
    assert!(
        matches!(effects[0], Effect::Journal { .. }),
        "written down first"
    );
    assert_eq!(
        effects[1],
        Effect::Command {
            member: MemberId(1),
            command
        }
    );
    assert_eq!(state.handle(Event::Tick, Millis(60_001)), vec![]);

    // An operator's own is not refused for it, but a second one is.
    let asked = CommandKind::Checkpoint { by_time: false };
    let mut effects = Vec::new();
    let taken = [
        state.ask(asked, &mut effects),
        state.ask(asked, &mut effects),
    ];
    assert_eq!(taken[0].refusal(), None);
    assert_eq!(
        taken[1].refusal(),
        Some("command 2 asks for the same and has not taken effect yet")
    );
}
