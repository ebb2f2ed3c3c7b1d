//! The command line: it operates, it does not configure. No flag repeats a field of the YAML.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, anyhow};
use clap::{Args, Parser, Subcommand};
use tracing::{debug, info};

use crate::cli::ledger::withdraw::withdraw;
use crate::diagnosis;
use crate::ids::Step;
use crate::run::command::CommandKind;
use crate::supervisor;
use crate::telemetry::{self, LogFormat};
use crate::torch::{cpu, process};

mod chaos;
mod cleaning;
mod corpus;
mod display;
mod inspect;
mod ledger;
mod look;
mod operate;
mod plan;
mod prepare;
mod quickstart;
mod signals;
mod table;
mod tokenizer;
mod train;

/// Continues the pre-training of ModernBERT encoders on text from many institutions.
#[derive(Parser, Debug)]
#[command(name = "cohort", version, propagate_version = true)]
pub struct Cli {
    /// Write log lines as JSON.
    #[arg(long, global = true)]
    log_json: bool,
    /// Which log lines to write, such as `info` or `cohort=debug`.
    #[arg(long, global = true, default_value = "info")]
    log: String,
    #[command(subcommand)]
    command: Subcommands,
}

#[derive(Subcommand, Debug)]
enum Subcommands {
    /// Turn sources into token shards and a manifest.
    Prepare {
        /// The corpus's YAML.
        corpus: PathBuf,
        /// Leave out the sources of which no file is there, and list them.
        #[arg(long)]
        available: bool,
    },
    /// Look at a prepared corpus.
    #[command(subcommand)]
    Corpus(corpus::CorpusCommand),
    /// Train a tokenizer, or give one the terms of a domain.
    #[command(subcommand)]
    Tokenizer(tokenizer::TokenizerCommand),
    /// Show what a run will be: tokens and epochs per source, steps, rows, memory.
    Plan {
        /// The run's YAML.
        run: PathBuf,
    },
    /// Run the coordinator and its ranks on this machine, or continue a run.
    Train {
        /// The run's YAML.
        run: PathBuf,
    },
    /// Go on from an earlier checkpoint as a run of its own; the trunk stays as it is.
    Branch(BranchArguments),
    /// Run the coordinator alone; it prints its address.
    Coordinate {
        /// The run's YAML.
        run: PathBuf,
        /// The checkpoint that a new run grows from.
        #[arg(long, hide = true)]
        branch: Option<String>,
        /// Watched by the process that started it, which prints the result.
        #[arg(long, hide = true)]
        managed: bool,
        /// In place of one that died.
        #[arg(long, hide = true)]
        again: bool,
    },
    /// Run ranks for a coordinator.
    Work(WorkArguments),
    /// Show where a run stands.
    Status {
        #[command(flatten)]
        run: RunArgument,
        /// Everything that is known, as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Leave the stable phase for the decay, at the next step.
    Decay {
        #[command(flatten)]
        run: RunArgument,
        /// Length of the decay in tokens, instead of the run's own.
        #[arg(long)]
        tokens: Option<u64>,
    },
    /// Take a checkpoint at the next step.
    Checkpoint(RunArgument),
    /// Hold the run at the next step.
    Pause(RunArgument),
    /// Let a paused run go on.
    Resume(RunArgument),
    /// Take a checkpoint at the next step and end.
    Stop(RunArgument),
    /// List a run's checkpoints.
    Checkpoints(RunArgument),
    /// Check every byte of a run's checkpoints against their digests.
    Verify(RunArgument),
    /// Show whose text a checkpoint has seen, and what a withdrawal means.
    Ledger {
        /// A checkpoint's folder or URL, or a run, of which the newest checkpoint is meant.
        place: String,
        /// Sums by institution and by source, and the phases apart, as JSON.
        #[arg(long, conflicts_with = "withdraw")]
        json: bool,
        /// Of a run, the checkpoint after this step instead of the newest.
        #[arg(long, conflicts_with = "withdraw")]
        step: Option<u64>,
        /// Name every checkpoint of a run that has this institution's text, the newest that has
        /// not, and how to go on from there.
        #[arg(long, value_name = "INSTITUTION")]
        withdraw: Option<String>,
        /// Write the YAML of a run that goes on without the institution.
        #[arg(long, value_name = "NEW.yaml", requires = "withdraw")]
        write: Option<PathBuf>,
    },
    /// Show the exact batch of a step.
    Inspect {
        /// The run's YAML.
        run: PathBuf,
        /// Counted from 1; taken or still to come.
        #[arg(long)]
        step: u64,
        /// Write the rows to this safetensors file instead of summing them up.
        #[arg(long)]
        output: Option<PathBuf>,
    },
    /// Kill, stop and cut off processes of a run on a schedule, and see how it goes on: a drill.
    Chaos(chaos::ChaosArguments),
    /// Fill the `[MASK]` tokens of a text.
    FillMask {
        /// A checkpoint's folder, or any Hugging Face folder of a ModernBERT.
        checkpoint: PathBuf,
        /// A text with at least one `[MASK]`.
        text: String,
        /// How many tokens to show for each.
        #[arg(long, default_value_t = 5)]
        top: usize,
        #[arg(long)]
        json: bool,
    },
    /// The whole run on an embedded corpus: prepare, train, decay on command, result.
    Quickstart {
        /// Where the corpus and the run go.
        #[arg(default_value = "quickstart")]
        folder: PathBuf,
    },
}

#[derive(Args, Debug)]
struct BranchArguments {
    /// The checkpoint to start from: `RUN-FOLDER/checkpoints/step-…`, a folder or a URL.
    checkpoint: String,
    /// The branch's own run file. Its first phase begins at once if that is none of the trunk's, or
    /// else its first decay.
    run: PathBuf,
    /// Branch from a checkpoint that has decayed already.
    #[arg(long)]
    from_decayed: bool,
}

#[derive(Args, Debug)]
struct WorkArguments {
    /// The coordinator's address, such as `http://127.0.0.1:7077`.
    #[arg(long)]
    coordinator: String,
    /// Local ranks to run.
    #[arg(long, default_value_t = 1)]
    ranks: u32,
    /// One rank in this process, watched by the process that started it. Errors are left to the
    /// coordinator, which gets them too.
    #[arg(long, hide = true)]
    managed: bool,
}

#[derive(Args, Debug)]
struct RunArgument {
    /// The run's folder or URL, its YAML, or its coordinator's `http://` address.
    #[arg(long = "run", value_name = "RUN")]
    run: String,
}

/// Parses the command line, runs it and gives the exit code: 0, 1 for a failure, 2 for bad usage,
/// 75 for a run that goes on another time.
pub fn main() -> ExitCode {
    cpu::bound_kernel_caches();
    let cli = Cli::parse();
    let format = if cli.log_json {
        LogFormat::Json
    } else {
        LogFormat::Text
    };
    telemetry::start_logging(format, &cli.log);
    let Err(error) = run(cli.command) else {
        return ExitCode::SUCCESS;
    };
    if error.is::<Interrupted>() {
        info!("{error}");
        return ExitCode::from(supervisor::INTERRUPTED_CODE);
    }
    if error.is::<Again>() {
        return ExitCode::from(supervisor::RESTART_CODE);
    }
    if error.is::<Reported>() {
        debug!("{error:#}");
    } else {
        // Nothing is left to tell when stderr is gone.
        let _ = writeln!(std::io::stderr(), "error: {}", diagnosis::describe(&error));
    }
    ExitCode::FAILURE
}

/// An error that somebody else tells the operator.
#[derive(Debug, thiserror::Error)]
#[error("reported by another process")]
struct Reported;

/// The supervisor is to start this process once more.
#[derive(Debug, thiserror::Error)]
#[error("to be started again")]
struct Again;

/// Not an error of anybody.
#[derive(Debug, thiserror::Error)]
#[error("this machine is taken away; the run goes on when the same command is given again")]
struct Interrupted;

fn run(command: Subcommands) -> Result<()> {
    match command {
        Subcommands::Prepare { corpus, available } => prepare::prepare(&corpus, available),
        Subcommands::Corpus(command) => corpus::run(command),
        Subcommands::Tokenizer(command) => tokenizer::run(command),
        Subcommands::Plan { run } => plan::plan(&run),
        Subcommands::Train { run } => block_on(train::train(&run, None)),
        Subcommands::Branch(arguments) => block_on(train::branch(
            &arguments.checkpoint,
            &arguments.run,
            arguments.from_decayed,
        )),
        Subcommands::Coordinate {
            run,
            branch,
            managed,
            again,
        } => {
            let branch = branch.map(|branch| branch.parse()).transpose();
            let branch = branch.map_err(|error| anyhow!("{error}"))?;
            let how = train::Coordination {
                branch,
                managed,
                again,
            };
            block_on(train::coordinate(&run, how))
        }
        Subcommands::Work(arguments) if arguments.managed => work_managed(&arguments.coordinator),
        Subcommands::Work(arguments) => {
            block_on(train::work(&arguments.coordinator, arguments.ranks))
        }
        Subcommands::Status { run, json } => block_on(operate::status(&run.run, json)),
        Subcommands::Decay { run, tokens } => command_to(&run, CommandKind::Decay { tokens }),
        Subcommands::Checkpoint(run) => {
            command_to(&run, CommandKind::Checkpoint { by_time: false })
        }
        Subcommands::Pause(run) => command_to(&run, CommandKind::Pause),
        Subcommands::Resume(run) => command_to(&run, CommandKind::Resume),
        Subcommands::Stop(run) => command_to(&run, CommandKind::Stop),
        Subcommands::Checkpoints(run) => block_on(look::checkpoints(&run.run)),
        Subcommands::Verify(run) => block_on(look::verify(&run.run)),
        Subcommands::Chaos(arguments) => block_on(chaos::chaos(&arguments)),
        Subcommands::Ledger {
            place,
            withdraw: Some(institution),
            write,
            ..
        } => block_on(withdraw(&place, &institution, write.as_deref())),
        Subcommands::Ledger {
            place, json, step, ..
        } => block_on(ledger::show(&place, step.map(Step), json)),
        Subcommands::Inspect { run, step, output } => {
            block_on(inspect::inspect(&run, step, output.as_deref()))
        }
        Subcommands::FillMask {
            checkpoint,
            text,
            top,
            json: false,
        } => look::fill_mask(&checkpoint, &text, top),
        Subcommands::FillMask {
            checkpoint,
            text,
            top,
            json: true,
        } => look::fill_mask_json(&checkpoint, &text, top),
        Subcommands::Quickstart { folder } => block_on(quickstart::quickstart(&folder)),
    }
}

fn work_managed(coordinator: &str) -> ! {
    let worked = block_on(train::work_managed(coordinator));
    let code = worked.unwrap_or_else(|error| {
        debug!("{error:#}");
        supervisor::FAILED_CODE
    });
    // The compute thread may be inside an operation.
    process::leave(i32::from(code))
}

fn command_to(run: &RunArgument, kind: CommandKind) -> Result<()> {
    block_on(operate::command(&run.run, kind))
}

fn block_on<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .thread_name("cohort-io")
        .build()?
        .block_on(future)
}

/// Writes to stdout what a person or a pipe asked for.
fn say(text: &str) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    match writeln!(stdout, "{text}") {
        // The reader of the pipe has seen enough.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}
