//! The members over HTTP: listed to everybody, changed by admins.

use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};

use super::access::{Caller, UserRole};
use super::change::{error, refused};
use super::report::Accepted;
use super::routes::View;

/// A change that somebody asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum MemberChange {
    Add(NewMember),
    Remove { name: String },
}

/// A node that is to join.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
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

pub async fn list(State(view): State<View>) -> Response {
    Json(view.members()).into_response()
}

pub async fn add(
    State(view): State<View>,
    Extension(caller): Extension<Caller>,
    body: Result<Json<NewMember>, JsonRejection>,
) -> Response {
    match body {
        Ok(Json(new)) => change(&view, &caller, MemberChange::Add(new)).await,
        Err(reason) => error(StatusCode::BAD_REQUEST, &reason.body_text()),
    }
}

pub async fn remove(
    State(view): State<View>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
) -> Response {
    change(&view, &caller, MemberChange::Remove { name }).await
}

async fn change(view: &View, caller: &Caller, change: MemberChange) -> Response {
    if let Err(denied) = caller.may(UserRole::Admin) {
        return denied.into_response();
    }
    match view.change_members(change).await {
        Ok(revision) => (StatusCode::ACCEPTED, Json(Accepted { id: Some(revision) })).into_response(),
        Err(refusal) => refused(&refusal),
    }
}
