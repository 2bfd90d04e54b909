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
    pub paused_until: Option<String>,
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
    pub upstream: Option<String>,
    #[serde(default)]
    pub upstream_note: String,
    #[serde(default)]
    pub receiver_note: String,
    /// Of the node that was asked; empty for others.
    #[serde(default)]
    pub why: Vec<String>,
    #[serde(default)]
    pub rule: String,
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
    pub progress: Option<Progress>,
    pub stuck: Option<String>,
    pub lost: Vec<LostWrites>,
    pub pending: Vec<Pending>,
}

#[derive(Deserialize, Debug, Clone)]
pub struct Progress {
    pub what: String,
    pub done_bytes: u64,
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
    pub note: Option<String>,
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
    requests_at("127.0.0.1", http)
}

/// The same for a node that is at another address than this machine's own.
pub fn requests_at(host: &str, http: u16) -> Option<Vec<Request>> {
    serde_json::from_str(&page_at(host, http, "/api/v1/requests")?).ok()
}

/// The view of the node whose HTTP port this is; `None` when it does not answer.
pub fn ask(http: u16) -> Option<Status> {
    ask_at("127.0.0.1", http)
}

/// The same for a node that is at another address than this machine's own.
pub fn ask_at(host: &str, http: u16) -> Option<Status> {
    serde_json::from_str(&page_at(host, http, "/api/v1/status")?).ok()
}

/// Who belongs to the cluster, as one node's own store has it.
#[derive(Deserialize, Debug, Clone)]
pub struct Members {
    pub members: Vec<Member>,
    /// Why the store of the node that was asked takes no part.
    pub store_trouble: Option<String>,
}

#[derive(Deserialize, Debug, Clone)]
pub struct Member {
    pub name: String,
    pub state: String,
    pub store: String,
}

impl Members {
    /// What keeps the store from being whole as this node sees it; `None` when each of `nodes` nodes is a member and votes.
    pub fn missing(&self, nodes: usize) -> Option<String> {
        if let Some(trouble) = &self.store_trouble {
            return Some(format!("its store takes no part: {trouble}"));
        }
        let apart = self.members.iter().find(|member| member.state != "member" || member.store != "voter");
        match apart {
            Some(Member { name, state, store }) => Some(format!("{name} is {state}, its part is {store}")),
            None if self.members.len() != nodes => Some(format!("{} members", self.members.len())),
            None => None,
        }
    }
}

/// The members as the node at this address knows them; `None` when it does not answer.
pub fn members_at(host: &str, http: u16) -> Option<Members> {
    serde_json::from_str(&page_at(host, http, "/api/v1/members")?).ok()
}

/// What the node answers to this path.
pub fn page_at(host: &str, http: u16, path: &str) -> Option<String> {
    let config = ureq::Agent::config_builder().timeout_global(Some(QUESTION_TIMEOUT)).max_idle_connections(0);
    let agent: ureq::Agent = config.build().into();
    agent.get(format!("http://{host}:{http}{path}")).call().ok()?.body_mut().read_to_string().ok()
}
