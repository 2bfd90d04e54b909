//! The metrics of a node in Prometheus' text format (0.0.4), from one table: Patroni's names, and our own.
//!
//! What it is not: the proxy's metrics, which its crate writes (`crates/proxy/src/metrics.rs`); `/metrics` has both.
//! Invariant: a value that is not known has no sample, except where Patroni writes 0 for it.

use std::fmt::{Display, Write};

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use brain::FencerState;

use super::{Standing, Told, documents, words};
use crate::api::report::{NodeReport, Role, SlotLine, SyncMode};
use crate::api::routes::View;

/// One row of the table.
pub struct Metric {
    pub name: &'static str,
    /// `gauge` or `counter`.
    pub kind: &'static str,
    pub help: &'static str,
    values: fn(&Told) -> Vec<Sample>,
}

/// A value, and what it is about beside the node that answers.
struct Sample {
    /// Names and values of labels.
    labels: Vec<(&'static str, String)>,
    value: String,
}

const fn gauge(name: &'static str, help: &'static str, values: fn(&Told) -> Vec<Sample>) -> Metric {
    Metric { name, kind: "gauge", help, values }
}

/// Patroni calls positions in the WAL counters.
const fn counter(name: &'static str, help: &'static str, values: fn(&Told) -> Vec<Sample>) -> Metric {
    Metric { name, kind: "counter", help, values }
}

/// Patroni's names, with what Patroni says of them, and then our own.
pub const METRICS: &[Metric] = &[
    gauge("patroni_version", "Version of pgherd without periods: two digits for each part.", |_| {
        one(version())
    }),
    gauge("patroni_postgres_running", "1 if PostgreSQL is running, 0 otherwise.", |told| {
        flag(told.is_running())
    }),
    gauge(
        "patroni_postmaster_start_time",
        "Epoch seconds since PostgreSQL started, 0 if it is not running.",
        |told| {
            let started = told.own.facts.as_ref().map(|facts| facts.about.started_us);
            one(started.map_or(0.0, seconds))
        },
    ),
    gauge(
        "patroni_primary",
        "1 if this node is the open primary and its lease holds, 0 otherwise.",
        |told| flag(told.is_primary()),
    ),
    counter(
        "patroni_xlog_location",
        "End of the flushed WAL in bytes, 0 if this node is no primary.",
        |told| one(row(told, |row| row.lsn.filter(|_| row.role == Role::Primary)).map_or(0, |lsn| lsn.0)),
    ),
    gauge(
        "patroni_standby_leader",
        "1 if this node is the head of a standby cluster, 0 otherwise.",
        |told| flag(told.is_standby_leader()),
    ),
    gauge("patroni_replica", "1 if this node is a replica, 0 otherwise.", |told| {
        flag(told.is_running() && told.row().is_some_and(|row| row.role == Role::Replica))
    }),
    gauge(
        "patroni_sync_standby",
        "1 if every acknowledged commit is on this replica, 0 otherwise.",
        |told| flag(standing(told) == Standing::Sync),
    ),
    gauge(
        "patroni_quorum_standby",
        "1 if this replica is one of more than k that commits count on, 0 otherwise.",
        |told| flag(standing(told) == Standing::Quorum),
    ),
    counter(
        "patroni_xlog_received_location",
        "End of the received WAL in bytes, 0 if this node is no replica.",
        |told| one(standby(told, |row| row.lsn).map_or(0, |lsn| lsn.0)),
    ),
    counter(
        "patroni_xlog_replayed_location",
        "End of the replayed WAL in bytes, 0 if this node is no replica.",
        |told| one(standby(told, |row| row.replay_lsn).map_or(0, |lsn| lsn.0)),
    ),
    gauge(
        "patroni_xlog_replayed_timestamp",
        "Commit time of the last replayed transaction, 0 if there is none.",
        |told| {
            let replayed = told.own.facts.as_ref().and_then(|facts| facts.about.replayed_at_us);
            one(replayed.map_or(0.0, seconds))
        },
    ),
    gauge("patroni_xlog_paused", "1 if replay is paused, 0 otherwise.", |told| {
        flag(told.own.facts.as_ref().and_then(|facts| facts.about.replay_paused).unwrap_or(false))
    }),
    gauge("patroni_postgres_streaming", "1 if PostgreSQL is streaming, 0 otherwise.", |told| {
        flag(replicates(told) == Some("streaming"))
    }),
    gauge(
        "patroni_postgres_in_archive_recovery",
        "1 if PostgreSQL is replicating from archive, 0 otherwise.",
        |told| flag(replicates(told) == Some("in archive recovery")),
    ),
    gauge("patroni_postgres_server_version", "Version of PostgreSQL, 0 if it is not running.", |told| {
        one(told.own.facts.as_ref().map_or(0, |facts| facts.about.version))
    }),
    gauge(
        "patroni_cluster_unlocked",
        "1 if nobody is heard of who leads the cluster, 0 otherwise.",
        |told| flag(told.leader().is_none()),
    ),
    gauge("patroni_failsafe_mode_is_active", "Always 0: there is no such mode.", |_| flag(false)),
    counter("patroni_postgres_timeline", "Timeline of this node, 0 if PostgreSQL is not running.", |told| {
        one(row(told, |row| row.timeline).unwrap_or(0))
    }),
    gauge(
        "patroni_dcs_last_seen",
        "Epoch seconds at which the store last had a leader, 0 before the first.",
        |told| one(told.own.store_seen.unwrap_or(0)),
    ),
    gauge("patroni_pending_restart", "1 if settings wait for a restart of this node, 0 otherwise.", |told| {
        flag(told.row().is_some_and(|row| !row.condition.pending.is_empty()))
    }),
    gauge(
        "patroni_is_paused",
        "1 if nothing is started, taken over or rebuilt by itself, 0 otherwise.",
        |told| flag(told.report.paused_until.is_some()),
    ),
    gauge(
        "patroni_postgres_state",
        "State of PostgreSQL: 0 initializing, 4 creating replica, 5 running, 6 starting, 9 restarting, 11 stopping, \
         12 stopped, -1 unknown.",
        |told| one(told.row().map_or(-1, |row| words::state(row).number())),
    ),
    gauge("pgherd_term", "The recorded term; 0 before the first primary.", |told| one(told.report.term)),
    gauge("pgherd_open_primary", "1 for the node that is the open primary, as this node hears it.", |told| {
        told.report.primary.iter().map(|name| about(name, 1)).collect()
    }),
    gauge(
        "pgherd_sync_k",
        "How many of the sync set must flush a commit before it is acknowledged.",
        |told| one(told.report.sync.k),
    ),
    gauge("pgherd_sync_member", "1 for each node of the sync set.", |told| {
        told.report.sync.members.iter().map(|name| about(name, 1)).collect()
    }),
    gauge("pgherd_sync_degraded", "1 if k has fallen to 0 because the last standby was lost.", |told| {
        flag(told.report.sync.mode == SyncMode::Degraded)
    }),
    gauge(
        "pgherd_node_healthy",
        "1 if the node is healthy: its server has its role, and it is heard.",
        |told| each(told, |row| Some(u8::from(row.healthy))),
    ),
    gauge("pgherd_node_silent_seconds", "Since the last word from the node.", |told| {
        each(told, |row| row.last_contact_ms.map(|ms| ms as f64 / 1e3))
    }),
    gauge("pgherd_lag_bytes", "Received WAL of the node behind the primary's end.", |told| {
        each(told, |row| row.lag_bytes)
    }),
    gauge(
        "pgherd_replay_lag_bytes",
        "Replayed WAL of the node behind the end of the one that leads.",
        |told| each(told, |row| row.replay_lsn.map(|lsn| told.lag(lsn))),
    ),
    gauge("pgherd_quarantined", "1 if the node's server admits internal connections only.", |told| {
        each(told, |row| Some(u8::from(row.quarantined)))
    }),
    gauge("pgherd_paused", "1 if the cluster is paused.", |told| flag(told.report.paused_until.is_some())),
    gauge(
        "pgherd_requests_active",
        "Requests of people that are under way or wait for their time.",
        |told| one(told.report.requests.len()),
    ),
    gauge("pgherd_decided_seconds", "Since the last decision of this node's agent.", |told| {
        one(told.own.decided_ms_ago as f64 / 1e3)
    }),
    gauge("pgherd_free_bytes", "Free for the server, on the fullest of this node's disks.", |told| {
        row(told, |row| row.condition.free_bytes).map_or_else(Vec::new, one)
    }),
    gauge(
        "pgherd_slots_ready",
        "1 if a takeover to this node keeps every slot that is to be kept.",
        |told| {
            row(told, |row| (row.role != Role::Witness).then_some(row.slots.ready))
                .map_or_else(Vec::new, flag)
        },
    ),
    gauge("pgherd_slot_held_bytes", "WAL that the replication slot of this node holds.", |told| {
        slots(told, |slot| slot.held_bytes)
    }),
    gauge(
        "pgherd_slot_budget_bytes",
        "WAL that the replication slot of this node may hold before it is given up.",
        |told| slots(told, |slot| slot.budget_bytes),
    ),
    gauge("pgherd_slot_lost", "1 if the replication slot can be used no more.", |told| {
        slots(told, |slot| u8::from(slot.lost.is_some()))
    }),
    gauge(
        "pgherd_disk_full",
        "1 if the node has too little room where its server writes to take over or to take WAL anew.",
        |told| each(told, |row| Some(u8::from(row.condition.disk_full))),
    ),
    gauge("pgherd_stuck", "1 if the node has given up coming back by itself.", |told| {
        each(told, |row| Some(u8::from(row.condition.stuck.is_some())))
    }),
    gauge("pgherd_crowded", "1 if clients hold every connection slot of the node's server.", |told| {
        each(told, |row| Some(u8::from(row.condition.crowded)))
    }),
    gauge("pgherd_fencer_running", "1 if a fencer runs beside this node's agent.", |told| {
        let runs = |fencer: &crate::api::FencerReport| fencer.state != FencerState::Missing.word();
        row(told, |row| row.fencer.as_ref().map(runs)).map_or_else(Vec::new, flag)
    }),
    gauge("pgherd_fencer_armed", "1 if the fencer watches over this node's primary.", |told| {
        let armed = |fencer: &crate::api::FencerReport| fencer.state == FencerState::Armed.word();
        row(told, |row| row.fencer.as_ref().map(armed)).map_or_else(Vec::new, flag)
    }),
];

/// All that this node counts, the proxy's included.
pub async fn metrics(State(view): State<View>) -> Response {
    let kind = [(CONTENT_TYPE, "text/plain; version=0.0.4")];
    let own = text(&Told::by(&view));
    (kind, own + &view.metrics().await).into_response()
}

pub fn text(told: &Told) -> String {
    let mut out = String::new();
    let (scope, name) = (escaped(&told.report.cluster), escaped(&told.report.from));
    for metric in METRICS {
        let Metric { name: family, kind, help, values } = metric;
        // Writing to a string cannot fail.
        let _ = writeln!(out, "# HELP {family} {help}\n# TYPE {family} {kind}");
        for Sample { labels, value } in values(told) {
            let label = |(label, value): &(&str, String)| format!(",{label}=\"{}\"", escaped(value));
            let more: String = labels.iter().map(label).collect();
            let _ = writeln!(out, "{family}{{scope=\"{scope}\",name=\"{name}\"{more}}} {value}");
        }
    }
    out
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn one(value: impl Display) -> Vec<Sample> {
    vec![Sample { labels: Vec::new(), value: value.to_string() }]
}

fn flag(holds: bool) -> Vec<Sample> {
    one(u8::from(holds))
}

fn about(node: &str, value: impl Display) -> Sample {
    Sample { labels: vec![("node", node.to_owned())], value: value.to_string() }
}

/// A sample for each replication slot of the node that answers.
fn slots<T: Display>(told: &Told, value: impl Fn(&SlotLine) -> T) -> Vec<Sample> {
    let sample = |slot: &SlotLine| Sample {
        labels: vec![("slot", slot.name.clone())],
        value: value(slot).to_string(),
    };
    told.row().map_or_else(Vec::new, |row| row.slots.slots.iter().map(sample).collect())
}

/// A sample for each node of which the value is known.
fn each<T: Display>(told: &Told, value: impl Fn(&NodeReport) -> Option<T>) -> Vec<Sample> {
    told.report.nodes.iter().filter_map(|row| Some(about(&row.name, value(row)?))).collect()
}

fn row<T>(told: &Told, value: impl Fn(&NodeReport) -> Option<T>) -> Option<T> {
    told.row().and_then(value)
}

fn standby<T>(told: &Told, value: impl Fn(&NodeReport) -> Option<T>) -> Option<T> {
    told.row().filter(|row| matches!(row.role, Role::Replica | Role::Head)).and_then(value)
}

fn standing(told: &Told) -> Standing {
    told.row().map_or(Standing::Async, |row| told.standing(row))
}

fn replicates(told: &Told) -> Option<&'static str> {
    told.row().filter(|_| told.is_running()).and_then(|row| documents::replication_state(told, row))
}

fn seconds(microseconds: i64) -> f64 {
    microseconds as f64 / 1e6
}

/// `0.12.3` is 1203, as Patroni writes its own.
fn version() -> u64 {
    let parts = env!("CARGO_PKG_VERSION").split(['.', '-']).take(3);
    parts.filter_map(|part| part.parse::<u64>().ok()).fold(0, |version, part| version * 100 + part)
}
