//! The cluster's configuration over HTTP: shown to users and on a node's own machine, changed by admins.

use std::collections::BTreeMap;

use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};

use super::access::{By, Caller, UserRole};
use super::change::{error, refused};
use super::routes::View;
use crate::cluster_config::Plan;

/// What is set for all nodes, `pgherd config show --json`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ConfigReport {
    pub cluster: String,
    /// Grows by one with each change; 0: nothing was ever set.
    pub number: u64,
    /// TOML.
    pub text: String,
    /// RFC 3339; null when nothing was ever set.
    pub changed_at: Option<String>,
    pub changed_by: String,
    /// By node: the number that it has applied; 0 when none, or when it has not been heard of.
    pub applied: BTreeMap<String, u64>,
    /// All that can be set for all nodes, as it is in force on the node that tells.
    pub values: Vec<ConfigValue>,
    /// Earlier texts that are remembered, oldest first.
    pub previous: Vec<PastConfig>,
}

/// A setting as it is in force.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ConfigValue {
    pub key: String,
    /// As it is written in TOML; null: not set.
    pub value: Option<String>,
    /// It is set for all nodes; else it comes from the node's file or a default.
    pub of_cluster: bool,
}

/// An earlier text.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct PastConfig {
    pub number: u64,
    /// RFC 3339.
    pub at: String,
    pub by: String,
    pub text: String,
}

/// The body of a change.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct NewConfig {
    /// The whole of it, TOML.
    pub text: String,
    /// The number of the text that it was made from; what was changed meanwhile is not overwritten.
    pub number: u64,
    /// Say what would happen and do nothing.
    #[serde(default)]
    pub dry_run: bool,
}

/// What a change does.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ConfigChange {
    #[serde(flatten)]
    pub plan: Plan,
    /// Of each node, in the order of the plan; none when nothing but comments changes, or it was a dry run.
    pub requests: Vec<u64>,
}

pub async fn show(State(view): State<View>, Extension(caller): Extension<Caller>) -> Response {
    told(&view, &caller).map_or_else(|refused| *refused, |report| Json(report).into_response())
}

pub async fn past(
    State(view): State<View>,
    Extension(caller): Extension<Caller>,
    Path(number): Path<u64>,
) -> Response {
    let find = |report: ConfigReport| report.previous.into_iter().find(|past| past.number == number);
    match told(&view, &caller).map(find) {
        Ok(Some(past)) => Json(past).into_response(),
        Ok(None) => error(StatusCode::NOT_FOUND, &format!("configuration {number} is not remembered")),
        Err(refused) => *refused,
    }
}

pub async fn change(
    State(view): State<View>,
    Extension(caller): Extension<Caller>,
    body: Result<Json<NewConfig>, JsonRejection>,
) -> Response {
    let Json(new) = match body {
        Ok(body) => body,
        Err(reason) => return error(StatusCode::BAD_REQUEST, &reason.body_text()),
    };
    if let Err(denied) = caller.may(UserRole::Admin) {
        return denied.into_response();
    }
    let is_dry = new.dry_run;
    match view.configure(new, author(&caller)).await {
        Ok(change) => {
            (if is_dry { StatusCode::OK } else { StatusCode::ACCEPTED }, Json(change)).into_response()
        }
        Err(refusal) => refused(&refusal),
    }
}

/// Lines of pg_hba.conf and commands may hold secrets, and the text of before does, too: strangers are not told.
pub(super) fn told(view: &View, caller: &Caller) -> Result<ConfigReport, Box<Response>> {
    if caller.by == By::Nobody {
        let text = "the cluster's configuration is told to users ([http] users) and on a node's own machine: pgherd … --user NAME";
        return Err(Box::new(error(StatusCode::UNAUTHORIZED, text)));
    }
    view.configuration().map_err(|refusal| Box::new(refused(&refusal)))
}

/// Who is told to have asked.
pub(super) fn author(caller: &Caller) -> String {
    caller.user.clone().unwrap_or_else(|| "somebody on a node's machine".to_owned())
}
