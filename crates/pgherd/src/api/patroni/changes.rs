//! Patroni's changes, each written down as a request of pgherd's and waited for where Patroni waits.
//!
//! The gate (`access`) has let nobody through who may not change anything; what may lose commits needs more.

use std::time::Duration;

use axum::Extension;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use brain::{Ask, NodeName, Stage};
use serde_json::{Map, Value};
use tokio::time::Instant;

use super::{Told, duration, words};
use crate::agent::{Command, Refusal};
use crate::api::access::Caller;
use crate::api::change::needed;
use crate::api::report::{NodeReport, Role};
use crate::api::routes::View;

/// As long as Patroni with its default `loop_wait` waits for the end of a switchover.
const SWITCHOVER_WAIT: Duration = Duration::from_secs(20);

/// A stop with its checkpoint, a start, and the way back to the stream or into service, on a server of usual size. Patroni
/// waits without an end; the request goes on when this does not suffice.
const RESTART_WAIT: Duration = Duration::from_secs(60);

/// How often the request is looked at: a person waits.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// A code and a sentence, as Patroni answers changes.
type Answer = (StatusCode, String);

fn plain(code: StatusCode, text: impl Into<String>) -> Answer {
    (code, text.into())
}

fn answer(result: Result<Answer, Answer>) -> Response {
    result.unwrap_or_else(|refused| refused).into_response()
}

pub async fn switchover(
    State(view): State<View>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    answer(hand_over(&view, &caller, &headers, &body, Handover::Switchover).await)
}

pub async fn failover(
    State(view): State<View>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    answer(hand_over(&view, &caller, &headers, &body, Handover::Failover).await)
}

/// Ends a switchover that waits for its time.
pub async fn unschedule(State(view): State<View>) -> Response {
    let result = async {
        let scheduled = |ask: &Ask| matches!(ask, Ask::Switchover { at: Some(_), .. });
        let request = view.requests().into_iter().find(|r| scheduled(&r.ask) && r.stage == Stage::Waiting);
        let request = request.ok_or_else(|| plain(StatusCode::NOT_FOUND, "no switchover is scheduled"))?;
        match view.command(Command::Cancel(request.id)).await {
            Ok(_) => Ok(plain(StatusCode::OK, "scheduled switchover deleted")),
            Err(refusal) => Err(plain(StatusCode::CONFLICT, refusal.to_string())),
        }
    };
    answer(result.await)
}

pub async fn reload(State(view): State<View>) -> Response {
    let result = async {
        let node = NodeName(view.status().from);
        submit(&view, Ask::Reload { node, after: None }, StatusCode::SERVICE_UNAVAILABLE).await?;
        Ok(plain(StatusCode::ACCEPTED, "reload scheduled"))
    };
    answer(result.await)
}

pub async fn reinitialize(State(view): State<View>, headers: HeaderMap, body: Bytes) -> Response {
    let result = async {
        let body = object(&headers, &body, Body::Optional)?;
        if body.get("from_leader").is_some_and(is_true) {
            let text = "from_leader: pgherd chooses whom a node is copied from: a replica where one is fit (tag clonefrom), \
                        else the primary";
            return Err(plain(StatusCode::NOT_IMPLEMENTED, text));
        }
        let node = NodeName(view.status().from);
        submit(&view, Ask::Reinit { node }, StatusCode::SERVICE_UNAVAILABLE).await?;
        Ok(plain(StatusCode::OK, "reinitialize started"))
    };
    answer(result.await)
}

pub async fn restart(State(view): State<View>, headers: HeaderMap, body: Bytes) -> Response {
    let result = async {
        let body = object(&headers, &body, Body::Optional)?;
        let told = Told::by(&view);
        let wait = restart_conditions(&told, &body)?;
        let ask = Ask::Restart { node: NodeName(told.report.from), force: false };
        let id = submit(&view, ask, StatusCode::SERVICE_UNAVAILABLE).await?;
        match end_of(&view, id, Instant::now() + wait).await {
            Some((Stage::Done, _)) => Ok(plain(StatusCode::OK, "restarted successfully")),
            Some((_, note)) => Err(plain(StatusCode::SERVICE_UNAVAILABLE, format!("restart failed: {note}"))),
            None => Err(unknown("restart", id)),
        }
    };
    answer(result.await)
}

/// No restart waits for a time here, so there is none to end.
pub async fn no_restart_scheduled() -> Response {
    plain(StatusCode::NOT_FOUND, "no restarts are scheduled").into_response()
}

/// The conditions of a restart hold; answers with how long it is waited for.
fn restart_conditions(told: &Told, body: &Map<String, Value>) -> Result<Duration, Answer> {
    let bad = |text: &str| Err(plain(StatusCode::BAD_REQUEST, text));
    let unmet = || Err(plain(StatusCode::SERVICE_UNAVAILABLE, "restart conditions are not satisfied"));
    let mut wait = RESTART_WAIT;
    for (name, value) in body {
        match name.as_str() {
            "schedule" => {
                let text = "restarts are not scheduled; ask for one when it is to be, or schedule a switchover first";
                return Err(plain(StatusCode::NOT_IMPLEMENTED, text));
            }
            "role" => match value.as_str() {
                Some(role @ ("primary" | "standby_leader" | "replica")) => {
                    if told.row().map(words::role) != Some(role) {
                        return unmet();
                    }
                }
                _ => return bad("PostgreSQL role should be either primary, standby_leader, or replica"),
            },
            "postgres_version" => {
                let Some(below) = value.as_str().and_then(version_number) else {
                    return bad("postgres_version should be like 17.2");
                };
                let running = told.own.facts.as_ref().map(|facts| facts.about.version);
                if running.is_none_or(|running| running >= below) {
                    return unmet();
                }
            }
            "timeout" => match duration::seconds(value) {
                Some(timeout) => wait = timeout,
                None => return bad("Timeout should be a positive number of seconds"),
            },
            "restart_pending" => {
                let pending = told.row().is_some_and(|row| !row.condition.pending.is_empty());
                if is_true(value) && !pending {
                    return unmet();
                }
            }
            other => return bad(&format!("Unknown filter for the scheduled restart: {other}")),
        }
    }
    Ok(wait)
}

/// `server_version_num` of `17.2`.
fn version_number(text: &str) -> Option<u32> {
    let (major, minor) = text.split_once('.')?;
    major.parse::<u32>().ok()?.checked_mul(10_000)?.checked_add(minor.parse().ok()?)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Handover {
    Switchover,
    Failover,
}

async fn hand_over(
    view: &View,
    caller: &Caller,
    headers: &HeaderMap,
    body: &[u8],
    asked: Handover,
) -> Result<Answer, Answer> {
    let body = object(headers, body, Body::Required)?;
    let bad = |text: &str| Err(plain(StatusCode::BAD_REQUEST, text));
    let text = |name: &str| body.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
    let (leader, candidate) = (text("leader"), text("candidate").or(text("member")));
    let scheduled = body.get("scheduled_at").filter(|value| !value.is_null());
    match (asked, leader, candidate) {
        (Handover::Failover, _, None) => {
            return bad("Failover could be performed only to a specific candidate");
        }
        (Handover::Switchover, None, _) => {
            return bad("Switchover could be performed only from a specific leader");
        }
        _ if leader.is_some() && leader == candidate => {
            return bad("Switchover target and source are the same");
        }
        _ => {}
    }
    let at = match scheduled {
        Some(_) if asked == Handover::Failover => return bad("Failover can't be scheduled"),
        Some(value) => Some(moment(value)?),
        None => None,
    };
    let report = view.status();
    let primary = report.primary.clone();
    if leader.is_some() && leader != primary.as_deref() {
        return Err(plain(StatusCode::PRECONDITION_FAILED, "leader name does not match"));
    }
    if let Some(candidate) = candidate {
        let row = report.nodes.iter().find(|row| row.name == candidate && row.role != Role::Witness);
        let row = row.ok_or_else(|| plain(StatusCode::PRECONDITION_FAILED, "candidate does not exist"))?;
        may_lead(row, primary.is_some() && at.is_none())?;
    }
    let to = candidate.map(NodeName::from);
    // While a primary is open a failover is a switchover: nothing need be lost.
    let ask = match to {
        Some(to) if asked == Handover::Failover && primary.is_none() => Ask::Failover { to },
        to => Ask::Switchover { to, at, force: false },
    };
    caller.may(needed(&ask)).map_err(|denied| plain(StatusCode::FORBIDDEN, denied.to_string()))?;
    let (name, verb) = match asked {
        Handover::Failover => ("Failover", "failed"),
        Handover::Switchover => ("Switchover", "switched"),
    };
    let id = submit(view, ask, StatusCode::PRECONDITION_FAILED).await?;
    if at.is_some() {
        return Ok(plain(StatusCode::ACCEPTED, "Switchover scheduled"));
    }
    let deadline = Instant::now() + SWITCHOVER_WAIT;
    match end_of(view, id, deadline).await {
        Some((Stage::Done, _)) => {}
        Some((_, note)) => {
            return Err(plain(StatusCode::SERVICE_UNAVAILABLE, format!("{name} failed: {note}")));
        }
        None => return Err(unknown(name, id)),
    }
    // The end is in the store a moment before the new primary is heard of here.
    while Instant::now() < deadline {
        match view.status().primary.filter(|now| Some(now) != primary.as_ref()) {
            Some(now) if candidate.is_none_or(|candidate| candidate == now) => {
                return Ok(plain(StatusCode::OK, format!("Successfully {verb} over to \"{now}\"")));
            }
            Some(now) => {
                let (verb, wanted) = (capital(verb), candidate.unwrap_or_default());
                return Ok(plain(
                    StatusCode::OK,
                    format!("{verb} over to \"{now}\" instead of \"{wanted}\""),
                ));
            }
            None => tokio::time::sleep(LOOK_AGAIN).await,
        }
    }
    Err(unknown(name, id))
}

/// What would end the request at once is said before it is written down.
fn may_lead(candidate: &NodeReport, must_follow: bool) -> Result<(), Answer> {
    let reason = match candidate {
        row if row.tags.nofailover => "its tag nofailover says that it never becomes primary",
        row if must_follow && !row.healthy => "it does not stream",
        _ => return Ok(()),
    };
    let text = format!("no good candidates have been found: {}: {reason}", candidate.name);
    Err(plain(StatusCode::PRECONDITION_FAILED, text))
}

fn capital(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

/// The second of the wall clock that `scheduled_at` names.
fn moment(value: &Value) -> Result<u64, Answer> {
    let text = value.as_str().unwrap_or_default();
    if let Ok(at) = text.parse::<jiff::Timestamp>() {
        return match u64::try_from(at.as_second()) {
            Ok(second) if at > crate::clock::wall() => Ok(second),
            _ => Err(plain(StatusCode::UNPROCESSABLE_ENTITY, "Cannot schedule switchover in the past")),
        };
    }
    if text.parse::<jiff::civil::DateTime>().is_ok() {
        let text = "Timezone information is mandatory for the scheduled switchover";
        return Err(plain(StatusCode::BAD_REQUEST, text));
    }
    let text = "Unable to parse scheduled timestamp. It should be in an unambiguous format, e.g. ISO 8601";
    Err(plain(StatusCode::UNPROCESSABLE_ENTITY, text))
}

/// Writes it down; `precondition` is the code for what can not be done, or not now.
async fn submit(view: &View, ask: Ask, precondition: StatusCode) -> Result<u64, Answer> {
    match view.command(Command::Ask(ask)).await {
        Ok(Some(id)) => Ok(id),
        Ok(None) => Err(plain(StatusCode::SERVICE_UNAVAILABLE, "the request has no number to follow it by")),
        Err(refusal @ Refusal::Unavailable(_)) => {
            Err(plain(StatusCode::SERVICE_UNAVAILABLE, refusal.to_string()))
        }
        Err(refusal) => Err(plain(precondition, refusal.to_string())),
    }
}

/// How the request ended, and its last word; `None` when it has not by `deadline`.
async fn end_of(view: &View, id: u64, deadline: Instant) -> Option<(Stage, String)> {
    loop {
        let ended = view.requests().into_iter().find(|request| request.id == id && request.stage.is_final());
        if let Some(request) = ended {
            return Some((request.stage, request.note));
        }
        if Instant::now() >= deadline {
            return None;
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

fn unknown(what: &str, id: u64) -> Answer {
    let text =
        format!("{what} status unknown; it goes on: pgherd requests {id}, or GET /api/v1/requests/{id}");
    plain(StatusCode::SERVICE_UNAVAILABLE, text)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Body {
    Required,
    Optional,
}

/// The body as an object; Patroni asks for no type of it, and so do its clients send none.
fn object(headers: &HeaderMap, body: &[u8], need: Body) -> Result<Map<String, Value>, Answer> {
    if body.is_empty() && need == Body::Optional {
        return Ok(Map::new());
    }
    if !headers.contains_key(CONTENT_LENGTH) && !headers.contains_key(TRANSFER_ENCODING) {
        return Err(plain(StatusCode::LENGTH_REQUIRED, "the request has no Content-Length"));
    }
    match serde_json::from_slice(body) {
        Ok(Value::Object(map)) if !map.is_empty() || need == Body::Optional => Ok(map),
        Ok(_) => Err(plain(StatusCode::BAD_REQUEST, "the body must be a JSON object that says something")),
        Err(error) => Err(plain(StatusCode::BAD_REQUEST, format!("the body is no JSON: {error}"))),
    }
}

/// `true`, or a word that Patroni takes for it.
fn is_true(value: &Value) -> bool {
    let yes = |text: &str| ["true", "on", "yes", "1"].contains(&text.to_ascii_lowercase().as_str());
    value.as_bool().unwrap_or(false) || value.as_str().is_some_and(yes) || value.as_i64() == Some(1)
}
