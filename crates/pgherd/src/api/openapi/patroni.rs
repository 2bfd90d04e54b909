//! Patroni's documents and bodies, described by types: `patroni::documents` puts them together field by field, as what is not
//! known is left out.
#![expect(dead_code, reason = "schemas alone: nothing is made of these types")]

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde_json::Value;

/// The node's server in Patroni's words; what is not known is left out.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct NodeDocument {
    /// `running`, `starting`, `stopped`, `creating replica`, …
    state: String,
    /// `primary`, `standby_leader`, `replica`; a witness and a router by their own names.
    role: Option<String>,
    xlog: Option<Positions>,
    timeline: Option<u32>,
    sync_standby: Option<bool>,
    quorum_standby: Option<bool>,
    /// `streaming` or `in archive recovery`.
    replication_state: Option<String>,
    pending_restart: Option<bool>,
    /// By setting.
    pending_restart_reason: Option<BTreeMap<String, Waiting>>,
    tags: Option<BTreeMap<String, Value>>,
    postmaster_start_time: Option<String>,
    /// As `server_version_num`.
    server_version: Option<u32>,
    replication: Option<Vec<Sender>>,
    pause: Option<bool>,
    cluster_unlocked: Option<bool>,
    /// Epoch seconds.
    dcs_last_seen: Option<u64>,
    database_system_identifier: Option<String>,
    patroni: Name,
}

/// Bytes from the beginning of the WAL: `location` of a primary, the others of a standby.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Positions {
    location: Option<u64>,
    received_location: Option<u64>,
    replayed_location: Option<u64>,
    replayed_timestamp: Option<String>,
    paused: Option<bool>,
}

#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Waiting {
    old_value: String,
    new_value: String,
}

/// A row of `pg_stat_replication`.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Sender {
    usename: Option<String>,
    application_name: String,
    client_addr: Option<String>,
    state: Option<String>,
    sync_state: Option<String>,
    sync_priority: Option<i32>,
}

#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Name {
    /// Of pgherd.
    version: String,
    /// The cluster.
    scope: String,
    /// The node that answers.
    name: String,
}

/// The members in Patroni's words.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Cluster {
    members: Vec<Member>,
    scope: String,
    pause: Option<bool>,
    scheduled_switchover: Option<Scheduled>,
}

#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Member {
    name: String,
    /// `leader`, `standby_leader`, `sync_standby`, `quorum_standby`, `replica`.
    role: String,
    state: String,
    api_url: Option<String>,
    host: Option<String>,
    port: Option<u16>,
    timeline: Option<u32>,
    pending_restart: Option<bool>,
    tags: Option<BTreeMap<String, Value>>,
    /// `unknown` where it is not known.
    lsn: Option<String>,
    lag: Option<Lag>,
    receive_lsn: Option<String>,
    receive_lag: Option<Lag>,
    replay_lsn: Option<String>,
    replay_lag: Option<Lag>,
}

/// Bytes, or `unknown`.
#[derive(JsonSchema)]
#[schemars(untagged)]
enum Lag {
    Bytes(u64),
    Unknown(String),
}

#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Scheduled {
    /// RFC 3339.
    at: String,
    from: Option<String>,
    to: Option<String>,
}

/// `[timeline, where it was left in bytes, why, when, by whom the next one was begun]`.
#[derive(JsonSchema)]
pub struct LeftTimeline(u32, u64, String, Option<String>, Option<String>);

/// What of Patroni's dynamic configuration has a meaning here. Of a change, null takes a setting away.
#[derive(JsonSchema)]
pub struct Dynamic {
    /// `quorum`, true or false.
    synchronous_mode: Option<Value>,
    synchronous_mode_strict: Option<Value>,
    synchronous_node_count: Option<Value>,
    /// Bytes.
    maximum_lag_on_failover: Option<Value>,
    /// `parameters` and `pg_hba`.
    postgresql: Option<BTreeMap<String, Value>>,
    /// Told, not taken.
    pause: Option<bool>,
    /// Told, not taken.
    standby_cluster: Option<BTreeMap<String, Value>>,
}

/// From whom to whom, and when. A switchover needs `leader`, a failover `candidate`.
#[derive(JsonSchema)]
pub struct Candidate {
    leader: Option<String>,
    candidate: Option<String>,
    /// The same as `candidate`.
    member: Option<String>,
    /// ISO 8601 with a time zone; of a switchover.
    scheduled_at: Option<String>,
}

/// The restart is made if these hold.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Conditions {
    /// `primary`, `standby_leader` or `replica`.
    role: Option<String>,
    /// The server is older than this, such as `17.2`.
    postgres_version: Option<String>,
    /// Settings wait for a restart.
    restart_pending: Option<Value>,
    /// Seconds that the end is waited for.
    timeout: Option<Value>,
}

#[derive(JsonSchema)]
#[schemars(rename = "Reinitialize")]
pub struct Copy {
    /// 501 when true: pgherd chooses the source.
    from_leader: Option<Value>,
}

/// Of checks that a replica can pass. `tag_NAME=VALUE` may be there as often as wanted.
#[derive(JsonSchema)]
pub struct LagAndTags {
    /// The most that it may be behind: bytes, or with a unit, such as `16kB`.
    lag: Option<String>,
    /// `streaming` or `in archive recovery`.
    replication_state: Option<String>,
    /// For each NAME of a tag: the value that it must have.
    #[schemars(rename = "tag_NAME")]
    tag: Option<String>,
}

#[derive(JsonSchema)]
pub struct Tagged {
    /// For each NAME of a tag: the value that it must have.
    #[schemars(rename = "tag_NAME")]
    tag: Option<String>,
}

#[derive(JsonSchema)]
pub struct Readiness {
    /// The most that a replica may be behind: bytes, or with a unit, such as `16kB`.
    lag: Option<String>,
    /// `write`: count to what it has received; else to what it has replayed.
    mode: Option<String>,
}
