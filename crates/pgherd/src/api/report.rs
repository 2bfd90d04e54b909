//! The reports that users, scripts and the command line read. Their names are a contract: extend, do not rename.

use brain::{Ask, Condition, Request, Stage, Tags};
use serde::{Deserialize, Serialize};
use wire::Lsn;

use crate::agent::Doors;

/// The cluster as one node sees it, `pgherd status --json`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct StatusReport {
    pub cluster: String,
    /// The node whose view this is.
    pub from: String,
    /// The recorded term; 0 before the first primary.
    pub term: u64,
    /// The open primary of `term`; null while there is none.
    pub primary: Option<String>,
    pub sync: SyncReport,
    pub nodes: Vec<NodeReport>,
    /// Why there is no open primary, or what the cluster waits for; empty when all is well.
    #[serde(default)]
    pub reason: String,
    /// Maintenance ends by itself then, RFC 3339; null when the cluster is not paused.
    #[serde(default)]
    pub paused_until: Option<String>,
    /// Requests under way.
    #[serde(default)]
    pub requests: Vec<RequestReport>,
    /// The cluster that this one follows; null when it follows none.
    #[serde(default)]
    pub origin: Option<OriginStatus>,
    /// Number of the newest configuration of the cluster; 0: nothing is set for all nodes.
    #[serde(default)]
    pub configuration: u64,
}

/// What a standby cluster follows.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct OriginStatus {
    /// `host:port` of the PostgreSQL of each of its nodes.
    pub hosts: Vec<String>,
    /// The node of this cluster that streams from it, or is to.
    pub head: Option<String>,
    /// The host that the head streams from; null when it does not stream.
    pub sender: Option<String>,
    /// The host that answers as its primary; null when none does.
    pub primary: Option<String>,
    /// End of the head's WAL.
    pub lsn: Option<Lsn>,
    /// Bytes that the head is behind its primary; null when either is unknown.
    pub lag_bytes: Option<u64>,
    /// When the head last streamed, RFC 3339.
    pub streamed_at: Option<String>,
    /// When the last transaction that was replayed had committed.
    pub last_commit: Option<String>,
    /// What each host says, in words.
    pub seen: String,
}

/// Something that somebody asked for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct RequestReport {
    pub id: u64,
    #[serde(flatten)]
    pub ask: Ask,
    /// `waiting`, `preparing`, `holding`, `stopping`, `running`, then `done` or `failed` for ever.
    pub stage: Stage,
    /// The term when the stage was written.
    pub term: u64,
    /// RFC 3339, UTC.
    pub asked_at: String,
    /// The last word on it.
    pub note: String,
}

impl From<&Request> for RequestReport {
    fn from(request: &Request) -> RequestReport {
        RequestReport {
            id: request.id,
            ask: request.ask.clone(),
            stage: request.stage,
            term: request.term.0,
            asked_at: wall_text(request.asked_at),
            note: request.note.clone(),
        }
    }
}

/// A wall-clock second as RFC 3339.
pub fn wall_text(seconds: u64) -> String {
    let timestamp = i64::try_from(seconds).ok().and_then(|s| jiff::Timestamp::from_second(s).ok());
    timestamp.map_or_else(|| seconds.to_string(), |timestamp| timestamp.to_string())
}

/// The body of a request that was taken.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Accepted {
    /// The request to follow; null when it is done already, as a pause is.
    pub id: Option<u64>,
}

/// Who must flush a commit before it is acknowledged.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct SyncReport {
    /// Names of the nodes in the sync set.
    pub members: Vec<String>,
    /// How many of them must flush.
    pub k: u32,
    pub mode: SyncMode,
}

/// How commits are acknowledged at present.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum SyncMode {
    /// k of the sync set have flushed.
    Quorum,
    /// Chosen by the user: the primary alone.
    Async,
    /// k has fallen to 0 because the last standby was lost and the user allowed it.
    Degraded,
    /// A standby cluster: nobody writes here.
    Standby,
}

/// What a node's PostgreSQL is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Role {
    Primary,
    Replica,
    /// Of a standby cluster: it streams from the cluster that is followed.
    Head,
    /// A vote without PostgreSQL.
    Witness,
    /// A proxy without PostgreSQL and without a vote.
    Router,
    Unknown,
}

impl Role {
    pub fn word(self) -> &'static str {
        match self {
            Role::Primary => "primary",
            Role::Replica => "replica",
            Role::Head => "head",
            Role::Witness => "witness",
            Role::Router => "router",
            Role::Unknown => "unknown",
        }
    }
}

/// One node as the reporting node sees it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct NodeReport {
    pub name: String,
    pub role: Role,
    /// One word: `running` (an open primary), `streaming` (a replica), else what it does or lacks, such as
    /// `starting`, `cloning`, `rewinding`, `quarantine`, `stopped`, `unreachable`.
    pub state: String,
    pub timeline: Option<u32>,
    /// End of its WAL: flushed on a primary, received on a replica.
    pub lsn: Option<Lsn>,
    /// Bytes behind the primary; null when either side is unknown.
    pub lag_bytes: Option<u64>,
    /// A member of the sync set.
    pub sync: bool,
    pub healthy: bool,
    /// Age of the last word from it; null for the reporting node itself and for one never heard of.
    pub last_contact_ms: Option<u64>,
    /// `host:port` of its PostgreSQL.
    pub postgres: Option<String>,
    #[serde(default)]
    pub tags: Tags,
    /// The node that its PostgreSQL takes WAL from; null for a primary and for one that takes none.
    #[serde(default)]
    pub upstream: Option<String>,
    /// Why it does not stream from the replica that its tag `replicatefrom` names; empty when it does, or has none.
    #[serde(default)]
    pub upstream_note: String,
    /// What its WAL receiver said when it last ended, in PostgreSQL's words; empty while it streams.
    #[serde(default)]
    pub receiver_note: String,
    /// Its agent knows that the cluster is paused.
    #[serde(default)]
    pub paused: bool,
    /// The rule that its agent followed last, with the reasons; empty when not known here.
    #[serde(default)]
    pub rule: String,
    #[serde(default)]
    pub why: Vec<String>,
    /// Room on its disks, connection slots, progress of its way back.
    #[serde(default)]
    pub condition: Condition,
    #[serde(default)]
    pub slots: SlotsReport,
    /// Null for a node that has none (a witness) or does not say.
    #[serde(default)]
    pub fencer: Option<FencerReport>,
    /// End of what its server has replayed; null on a primary.
    #[serde(default)]
    pub replay_lsn: Option<Lsn>,
    /// Its server runs and admits internal connections only.
    #[serde(default)]
    pub quarantined: bool,
    /// Number of the cluster's configuration that it has applied.
    #[serde(default)]
    pub configuration: u64,
    /// Where it is reached; null until it has told.
    #[serde(default)]
    pub doors: Option<Doors>,
}

/// The fencer beside a node's agent.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct FencerReport {
    /// `armed` (it cuts the clients of this primary when its agent falls silent), `idle` (nothing to fence), `fencing`
    /// (it is at it), `missing` (none runs; the agent starts another).
    pub state: String,
    /// Milliseconds until it acts without another word from its agent; null unless armed.
    pub left_ms: Option<u64>,
    /// Why this node admits no clients as primary, such as a watchdog that is required and not there.
    pub obstacle: Option<String>,
}

/// The replication slots of one node.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct SlotsReport {
    /// A takeover to this node keeps every slot that is to be kept.
    pub ready: bool,
    /// Why not, one reason per slot.
    pub missing: Vec<String>,
    pub slots: Vec<SlotLine>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct SlotLine {
    pub name: String,
    /// `physical` or `logical`.
    #[serde(rename = "type")]
    pub kind: String,
    pub database: Option<String>,
    /// A takeover keeps it.
    pub kept: bool,
    pub active: bool,
    pub restart_lsn: Option<Lsn>,
    pub confirmed_flush_lsn: Option<Lsn>,
    /// WAL that it holds.
    pub held_bytes: u64,
    pub budget_bytes: u64,
    /// Null: nobody has declared it.
    pub owner: Option<String>,
    /// Nobody reads it, and it keeps vacuum from removing dead rows.
    pub holds_back_vacuum: bool,
    /// Why it can be used no more.
    pub lost: Option<String>,
}

/// Who belongs to the cluster, `pgherd member list --json`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct MembersReport {
    pub cluster: String,
    /// The node whose view this is.
    pub from: String,
    pub members: Vec<MemberReport>,
    /// Nodes that were removed lately.
    pub removed: Vec<String>,
    /// Why the store of the reporting node takes no part; null when all is well.
    pub store_trouble: Option<String>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct MemberReport {
    pub name: String,
    /// `full` or `witness`.
    pub kind: String,
    pub peer: String,
    pub postgres: Option<String>,
    /// `joining` until it votes, `member`, or `leaving`.
    pub state: String,
    /// Its part in the store: `voter`, `learner`, or `none` yet.
    pub store: String,
}

/// Something that pgherd did by itself or was asked to do.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct EventRecord {
    /// Grows by at least one per event on the answering node.
    pub id: u64,
    /// RFC 3339, UTC.
    pub at: String,
    pub node: String,
    pub term: u64,
    pub rule: String,
    pub what: String,
    #[serde(default)]
    pub why: String,
}

/// What would happen if `node` died now.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Explanation {
    pub node: String,
    /// Who would be primary afterwards; null when nobody takes over (none is needed, or none may).
    pub takes_over: Option<String>,
    pub rule: String,
    pub why: Vec<String>,
    /// What stands in the way of writes coming back; empty when nothing does.
    pub blockers: Vec<String>,
}
