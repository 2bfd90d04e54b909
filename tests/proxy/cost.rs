//! What processes use: CPU from /proc, memory, and system calls by strace.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use tests::wait::wait_at_most;

use crate::load::{self, Workload};

const ATTACH_TIMEOUT: Duration = Duration::from_secs(5);
/// Long enough for thousands of transactions also where each call is stopped twice.
const TRACED_SECONDS: usize = 2;

/// USER_HZ, in which /proc counts; 100 on every architecture that we build for.
const TICKS_PER_SECOND: f64 = 100.0;

/// CPU seconds, user and system, that a process has used; 0 for nobody.
pub fn of(pid: Option<i32>) -> Result<f64> {
    pid.map_or(Ok(0.0), |pid| Ok(stat(pid)?.own))
}

/// The same of PostgreSQL with all its backends, those that have ended included.
pub fn of_server(postmaster: i32) -> Result<f64> {
    let parent = stat(postmaster)?;
    let live = processes().filter_map(|pid| stat(pid).ok()).filter(|stat| stat.parent == postmaster);
    Ok(parent.own + parent.reaped + live.map(|stat| stat.own).sum::<f64>())
}

fn processes() -> impl Iterator<Item = i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

struct Stat {
    parent: i32,
    own: f64,
    /// Of children that have ended and were waited for.
    reaped: f64,
}

/// proc(5): the fields after the name, which is in parentheses and may hold anything.
fn stat(pid: i32) -> Result<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let rest = text.rsplit_once(')').context("a process's name ends")?.1;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let number = |index: usize| fields.get(index).and_then(|field| field.parse::<f64>().ok());
    let seconds = |first: usize, second: usize| {
        let ticks = number(first).zip(number(second)).map(|(user, system)| user + system);
        ticks.map(|ticks| ticks / TICKS_PER_SECOND)
    };
    Ok(Stat {
        parent: number(1).context("its parent")? as i32,
        own: seconds(11, 12).context("its own time")?,
        reaped: seconds(13, 14).context("its children's time")?,
    })
}

/// The `status` of each thread.
fn tasks(pid: i32) -> Vec<String> {
    let entries = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    entries.filter_map(|entry| fs::read_to_string(entry.path().join("status")).ok()).collect()
}

fn is_traced(status: &str) -> bool {
    let tracer = status.lines().find_map(|line| line.strip_prefix("TracerPid:"));
    tracer.is_some_and(|pid| pid.trim() != "0")
}

/// System calls of the process for each transaction, while it is watched; `None` without strace.
pub fn system_calls(pid: i32, port: u16, workload: &Workload) -> Result<Option<f64>> {
    let folder = tests::cluster::folder();
    let summary = folder.path().join("calls");
    let mut strace = Command::new("strace");
    strace.args(["-f", "-c", "-U", "calls,name", "-o", &summary.to_string_lossy(), "-p", &pid.to_string()]);
    let Ok(mut strace) = strace.stdout(Stdio::null()).stderr(Stdio::null()).spawn() else { return Ok(None) };
    let attached = || tasks(pid).iter().all(|task| is_traced(task)).then_some(());
    wait_at_most(ATTACH_TIMEOUT, attached).context("strace attaches to every thread")?;
    let outcome = load::run(port, workload, TRACED_SECONDS, false);
    // It writes its summary when it is interrupted.
    tests::processes::signal(i32::try_from(strace.id())?, rustix::process::Signal::INT);
    strace.wait()?;
    let text = fs::read_to_string(&summary).unwrap_or_default();
    let total = text.lines().find(|line| line.trim_end().ends_with("total"));
    let calls = total.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    let transactions = outcome?.transactions;
    Ok(calls.map(|calls| calls / transactions as f64))
}
