//! A network of its own for the processes of a test, in which packets can be made to vanish.
//!
//! Only root may make one. It has nothing but a loopback, and ends with the test.

#![allow(
    clippy::unwrap_used,
    reason = "all of it is test code, also outside the functions that are marked as tests"
)]

use std::collections::BTreeSet;
use std::fs;
use std::process::{Child, Command, Stdio};

use crate::support::process::poll;
use crate::support::skipped;

/// Dropping it ends it, once no process is left in it.
pub struct Namespace {
    /// Keeps it open.
    holder: Child,
}

impl Namespace {
    /// Nothing, said aloud, where this user may not make one.
    pub fn make() -> Option<Self> {
        let holder = Command::new("unshare")
            .args(["--net", "sleep", "600"])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let Ok(holder) = holder else {
            skipped("there is no `unshare`");
            return None;
        };
        let mut namespace = Self { holder };
        let own = fs::read_link("/proc/self/ns/net").unwrap();
        let place = namespace.place();
        let apart = poll("the namespace", || {
            if namespace.holder.try_wait().unwrap().is_some() {
                return Some(false);
            }
            let there = fs::read_link(&place).ok()?;
            (there != own).then_some(true)
        });
        // The table of local addresses is asked after the rules that cut.
        let ready = apart
            && [
                "link set lo up",
                "rule add pref 100 lookup local",
                "rule del pref 0",
            ]
            .iter()
            .all(|command| namespace.ip(command));
        if !ready {
            skipped("this user may not make a network namespace");
            return None;
        }
        Some(namespace)
    }

    fn place(&self) -> String {
        format!("/proc/{}/ns/net", self.holder.id())
    }

    /// A command that runs in it, in a process of the same number.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.place()));
        command.arg("--").arg(program);
        command
    }

    fn ip(&self, arguments: &str) -> bool {
        let mut command = self.command("ip");
        command.args(arguments.split_whitespace());
        let status = command.stderr(Stdio::null()).status();
        status.is_ok_and(|status| status.success())
    }

    /// From now on every packet from or to a TCP port vanishes.
    pub fn cut(&self, port: u16) {
        for end in ["sport", "dport"] {
            let rule = format!("rule add pref 10 ipproto tcp {end} {port} blackhole");
            assert!(self.ip(&rule), "{rule}");
        }
    }

    /// All packets arrive again.
    pub fn heal(&self) {
        while self.ip("rule del pref 10") {}
    }

    /// The ports of connections that have both their ends among some processes.
    pub fn ports_between(&self, processes: &[u32]) -> BTreeSet<u16> {
        let mut sockets = BTreeSet::new();
        for process in processes {
            let Ok(entries) = fs::read_dir(format!("/proc/{process}/fd")) else {
                continue;
            };
            let links = entries.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
            sockets.extend(links.filter_map(|link| {
                let inode = link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?;
                inode.parse::<u64>().ok()
            }));
        }
        let holder = self.holder.id();
        let table = fs::read_to_string(format!("/proc/{holder}/net/tcp")).unwrap();
        // Columns: number, local address, remote address, state (01 is established), …, inode.
        let mut ends = BTreeSet::new();
        for line in table.lines().skip(1) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let port = |field: &str| {
                let (_, port) = field.split_once(':').unwrap();
                u16::from_str_radix(port, 16).unwrap()
            };
            let inode: u64 = fields[9].parse().unwrap();
            if fields[3] == "01" && sockets.contains(&inode) {
                ends.insert((port(fields[1]), port(fields[2])));
            }
        }
        let both = ends
            .iter()
            .filter(|&&(near, far)| ends.contains(&(far, near)));
        both.flat_map(|&(near, far)| [near, far]).collect()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        drop(self.holder.kill());
        drop(self.holder.wait());
    }
}
