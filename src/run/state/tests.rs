//! The coordinator's decisions, event by event.

use crate::corpus::mixture::{Mixture, repeats};
use crate::corpus::{Institution, Manifest, Source, Split, StoredFile, TokenizerInfo};
use crate::run::command::{Command, CommandStage};
use crate::run::progress::Progress;
use crate::run::schedule::{PhaseKind, PhaseSettings, Shape};

use crate::run::event::{Attachment, Entry, Introduction, MemberRecord, Origin, Placement};
use crate::run::standing::{Activity, Seat};

use super::*;

mod interleaved;
mod leaving;
mod spikes;

const HOUR: Duration = Duration::from_hours(1);

fn rules(ranks: u32) -> Rules {
    Rules {
        ranks,
        min_ranks: 1,
        gather_timeout: HOUR,
        checkpoint_interval: None,
        schedule: schedule(),
        limits: Limits::default(),
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

fn new(ranks: u32, past: Past) -> RunState {
    RunState::new(rules(ranks), past, Epoch(1), Millis(0))
}

/// The members in the order of joining, from 1.
fn member(number: u64) -> MemberId {
    MemberId(MemberId::first_of(Epoch(1)).0 + number - 1)
}

fn introduction(process: u32) -> Introduction {
    Introduction {
        host: "host".to_owned(),
        process,
        member: None,
        attachment: Attachment::Opening,
        standing: None,
    }
}

fn joined(process: u32) -> Event {
    Event::Joined(introduction(process))
}

fn free(number: u64, standing: Option<Standing>) -> Event {
    Event::Idle {
        member: member(number),
        parting: None,
        standing,
    }
}

fn parted(number: u64, generation: u64, revision: u64) -> Event {
    Event::Idle {
        member: member(number),
        parting: Some((
            Generation(generation),
            Parting::Broken {
                error: "a peer is lost".to_owned(),
            },
        )),
        standing: Some(standing(revision)),
    }
}

fn standing(revision: u64) -> Standing {
    Standing {
        lineage: Generation(1),
        generation: Generation(1),
        revision,
        step: Step(revision / 2),
        paused: false,
        ended: None,
    }
}

fn seat(generation: u64, rank: u32, world: u32) -> Seat {
    Seat {
        generation: Generation(generation),
        rank: Rank(rank),
        world,
    }
}

fn ready(number: u64, generation: u64) -> Event {
    Event::Ready {
        member: member(number),
        generation: Generation(generation),
        standing: standing(0),
    }
}

/// The seats that were given.
fn seats(effects: &[Effect]) -> Vec<(MemberId, Placement)> {
    let given = effects.iter().filter_map(|effect| match effect {
        Effect::Assign { member, placement } => Some((*member, *placement)),
        _ => None,
    });
    given.collect()
}

fn training(ranks: u32) -> RunState {
    let mut state = new(ranks, Past::default());
    for process in 1..=ranks {
        state.handle(joined(process), Millis(0));
        state.handle(free(process.into(), None), Millis(0));
    }
    state.handle(Event::Restorable { step: None }, Millis(0));
    for number in 1..=ranks {
        state.handle(ready(number.into(), 1), Millis(0));
    }
    assert_eq!(state.stage, Stage::Training);
    state.handle(at(Step(5), PhaseKind::Stable), Millis(0));
    state
}

/// Signs of life of some members, and a tick, a second at a time.
fn live(state: &mut RunState, from: u64, to: u64, members: &[u64]) -> Vec<Effect> {
    let mut effects = Vec::new();
    for second in from..=to {
        for &number in members {
            let beat = Beat {
                activity: Activity::Computing,
                ticks: second,
                own_seconds: 1.0,
                uploads: 0,
            };
            let member = member(number);
            let event = Event::Beat { member, beat };
            effects.extend(state.handle(event, Millis(second * 1000)));
        }
        effects.extend(state.handle(Event::Tick, Millis(second * 1000)));
    }
    effects
}

fn at(step: Step, phase_kind: PhaseKind) -> Event {
    let position = Position {
        step,
        tokens: 100,
        phase: phase_kind.to_string(),
        phase_kind,
    };
    Event::StepTaken {
        position,
        seconds: 1.0,
    }
}

fn ask(state: &mut RunState, kind: CommandKind) -> CommandStage {
    let effects = state.handle(Event::CommandAsked { kind }, Millis(0));
    let answer = effects.into_iter().find_map(|effect| match effect {
        Effect::Answer { record } => Some(record.stage),
        _ => None,
    });
    answer.expect("an asked command is answered")
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
    let mut state = new(2, Past::default());
    let effects = state.handle(joined(7), Millis(0));
    assert_eq!(
        effects,
        [Effect::Welcome { member: member(1) }, Effect::Restore]
    );
    assert_eq!(state.reason, "waiting for 2 ranks to join, 0 are here");
    state.handle(joined(8), Millis(0));
    state.handle(free(2, None), Millis(0));
    state.handle(free(1, None), Millis(0));
    assert_eq!(
        state.reason,
        "looking for the newest checkpoint that verifies"
    );
    let effects = state.handle(
        Event::Restorable {
            step: Some(Step(40)),
        },
        Millis(0),
    );
    assert!(
        matches!(&effects[0], Effect::Journal { entry: Entry::Generation(record) }
            if record.lineage_step == Step(40) && record.members.len() == 2),
        "{effects:?}"
    );
    let placement = |rank| Placement {
        seat: seat(1, rank, 2),
        lineage: Generation(1),
        origin: Origin::Store,
    };
    let expected = [(member(1), placement(0)), (member(2), placement(1))];
    assert_eq!(seats(&effects), expected);
    // One that comes late is a spare.
    state.handle(joined(9), Millis(0));
    state.handle(free(3, None), Millis(0));
    for number in [1, 2] {
        state.handle(ready(number, 1), Millis(0));
    }
    assert_eq!(live(&mut state, 1, 20, &[1, 2, 3]), []);
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
            generation: Generation(1),
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
    let mut early = new(1, Past::default());
    assert_eq!(
        refused(&mut early, CommandKind::Stop),
        "the run has not started training: waiting for 1 ranks to join, 0 are here"
    );
    let mut done = training(1);
    done.handle(
        Event::RankFinished {
            member: member(1),
            generation: Generation(1),
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
            generation: Generation(1),
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

/// The newest state leads, and all others get theirs from it.
#[test]
fn the_others_go_on_without_a_dead_rank() {
    let mut state = training(3);
    assert_eq!(
        state.handle(Event::Left { member: member(1) }, Millis(0)),
        []
    );
    let effects = state.handle(parted(2, 1, 11), Millis(0));
    let abort = |number| Effect::Abort {
        member: member(number),
        generation: Generation(1),
        reason: "rank 1 (process 2 on host): a peer is lost".to_owned(),
    };
    assert_eq!(effects[0], abort(1));
    assert_eq!(effects[1], abort(3));
    assert_eq!(
        state.reason,
        "process 3 on host has yet to let go of the last generation"
    );
    let effects = state.handle(parted(3, 1, 12), Millis(10));
    let placement = |rank| Placement {
        seat: seat(2, rank, 2),
        lineage: Generation(1),
        origin: Origin::Ranks,
    };
    let expected = [(member(3), placement(0)), (member(2), placement(1))];
    assert_eq!(seats(&effects), expected);
}

#[test]
fn a_closed_connection_alone_may_come_back() {
    let mut state = training(2);
    state.handle(Event::Left { member: member(2) }, Millis(0));
    let back = Introduction {
        member: Some(member(2)),
        attachment: Attachment::Working(seat(1, 1, 2)),
        standing: Some(standing(0)),
        ..introduction(2)
    };
    let effects = state.handle(Event::Joined(back), Millis(400));
    assert_eq!(effects, [Effect::Welcome { member: member(2) }]);
    assert_eq!(state.handle(Event::Tick, Millis(900)), []);
    state.handle(Event::Left { member: member(2) }, Millis(1000));
    state.handle(Event::Tick, Millis(1800));
    assert_eq!(state.stage, Stage::Gathering);
    assert!(
        state.reason.contains("process 1 on host has yet to let go"),
        "{}",
        state.reason
    );
}

#[test]
fn a_rank_that_joins_gets_a_seat_at_a_boundary() {
    let mut state = training(2);
    state.handle(Event::Left { member: member(2) }, Millis(0));
    state.handle(parted(1, 1, 10), Millis(0));
    state.handle(ready(1, 2), Millis(0));
    assert_eq!(
        (state.stage.clone(), state.seated().count()),
        (Stage::Training, 1)
    );
    state.handle(joined(9), Millis(0));
    state.handle(free(3, None), Millis(0));
    let effects = live(&mut state, 1, 2, &[1, 3]);
    assert!(effects.contains(&Effect::Regroup {
        member: member(1),
        generation: Generation(2),
    }));
    let parted = Event::Idle {
        member: member(1),
        parting: Some((Generation(2), Parting::Regrouped)),
        standing: Some(standing(20)),
    };
    let effects = state.handle(parted, Millis(2100));
    let seats: Vec<_> = seats(&effects).iter().map(|(member, _)| *member).collect();
    assert_eq!(seats, [member(1), member(3)]);
}

#[test]
fn silent_and_hanging_ranks_are_dismissed_by_name() {
    let mut silent = training(2);
    let effects = live(&mut silent, 1, 8, &[1]);
    let reason = "rank 1 (process 2 on host) has said nothing for 8 s: it is stopped or cut off";
    assert!(effects.contains(&Effect::Dismiss {
        member: member(2),
        reason: reason.to_owned(),
        restart: true,
    }));
    let mut hanging = training(2);
    for step in 6..10 {
        hanging.handle(at(Step(step), PhaseKind::Stable), Millis(0));
    }
    let stuck = |second: u64| Event::Beat {
        member: member(2),
        beat: Beat {
            activity: Activity::Computing,
            ticks: second.min(31),
            own_seconds: if second > 3 { 9.0 } else { 1.0 },
            uploads: 0,
        },
    };
    let mut effects = Vec::new();
    for second in 1..=42 {
        effects.extend(hanging.handle(stuck(second), Millis(second * 1000)));
        effects.extend(live(&mut hanging, second, second, &[1]));
    }
    let slow = "rank 1 (process 2 on host) computes 9.0 times longer than the other ranks";
    assert!(effects.contains(&Effect::Note {
        reason: slow.to_owned()
    }));
    let reason = "rank 1 (process 2 on host) got nothing done for 10 s: it hangs in computing";
    assert!(effects.contains(&Effect::Dismiss {
        member: member(2),
        reason: reason.to_owned(),
        restart: true,
    }));
}

/// It heard nobody because it did not listen.
#[test]
fn a_coordinator_that_stood_still_blames_nobody() {
    let mut state = training(2);
    live(&mut state, 1, 3, &[1, 2]);
    assert_eq!(state.handle(Event::Tick, Millis(60_000)), []);
    assert_eq!(live(&mut state, 61, 62, &[1, 2]), []);
}

/// A boundary that is never reached, because a rank dies on the way, is like any other loss.
#[test]
fn a_rank_that_dies_before_a_regroup_does_not_keep_the_others() {
    let mut state = training(3);
    let leaving = Event::Leaving {
        member: member(3),
        reason: "SIGTERM".to_owned(),
    };
    state.handle(leaving, Millis(0));
    let abort = |effects: &[Effect], number| {
        effects.iter().any(|effect| {
            matches!(effect, Effect::Abort { member: aborted, .. } if *aborted == member(number))
        })
    };
    let effects = live(&mut state, 1, 8, &[1, 3]);
    assert!(
        effects.contains(&Effect::Dismiss {
            member: member(2),
            reason: "rank 1 (process 2 on host) has said nothing for 8 s: it is stopped or cut off"
                .to_owned(),
            restart: true,
        })
    );
    assert!(abort(&effects, 1) && abort(&effects, 3));
}

/// One that waits for a lost rank in its farewell is told to give up before it counts as hung.
#[test]
fn a_rank_that_is_late_at_a_boundary_is_told_to_abort() {
    let mut state = training(2);
    let leaving = Event::Leaving {
        member: member(1),
        reason: "SIGTERM".to_owned(),
    };
    state.handle(leaving, Millis(0));
    let parted = Event::Idle {
        member: member(1),
        parting: Some((Generation(1), Parting::Regrouped)),
        standing: Some(standing(20)),
    };
    let late = Effect::Abort {
        member: member(2),
        generation: Generation(1),
        reason: "the others have parted".to_owned(),
    };
    assert!(!state.handle(parted, Millis(0)).contains(&late));
    assert!(!live(&mut state, 1, 2, &[1, 2]).contains(&late));
    assert!(live(&mut state, 3, 3, &[1, 2]).contains(&late));
}

#[test]
fn without_anybody_left_the_state_comes_from_the_store() {
    let mut state = training(1);
    state.handle(Event::Left { member: member(1) }, Millis(0));
    state.handle(Event::Tick, Millis(900));
    state.handle(joined(7), Millis(900));
    state.handle(free(2, None), Millis(950));
    assert!(
        state.reason.contains("may come back for 2 s"),
        "{}",
        state.reason
    );
    let effects = live(&mut state, 1, 11, &[2]);
    assert!(effects.contains(&Effect::Restore));
    let effects = state.handle(
        Event::Restorable {
            step: Some(Step(3)),
        },
        Millis(11_000),
    );
    let given = seats(&effects);
    assert_eq!(
        (given[0].1.origin, given[0].1.lineage),
        (Origin::Store, Generation(2))
    );
}

/// The last generation, of two ranks that another coordinator knew.
fn past() -> Past {
    let record = |number: u64| MemberRecord {
        member: MemberId(number),
        host: "host".to_owned(),
        process: number as u32,
    };
    let generation = GenerationRecord {
        generation: Generation(4),
        lineage: Generation(1),
        lineage_step: Step(0),
        lineage_command: CommandId(1),
        members: vec![record(71), record(72)],
        reason: String::new(),
    };
    let accepted = CommandRecord {
        command: Command {
            id: CommandId(3),
            kind: CommandKind::Pause,
        },
        stage: CommandStage::Accepted,
    };
    Past {
        spikes: Vec::new(),
        commands: vec![accepted],
        generation: Some(generation),
        newest_generation: Generation(4),
        gone: Vec::new(),
    }
}

fn of_old(number: u64, attachment: Attachment) -> Event {
    Event::Joined(Introduction {
        member: Some(MemberId(number)),
        attachment,
        standing: Some(standing(30)),
        ..introduction(number as u32)
    })
}

#[test]
fn ranks_of_a_dead_coordinator_keep_their_seats() {
    let mut state = new(2, past());
    state.handle(of_old(72, Attachment::Working(seat(4, 1, 2))), Millis(10));
    assert_eq!(state.stage, Stage::Gathering);
    let effects = state.handle(of_old(71, Attachment::Working(seat(4, 0, 2))), Millis(20));
    assert_eq!(state.stage, Stage::Training);
    // What was accepted and not applied is on its way again.
    let command = Command {
        id: CommandId(3),
        kind: CommandKind::Pause,
    };
    assert!(effects.contains(&Effect::Command {
        member: MemberId(71),
        command
    }));
    assert_eq!(seats(&effects), []);
}

#[test]
fn a_rank_that_does_not_come_back_ends_the_old_generation() {
    let mut state = new(2, past());
    state.handle(of_old(72, Attachment::Working(seat(4, 1, 2))), Millis(10));
    let beat = |second| Event::Beat {
        member: MemberId(72),
        beat: Beat {
            ticks: second,
            ..Beat::default()
        },
    };
    let mut effects = Vec::new();
    for second in 1..=10 {
        effects.extend(state.handle(beat(second), Millis(second * 1000)));
        effects.extend(state.handle(Event::Tick, Millis(second * 1000)));
    }
    assert!(effects.contains(&Effect::Abort {
        member: MemberId(72),
        generation: Generation(4),
        reason: "not back after 10 s: process 71 on host".to_owned(),
    }));
    let parted = Event::Idle {
        member: MemberId(72),
        parting: Some((
            Generation(4),
            Parting::Broken {
                error: String::new(),
            },
        )),
        standing: Some(standing(30)),
    };
    let given = seats(&state.handle(parted, Millis(10_100)));
    assert_eq!(given[0].1.seat, seat(5, 0, 1));
    assert_eq!(given[0].1.origin, Origin::Ranks);
}

#[test]
fn the_first_failure_is_the_one_reported() {
    let mut state = training(2);
    let error = "non-finite loss".to_owned();
    state.handle(
        Event::RankFailed {
            member: member(2),
            error,
        },
        Millis(0),
    );
    assert_eq!(
        state.handle(Event::Left { member: member(1) }, Millis(0)),
        []
    );
    assert_eq!(state.reason, "rank 1 (process 2 on host): non-finite loss");
}

#[test]
fn a_finished_rank_may_leave_while_another_still_uploads() {
    let mut state = training(2);
    let finished = |number| Event::RankFinished {
        member: member(number),
        generation: Generation(1),
        stopped: true,
    };
    state.handle(finished(2), Millis(0));
    state.handle(Event::Left { member: member(2) }, Millis(0));
    state.handle(Event::Tick, Millis(900));
    assert_eq!(state.stage, Stage::Ending);
    let effects = state.handle(finished(1), Millis(700));
    assert_eq!(effects.last(), Some(&Effect::End { error: None }));
    assert_eq!(state.stage, Stage::Stopped);
}

#[test]
fn generations_without_a_step_have_a_limit() {
    let mut state = training(2);
    for generation in 1..100 {
        state.handle(parted(1, generation, 10), Millis(0));
        if state.stage == Stage::Failed {
            break;
        }
        state.handle(parted(2, generation, 10), Millis(0));
    }
    assert_eq!(state.stage, Stage::Failed);
    assert!(
        state
            .reason
            .starts_with("21 generations in a row took no step; the last one ended so: "),
        "{}",
        state.reason
    );
}

#[test]
fn waiting_for_ranks_has_a_deadline() {
    let mut state = new(3, Past::default());
    state.handle(joined(1), Millis(0));
    state.handle(free(1, None), Millis(0));
    state.handle(Event::Restorable { step: None }, Millis(0));
    state.rules.min_ranks = 2;
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
            member: member(1),
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
