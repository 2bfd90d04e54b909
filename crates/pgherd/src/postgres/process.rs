//! The postmaster as a process that is not our child.
//!
//! It is found by `postmaster.pid` and held by a pidfd, which cannot come to mean another process and becomes readable
//! the moment the process ends. Invariant: a process counts as this server's only when its working directory is
//! the data directory (every PostgreSQL process changes there) and its name is PostgreSQL's; a pid file alone, or a
//! pid that something else has taken since, proves nothing.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, sleep};

use super::error::{Error, Result};

/// A running postmaster.
#[derive(Debug)]
pub struct Postmaster {
    pub pid: i32,
    fd: AsyncFd<OwnedFd>,
}

impl Postmaster {
    /// Resolves when the process has ended, at once and without polling.
    pub async fn exited(&self) -> Result<()> {
        self.fd.readable().await.map(drop).map_err(Error::io("watch the postmaster"))
    }

    pub fn has_exited(&self) -> bool {
        let mut fds = [PollFd::new(self.fd.get_ref(), PollFlags::IN)];
        poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|ready| ready > 0)
    }

    /// A signal to a process that has ended is no error: it is what the caller wanted.
    pub(super) fn signal(&self, signal: Signal) -> Result<()> {
        match pidfd_send_signal(self.fd.get_ref(), signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(Error::io("signal the postmaster")(error.into())),
        }
    }
}

/// The postmaster of `data`, when one runs.
pub fn find(data: &Path) -> Result<Option<Postmaster>> {
    let Some(pid) = postmaster_pid(data) else { return Ok(None) };
    let Some(handle) = Pid::from_raw(pid) else { return Ok(None) };
    // First the handle, then the look: what is looked at is then what the handle holds.
    let fd = match pidfd_open(handle, PidfdFlags::empty()) {
        Ok(fd) => fd,
        Err(rustix::io::Errno::SRCH) => return Ok(None),
        Err(error) => return Err(Error::io("open a pidfd of the postmaster")(error.into())),
    };
    if !belongs(pid, data) {
        return Ok(None);
    }
    #[allow(deprecated, reason = "an OwnedFd keeps the descriptor open; the new constructor is unsafe")]
    let fd = AsyncFd::with_interest(fd, Interest::READABLE).map_err(Error::io("watch the postmaster"))?;
    let postmaster = Postmaster { pid, fd };
    Ok((!postmaster.has_exited()).then_some(postmaster))
}

/// The first line of `postmaster.pid`; a single-user server writes its pid negated and is none.
fn postmaster_pid(data: &Path) -> Option<i32> {
    let text = fs::read_to_string(data.join("postmaster.pid")).ok()?;
    text.lines().next()?.trim().parse().ok().filter(|pid| *pid > 0)
}

/// Line 8 of `postmaster.pid`: `starting`, `stopping`, `ready` or `standby`.
pub(super) fn postmaster_status(data: &Path) -> Option<String> {
    let text = fs::read_to_string(data.join("postmaster.pid")).ok()?;
    text.lines().nth(7).map(|line| line.trim().to_owned())
}

fn belongs(pid: i32, data: &Path) -> bool {
    let Ok(data) = fs::canonicalize(data) else { return false };
    let in_data = fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == data);
    in_data && name(pid).is_some_and(|name| name.starts_with("postgres") || name.starts_with("postmaster"))
}

fn name(pid: i32) -> Option<String> {
    fs::read_to_string(format!("/proc/{pid}/comm")).ok().map(|name| name.trim().to_owned())
}

/// Stopped by a signal or a debugger: it reacts to nothing but SIGCONT and SIGKILL.
pub(super) fn is_stopped(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name before the state may hold anything, parentheses too.
    stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with(['T', 't']))
}

/// Every process of the server in `data`, the postmaster included. A zombie has no working directory and is not listed.
pub(super) fn all_of(data: &Path) -> Vec<i32> {
    pids().filter(|pid| belongs(*pid, data)).collect()
}

fn pids() -> impl Iterator<Item = i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// Children of `parent` with their process titles.
pub(super) fn children(parent: i32) -> Vec<(i32, String)> {
    let is_child = |pid: &i32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let ppid = status.lines().find_map(|line| line.strip_prefix("PPid:"));
        ppid.and_then(|ppid| ppid.trim().parse::<i32>().ok()) == Some(parent)
    };
    pids().filter(is_child).map(|pid| (pid, title(pid))).collect()
}

fn title(pid: i32) -> String {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).replace('\0', " ").trim().to_owned()
}

/// Signals one process of the server in `data`; one that has ended or is another by now is left alone.
pub(super) fn signal(data: &Path, pid: i32, signal: Signal) {
    if let Some(handle) = Pid::from_raw(pid)
        && let Ok(fd) = pidfd_open(handle, PidfdFlags::empty())
        && belongs(pid, data)
    {
        // It may end at this very moment, which is as good.
        let _ = pidfd_send_signal(fd, signal);
    }
}

/// Waits until no process of a dead postmaster is left, and ends those that do not notice by themselves.
///
/// Children see the postmaster's end when they next wait for something; one in a long computation does not, and
/// the shared memory stays as long as any of them lives.
pub(super) async fn await_leftovers(data: &Path, deadline: Duration) -> Result<()> {
    /// What an idle child needs to notice is milliseconds; after this they are killed (nothing of theirs is needed).
    const GRACE: Duration = Duration::from_millis(500);
    const POLL: Duration = Duration::from_millis(10);
    let begun = Instant::now();
    loop {
        let left = all_of(data);
        if left.is_empty() {
            return Ok(());
        }
        if begun.elapsed() > deadline {
            return Err(Error::Deadline {
                what: format!("the end of the processes {left:?} of a dead server"),
                deadline,
            });
        }
        if begun.elapsed() > GRACE {
            left.iter().for_each(|pid| signal(data, *pid, Signal::KILL));
        }
        sleep(POLL).await;
    }
}

/// Ends tools that an agent which died has left working on `path` (pg_basebackup, pg_rewind, initdb).
pub(super) async fn end_tools_at(path: &Path, deadline: Duration) -> Result<()> {
    const POLL: Duration = Duration::from_millis(10);
    let at = path.to_string_lossy();
    let begun = Instant::now();
    loop {
        let works_here = |pid: &i32| {
            let tool = name(*pid)
                .is_some_and(|name| ["pg_basebackup", "pg_rewind", "initdb"].contains(&name.as_str()));
            tool && title(*pid).split(' ').any(|argument| argument == at)
        };
        let tools: Vec<i32> = pids().filter(works_here).collect();
        if tools.is_empty() {
            return Ok(());
        }
        if begun.elapsed() > deadline {
            return Err(Error::Deadline {
                what: format!("the end of the tools {tools:?} at {at}"),
                deadline,
            });
        }
        for pid in tools.into_iter().filter_map(Pid::from_raw) {
            // Gone in the meantime is as good as killed.
            let _ = kill_process(pid, Signal::KILL);
        }
        sleep(POLL).await;
    }
}
