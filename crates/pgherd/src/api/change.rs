//! The routes that change something: each writes a request down.
//!
//! The gate (`access`) has let nobody through who may not change anything; what may lose commits needs more.

use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use brain::Ask;
use serde::Deserialize;
use serde_json::json;

use super::access::{Caller, UserRole};
use super::report::Accepted;
use super::routes::View;
use crate::agent::{Command, Refusal};

#[derive(Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Pause {
    /// It ends by itself then.
    seconds: u64,
}

pub async fn list(State(view): State<View>) -> Response {
    Json(view.requests()).into_response()
}

pub async fn one(State(view): State<View>, Path(id): Path<u64>) -> Response {
    match view.requests().into_iter().find(|request| request.id == id) {
        Some(request) => Json(request).into_response(),
        None => error(StatusCode::NOT_FOUND, &format!("there is no request {id}")),
    }
}

pub async fn ask(
    State(view): State<View>,
    Extension(caller): Extension<Caller>,
    body: Result<Json<Ask>, JsonRejection>,
) -> Response {
    match body {
        Ok(Json(ask)) => match caller.may(needed(&ask)) {
            Ok(()) => change(&view, Command::Ask(ask)).await,
            Err(denied) => denied.into_response(),
        },
        Err(reason) => error(StatusCode::BAD_REQUEST, &reason.body_text()),
    }
}

/// What loses nothing is for operators.
pub(super) fn needed(ask: &Ask) -> UserRole {
    match ask {
        Ask::Switchover { .. } | Ask::Restart { .. } | Ask::Reload { .. } | Ask::Reinit { .. } => {
            UserRole::Operator
        }
        Ask::Failover { .. } | Ask::Promote { .. } | Ask::Demote { .. } => UserRole::Admin,
    }
}

pub async fn cancel(State(view): State<View>, Path(id): Path<u64>) -> Response {
    change(&view, Command::Cancel(id)).await
}

pub async fn pause(State(view): State<View>, body: Result<Json<Pause>, JsonRejection>) -> Response {
    match body {
        Ok(Json(Pause { seconds })) => change(&view, Command::Pause(seconds)).await,
        Err(reason) => error(StatusCode::BAD_REQUEST, &reason.body_text()),
    }
}

pub async fn resume(State(view): State<View>) -> Response {
    change(&view, Command::Resume).await
}

async fn change(view: &View, command: Command) -> Response {
    match view.command(command).await {
        Ok(id) => (StatusCode::ACCEPTED, Json(Accepted { id })).into_response(),
        Err(refusal) => refused(&refusal),
    }
}

pub(super) fn refused(refusal: &Refusal) -> Response {
    match refusal {
        Refusal::Invalid(reason) => error(StatusCode::UNPROCESSABLE_ENTITY, reason),
        Refusal::Conflict(reason) => error(StatusCode::CONFLICT, reason),
        Refusal::Unavailable(reason) => error(StatusCode::SERVICE_UNAVAILABLE, reason),
    }
}

pub(super) fn error(code: StatusCode, text: &str) -> Response {
    (code, Json(json!({ "error": text }))).into_response()
}
