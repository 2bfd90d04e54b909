//! `pgherd status --json` as the contract writes it, and how to ask a node for it.

use std::time::Duration;

use serde::Deserialize;

/// A node answers from memory; a frozen one must not hold up a test for long.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(1);

#[derive(Deserialize, Debug, Clone)]
pub struct Status {
    pub cluster: String,
    pub term: u64,
    pub primary: Option<String>,
    pub sync: Sync,
    pub nodes: Vec<NodeStatus>,
    #[serde(default)]
    pub reason: String,
}

#[derive(Deserialize, Debug, Clone)]
pub struct Sync {
    pub members: Vec<String>,
    pub k: u32,
    pub mode: String,
}

#[derive(Deserialize, Debug, Clone)]
pub struct NodeStatus {
    pub name: String,
    pub role: String,
    pub state: String,
    pub timeline: Option<u32>,
    pub lsn: Option<String>,
    pub lag_bytes: Option<u64>,
    pub sync: bool,
    pub healthy: bool,
    #[serde(default)]
    pub condition: Condition,
}

/// What burdens a node.
#[derive(Deserialize, Debug, Clone, Default)]
#[serde(default)]
pub struct Condition {
    pub disk_full: bool,
    pub free_bytes: Option<u64>,
    pub crowded: bool,
    pub hung: bool,
    pub stuck: Option<String>,
    pub lost: Vec<LostWrites>,
    pub pending: Vec<Pending>,
}

#[derive(Deserialize, Debug, Clone)]
pub struct LostWrites {
    pub transactions: u64,
    pub relations: u64,
    pub bytes: u64,
    pub listed: String,
}

#[derive(Deserialize, Debug, Clone)]
pub struct Pending {
    pub name: String,
    pub old: String,
    pub new: String,
}

impl Status {
    pub fn node(&self, name: &str) -> Option<&NodeStatus> {
        self.nodes.iter().find(|node| node.name == name)
    }

    /// An open primary, and every one of `nodes` nodes healthy.
    pub fn is_whole(&self, nodes: usize) -> bool {
        self.primary.is_some() && self.nodes.iter().filter(|node| node.healthy).count() == nodes
    }
}

/// The view of the node whose HTTP port this is; `None` when it does not answer.
pub fn ask(http: u16) -> Option<Status> {
    let config = ureq::Agent::config_builder().timeout_global(Some(QUESTION_TIMEOUT)).max_idle_connections(0);
    let agent: ureq::Agent = config.build().into();
    agent.get(format!("http://127.0.0.1:{http}/api/v1/status")).call().ok()?.body_mut().read_json().ok()
}
