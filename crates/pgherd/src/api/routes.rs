//! The table of routes: path, meaning and handler in one row; the router is made from it and from nothing else.
//!
//! Below our own routes are Patroni's (`patroni`), so that what was set up for Patroni works unchanged.

use std::sync::Arc;

use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, delete, get, post};
use axum::{Extension, Json, Router};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::watch;

use super::patroni::health::{self, Check, health};
use super::patroni::{changes, documents, dynamic, metrics};
use super::stream::{self, Streams};
use super::{ClusterView, access, change, configuration, doctor, failovers, members};
use crate::dashboard;

/// An answer of 1,000 events of some 300 bytes is 300 kB: one page for a person, cheap for the node.
pub const EVENTS_PER_ANSWER_MAX: usize = 1_000;
const EVENTS_PER_ANSWER: usize = 100;

/// A test compares it with the table of routes and the types.
const OPENAPI: &str = include_str!("../../../../docs/reference/openapi.json");

pub(super) type View = Arc<dyn ClusterView>;

/// Of a health check.
pub(super) const HEALTH: &str = "GET, HEAD, OPTIONS";

/// One row of the table.
pub struct Route {
    pub path: &'static str,
    pub methods: &'static str,
    pub doc: &'static str,
    handler: fn() -> MethodRouter<View>,
}

pub const ROUTES: &[Route] = &[
    Route {
        path: "/api/v1/status",
        methods: "GET",
        doc: "The cluster as this node sees it.",
        handler: || get(|State(view): State<View>| async move { Json(view.status()) }),
    },
    Route {
        path: "/api/v1/events",
        methods: "GET",
        doc: "Events with an id above ?after=, oldest first, at most ?limit=.",
        handler: || get(events),
    },
    Route {
        path: "/api/v1/failovers",
        methods: "GET",
        doc: "Reports of the last 20 failovers, oldest first: phases, answers, loss, sessions ([failover reports](../concepts/reports.md)).",
        handler: || get(failovers::list),
    },
    Route {
        path: "/api/v1/failovers/{term}",
        methods: "GET",
        doc: "The report of the failover that made this term, 404 when there is none.",
        handler: || get(failovers::one),
    },
    Route {
        path: "/api/v1/explain",
        methods: "GET",
        doc: "For each node: what would happen if it died now.",
        handler: || get(|State(view): State<View>| async move { Json(view.explain(None)) }),
    },
    Route {
        path: "/api/v1/explain/{node}",
        methods: "GET",
        doc: "What would happen if this node died now.",
        handler: || get(explain),
    },
    Route {
        path: "/api/v1/doctor",
        methods: "GET",
        doc: "This node examines itself now: what was found, why it matters, what to do. Takes up to seconds ([doctor](../operate/doctor.md)).",
        handler: || get(doctor::examine),
    },
    Route {
        path: "/api/v1/clock",
        methods: "GET",
        doc: "This node's wall clock, in microseconds since 1970.",
        handler: || get(doctor::clock),
    },
    Route {
        path: "/api/v1/members",
        methods: "GET, POST",
        doc: "GET: who belongs to the cluster. POST: add a node.",
        handler: || get(members::list).post(members::add),
    },
    Route {
        path: "/api/v1/members/{name}",
        methods: "DELETE",
        doc: "DELETE: remove a node from the cluster.",
        handler: || delete(members::remove),
    },
    Route {
        path: "/api/v1/requests",
        methods: "GET, POST",
        doc: "GET: what people asked for, oldest first. POST: ask for a switchover, failover, restart, reload or reinit.",
        handler: || get(change::list).post(change::ask),
    },
    Route {
        path: "/api/v1/requests/{id}",
        methods: "GET, DELETE",
        doc: "GET: one request, 404 when it is not remembered. DELETE: cancel it.",
        handler: || get(change::one).delete(change::cancel),
    },
    Route {
        path: "/api/v1/config",
        methods: "GET, POST",
        doc: "GET: what is set for all nodes, and which node has applied it. POST {\"text\", \"number\", \"dry_run\"}: another text instead of number N; each node is asked to apply it, one after another.",
        handler: || get(configuration::show).post(configuration::change),
    },
    Route {
        path: "/api/v1/config/{number}",
        methods: "GET",
        doc: "An earlier text, 404 when it is not remembered.",
        handler: || get(configuration::past),
    },
    Route {
        path: "/api/v1/pause",
        methods: "POST, DELETE",
        doc: "POST {\"seconds\": N}: nothing is started, taken over or rebuilt by itself for so long. DELETE: resume.",
        handler: || post(change::pause).delete(change::resume),
    },
    Route {
        path: "/api/v1/me",
        methods: "GET",
        doc: "Who asks, and what he may: user, role (viewer, operator, admin) and by (loopback, password, nobody).",
        handler: || get(access::me),
    },
    Route {
        path: "/api/v1/stream",
        methods: "GET",
        doc: "The status and the events of every node as they change, as server-sent events.",
        handler: || get(stream::stream),
    },
    Route {
        path: "/api/v1/openapi.json",
        methods: "GET",
        doc: "All of this as an OpenAPI 3.1 document: parameters, bodies, codes, roles.",
        handler: || get(openapi),
    },
    Route {
        path: "/metrics",
        methods: "GET",
        doc: "What this node and its proxy count, in Prometheus' text format ([metrics](metrics.md)).",
        handler: || get(metrics::metrics),
    },
    Route { path: "/", methods: HEALTH, doc: "The same as `/primary`.", handler: || health(Check::Primary) },
    Route {
        path: "/primary",
        methods: HEALTH,
        doc: "200 on the open primary while its lease holds.",
        handler: || health(Check::Primary),
    },
    Route {
        path: "/read-write",
        methods: HEALTH,
        doc: "The same as `/primary`.",
        handler: || health(Check::Primary),
    },
    Route {
        path: "/master",
        methods: HEALTH,
        doc: "The same as `/primary`.",
        handler: || health(Check::Primary),
    },
    Route {
        path: "/leader",
        methods: HEALTH,
        doc: "200 on the open primary, in a standby cluster on its head.",
        handler: || health(Check::Leader),
    },
    Route {
        path: "/standby-leader",
        methods: HEALTH,
        doc: "200 on the head of a standby cluster.",
        handler: || health(Check::StandbyLeader),
    },
    Route {
        path: "/standby_leader",
        methods: HEALTH,
        doc: "The same as `/standby-leader`.",
        handler: || health(Check::StandbyLeader),
    },
    Route {
        path: "/replica",
        methods: HEALTH,
        doc: "200 on a running replica without the tag noloadbalance that admits clients. `?lag=16kB`: and has replayed all but so much; `?replication_state=streaming`; `?tag_NAME=VALUE`.",
        handler: || health(Check::Replica),
    },
    Route {
        path: "/read-only",
        methods: HEALTH,
        doc: "200 on who leads, and where `/replica` is.",
        handler: || health(Check::ReadOnly),
    },
    Route {
        path: "/sync",
        methods: HEALTH,
        doc: "200 on a replica that has every acknowledged commit: all of the sync set must flush. Takes `/replica`'s parameters.",
        handler: || health(Check::Sync),
    },
    Route {
        path: "/synchronous",
        methods: HEALTH,
        doc: "The same as `/sync`.",
        handler: || health(Check::Sync),
    },
    Route {
        path: "/read-only-sync",
        methods: HEALTH,
        doc: "200 on who leads, and where `/sync` is.",
        handler: || health(Check::ReadOnlySync),
    },
    Route {
        path: "/read-only-synchronous",
        methods: HEALTH,
        doc: "The same as `/read-only-sync`.",
        handler: || health(Check::ReadOnlySync),
    },
    Route {
        path: "/quorum",
        methods: HEALTH,
        doc: "200 on a replica of the sync set. Takes `/replica`'s parameters.",
        handler: || health(Check::Quorum),
    },
    Route {
        path: "/read-only-quorum",
        methods: HEALTH,
        doc: "200 on who leads, and where `/quorum` is.",
        handler: || health(Check::ReadOnlyQuorum),
    },
    Route {
        path: "/async",
        methods: HEALTH,
        doc: "200 on a replica that is not of the sync set. Takes `/replica`'s parameters.",
        handler: || health(Check::Async),
    },
    Route {
        path: "/asynchronous",
        methods: HEALTH,
        doc: "The same as `/async`.",
        handler: || health(Check::Async),
    },
    Route {
        path: "/health",
        methods: HEALTH,
        doc: "200 while PostgreSQL of this node runs and answers.",
        handler: || health(Check::Running),
    },
    Route {
        path: "/liveness",
        methods: HEALTH,
        doc: "200 while the agent's loop runs: it has decided something within 30 s on a primary, 60 s elsewhere, or the cluster is paused.",
        handler: || health(Check::Liveness),
    },
    Route {
        path: "/readiness",
        methods: HEALTH,
        doc: "200 on who leads, and on a replica that streams and is not more than `?lag=` behind (`maximum_lag_on_failover` by default), by replayed WAL, with `?mode=write` by received WAL.",
        handler: || health(Check::Readiness),
    },
    Route {
        path: "/patroni",
        methods: HEALTH,
        doc: "Always 200: the node's server, in Patroni's words.",
        handler: health::always,
    },
    Route {
        path: "/cluster",
        methods: "GET",
        doc: "The members, in Patroni's words.",
        handler: || get(documents::cluster),
    },
    Route {
        path: "/history",
        methods: "GET",
        doc: "Each timeline that was left: `[timeline, LSN, why, when, new leader]`.",
        handler: || get(documents::history),
    },
    Route {
        path: "/config",
        methods: "GET, PATCH, PUT",
        doc: "GET: what of Patroni's dynamic configuration has a meaning here. PATCH: changes that for all nodes; 422 for what has none. PUT: 501, with what to do instead.",
        handler: || get(documents::config).patch(dynamic::patch).put(documents::config_unchanged),
    },
    Route {
        path: "/failsafe",
        methods: "GET, POST",
        doc: "502: there is no failsafe mode, and none is needed.",
        handler: || get(documents::no_failsafe).post(documents::no_failsafe),
    },
    Route {
        path: "/switchover",
        methods: "POST, DELETE",
        doc: "POST `{\"leader\", \"candidate\", \"scheduled_at\"}`: hands the primaryship over and waits for the end. DELETE: ends a scheduled one.",
        handler: || post(changes::switchover).delete(changes::unschedule),
    },
    Route {
        path: "/failover",
        methods: "POST",
        doc: "`{\"candidate\"}`: a switchover while a primary is open, else the candidate takes over with what it has.",
        handler: || post(changes::failover),
    },
    Route {
        path: "/restart",
        methods: "POST, DELETE",
        doc: "POST: restarts this node's PostgreSQL, if `{\"role\", \"postgres_version\", \"restart_pending\"}` hold, and waits `timeout`. DELETE: 404, none is ever scheduled.",
        handler: || post(changes::restart).delete(changes::no_restart_scheduled),
    },
    Route {
        path: "/reload",
        methods: "POST",
        doc: "202: this node reads its configuration file anew.",
        handler: || post(changes::reload),
    },
    Route {
        path: "/reinitialize",
        methods: "POST",
        doc: "This replica copies its data directory anew.",
        handler: || post(changes::reinitialize),
    },
    Route {
        path: "/dashboard",
        methods: "GET",
        doc: "The dashboard, for a browser.",
        handler: || get(dashboard::page),
    },
    Route { path: "/dashboard/", methods: "GET", doc: "The same.", handler: || get(dashboard::page) },
    Route {
        path: "/dashboard/{file}",
        methods: "GET",
        doc: "What the dashboard's page is made of.",
        handler: || get(dashboard::file),
    },
];

pub(super) fn router(view: View, ended: watch::Receiver<bool>) -> Router {
    ROUTES
        .iter()
        .fold(Router::new(), |router, route| router.route(route.path, (route.handler)()))
        .fallback(unknown)
        .layer(Extension(Streams::new(ended)))
        .with_state(view)
}

#[derive(Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) struct Page {
    /// The id of the last event that is known.
    #[serde(default)]
    after: u64,
    /// At most 1,000; 100 when it is not given.
    limit: Option<usize>,
}

async fn events(State(view): State<View>, Query(page): Query<Page>) -> Response {
    let limit = page.limit.unwrap_or(EVENTS_PER_ANSWER).min(EVENTS_PER_ANSWER_MAX);
    Json(view.events(page.after, limit)).into_response()
}

async fn explain(State(view): State<View>, Path(node): Path<String>) -> Response {
    let explanations = view.explain(Some(&node));
    if explanations.is_empty() {
        let error = format!("there is no node \"{node}\" in this cluster; /api/v1/status lists them");
        return (StatusCode::NOT_FOUND, Json(json!({ "error": error }))).into_response();
    }
    Json(explanations).into_response()
}

async fn openapi() -> impl IntoResponse {
    ([(CONTENT_TYPE, "application/json")], OPENAPI)
}

async fn unknown() -> Response {
    let paths: Vec<&str> = ROUTES.iter().map(|route| route.path).collect();
    (StatusCode::NOT_FOUND, Json(json!({ "error": "no such path", "paths": paths }))).into_response()
}
