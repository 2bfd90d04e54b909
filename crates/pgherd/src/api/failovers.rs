//! The routes that tell of past failovers.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use super::change::error;
use super::routes::View;

pub async fn list(State(view): State<View>) -> Response {
    match view.failovers() {
        Ok(reports) => Json(reports).into_response(),
        Err(refusal) => error(StatusCode::SERVICE_UNAVAILABLE, &refusal.to_string()),
    }
}

pub async fn one(State(view): State<View>, Path(term): Path<u64>) -> Response {
    match view.failovers().map(|reports| reports.into_iter().find(|report| report.term == term)) {
        Ok(Some(report)) => Json(report).into_response(),
        Ok(None) => error(
            StatusCode::NOT_FOUND,
            &format!("there is no report of term {term}; /api/v1/failovers lists them"),
        ),
        Err(refusal) => error(StatusCode::SERVICE_UNAVAILABLE, &refusal.to_string()),
    }
}
