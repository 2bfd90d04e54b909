//! `PATCH /config`: Patroni's dynamic configuration as settings for all nodes.
//!
//! Invariant: a document is applied as a whole or not at all; what has no meaning here is refused by its name.

use axum::Extension;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use super::documents;
use crate::api::access::{Caller, UserRole};
use crate::api::change::{error, refused};
use crate::api::configuration::{ConfigReport, NewConfig, author};
use crate::api::routes::View;
use crate::cluster_config::{Edit, edited};

/// What has no counterpart, and what there is instead.
const ABSENT: &[(&str, &str)] = &[
    (
        "ttl",
        "a primary counts as lost after [failover] failure_timeout: pgherd config set failover.failure_timeout=2s",
    ),
    ("loop_wait", "agents act at once; how often nodes tell each other how they are is [failover] heartbeat"),
    (
        "retry_timeout",
        "the store and PostgreSQL are asked again until they answer; nothing is demoted for it",
    ),
    ("pause", "pgherd pause, or POST /api/v1/pause {\"seconds\": N}: a pause ends by itself"),
    ("standby_cluster", "pgherd demote and pgherd promote"),
    ("slots", "slots are declared in [slots]: pgherd config edit"),
    ("ignore_slots", "slots that are not declared are left alone as it is"),
    ("master_start_timeout", "a primary that does not come back is replaced at once"),
    ("primary_start_timeout", "a primary that does not come back is replaced at once"),
    ("failsafe_mode", "there is none, and none is needed: the primary's lease is held by its standbys"),
    ("member_slots_ttl", "a member's slot goes with the member"),
];

pub async fn patch(State(view): State<View>, Extension(caller): Extension<Caller>, body: Bytes) -> Response {
    if let Err(denied) = caller.may(UserRole::Admin) {
        return denied.into_response();
    }
    let document = match serde_json::from_slice(&body) {
        Ok(Value::Object(document)) => document,
        _ => return error(StatusCode::BAD_REQUEST, "the body must be a JSON object"),
    };
    let report = match view.configuration() {
        Ok(report) => report,
        Err(refusal) => return refused(&refusal),
    };
    let set = |key: &str| report.values.iter().any(|value| value.key == key && value.of_cluster);
    let text = edits(&document).and_then(|edits| {
        // To take away what is not there is no mistake in a merge.
        let there = |edit: &Edit| if let Edit::Unset { key } = edit { set(key) } else { true };
        edited(&report.text, &edits.into_iter().filter(there).collect::<Vec<_>>())
    });
    let new = match text {
        Ok(text) => NewConfig { text, number: report.number, dry_run: false },
        Err(why) => return error(StatusCode::UNPROCESSABLE_ENTITY, &why),
    };
    match view.configure(new, author(&caller)).await {
        Ok(_) => documents::config(State(view), Extension(caller)).await,
        Err(refusal) => refused(&refusal),
    }
}

/// What is set for all nodes, as `/config` has it.
pub(super) fn postgresql(report: &ConfigReport) -> Value {
    let mut parameters = Map::new();
    let mut postgresql = Map::new();
    for value in report.values.iter().filter(|value| value.of_cluster) {
        let written = value.value.as_deref().and_then(|text| text.parse::<toml_edit::Value>().ok());
        match (value.key.strip_prefix("postgres.parameters."), written) {
            (Some(name), Some(toml_edit::Value::String(text))) => {
                parameters.insert(name.to_owned(), json!(text.value()));
            }
            (None, Some(toml_edit::Value::Array(lines))) if value.key == "postgres.hba" => {
                let lines: Vec<&str> = lines.iter().filter_map(toml_edit::Value::as_str).collect();
                postgresql.insert("pg_hba".to_owned(), json!(lines));
            }
            _ => {}
        }
    }
    postgresql.insert("parameters".to_owned(), Value::Object(parameters));
    Value::Object(postgresql)
}

fn edits(document: &Map<String, Value>) -> Result<Vec<Edit>, String> {
    let mut edits = Vec::new();
    for (name, value) in document {
        match name.as_str() {
            "postgresql" => of_postgresql(value, &mut edits)?,
            "maximum_lag_on_failover" => edits.push(plain("sync.maximum_lag_on_failover", value)?),
            "synchronous_node_count" => edits.push(plain("sync.standbys", value)?),
            "synchronous_mode_strict" => edits.push(match truth(value) {
                Some(true) => Edit::set("sync.on_last_standby_lost", "\"block\""),
                Some(false) => Edit::set("sync.on_last_standby_lost", "\"degrade\""),
                None => Edit::unset("sync.on_last_standby_lost"),
            }),
            "synchronous_mode" => match (value.as_str(), truth(value)) {
                (Some("quorum"), _) => edits.push(Edit::set("sync.method", "\"quorum\"")),
                (_, Some(true)) => edits.push(Edit::set("sync.method", "\"priority\"")),
                (_, Some(false)) => edits.push(Edit::set("sync.standbys", "0")),
                _ => edits.extend([Edit::unset("sync.method"), Edit::unset("sync.standbys")]),
            },
            other => return Err(absent(other)),
        }
    }
    Ok(edits)
}

fn of_postgresql(value: &Value, edits: &mut Vec<Edit>) -> Result<(), String> {
    let Value::Object(settings) = value else { return Err("postgresql must be an object".to_owned()) };
    for (name, value) in settings {
        match (name.as_str(), value) {
            ("parameters", Value::Object(parameters)) => {
                for (name, value) in parameters {
                    edits.push(plain(&format!("postgres.parameters.{name}"), value)?);
                }
            }
            ("pg_hba", Value::Null) => edits.push(Edit::unset("postgres.hba")),
            ("pg_hba", Value::Array(lines)) => {
                let lines: Option<Vec<&str>> = lines.iter().map(Value::as_str).collect();
                let lines = lines.ok_or("postgresql.pg_hba must be a list of lines")?;
                edits.push(Edit::set_lines("postgres.hba", lines.into_iter()));
            }
            // As it always is.
            ("use_pg_rewind" | "use_slots", value) if truth(value) == Some(true) => {}
            (other, _) => {
                return Err(format!("postgresql.{other} has no counterpart here; nothing was changed"));
            }
        }
    }
    Ok(())
}

/// `null` takes it away.
fn plain(key: &str, value: &Value) -> Result<Edit, String> {
    match value {
        Value::Null => Ok(Edit::unset(key)),
        Value::Bool(_) | Value::Number(_) => Ok(Edit::set(key, &value.to_string())),
        // A text stays one: Patroni's users write numbers in quotes, too, which parameters take and settings do not.
        Value::String(text) if key.starts_with("postgres.parameters.") || text.parse::<i64>().is_err() => {
            Ok(Edit::Set { key: key.to_owned(), value: toml_edit::Value::from(text.as_str()) })
        }
        Value::String(text) => Ok(Edit::set(key, text)),
        _ => Err(format!("{key} takes a text, a number, true or false")),
    }
}

fn truth(value: &Value) -> Option<bool> {
    match value {
        Value::Bool(truth) => Some(*truth),
        Value::String(text) => match text.as_str() {
            "on" | "true" | "yes" => Some(true),
            "off" | "false" | "no" => Some(false),
            _ => None,
        },
        _ => None,
    }
}

fn absent(name: &str) -> String {
    let instead = ABSENT.iter().find(|(other, _)| *other == name).map(|(_, instead)| *instead);
    let instead = instead.unwrap_or("see pgherd config show --all for what can be set");
    format!("{name} has no counterpart here, and nothing was changed: {instead}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text_after(document: Value) -> Result<String, String> {
        let Value::Object(document) = document else { panic!("no object") };
        edited("", &edits(&document)?)
    }

    #[test]
    fn patronis_document_becomes_settings() {
        let text = text_after(json!({
            "maximum_lag_on_failover": 0,
            "synchronous_node_count": "2",
            "synchronous_mode_strict": true,
            "postgresql": {
                "use_pg_rewind": true,
                "pg_hba": ["local all all peer"],
                "parameters": { "max_connections": 200, "work_mem": "64MB", "jit": false, "max_wal_senders": "12" },
            },
        }));
        let expected =
            "[sync]\nmaximum_lag_on_failover = 0\nstandbys = 2\non_last_standby_lost = \"block\"\n";
        let text = text.unwrap();
        for line in expected.lines().chain([
            "max_wal_senders = \"12\"",
            "jit = \"false\"",
            "max_connections = 200",
            "hba = [\"local all all peer\"]",
        ]) {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn what_has_no_meaning_is_refused_by_name() {
        for (document, words) in [
            (json!({ "ttl": 30 }), "failure_timeout"),
            (json!({ "pause": true }), "pgherd pause"),
            (json!({ "nonsense": 1 }), "nonsense has no counterpart"),
            (json!({ "postgresql": { "bin_dir": "/x" } }), "postgresql.bin_dir"),
            (json!({ "postgresql": { "parameters": { "a": [1] } } }), "takes a text"),
        ] {
            let error = text_after(document.clone()).unwrap_err();
            assert!(error.contains(words), "{document}: {error}");
        }
    }
}
