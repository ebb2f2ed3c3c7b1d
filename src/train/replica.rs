//! One rank's copy of the training state, which outlives the generations that work on it.
//!
//! All ranks of a generation hold equal replicas and change them in the same way. A replica changes
//! only between collective operations, so that one that fails leaves every replica as it was before
//! or as it is after a change: the revision says which. When ranks come together again, the highest
//! revision of the newest generation is copied to those that have an older state or none.

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor, no_grad};
use thiserror::Error;

use crate::collective::Collective;
use crate::data::batch::SourceCounts;
use crate::data::blueprint::Blueprint;
use crate::ids::{Generation, Rank, SourceIndex, Step};
use crate::run::command::{Command, CommandKind, CommandStage};
use crate::run::ledger::{Consumed, Ledger};
use crate::run::progress::{DecayRefusal, Progress};
use crate::run::schedule::Schedule;
use crate::run::spike::Detour;
use crate::run::standing::Standing;
use crate::store::manifest::Reason;
use crate::train::step::Engine;

/// Weights and moments, and all that goes with them.
#[derive(Debug)]
pub struct Replica {
    pub engine: Engine,
    pub position: Position,
}

/// The part of the training state that is not in the engine; equal on all ranks.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Position {
    pub lineage: Generation,
    /// The generation of the last change.
    pub generation: Generation,
    /// Counts the changes of the replica.
    pub revision: u64,
    pub progress: Progress,
    pub ledger: Ledger,
    /// Rows that the weights have seen, over all phases.
    pub rows: u64,
    /// Whether no step of this run has touched the weights, and they are yet to be scored.
    pub fresh: bool,
    /// The boundary that is being passed.
    pub boundary: Option<Boundary>,
    /// In a pause, the phase that led to the weights.
    pub paused: Option<usize>,
    /// Whether a command ended the run here.
    pub stopped: bool,
    /// The newest checkpoint that was due.
    pub due: Option<Due>,
}

/// What lies between two steps, as all ranks agreed.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Boundary {
    /// The phase that led to the weights.
    pub phase: usize,
    /// Whether it follows a step; the first of a generation does not.
    pub after_step: bool,
    pub phase_ended: bool,
    pub command: Option<Command>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Due {
    pub step: Step,
    pub reason: Reason,
    pub phase: usize,
}

/// Why ranks that came together cannot go on together.
#[derive(Debug, Error)]
pub enum StateError {
    #[error("no rank of the generation holds a state")]
    Nobody,
    #[error("this rank's weights are not those of the other ranks: its memory cannot be trusted")]
    Diverged,
    #[error("the weights of rank {0} are not those of the other ranks")]
    PeerDiverged(Rank),
    #[error("the weights of the ranks differ, and none has a majority for its own")]
    Undecided,
}

impl Position {
    /// Takes in which rows are to be passed over, and passes over those that come next.
    pub fn avoid(&mut self, detours: &[Detour], blueprint: &Blueprint) {
        let phase = self.progress.phase;
        self.progress.avoid(detours);
        if self.pass_detours(blueprint) {
            self.boundary = Some(Boundary {
                phase,
                after_step: false,
                phase_ended: true,
                command: None,
            });
        }
    }

    /// Goes past the rows that no step is to take, where the next step would touch some. True when
    /// that ended a phase.
    pub fn pass_detours(&mut self, blueprint: &Blueprint) -> bool {
        let passed = blueprint.pass_detours(&mut self.progress);
        for rows in &passed {
            let counts = rows.counts.iter();
            let counts = counts.map(|(&source, &counts)| (source, counts));
            enter(&mut self.ledger, blueprint, rows.phase, (counts, false));
        }
        passed.iter().any(|rows| rows.phase_ended)
    }

    /// Enters that the replica has changed in a generation.
    pub fn changed(&mut self, generation: Generation) {
        self.generation = generation;
        self.revision += 1;
    }

    pub fn standing(&self) -> Standing {
        let ended = self.boundary.is_none() && (self.progress.finished || self.stopped);
        Standing {
            lineage: self.lineage,
            generation: self.generation,
            revision: self.revision,
            step: self.progress.step,
            paused: self.paused.is_some(),
            ended: ended.then_some(self.stopped),
        }
    }

    /// Why a command cannot take effect here, if it cannot.
    pub fn refusal(&self, kind: CommandKind, schedule: &Schedule) -> Option<String> {
        match kind {
            CommandKind::Decay { tokens } => {
                let target = self.progress.decay_target(tokens, schedule);
                target.err().map(|refusal| refusal.to_string())
            }
            CommandKind::Pause if self.paused.is_some() => {
                Some("the run is paused already".to_owned())
            }
            _ => None,
        }
    }

    /// What became of a command, if it is done with. A stop that a checkpoint knows of is not:
    /// whoever goes on from there has to stop again.
    pub fn outcome(&self, command: Command) -> Option<CommandStage> {
        match command.kind {
            CommandKind::Stop if !self.stopped => None,
            _ => self.progress.outcome(command),
        }
    }

    /// Lets a command take effect; `phase` led to the weights.
    pub fn apply(
        &mut self,
        command: Command,
        phase: usize,
        schedule: &Schedule,
    ) -> Result<(), DecayRefusal> {
        match command.kind {
            CommandKind::Decay { tokens } => {
                let step = self.progress.step;
                self.progress.decay(tokens, schedule)?;
                self.progress
                    .settle(command, CommandStage::Applied { step });
            }
            CommandKind::Pause => self.paused = Some(phase),
            CommandKind::Resume => self.paused = None,
            CommandKind::Stop => {
                self.paused = None;
                self.stopped = true;
            }
            CommandKind::Checkpoint { .. } => {}
        }
        Ok(())
    }
}

/// Enters into a ledger what rows of a phase hold of each source, seen or skipped.
pub fn enter(
    ledger: &mut Ledger,
    blueprint: &Blueprint,
    phase: usize,
    (counts, seen): (impl IntoIterator<Item = (SourceIndex, SourceCounts)>, bool),
) {
    let phase = &blueprint.schedule.phases[phase].name;
    for (source, counts) in counts {
        let consumed = Consumed {
            tokens: counts.tokens,
            chunks: counts.chunks,
            documents: counts.documents,
            ..Consumed::default()
        };
        let name = blueprint.corpus.manifest().source_name(source);
        let name = name.expect("the rows are of this corpus");
        let entered = if seen { consumed } else { consumed.skipped() };
        ledger.add(phase, &name, entered);
    }
}

impl Replica {
    fn tensors(&self) -> Vec<Tensor> {
        let weights = self.engine.model.parameters.iter();
        let moments = self.engine.optimizer.state_dict();
        weights
            .map(|parameter| parameter.tensor.detach())
            .chain(moments.into_iter().map(|(_, moment)| moment))
            .collect()
    }

    /// Sums over all bits of the state. Two replicas of the same sums are equal, but for a chance
    /// of about 2^-64 that damage evens out.
    fn fingerprint(&self) -> Result<[i64; 2]> {
        let text = serde_json::to_vec(&self.position)?;
        let hash = blake3::hash(&text);
        let (first, _) = hash.as_bytes().split_at(8);
        let mut sum = i64::from_le_bytes(first.try_into().expect("eight bytes"));
        sum = sum.wrapping_add(self.engine.optimizer.steps().cast_signed());
        let mut weighted = 0_i64;
        no_grad(|| {
            for (number, tensor) in (1_i64..).zip(self.tensors()) {
                for part in tensor.view([-1]).split(FINGERPRINT_PART, 0) {
                    let [plain, placed] = sums_of_bits(&part)?;
                    sum = sum.wrapping_add(plain.wrapping_mul(2 * number + 1));
                    weighted = weighted.wrapping_mul(31).wrapping_add(placed);
                }
            }
            anyhow::Ok(())
        })?;
        Ok([sum, weighted])
    }
}

/// Numbers that are summed at once.
const FINGERPRINT_PART: i64 = 1 << 22;

/// The bits of fp32 numbers as integers, summed modulo 2^64: as they are, and each times an odd
/// number that its place gives.
fn sums_of_bits(part: &Tensor) -> Result<[i64; 2]> {
    ensure!(
        part.kind() == Kind::Float,
        "the training state is kept in fp32"
    );
    let bits = part.f_view_dtype(Kind::Int)?.f_to_kind(Kind::Int64)?;
    let odd = Tensor::f_arange(bits.size()[0], (Kind::Int64, bits.device()))? * 2 + 1;
    let weighted = (&bits * odd).f_sum(Kind::Int64)?;
    let plain = bits.f_sum(Kind::Int64)?;
    Ok([plain.int64_value(&[]), weighted.int64_value(&[])])
}

/// Brings the ranks of a generation to the newest state that one of them holds. What a rank holds
/// is lost only where it is older than that.
///
/// # Errors
/// Those of the collective, and [`StateError`].
pub fn share(
    held: &mut Option<Replica>,
    lineage: Generation,
    collective: &dyn Collective,
    empty: impl FnOnce() -> Result<Engine>,
) -> Result<()> {
    held.take_if(|replica| replica.position.lineage != lineage);
    let text = match held {
        Some(replica) => serde_json::to_vec(&replica.position)?,
        None => Vec::new(),
    };
    let own = held.as_ref().map_or([0, 0], |replica| {
        let position = &replica.position;
        [position.generation.0 as i64, position.revision as i64 + 1]
    });
    let table = gather(collective, [own[0], own[1], text.len() as i64])?;
    let age = |row: &[i64; 3]| [row[0], row[1]];
    let newest = table.iter().map(age).max().unwrap_or_default();
    if newest == [0, 0] {
        return Err(StateError::Nobody.into());
    }
    if table.iter().any(|row| age(row) < newest) {
        let root = table.iter().position(|row| age(row) == newest);
        let root = Rank(root.expect("the newest is in the table") as u32);
        let length = table[root.0 as usize][2] as usize;
        let bytes = Tensor::from_slice(&if text.len() == length {
            text
        } else {
            vec![0_u8; length]
        });
        collective.broadcast(&bytes, root)?;
        if own < newest {
            let engine = match held.take() {
                Some(old) => old.engine,
                None => empty()?,
            };
            let bytes = Vec::<u8>::try_from(&bytes)?;
            let position = serde_json::from_slice(&bytes).context("a rank's state is malformed")?;
            let mut replica = Replica { engine, position };
            copy(&mut replica, collective, root, true)?;
            *held = Some(replica);
        } else if let Some(replica) = held {
            let from_here = collective.rank() == root;
            copy(replica, collective, root, from_here)?;
        }
    }
    held.as_ref()
        .map_or(Ok(()), |replica| compare(replica, collective))
}

/// Takes part in copying the root's tensors. Where the own ones are `used` they are sent, or
/// overwritten; else they are as good, and stay.
fn copy(replica: &mut Replica, collective: &dyn Collective, root: Rank, used: bool) -> Result<()> {
    no_grad(|| {
        for tensor in replica.tensors() {
            let into = if used { tensor } else { tensor.empty_like() };
            collective.broadcast(&into, root)?;
        }
        let steps = Tensor::from_slice(&[replica.engine.optimizer.steps() as i64]);
        collective.broadcast(&steps, root)?;
        if used {
            let steps = steps.int64_value(&[0]) as u64;
            replica.engine.optimizer.set_steps(steps);
        }
        Ok(())
    })
}

/// Makes sure that all ranks hold the same bits.
///
/// # Errors
/// [`StateError::Diverged`] where the own replica is to be thrown away, and
/// [`StateError::Undecided`] where everybody's is: no majority says which are right.
pub fn compare(replica: &Replica, collective: &dyn Collective) -> Result<()> {
    if collective.world() == 1 {
        return Ok(());
    }
    let own = replica.fingerprint()?;
    let table = gather(collective, own)?;
    let votes = |row: &[i64; 2]| table.iter().filter(|other| *other == row).count();
    let most = table.iter().max_by_key(|row| votes(row));
    let most = *most.expect("a generation has a rank");
    if votes(&most) == table.len() {
        return Ok(());
    }
    if votes(&most) * 2 <= table.len() {
        return Err(StateError::Undecided.into());
    }
    if own != most {
        return Err(StateError::Diverged.into());
    }
    let other = table.iter().position(|row| *row != most);
    let other = other.expect("not all are equal") as u32;
    Err(StateError::PeerDiverged(Rank(other)).into())
}

/// Everybody's numbers, by rank.
fn gather<const N: usize>(collective: &dyn Collective, own: [i64; N]) -> Result<Vec<[i64; N]>> {
    let world = collective.world() as usize;
    let place = collective.rank().0 as usize * N;
    let mut all = vec![0_i64; world * N];
    all[place..place + N].copy_from_slice(&own);
    let table = Tensor::from_slice(&all);
    collective.all_reduce_sum(&table)?;
    let all = Vec::<i64>::try_from(&table)?;
    let (rows, _) = all.as_chunks::<N>();
    Ok(rows.to_vec())
}
