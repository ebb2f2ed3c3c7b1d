//! The state of StableAdamW in a checkpoint of Composer.
//!
//! Moments belong to parameters, by name; torch before 2.3 numbers them instead, in the order of
//! the parameter groups, which `param_groups_weight_decay` of the training code makes: first the
//! parameters that do not decay, then those that do, both in the model's order. Steps belong to
//! the groups, and all groups have taken equally many.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail, ensure};
use tch::Kind;

use crate::model::composer::{NAME_BYTES_MAX, PARAMETERS_MAX, hub_name};
use crate::model::torch_file::TorchFile;
use crate::model::torch_file::value::{TensorRecord, Value, shown};
use crate::model::weights::DECODER;

/// How the names of the first and of the second moments end.
const MEANS: &str = ".exp_avg";
pub(super) const SQUARES: &str = ".exp_avg_sq";
/// Classes whose moments are those of StableAdamW: optimi's, and the training code's own.
const CLASSES: [&str; 2] = ["StableAdamW", "DecoupledStableAdamW"];
const GROUPS_MAX: usize = 64;
/// Entries of one parameter's state; there are three or four.
const STATE_ENTRIES_MAX: usize = 64;
/// Beyond this an fp64 step would lose its last digit.
const STEPS_MAX: f64 = 9_007_199_254_740_992.0;

/// The names of a parameter's moments.
pub(super) fn moment_names(parameter: &str) -> [String; 2] {
    [
        format!("{parameter}{MEANS}"),
        format!("{parameter}{SQUARES}"),
    ]
}

/// What the file says of the optimizer.
#[derive(Debug)]
pub(super) struct SavedOptimizer {
    /// As `<parameter>.exp_avg` and `<parameter>.exp_avg_sq`.
    pub(super) moments: BTreeMap<String, TensorRecord>,
    steps: Vec<Steps>,
    pub(super) max_lr: Option<f64>,
}

#[derive(Debug)]
enum Steps {
    Plain(f64),
    Tensor(TensorRecord),
}

impl SavedOptimizer {
    /// Reads what `state` has under `optimizers`; `weights` in the model's order.
    pub(super) fn read(state: Value<'_>, weights: &[(String, TensorRecord)]) -> Result<Self> {
        let optimizer = stable_adamw(state)?;
        let groups = optimizer.get("param_groups").and_then(Value::items);
        let groups = groups.context("it has no list of param_groups")?;
        ensure!(
            groups.len() <= GROUPS_MAX,
            "it has {} param_groups, at most {GROUPS_MAX} are read",
            groups.len()
        );
        let groups: Vec<Value<'_>> = groups.collect();
        let entries = optimizer.get("state").and_then(Value::entries);
        let entries = entries.context("it has no dictionary `state` of moments")?;
        ensure!(
            entries.len() <= PARAMETERS_MAX,
            "it has the state of {} parameters, at most {PARAMETERS_MAX} are read",
            entries.len()
        );
        let entries: Vec<(Value<'_>, Value<'_>)> = entries.collect();
        let numbered = if entries.iter().any(|(key, _)| key.integer().is_some()) {
            numbered_names(&groups, weights)?
        } else {
            BTreeMap::new()
        };
        let mut moments = BTreeMap::new();
        for &(key, state) in &entries {
            let parameter = match (key.text(), key.integer()) {
                (Some(name), _) if name.len() <= NAME_BYTES_MAX => hub_name(name),
                (_, Some(number)) => numbered
                    .get(&number)
                    .with_context(|| format!("parameter {number} is in no group"))?
                    .clone(),
                _ => bail!("the state of a parameter is under {}", key.describe()),
            };
            // A file of a few bytes can name one large dictionary for every parameter.
            let size = state.entries().map_or(0, |entries| entries.len());
            ensure!(
                size <= STATE_ENTRIES_MAX,
                "{} has a state of {size} entries, at most {STATE_ENTRIES_MAX} are read",
                shown(&parameter)
            );
            for (name, key) in moment_names(&parameter)
                .into_iter()
                .zip(["exp_avg", "exp_avg_sq"])
            {
                let Some(moment) = state.get(key) else {
                    continue; // reported as missing
                };
                let record = moment.tensor().with_context(|| {
                    format!("{} is {}, no tensor", shown(&name), moment.describe())
                })?;
                let twice = moments.insert(name, record).is_some();
                ensure!(!twice, "{} has two states", shown(&parameter));
            }
        }
        Ok(Self {
            moments,
            steps: saved_steps(&groups, &entries)?,
            max_lr: groups
                .iter()
                .find_map(|group| group.get("max_lr")?.number()),
        })
    }

    /// The steps that were taken.
    ///
    /// # Errors
    /// No count, one that is no whole number, and groups that disagree.
    pub(super) fn steps(&self, file: &mut TorchFile) -> Result<u64> {
        let mut counts = BTreeSet::new();
        for steps in &self.steps {
            let steps = match steps {
                Steps::Plain(steps) => *steps,
                Steps::Tensor(record) => {
                    ensure!(
                        record.shape.iter().all(|&size| size == 1)
                            && record.elements <= PARAMETERS_MAX as u64
                            && record.kind != Kind::Bool,
                        "its step is no single number"
                    );
                    file.tensor(record)?
                        .to_kind(Kind::Double)
                        .view(-1)
                        .double_value(&[0])
                }
            };
            ensure!(
                (0.0..=STEPS_MAX).contains(&steps) && steps.fract() == 0.0,
                "its step is {steps}, no count"
            );
            counts.insert(steps as u64);
        }
        match counts.into_iter().collect::<Vec<_>>()[..] {
            [steps] => Ok(steps),
            [] => bail!("it does not say how many steps were taken"),
            _ => bail!("its parameters have taken different numbers of steps"),
        }
    }
}

/// The entry of the only optimizer whose moments can be taken over.
fn stable_adamw(state: Value<'_>) -> Result<Value<'_>> {
    let optimizers = state
        .get("optimizers")
        .context("it has no state.optimizers")?;
    let found = CLASSES.iter().find_map(|class| optimizers.get(class));
    if let Some(optimizer) = found {
        return Ok(optimizer);
    }
    let classes = optimizers.entries().into_iter().flatten().take(8);
    let classes: Vec<String> = classes
        .map(|(class, _)| class.text().map_or_else(|| class.describe(), shown))
        .collect();
    bail!(
        "it is the state of {:?}, only that of StableAdamW means the same here",
        classes.join(", ")
    )
}

/// Parameters by their number. Groups that are not those of the training code are refused, for
/// equal shapes would hide that moments are mixed up.
fn numbered_names(
    groups: &[Value<'_>],
    weights: &[(String, TensorRecord)],
) -> Result<BTreeMap<i64, String>> {
    let parameters = weights.iter().filter(|(name, _)| name != DECODER);
    let decays = |(name, record): &&(String, TensorRecord)| {
        record.shape.len() > 1 && name.rsplit('.').next() != Some("bias")
    };
    let names: Vec<Vec<&(String, TensorRecord)>> = match groups.len() {
        1 => vec![parameters.collect()],
        2 => {
            let (decaying, others) = parameters.partition(decays);
            vec![others, decaying]
        }
        more => bail!("its parameters are numbered, in {more} groups; one or two are understood"),
    };
    let mut numbered = BTreeMap::new();
    for (group, names) in groups.iter().zip(names) {
        let numbers = group.get("params").and_then(Value::items);
        let numbers = numbers.context("a parameter group has no list of params")?;
        ensure!(
            numbers.len() == names.len(),
            "its parameters are numbered, and a group has {} of them where the model has {}",
            numbers.len(),
            names.len()
        );
        for (number, (name, _)) in numbers.zip(names) {
            let number = number
                .integer()
                .context("a parameter group names no numbers")?;
            let twice = numbered.insert(number, name.clone()).is_some();
            ensure!(!twice, "parameter {number} is in its groups twice");
        }
    }
    Ok(numbered)
}

/// The counts of the groups, or else of the parameters.
fn saved_steps(groups: &[Value<'_>], entries: &[(Value<'_>, Value<'_>)]) -> Result<Vec<Steps>> {
    let of = |value: Value<'_>| -> Result<Option<Steps>> {
        let Some(step) = value.get("step") else {
            return Ok(None);
        };
        let number = step.number().map(Steps::Plain);
        let steps = number.or_else(|| step.tensor().map(Steps::Tensor));
        let steps = steps.with_context(|| format!("its step is {}", step.describe()))?;
        Ok(Some(steps))
    };
    let of_groups: Result<Vec<_>> = groups
        .iter()
        .filter_map(|&group| of(group).transpose())
        .collect();
    let of_groups = of_groups?;
    if !of_groups.is_empty() {
        return Ok(of_groups);
    }
    entries
        .iter()
        .filter_map(|&(_, state)| of(state).transpose())
        .collect()
}
