//! Ends everything of a demo and leaves nothing running.
//!
//! PostgreSQL outlives its agent by design, so the demo ends the servers itself: agents and their fencers
//! first, or they would start or fence their servers; then the primary, so that its shutdown record reaches the replicas; then the rest.
//! Invariant: a failure here names every process that is left.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;

use crate::cli::failure::{Exit, Failure};
use crate::cli::processes::{self, Process, belonging_to, is_postgres};

/// An agent that is told to end has nothing to finish that takes long; a tool such as pg_basebackup ends with it.
const AGENT_PATIENCE: Duration = Duration::from_secs(10);
/// A fast shutdown writes a checkpoint: seconds on a small machine, more on a busy disk.
const FAST_PATIENCE: Duration = Duration::from_secs(20);
/// An immediate shutdown writes nothing; the postmaster itself kills what is left after 5 s.
const IMMEDIATE_PATIENCE: Duration = Duration::from_secs(8);
/// The kernel ends a killed process once its system call returns.
const KILL_PATIENCE: Duration = Duration::from_secs(5);

/// How much was running.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stopped {
    pub agents: usize,
    pub servers: usize,
}

pub fn stop(dir: &Path) -> Result<Stopped, Failure> {
    let agents = stop_agents(dir);
    let servers = stop_servers(dir);
    let left = belonging_to(dir);
    signal_all(&left, Signal::KILL);
    if processes::wait_until(KILL_PATIENCE, || belonging_to(dir).is_empty()) {
        return Ok(Stopped { agents, servers });
    }
    let left: Vec<String> =
        belonging_to(dir).iter().map(|process| format!("{} (pid {})", process.name, process.pid)).collect();
    Err(Failure::new(Exit::General, format!("the demo in {} did not end", dir.display()))
        .why(format!("still running: {}", left.join(", ")))
        .next("pgherd demo --stop as the user who started it, or as root"))
}

/// Agents first, then what they would start again: their fencers, which would take an end without a word for a death.
fn stop_agents(dir: &Path) -> usize {
    let agents = || -> Vec<Process> {
        belonging_to(dir).into_iter().filter(|process| !is_postgres(process)).collect()
    };
    let running = |kind: &str| -> Vec<Process> {
        agents().into_iter().filter(|p| p.command.get(1).is_some_and(|word| word == kind)).collect()
    };
    let daemons = running("run");
    signal_all(&daemons, Signal::TERM);
    processes::wait_until(AGENT_PATIENCE, || running("run").is_empty());
    signal_all(&running("fencer"), Signal::TERM);
    if !processes::wait_until(AGENT_PATIENCE, || agents().is_empty()) {
        signal_all(&agents(), Signal::KILL);
        processes::wait_until(KILL_PATIENCE, || agents().is_empty());
    }
    daemons.len()
}

fn stop_servers(dir: &Path) -> usize {
    let servers = postmasters(dir);
    let (replicas, primaries): (Vec<_>, Vec<_>) =
        servers.iter().cloned().partition(|(_, data)| data.join("standby.signal").exists());
    for group in [primaries, replicas] {
        let pids: Vec<i32> = group.iter().map(|(pid, _)| *pid).collect();
        for (signal, patience) in [(Signal::INT, FAST_PATIENCE), (Signal::QUIT, IMMEDIATE_PATIENCE)] {
            pids.iter().for_each(|&pid| processes::signal(pid, signal));
            if processes::wait_for_end(&pids, patience) {
                break;
            }
        }
    }
    servers.len()
}

/// Every postmaster in `dir` with its data directory, whatever that is called: a copy under way has another name.
fn postmasters(dir: &Path) -> Vec<(i32, PathBuf)> {
    let below = |dir: &Path| -> Vec<PathBuf> {
        let entries = std::fs::read_dir(dir).into_iter().flatten();
        entries.filter_map(Result::ok).map(|entry| entry.path()).collect()
    };
    // In a demo's directory they are two levels down, in a node's one.
    let nodes = below(dir);
    let data = nodes.iter().flat_map(|node| below(node)).collect::<Vec<_>>();
    nodes.into_iter().chain(data).filter_map(|data| Some((processes::postmaster(&data)?.pid, data))).collect()
}

fn signal_all(targets: &[Process], signal: Signal) {
    targets.iter().for_each(|process| processes::signal(process.pid, signal));
}
