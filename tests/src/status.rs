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
    #[serde(default)]
    pub origin: Option<Origin>,
}

/// The cluster that this one follows.
#[derive(Deserialize, Debug, Clone)]
pub struct Origin {
    pub head: Option<String>,
    pub sender: Option<String>,
    pub primary: Option<String>,
    pub lag_bytes: Option<u64>,
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
    #[serde(default)]
    pub slots: Slots,
    #[serde(default)]
    pub fencer: Option<Fencer>,
}

#[derive(Deserialize, Debug, Clone)]
pub struct Fencer {
    pub state: String,
    pub left_ms: Option<u64>,
}

#[derive(Deserialize, Debug, Clone, Default)]
pub struct Slots {
    pub ready: bool,
    pub missing: Vec<String>,
    pub slots: Vec<Slot>,
}

#[derive(Deserialize, Debug, Clone)]
pub struct Slot {
    pub name: String,
    pub kept: bool,
    pub held_bytes: u64,
    pub owner: Option<String>,
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

/// Something that was asked for.
#[derive(Deserialize, Debug, Clone)]
pub struct Request {
    pub id: u64,
    pub stage: String,
    pub note: String,
}

impl Request {
    pub fn has_ended(&self) -> bool {
        self.stage == "done" || self.stage == "failed"
    }
}

/// What was asked for, as the node with this HTTP port knows it.
pub fn requests(http: u16) -> Option<Vec<Request>> {
    get(http, "/api/v1/requests")
}

/// The view of the node whose HTTP port this is; `None` when it does not answer.
pub fn ask(http: u16) -> Option<Status> {
    ask_at("127.0.0.1", http)
}

/// The same for a node that is at another address than this machine's own.
pub fn ask_at(host: &str, http: u16) -> Option<Status> {
    serde_json::from_str(&page_at(host, http, "/api/v1/status")?).ok()
}

/// How often the node's store has stopped by itself, as its events tell; `None` when it does not answer.
pub fn store_stops_at(host: &str, http: u16) -> Option<usize> {
    let events: Vec<serde_json::Value> =
        serde_json::from_str(&page_at(host, http, "/api/v1/events")?).ok()?;
    Some(events.iter().filter(|event| event["rule"] == "store").count())
}

/// What the node answers to this path.
pub fn page_at(host: &str, http: u16, path: &str) -> Option<String> {
    let config = ureq::Agent::config_builder().timeout_global(Some(QUESTION_TIMEOUT)).max_idle_connections(0);
    let agent: ureq::Agent = config.build().into();
    agent.get(format!("http://{host}:{http}{path}")).call().ok()?.body_mut().read_to_string().ok()
}

fn get<T: serde::de::DeserializeOwned>(http: u16, path: &str) -> Option<T> {
    serde_json::from_str(&page_at("127.0.0.1", http, path)?).ok()
}
