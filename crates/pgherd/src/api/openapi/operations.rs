//! The table of operations: of each route and method what it takes and answers. Its words are the table of routes'.

use schemars::JsonSchema;

use super::operation::{Content, Operation, TEXT, delete, document, get, json, operation, patch, post, put};
use super::patroni::{
    Candidate, Cluster, Conditions, Copy, Dynamic, LagAndTags, LeftTimeline, NodeDocument, Readiness, Tagged,
};
use crate::api::access::{Caller, UserRole};
use crate::api::change::Pause;
use crate::api::doctor::ClockReport;
use crate::api::report::{Accepted, EventRecord, Explanation, MembersReport, RequestReport, StatusReport};
use crate::api::routes::{HEALTH, Page, ROUTES};
use crate::api::{ConfigChange, ConfigReport, FailoverReport, NewConfig, NewMember, PastConfig};
use crate::doctor::DoctorReport;

const HTML: Content = Content::Text("text/html; charset=utf-8");

/// Of each route, in the order of the table of routes.
pub fn operations() -> Vec<Operation> {
    let mut all = own();
    all.extend(health_checks());
    all.extend(of_patroni());
    all.extend(pages());
    all
}

/// What every refusal of a change is: not possible now, makes no sense, cannot be written down.
const REFUSED: &[u16] = &[409, 422, 503];

fn own() -> Vec<Operation> {
    let asks = "Failover, promote and demote need the role admin.";
    vec![
        get("/api/v1/status").answers(200, json::<StatusReport>()),
        get("/api/v1/events").asks::<Page>().answers(200, json::<Vec<EventRecord>>()),
        get("/api/v1/explain").answers(200, json::<Vec<Explanation>>()),
        get("/api/v1/explain/{node}").answers(200, json::<Vec<Explanation>>()).refuses(&[404]),
        get("/api/v1/doctor").answers(200, json::<DoctorReport>()),
        get("/api/v1/clock").answers(200, json::<ClockReport>()),
        get("/api/v1/failovers").answers(200, json::<Vec<FailoverReport>>()).refuses(&[503]),
        get("/api/v1/failovers/{term}")
            .numbered()
            .answers(200, json::<FailoverReport>())
            .refuses(&[404, 503]),
        get("/api/v1/members").answers(200, json::<MembersReport>()),
        change(post("/api/v1/members").takes::<NewMember>()).needs(UserRole::Admin).refuses(&[400]),
        change(delete("/api/v1/members/{name}")).needs(UserRole::Admin),
        get("/api/v1/requests").answers(200, json::<Vec<RequestReport>>()),
        change(post("/api/v1/requests").takes::<brain::Ask>()).note(asks).refuses(&[400]),
        get("/api/v1/requests/{id}").numbered().answers(200, json::<RequestReport>()).refuses(&[404]),
        change(delete("/api/v1/requests/{id}").numbered()),
        get("/api/v1/config").answers(200, json::<ConfigReport>()).refuses(REFUSED),
        post("/api/v1/config")
            .takes::<NewConfig>()
            .needs(UserRole::Admin)
            .note("200 for a dry run.")
            .answers(200, json::<ConfigChange>())
            .answers(202, json::<ConfigChange>())
            .refuses(&[400])
            .refuses(REFUSED),
        get("/api/v1/config/{number}")
            .numbered()
            .answers(200, json::<PastConfig>())
            .refuses(&[404])
            .refuses(REFUSED),
        change(post("/api/v1/pause").takes::<Pause>()).refuses(&[400]),
        change(delete("/api/v1/pause")),
        get("/api/v1/me").answers(200, json::<Caller>()),
        get("/api/v1/stream").note(STREAM).answers(200, Content::Text("text/event-stream")),
        get("/api/v1/openapi.json").answers(200, json::<OpenApi>()),
    ]
}

const STREAM: &str = "Messages `status` with a StatusReport, and `event` with an EventRecord whose id goes into Last-Event-ID of \
                      who comes back.";

/// A change that is written down, and followed by its number.
fn change(operation: Operation) -> Operation {
    operation.answers(202, json::<Accepted>()).refuses(REFUSED)
}

/// An OpenAPI document.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "a schema alone: the document is made once, by a test")]
struct OpenApi {
    /// The version of the specification.
    openapi: String,
    #[schemars(flatten)]
    rest: serde_json::Map<String, serde_json::Value>,
}

/// Every route with the methods of a health check is one.
fn health_checks() -> impl Iterator<Item = Operation> {
    let paths = ROUTES.iter().filter(|route| route.methods == HEALTH).map(|route| route.path);
    paths.flat_map(|path| HEALTH.split(", ").map(move |method| health_check(method, path)))
}

fn health_check(method: &'static str, path: &'static str) -> Operation {
    let leads = ["/", "/primary", "/read-write", "/master", "/leader", "/standby-leader", "/standby_leader"];
    let operation = operation(method, path);
    let of_check = match path {
        "/patroni" | "/liveness" => operation,
        "/readiness" => operation.asks::<Readiness>(),
        "/health" => operation.asks::<Tagged>(),
        path if leads.contains(&path) => operation,
        _ => operation.asks::<LagAndTags>(),
    };
    let codes: &[u16] = if path == "/patroni" { &[200] } else { &[200, 503] };
    let content = if method == "GET" { document::<NodeDocument>() } else { Content::Nothing };
    let of_check = codes.iter().fold(of_check, |operation, code| operation.answers(*code, content));
    if method == "GET" { of_check.refuses(&[400]) } else { of_check.answers(400, Content::Nothing) }
}

fn of_patroni() -> Vec<Operation> {
    let admin = "A failover while no primary is open needs the role admin.";
    vec![
        get("/cluster").answers(200, document::<Cluster>()),
        get("/history").answers(200, document::<Vec<LeftTimeline>>()),
        get("/config").answers(200, document::<Dynamic>()),
        patch("/config")
            .takes::<Dynamic>()
            .needs(UserRole::Admin)
            .answers(200, document::<Dynamic>())
            .refuses(&[400])
            .refuses(REFUSED),
        put("/config").refuses(&[501]),
        get("/failsafe").refuses(&[502]),
        post("/failsafe").refuses(&[502]),
        hand_over(post("/switchover").takes::<Candidate>()).tells(&[202, 422]),
        delete("/switchover").tells(&[200, 404, 409]),
        hand_over(post("/failover").takes::<Candidate>()).note(admin),
        post("/restart").may_take::<Conditions>().tells(&[200, 400, 411, 501, 503]),
        delete("/restart").tells(&[404]),
        post("/reload").tells(&[202, 503]),
        post("/reinitialize").may_take::<Copy>().tells(&[200, 400, 411, 501, 503]),
    ]
}

fn hand_over(operation: Operation) -> Operation {
    operation.tells(&[200, 400, 403, 411, 412, 503])
}

fn pages() -> Vec<Operation> {
    let file = Content::Text("text/javascript; charset=utf-8");
    let same = |operation: Operation| operation.answers(304, Content::Nothing);
    vec![
        get("/metrics").answers(200, Content::Text("text/plain; version=0.0.4")),
        same(get("/dashboard").answers(200, HTML)),
        same(get("/dashboard/").answers(200, HTML)),
        same(get("/dashboard/{file}").answers(200, file))
            .answers(200, Content::Text("text/css; charset=utf-8"))
            .answers(200, Content::Text("image/svg+xml"))
            .answers(404, TEXT),
    ]
}
