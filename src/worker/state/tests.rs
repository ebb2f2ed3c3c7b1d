//! What a rank tells, and what it keeps to tell again, event by event.

use crate::ids::CommandId;
use crate::run::schedule::PhaseKind;
use crate::run::standing::Seat;
use crate::telemetry::StepMetrics;

use super::*;

const NOW: Millis = Millis(0);

fn seat(rank: u32) -> Seat {
    Seat {
        generation: Generation(1),
        rank: Rank(rank),
        world: 2,
    }
}

fn standing(step: u64) -> Standing {
    Standing {
        lineage: Generation(1),
        generation: Generation(1),
        revision: 2 * step,
        step: Step(step),
        paused: false,
        ended: None,
    }
}

fn metrics(step: u64) -> Box<StepMetrics> {
    Box::new(StepMetrics {
        step: Step(step),
        phase: "stable".to_owned(),
        phase_kind: PhaseKind::Stable,
        loss: 1.0,
        loss_limit: None,
        spike: None,
        skipped: false,
        accuracy: 0.0,
        learning_rate: 0.0,
        mask_rate: 0.3,
        first_row: 0,
        rows: 1,
        masked_tokens: 1,
        step_tokens: 1,
        tokens: step,
        phase_tokens: step,
        phase_length_tokens: 10,
        next_phase: "stable".to_owned(),
        next_phase_kind: PhaseKind::Stable,
        remaining_tokens: 10,
        grad_norm: 1.0,
        sources: std::collections::BTreeMap::new(),
        seconds: 1.0,
        ranks: 2,
        generation: Generation(1),
        tokens_per_second: 1.0,
        data_wait_fraction: 0.0,
        collective_fraction: 0.0,
    })
}

/// A rank that has taken steps 1 to 3, of which one is stored.
fn working(rank: u32) -> RankState {
    let mut state = RankState::new(Limits::default(), "host".to_owned(), 1, NOW);
    welcome(&mut state);
    let idle = Outbox::Idle {
        parting: None,
        standing: None,
    };
    state.handle(Event::Told(idle), NOW);
    let ready = Outbox::Ready {
        seat: seat(rank),
        standing: standing(0),
    };
    state.handle(Event::Told(ready), NOW);
    for step in 1..=3 {
        state.handle(Event::Told(Outbox::Step(metrics(step))), NOW);
    }
    let replied = Event::Replied {
        unknown: false,
        stored_step: Step(2),
    };
    state.handle(replied, NOW);
    state
}

fn welcome(state: &mut RankState) -> Vec<Effect> {
    let welcomed = Event::Welcomed {
        member: MemberId(1),
        stored_step: Step(0),
    };
    state.handle(welcomed, NOW)
}

fn part(state: &mut RankState) -> Vec<Effect> {
    let idle = Outbox::Idle {
        parting: Some((Generation(1), Parting::Regrouped)),
        standing: Some(standing(3)),
    };
    state.handle(Event::Told(idle), NOW)
}

fn steps(effects: &[Effect]) -> Vec<u64> {
    let told = effects.iter().filter_map(|effect| match effect {
        Effect::Report(Report::Step(metrics)) => Some(metrics.step.0),
        _ => None,
    });
    told.collect()
}

fn says_that_it_parted(effects: &[Effect]) -> bool {
    effects.iter().any(|effect| {
        matches!(
            effect,
            Effect::Report(Report::Idle {
                parting: Some((Generation(1), Parting::Regrouped)),
                standing: Some(_),
            })
        )
    })
}

/// Those that get its state in the next generation have no records of the steps in it.
#[test]
fn whoever_parts_tells_what_it_alone_may_have_recorded() {
    assert_eq!(steps(&part(&mut working(1))), [2, 3]);
    assert_eq!(steps(&part(&mut working(0))), [2, 3]);
}

/// The introduction was made while it still worked, and the report met a broken connection.
#[test]
fn one_that_parts_while_it_comes_back_says_so_when_it_is_back() {
    let mut state = working(1);
    let effects = state.handle(Event::Unlinked, NOW);
    let Some(Effect::Connect(introduction)) = effects.first() else {
        panic!("it comes back");
    };
    assert_eq!(introduction.attachment, Attachment::Working(seat(1)));
    assert!(!says_that_it_parted(&part(&mut state)));
    let effects = welcome(&mut state);
    assert!(says_that_it_parted(&effects));
    assert_eq!(steps(&effects), [2, 3]);
}

#[test]
fn the_time_to_leave_in_is_kept() {
    let mut state = working(1);
    state.set_limits(Duration::from_mins(10), Duration::from_secs(5));
    let warned = Event::Warned {
        reason: "SIGTERM".to_owned(),
    };
    state.handle(warned, Millis(1_000));
    let mut tick = |now| {
        let beat = Beat::default();
        let effects = state.handle(Event::Tick { beat }, Millis(now));
        effects
            .iter()
            .any(|effect| matches!(effect, Effect::Exit(Exit::Left { .. })))
    };
    assert!(!tick(5_900));
    assert!(tick(6_000));
}

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
