//! `pgherd relaunch`: the nodes of this machine run what is installed now, one after the other.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use rustix::process::{Pid, Signal, kill_process};

use super::client::Client;
use super::failure::{Exit, Failure};
use super::print;
use super::processes::{self, wait_until};
use super::target::{demo_files, node_address};
use crate::api::StatusReport;
use crate::node::relaunch::Outcome;

/// Longer than the two processes give each other, a second attempt included.
const PATIENCE: Duration = Duration::from_secs(150);

/// For the new process to see its PostgreSQL and be heard by its peers; the next node follows only then.
const WELL_AGAIN: Duration = Duration::from_secs(30);

#[derive(Args, Debug)]
pub struct RelaunchArgs {
    /// The node's configuration file
    #[arg(long, value_name = "FILE", required_unless_present = "dir")]
    config: Option<PathBuf>,
    /// The directory of a demo: all of its nodes, one after the other
    #[arg(long, value_name = "DIR", conflicts_with = "config")]
    dir: Option<PathBuf>,
}

pub fn relaunch(args: &RelaunchArgs) -> Result<(), Failure> {
    let files = match (&args.dir, &args.config) {
        (Some(dir), _) => demo_files(dir)?,
        (None, Some(file)) => vec![file.clone()],
        (None, None) => Vec::new(),
    };
    if files.is_empty() {
        return Err(Failure::new(Exit::Configuration, "no node is named")
            .why("there is none in the directory")
            .next("pgherd relaunch --config FILE"));
    }
    for (n, file) in files.iter().enumerate() {
        node(file)?;
        let left = files.len() - n - 1;
        if left > 0 && !is_well_again(file)? {
            return Err(Failure::new(
                Exit::Unfinished,
                format!("the node of {} is not well again", file.display()),
            )
            .why(format!("its new process runs, {left} other nodes were left alone"))
            .next("pgherd status, then the same command again"));
        }
    }
    Ok(())
}

/// By the node's own word.
fn is_well_again(file: &Path) -> Result<bool, Failure> {
    let address = node_address(file)?;
    let name = address.node.clone();
    let client = Client::of(vec![address])?;
    Ok(wait_until(WELL_AGAIN, || {
        let report = client.ask::<StatusReport>("/api/v1/status");
        let own = |report: &StatusReport| {
            report.nodes.iter().any(|node| Some(&node.name) == name.as_ref() && node.healthy)
        };
        report.is_ok_and(|report| own(&report))
    }))
}

/// Relaunches the node of this file, and says so.
pub(super) fn node(file: &Path) -> Result<(), Failure> {
    let config = crate::config::load(file).map_err(|error| {
        Failure::new(Exit::Configuration, error.to_string()).next("mend the file; the node runs on as it is")
    })?;
    let (dir, name) = (&config.node.dir, &config.node.name);
    let is_daemon = |process: &processes::Process| process.command.get(1).is_some_and(|word| word == "run");
    let running = processes::read_pid(&dir.join("pgherd.pid")).and_then(processes::process).filter(is_daemon);
    let Some(running) = running else {
        return Err(Failure::new(Exit::Unreachable, format!("pgherd of {name} is not running here"))
            .why(format!("{} names no such process", dir.join("pgherd.pid").display()))
            .next(format!("pgherd run --config {}", file.display())));
    };
    let outcome = Outcome::file(dir);
    match std::fs::remove_file(&outcome) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    let pid = Pid::from_raw(running.pid).ok_or_else(|| Failure::new(Exit::General, "no process"))?;
    kill_process(pid, Signal::USR2).map_err(|error| {
        Failure::new(Exit::General, format!("process {} of {name} cannot be told", running.pid)).why(error)
    })?;
    let ended = || processes::process(running.pid).is_none();
    wait_until(PATIENCE, || outcome.exists() || ended());
    let told = std::fs::read(&outcome).ok().and_then(|text| serde_json::from_slice(&text).ok());
    match told {
        Some(Outcome::Runs { pid, sessions: 0 }) => {
            print(&format!("{name}: relaunched, process {} is {pid} now\n", running.pid))
        }
        Some(Outcome::Runs { pid, sessions }) => print(&format!(
            "{name}: relaunched, process {} is {pid} now; {sessions} sessions go on in the old one until their clients leave\n",
            running.pid
        )),
        Some(Outcome::Failed { why }) => {
            let goes_on = if ended() { "and has ended" } else { "and runs on" };
            Err(Failure::new(Exit::General, format!("{name} was not relaunched {goes_on}"))
                .why(why)
                .next("mend that, then the same command again"))
        }
        None => Err(Failure::new(Exit::Unfinished, format!("{name} has not said how the relaunch ended"))
            .why(format!("process {} {}", running.pid, if ended() { "has ended" } else { "still runs" }))
            .next("its log, and pgherd status")),
    }
}
