//! `GET /api/v1/doctor`: the node examines itself; and its wall clock, by which others measure how far they are apart.

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};

use super::routes::View;
use crate::doctor::DoctorReport;

/// A node's wall clock at the moment of the answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ClockReport {
    /// Microseconds since 1970.
    pub wall_us: i64,
}

pub(super) async fn examine(State(view): State<View>) -> Json<DoctorReport> {
    Json(view.examine().await)
}

pub(super) async fn clock() -> Json<ClockReport> {
    Json(ClockReport { wall_us: crate::clock::wall().as_microsecond() })
}
