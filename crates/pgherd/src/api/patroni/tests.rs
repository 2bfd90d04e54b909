//! Patroni's interface against a view of our own: a row per endpoint, a column per kind of node.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::{Value, json};
use wire::Lsn;

use crate::agent::Facts;
use crate::api::tests::{Reply, Told, ask, get, node, report, with_view};
use crate::api::{
    FencerReport, NodeReport, OwnReport, PastTimeline, ROUTES, Role, SlotLine, StatusReport, Successor,
    SyncMode,
};
use crate::postgres::{About, Walsender};

const MB: u64 = 1 << 20;
const END: u64 = 64 * MB;

/// The kinds of node that a load balancer may meet, in the order of the columns below.
const KINDS: [&str; 12] = [
    "open primary",
    "quarantined primary",
    "sync replica",
    "quorum replica",
    "async replica",
    "lagging replica",
    "noloadbalance replica",
    "standby head",
    "witness",
    "PostgreSQL down",
    "paused replica",
    "quarantined replica",
];

/// `+` is 200, `.` is 503.
const TABLE: &[(&str, &str)] = &[
    //                                 primary, quarantined | sync, quorum, async, lagging, noloadbalance | head | witness | down | paused | quarantined replica
    ("/", "+. ..... . . . . ."),
    ("/primary", "+. ..... . . . . ."),
    ("/read-write", "+. ..... . . . . ."),
    ("/master", "+. ..... . . . . ."),
    ("/leader", "+. ..... + . . . ."),
    ("/standby-leader", ".. ..... + . . . ."),
    ("/standby_leader", ".. ..... + . . . ."),
    ("/replica", ".. ++++. . . . + ."),
    ("/replica?lag=1MB", ".. +++.. . . . + ."),
    ("/replica?lag=100MB", ".. ++++. . . . + ."),
    ("/replica?lag=1048576", ".. +++.. . . . + ."),
    ("/replica?replication_state=streaming", ".. ++++. . . . + ."),
    ("/replica?tag_clonefrom=true", ".. ..+.. . . . . ."),
    ("/replica?tag_nofailover=true", ".. ..... . . . . ."),
    ("/primary?tag_clonefrom=true", "+. ..... . . . . ."),
    ("/read-only", "+. ++++. + . . + ."),
    ("/read-only?lag=1MB", "+. +++.. + . . + ."),
    ("/sync", ".. +.... . . . . ."),
    ("/synchronous", ".. +.... . . . . ."),
    ("/read-only-sync", "+. +.... + . . . ."),
    ("/read-only-synchronous", "+. +.... + . . . ."),
    ("/quorum", ".. ++... . . . + ."),
    ("/read-only-quorum", "+. ++... + . . + ."),
    ("/async", ".. ..++. . . . . ."),
    ("/asynchronous?lag=1MB", ".. ..+.. . . . . ."),
    ("/health", "++ +++++ + . . + +"),
    ("/liveness", "++ +++++ + + + + +"),
    ("/readiness", "+. +++.+ + . . + ."),
    ("/readiness?lag=100MB", "+. +++++ + . . + ."),
    ("/readiness?mode=write", "+. +++++ + . . + ."),
    ("/patroni", "++ +++++ + + + + +"),
];

fn facts(primary: bool) -> Facts {
    let sender = Walsender {
        pid: 7,
        application_name: "n2_7f3a_t2".into(),
        state: Some("streaming".into()),
        sent_lsn: None,
        flush_lsn: None,
        replay_lsn: None,
        sync_priority: Some(1),
        sync_state: Some("quorum".into()),
        usename: Some("pgherd_replication".into()),
        client_addr: Some("10.0.0.2".into()),
    };
    Facts {
        about: About {
            started_us: 1_767_323_045_678_900,
            version: 170_002,
            restores: false,
            replay_paused: (!primary).then_some(false),
            replayed_at_us: (!primary).then_some(1_767_323_045_000_000),
        },
        received: (!primary).then_some(Lsn(END)),
        replayed: (!primary).then_some(Lsn(END - 10)),
        walsenders: if primary { vec![sender] } else { Vec::new() },
    }
}

fn replica(name: &str) -> NodeReport {
    NodeReport {
        state: "streaming".into(),
        lsn: Some(Lsn(END)),
        replay_lsn: Some(Lsn(END - 10)),
        sync: false,
        ..node(name, Role::Replica)
    }
}

/// The cluster as a node of this kind tells it, which is n2 where it is not the primary n1.
fn told(kind: &str) -> Told {
    let mut primary =
        NodeReport { lsn: Some(Lsn(END)), lag_bytes: None, sync: false, ..node("n1", Role::Primary) };
    let mut own = replica("n2");
    let mut whole = StatusReport { from: "n2".into(), ..report("n2") };
    whole.sync.members = vec!["n2".into(), "n3".into()];
    own.sync = true;
    let is_primary = kind.ends_with(" primary");
    match kind {
        "open primary" => whole.from = "n1".into(),
        "quarantined primary" => {
            (whole.from, whole.primary) = ("n1".into(), None);
            (primary.state, primary.quarantined, primary.healthy) = ("quarantined".into(), true, false);
        }
        "sync replica" => whole.sync.members = vec!["n2".into()],
        "quorum replica" => {}
        "async replica" => (own.sync, own.tags.clonefrom) = (false, true),
        "lagging replica" => (own.sync, own.replay_lsn) = (false, Some(Lsn(END - 32 * MB))),
        "noloadbalance replica" => (own.sync, own.tags.noloadbalance) = (false, true),
        "standby head" => {
            (whole.primary, whole.sync.mode) = (None, SyncMode::Standby);
            (own.role, own.sync) = (Role::Head, false);
            primary.role = Role::Replica;
            whole.origin = Some(origin());
        }
        "witness" => {
            own = NodeReport { state: "voting".into(), lsn: None, ..node("n2", Role::Witness) };
            own.replay_lsn = None;
        }
        "PostgreSQL down" => {
            own = NodeReport { state: "stopped".into(), healthy: false, ..node("n2", Role::Unknown) };
            (own.lsn, own.timeline) = (None, None);
        }
        "paused replica" => whole.paused_until = Some("2026-01-02T04:00:00Z".into()),
        "quarantined replica" => (own.quarantined, own.healthy) = (true, false),
        other => panic!("{other}"),
    }
    whole.nodes = vec![primary, own];
    let answers = !["witness", "PostgreSQL down"].contains(&kind);
    let own = OwnReport {
        facts: answers.then(|| Arc::new(facts(is_primary))),
        system_id: Some(7_268_616_322_854_375_442),
        store_seen: Some(1_767_323_100),
        decided_ms_ago: 25,
        maximum_lag_bytes: MB,
        standbys: 1,
        blocks: true,
    };
    let mut told = Told::new(whole);
    (told.own, told.history) = (own, past());
    told
}

fn origin() -> crate::api::OriginStatus {
    crate::api::OriginStatus {
        hosts: vec!["10.0.0.1:5432".into()],
        head: Some("n2".into()),
        sender: None,
        primary: None,
        lsn: None,
        lag_bytes: None,
        streamed_at: None,
        last_commit: None,
        seen: String::new(),
    }
}

fn past() -> Vec<PastTimeline> {
    let next = Some(Successor { node: "n1".into(), term: 2, at: Some(1_767_323_045) });
    vec![PastTimeline { timeline: 1, end: Lsn(0x0300_0000), next }]
}

fn document(kind: &str, path: &'static str) -> Value {
    let (sender, receiver) = std::sync::mpsc::sync_channel(1);
    with_view(told(kind), move |base| sender.send(get(format!("{base}{path}")).1).unwrap());
    receiver.recv().unwrap()
}

/// A primary of which each metric has a sample.
pub fn told_of_everything() -> super::Told {
    let mut told = super::Told { report: told("open primary").report(), own: told("open primary").own };
    told.report.nodes[1].last_contact_ms = Some(77);
    told.report.nodes[1].lag_bytes = Some(7);
    let own = &mut told.report.nodes[0];
    own.condition.free_bytes = Some(1 << 30);
    own.fencer = Some(FencerReport { state: "armed".into(), left_ms: Some(900), obstacle: None });
    own.slots.slots = vec![SlotLine {
        name: "reader".into(),
        kind: "logical".into(),
        database: Some("app".into()),
        kept: true,
        active: true,
        restart_lsn: Some(Lsn(END)),
        confirmed_flush_lsn: Some(Lsn(END)),
        held_bytes: 12,
        budget_bytes: 34,
        owner: None,
        holds_back_vacuum: false,
        lost: None,
    }];
    told
}

#[test]
fn every_metric_of_the_table_can_have_a_sample() {
    let text = super::metrics::text(&told_of_everything());
    for metric in super::metrics::METRICS {
        assert!(text.contains(&format!("\n{}{{", metric.name)), "{} has none in\n{text}", metric.name);
    }
    for line in [
        "pgherd_slot_held_bytes{scope=\"demo\",name=\"n1\",slot=\"reader\"} 12",
        "pgherd_slot_budget_bytes{scope=\"demo\",name=\"n1\",slot=\"reader\"} 34",
        "pgherd_slot_lost{scope=\"demo\",name=\"n1\",slot=\"reader\"} 0",
        "pgherd_disk_full{scope=\"demo\",name=\"n1\",node=\"n2\"} 0",
        "pgherd_fencer_running{scope=\"demo\",name=\"n1\"} 1",
        "pgherd_fencer_armed{scope=\"demo\",name=\"n1\"} 1",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
    }
}

#[test]
fn each_endpoint_answers_each_kind_of_node_with_patronis_code() {
    let mut wrong = Vec::new();
    for (column, kind) in KINDS.iter().enumerate() {
        let (sender, receiver) = std::sync::mpsc::sync_channel(TABLE.len() * 3);
        with_view(told(kind), move |base| {
            for (path, _) in TABLE {
                for method in ["GET", "HEAD", "OPTIONS"] {
                    sender.send((*path, method, ask(method, &format!("{base}{path}"), None))).unwrap();
                }
            }
        });
        for (path, method, Reply { code, body }) in receiver {
            let row = TABLE.iter().find(|(of, _)| *of == path).unwrap().1.replace(' ', "");
            let wanted = if row.as_bytes()[column] == b'+' { 200 } else { 503 };
            if code != wanted || (body.is_empty() == (method == "GET")) {
                wrong.push(format!("{method} {path} on a node that is {kind}: {code}, not {wanted}: {body}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_lag_that_cannot_be_read_is_not_taken_for_none() {
    with_view(told("async replica"), |base| {
        for path in ["/replica?lag=much", "/async?lag=-1", "/readiness?lag=1mile"] {
            let (code, body) = get(format!("{base}{path}"));
            assert_eq!(code, 400, "{path}");
            assert!(body["error"].as_str().unwrap().contains("16kB"), "{body}");
        }
    });
}

#[test]
fn an_agent_whose_loop_hangs_is_not_alive() {
    let mut hung = told("open primary");
    hung.own.decided_ms_ago = 40_000;
    with_view(hung, |base| assert_eq!(get(format!("{base}/liveness")).0, 503));
    let mut replica = told("async replica");
    replica.own.decided_ms_ago = 40_000;
    with_view(replica, |base| assert_eq!(get(format!("{base}/liveness")).0, 200));
}

#[test]
fn the_document_of_a_primary_is_patronis() {
    assert_eq!(
        document("open primary", "/patroni"),
        json!({
            "state": "running",
            "role": "primary",
            "xlog": { "location": END },
            "timeline": 1,
            "postmaster_start_time": "2026-01-02 03:04:05.678900+00:00",
            "server_version": 170_002,
            "replication": [{
                "usename": "pgherd_replication", "application_name": "n2_7f3a_t2", "client_addr": "10.0.0.2",
                "state": "streaming", "sync_state": "quorum", "sync_priority": 1,
            }],
            "dcs_last_seen": 1_767_323_100,
            "database_system_identifier": "7268616322854375442",
            "patroni": { "version": env!("CARGO_PKG_VERSION"), "scope": "demo", "name": "n1" },
        })
    );
}

#[test]
fn the_document_of_a_replica_is_patronis() {
    assert_eq!(
        document("noloadbalance replica", "/replica"),
        json!({
            "state": "running",
            "role": "replica",
            "xlog": {
                "received_location": END, "replayed_location": END - 10,
                "replayed_timestamp": "2026-01-02 03:04:05.000000+00:00", "paused": false,
            },
            "timeline": 1,
            "replication_state": "streaming",
            "tags": { "noloadbalance": true },
            "postmaster_start_time": "2026-01-02 03:04:05.678900+00:00",
            "server_version": 170_002,
            "dcs_last_seen": 1_767_323_100,
            "database_system_identifier": "7268616322854375442",
            "patroni": { "version": env!("CARGO_PKG_VERSION"), "scope": "demo", "name": "n2" },
        })
    );
    assert_eq!(document("sync replica", "/patroni")["sync_standby"], true);
    assert_eq!(document("quorum replica", "/patroni")["quorum_standby"], true);
    assert_eq!(document("standby head", "/patroni")["role"], "standby_leader");
    assert_eq!(document("paused replica", "/patroni")["pause"], true);
    assert_eq!(document("quarantined primary", "/patroni")["cluster_unlocked"], true);
}

#[test]
fn what_is_not_known_of_a_server_that_is_down_is_left_out() {
    let down = document("PostgreSQL down", "/patroni");
    assert_eq!(down["state"], "stopped");
    for name in
        ["xlog", "timeline", "postmaster_start_time", "server_version", "replication", "replication_state"]
    {
        assert!(down.get(name).is_none(), "{name} in {down}");
    }
}

#[test]
fn the_cluster_is_patronis() {
    let cluster = document("quorum replica", "/cluster");
    assert_eq!(cluster["scope"], "demo");
    assert_eq!(cluster["members"][0]["role"], "leader");
    assert_eq!(cluster["members"][0]["state"], "running");
    assert!(cluster["members"][0].get("lag").is_none());
    let replica = json!({
        "name": "n2", "role": "quorum_standby", "state": "streaming", "host": "127.0.0.1", "port": 5432, "timeline": 1,
        "lsn": "0/4000000", "lag": 0, "receive_lsn": "0/4000000", "receive_lag": 0,
        "replay_lsn": "0/3FFFFF6", "replay_lag": 10,
    });
    assert_eq!(cluster["members"][1], replica);
    assert_eq!(document("PostgreSQL down", "/cluster")["members"][1]["lag"], "unknown");
    assert_eq!(document("standby head", "/cluster")["members"][1]["role"], "standby_leader");
    assert_eq!(document("witness", "/cluster")["members"].as_array().unwrap().len(), 1);
}

#[test]
fn history_and_configuration_say_what_is_known() {
    let history = document("open primary", "/history");
    assert_eq!(history, json!([[1, 0x0300_0000, "term 2", "2026-01-02T03:04:05Z", "n1"]]));
    let config = document("paused replica", "/config");
    assert_eq!((&config["synchronous_mode"], &config["pause"]), (&json!("quorum"), &json!(true)));
    assert_eq!(config["maximum_lag_on_failover"], MB);
    with_view(told("open primary"), |base| {
        let reply = ask("PATCH", &format!("{base}/config"), Some("{\"pause\": true}"));
        assert_eq!(reply.code, 422);
        assert!(reply.body.contains("pgherd pause"), "{}", reply.body);
        assert_eq!(ask("PUT", &format!("{base}/config"), Some("{\"pause\": true}")).code, 501);
        assert_eq!(ask("GET", &format!("{base}/failsafe"), None).code, 502);
        assert_eq!(ask("POST", &format!("{base}/failsafe"), Some("{}")).code, 502);
    });
}

#[test]
fn what_is_patched_is_set_for_all_nodes() {
    let view = std::sync::Arc::new(told("open primary"));
    let seen = view.clone();
    with_view(view, |base| {
        let body = "{\"maximum_lag_on_failover\":0,\"postgresql\":{\"parameters\":{\"work_mem\":null,\"jit\":\"off\",\"absent\":null}}}";
        let reply = ask("PATCH", &format!("{base}/config"), Some(body));
        assert_eq!(reply.code, 200, "{}", reply.body);
        let config: Value = serde_json::from_str(&reply.body).unwrap();
        assert_eq!(config["postgresql"], json!({ "parameters": { "work_mem": "64MB" } }));
        assert_eq!(ask("PATCH", &format!("{base}/config"), Some("[1]")).code, 400);
    });
    let configured = seen.configured.lock().unwrap().clone();
    assert_eq!(configured.len(), 1);
    let (text, by) = &configured[0];
    assert_eq!(text.trim(), "[postgres.parameters]\njit = \"off\"\n\n[sync]\nmaximum_lag_on_failover = 0");
    assert!(by.contains("machine"), "{by}");
}

/// Method, path, body, then the code and the beginning of the answer.
type Change = (&'static str, &'static str, &'static str, u16, &'static str);

#[test]
fn changes_are_answered_as_patroni_answers_them() {
    const CHANGES: &[Change] = &[
        ("POST", "/switchover", "", 400, "the body is no JSON"),
        ("POST", "/switchover", "{}", 400, "the body must be"),
        (
            "POST",
            "/switchover",
            "{\"candidate\":\"n2\"}",
            400,
            "Switchover could be performed only from a specific leader",
        ),
        (
            "POST",
            "/switchover",
            "{\"leader\":\"n1\",\"candidate\":\"n1\"}",
            400,
            "Switchover target and source are the same",
        ),
        ("POST", "/switchover", "{\"leader\":\"n2\"}", 412, "leader name does not match"),
        ("POST", "/switchover", "{\"leader\":\"n1\",\"candidate\":\"n9\"}", 412, "candidate does not exist"),
        (
            "POST",
            "/switchover",
            "{\"leader\":\"n1\",\"scheduled_at\":\"2026-01-02T03:04\"}",
            400,
            "Timezone information",
        ),
        (
            "POST",
            "/switchover",
            "{\"leader\":\"n1\",\"scheduled_at\":\"2020-01-02T03:04Z\"}",
            422,
            "Cannot schedule",
        ),
        ("POST", "/switchover", "{\"leader\":\"n1\",\"scheduled_at\":\"soon\"}", 422, "Unable to parse"),
        (
            "POST",
            "/switchover",
            "{\"leader\":\"n1\",\"scheduled_at\":\"2999-01-02T03:04Z\"}",
            202,
            "Switchover scheduled",
        ),
        (
            "POST",
            "/switchover",
            "{\"leader\":\"n1\",\"candidate\":\"n2\"}",
            200,
            "Successfully switched over to \"n2\"",
        ),
        ("POST", "/switchover", "{\"leader\":\"n2\"}", 200, "Successfully switched over to \"n1\""),
        (
            "POST",
            "/failover",
            "{\"leader\":\"n1\"}",
            400,
            "Failover could be performed only to a specific candidate",
        ),
        (
            "POST",
            "/failover",
            "{\"candidate\":\"n2\",\"scheduled_at\":\"2999-01-02T03:04Z\"}",
            400,
            "Failover can't be",
        ),
        ("POST", "/failover", "{\"candidate\":\"n2\"}", 200, "Successfully failed over to \"n2\""),
        ("DELETE", "/switchover", "", 200, "scheduled switchover deleted"),
        ("DELETE", "/switchover", "", 404, "no switchover is scheduled"),
        ("POST", "/switchover", "{\"leader\":\"n2\"}", 200, "Successfully switched over to \"n1\""),
        ("POST", "/restart", "", 200, "restarted successfully"),
        ("POST", "/restart", "{\"role\":\"replica\"}", 503, "restart conditions are not satisfied"),
        ("POST", "/restart", "{\"role\":\"king\"}", 400, "PostgreSQL role should be"),
        ("POST", "/restart", "{\"restart_pending\":true}", 503, "restart conditions"),
        ("POST", "/restart", "{\"postgres_version\":\"17.2\"}", 503, "restart conditions"),
        ("POST", "/restart", "{\"postgres_version\":\"17.3\",\"timeout\":\"2min\"}", 200, "restarted"),
        ("POST", "/restart", "{\"timeout\":\"long\"}", 400, "Timeout should be"),
        ("POST", "/restart", "{\"colour\":\"blue\"}", 400, "Unknown filter"),
        ("POST", "/restart", "{\"schedule\":\"2999-01-02T03:04Z\"}", 501, "restarts are not scheduled"),
        ("DELETE", "/restart", "", 404, "no restarts are scheduled"),
        ("POST", "/reload", "", 202, "reload scheduled"),
        ("POST", "/reinitialize", "", 503, "n1 is the primary"),
        ("POST", "/reinitialize", "{\"from_leader\":true}", 501, "from_leader"),
    ];
    with_view(told("open primary"), |base| {
        for (method, path, body, code, text) in CHANGES {
            let body = (*method == "POST").then_some(*body);
            let reply = ask(method, &format!("{base}{path}"), body);
            assert_eq!(reply.code, *code, "{method} {path} {body:?}: {}", reply.body);
            assert!(reply.body.starts_with(text), "{method} {path} {body:?}: {}", reply.body);
        }
    });
}

#[test]
fn each_route_takes_the_methods_of_its_row_and_no_others() {
    with_view(told("open primary"), |base| {
        for route in ROUTES {
            for method in ["GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"] {
                // A stream has no end to wait for; it has tests of its own.
                if (method, route.path) == ("GET", "/api/v1/stream") {
                    continue;
                }
                // What can be read can be asked for without its body.
                let listed = route.methods.split(", ").any(|listed| listed == method)
                    || method == "HEAD" && route.methods.starts_with("GET");
                let body = ["POST", "PUT", "PATCH"].contains(&method).then_some("[]");
                let path = route.path.replace("{node}", "n1").replace("{name}", "n2").replace("{id}", "7");
                let code = ask(method, &format!("{base}{path}"), body).code;
                assert_eq!(code != 405, listed, "{method} {path}: {code}");
            }
        }
    });
}

#[test]
fn metrics_are_what_prometheus_reads() {
    for kind in KINDS {
        let text = super::metrics::text(&super::Told { report: told(kind).report(), own: told(kind).own });
        check_format(&(text + &proxy::metric_families()));
    }
    let text = super::metrics::text(&super::Told {
        report: told("open primary").report(),
        own: told("open primary").own,
    });
    for line in [
        "patroni_primary{scope=\"demo\",name=\"n1\"} 1",
        "patroni_xlog_location{scope=\"demo\",name=\"n1\"} 67108864",
        "patroni_postmaster_start_time{scope=\"demo\",name=\"n1\"} 1767323045.6789",
        "patroni_postgres_server_version{scope=\"demo\",name=\"n1\"} 170002",
        "patroni_postgres_state{scope=\"demo\",name=\"n1\"} 5",
        "pgherd_term{scope=\"demo\",name=\"n1\"} 2",
        "pgherd_replay_lag_bytes{scope=\"demo\",name=\"n1\",node=\"n2\"} 10",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
    }
}

/// The rules of the text format: a HELP and a TYPE once for each family and before its samples, samples of a family together,
/// names and labels well formed, no sample twice, values that are numbers.
fn check_format(text: &str) {
    let name_of = |text: &str| {
        text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
            && !text.starts_with(|c: char| c.is_ascii_digit())
    };
    let (mut families, mut seen): (BTreeMap<String, BTreeSet<String>>, BTreeSet<String>) = Default::default();
    let mut current = String::new();
    assert!(text.ends_with('\n'), "the last line ends");
    for line in text.lines() {
        if let Some(comment) = line.strip_prefix("# ") {
            let mut words = comment.splitn(3, ' ');
            let (word, name, rest) =
                (words.next().unwrap(), words.next().unwrap(), words.next().unwrap_or_default());
            assert!(["HELP", "TYPE"].contains(&word) && name_of(name) && !rest.is_empty(), "{line}");
            let known = families.entry(name.to_owned()).or_default();
            assert!(known.insert(word.to_owned()), "twice: {line}");
            assert!(word == "HELP" || ["counter", "gauge", "histogram"].contains(&rest), "{line}");
            assert!(word == "TYPE" || name != current, "its samples are together: {line}");
            current = name.to_owned();
            continue;
        }
        let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line}"));
        let (name, labels) = series
            .split_once('{')
            .map_or((series, ""), |(name, labels)| (name, labels.strip_suffix('}').unwrap()));
        let parts = ["_bucket", "_sum", "_count"].map(|part| format!("{current}{part}"));
        assert!(
            name == current || parts.iter().any(|part| part == name),
            "below another family's head: {line}"
        );
        assert_eq!(families[&current].len(), 2, "{line} has a HELP and a TYPE before it");
        value.parse::<f64>().unwrap_or_else(|_| panic!("{line}"));
        for label in labels.split("\",").filter(|label| !label.is_empty()) {
            let (key, value) = label.split_once("=\"").unwrap_or_else(|| panic!("{line}"));
            assert!(name_of(key) && !value.contains('\n'), "{line}");
        }
        assert!(seen.insert(series.to_owned()), "twice: {series}");
    }
    assert!(families.values().all(|words| words.len() == 2), "each family has a HELP and a TYPE");
}
