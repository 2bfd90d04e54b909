//! What the bench asks of a system that it measures, and faults that are the same for all.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use rustix::process::Signal;
use tests::processes;
use tests::wait::wait_at_most;

use crate::client::Door;

/// A killed or stopped process is so as soon as the kernel runs it.
const SIGNAL_TIMEOUT: Duration = Duration::from_secs(10);

/// A step on the way back: when, where and what.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Phase {
    /// After the fault.
    pub at_ms: i64,
    pub node: String,
    pub phase: String,
    pub said: String,
}

pub trait System {
    fn name(&self) -> String;
    /// Versions and settings, for the report.
    fn description(&self) -> String;
    /// Waits for an open primary and two replicas that stream; the primary's index.
    fn wait_until_whole(&mut self) -> Result<usize>;
    /// Where clients enter, so that the client's own machine is not the one that is hit.
    fn doors(&self, primary: usize) -> Vec<Door>;
    /// PostgreSQL itself, for each node.
    fn servers(&self) -> Vec<Door>;
    /// All processes of the node work in it or name it.
    fn dir(&self, index: usize) -> PathBuf;
    fn postmaster(&self, index: usize) -> Option<i32>;
    /// Starts what was killed of a node.
    fn start_node(&mut self, index: usize) -> Result<()>;
    fn kill_agent(&mut self, index: usize) -> Result<()>;
    fn switchover(&mut self, primary: usize) -> Result<()>;
    fn switchover_command(&self) -> String;
    /// What the nodes say to have done from `fault` until `end`.
    fn phases(&self, fault: SystemTime, end: SystemTime) -> Vec<Phase>;
}

pub fn kill_postgres(system: &dyn System, index: usize) -> Result<()> {
    let pid = system.postmaster(index).context("no PostgreSQL to kill")?;
    processes::signal(pid, Signal::KILL);
    Ok(())
}

/// SIGKILL for all of the node, what watches over PostgreSQL first: it must not see its server die.
pub fn kill_node(dir: &Path) -> Result<()> {
    let gone = wait_at_most(SIGNAL_TIMEOUT, || {
        let mut left = processes::belonging_to(dir);
        left.sort_by_key(|process| process.program() == "postgres");
        left.iter().for_each(|process| processes::signal(process.pid, Signal::KILL));
        left.is_empty().then_some(())
    });
    gone.with_context(|| format!("processes of {} do not end", dir.display()))
}

pub fn freeze(dir: &Path) -> Result<()> {
    let frozen = wait_at_most(SIGNAL_TIMEOUT, || {
        let mut all = processes::belonging_to(dir);
        all.sort_by_key(|process| process.program() == "postgres");
        all.iter().for_each(|process| processes::signal(process.pid, Signal::STOP));
        all.iter().all(processes::Process::is_frozen).then_some(())
    });
    frozen.with_context(|| format!("processes of {} do not stop", dir.display()))
}

pub fn thaw(dir: &Path) {
    processes::belonging_to(dir).iter().for_each(|process| processes::signal(process.pid, Signal::CONT));
}
