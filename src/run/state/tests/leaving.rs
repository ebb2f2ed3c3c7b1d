//! Machines that are taken away.

use super::*;

fn warned(number: u64) -> Event {
    Event::Leaving {
        member: member(number),
        reason: "SIGTERM".to_owned(),
    }
}

/// At the boundary of the first generation.
fn parted(number: u64) -> Event {
    Event::Idle {
        member: member(number),
        parting: Some((Generation(1), Parting::Regrouped)),
        standing: Some(standing(20)),
    }
}

/// A sign of life of a member that has `uploads` on their way.
fn uploading(state: &mut RunState, number: u64, uploads: u64, now: Millis) -> Vec<Effect> {
    let beat = Beat {
        uploads,
        ..Beat::default()
    };
    let member = member(number);
    state.handle(Event::Beat { member, beat }, now)
}

/// Those that are let go for good.
fn dismissed(effects: &[Effect]) -> Vec<MemberId> {
    let gone = effects.iter().filter_map(|effect| match effect {
        Effect::Dismiss {
            member,
            restart: false,
            ..
        } => Some(*member),
        _ => None,
    });
    gone.collect()
}

fn commanded(effects: &[Effect]) -> Vec<CommandKind> {
    let kinds = effects.iter().filter_map(|effect| match effect {
        Effect::Command { command, .. } => Some(command.kind),
        _ => None,
    });
    kinds.collect()
}

fn coordinator_warned() -> Event {
    Event::Warned {
        reason: "SIGTERM".to_owned(),
    }
}

#[test]
fn a_rank_whose_machine_is_taken_away_leaves_at_a_boundary() {
    let mut state = training(2);
    let effects = state.handle(warned(1), Millis(0));
    assert!(effects.contains(&Effect::Regroup {
        member: member(1),
        generation: Generation(1),
    }));
    let effects = state.handle(parted(1), Millis(10));
    assert_eq!(dismissed(&effects), [], "it may have something to upload");
    let effects = state.handle(parted(2), Millis(20));
    let given = seats(&effects);
    assert_eq!(given.len(), 1);
    assert_eq!((given[0].0, given[0].1.seat), (member(2), seat(2, 0, 1)));
    let effects = uploading(&mut state, 1, 1, Millis(30));
    assert_eq!(dismissed(&effects), []);
    let effects = uploading(&mut state, 1, 0, Millis(40));
    assert_eq!(dismissed(&effects), [member(1)]);
}

/// The only rank leaves: the regroup waits until a checkpoint exists.
fn deserted() -> RunState {
    let mut state = training(1);
    let effects = state.handle(warned(1), Millis(0));
    assert_eq!(
        commanded(&effects),
        [CommandKind::Checkpoint { by_time: false }]
    );
    let refuge = *state.commands.keys().next_back().unwrap();
    let applied = Event::CommandOutcome {
        generation: Generation(1),
        id: refuge,
        stage: CommandStage::Applied { step: Step(6) },
    };
    state.handle(applied, Millis(10));
    assert_eq!(state.regrouping, None, "it is not in the store yet");
    let effects = state.handle(Event::CheckpointPublished { step: Step(6) }, Millis(20));
    assert!(effects.contains(&Effect::Regroup {
        member: member(1),
        generation: Generation(1),
    }));
    state.handle(parted(1), Millis(30));
    let effects = uploading(&mut state, 1, 0, Millis(40));
    assert_eq!(dismissed(&effects), [member(1)]);
    assert_eq!(state.stage, Stage::Gathering);
    state
}

/// One after the other is told, and the second one only when the first has its boundary.
#[test]
fn the_last_ranks_come_together_once_more_for_a_checkpoint() {
    let mut state = training(2);
    state.rules.min_ranks = 2;
    state.handle(warned(1), Millis(0));
    assert!(state.regrouping.is_some(), "the other one stays");
    state.handle(parted(1), Millis(10));
    state.handle(warned(2), Millis(10));
    let effects = state.handle(parted(2), Millis(20));
    assert_eq!(seats(&effects).len(), 2);
    state.handle(ready(1, 2), Millis(30));
    let effects = state.handle(ready(2, 2), Millis(30));
    assert_eq!(
        commanded(&effects),
        [CommandKind::Checkpoint { by_time: false }]
    );
}

#[test]
fn the_last_ranks_leave_a_checkpoint_behind() {
    let mut state = deserted();
    // Others may come in their place.
    state.handle(joined(7), Millis(1_000));
    state.handle(free(2, None), Millis(1_000));
    live(&mut state, 2, 12, &[2]);
    let restorable = Event::Restorable {
        step: Some(Step(6)),
    };
    let effects = state.handle(restorable, Millis(13_000));
    assert_eq!(seats(&effects)[0].1.origin, Origin::Store);
    state.handle(ready(2, 2), Millis(13_000));
    assert_eq!(state.stage, Stage::Training);
    assert!(!state.is_interrupted());
}

#[test]
fn a_run_that_all_have_left_ends_when_nobody_comes() {
    let mut state = deserted();
    state.handle(Event::Tick, Millis(HOUR.as_millis() as u64 + 1_000));
    assert_eq!(state.stage, Stage::Stopped);
    assert!(state.is_interrupted());
    assert_eq!(
        state.reason,
        "all ranks have left (SIGTERM); the newest checkpoint is of step 6"
    );
    let mut state = deserted();
    state.handle(coordinator_warned(), Millis(1_000));
    assert_eq!(
        (state.stage.clone(), state.is_interrupted()),
        (Stage::Stopped, true)
    );
}

#[test]
fn a_coordinator_that_has_to_go_stops_the_run() {
    let mut state = training(2);
    let effects = state.handle(coordinator_warned(), Millis(0));
    assert_eq!(commanded(&effects), [CommandKind::Stop]);
    // Its ranks are told by the same scheduler, and need no boundary of their own.
    let effects = state.handle(warned(1), Millis(0));
    assert_eq!(effects, []);
    let effects = state.handle(coordinator_warned(), Millis(0));
    assert_eq!(commanded(&effects), []);
    for number in 1..=2 {
        let finished = Event::RankFinished {
            member: member(number),
            generation: Generation(1),
            stopped: true,
        };
        state.handle(finished, Millis(10));
    }
    assert_eq!(
        (state.stage.clone(), state.is_interrupted()),
        (Stage::Stopped, true)
    );

    let mut starting = new(2, Past::default());
    starting.handle(joined(1), Millis(0));
    let effects = starting.handle(coordinator_warned(), Millis(0));
    assert_eq!(starting.stage, Stage::Stopped);
    assert!(effects.contains(&Effect::End { error: None }));

    let mut hanging = training(2);
    hanging.handle(coordinator_warned(), Millis(0));
    hanging.handle(Event::OutOfTime, Millis(10));
    assert_eq!(
        hanging.reason,
        "the time to stop in is over; no checkpoint was made"
    );
}

/// Where all seats are taken by the state's last holder, the process that comes in its place would
/// never get one.
#[test]
fn who_leaves_passes_its_state_on_beside_those_that_stay() {
    let mut state = training(1);
    state.handle(warned(1), Millis(0));
    state.handle(joined(2), Millis(10));
    let effects = state.handle(free(2, None), Millis(10));
    assert!(
        matches!(effects[..], [.., Effect::Regroup { .. }]),
        "{effects:?}"
    );
    let effects = state.handle(parted(1), Millis(20));
    let seats: Vec<MemberId> = seats(&effects).iter().map(|(id, _)| *id).collect();
    assert_eq!(seats, [member(1), member(2)]);
    for number in 1..=2 {
        state.handle(ready(number, 2), Millis(30));
    }
    for number in 1..=2 {
        let parted = Event::Idle {
            member: member(number),
            parting: Some((Generation(2), Parting::Regrouped)),
            standing: Some(standing(22)),
        };
        state.handle(parted, Millis(40));
    }
    let lead = state.seated().map(|(id, _)| id).collect::<Vec<_>>();
    assert_eq!(lead, [member(2)]);
}
