//! After a takeover and after a switchover the store has a report, with phases in order, the voters, and the sessions that were held.

use std::time::Duration;

use serde_json::Value;
use tests::status::page_at;
use tests::{Cluster, Ledger, Node, session_at, wait_for};

/// For a report to be written and read on a busy machine: seconds after the primary is open.
const MOMENT: Duration = Duration::from_secs(60);

/// The report of this term as each node tells it.
#[track_caller]
fn report_of(cluster: &Cluster, term: u64) -> Value {
    let at = |node: &Node| -> Option<Value> {
        let page = page_at(&node.host, node.http, &format!("/api/v1/failovers/{term}"))?;
        serde_json::from_str(&page).ok()
    };
    let reports = wait_for("the report on every node", MOMENT, || {
        cluster.nodes().iter().map(at).collect::<Option<Vec<Value>>>()
    });
    assert!(reports.iter().all(|report| *report == reports[0]), "{reports:#?}");
    reports.into_iter().next().unwrap()
}

/// Phases follow upon each other and are the whole; they have these names, in this order, perhaps with others in between.
#[track_caller]
fn check_phases(report: &Value, names: &[&str]) {
    let phases = report["phases"].as_array().unwrap();
    let mut end = 0;
    for phase in phases {
        assert_eq!(phase["start_ms"].as_u64(), Some(end), "{report:#}");
        end += phase["ms"].as_u64().unwrap();
    }
    assert_eq!(report["total_ms"].as_u64(), Some(end), "{report:#}");
    assert!(report["writes_paused_ms"].as_u64().is_some_and(|ms| ms <= end), "{report:#}");
    let mut told = phases.iter().filter_map(|phase| phase["name"].as_str());
    for name in names {
        assert!(told.any(|told| told == *name), "{name} is not in its place: {report:#}");
    }
}

#[test]
fn a_takeover_is_reported_with_its_phases_and_voters() {
    let cluster = Cluster::start(3);
    let before = cluster.wait_until_whole();
    let old = before.primary.clone().unwrap();
    let ledger = Ledger::start(&cluster);
    ledger.wait_until_flowing();

    cluster.kill_postgres(&old);
    let after = wait_for("a primary in a later term", MOMENT, || {
        cluster.status().filter(|status| status.term > before.term && status.primary.is_some())
    });
    ledger.wait_until_flowing();
    let report = report_of(&cluster, after.term);
    assert_eq!(report["kind"], "takeover");
    assert_eq!(report["from"]["node"], *old);
    assert_eq!(report["to"]["node"], **after.primary.as_ref().unwrap());
    assert!(!report["reason"].as_str().unwrap().is_empty());
    check_phases(&report, &["detection", "record", "promotion", "synchronization", "opening"]);

    let ballot = &report["ballot"];
    assert_eq!((&ballot["k"], &ballot["needed"]), (&1.into(), &2.into()), "{report:#}");
    let votes = ballot["votes"].as_array().unwrap();
    let counted = votes.iter().filter(|vote| vote["counted"] == true).count();
    assert!(counted >= 2, "{report:#}");
    for vote in votes {
        assert!(vote["promise"].as_u64() >= Some(after.term), "{report:#}");
        assert_eq!(vote["timeline"].as_u64(), report["from"]["timeline"].as_u64());
    }
    assert_eq!(report["loss"]["bytes"], 0);
    let proxies = report["proxies"].as_array().unwrap();
    assert_eq!(proxies.len(), 3, "each proxy has told: {report:#}");

    let list = cluster.pgherd_ok(&["history"]);
    assert!(list.contains("takeover") && list.contains("detection"), "{list}");
    let whole = cluster.pgherd_ok(&["history", &after.term.to_string()]);
    assert!(whole.contains("needed") && whole.contains("promotion"), "{whole}");
    let missing = cluster.pgherd(&["history", "999"]);
    assert!(String::from_utf8_lossy(&missing.stderr).contains("no report of term 999"));
    ledger.finish_and_check(&cluster);
}

#[test]
fn a_switchover_counts_the_sessions_that_it_held() {
    let cluster = Cluster::start_configured(3, |_| "[failover]\ndrain_timeout = \"30s\"".to_owned());
    let before = cluster.wait_until_whole();
    let old = before.primary.unwrap();
    let other = cluster.names().into_iter().find(|name| *name != old).unwrap();
    // It keeps the hold open until this test ends it: the sessions below surely meet it.
    let mut long = session_at(cluster.node(&old).postgres);
    long.execute("BEGIN; SELECT 1").unwrap();
    let port = cluster.node(&other).read_write;
    let mut sessions: Vec<_> = (0..3).map(|_| session_at(port)).collect();
    let is_held = |name: &str| {
        let node = cluster.node(name);
        let metrics = page_at(&node.host, node.http, "/metrics")?;
        let line = metrics.lines().find_map(|line| line.strip_prefix("pgherd_proxy_sessions_parked "))?;
        (line.parse::<u64>().ok()? >= 3).then_some(())
    };
    let asking = std::thread::scope(|scope| {
        let switchover = scope.spawn(|| cluster.pgherd(&["switchover", "--to", &other]));
        wait_for("the hold", MOMENT, || {
            let requests = tests::status::requests(cluster.node(&other).http)?;
            requests.iter().any(|request| request.stage == "holding").then_some(())
        });
        let asked: Vec<_> =
            sessions.iter_mut().map(|session| scope.spawn(move || session.execute("SELECT 1"))).collect();
        wait_for("sessions that are held", MOMENT, || is_held(&other));
        long.execute("COMMIT").unwrap();
        asked.into_iter().for_each(|asked| asked.join().unwrap().unwrap());
        switchover.join().unwrap()
    });
    assert!(asking.status.success(), "{}", String::from_utf8_lossy(&asking.stderr));

    let report = report_of(&cluster, before.term + 1);
    assert_eq!(report["kind"], "switchover");
    assert_eq!(report["to"]["node"], *other);
    assert!(report["request"].is_u64());
    check_phases(&report, &["drain", "stop", "record", "promotion", "opening", "release"]);
    let proxies = report["proxies"].as_array().unwrap();
    let proxy =
        proxies.iter().find(|proxy| proxy["node"] == *other).expect("the proxy of the new primary's node");
    assert!(proxy["held"].as_u64() >= Some(3), "{report:#}");
    assert_eq!((&proxy["cut"], &proxy["timed_out"]), (&0.into(), &0.into()), "{report:#}");
}
