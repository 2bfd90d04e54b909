//! The table of routes: path, meaning and handler in one row; the router is made from it and from nothing else.
//!
//! The health endpoints answer with Patroni's codes (200 yes, 503 no), so that a load balancer set up for Patroni
//! works unchanged.

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

use super::report::{NodeReport, Role, StatusReport};
use super::stream::{self, Streams};
use super::{ClusterView, change, members};
use crate::dashboard;

/// An answer of 1,000 events of some 300 bytes is 300 kB: one page for a person, cheap for the node.
pub const EVENTS_PER_ANSWER_MAX: usize = 1_000;
const EVENTS_PER_ANSWER: usize = 100;

pub(super) type View = Arc<dyn ClusterView>;

/// One row of the table.
pub struct Route {
    pub path: &'static str,
    pub doc: &'static str,
    handler: fn() -> MethodRouter<View>,
}

pub const ROUTES: &[Route] = &[
    Route {
        path: "/api/v1/status",
        doc: "The cluster as this node sees it.",
        handler: || get(|State(view): State<View>| async move { Json(view.status()) }),
    },
    Route {
        path: "/api/v1/events",
        doc: "Events with an id above ?after=, oldest first, at most ?limit=.",
        handler: || get(events),
    },
    Route {
        path: "/api/v1/explain",
        doc: "For each node: what would happen if it died now.",
        handler: || get(|State(view): State<View>| async move { Json(view.explain(None)) }),
    },
    Route {
        path: "/api/v1/explain/{node}",
        doc: "What would happen if this node died now.",
        handler: || get(explain),
    },
    Route {
        path: "/api/v1/members",
        doc: "GET: who belongs to the cluster. POST: add a node.",
        handler: || get(members::list).post(members::add),
    },
    Route {
        path: "/api/v1/members/{name}",
        doc: "DELETE: remove a node from the cluster.",
        handler: || delete(members::remove),
    },
    Route {
        path: "/api/v1/requests",
        doc: "GET: what people asked for, oldest first. POST: ask for a switchover, failover, restart, reload or reinit.",
        handler: || get(change::list).post(change::ask),
    },
    Route {
        path: "/api/v1/requests/{id}",
        doc: "GET: one request, 404 when it is not remembered. DELETE: cancel it.",
        handler: || get(change::one).delete(change::cancel),
    },
    Route {
        path: "/api/v1/pause",
        doc: "POST {\"seconds\": N}: nothing is started, taken over or rebuilt by itself for so long. DELETE: resume.",
        handler: || post(change::pause).delete(change::resume),
    },
    Route {
        path: "/api/v1/stream",
        doc: "The status and the events of every node as they change, as server-sent events.",
        handler: || get(stream::stream),
    },
    Route {
        path: "/metrics",
        doc: "What the proxy of this node counts, in Prometheus' text format.",
        handler: || get(metrics),
    },
    Route {
        path: "/health",
        doc: "200 when PostgreSQL of this node is up.",
        handler: || get(|State(view): State<View>| async move { answer(&view, is_up) }),
    },
    Route {
        path: "/primary",
        doc: "200 when this node is the open primary.",
        handler: || get(|State(view): State<View>| async move { answer(&view, is_primary) }),
    },
    Route {
        path: "/replica",
        doc: "200 when this node is a healthy replica.",
        handler: || get(|State(view): State<View>| async move { answer(&view, is_replica) }),
    },
    Route {
        path: "/standby-leader",
        doc: "200 when this node is the head of a standby cluster (Patroni's name for it).",
        handler: || get(|State(view): State<View>| async move { answer(&view, is_head) }),
    },
    Route {
        path: "/liveness",
        doc: "200 while this node's agent answers.",
        handler: || get(|State(view): State<View>| async move { answer(&view, |_, _| true) }),
    },
    Route { path: "/dashboard", doc: "The dashboard, for a browser.", handler: || get(dashboard::page) },
    Route { path: "/dashboard/", doc: "The same.", handler: || get(dashboard::page) },
    Route {
        path: "/dashboard/{file}",
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
struct Page {
    #[serde(default)]
    after: u64,
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

async fn metrics(State(view): State<View>) -> Response {
    let kind = [(CONTENT_TYPE, "text/plain; version=0.0.4")];
    (kind, view.metrics().await).into_response()
}

async fn unknown() -> Response {
    let paths: Vec<&str> = ROUTES.iter().map(|route| route.path).collect();
    (StatusCode::NOT_FOUND, Json(json!({ "error": "no such path", "paths": paths }))).into_response()
}

/// 200 or 503 by `holds`, with the node's own row as the body: Patroni's clients read `role` and `state` from it.
fn answer(view: &View, holds: fn(&StatusReport, &NodeReport) -> bool) -> Response {
    let report = view.status();
    let Some(own) = report.nodes.iter().find(|node| node.name == report.from) else {
        let error = "this node is not yet part of its own view";
        return (StatusCode::SERVICE_UNAVAILABLE, Json(json!({ "error": error }))).into_response();
    };
    let code = if holds(&report, own) { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, Json(own)).into_response()
}

fn is_up(_: &StatusReport, own: &NodeReport) -> bool {
    own.healthy && matches!(own.role, Role::Primary | Role::Replica | Role::Head)
}

/// A primary in quarantine is not named in `primary` yet: no client may be sent there.
fn is_primary(report: &StatusReport, own: &NodeReport) -> bool {
    own.healthy && own.role == Role::Primary && report.primary.as_deref() == Some(own.name.as_str())
}

fn is_head(_: &StatusReport, own: &NodeReport) -> bool {
    own.healthy && own.role == Role::Head
}

fn is_replica(_: &StatusReport, own: &NodeReport) -> bool {
    own.healthy && own.role == Role::Replica
}
