//! What processes use: CPU from /proc, memory, and system calls by strace.

use std::fs;

use anyhow::{Context, Result};
use tests::strace;

use crate::load::{self, Workload};

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

/// System calls of the process for each transaction, while it is watched; `None` without strace.
pub fn system_calls(pid: i32, port: u16, workload: &Workload) -> Result<Option<f64>> {
    let run = || load::run(port, workload, TRACED_SECONDS, false);
    let counted = strace::count(&strace::threads(pid, ""), run)?;
    Ok(counted.map(|(calls, timed)| calls as f64 / timed.transactions as f64))
}
