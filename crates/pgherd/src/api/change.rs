//! The routes that change something: each writes a request down.
//!
//! They are taken from this machine only, until callers can be told apart: who may open a connection from here may
//! also stop PostgreSQL here.

use std::net::SocketAddr;

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{ConnectInfo, Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use brain::Ask;
use serde::Deserialize;
use serde_json::json;

use super::report::Accepted;
use super::routes::View;
use crate::agent::{Command, Refusal};

type From = ConnectInfo<SocketAddr>;

#[derive(Deserialize)]
pub struct Pause {
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
    ConnectInfo(from): From,
    body: Result<Json<Ask>, JsonRejection>,
) -> Response {
    match body {
        Ok(Json(ask)) => change(&view, from, Command::Ask(ask)).await,
        Err(reason) => error(StatusCode::BAD_REQUEST, &reason.body_text()),
    }
}

pub async fn cancel(State(view): State<View>, ConnectInfo(from): From, Path(id): Path<u64>) -> Response {
    change(&view, from, Command::Cancel(id)).await
}

pub async fn pause(
    State(view): State<View>,
    ConnectInfo(from): From,
    body: Result<Json<Pause>, JsonRejection>,
) -> Response {
    match body {
        Ok(Json(Pause { seconds })) => change(&view, from, Command::Pause(seconds)).await,
        Err(reason) => error(StatusCode::BAD_REQUEST, &reason.body_text()),
    }
}

pub async fn resume(State(view): State<View>, ConnectInfo(from): From) -> Response {
    change(&view, from, Command::Resume).await
}

async fn change(view: &View, from: SocketAddr, command: Command) -> Response {
    if !from.ip().to_canonical().is_loopback() {
        let text = "changes are taken from the node's own machine only; run the command there";
        return error(StatusCode::FORBIDDEN, text);
    }
    match view.command(command).await {
        Ok(id) => (StatusCode::ACCEPTED, Json(Accepted { id })).into_response(),
        Err(Refusal::Invalid(reason)) => error(StatusCode::UNPROCESSABLE_ENTITY, &reason),
        Err(Refusal::Conflict(reason)) => error(StatusCode::CONFLICT, &reason),
        Err(Refusal::Unavailable(reason)) => error(StatusCode::SERVICE_UNAVAILABLE, &reason),
    }
}

fn error(code: StatusCode, text: &str) -> Response {
    (code, Json(json!({ "error": text }))).into_response()
}
