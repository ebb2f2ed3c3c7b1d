//! News that comes in an order which no plan has.

use super::*;

fn outcome(generation: u64, id: u64, step: u64) -> Event {
    Event::CommandOutcome {
        generation: Generation(generation),
        id: CommandId(id),
        stage: CommandStage::Applied { step: Step(step) },
    }
}

/// A rank that took its last step says so once, also to a coordinator that still waits for others.
#[test]
fn a_rank_that_finishes_before_all_are_back_has_finished() {
    let mut state = new(2, past());
    let finished = |number| Event::RankFinished {
        member: MemberId(number),
        generation: Generation(4),
        stopped: false,
    };
    let seat = |rank| Attachment::Finished(seat(4, rank, 2));
    state.handle(of_old(72, seat(1)), Millis(10));
    state.handle(finished(72), Millis(20));
    assert_eq!(state.stage, Stage::Gathering);
    state.handle(of_old(71, seat(0)), Millis(30));
    assert_eq!(state.stage, Stage::Ending);
    state.handle(finished(71), Millis(40));
    assert_eq!(state.stage, Stage::Finished);
}

/// The lead may come to a pause before the coordinator has heard that the others are ready.
#[test]
fn a_pause_that_is_told_before_the_last_rank_is_ready_holds() {
    let mut state = training(2);
    ask(&mut state, CommandKind::Pause);
    state.handle(parted(1, 1, 10), Millis(0));
    state.handle(parted(2, 1, 10), Millis(0));
    assert_eq!(state.stage, Stage::Connecting);
    state.handle(ready(1, 2), Millis(0));
    state.handle(outcome(2, 1, 5), Millis(0));
    state.handle(ready(2, 2), Millis(0));
    assert_eq!(state.stage, Stage::Paused);
    assert_eq!(ask(&mut state, CommandKind::Resume), CommandStage::Accepted);
}

#[test]
fn a_pause_that_is_told_before_all_are_back_holds() {
    let mut state = new(2, past());
    state.handle(of_old(71, Attachment::Working(seat(4, 0, 2))), Millis(10));
    state.handle(outcome(4, 3, 15), Millis(20));
    state.handle(of_old(72, Attachment::Working(seat(4, 1, 2))), Millis(30));
    assert_eq!(state.stage, Stage::Paused);
}

/// The rank that came to it is lost, and others come to it again, after the same step.
#[test]
fn a_pause_that_is_come_to_twice_is_told_twice() {
    let mut state = training(2);
    ask(&mut state, CommandKind::Pause);
    state.handle(outcome(1, 1, 5), Millis(0));
    assert_eq!(state.stage, Stage::Paused);
    state.handle(parted(1, 1, 8), Millis(0));
    state.handle(parted(2, 1, 8), Millis(0));
    state.handle(ready(1, 2), Millis(0));
    state.handle(ready(2, 2), Millis(0));
    assert_eq!(state.stage, Stage::Training, "the state is from before");
    state.handle(outcome(1, 1, 5), Millis(0));
    assert_eq!(
        state.stage,
        Stage::Training,
        "late news of a rank that has parted"
    );
    let effects = state.handle(outcome(2, 1, 5), Millis(0));
    assert_eq!(state.stage, Stage::Paused);
    let writes = |effect: &Effect| matches!(effect, Effect::Journal { .. });
    assert!(!effects.iter().any(writes), "the journal knows");
    assert_eq!(ask(&mut state, CommandKind::Resume), CommandStage::Accepted);
}

/// A former lead without a seat may be about to store the files of the last step, over those of the
/// last lead. Only the later one's checkpoint is whole then.
#[test]
fn a_run_does_not_end_while_somebody_uploads() {
    let mut state = training(1);
    state.handle(joined(2), Millis(0));
    let uploads = |uploads| Event::Beat {
        member: member(2),
        beat: Beat {
            uploads,
            ..Beat::default()
        },
    };
    state.handle(uploads(1), Millis(10));
    let finished = Event::RankFinished {
        member: member(1),
        generation: Generation(1),
        stopped: false,
    };
    state.handle(finished, Millis(20));
    assert_eq!(state.stage, Stage::Ending);
    state.handle(uploads(0), Millis(30));
    assert_eq!(state.stage, Stage::Finished);
}

/// In a pause there is no step to take, however long it lasts and however many ranks are lost.
#[test]
fn generations_in_a_pause_are_not_fruitless() {
    let mut state = training(2);
    ask(&mut state, CommandKind::Pause);
    state.handle(outcome(1, 1, 5), Millis(0));
    for generation in 1..100 {
        assert_eq!(state.stage, Stage::Paused);
        state.handle(parted(1, generation, 10), Millis(0));
        state.handle(parted(2, generation, 10), Millis(0));
        for number in [1, 2] {
            let paused = Standing {
                paused: true,
                ..standing(10)
            };
            let ready = Event::Ready {
                member: member(number),
                generation: Generation(generation + 1),
                standing: paused,
            };
            state.handle(ready, Millis(0));
        }
    }
}

/// After a checkpoint from before it, a decay is to take effect again where it did. Another one
/// that comes first takes its place.
#[test]
fn a_decay_that_another_one_overtakes_is_refused() {
    let applied = CommandRecord {
        command: Command {
            id: CommandId(1),
            kind: DECAY,
        },
        stage: CommandStage::Applied { step: Step(8) },
    };
    let known = Past {
        commands: vec![applied],
        ..Past::default()
    };
    let mut state = new(1, known);
    state.handle(joined(1), Millis(0));
    state.handle(free(1, None), Millis(0));
    state.handle(Event::Restorable { step: None }, Millis(0));
    state.handle(ready(1, 1), Millis(0));
    state.handle(at(Step(1), PhaseKind::Stable), Millis(0));
    assert_eq!(ask(&mut state, DECAY), CommandStage::Accepted);
    state.handle(outcome(1, 1, 8), Millis(0));
    assert_eq!(
        state.commands[&CommandId(1)].stage,
        CommandStage::Applied { step: Step(8) },
        "known news"
    );
    state.handle(outcome(1, 2, 1), Millis(0));
    let reason = "the decay of command 2 took effect before".to_owned();
    let refused = CommandStage::Refused { reason };
    assert_eq!(state.commands[&CommandId(1)].stage, refused);
    assert_eq!(state.replay().len(), 1);
}

/// A rank whose thread hangs in an operation that all others are done with waits for nobody.
#[test]
fn a_rank_that_hangs_behind_the_last_step_is_found() {
    let mut state = training(2);
    let finished = Event::RankFinished {
        member: member(1),
        generation: Generation(1),
        stopped: false,
    };
    state.handle(finished, Millis(0));
    assert_eq!(state.stage, Stage::Ending);
    let hour = HOUR.as_millis() as u64;
    for now in (0..hour).step_by(1_000) {
        for (number, activity) in [(1, Activity::Store), (2, Activity::Collective)] {
            let beat = Beat {
                activity,
                ..Beat::default()
            };
            let member = member(number);
            state.handle(Event::Beat { member, beat }, Millis(now));
        }
        state.handle(Event::Tick, Millis(now));
    }
    assert_eq!(state.stage, Stage::Gathering);
}

/// Ranks that were out of reach may have stepped further than those that went on without them.
#[test]
fn the_state_of_the_newest_generation_leads_whatever_it_has_less() {
    let mut state = new(2, Past::default());
    for process in [1, 2] {
        state.handle(joined(process), Millis(0));
    }
    state.handle(free(1, None), Millis(0));
    state.handle(free(2, None), Millis(0));
    state.handle(Event::Restorable { step: None }, Millis(0));
    let held = |number, generation, revision| Event::Idle {
        member: member(number),
        parting: Some((
            Generation(1),
            Parting::Broken {
                error: String::new(),
            },
        )),
        standing: Some(Standing {
            generation: Generation(generation),
            ..standing(revision)
        }),
    };
    state.handle(held(1, 3, 31), Millis(0));
    let effects = state.handle(held(2, 4, 25), Millis(0));
    let lead = seats(&effects).first().map(|(id, _)| *id);
    assert_eq!(lead, Some(member(2)));
}

/// Its records come first: they may be the only ones, and others get its state without them.
#[test]
fn who_comes_back_free_gets_a_seat_when_it_has_told_all() {
    let known = Past {
        gone: vec![MemberId(72)],
        ..past()
    };
    let mut state = new(1, known);
    let effects = state.handle(of_old(71, Attachment::Idle), Millis(10));
    assert_eq!(seats(&effects), []);
    let told = Event::Idle {
        member: MemberId(71),
        parting: None,
        standing: Some(standing(30)),
    };
    let effects = state.handle(told, Millis(20));
    assert_eq!(seats(&effects).len(), 1);
}

/// The first to come back to a new coordinator may be far behind the others.
#[test]
fn no_seat_is_given_before_the_others_of_the_last_generation_are_back() {
    let free = |number, revision| Event::Idle {
        member: MemberId(number),
        parting: None,
        standing: Some(standing(revision)),
    };
    let mut state = new(2, past());
    state.handle(of_old(71, Attachment::Idle), Millis(10));
    assert_eq!(seats(&state.handle(free(71, 20), Millis(20))), []);
    state.handle(of_old(72, Attachment::Idle), Millis(30));
    let effects = state.handle(free(72, 30), Millis(40));
    let given: Vec<MemberId> = seats(&effects).iter().map(|(id, _)| *id).collect();
    assert_eq!(given, [MemberId(72), MemberId(71)]);

    let mut alone = new(2, past());
    alone.handle(of_old(71, Attachment::Idle), Millis(10));
    alone.handle(free(71, 20), Millis(20));
    let beat = Event::Beat {
        member: MemberId(71),
        beat: Beat::default(),
    };
    alone.handle(beat, Millis(9_000));
    assert_eq!(seats(&alone.handle(Event::Tick, Millis(9_900))), []);
    let effects = alone.handle(Event::Tick, Millis(10_000));
    assert_eq!(seats(&effects).len(), 1, "{}", alone.reason);
}

/// Once all were back, a rank that is lost is lost as ever.
#[test]
fn a_rank_that_dies_after_a_takeover_is_not_waited_for() {
    let mut state = new(2, past());
    for (number, rank) in [(71, 0), (72, 1)] {
        let working = Attachment::Working(seat(4, rank, 2));
        state.handle(of_old(number, working), Millis(10));
    }
    assert_eq!(state.stage, Stage::Training);
    let member = MemberId(71);
    state.handle(Event::Left { member }, Millis(500));
    state.handle(Event::Tick, Millis(1_400));
    let error = "the connection to a peer is lost".to_owned();
    let free = Event::Idle {
        member: MemberId(72),
        parting: Some((Generation(4), Parting::Broken { error })),
        standing: Some(standing(30)),
    };
    let effects = state.handle(free, Millis(1_500));
    assert_eq!(seats(&effects).len(), 1, "{}", state.reason);
}
