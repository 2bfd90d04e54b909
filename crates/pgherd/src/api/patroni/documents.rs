//! Patroni's JSON documents.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde_json::{Map, Value, json};

use super::{Standing, Told, words};
use crate::agent::Facts;
use crate::api::access::Caller;
use crate::api::change::error;
use crate::api::configuration;
use crate::api::report::{NodeReport, Role, SyncMode};
use crate::api::routes::View;
use crate::api::wall_text;

/// The document of `/patroni` and of each health check.
pub(super) fn of_node(told: &Told) -> Value {
    let mut document = Map::new();
    let mut put = |name: &str, value: Value| document.insert(name.to_owned(), value);
    if let Some(row) = told.row() {
        put("state", json!(words::state(row).word()));
        put("role", json!(words::role(row)));
        if told.is_running() {
            put("xlog", positions(row, told.own.facts.as_deref()));
            if let Some(timeline) = row.timeline {
                put("timeline", json!(timeline));
            }
            match told.standing(row) {
                Standing::Sync => drop(put("sync_standby", json!(true))),
                Standing::Quorum => drop(put("quorum_standby", json!(true))),
                Standing::Async => {}
            }
            if let Some(state) = replication_state(told, row) {
                put("replication_state", json!(state));
            }
        }
        if !row.condition.pending.is_empty() {
            put("pending_restart", json!(true));
            put("pending_restart_reason", pending(row));
        }
        let tags = words::tags(&row.tags);
        if !tags.is_empty() {
            put("tags", Value::Object(tags));
        }
    } else {
        put("state", json!("starting"));
    }
    if let Some(facts) = told.own.facts.as_deref().filter(|_| told.is_running()) {
        put("postmaster_start_time", json!(moment(facts.about.started_us)));
        put("server_version", json!(facts.about.version));
        if !facts.walsenders.is_empty() {
            put("replication", replication(facts));
        }
    }
    if told.report.paused_until.is_some() {
        put("pause", json!(true));
    }
    if told.leader().is_none() {
        put("cluster_unlocked", json!(true));
    }
    if let Some(seen) = told.own.store_seen {
        put("dcs_last_seen", json!(seen));
    }
    if let Some(id) = told.own.system_id {
        put("database_system_identifier", json!(id.to_string()));
    }
    let (scope, name) = (&told.report.cluster, &told.report.from);
    put("patroni", json!({ "version": env!("CARGO_PKG_VERSION"), "scope": scope, "name": name }));
    Value::Object(document)
}

/// Positions are numbers of bytes here, as Patroni's.
fn positions(row: &NodeReport, facts: Option<&Facts>) -> Value {
    if row.role == Role::Primary {
        return json!({ "location": row.lsn.map(|lsn| lsn.0) });
    }
    let received = facts.and_then(|facts| facts.received).or(row.lsn);
    json!({
        "received_location": received.map(|lsn| lsn.0),
        "replayed_location": row.replay_lsn.map(|lsn| lsn.0),
        "replayed_timestamp": facts.and_then(|facts| facts.about.replayed_at_us).map(moment),
        "paused": facts.and_then(|facts| facts.about.replay_paused),
    })
}

/// Of a standby: `streaming`, or `in archive recovery` where it does not stream and has an archive to read.
pub(super) fn replication_state(told: &Told, row: &NodeReport) -> Option<&'static str> {
    let of_standby = matches!(row.role, Role::Replica | Role::Head);
    let restores = told.own.facts.as_deref().is_some_and(|facts| facts.about.restores);
    match row.state.as_str() {
        "streaming" if of_standby => Some("streaming"),
        _ if of_standby && restores && row.name == told.report.from => Some("in archive recovery"),
        _ => None,
    }
}

fn replication(facts: &Facts) -> Value {
    let row = |sender: &crate::postgres::Walsender| {
        json!({
            "usename": sender.usename,
            "application_name": sender.application_name,
            "client_addr": sender.client_addr,
            "state": sender.state,
            "sync_state": sender.sync_state,
            "sync_priority": sender.sync_priority,
        })
    };
    facts.walsenders.iter().map(row).collect()
}

fn pending(row: &NodeReport) -> Value {
    let setting = |pending: &brain::Pending| {
        (pending.name.clone(), json!({ "old_value": pending.old, "new_value": pending.new }))
    };
    Value::Object(row.condition.pending.iter().map(setting).collect())
}

/// As Python writes it, to the microsecond: `2026-01-02 03:04:05.678900+00:00`.
fn moment(microseconds: i64) -> Option<String> {
    let moment = jiff::Timestamp::from_microsecond(microseconds).ok()?;
    Some(moment.strftime("%Y-%m-%d %H:%M:%S.%6f+00:00").to_string())
}

/// `/cluster`.
pub async fn cluster(State(view): State<View>) -> Response {
    let told = Told::by(&view);
    // A witness is no member in Patroni's sense.
    let members = told.report.nodes.iter().filter(|row| !matches!(row.role, Role::Witness | Role::Router));
    let members: Vec<Value> = members.map(|row| member(&told, row)).collect();
    let mut document = json!({ "members": members, "scope": told.report.cluster });
    if told.report.paused_until.is_some() {
        document["pause"] = json!(true);
    }
    for request in &told.report.requests {
        if let brain::Ask::Switchover { to, at: Some(at), .. } = &request.ask {
            let mut scheduled = json!({ "at": wall_text(*at) });
            if let Some(from) = &told.report.primary {
                scheduled["from"] = json!(from);
            }
            if let Some(to) = to {
                scheduled["to"] = json!(to);
            }
            document["scheduled_switchover"] = scheduled;
        }
    }
    Json(document).into_response()
}

fn member(told: &Told, row: &NodeReport) -> Value {
    let leads = told.leader() == Some(row.name.as_str());
    let role = match (row.role, told.standing(row)) {
        (Role::Head, _) => "standby_leader",
        _ if leads => "leader",
        (_, Standing::Sync) => "sync_standby",
        (_, Standing::Quorum) => "quorum_standby",
        (_, Standing::Async) => "replica",
    };
    let state = replication_state(told, row).filter(|_| !leads || role == "standby_leader");
    let mut member = Map::new();
    let mut put = |name: &str, value: Value| member.insert(name.to_owned(), value);
    put("name", json!(row.name));
    put("role", json!(role));
    put("state", json!(state.unwrap_or(words::state(row).word())));
    if let Some(doors) = &row.doors {
        put("api_url", json!(format!("{}/patroni", doors.http_url())));
    }
    if let Some((host, port)) = row.postgres.as_deref().and_then(|address| address.rsplit_once(':')) {
        put("host", json!(host.trim_matches(['[', ']'])));
        put("port", json!(port.parse::<u16>().ok()));
    }
    if let Some(timeline) = row.timeline {
        put("timeline", json!(timeline));
    }
    if !row.condition.pending.is_empty() {
        put("pending_restart", json!(true));
    }
    let tags = words::tags(&row.tags);
    if !tags.is_empty() {
        put("tags", Value::Object(tags));
    }
    if !leads {
        let places = [("", row.lsn), ("receive_", row.lsn), ("replay_", row.replay_lsn)];
        for (prefix, lsn) in places {
            let unknown = || json!("unknown");
            put(&format!("{prefix}lsn"), lsn.map_or_else(unknown, |lsn| json!(lsn.to_string())));
            put(&format!("{prefix}lag"), lsn.map_or_else(unknown, |lsn| json!(told.lag(lsn))));
        }
    }
    Value::Object(member)
}

/// `/history`: `[timeline, where it was left, why, when, by whom the next one was begun]`.
pub async fn history(State(view): State<View>) -> Response {
    let row = |past: crate::api::PastTimeline| match past.next {
        Some(next) => {
            let reason = format!("term {}", next.term);
            json!([past.timeline, past.end.0, reason, next.at.map(wall_text), next.node])
        }
        None => json!([past.timeline, past.end.0, "no recorded term", null, null]),
    };
    Json(view.history().into_iter().map(row).collect::<Vec<_>>()).into_response()
}

/// `/config`: what of Patroni's dynamic configuration has a meaning here. Timings are left out: the lease is not Patroni's
/// `ttl`, and nothing here waits for a `loop_wait`.
pub async fn config(State(view): State<View>, Extension(caller): Extension<Caller>) -> Response {
    let told = Told::by(&view);
    let sync = if told.own.standbys > 0 { json!("quorum") } else { json!(false) };
    let mut document = json!({
        "synchronous_mode": sync,
        "synchronous_mode_strict": told.own.standbys > 0 && told.own.blocks,
        "synchronous_node_count": told.own.standbys,
        "maximum_lag_on_failover": told.own.maximum_lag_bytes,
    });
    if let Ok(report) = configuration::told(&view, &caller) {
        document["postgresql"] = super::dynamic::postgresql(&report);
    }
    if told.report.paused_until.is_some() {
        document["pause"] = json!(true);
    }
    if told.report.sync.mode == SyncMode::Standby {
        let hosts = told.report.origin.as_ref().map(|origin| origin.hosts.join(","));
        document["standby_cluster"] = json!({ "host": hosts });
    }
    Json(document).into_response()
}

/// `/config` is not replaced as a whole: most of what it would have to say has no meaning here.
pub async fn config_unchanged() -> Response {
    let text = "PATCH changes single settings; the whole of what is set for all nodes is replaced by pgherd config edit, \
                or POST /api/v1/config";
    error(StatusCode::NOT_IMPLEMENTED, text)
}

/// `/failsafe`, with Patroni's code for a cluster that has no such mode.
pub async fn no_failsafe() -> Response {
    let text = "there is no failsafe mode, and none is needed: the primary's lease is held by the standbys of its sync set, \
                so it serves on while the store is away";
    error(StatusCode::BAD_GATEWAY, text)
}
