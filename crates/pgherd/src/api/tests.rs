//! The routes against a view of our own.

use std::sync::{Arc, Mutex};

use tokio::net::TcpListener;
use tokio::sync::oneshot;

use super::*;

mod streams;

/// A view that says what the test told it.
struct Told(Mutex<StatusReport>);

impl ClusterView for Told {
    fn metrics(&self) -> BoxFuture<'_, String> {
        Box::pin(async { "pgherd_proxy_sessions 1\n".to_owned() })
    }

    fn status(&self) -> StatusReport {
        self.0.lock().unwrap().clone()
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
            ask: brain::Ask::Switchover { to: Some("n2".into()), at: None, force: false },
            stage: brain::Stage::Done,
            term: brain::Term(2),
            asked_at: 1_750_000_000,
            note: "n2 is the primary of term 3".into(),
        };
        vec![RequestReport::from(&request)]
    }

    fn command(&self, command: Command) -> BoxFuture<'_, Result<Option<u64>, Refusal>> {
        let answer = match command {
            Command::Ask(_) => Ok(Some(8)),
            Command::Pause(_) | Command::Resume => Ok(None),
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

fn node(name: &str, role: Role) -> NodeReport {
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
        doors: None,
    }
}

fn report(from: &str) -> StatusReport {
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
    }
}

/// Serves `report`, runs `ask` with the base URL on a thread of its own, and sees the server end in good order.
fn with_server(report: StatusReport, ask: impl FnOnce(&str) + Send + 'static) {
    with_view(Arc::new(Told(Mutex::new(report))), ask);
}

fn with_view(view: Arc<Told>, ask: impl FnOnce(&str) + Send + 'static) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let (stop, stopped) = oneshot::channel::<()>();
        let server = tokio::spawn(serve(listener, view, async {
            stopped.await.ok();
        }));
        tokio::task::spawn_blocking(move || ask(&base)).await.unwrap();
        stop.send(()).unwrap();
        server.await.unwrap().unwrap();
    });
}

/// An agent that keeps no connection, so that the server can end at once.
fn get(url: String) -> (u16, serde_json::Value) {
    let agent: ureq::Agent =
        ureq::Agent::config_builder().http_status_as_error(false).max_idle_connections(0).build().into();
    let mut answer = agent.get(&url).call().unwrap();
    (answer.status().as_u16(), answer.body_mut().read_json().unwrap())
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
fn explain_knows_one_node_all_nodes_and_no_stranger() {
    with_server(report("n1"), |base| {
        assert_eq!(get(format!("{base}/api/v1/explain")).1.as_array().unwrap().len(), 2);
        assert_eq!(get(format!("{base}/api/v1/explain/n1")).1[0]["takes_over"], "n2");
        let (code, body) = get(format!("{base}/api/v1/explain/n9"));
        assert_eq!(code, 404);
        assert!(body["error"].as_str().unwrap().contains("n9"));
    });
}

fn codes(report: StatusReport, expected: [(&'static str, u16); 4]) {
    with_server(report, move |base| {
        for (path, code) in expected {
            assert_eq!(get(format!("{base}{path}")).0, code, "{path}");
        }
    });
}

#[test]
fn health_endpoints_answer_with_patronis_codes() {
    codes(report("n1"), [("/primary", 200), ("/replica", 503), ("/health", 200), ("/liveness", 200)]);
    codes(report("n2"), [("/primary", 503), ("/replica", 200), ("/health", 200), ("/liveness", 200)]);
}

#[test]
fn a_primary_that_is_not_open_is_no_primary_for_a_load_balancer() {
    let quarantined = StatusReport { primary: None, ..report("n1") };
    codes(quarantined, [("/primary", 503), ("/replica", 503), ("/health", 200), ("/liveness", 200)]);
}

#[test]
fn a_dead_server_is_unhealthy_while_its_agent_lives() {
    let mut dead = report("n2");
    dead.nodes[1].healthy = false;
    codes(dead, [("/primary", 503), ("/replica", 503), ("/health", 503), ("/liveness", 200)]);
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
        let agent: ureq::Agent =
            ureq::Agent::config_builder().http_status_as_error(false).max_idle_connections(0).build().into();
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
