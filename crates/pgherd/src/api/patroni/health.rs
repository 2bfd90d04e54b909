//! Health checks: a status code that a load balancer or a probe goes by.
//!
//! HEAD and OPTIONS have the same code and no body, as Patroni's.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::{MethodRouter, get};

use super::{Standing, Told, documents, size, words};
use crate::api::change::error;
use crate::api::report::Role;
use crate::api::routes::View;

/// An agent that has decided nothing for so long is taken to be dead: Patroni's default `ttl`. It is no fence; clients are
/// cut at the end of the lease, much earlier.
const PRIMARY_SILENT_MS_MAX: u64 = 30_000;

/// Nobody depends on a replica's agent as much.
const OTHER_SILENT_MS_MAX: u64 = 2 * PRIMARY_SILENT_MS_MAX;

/// What is asked of the node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Check {
    Primary,
    Leader,
    StandbyLeader,
    Replica,
    ReadOnly,
    Sync,
    ReadOnlySync,
    Quorum,
    ReadOnlyQuorum,
    Async,
    Running,
    Liveness,
    Readiness,
}

/// `lag`, `replication_state`, `mode` and `tag_…`; others are left alone.
type Asked = BTreeMap<String, String>;

/// GET, HEAD and OPTIONS of one check.
pub fn health(check: Check) -> MethodRouter<View> {
    let full = move |State(view): State<View>, Query(asked): Query<Asked>| async move {
        let told = Told::by(&view);
        match check.holds(&told, &asked) {
            Ok(holds) => (code(holds), Json(documents::of_node(&told))).into_response(),
            Err(reason) => error(StatusCode::BAD_REQUEST, &reason),
        }
    };
    let bare = move |State(view): State<View>, Query(asked): Query<Asked>| async move {
        let holds = check.holds(&Told::by(&view), &asked);
        holds.map_or(StatusCode::BAD_REQUEST, code).into_response()
    };
    get(full).head(bare).options(bare)
}

/// Always 200: whoever asks for the document wants it of a node in trouble, too.
pub fn always() -> MethodRouter<View> {
    let full =
        |State(view): State<View>| async move { Json(documents::of_node(&Told::by(&view))).into_response() };
    let bare = || async { StatusCode::OK.into_response() };
    get(full).head(bare).options(bare)
}

fn code(holds: bool) -> StatusCode {
    if holds { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

impl Check {
    /// Whether it holds; an error says what in the question cannot be read.
    pub(super) fn holds(self, told: &Told, asked: &Asked) -> Result<bool, String> {
        let replica = || reads(told, asked);
        let standing = told.row().map_or(Standing::Async, |row| told.standing(row));
        // Who leads is asked for as such: tags say nothing of it.
        let holds = match self {
            Check::Primary => return Ok(told.is_primary()),
            Check::Leader => return Ok(told.is_leader()),
            Check::StandbyLeader => return Ok(told.is_standby_leader()),
            Check::Liveness => return Ok(is_alive(told)),
            Check::Readiness => return is_ready(told, asked),
            Check::Replica => replica()?,
            Check::ReadOnly => told.is_leader() || replica()?,
            Check::Sync => standing == Standing::Sync && replica()?,
            Check::ReadOnlySync => told.is_leader() || standing == Standing::Sync && replica()?,
            Check::Quorum => standing != Standing::Async && replica()?,
            Check::ReadOnlyQuorum => told.is_leader() || standing != Standing::Async && replica()?,
            Check::Async => standing == Standing::Async && replica()?,
            Check::Running => told.is_running(),
        };
        Ok(holds && has_tags(told, asked))
    }
}

/// A replica that reads may be sent to, within the limits that the question names.
fn reads(told: &Told, asked: &Asked) -> Result<bool, String> {
    let lag_max = lag_max(asked)?;
    let Some(row) = told.row().filter(|row| told.is_replica() && !row.tags.noloadbalance) else {
        return Ok(false);
    };
    let wanted = asked.get("replication_state");
    let in_state =
        wanted.is_none_or(|wanted| documents::replication_state(told, row) == Some(wanted.as_str()));
    // Where replay stands is not known: it is not within any limit.
    let near = lag_max.is_none_or(|max| row.replay_lsn.is_some_and(|replayed| told.lag(replayed) <= max));
    Ok(in_state && near)
}

fn lag_max(asked: &Asked) -> Result<Option<u64>, String> {
    let Some(text) = asked.get("lag") else { return Ok(None) };
    let unreadable =
        || format!("lag is \"{text}\"; it is a number of bytes, or has a unit, such as 16kB or 1MB");
    size::bytes(text).map(Some).ok_or_else(unreadable)
}

fn has_tags(told: &Told, asked: &Asked) -> bool {
    let tags = told.row().map(|row| &row.tags);
    asked
        .iter()
        .filter_map(|(key, wanted)| Some((key.strip_prefix("tag_")?, wanted)))
        .all(|(name, wanted)| tags.is_some_and(|tags| words::tag_text(tags, name).as_ref() == Some(wanted)))
}

/// The agent's loop has decided something lately, or nothing is to be decided.
fn is_alive(told: &Told) -> bool {
    let is_primary = told.row().is_some_and(|row| row.role == Role::Primary);
    let max_ms = if is_primary { PRIMARY_SILENT_MS_MAX } else { OTHER_SILENT_MS_MAX };
    told.report.paused_until.is_some() || told.own.decided_ms_ago <= max_ms
}

/// It leads, or it streams and is not far behind.
fn is_ready(told: &Told, asked: &Asked) -> Result<bool, String> {
    let lag_max = lag_max(asked)?.unwrap_or(told.own.maximum_lag_bytes);
    if told.is_leader() {
        return Ok(true);
    }
    let Some(row) = told.row().filter(|_| told.is_replica()) else { return Ok(false) };
    let reached = match asked.get("mode").map(String::as_str) {
        Some("write") => row.lsn,
        _ => row.replay_lsn,
    };
    let near = reached.is_some_and(|lsn| told.lag(lsn) <= lag_max);
    Ok(near && documents::replication_state(told, row) == Some("streaming"))
}
