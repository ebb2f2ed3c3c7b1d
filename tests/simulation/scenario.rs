//! What a seed stands for: the run, its machines, and which faults strike how often. Each seed has
//! a mix of its own, so that faults also come alone, in pairs, and many of one kind.

use std::collections::BTreeMap;

use cohort::corpus::mixture::Mixture;
use cohort::run::command::CommandKind;
use cohort::run::schedule::{PhaseSettings, Schedule, Shape};

use crate::dice::Dice;
use crate::spikes::Spikes;

/// Milliseconds of the simulated world.
pub type Time = u64;

/// Tokens of a row, and rows of a step.
pub const ROW_TOKENS: u64 = 10;
pub const ROWS: u32 = 4;
const STEP_TOKENS: u64 = ROW_TOKENS * ROWS as u64;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// A rank's process dies, and its connections close.
    KillRank,
    /// Its machine does: nothing closes.
    LoseMachine,
    KillCoordinator,
    /// SIGSTOP, or a machine that stands still for a while.
    PauseRank,
    PauseCoordinator,
    HangCompute,
    /// Two machines do not reach each other.
    Partition,
    /// One machine reaches nobody.
    Isolate,
    BreakLink,
    JumpClock,
    /// Somebody starts a second coordinator.
    Rival,
    StallStore,
    WarnRank,
}

pub const FAULTS: [Fault; 13] = [
    Fault::KillRank,
    Fault::LoseMachine,
    Fault::KillCoordinator,
    Fault::PauseRank,
    Fault::PauseCoordinator,
    Fault::HangCompute,
    Fault::Partition,
    Fault::Isolate,
    Fault::BreakLink,
    Fault::JumpClock,
    Fault::Rival,
    Fault::StallStore,
    Fault::WarnRank,
];

#[derive(Clone, Debug)]
pub struct Scenario {
    /// Seats, and machines for them.
    pub ranks: u32,
    pub min_ranks: u32,
    pub machines: usize,
    /// Whether all processes are on one machine, whose coordinator sees which of them live.
    pub one_host: bool,
    /// When each machine's rank starts first.
    pub starts: Vec<Time>,
    pub step_ms: u64,
    pub schedule: Schedule,
    pub checkpoint_steps: Option<u64>,
    pub checkpoint_ms: Option<u64>,
    pub evaluation_steps: Option<u64>,
    pub comparison_steps: u64,
    pub upload_ms: u64,
    /// Faults of this seed, and the mean time between two of them.
    pub faults: Vec<Fault>,
    pub fault_ms: u64,
    /// Of a thousand moments in which something was just written or said, how many are met by a
    /// fault.
    pub ambush: u64,
    pub faults_until: Time,
    pub commands: Vec<(Time, CommandKind)>,
    /// Whether a run that was stopped is taken up again.
    pub resumes: bool,
    /// Steps whose loss spikes, where there are some.
    pub spikes: Option<Spikes>,
    /// Of a thousand entries of the journal so many are left half written.
    pub torn: u64,
}

impl Scenario {
    pub fn of(seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let ranks = dice.between(1, 4) as u32;
        let machines = ranks as usize + usize::from(dice.per_mille(250));
        let min_ranks = if dice.per_mille(700) {
            1
        } else {
            dice.between(1, u64::from(ranks)) as u32
        };
        let faults: Vec<Fault> = FAULTS.into_iter().filter(|_| dice.per_mille(350)).collect();
        let late = |dice: &mut Dice, machine: usize| {
            if machine >= ranks as usize || dice.per_mille(80) {
                dice.between(2_000, 25_000)
            } else {
                dice.between(0, 300)
            }
        };
        let interval = |dice: &mut Dice, share: u64, low: u64, high: u64| {
            dice.per_mille(share).then(|| dice.between(low, high))
        };
        Self {
            ranks,
            min_ranks,
            machines,
            one_host: dice.per_mille(500),
            starts: (0..machines).map(|each| late(&mut dice, each)).collect(),
            step_ms: dice.between(100, 900),
            schedule: schedule(&mut dice),
            checkpoint_steps: interval(&mut dice, 600, 2, 9),
            checkpoint_ms: interval(&mut dice, 250, 3_000, 12_000),
            evaluation_steps: interval(&mut dice, 250, 2, 7),
            comparison_steps: dice.between(3, 20),
            upload_ms: dice.between(20, 2_500),
            fault_ms: dice.between(1_500, 15_000),
            ambush: if dice.per_mille(500) {
                dice.between(1, 25)
            } else {
                0
            },
            faults,
            faults_until: dice.between(15_000, 60_000),
            commands: commands(&mut dice),
            resumes: dice.per_mille(500),
            spikes: dice.per_mille(350).then(|| Spikes::draw(&mut dice)),
            torn: interval(&mut dice, 200, 5, 60).unwrap_or(0),
        }
    }
}

fn commands(dice: &mut Dice) -> Vec<(Time, CommandKind)> {
    let number = if dice.per_mille(700) {
        dice.between(1, 6)
    } else {
        0
    };
    let mut commands: Vec<_> = (0..number)
        .map(|_| {
            let kind = match dice.below(12) {
                0..4 => CommandKind::Decay {
                    tokens: dice
                        .per_mille(400)
                        .then(|| dice.between(1, 8) * STEP_TOKENS),
                },
                4..6 => CommandKind::Checkpoint { by_time: false },
                6..8 => CommandKind::Pause,
                8..11 => CommandKind::Resume,
                _ => CommandKind::Stop,
            };
            (dice.between(1_000, 40_000), kind)
        })
        .collect();
    commands.sort_by_key(|(at, _)| *at);
    commands
}

fn schedule(dice: &mut Dice) -> Schedule {
    let phase = |name: &str, shape: Shape| PhaseSettings {
        name: name.to_owned(),
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
    let mut phases = vec![phase("stable", Shape::Constant)];
    if dice.per_mille(200) {
        phases.push(phase("more", Shape::Constant));
    }
    phases.push(phase("decay", Shape::Linear));
    let steps = |dice: &mut Dice| dice.between(3, 25) * STEP_TOKENS;
    Schedule {
        lengths_tokens: phases.iter().map(|_| steps(dice)).collect(),
        limits: phases.iter().map(|_| None).collect(),
        phases,
        rows: ROWS,
    }
}
