//! What can be done to a process of this machine: signals, and an end to its connections.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};

use anyhow::{Context, Result, bail};
use rustix::net::{Shutdown, shutdown};
use rustix::process::{
    Pid, PidfdFlags, PidfdGetfdFlags, Signal, kill_process, pidfd_getfd, pidfd_open,
};

/// Sends a signal.
pub(super) fn signal(process: u32, signal: Signal) -> Result<()> {
    kill_process(pid(process)?, signal)
        .with_context(|| format!("cannot send {signal:?} to process {process}"))
}

fn pid(process: u32) -> Result<Pid> {
    Pid::from_raw(process.cast_signed()).with_context(|| format!("{process} is no process"))
}

/// Ends every TCP connection of a process, on both sides, as a network does that breaks. How many
/// there were.
pub(super) fn cut(process: u32) -> Result<usize> {
    let handle = pidfd_open(pid(process)?, PidfdFlags::empty())
        .with_context(|| format!("process {process} is gone"))?;
    let connected = connected_sockets(process)?;
    let mut count = 0;
    for entry in fs::read_dir(format!("/proc/{process}/fd"))? {
        let entry = entry?;
        let target = fs::read_link(entry.path()).unwrap_or_default();
        let inode = target.to_str().and_then(inode);
        if !inode.is_some_and(|inode| connected.contains(&inode)) {
            continue;
        }
        let number = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok());
        let Some(number) = number else { continue };
        let socket: OwnedFd = pidfd_getfd(handle.as_fd(), number, PidfdGetfdFlags::empty())
            .with_context(|| {
                format!(
                    "cannot reach into process {process}\n  \
                     hint: run as root, or leave out the kind cut-rank"
                )
            })?;
        // It may have ended in this moment.
        if shutdown(&socket, Shutdown::Both).is_ok() {
            count += 1;
        }
    }
    if count == 0 {
        bail!("process {process} has no connection");
    }
    Ok(count)
}

fn inode(link: &str) -> Option<u64> {
    link.strip_prefix("socket:[")?
        .strip_suffix(']')?
        .parse()
        .ok()
}

/// The sockets of established TCP connections in a process's network. In the table of the kernel
/// the fourth column is the state, 01 where established, and the tenth the socket.
fn connected_sockets(process: u32) -> Result<BTreeSet<u64>> {
    let mut sockets = BTreeSet::new();
    for table in ["tcp", "tcp6"] {
        let path = format!("/proc/{process}/net/{table}");
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        for line in text.lines().skip(1) {
            let mut fields = line.split_whitespace();
            let state = fields.nth(3);
            let socket = fields.nth(5).and_then(|field| field.parse().ok());
            if let (Some("01"), Some(socket)) = (state, socket) {
                sockets.insert(socket);
            }
        }
    }
    Ok(sockets)
}
