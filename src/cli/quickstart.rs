//! `cohort quickstart`: the whole run on an embedded corpus, as an operator would do it: prepare,
//! train, command the decay from outside while it runs, look at the result.
//!
//! Nothing is special about it: it writes two YAML files and starts `cohort` as anybody would.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::process::Command;
use tokio::time::{Instant, sleep};

use crate::cli::{look, operate, prepare, say};
use crate::ids::Step;
use crate::run::command::CommandKind;

const CORPUS_YAML: &str = include_str!("../../configs/corpus/synthetic.yaml");
const RUN_YAML: &str = include_str!("../../configs/quickstart.yaml");
/// The stable phase is left on command after this step.
const DECAY_AFTER: Step = Step(140);
/// How long the run may take to get there.
const STABLE_TIMEOUT: Duration = Duration::from_mins(20);
const POLL_INTERVAL: Duration = Duration::from_millis(300);
const EXAMPLES: [&str; 2] = [
    "CHEST RADIOGRAPH. Indication: cough and [MASK].",
    "The patient was started on [MASK] 500 mg twice daily.",
];

pub(super) async fn quickstart(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder.join("configs/corpus"))
        .with_context(|| format!("cannot create {}", folder.display()))?;
    let corpus = folder.join("configs/corpus/synthetic.yaml");
    let run = folder.join("configs/quickstart.yaml");
    write(&corpus, CORPUS_YAML)?;
    write(&run, RUN_YAML)?;
    say(
        "1. The embedded corpus: four institutions, invented notes, a tokenizer trained on them\n",
    )?;
    tokio::task::spawn_blocking(move || prepare::prepare(&corpus)).await??;
    say("\n2. Training on two ranks; the decay is commanded from outside while it runs\n")?;
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    let mut training = Command::new(program)
        .arg("train")
        .arg(&run)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .context("cannot start the training")?;
    let name = run.display().to_string();
    let commanded = tokio::select! {
        ended = training.wait() => bail!("the training ended early: {}", ended?),
        commanded = decay_when_due(&name) => commanded,
    };
    commanded?;
    let status = training.wait().await?;
    if !status.success() {
        bail!("the training failed: {status}");
    }
    say(
        "\n3. What the checkpoint predicts (it is small and saw little; real encoders see more)\n",
    )?;
    let store = operate::folder(&name)?;
    let newest = crate::store::checkpoint::Checkpoints::new(store.clone())
        .steps()
        .await?
        .published
        .last()
        .copied()
        .context("the run left no checkpoint")?;
    let checkpoint =
        Path::new(store.address()).join(crate::store::layout::checkpoint_folder(newest));
    for text in EXAMPLES {
        say(text)?;
        look::fill_mask(&checkpoint, text, 3)?;
    }
    say(&format!(
        "\nThe checkpoint is a Hugging Face model folder:\n  {}\n\nNext: put your own text into a corpus YAML like {}/configs/corpus/synthetic.yaml.",
        checkpoint.display(),
        folder.display()
    ))
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// Waits for the step from the run's own status, then commands the decay as an operator would.
async fn decay_when_due(run: &str) -> Result<()> {
    let deadline = Instant::now() + STABLE_TIMEOUT;
    while Instant::now() < deadline {
        if operate::newest_step(run)
            .await
            .is_some_and(|step| step >= DECAY_AFTER)
        {
            say(&format!("$ cohort decay --run {run}"))?;
            return operate::command(run, CommandKind::Decay { tokens: None }).await;
        }
        sleep(POLL_INTERVAL).await;
    }
    bail!(
        "no step {DECAY_AFTER} within {} s",
        STABLE_TIMEOUT.as_secs()
    )
}
