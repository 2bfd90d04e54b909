//! System calls, counted by strace, which stops each of them twice: what runs meanwhile is counted, and not timed.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::Signal;

use crate::processes::signal;
use crate::wait::wait_at_most;

const ATTACH_TIMEOUT: Duration = Duration::from_secs(5);

/// The threads of a process whose names begin so.
pub fn threads(pid: i32, name: &str) -> Vec<i32> {
    let entries = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let is_meant = |entry: &fs::DirEntry| {
        fs::read_to_string(entry.path().join("comm")).is_ok_and(|comm| comm.starts_with(name))
    };
    entries.filter(is_meant).filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// Counts the calls of these threads while `act` runs; `None` without strace.
pub fn count<T>(threads: &[i32], act: impl FnOnce() -> Result<T>) -> Result<Option<(u64, T)>> {
    let folder = crate::cluster::folder();
    let summary = folder.path().join("calls");
    let mut strace = Command::new("strace");
    strace.args(["-c", "-U", "calls,name", "-o"]).arg(&summary);
    for thread in threads {
        strace.args(["-p", &thread.to_string()]);
    }
    let Ok(mut strace) = strace.stdout(Stdio::null()).stderr(Stdio::null()).spawn() else { return Ok(None) };
    let attached = || threads.iter().all(|thread| is_traced(*thread)).then_some(());
    let done = wait_at_most(ATTACH_TIMEOUT, attached)
        .context("strace attaches to every thread")
        .and_then(|()| act());
    // It writes its summary when it is interrupted.
    signal(i32::try_from(strace.id())?, Signal::INT);
    strace.wait()?;
    let text = fs::read_to_string(&summary).unwrap_or_default();
    let total = text.lines().find(|line| line.trim_end().ends_with("total"));
    let calls = total.and_then(|line| line.split_whitespace().next()?.parse().ok());
    Ok(Some((calls.context("strace counts")?, done?)))
}

fn is_traced(thread: i32) -> bool {
    let status = fs::read_to_string(format!("/proc/{thread}/status")).unwrap_or_default();
    let tracer = status.lines().find_map(|line| line.strip_prefix("TracerPid:"));
    tracer.is_some_and(|pid| pid.trim() != "0")
}
