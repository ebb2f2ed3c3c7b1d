//! `cohort` as a process of its own: what it said, how it ended, and that it left no orphan.
//!
//! Only processes that a test started are ever signalled, by their id. Every wait has a deadline.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "all of it is test code, also outside the functions that are marked as tests"
)]

use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::Duration;

use tokio::time::Instant;

/// No wait of a test is longer. Far above what any takes, so that a slow machine fails nothing.
const DEADLINE: Duration = Duration::from_mins(2);
const POLL_INTERVAL: Duration = Duration::from_millis(20);
const SIGKILL: i32 = 9;

/// Waits until `look` finds what is awaited.
#[track_caller]
pub fn poll<T>(awaited: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(
            Instant::now() < deadline,
            "{awaited}: not within {} s",
            DEADLINE.as_secs()
        );
        sleep(POLL_INTERVAL);
    }
}

/// A `cohort` process. Dropping it kills it; the ranks that it started then end by themselves.
pub struct Process {
    child: Child,
    stdout: PathBuf,
    stderr: PathBuf,
}

/// How a process ended, and all that it said.
#[derive(Debug)]
pub struct Ended {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Process {
    /// Starts `cohort` with its output in files beside `output`.
    pub fn start(arguments: &[&str], environment: &[(String, String)], output: &Path) -> Self {
        let mut cohort = Command::new(env!("CARGO_BIN_EXE_cohort"));
        cohort
            .args(arguments)
            .envs(environment.iter().map(|(name, value)| (name, value)));
        Self::spawn(cohort, output)
    }

    /// The same by a command.
    pub fn spawn(mut cohort: Command, output: &Path) -> Self {
        let (stdout, stderr) = (
            output.with_extension("stdout"),
            output.with_extension("stderr"),
        );
        let child = cohort
            .stdin(Stdio::null())
            .stdout(File::create(&stdout).unwrap())
            .stderr(File::create(&stderr).unwrap())
            .spawn()
            .unwrap();
        Self {
            child,
            stdout,
            stderr,
        }
    }

    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    pub fn stdout(&self) -> String {
        fs::read_to_string(&self.stdout).unwrap()
    }

    pub fn stderr(&self) -> String {
        fs::read_to_string(&self.stderr).unwrap()
    }

    /// Sends a signal by name, as `TERM`.
    pub fn signal(&self, name: &str) {
        let id = self.child.id();
        let sent = Command::new("sh")
            .args(["-c", &format!("kill -{name} {id}")])
            .status()
            .unwrap();
        assert!(sent.success(), "process {id} could not be signalled");
    }

    /// Ends it by SIGKILL, as the kernel or an operator without patience does.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        let status = self.child.wait().unwrap();
        assert_eq!(
            status.signal(),
            Some(SIGKILL),
            "it had ended before it was killed: {status}\n{}",
            self.stderr()
        );
    }

    /// Ends it by SIGKILL, unless it has ended by itself just now; its status tells.
    pub fn end(mut self) -> Ended {
        self.child.kill().unwrap();
        self.wait()
    }

    #[track_caller]
    pub fn wait(self) -> Ended {
        self.wait_at_most(DEADLINE)
    }

    /// The same for one that has much to do.
    #[track_caller]
    pub fn wait_at_most(mut self, limit: Duration) -> Ended {
        let deadline = Instant::now() + limit;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(
                Instant::now() < deadline,
                "it does not end:\n{}",
                self.stderr()
            );
            sleep(POLL_INTERVAL);
        };
        Ended {
            status,
            stdout: self.stdout(),
            stderr: self.stderr(),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended long ago.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Ended {
    /// What it said, where it must have ended well.
    #[track_caller]
    pub fn good(self) -> Self {
        assert!(self.status.success(), "{}\n{}", self.status, self.stderr);
        self
    }

    /// What it said, where it left because its machine is taken away.
    #[track_caller]
    pub fn interrupted(self) -> Self {
        let code = self.status.code();
        assert_eq!(code, Some(75), "{}\n{}", self.status, self.stderr);
        self
    }

    /// The error that it ended with: all of stderr from the last `error: ` on.
    #[track_caller]
    pub fn error(&self) -> &str {
        assert_eq!(self.status.code(), Some(1), "{}", self.stderr);
        let start = self.stderr.rfind("\nerror: ").map_or(0, |at| at + 1);
        self.stderr[start..]
            .strip_prefix("error: ")
            .unwrap_or_else(|| panic!("no error in {}", self.stderr))
            .trim_end()
    }
}

/// Sends a signal to a process that a test's own one started.
pub fn signal(process: u32, name: &str) {
    let command = format!("kill -{name} {process}");
    // It may have ended just now.
    let mut shell = Command::new("sh");
    shell.args(["-c", &command]).stderr(Stdio::null());
    shell.status().unwrap();
}

/// Whether a process is a live rank. An ended one that nobody has waited for yet has no command
/// line any more; another that got its number has another one.
pub fn is_rank(process: u32) -> bool {
    fs::read(format!("/proc/{process}/cmdline")).is_ok_and(|line| {
        let words: Vec<_> = line.split(|&byte| byte == 0).collect();
        words.contains(&&b"work"[..]) && words.contains(&&b"--coordinator"[..])
    })
}
