//! The invariants of the design, looked at whenever something changes that they speak of.
//!
//! 1. The rows of committed steps are a prefix of the plan, each exactly once, but for those that
//!    are passed over, which nobody takes after the run went back.
//! 2. Ranks of one generation hold equal states at equal revisions, and what is committed is one
//!    history.
//! 3. A published checkpoint is whole and on that history; no other one is gone on from.
//! 4. A command takes effect once.
//! 5. A coordinator that was taken over writes nothing down.
//! 6. Once nothing strikes any more the run ends, and every wait has a reason in words.
//! 7. No checkpoint is read while a rank holds the state, and at most one step is taken again.

use std::collections::{BTreeMap, BTreeSet};

use cohort::ids::{CommandId, Epoch, Generation, Step};
use cohort::run::command::{CommandKind, CommandRecord, CommandStage};
use cohort::run::event::Entry;
use cohort::run::spike::{self, Handling, Spike};
use cohort::store::manifest::{CheckpointManifest, digest};
use cohort::store::{epoch, layout};
use futures::executor::block_on;

use crate::archive::{Line, read_lines};
use crate::groups::GroupKey;
use crate::replica::{FIRST_WEIGHTS, Saved};
use crate::scenario::{ROWS, Time};
use crate::world::{Ending, Happening, Pid, Role, World};

/// One that was welcomed so long ago was there when seats were given.
const KNOWN: Time = 3_000;
/// A rank that has run and reached its coordinator for so long is known to it.
const SOUND: Time = 25_000;

#[derive(Debug, Default)]
pub struct Checks {
    pub violation: Option<String>,
    /// States by generation, lineage and revision.
    states: BTreeMap<(GroupKey, Generation, u64), u64>,
    /// The newest epoch whose coordinator has begun to serve.
    serving: Epoch,
    /// The newest step that the newest coordinator knows.
    entered: Step,
    lineage: Option<Generation>,
    /// The lineage before that.
    earlier: Option<Generation>,
    accepted: BTreeMap<CommandId, CommandKind>,
    /// What the journal knows of loss spikes.
    spikes: Vec<Spike>,
    /// Where the run went back to, until somebody goes on from there.
    went_back: Option<Step>,
    /// Whether a coordinator that was taken over wrote the metrics last.
    overwritten: bool,
    /// Who gave the seats of a generation.
    givers: BTreeMap<Generation, Epoch>,
    /// Who wrote files of a step's checkpoint.
    writers: BTreeMap<Step, BTreeSet<Pid>>,
}

impl Checks {
    /// A coordinator begins to serve; the journal told it of a lineage that may live on.
    pub fn serves(&mut self, epoch: Epoch, lineage: Option<Generation>) {
        self.serving = self.serving.max(epoch);
        self.lineage = lineage;
    }

    pub fn answered(&mut self, record: &CommandRecord) {
        if record.stage == CommandStage::Accepted {
            let command = record.command;
            self.accepted.insert(command.id, command.kind);
        }
    }

    fn journaled(&mut self, entry: &Entry) {
        match entry {
            Entry::Generation(record) => {
                if self.lineage != Some(record.lineage) {
                    self.earlier = self.lineage.replace(record.lineage);
                }
            }
            Entry::Ended { .. } => {
                self.lineage = None;
                self.earlier = None;
            }
            Entry::Spike(found) => {
                if let Handling::WentBack { to, .. } = found.handling {
                    self.went_back = Some(to.unwrap_or_default());
                    self.lineage = None;
                    self.earlier = None;
                }
                spike::enter(&mut self.spikes, found.clone());
            }
            Entry::Command(_) | Entry::Sealed { .. } => {}
        }
    }
}

impl World {
    /// A replica has changed.
    pub fn changed(&mut self, pid: Pid, generation: Generation) {
        let Some(rank) = self.rank(pid) else { return };
        let (Some(held), Some((key, _))) = (&rank.replica, rank.group) else {
            return;
        };
        let (lineage, revision) = (held.position.lineage, held.position.revision);
        let digest = held.digest();
        let known = self
            .checks
            .states
            .entry((key, lineage, revision))
            .or_insert(digest);
        if *known != digest {
            self.violated(format!(
                "(2) ranks of generation {generation} differ at revision {revision}"
            ));
        }
    }

    /// A rank is in a generation with the state of all.
    pub fn joined_generation(&mut self, pid: Pid, generation: Generation) {
        let lineage = self.checks.lineage;
        let Some(held) = self.rank(pid).and_then(|rank| rank.replica.clone()) else {
            return;
        };
        let (entered, position) = (self.checks.entered, held.position);
        if lineage != Some(position.lineage) {
            return;
        }
        let step = position.progress.step;
        if step.0 + 1 < entered.0 {
            self.tally
                .count("generations that lost several steps with a rank");
        }
        let Some(serving) = self.serving() else {
            return;
        };
        let newer = self.sound_holder(
            serving,
            position.lineage,
            (position.generation, position.revision + 1),
        );
        if let Some(newer) = newer {
            self.violated(format!(
                "(7) generation {generation} goes on from step {step}, and {newer} knows more"
            ));
        }
    }

    /// A rank that is well known to the coordinator and holds a state of this revision or newer.
    fn sound_holder(
        &self,
        coordinator: Pid,
        lineage: Generation,
        least: (Generation, u64),
    ) -> Option<String> {
        let now = self.now;
        let holds = self.processes.iter().find(|(_, process)| {
            let Role::Rank(rank) = &process.role else {
                return false;
            };
            let link = rank.link.and_then(|id| self.links.get(&id));
            let reached =
                link.is_some_and(|link| link.coordinator == coordinator && !link.server_closed);
            let sound = now - rank.sound_since.max(process.born) >= SOUND
                && now - rank.welcomed_at >= KNOWN;
            let well = sound && !process.paused && !rank.hangs && !rank.warned;
            let is_held = rank.replica.as_ref().is_some_and(|held| {
                let position = &held.position;
                position.lineage == lineage && (position.generation, position.revision) >= least
            });
            is_held && reached && well && rank.welcomed && process.ahead == 0
        });
        holds.map(|(&pid, _)| self.name(pid))
    }

    /// A coordinator enters a step.
    pub fn entered(&mut self, epoch: Epoch, last: Option<&Line>, line: &Line) {
        if epoch >= self.checks.serving {
            self.checks.entered = line.step;
        }
        if let Some(gap) = gap(last, line, &self.checks.spikes) {
            self.violated(format!("(1) {gap}"));
        }
    }

    /// A checkpoint is about to be published.
    pub fn published(&mut self, manifest: &CheckpointManifest, lines: &[Line]) {
        let step = manifest.step;
        // The files of one that comes too late may be gone.
        let exists = self.saved(step).is_some();
        if let Some(what) = self.off_history(step, lines).filter(|_| exists) {
            self.violated(format!("(3) published: {what}"));
        }
    }

    /// Why a checkpoint in the store is none of the committed history.
    fn off_history(&self, step: Step, lines: &[Line]) -> Option<String> {
        let Some(saved) = self.saved(step) else {
            return Some(format!("checkpoint {step} does not load"));
        };
        let committed = lines
            .iter()
            .find(|line| line.step == step)
            .map_or(FIRST_WEIGHTS, |line| line.after);
        (saved.weights != committed)
            .then(|| format!("checkpoint {step} is not on the committed history"))
    }

    fn saved(&self, step: Step) -> Option<Saved> {
        let key = layout::checkpoint_file(step, layout::STATE_FILE);
        let bytes = block_on(self.bucket.bare().get(&key)).ok()?;
        serde_json::from_slice(&bytes).ok()
    }

    fn manifest(&self, step: Step) -> Option<CheckpointManifest> {
        let key = layout::checkpoint_file(step, layout::MANIFEST_FILE);
        let bytes = block_on(self.bucket.bare().get(&key)).ok()?;
        CheckpointManifest::parse(&bytes).ok()
    }

    /// A lineage begins from the store.
    pub fn restores(&mut self, pid: Pid, step: Step, lines: &[Line]) {
        self.tally.count("lineages begun from the store");
        self.checks.entered = step;
        if let Some(to) = self.checks.went_back.take()
            && to != step
        {
            self.violated(format!("(3) the run went back to {to}, and {step} is read"));
        }
        if step > Step(0) {
            self.tally.count("lineages begun from a checkpoint");
            if self.manifest(step).is_none() {
                self.violated(format!("(3) checkpoint {step} was never published"));
            }
            if let Some(what) = self.off_history(step, lines) {
                self.violated(format!("(3) restored: {what}"));
            }
        }
        let Some(earlier) = self.checks.earlier else {
            return;
        };
        if let Some(holder) = self.sound_holder(pid, earlier, (Generation(0), 0)) {
            self.violated(format!(
                "(7) checkpoint {step} is read while {holder} holds the state"
            ));
        }
    }

    /// Something was written into the store.
    pub fn wrote(&mut self, pid: Pid, key: &str) {
        if layout::parse_journal_entry(key).is_some() {
            let entry = block_on(self.bucket.bare().get(key)).ok();
            let entry = entry.and_then(|bytes| serde_json::from_slice(&bytes).ok());
            if let Some(entry) = entry {
                self.checks.journaled(&entry);
            }
        }
        let epoch = self.coordinator(pid).map_or(0, |each| each.epoch);
        let serving = self.checks.serving;
        let is_fenced = epoch > 0 && Epoch(epoch) < serving;
        let own_entry = layout::parse_journal_entry(key).is_some_and(|(of, _)| of.0 == epoch);
        let may_write = self.coordinator(pid).is_some_and(|each| each.may_write);
        let metrics = key == layout::METRICS_FILE && !may_write;
        if key == layout::METRICS_FILE {
            self.checks.overwritten = is_fenced;
        }
        if is_fenced && (own_entry || metrics) {
            self.violated(format!(
                "(5) epoch {epoch} writes {key}, and {serving} serves"
            ));
        }
        if let Some((step, layout::STATE_FILE)) = layout::parse_checkpoint_file(key) {
            self.checks.writers.entry(step).or_default().insert(pid);
        }
        if let Some((step, layout::MANIFEST_FILE)) = layout::parse_checkpoint_file(key) {
            let whole = self.manifest(step).is_none_or(|manifest| {
                manifest.files.iter().all(|entry| {
                    let key = layout::checkpoint_file(step, &entry.name);
                    let bytes = block_on(self.bucket.bare().get(&key));
                    bytes.is_ok_and(|bytes| digest(&bytes) == entry.digest)
                })
            });
            // Two windows stay open, and verifying sees through both: between a coordinator's check
            // and its write, and where a former lead writes the same step's files once more.
            let writers = self.checks.writers.get(&step).map_or(0, BTreeSet::len);
            if !whole && (is_fenced || writers > 1) {
                self.tally
                    .count("manifests whose files were changed meanwhile");
            } else if !whole {
                self.violated(format!("(3) checkpoint {step} exists and is not whole"));
            }
        }
    }

    /// A seat is given.
    pub fn given(&mut self, generation: Generation, epoch: Epoch) {
        let giver = *self.checks.givers.entry(generation).or_insert(epoch);
        if giver != epoch {
            self.violated(format!(
                "(2) generation {generation} of epoch {giver} is given again by {epoch}"
            ));
        }
    }

    /// A coordinator ends because another one has taken the run over.
    pub fn fenced_off(&mut self, pid: Pid) {
        let epoch = self.coordinator(pid).map_or(0, |each| each.epoch);
        let newest = block_on(epoch::newest(&self.bucket.bare())).ok().flatten();
        if epoch > 0 && newest == Some(Epoch(epoch)) {
            self.violated(format!(
                "(5) epoch {epoch} is fenced off, and nobody came after"
            ));
        }
    }

    /// The run was stopped; an operator may take it up again.
    pub fn stopped(&mut self) {
        self.tally.count("runs stopped");
        if !self.scenario.resumes || std::mem::replace(&mut self.resumed, true) {
            self.over = Some(Ending::Stopped);
            return;
        }
        self.tally.count("runs resumed");
        for machine in 0..self.seats.len() {
            self.seats[machine].done = false;
            if machine < self.scenario.machines {
                self.after(2_000, Happening::Start(machine));
            }
        }
    }

    /// What must hold when all is over.
    pub fn check_end(&mut self) {
        let store = self.bucket.bare();
        let lines = block_on(read_lines(&store)).unwrap_or_default();
        let mut last = None;
        for line in &lines {
            if let Some(gap) = gap(last, line, &self.checks.spikes) {
                self.violated(format!("(1) at the end: {gap}"));
            }
            let told = |spike: &Spike| {
                (spike.step, spike.rows.start) == (line.step, line.first_row)
                    && spike.phase == line.phase
            };
            if line.spiked && !self.checks.spikes.iter().any(told) {
                self.violated(format!("(1) step {} spiked, and nobody knows", line.step));
            }
            last = Some(line);
        }
        if self.over != Some(Ending::Finished) {
            return;
        }
        if self.checks.overwritten {
            // The window between a look at the epochs and the write; nobody is left to see it.
            self.tally.count("metrics overwritten after the end");
            return;
        }
        let step = last.map_or(Step(0), |line| line.step);
        if self.manifest(step).is_none() {
            return self.violated(format!("(3) the last step, {step}, has no checkpoint"));
        }
        if let Some(what) = self.off_history(step, &lines) {
            return self.violated(format!("(3) at the end: {what}"));
        }
        if let Some(saved) = self.saved(step) {
            self.check_commands(&saved);
        }
    }

    fn check_commands(&mut self, saved: &Saved) {
        let journal = block_on(cohort::coordinator::journal::read(&self.bucket.bare()));
        let commands = journal.map(|journal| journal.commands).unwrap_or_default();
        for (id, kind) in self.checks.accepted.clone() {
            let times = saved.applied.iter().filter(|(each, _)| *each == id);
            let steps: Vec<Step> = times.map(|(_, step)| *step).collect();
            let record = commands.iter().find(|record| record.command.id == id);
            let is_decay = matches!(kind, CommandKind::Decay { .. });
            let wrong = match record.map(|record| &record.stage) {
                None => Some("is not in the journal"),
                // A run that goes on from the checkpoint of a stop stops again, there.
                _ if steps.len() > 1
                    && (kind != CommandKind::Stop
                        || steps.iter().any(|step| *step != steps[0])) =>
                {
                    Some("took effect twice")
                }
                // Whoever goes on from the checkpoint of a stop, in a later epoch, has not stopped.
                Some(CommandStage::Refused { .. }) if kind == CommandKind::Stop => None,
                Some(CommandStage::Refused { .. }) if !steps.is_empty() => {
                    Some("was refused and took effect")
                }
                // All rows of it are passed over; the checkpoint is from before, as always.
                Some(CommandStage::Applied { step })
                    if is_decay && steps.is_empty() && *step == saved.progress.step =>
                {
                    None
                }
                Some(CommandStage::Applied { step }) if is_decay && steps != [*step] => {
                    Some("took effect at another step than the journal says")
                }
                Some(CommandStage::Accepted) if !steps.is_empty() => {
                    Some("took effect and the journal does not know")
                }
                Some(CommandStage::Accepted) => {
                    self.tally.count("commands that the end overtook");
                    None
                }
                Some(_) => None,
            };
            if let Some(wrong) = wrong {
                let found = record.map(|record| record.stage.clone());
                self.violated(format!(
                    "(4) command {id} ({}) {wrong}: {steps:?}, {found:?}",
                    kind.verb()
                ));
            }
        }
    }
}

/// Whether rows up to a line's first are those that are passed over: a step that would touch such a
/// stretch begins behind it.
fn are_passed(mut row: u64, line: &Line, spikes: &[Spike]) -> bool {
    while row != line.first_row {
        let touched = spikes.iter().filter_map(Spike::detour).filter(|detour| {
            let rows = &detour.rows;
            let touches = rows.start < row + u64::from(ROWS) && rows.end > row;
            detour.phase == line.phase && touches && rows.end <= line.first_row
        });
        let Some(end) = touched.map(|detour| detour.rows.end).max() else {
            return false;
        };
        row = end;
    }
    true
}

/// Whether a step takes rows that the run had gone back from.
fn is_forbidden(line: &Line, spike: &Spike) -> bool {
    let Handling::WentBack { passed_over, to } = &spike.handling else {
        return false;
    };
    let after = line.generation > spike.generation && line.step > to.unwrap_or_default();
    let end = line.first_row + u64::from(line.rows);
    let touches = passed_over.start < end && passed_over.end > line.first_row;
    after && touches && line.phase == spike.phase
}

/// What is wrong with a line after another one, if it is.
fn gap(last: Option<&Line>, line: &Line, spikes: &[Spike]) -> Option<String> {
    let (step, weights) = last.map_or((0, FIRST_WEIGHTS), |last| (last.step.0, last.after));
    if line.step.0 != step + 1 {
        return Some(format!("step {} follows step {step}", line.step));
    }
    let same = last.filter(|last| last.phase == line.phase);
    let row = same.map_or(0, |last| last.first_row + u64::from(last.rows));
    if spikes.iter().any(|spike| is_forbidden(line, spike)) {
        return Some(format!(
            "step {} takes rows from {} of {}, which are to be passed over",
            line.step, line.first_row, line.phase
        ));
    }
    if !are_passed(row, line, spikes) {
        return Some(format!(
            "step {} begins at row {} of {}, not at {row}",
            line.step, line.first_row, line.phase
        ));
    }
    (line.before != weights).then(|| {
        format!(
            "step {} goes on from weights that were not committed",
            line.step
        )
    })
}
