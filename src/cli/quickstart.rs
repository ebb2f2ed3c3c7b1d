//! `cohort quickstart`: the whole run on an embedded corpus, as an operator would do it: prepare,
//! train, command the decay from outside while it runs, look at the result.
//!
//! Nothing is special about it: it writes two YAML files and starts `cohort` as anybody would. Run
//! again on the same folder it goes on where it was, or shows the result once more.

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep};

use crate::cli::{look, operate, prepare, say};
use crate::ids::Step;
use crate::run::command::CommandKind;
use crate::run::schedule::PhaseKind;
use crate::store::checkpoint::Checkpoints;
use crate::store::layout;

const CORPUS_YAML: &str = include_str!("../../configs/corpus/synthetic.yaml");
const RUN_YAML: &str = include_str!("../../configs/quickstart.yaml");
/// The stable phase is left on command after this step.
const DECAY_AFTER: Step = Step(140);
/// How long the run may take to get there.
const STABLE_TIMEOUT: Duration = Duration::from_mins(20);
const POLL_INTERVAL: Duration = Duration::from_millis(300);
/// What a small encoder learns first: the fixed phrases of a ward.
const EXAMPLES: [&str; 3] = [
    "55M by ambulance. 100.9 F HR94 [MASK]128/66 sat95 pain 8/10. cat 3",
    "55M by ambulance. 100.9 F HR94 BP128/66 sat95 [MASK] 8/10. cat 3",
    "Objective: Temperature 36.9 C, pulse 100, blood pressure 130/65, respiratory rate 20, [MASK] \
     saturation 95%.",
];

pub(super) async fn quickstart(folder: &Path) -> Result<()> {
    let configs = folder.join("configs");
    std::fs::create_dir_all(configs.join("corpus"))
        .with_context(|| format!("cannot create {}", folder.display()))?;
    let corpus = configs.join("corpus/synthetic.yaml");
    let run = configs.join("quickstart.yaml");
    write(&corpus, CORPUS_YAML)?;
    write(&run, RUN_YAML)?;
    say(
        "1. The embedded corpus: four institutions, invented notes, a tokenizer trained on them\n",
    )?;
    let yaml = corpus.clone();
    tokio::task::spawn_blocking(move || prepare::prepare(&yaml, false)).await??;
    say("\n2. Training on two ranks; the decay is commanded from outside while it runs\n")?;
    let run = run.display().to_string();
    train(&run).await?;
    say("\n3. What the checkpoint predicts: it is small, but it knows the phrases of a ward\n")?;
    let checkpoint = newest_checkpoint(&run).await?;
    for text in EXAMPLES {
        say(text)?;
        look::fill_mask(&checkpoint, text, 3)?;
    }
    say(&next_steps(&run, &corpus, &checkpoint))
}

/// Starts `cohort train`, commands the decay when it is due, and waits for the end.
async fn train(run: &str) -> Result<()> {
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    let mut training = Command::new(program)
        .args(["train", run])
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .context("cannot start the training")?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let operated = async {
        decay_when_due(run).await?;
        // What is left is to wait for the training's own end.
        std::future::pending::<Result<()>>().await
    };
    let ended = tokio::select! {
        ended = training.wait() => ended?,
        failed = operated => return failed,
        _ = interrupt.recv() => return stop(training, run).await,
        _ = terminate.recv() => return stop(training, run).await,
    };
    expect_success(ended)
}

fn expect_success(ended: ExitStatus) -> Result<()> {
    if !ended.success() {
        bail!("the training failed: {ended}");
    }
    Ok(())
}

/// Asks the training to stop in order until it has, and says how to go on.
async fn stop(mut training: Child, run: &str) -> Result<()> {
    let asking = async {
        loop {
            // Refused before the first step, and once the run is over; then the next look decides.
            let _ = operate::command(run, CommandKind::Stop).await;
            sleep(POLL_INTERVAL).await;
        }
    };
    let ended = tokio::select! {
        ended = training.wait() => ended?,
        () = asking => unreachable!("it asks for ever"),
    };
    expect_success(ended)?;
    bail!("stopped\n  hint: the same command goes on from the checkpoint");
}

/// Waits for the step from the run's own status, then commands the decay as an operator would. A
/// run that is past it, because it was stopped in its decay, is left alone.
async fn decay_when_due(run: &str) -> Result<()> {
    let deadline = Instant::now() + STABLE_TIMEOUT;
    while Instant::now() < deadline {
        if let Some(newest) = operate::newest_step(run).await {
            if newest.next_phase_kind == PhaseKind::Decay {
                return Ok(());
            }
            if newest.step >= DECAY_AFTER {
                say(&format!("\n$ cohort decay --run {run}"))?;
                operate::command(run, CommandKind::Decay { tokens: None }).await?;
                return say("");
            }
        }
        sleep(POLL_INTERVAL).await;
    }
    bail!(
        "no step {DECAY_AFTER} within {} s",
        STABLE_TIMEOUT.as_secs()
    )
}

async fn newest_checkpoint(run: &str) -> Result<PathBuf> {
    let store = operate::folder(run)?;
    let steps = Checkpoints::new(store.clone()).steps().await?;
    let newest = steps.published.last().copied();
    let newest = newest.context("the run left no checkpoint")?;
    Ok(Path::new(store.address()).join(layout::checkpoint_folder(newest)))
}

fn next_steps(run: &str, corpus: &Path, checkpoint: &Path) -> String {
    let (checkpoint, corpus) = (checkpoint.display(), corpus.display());
    // As it was called, so that the lines can be typed as they stand.
    let program = std::env::args_os().next();
    let program = program.as_deref().unwrap_or("cohort".as_ref()).display();
    format!(
        "\nThe checkpoint is a Hugging Face model folder:\n  {checkpoint}\n\n\
         Look further:\n  \
         {program} checkpoints --run {run}\n  \
         {program} ledger {checkpoint}\n  \
         {program} inspect {run} --step 1\n\n\
         Your own text: name it in a corpus YAML like {corpus}."
    )
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
