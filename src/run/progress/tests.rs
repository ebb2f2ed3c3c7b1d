//! Steps that are skipped, and rows that are passed over. A row has ten tokens here.

use std::collections::BTreeMap;

use crate::corpus::mixture::Mixture;
use crate::run::schedule::{PhaseSettings, RowsWarmup, Shape};
use crate::run::spike::SpikeSettings;

use super::*;

const ROW_TOKENS: u64 = 10;

/// Two phases of 20 and of 8 rows, in steps of four.
fn schedule(rows_warmup: Option<RowsWarmup>) -> Schedule {
    let phase = |name: &str, shape: Shape| PhaseSettings {
        name: name.to_owned(),
        tokens: None,
        mixture: Mixture::All,
        max_epochs: BTreeMap::new(),
        mask_rate: 0.3,
        learning_rate: 1.0,
        warmup_tokens: 0,
        shape,
        decay_tokens: None,
        floor: 0.0,
        rows_warmup,
    };
    Schedule {
        phases: vec![
            phase("stable", Shape::Constant),
            phase("decay", Shape::Linear),
        ],
        lengths_tokens: vec![20 * ROW_TOKENS, 8 * ROW_TOKENS],
        limits: vec![None, None],
        rows: 4,
    }
}

fn detour(phase: &str, rows: Range<u64>) -> Detour {
    Detour {
        phase: phase.to_owned(),
        rows,
    }
}

fn pass(progress: &mut Progress, schedule: &Schedule) {
    while let Some(rows) = progress.due_detour(schedule) {
        let tokens = (rows.end - rows.start) * ROW_TOKENS;
        progress.pass_over(&rows, tokens, schedule);
    }
}

/// The first row and the learning rate of each step, by phase.
fn taken(mut progress: Progress, schedule: &Schedule) -> Vec<(usize, u64, f64)> {
    let mut steps = Vec::new();
    pass(&mut progress, schedule);
    while let Some(plan) = progress.next_step(schedule) {
        steps.push((plan.phase, plan.first_row.0, plan.learning_rate));
        let tokens = u64::from(plan.rows) * ROW_TOKENS;
        progress.advance(&plan, tokens, schedule);
        pass(&mut progress, schedule);
    }
    steps
}

#[test]
fn a_skipped_step_moves_the_clock_and_counts_no_tokens() {
    let schedule = schedule(None);
    let mut progress = Progress::new(&schedule);
    let plan = progress.next_step(&schedule).unwrap();
    assert!(!progress.skip(&plan, 40, &schedule));
    assert_eq!((progress.tokens, progress.phase_tokens), (0, 40));
    assert_eq!((progress.step, progress.next_row), (Step(1), RowIndex(4)));
    for _ in 0..3 {
        let plan = progress.next_step(&schedule).unwrap();
        assert!(!progress.advance(&plan, 40, &schedule));
    }
    let last = progress.next_step(&schedule).unwrap();
    assert!(progress.skip(&last, 40, &schedule), "it ends its phase");
    assert_eq!((progress.tokens, progress.phase), (120, 1));
}

#[test]
fn rows_that_are_passed_over_are_in_no_step() {
    let schedule = schedule(None);
    let begin = |detours: &[Detour]| {
        let mut progress = Progress::new(&schedule);
        progress.avoid(detours);
        progress.avoid(detours);
        assert_eq!(progress.detours.len(), detours.len());
        let steps = taken(progress, &schedule);
        steps
            .into_iter()
            .map(|(phase, row, _)| (phase, row))
            .collect::<Vec<_>>()
    };
    let all = [(0, 0), (0, 4), (0, 8), (0, 12), (0, 16), (1, 0), (1, 4)];
    assert_eq!(begin(&[]), all);
    let without = |rows: &[(usize, u64)]| {
        let mut left = all.to_vec();
        left.retain(|row| !rows.contains(row));
        left
    };
    assert_eq!(
        begin(&[detour("stable", 4..12)]),
        without(&[(0, 4), (0, 8)])
    );
    assert_eq!(begin(&[detour("stable", 0..4)]), without(&[(0, 0)]));
    assert_eq!(begin(&[detour("stable", 16..20)]), without(&[(0, 16)]));
    assert_eq!(begin(&[detour("other", 0..20)]), all);
    let both = [
        detour("stable", 8..12),
        detour("stable", 4..8),
        detour("decay", 0..4),
    ];
    assert_eq!(begin(&both), without(&[(0, 4), (0, 8), (1, 0)]));
    let whole = [detour("stable", 0..20), detour("decay", 0..8)];
    assert_eq!(begin(&whole), []);
    // A stretch that begins inside a step, as where the step has another number of rows now.
    let inside = [detour("stable", 6..13)];
    let rows = [(0, 0), (0, 13), (0, 17), (1, 0), (1, 4)];
    assert_eq!(begin(&inside), rows);
}

/// A checkpoint may lie inside the stretch: what it has seen it has seen.
#[test]
fn rows_that_were_read_before_stay_read() {
    let schedule = schedule(None);
    let mut progress = Progress::new(&schedule);
    for _ in 0..2 {
        let plan = progress.next_step(&schedule).unwrap();
        progress.advance(&plan, 40, &schedule);
    }
    progress.avoid(&[detour("stable", 4..12)]);
    assert_eq!(progress.due_detour(&schedule), Some(8..12));
    pass(&mut progress, &schedule);
    assert_eq!(progress.next_row, RowIndex(12));
    assert_eq!((progress.tokens, progress.phase_tokens), (80, 120));
}

/// The rate is that of the row, whether the rows before it were taken or not.
#[test]
fn the_schedule_is_as_if_the_rows_had_been_taken() {
    let warmup = RowsWarmup {
        from_rows: 2,
        tokens: 80,
    };
    let schedule = schedule(Some(warmup));
    let all = taken(Progress::new(&schedule), &schedule);
    let mut progress = Progress::new(&schedule);
    progress.avoid(&[detour("stable", 4..7), detour("decay", 2..4)]);
    for step in taken(progress, &schedule) {
        assert!(all.contains(&step), "{step:?} of {all:?}");
    }
}

#[test]
fn losses_are_those_of_one_phase() {
    let settings = SpikeSettings {
        window_steps: 8,
        ..SpikeSettings::default()
    };
    let schedule = schedule(None);
    let mut progress = Progress::new(&schedule);
    for _ in 0..8 {
        progress.watch.enter(3.0, &settings);
    }
    assert!(progress.watch.limit(&settings).is_some());
    progress.decay(None, &schedule).unwrap();
    assert_eq!(progress.watch.limit(&settings), None);
}

#[test]
fn a_state_from_before_there_were_detours_is_read() {
    let progress = Progress::new(&schedule(None));
    let mut json = serde_json::to_value(&progress).unwrap();
    json.as_object_mut().unwrap().remove("watch");
    assert!(json.get("detours").is_none());
    assert_eq!(serde_json::from_value::<Progress>(json).unwrap(), progress);
}

/// Whoever hears of it last must not take a refusal for an effect.
#[test]
fn a_state_knows_what_became_of_commands() {
    let mut progress = Progress::new(&schedule(None));
    let command = |id| Command {
        id: CommandId(id),
        kind: CommandKind::Decay { tokens: None },
    };
    assert_eq!(progress.outcome(command(1)), None);
    let refused = CommandStage::Refused {
        reason: "there is none".to_owned(),
    };
    progress.settle(command(1), refused.clone());
    progress.step = Step(7);
    progress.settle(command(2), CommandStage::Applied { step: Step(7) });
    assert_eq!(progress.outcome(command(1)), Some(refused));
    let applied = CommandStage::Applied { step: Step(7) };
    assert_eq!(progress.outcome(command(2)), Some(applied));
    assert_eq!(progress.outcome(command(3)), None);
    let json = serde_json::to_string(&progress).unwrap();
    assert_eq!(serde_json::from_str::<Progress>(&json).unwrap(), progress);
    for id in 3..100 {
        progress.settle(command(id), CommandStage::Applied { step: Step(7) });
    }
    assert_eq!(progress.settled.len(), SETTLED_MAX);
}
