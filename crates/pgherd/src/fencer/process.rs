//! A process that is surely the one that was meant.
//!
//! A number alone may have been taken by a stranger since. Invariant: nothing is signalled but through a pidfd that was
//! opened first and whose process then showed the start time that it should have.

use std::fs;
use std::os::fd::OwnedFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

/// A process and when it started, in clock ticks since the machine booted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Identity {
    pub pid: i32,
    pub started: u64,
}

impl Identity {
    pub fn of(pid: i32) -> Option<Identity> {
        Stat::of(pid).map(|stat| Identity { pid, started: stat.started })
    }

    pub fn own() -> Option<Identity> {
        Identity::of(std::process::id() as i32)
    }
}

/// What /proc/PID/stat says; reading it waits for no lock that a hung process may hold.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stat {
    pub parent: i32,
    started: u64,
}

impl Stat {
    pub fn of(pid: i32) -> Option<Stat> {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // `pid (name) state parent …`: the name may hold anything, also parentheses. Start time is field 22.
        let mut fields = text.rsplit_once(") ")?.1.split(' ').skip(1);
        let parent = fields.next()?.parse().ok()?;
        let started = fields.nth(17)?.parse().ok()?;
        Some(Stat { parent, started })
    }
}

/// A living process, held so that its number cannot come to mean another.
#[derive(Debug)]
pub struct Process {
    pub identity: Identity,
    fd: OwnedFd,
}

impl Process {
    /// `None` when it has ended.
    pub fn hold(identity: Identity) -> Option<Process> {
        let fd = pidfd_open(Pid::from_raw(identity.pid)?, PidfdFlags::empty()).ok()?;
        // First the handle, then the look: what is looked at is then what the handle holds.
        let held = Process { identity, fd };
        (Identity::of(identity.pid) == Some(identity) && !held.ended()).then_some(held)
    }

    pub fn ended(&self) -> bool {
        let mut fds = [PollFd::new(&self.fd, PollFlags::IN)];
        poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|ready| ready > 0)
    }

    /// One that ends at this very moment is as good as signalled.
    pub fn signal(&self, signal: Signal) {
        let _ = pidfd_send_signal(&self.fd, signal);
    }
}

/// Every process number there is.
pub fn pids() -> impl Iterator<Item = i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// The children of `parent`, which must be held meanwhile.
pub fn children(parent: i32) -> Vec<i32> {
    // The kernel's own list is one read; where it is not built in, every process is asked.
    match fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")) {
        Ok(list) => list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect(),
        Err(_) => pids().filter(|pid| Stat::of(*pid).is_some_and(|stat| stat.parent == parent)).collect(),
    }
}

/// The words of its command line.
pub fn command(pid: i32) -> Vec<String> {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words = bytes.split(|byte| *byte == 0).filter(|word| !word.is_empty());
    words.map(|word| String::from_utf8_lossy(word).into_owned()).collect()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_number_that_means_another_by_now_is_not_held() {
        let own = Identity::own().unwrap();
        assert!(Process::hold(own).is_some());
        assert!(Process::hold(Identity { started: own.started + 1, ..own }).is_none());
        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        let identity = Identity::of(child.id() as i32).unwrap();
        assert_eq!(Stat::of(identity.pid).unwrap().parent, own.pid);
        let held = Process::hold(identity).unwrap();
        assert!(!held.ended());
        held.signal(Signal::KILL);
        child.wait().unwrap();
        assert!(held.ended());
        assert!(Process::hold(identity).is_none());
    }

    #[test]
    fn children_are_found() {
        let mut parent = Command::new("sh").args(["-c", "sleep 600 & wait"]).spawn().unwrap();
        let begun = std::time::Instant::now();
        let child = loop {
            if let Some(child) = children(parent.id() as i32).first().and_then(|pid| Identity::of(*pid)) {
                break child;
            }
            assert!(begun.elapsed().as_secs() < 10, "the shell has no child");
        };
        assert_eq!(Stat::of(child.pid).unwrap().parent, parent.id() as i32);
        Process::hold(child).unwrap().signal(Signal::KILL);
        parent.wait().unwrap();
    }
}
