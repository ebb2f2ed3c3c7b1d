//! Keeps a process of Cohort running: starts it again when it dies, and ends it when it hangs.
//!
//! Supervisor and child hold the two ends of two pipes. The child writes a line to its standard
//! output every moment; one that falls silent is killed. Its standard input ends when the
//! supervisor does, and then it ends too: nothing is left behind by a supervisor that is killed.

use std::io::{Read, Write};
use std::process::{ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use futures::future::BoxFuture;
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// The child asks for another process in its place.
pub const RESTART_CODE: u8 = 79;
/// The child could not do what it was started for, and has said why.
pub const FAILED_CODE: u8 = 1;
/// The machine is taken away; the run goes on another time. The code by which a scheduler knows
/// that a job wants to be queued again (`EX_TEMPFAIL` of sysexits.h).
pub const INTERRUPTED_CODE: u8 = 75;

/// How often a child says that it lives.
const ALIVE_INTERVAL: Duration = Duration::from_secs(1);
/// A child that says nothing for this long hangs.
const SILENCE_MAX: Duration = Duration::from_secs(10);
/// The wait before the second start in a row; it doubles up to the limit.
const BACK_OFF: Duration = Duration::from_millis(250);
/// A process that lived for so long begins a new row of starts.
const SOUND: Duration = Duration::from_secs(5);

const ALIVE: &str = "alive";
const AT: &str = "at ";

/// What is kept running.
pub struct Charge<'a> {
    /// For people.
    pub name: &'a str,
    /// Gives the command, and is told whether an earlier child has died.
    pub command: &'a (dyn Fn(bool) -> BoxFuture<'a, Result<Command>> + Sync),
    /// Starts in a row, each of a process that died soon, before it is given up.
    pub starts_max: u32,
    /// The longest pause between two of them.
    pub back_off_max: Duration,
    /// What the child says of itself.
    pub said: watch::Sender<Said>,
    /// Cancelled when the machine is taken away: the child is told, and no other is started.
    pub leave: CancellationToken,
}

/// What is known of a child.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Said {
    pub process: Option<u32>,
    /// Where it listens.
    pub url: Option<String>,
}

/// How a charge came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Done,
    /// It has said why.
    Failed,
    /// It died too often.
    GivenUp,
    /// It left before the machine is taken away.
    Left,
}

/// Runs a child until it ends in order, fails, or dies too often.
pub async fn keep(charge: Charge<'_>) -> Result<Outcome> {
    let Charge { name, .. } = charge;
    let mut starts = 0;
    let mut again = false;
    loop {
        let born = Instant::now();
        let status = run_once(&charge, again).await?;
        again = true;
        charge.said.send_replace(Said::default());
        let code = status.code();
        if code == Some(0) {
            return Ok(Outcome::Done);
        }
        if code == Some(i32::from(FAILED_CODE)) {
            return Ok(Outcome::Failed);
        }
        if code == Some(i32::from(INTERRUPTED_CODE)) || charge.leave.is_cancelled() {
            return Ok(Outcome::Left);
        }
        starts = if born.elapsed() >= SOUND {
            1
        } else {
            starts + 1
        };
        if starts >= charge.starts_max {
            warn!("{name} died {starts} times in a row, the last time so: {status}");
            return Ok(Outcome::GivenUp);
        }
        if code == Some(i32::from(RESTART_CODE)) {
            info!("{name} starts anew");
        } else {
            warn!("{name} died and starts anew: {status}");
        }
        if starts > 1 {
            let pause = BACK_OFF * (1 << (starts - 2).min(16));
            let pause = sleep(pause.min(charge.back_off_max));
            // One that leaves is waited for no longer.
            let _ = charge.leave.run_until_cancelled(pause).await;
        }
    }
}

async fn run_once(charge: &Charge<'_>, again: bool) -> Result<ExitStatus> {
    let Charge { name, said, .. } = charge;
    let mut child = (charge.command)(again)
        .await?
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        // Ctrl-C is for the supervisor, which passes it on in order.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("cannot start {name}"))?;
    let stdin = child.stdin.take();
    let stdout = child.stdout.take().context("the child's output is piped")?;
    said.send_modify(|said| said.process = child.id());
    let watching = tokio::spawn({
        let (leave, said) = (charge.leave.clone(), said.subscribe());
        async move {
            leave.cancelled().await;
            signal(&said.borrow(), Signal::TERM);
        }
    });
    let status = watch_over(&mut child, BufReader::new(stdout).lines(), charge).await;
    watching.abort();
    let status = status?;
    drop(stdin);
    Ok(status)
}

async fn watch_over(
    child: &mut Child,
    mut lines: Lines<BufReader<ChildStdout>>,
    charge: &Charge<'_>,
) -> Result<ExitStatus> {
    loop {
        match timeout(SILENCE_MAX, lines.next_line()).await {
            Ok(Ok(Some(line))) => {
                if let Some(url) = line.strip_prefix(AT) {
                    let url = Some(url.to_owned());
                    charge.said.send_modify(|said| said.url = url);
                }
            }
            // It has closed its output: it ends.
            Ok(Ok(None) | Err(_)) => {
                if let Ok(ended) = timeout(SILENCE_MAX, child.wait()).await {
                    return Ok(ended?);
                }
                break;
            }
            Err(_) => break,
        }
    }
    let limit = SILENCE_MAX.as_secs();
    warn!(
        "{} has said nothing for {limit} s and is killed",
        charge.name
    );
    child.kill().await?;
    Ok(child.wait().await?)
}

/// Sends a signal to a child.
pub fn signal(said: &Said, signal: Signal) {
    let process = said.process.and_then(|id| Pid::from_raw(id.cast_signed()));
    if let Some(process) = process {
        // It may have ended in this moment.
        let _ = kill_process(process, signal);
    }
}

/// The child's side: says that it lives, and returns when its supervisor is gone.
pub async fn live(url: Option<&str>) {
    if let Some(url) = url {
        say(&format!("{AT}{url}"));
    }
    let (gone, mut ended) = oneshot::channel::<()>();
    // A thread of its own: tokio's would hold up the end of the process.
    let watching = thread::Builder::new()
        .name("cohort-watch".to_owned())
        .spawn(move || {
            // Whatever comes, it is the end: a supervisor writes nothing.
            let _ = std::io::stdin().read(&mut [0; 1]);
            drop(gone);
        });
    if let Err(error) = watching {
        warn!(%error, "cannot watch over the supervisor");
    }
    loop {
        say(ALIVE);
        if timeout(ALIVE_INTERVAL, &mut ended).await.is_ok() {
            return;
        }
    }
}

fn say(line: &str) {
    let mut stdout = std::io::stdout().lock();
    // Without a supervisor its standard input has ended too.
    let _ = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
}
