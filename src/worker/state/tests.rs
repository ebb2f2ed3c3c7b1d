//! What a rank keeps to tell again, event by event.

use super::*;
use crate::ids::CommandId;
use crate::run::standing::Seat;

const NOW: Millis = Millis(0);

fn welcomed(stored_step: u64) -> Event {
    Event::Welcomed {
        member: MemberId(7),
        stored_step: Step(stored_step),
    }
}

/// A lead whose state came from a checkpoint of step 11.
fn restored() -> RankState {
    let mut rank = RankState::new(Limits::default(), "host".to_owned(), 70, NOW);
    rank.handle(welcomed(11), NOW);
    let seat = Seat {
        generation: Generation(2),
        rank: Rank(0),
        world: 1,
    };
    let standing = Standing {
        lineage: Generation(2),
        generation: Generation(2),
        revision: 0,
        step: Step(11),
        paused: false,
        ended: None,
    };
    rank.handle(Event::Told(Outbox::Ready { seat, standing }), NOW);
    rank
}

/// A command may take effect before the first step is taken with a state that was given.
#[test]
fn an_outcome_before_the_first_own_step_is_told_again() {
    let mut rank = restored();
    let outcome = Outbox::Outcome {
        command: Command {
            id: CommandId(1),
            kind: CommandKind::Resume,
        },
        stage: CommandStage::Applied { step: Step(11) },
    };
    rank.handle(Event::Told(outcome), NOW);
    rank.handle(Event::Unlinked, NOW);
    let told = |effects: Vec<Effect>| {
        let is_outcome = |effect: &Effect| matches!(effect, Effect::Report(Report::Outcome { .. }));
        effects.iter().filter(|effect| is_outcome(effect)).count()
    };
    assert_eq!(told(rank.handle(welcomed(11), NOW)), 1);
    rank.handle(Event::Unlinked, NOW);
    assert_eq!(told(rank.handle(welcomed(12), NOW)), 0, "it is stored");
}

/// It may be the last that holds the records: the state that others get of it has none.
#[test]
fn a_finished_rank_that_gives_its_generation_up_tells_its_records() {
    let mut rank = restored();
    let Attachment::Working(seat) = rank.attachment else {
        panic!("it works")
    };
    let outcome = Outbox::Outcome {
        command: Command {
            id: CommandId(1),
            kind: CommandKind::Stop,
        },
        stage: CommandStage::Applied { step: Step(11) },
    };
    rank.handle(Event::Told(outcome), NOW);
    let standing = rank.standing.expect("it was given one");
    let ended = Outbox::Ended {
        seat,
        standing,
        stopped: true,
    };
    rank.handle(Event::Told(ended), NOW);
    let abort = Order::Abort {
        generation: seat.generation,
        reason: "a peer is lost".to_owned(),
    };
    let effects = rank.handle(Event::Order(abort), NOW);
    assert!(
        matches!(
            effects[..],
            [
                Effect::Abort(_),
                Effect::Report(Report::Outcome { .. }),
                Effect::Report(Report::Idle { .. })
            ]
        ),
        "{effects:?}"
    );
}

/// What it said on the way to a coordinator reached nobody, and no seat is given before.
#[test]
fn a_rank_that_is_free_says_so_when_it_is_welcomed() {
    let mut rank = RankState::new(Limits::default(), "host".to_owned(), 70, NOW);
    let idle = Outbox::Idle {
        parting: None,
        standing: None,
    };
    rank.handle(welcomed(0), NOW);
    rank.handle(Event::Unlinked, NOW);
    assert!(rank.handle(Event::Told(idle), NOW).is_empty());
    let is_idle = |effect: &Effect| matches!(effect, Effect::Report(Report::Idle { .. }));
    assert!(rank.handle(welcomed(0), NOW).iter().any(is_idle));
}

/// Another state, begun from the store, may have to come to it again.
#[test]
fn an_outcome_says_which_generation_came_to_it() {
    let mut rank = restored();
    let outcome = Outbox::Outcome {
        command: Command {
            id: CommandId(1),
            kind: CommandKind::Stop,
        },
        stage: CommandStage::Applied { step: Step(11) },
    };
    let effects = rank.handle(Event::Told(outcome), NOW);
    let [Effect::Report(Report::Outcome { generation, .. })] = effects[..] else {
        panic!("{effects:?}")
    };
    assert_eq!(generation, Generation(2));
}
