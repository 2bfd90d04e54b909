//! Patroni's words for roles and states.

use serde_json::{Map, Value};

use crate::api::report::{NodeReport, Role};

/// Of a server, in Patroni's words and with the numbers that Patroni's metric has for them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    Initializing,
    CreatingReplica,
    Running,
    Starting,
    Restarting,
    Stopping,
    Stopped,
    /// It should run and gives no answer, or its node is not heard.
    Unknown,
}

impl State {
    pub fn word(self) -> &'static str {
        match self {
            State::Initializing => "initializing new cluster",
            State::CreatingReplica => "creating replica",
            State::Running => "running",
            State::Starting => "starting",
            State::Restarting => "restarting",
            State::Stopping => "stopping",
            State::Stopped => "stopped",
            State::Unknown => "unknown",
        }
    }

    /// `patroni/postgresql/misc.py`, `PostgresqlState`: the numbers never change there; -1 is no state of it.
    pub fn number(self) -> i32 {
        match self {
            State::Initializing => 0,
            State::CreatingReplica => 4,
            State::Running => 5,
            State::Starting => 6,
            State::Restarting => 9,
            State::Stopping => 11,
            State::Stopped => 12,
            State::Unknown => -1,
        }
    }
}

pub(super) fn state(row: &NodeReport) -> State {
    match (row.state.as_str(), row.role) {
        ("creating", _) => State::Initializing,
        ("cloning", _) => State::CreatingReplica,
        ("starting", _) => State::Starting,
        ("restarting", _) => State::Restarting,
        ("stopping", _) => State::Stopping,
        ("unreachable", _) => State::Unknown,
        // A rewind works on the files of a server that is down.
        ("stopped" | "empty" | "unusable" | "rewinding" | "voting", _) => State::Stopped,
        (_, Role::Primary | Role::Replica | Role::Head) => State::Running,
        _ => State::Unknown,
    }
}

/// Of `/patroni`.
pub(super) fn role(row: &NodeReport) -> &'static str {
    match row.role {
        Role::Head => "standby_leader",
        // Patroni knows no such nodes, nor one whose role cannot be told.
        Role::Witness | Role::Router | Role::Unknown => row.role.word(),
        Role::Primary | Role::Replica => row.role.word(),
    }
}

/// The tags that say something, as Patroni shows them.
pub(super) fn tags(tags: &brain::Tags) -> Map<String, Value> {
    let all = |tags: &brain::Tags| match serde_json::to_value(tags) {
        Ok(Value::Object(map)) => map,
        _ => Map::new(),
    };
    let defaults = all(&brain::Tags::default());
    all(tags).into_iter().filter(|(name, value)| defaults.get(name) != Some(value)).collect()
}

/// As `?tag_NAME=` is compared with: Patroni writes booleans in lower case.
pub(super) fn tag_text(tags: &brain::Tags, name: &str) -> Option<String> {
    match self::tags(tags).remove(name)? {
        Value::String(text) => Some(text),
        other => Some(other.to_string()),
    }
}
