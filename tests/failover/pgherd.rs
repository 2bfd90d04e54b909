//! pgherd as the bench sees it: the demo's files at their defaults, each node in a namespace where the machine permits.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use tests::network::Network;
use tests::wait::wait_at_most;
use tests::{Cluster, Node, Prepared, placement};

use crate::client::Door;
use crate::system::{Phase, System};

/// After a node was killed it may have to be copied anew.
const WHOLE_TIMEOUT: Duration = Duration::from_secs(120);
/// Lines of events between a fault and the first write after it.
const PHASES_MAX: usize = 200;

pub struct Pgherd {
    cluster: Cluster,
    /// Its `pgherd --version`, made of the tree that is measured.
    version: String,
    placed: bool,
}

impl Pgherd {
    pub fn start(nodes: u16, networked: bool) -> Result<Pgherd> {
        let mut prepared = Prepared::new(nodes);
        if networked {
            placement::place(&mut prepared);
        }
        let output = tests::cluster::pgherd(&["--version"]);
        let version = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        Ok(Pgherd { cluster: Cluster::start_prepared(prepared), version, placed: networked })
    }

    fn node(&self, index: usize) -> &Node {
        &self.cluster.nodes()[index]
    }
}

impl System for Pgherd {
    fn name(&self) -> String {
        "pgherd".to_owned()
    }

    fn description(&self) -> String {
        let place = if self.placed { "each node in a network namespace" } else { "all on loopback" };
        format!(
            "{}, three nodes, {place}, all settings at their defaults (failure_timeout 2 s, quorum sync, k = 1); \
             the client enters through the read-write port of a node that is not the primary",
            self.version
        )
    }

    fn wait_until_whole(&mut self) -> Result<usize> {
        let nodes = self.cluster.nodes().len();
        let whole = wait_at_most(WHOLE_TIMEOUT, || {
            let status = self.cluster.status().filter(|status| status.is_whole(nodes))?;
            let primary = status.primary?;
            self.cluster.nodes().iter().position(|node| node.name == primary)
        });
        whole.with_context(|| format!("not whole: {:?}", self.cluster.status()))
    }

    fn doors(&self, primary: usize) -> Vec<Door> {
        let nodes = self.cluster.nodes();
        let others = (1..=nodes.len()).map(|step| &nodes[(primary + step) % nodes.len()]);
        others.map(|node| (node.host.clone(), node.read_write)).collect()
    }

    fn servers(&self) -> Vec<Door> {
        self.cluster.nodes().iter().map(|node| (node.host.clone(), node.postgres)).collect()
    }

    fn dir(&self, index: usize) -> PathBuf {
        self.node(index).dir.clone()
    }

    fn postmaster(&self, index: usize) -> Option<i32> {
        self.node(index).postmaster_pid()
    }

    fn start_node(&mut self, index: usize) -> Result<()> {
        let name = self.node(index).name.clone();
        self.cluster.start_agent(&name);
        Ok(())
    }

    fn kill_agent(&mut self, index: usize) -> Result<()> {
        let name = self.node(index).name.clone();
        self.cluster.kill_agent(&name);
        Ok(())
    }

    fn switchover(&mut self, primary: usize) -> Result<()> {
        // Changes are taken from the node's own machine only.
        let node = self.node(primary);
        let program = tests::cluster::program();
        let mut command = match self.placed {
            true => Network::command(node, &program),
            false => Command::new(program),
        };
        command.args(["switchover", "--url", &format!("http://127.0.0.1:{}", node.http)]);
        let output = command.stdin(Stdio::null()).output().context("start pgherd switchover")?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "pgherd switchover: {said}");
        Ok(())
    }

    fn switchover_command(&self) -> String {
        "pgherd switchover --url http://127.0.0.1:PORT (on the primary's node)".to_owned()
    }

    fn phases(&self, fault: SystemTime, end: SystemTime) -> Vec<Phase> {
        let mut phases: Vec<Phase> =
            self.cluster.nodes().iter().flat_map(|node| phases_of(node, fault, end)).collect();
        phases.sort_by_key(|phase| phase.at_ms);
        phases.truncate(PHASES_MAX);
        phases
    }
}

#[derive(Deserialize)]
struct Line {
    at: jiff::Timestamp,
    node: String,
    rule: String,
    what: String,
}

fn phases_of(node: &Node, fault: SystemTime, end: SystemTime) -> Vec<Phase> {
    let text = std::fs::read_to_string(node.dir.join("events.jsonl")).unwrap_or_default();
    // The last line may be half written by a node that was killed.
    let lines = text.lines().filter_map(|line| serde_json::from_str::<Line>(line).ok());
    let within = lines.filter(|line| (fault..=end).contains(&SystemTime::from(line.at)));
    within
        .map(|line| Phase {
            at_ms: SystemTime::from(line.at)
                .duration_since(fault)
                .map_or(0, |after| after.as_millis() as i64),
            node: line.node,
            phase: phase_name(&line.rule),
            said: line.what,
        })
        .collect()
}

/// The design's word for the step, with the rule's id.
fn phase_name(rule: &str) -> String {
    let step = match rule {
        "takeover.revoke" => "suspicion, revoke",
        "promise.requested" => "promise",
        "takeover.record" => "record",
        "promote" => "promote",
        "open.record" => "open",
        "admit" => "admit",
        other => return other.to_owned(),
    };
    format!("{step} ({rule})")
}
