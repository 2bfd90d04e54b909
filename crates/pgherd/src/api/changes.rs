//! What may be changed over HTTP, and the trait of whoever carries it out.
//!
//! A change is taken, or refused with a reason, at once; what it leads to takes its time and is seen in the reports. Only
//! programs on the same machine may change anything, until there are users and rights.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;

use axum::Json;
use axum::extract::{ConnectInfo, FromRequestParts};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::json;

/// A change that somebody asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    AddMember(NewMember),
    RemoveMember { name: String },
}

/// A node that is to join.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewMember {
    pub name: String,
    /// `host:port` of its agent.
    pub peer: String,
    /// `host:port` of its PostgreSQL; a witness has none.
    #[serde(default)]
    pub postgres: Option<String>,
    /// It only votes.
    #[serde(default)]
    pub witness: bool,
}

/// The change is recorded and will be carried out.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Receipt {
    /// Names the change in the whole cluster.
    pub id: String,
    pub what: String,
}

/// Nothing was changed, unless `code` says that this is not known.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal {
    pub code: RefusalCode,
    pub error: String,
    /// What to type or to do next.
    pub next: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RefusalCode {
    Invalid,
    Unknown,
    Conflict,
    Unavailable,
    OutcomeUnknown,
}

impl RefusalCode {
    fn http(self) -> StatusCode {
        match self {
            RefusalCode::Invalid => StatusCode::BAD_REQUEST,
            RefusalCode::Unknown => StatusCode::NOT_FOUND,
            RefusalCode::Conflict => StatusCode::CONFLICT,
            RefusalCode::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            RefusalCode::OutcomeUnknown => StatusCode::GATEWAY_TIMEOUT,
        }
    }
}

pub type Submitted<'a> = Pin<Box<dyn Future<Output = Result<Receipt, Refusal>> + Send + 'a>>;

/// Carries changes out; the agent's side of this module.
pub trait ClusterChanges: Send + Sync + 'static {
    /// Records the change, or refuses it. Ends within some seconds.
    fn submit(&self, change: Change) -> Submitted<'_>;
}

/// Proof that a request came from this machine.
pub(super) struct Local;

impl<S: Sync> FromRequestParts<S> for Local {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Local, Response> {
        let from = parts.extensions.get::<ConnectInfo<SocketAddr>>().map(|info| info.0.ip().to_canonical());
        if from.is_some_and(|ip| ip.is_loopback()) {
            return Ok(Local);
        }
        let body = json!({
            "error": "changes are taken from this node's own machine only",
            "next": "run the command on the machine of a node",
        });
        Err((StatusCode::FORBIDDEN, Json(body)).into_response())
    }
}

pub(super) fn answer(outcome: Result<Receipt, Refusal>) -> Response {
    match outcome {
        Ok(receipt) => (StatusCode::ACCEPTED, Json(receipt)).into_response(),
        Err(Refusal { code, error, next }) => {
            (code.http(), Json(json!({ "error": error, "next": next }))).into_response()
        }
    }
}
