//! Starts the nodes of a demo as real `pgherd run` processes and waits until the cluster serves.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use super::layout::{DemoNode, Layout};
use crate::api::{Role, StatusReport};
use crate::cli::client::Client;
use crate::cli::failure::{Exit, Failure};
use crate::cli::interrupt::Interrupt;
use crate::cli::{ports, processes};

/// initdb and two base backups take some ten seconds on a small machine that is idle; a busy one gets ten times that.
const READY_TIMEOUT: Duration = Duration::from_secs(120);
const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// As much of a failed node's log as fits a screen.
const LOG_TAIL_BYTES: i64 = 2_000;

/// A node's daemon as our child.
pub struct Daemon {
    pub node: String,
    pub child: Child,
}

/// Every port is free, except those of PostgreSQL servers of this very demo, which outlive their daemons.
pub fn check_ports(layout: &Layout) -> Result<(), Failure> {
    let next = if layout.resumed {
        format!("end it, or another demo: pgherd demo --dir DIR --base-port {}", another_base(layout))
    } else {
        format!("pgherd demo --base-port {}", another_base(layout))
    };
    for node in &layout.nodes {
        let adopted = processes::postmaster(&node.data()).map(|_| node.ports.postgres);
        for port in node.ports.all().into_iter().filter(|&port| Some(port) != adopted) {
            ports::check_free(port, &next)?;
        }
    }
    Ok(())
}

/// A base far enough away for a second demo of the same size.
fn another_base(layout: &Layout) -> u16 {
    let base = layout.nodes.first().map_or(super::layout::BASE_PORT_DEFAULT, |node| node.ports.postgres);
    if base < 50_000 { base + 1_000 } else { super::layout::BASE_PORT_DEFAULT }
}

/// The ports of a node that joins are free.
pub fn check_node_ports(layout: &Layout, node: &DemoNode) -> Result<(), Failure> {
    let next = format!("end who uses it, then pgherd demo --add-node --dir {}", layout.dir.display());
    node.ports.all().into_iter().try_for_each(|port| ports::check_free(port, &next))
}

/// Starts a node that nobody waits for; `pgherd demo --stop` ends it.
pub fn spawn_detached(node: &DemoNode) -> Result<(), Failure> {
    spawn_one(&std::env::current_exe()?, node).map(drop)
}

/// Starts every node's daemon; what was started is in `daemons` also when a later one fails.
pub fn spawn(program: &Path, layout: &Layout, daemons: &mut Vec<Daemon>) -> Result<(), Failure> {
    for node in &layout.nodes {
        daemons.push(Daemon { node: node.name.clone(), child: spawn_one(program, node)? });
    }
    Ok(())
}

fn spawn_one(program: &Path, node: &DemoNode) -> Result<Child, Failure> {
    let failed = |what: String| {
        move |error: std::io::Error| Failure { what, why: Some(error.to_string()), ..Failure::from(error) }
    };
    let log = File::options()
        .create(true)
        .append(true)
        .open(node.log())
        .map_err(failed(format!("{} cannot be opened", node.log().display())))?;
    let errors = log.try_clone()?;
    Command::new(program)
        .args(["run", "--own-session", "--config"])
        .arg(node.config())
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(errors)
        .spawn()
        .map_err(failed(format!("{} cannot be started", program.display())))
}

/// Waits for an open primary and a healthy replica on every other node, with a line for each change on the way.
pub fn wait_until_ready(
    layout: &Layout,
    client: &Client,
    daemons: &mut [Daemon],
    interrupt: &Interrupt,
) -> Result<StatusReport, Failure> {
    let started = Instant::now();
    let mut shown = BTreeMap::new();
    loop {
        if let Some((node, status)) = ended(daemons).into_iter().next() {
            return Err(died(layout, &node, status));
        }
        if let Ok(answered) = client.status() {
            show_progress(&answered.report, &mut shown, started);
            if is_ready(&answered.report, layout.nodes.len()) {
                return Ok(answered.report);
            }
        }
        if started.elapsed() > READY_TIMEOUT {
            let dir = layout.dir.display();
            let seconds = READY_TIMEOUT.as_secs();
            return Err(Failure::new(Exit::General, format!("the cluster is not ready after {seconds} s"))
                .why(what_is_missing(&shown))
                .next(format!("read {dir}/n*/pgherd.log")));
        }
        if interrupt.wait(LOOK_AGAIN) {
            return Err(Failure::new(Exit::General, "interrupted before the cluster was ready"));
        }
    }
}

pub fn is_ready(report: &StatusReport, nodes: usize) -> bool {
    let replicas = report.nodes.iter().filter(|node| node.role == Role::Replica && node.healthy).count();
    report.primary.is_some() && replicas + 1 >= nodes
}

/// Daemons that have ended since the last look.
pub fn ended(daemons: &mut [Daemon]) -> Vec<(String, ExitStatus)> {
    daemons
        .iter_mut()
        .filter_map(|daemon| Some((daemon.node.clone(), daemon.child.try_wait().ok()??)))
        .collect()
}

fn show_progress(report: &StatusReport, shown: &mut BTreeMap<String, String>, started: Instant) {
    for node in &report.nodes {
        let open = report.primary.as_deref() == Some(node.name.as_str());
        let line = match node.role {
            Role::Primary if open => format!("primary, open in term {}", report.term),
            role => format!("{} {}", role.word(), node.state),
        };
        if shown.get(&node.name) != Some(&line) {
            super::say(&format!("  {:5.1} s  {}  {line}\n", started.elapsed().as_secs_f32(), node.name));
            shown.insert(node.name.clone(), line);
        }
    }
}

fn what_is_missing(shown: &BTreeMap<String, String>) -> String {
    if shown.is_empty() {
        return "no node answered over HTTP".to_owned();
    }
    let states: Vec<String> = shown.iter().map(|(node, state)| format!("{node} is {state}")).collect();
    states.join(", ")
}

/// A daemon that ends by itself during the start: its own words tell why, and its exit code is ours.
fn died(layout: &Layout, node: &str, status: ExitStatus) -> Failure {
    let exit = match status.code() {
        Some(3) => Exit::Configuration,
        Some(5) => Exit::Precondition,
        _ => Exit::General,
    };
    let log = layout.nodes.iter().find(|known| known.name == node).map(DemoNode::log).unwrap_or_default();
    Failure::new(exit, format!("{node} ended while it was starting ({status})"))
        .why(log_tail(&log).unwrap_or_else(|| "it left no log".to_owned()))
        .next(format!("read {}", log.display()))
}

fn log_tail(log: &Path) -> Option<String> {
    let mut file = File::open(log).ok()?;
    let length = i64::try_from(file.metadata().ok()?.len()).ok()?;
    file.seek(SeekFrom::End(-length.min(LOG_TAIL_BYTES))).ok()?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().rev().take(8).collect();
    let lines: Vec<String> = lines.iter().rev().map(|line| format!("\n    {line}")).collect();
    (!lines.is_empty()).then(|| lines.concat())
}
