//! Loss spikes: told, skipped, gone back from.

use crate::run::spike::{Handling, Spike, SpikeKind};

use super::*;

fn spike(step: u64, handling: Handling) -> Spike {
    Spike {
        step: Step(step),
        generation: Generation(1),
        phase: "stable".to_owned(),
        rows: 4 * step - 4..4 * step,
        sources: vec!["north/notes".to_owned()],
        kind: SpikeKind::LossSpike,
        loss: Some(9.0),
        limit: Some(4.0),
        handling,
    }
}

fn back(step: u64, to: Option<u64>) -> Spike {
    let handling = Handling::WentBack {
        passed_over: 8..4 * step,
        to: to.map(Step),
    };
    spike(step, handling)
}

fn part(state: &mut RunState, number: u64, found: Spike) -> Vec<Effect> {
    let parting = Some((found.generation, Parting::WentBack(Box::new(found))));
    let event = Event::Idle {
        member: member(number),
        parting,
        standing: None,
    };
    state.handle(event, Millis(0))
}

fn journaled(effects: &[Effect]) -> Vec<Spike> {
    let entries = effects.iter().filter_map(|effect| match effect {
        Effect::Journal {
            entry: Entry::Spike(spike),
        } => Some(spike.clone()),
        _ => None,
    });
    entries.collect()
}

#[test]
fn a_skipped_step_is_written_down_once() {
    let mut state = training(2);
    let skipped = spike(6, Handling::Skipped);
    let tell = |state: &mut RunState, found: &Spike| {
        state.handle(Event::Spiked(Box::new(found.clone())), Millis(0))
    };
    assert_eq!(
        journaled(&tell(&mut state, &skipped)),
        std::slice::from_ref(&skipped)
    );
    let again = Spike {
        generation: Generation(2),
        ..skipped.clone()
    };
    assert!(journaled(&tell(&mut state, &again)).is_empty());
    assert_eq!(state.spikes, [skipped]);
    assert_eq!(state.stage, Stage::Training);
}

#[test]
fn the_run_goes_back_once_for_all_ranks_that_say_so() {
    let mut state = training(2);
    let effects = part(&mut state, 1, back(6, None));
    assert!(effects.contains(&Effect::GoBack { before: Step(6) }));
    assert!(journaled(&effects).is_empty(), "it is not known where to");
    let aborts = |effects: &[Effect]| effects.iter().any(|e| matches!(e, Effect::Abort { .. }));
    assert!(!aborts(&effects), "all part by themselves");
    let effects = part(&mut state, 2, back(6, None));
    assert!(effects.is_empty(), "{effects:?}");
    assert_eq!(state.stage, Stage::Gathering);

    // News of checkpoints from before do not ask anew where to go on.
    let published = Event::CheckpointPublished { step: Step(4) };
    assert!(state.handle(published, Millis(0)).is_empty());
    let late = Event::Restorable {
        step: Some(Step(4)),
    };
    assert!(seats(&state.handle(late, Millis(0))).is_empty());

    let effects = state.handle(Event::WentBack { to: Some(Step(2)) }, Millis(0));
    assert_eq!(journaled(&effects), [back(6, Some(2))]);
    assert!(
        matches!(&effects[0], Effect::Journal { .. }),
        "before anybody acts on it: {effects:?}"
    );
    let given = seats(&effects);
    assert_eq!(given.len(), 2);
    for (_, placement) in given {
        assert_eq!(placement.origin, Origin::Store);
        assert_eq!(placement.lineage, Generation(2));
    }
    assert_eq!(state.lineage.unwrap().step, Step(2));
    assert_eq!(state.last_checkpoint, Some(Step(2)));
}

/// One rank found the spike; of the other the collective operation had failed, and it still holds
/// the state from before.
#[test]
fn a_rank_that_still_holds_the_state_follows() {
    for broken_first in [true, false] {
        let mut state = training(2);
        if broken_first {
            state.handle(parted(2, 1, 10), Millis(0));
        }
        part(&mut state, 1, back(6, None));
        if !broken_first {
            state.handle(parted(2, 1, 10), Millis(0));
        }
        let effects = state.handle(Event::WentBack { to: None }, Millis(0));
        assert_eq!(journaled(&effects), [back(6, Some(0))]);
        let given = seats(&effects);
        assert_eq!(given.len(), 2);
        assert!(given.iter().all(|(_, seat)| seat.origin == Origin::Store));
    }
}

/// The ranks of an earlier coordinator come back one after the other; the first finds the spike
/// before the second has come.
#[test]
fn ranks_that_are_being_taken_over_go_back_too() {
    let mut state = new(2, past());
    let lead = MemberId(71);
    state.handle(of_old(71, Attachment::Working(seat(4, 0, 2))), Millis(0));
    let found = Spike {
        generation: Generation(4),
        ..back(6, None)
    };
    let event = Event::Idle {
        member: lead,
        parting: Some((Generation(4), Parting::WentBack(Box::new(found)))),
        standing: None,
    };
    let effects = state.handle(event, Millis(0));
    assert!(effects.contains(&Effect::GoBack { before: Step(6) }));
    state.handle(Event::WentBack { to: Some(Step(2)) }, Millis(0));
    let other = Event::Joined(Introduction {
        member: Some(MemberId(72)),
        attachment: Attachment::Idle,
        ..introduction(72)
    });
    assert!(seats(&state.handle(other, Millis(0))).is_empty());
    // It says what it parted with once it has told what came before.
    let free = Event::Idle {
        member: MemberId(72),
        parting: Some((Generation(4), Parting::WentBack(Box::new(back(6, None))))),
        standing: None,
    };
    let given = seats(&state.handle(free, Millis(0)));
    assert_eq!(given.len(), 2);
    assert!(given.iter().all(|(_, seat)| seat.origin == Origin::Store));
}

#[test]
fn late_news_of_a_generation_that_is_over_go_back_nowhere() {
    let mut state = training(2);
    state.handle(parted(1, 1, 10), Millis(0));
    let effects = state.handle(parted(2, 1, 10), Millis(0));
    assert_eq!(seats(&effects).len(), 2, "generation 2");
    let effects = part(&mut state, 1, back(6, None));
    assert!(!effects.contains(&Effect::GoBack { before: Step(6) }));
}

/// What was told of steps that are taken again is told again; what the run went back from stays.
#[test]
fn steps_that_are_taken_again_are_told_again() {
    let past = Past {
        spikes: vec![
            spike(3, Handling::Skipped),
            back(9, Some(2)),
            spike(5, Handling::Warned),
        ],
        ..Past::default()
    };
    let mut state = new(1, past);
    state.handle(joined(1), Millis(0));
    state.handle(free(1, None), Millis(0));
    assert_eq!(state.spikes.len(), 3);
    let step = Some(Step(4));
    state.handle(Event::Restorable { step }, Millis(0));
    assert_eq!(
        state.spikes,
        [spike(3, Handling::Skipped), back(9, Some(2))]
    );
}
