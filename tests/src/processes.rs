//! The processes that a test started, found by the directory that they work in or name.
//!
//! Pid files alone are not trusted: a killed process leaves its file, and its number is used again.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};

#[derive(Debug, Clone)]
pub struct Process {
    pub pid: i32,
    pub command: Vec<String>,
    state: char,
    directory: Option<PathBuf>,
}

impl Process {
    /// The file name of what runs; `postgres: checkpointer` is `postgres`.
    pub fn program(&self) -> &str {
        let word = self.command.first().map_or("", String::as_str);
        let path = word.split([' ', ':']).next().unwrap_or_default();
        path.rsplit('/').next().unwrap_or_default()
    }

    /// True when a SIGSTOP had taken effect: sending it returns before that.
    pub fn is_frozen(&self) -> bool {
        self.state == 'T'
    }

    fn belongs_to(&self, dir: &Path) -> bool {
        let names = |word: &String| Path::new(word).starts_with(dir);
        self.command.iter().skip(1).any(names)
            || self.directory.as_ref().is_some_and(|directory| directory.starts_with(dir))
    }
}

/// Everything alive that works in `dir` or names something in it.
pub fn belonging_to(dir: &Path) -> Vec<Process> {
    let own = std::process::id() as i32;
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(process)
        .filter(|process| process.pid != own && process.belongs_to(dir))
        .collect()
}

/// The process when it is alive; one that only waits for its parent is not.
pub fn process(pid: i32) -> Option<Process> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let state = stat.rsplit_once(") ")?.1.chars().next()?;
    if matches!(state, 'Z' | 'X') {
        return None;
    }
    let command = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let words = command.split(|&byte| byte == 0).filter(|word| !word.is_empty());
    let command = words.map(|word| String::from_utf8_lossy(word).into_owned()).collect();
    Some(Process { pid, command, state, directory: std::fs::read_link(format!("/proc/{pid}/cwd")).ok() })
}

/// The number in a pid file when that process is alive and belongs to `dir`.
pub fn from_pid_file(file: &Path, dir: &Path) -> Option<i32> {
    let pid = std::fs::read_to_string(file).ok()?.lines().next()?.trim().parse().ok()?;
    process(pid).filter(|process| process.belongs_to(dir)).map(|process| process.pid)
}

/// Sends the signal; a process that is gone already is no error.
pub fn signal(pid: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = kill_process(pid, signal);
    }
}

/// What the process has in memory now.
pub fn resident_bytes(pid: i32) -> Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
    let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse().context("a number of kB")?;
    Ok(kilobytes * 1024)
}
