//! The routes against a view of our own.

use std::sync::{Arc, Mutex};

use tokio::net::TcpListener;
use tokio::sync::oneshot;

use brain::{Ask, Stage};

use super::openapi::conformance::{Answer, check};
use super::*;

mod streams;

/// A view that says what the test told it.
pub(super) struct Told {
    report: Mutex<StatusReport>,
    pub own: OwnReport,
    pub history: Vec<PastTimeline>,
    /// What was asked for, each of it done at once.
    asked: Mutex<Vec<brain::Request>>,
    /// Texts that were set for all nodes, and by whom.
    pub configured: Mutex<Vec<(String, String)>>,
}

impl Told {
    pub fn new(report: StatusReport) -> Told {
        let (own, history) = (OwnReport::default(), Vec::new());
        Told {
            report: Mutex::new(report),
            own,
            history,
            asked: Mutex::default(),
            configured: Mutex::default(),
        }
    }

    pub fn report(&self) -> StatusReport {
        self.report.lock().unwrap().clone()
    }

    /// Whoever is asked to hand over does.
    fn obey(&self, ask: Ask) -> Result<Option<u64>, Refusal> {
        let mut report = self.report.lock().unwrap();
        let own = report.from.clone();
        match &ask {
            Ask::Reinit { .. } if report.primary == Some(own.clone()) => {
                return Err(Refusal::Conflict(format!("{own} is the primary")));
            }
            Ask::Switchover { to, at: None, .. } => {
                let other = report
                    .nodes
                    .iter()
                    .map(|node| &node.name)
                    .find(|name| Some(*name) != report.primary.as_ref());
                report.primary = to.as_ref().map(|to| to.0.clone()).or(other.cloned());
            }
            _ => {}
        }
        let mut asked = self.asked.lock().unwrap();
        let id = 8 + asked.len() as u64;
        let waits = matches!(ask, Ask::Switchover { at: Some(_), .. });
        let (stage, note) = (if waits { Stage::Waiting } else { Stage::Done }, String::new());
        asked.push(brain::Request { id, ask, stage, term: brain::Term(2), asked_at: 1_750_000_000, note });
        Ok(Some(id))
    }
}

impl Told {
    /// What waits can be ended.
    fn cancel(&self, id: u64) -> bool {
        let mut asked = self.asked.lock().unwrap();
        let waiting = asked.iter_mut().find(|request| request.id == id && request.stage == Stage::Waiting);
        waiting.map(|request| request.stage = Stage::Failed).is_some()
    }
}

impl ClusterView for Told {
    fn metrics(&self) -> BoxFuture<'_, String> {
        Box::pin(async { "pgherd_proxy_sessions 1\n".to_owned() })
    }

    fn own(&self) -> OwnReport {
        self.own.clone()
    }

    fn history(&self) -> Vec<PastTimeline> {
        self.history.clone()
    }

    fn failovers(&self) -> Result<Vec<FailoverReport>, Refusal> {
        Ok(Vec::new())
    }

    fn status(&self) -> StatusReport {
        self.report()
    }

    fn events(&self, after: u64, limit: usize) -> Vec<EventRecord> {
        let event = |id| EventRecord {
            id,
            at: "2026-01-02T03:04:05Z".into(),
            node: "n1".into(),
            term: 2,
            rule: "takeover".into(),
            what: format!("event {id}"),
            why: String::new(),
        };
        (after + 1..=5_000).take(limit).map(event).collect()
    }

    fn events_of_all(&self, after: &BTreeMap<String, u64>, limit: usize) -> Vec<EventRecord> {
        let after = after.get("n1").copied().unwrap_or(4_990);
        self.events(after, limit)
    }

    fn members(&self) -> MembersReport {
        MembersReport {
            cluster: "demo".into(),
            from: "n1".into(),
            members: Vec::new(),
            removed: vec!["n9".into()],
            store_trouble: None,
        }
    }

    fn configuration(&self) -> Result<ConfigReport, Refusal> {
        let text = "[postgres.parameters]\nwork_mem = \"64MB\"\n".to_owned();
        let value = |key: &str, value: &str, of_cluster| ConfigValue {
            key: key.to_owned(),
            value: Some(value.to_owned()),
            of_cluster,
        };
        let values =
            vec![value("sync.standbys", "1", false), value("postgres.parameters.work_mem", "\"64MB\"", true)];
        let past = PastConfig {
            number: 2,
            at: "2026-01-02T03:04:05Z".into(),
            by: "ann".into(),
            text: String::new(),
        };
        Ok(ConfigReport { number: 3, text, values, previous: vec![past], ..ConfigReport::default() })
    }

    fn configure(&self, new: NewConfig, by: String) -> BoxFuture<'_, Result<ConfigChange, Refusal>> {
        let answer = match new.number {
            3 if !new.dry_run => {
                self.configured.lock().unwrap().push((new.text, by));
                Ok(ConfigChange { requests: vec![8], ..ConfigChange::default() })
            }
            3 => Ok(ConfigChange::default()),
            _ => Err(Refusal::Conflict("the cluster's configuration is number 3 by now".into())),
        };
        Box::pin(async move { answer })
    }

    fn examine(&self) -> BoxFuture<'_, DoctorReport> {
        let (cluster, node) = ("demo".to_owned(), self.report().from);
        Box::pin(async { DoctorReport { cluster, node, ..DoctorReport::default() } })
    }

    fn change_members(&self, change: MemberChange) -> BoxFuture<'_, Result<u64, Refusal>> {
        let answer = match change {
            MemberChange::Remove { name } if name == "no" => {
                Err(Refusal::Conflict("no is the primary".into()))
            }
            _ => Ok(7),
        };
        Box::pin(async move { answer })
    }

    fn requests(&self) -> Vec<RequestReport> {
        let request = brain::Request {
            id: 7,
            ask: Ask::Switchover { to: Some("n2".into()), at: None, force: false },
            stage: Stage::Done,
            term: brain::Term(2),
            asked_at: 1_750_000_000,
            note: "n2 is the primary of term 3".into(),
        };
        let asked = self.asked.lock().unwrap();
        std::iter::once(&request).chain(asked.iter()).map(RequestReport::from).collect()
    }

    fn command(&self, command: Command) -> BoxFuture<'_, Result<Option<u64>, Refusal>> {
        let answer = match command {
            Command::Ask(ask) => self.obey(ask),
            Command::Pause(_) | Command::Resume => Ok(None),
            Command::Cancel(id) if self.cancel(id) => Ok(Some(id)),
            Command::Cancel(id) => Err(Refusal::Conflict(format!("request {id} has ended already"))),
        };
        Box::pin(async move { answer })
    }

    fn explain(&self, node: Option<&str>) -> Vec<Explanation> {
        let names: Vec<String> = self.status().nodes.into_iter().map(|node| node.name).collect();
        let asked = names.into_iter().filter(|name| node.is_none_or(|node| node == name));
        asked
            .map(|node| Explanation {
                node,
                takes_over: Some("n2".into()),
                rule: "takeover".into(),
                why: vec!["n2 has the longest log".into()],
                blockers: Vec::new(),
            })
            .collect()
    }
}

pub(super) fn node(name: &str, role: Role) -> NodeReport {
    NodeReport {
        name: name.into(),
        role,
        state: "running".into(),
        timeline: Some(1),
        lsn: Some("0/4029C38".parse().unwrap()),
        lag_bytes: Some(0),
        sync: role == Role::Replica,
        healthy: true,
        last_contact_ms: None,
        postgres: Some("127.0.0.1:5432".into()),
        tags: brain::Tags::default(),
        upstream: None,
        upstream_note: String::new(),
        paused: false,
        receiver_note: String::new(),
        rule: String::new(),
        why: Vec::new(),
        condition: brain::Condition::default(),
        slots: SlotsReport::default(),
        fencer: None,
        replay_lsn: None,
        quarantined: false,
        configuration: 0,
        doors: None,
    }
}

pub(super) fn report(from: &str) -> StatusReport {
    StatusReport {
        cluster: "demo".into(),
        from: from.into(),
        term: 2,
        primary: Some("n1".into()),
        sync: SyncReport { members: vec!["n2".into()], k: 1, mode: SyncMode::Quorum },
        nodes: vec![node("n1", Role::Primary), node("n2", Role::Replica)],
        reason: String::new(),
        paused_until: None,
        requests: Vec::new(),
        origin: None,
        configuration: 0,
    }
}

fn with_server(report: StatusReport, ask: impl FnOnce(&str) + Send + 'static) {
    with_view(Told::new(report), ask);
}

/// The same of a view.
pub(super) fn with_view(view: impl Into<Arc<Told>>, ask: impl FnOnce(&str) + Send + 'static) {
    with_door(view, Door::of_this_machine(), ask);
}

/// Serves `view`, runs `ask` with the base URL on a thread of its own, and sees the server end in good order.
fn with_door(view: impl Into<Arc<Told>>, door: Door, ask: impl FnOnce(&str) + Send + 'static) {
    let view = view.into();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let (stop, stopped) = oneshot::channel::<()>();
        let server = tokio::spawn(serve(listener, door, view, async {
            stopped.await.ok();
        }));
        tokio::task::spawn_blocking(move || ask(&base)).await.unwrap();
        stop.send(()).unwrap();
        server.await.unwrap().unwrap();
    });
}

/// An agent that keeps no connection, so that the server can end at once. What it is answered must be in the OpenAPI document.
fn agent() -> ureq::Agent {
    ureq::Agent::config_builder()
        .middleware(described)
        .http_status_as_error(false)
        .max_idle_connections(0)
        .allow_non_standard_methods(true)
        .build()
        .into()
}

/// Passes an answer on if the document has it.
fn described(
    request: ureq::http::Request<ureq::SendBody>,
    next: ureq::middleware::MiddlewareNext,
) -> Result<ureq::http::Response<ureq::Body>, ureq::Error> {
    let (method, path) = (request.method().to_string(), request.uri().path().to_owned());
    let (head, mut body) = next.handle(request)?.into_parts();
    let body = body.read_to_vec()?;
    let media = head.headers.get("content-type").map_or("", |media| media.to_str().unwrap());
    let answer = Answer { method: &method, path: &path, code: head.status.as_u16(), media, body: &body };
    if let Err(error) = check(&answer) {
        panic!("{error}");
    }
    Ok(ureq::http::Response::from_parts(head, ureq::Body::builder().data(body)))
}

pub(super) fn get(url: String) -> (u16, serde_json::Value) {
    let mut answer = agent().get(&url).call().unwrap();
    (answer.status().as_u16(), answer.body_mut().read_json().unwrap())
}

/// An answer as it came.
pub(super) struct Reply {
    pub code: u16,
    pub body: String,
}

/// Any method; a body without a type, as `curl -d` sends it or less.
pub(super) fn ask(method: &str, url: &str, body: Option<&str>) -> Reply {
    let request = ureq::http::Request::builder().method(method).uri(url);
    let answer = match body {
        Some(body) => agent().run(request.body(body.to_owned()).unwrap()),
        None => agent().run(request.body(()).unwrap()),
    };
    let mut answer = answer.unwrap();
    Reply { code: answer.status().as_u16(), body: answer.body_mut().read_to_string().unwrap() }
}

#[test]
fn status_has_the_names_of_the_contract() {
    with_server(report("n1"), |base| {
        let (code, status) = get(format!("{base}/api/v1/status"));
        assert_eq!(code, 200);
        assert_eq!(status["cluster"], "demo");
        assert_eq!(status["term"], 2);
        assert_eq!(status["primary"], "n1");
        assert_eq!(status["sync"], serde_json::json!({ "members": ["n2"], "k": 1, "mode": "quorum" }));
        let first = &status["nodes"][0];
        for name in ["name", "role", "state", "timeline", "lsn", "lag_bytes", "sync", "healthy"] {
            assert!(!first[name].is_null(), "{name} is missing in {first}");
        }
        assert_eq!(first["lsn"], "0/4029C38");
        assert_eq!(first["role"], "primary");
    });
}

#[test]
fn events_come_in_pages_with_a_limit() {
    with_server(report("n1"), |base| {
        let count = |query: &str| {
            get(format!("{base}/api/v1/events{query}")).1.as_array().map(Vec::len).unwrap_or_default()
        };
        assert_eq!(count(""), 100);
        assert_eq!(count("?limit=7"), 7);
        assert_eq!(count("?limit=100000"), EVENTS_PER_ANSWER_MAX);
        assert_eq!(count("?after=4998"), 2);
        assert_eq!(get(format!("{base}/api/v1/events?after=41&limit=1")).1[0]["id"], 42);
    });
}

#[test]
fn the_clusters_configuration_is_shown_and_changed() {
    with_server(report("n1"), |base| {
        let url = format!("{base}/api/v1/config");
        assert_eq!(get(url.clone()).1["number"], 3);
        assert_eq!(get(format!("{url}/2")).1["by"], "ann");
        assert_eq!(get(format!("{url}/1")).0, 404);
        let post = |body: serde_json::Value| {
            let answer = agent().post(&url).send_json(body).unwrap();
            let code = answer.status().as_u16();
            (code, answer.into_body().read_json::<serde_json::Value>().unwrap())
        };
        let (code, change) = post(serde_json::json!({ "text": "", "number": 3 }));
        assert_eq!((code, &change["requests"]), (202, &serde_json::json!([8])));
        assert_eq!(post(serde_json::json!({ "text": "", "number": 3, "dry_run": true })).0, 200);
        assert_eq!(post(serde_json::json!({ "text": "", "number": 2 })).0, 409);
        assert_eq!(post(serde_json::json!({ "text": "", "nombre": 2 })).0, 400);
    });
}

#[test]
fn a_node_examines_itself_and_tells_its_clock() {
    with_server(report("n1"), |base| {
        let (code, report) = get(format!("{base}/api/v1/doctor"));
        assert_eq!((code, &report["node"]), (200, &serde_json::json!("n1")));
        for name in ["cluster", "at", "version", "limits", "findings", "reached"] {
            assert!(!report[name].is_null(), "{name} is missing in {report}");
        }
        let before = crate::clock::wall().as_microsecond();
        let told = get(format!("{base}/api/v1/clock")).1["wall_us"].as_i64().unwrap();
        assert!((before..=crate::clock::wall().as_microsecond()).contains(&told));
    });
}

#[test]
fn the_openapi_document_is_told() {
    with_server(report("n1"), |base| {
        let (code, document) = get(format!("{base}/api/v1/openapi.json"));
        assert_eq!((code, &document["openapi"]), (200, &serde_json::json!("3.1.1")));
        assert!(document["paths"]["/api/v1/openapi.json"].is_object());
    });
}

#[test]
fn explain_knows_one_node_all_nodes_and_no_stranger() {
    with_server(report("n1"), |base| {
        assert_eq!(get(format!("{base}/api/v1/explain")).1.as_array().unwrap().len(), 2);
        assert_eq!(get(format!("{base}/api/v1/explain/n1")).1[0]["takes_over"], "n2");
        let (code, body) = get(format!("{base}/api/v1/explain/n9"));
        assert_eq!(code, 404);
        assert!(body["error"].as_str().unwrap().contains("n9"));
    });
}

#[test]
fn an_unknown_path_lists_the_known_ones() {
    with_server(report("n1"), |base| {
        let (code, body) = get(format!("{base}/nonsense"));
        assert_eq!(code, 404);
        assert_eq!(body["paths"].as_array().unwrap().len(), ROUTES.len());
    });
}

#[test]
fn members_are_listed_added_and_removed() {
    with_server(report("n1"), |base| {
        assert_eq!(get(format!("{base}/api/v1/members")).1["removed"][0], "n9");
        let agent = agent();
        let new = serde_json::json!({ "name": "n4", "peer": "h:1", "postgres": "h:2" });
        let mut answer = agent.post(format!("{base}/api/v1/members")).send_json(&new).unwrap();
        assert_eq!(answer.status(), 202);
        let accepted: Accepted = answer.body_mut().read_json().unwrap();
        assert_eq!(accepted.id, Some(7));
        let odd = serde_json::json!({ "name": "n4", "peer": "h:1", "colour": "blue" });
        assert!(
            agent.post(format!("{base}/api/v1/members")).send_json(&odd).unwrap().status().is_client_error()
        );
        assert_eq!(agent.delete(format!("{base}/api/v1/members/n2")).call().unwrap().status(), 202);
        let mut refused = agent.delete(format!("{base}/api/v1/members/no")).call().unwrap();
        assert_eq!(refused.status(), 409);
        let body: serde_json::Value = refused.body_mut().read_json().unwrap();
        assert_eq!(body["error"], "no is the primary");
    });
}

/// A change that an operator may ask for, one for admins, and how they end: code, challenge, error.
fn changes(base: &str, headers: &[(&str, &str)]) -> [(u16, bool, String); 2] {
    let agent = agent();
    let asks = [
        serde_json::json!({ "kind": "reload", "node": "n1" }),
        serde_json::json!({ "kind": "failover", "to": "n2" }),
    ];
    asks.map(|ask| {
        let mut request = agent.post(format!("{base}/api/v1/requests"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut answer = request.send_json(&ask).unwrap();
        let challenges = answer.headers().contains_key("www-authenticate");
        let body: serde_json::Value = answer.body_mut().read_json().unwrap();
        (answer.status().as_u16(), challenges, body["error"].as_str().unwrap_or_default().to_owned())
    })
}

#[test]
fn changes_are_for_users_of_the_role_and_for_nobodys_web_page() {
    use base64::Engine;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("users");
    for (name, role) in [("anna", access::UserRole::Operator), ("root", access::UserRole::Admin)] {
        let new = access::NewUser { name, role, password: b"correct horse", salt: [1; 16] };
        access::Users::add(&file, &new).unwrap();
    }
    let http = Http { listen: String::new(), port: 0, tls: None, users: Some(file), trusts_loopback: false };
    with_door(Told::new(report("n1")), Door::open(&http).unwrap(), |base| {
        let basic = |user: &str| {
            format!(
                "Basic {}",
                base64::engine::general_purpose::STANDARD.encode(format!("{user}:correct horse"))
            )
        };
        let (anna, root) = (basic("anna"), basic("root"));
        let codes =
            |headers: &[(&str, &str)]| changes(base, headers).map(|(code, challenges, _)| (code, challenges));
        assert_eq!(codes(&[]), [(401, true); 2]);
        assert_eq!(codes(&[("x-requested-with", "pgherd")]), [(401, false); 2]);
        assert_eq!(codes(&[("authorization", &anna)]), [(202, false), (403, false)]);
        assert_eq!(codes(&[("authorization", &root)]), [(202, false); 2]);
        assert_eq!(
            codes(&[("authorization", &root), ("origin", "http://elsewhere.example")]),
            [(403, false); 2]
        );
        assert_eq!(codes(&[("authorization", &root), ("origin", base)]), [(202, false); 2]);
        let [_, (_, _, error)] = changes(base, &[("authorization", &anna)]);
        assert_eq!(error, "this needs the role admin, the user has operator");
        assert_eq!(
            get(format!("{base}/api/v1/me")).1,
            serde_json::json!({ "user": null, "role": "viewer", "by": "nobody" })
        );
        assert_eq!(get(format!("{base}/api/v1/status")).0, 200, "reading is open");
    });
}

#[test]
fn with_a_certificate_it_is_https_and_the_command_line_trusts_that_certificate() {
    let dir = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    let (cert, key) = (dir.path().join("cert"), dir.path().join("key"));
    std::fs::write(&cert, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let tls = Some(crate::config::HttpTls { cert: cert.clone(), key });
    let http = Http { listen: String::new(), port: 0, tls, users: None, trusts_loopback: true };
    with_door(Told::new(report("n1")), Door::open(&http).unwrap(), move |base| {
        let clear = ureq::get(format!("{base}/api/v1/status")).call();
        assert!(clear.is_err(), "nothing is answered in clear");
        let url = base.replace("http:", "https:");
        let asked = |cert: Option<std::path::PathBuf>| crate::cli::told_status(&url, cert);
        assert_eq!(asked(Some(cert)).unwrap().term, 2);
        assert!(asked(None).unwrap_err().to_string().contains("certificate"));
    });
}
