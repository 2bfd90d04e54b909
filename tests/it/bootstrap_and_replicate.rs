//! Three empty nodes become a cluster: one primary, two replicas, proxies that route, a view that says so.

use std::time::Duration;

use tests::cluster::pgherd;
use tests::ledger::value_at;
use tests::machine::version_under_test;
use tests::{Cluster, Ledger, wait_for};

/// A row that was acknowledged is replayed on a healthy replica within moments.
const REPLAY_TIMEOUT: Duration = Duration::from_secs(20);

#[test]
fn three_empty_nodes_become_a_cluster() {
    let cluster = Cluster::start(3);
    let status = cluster.wait_until_whole();
    let primary = status.primary.clone().unwrap();
    assert!(status.term >= 1);
    assert_eq!(status.sync.mode, "quorum");
    assert!(status.sync.k >= 1, "{status:?}");
    assert_eq!(status.nodes.len(), 3);
    for node in &status.nodes {
        let role = if node.name == primary { "primary" } else { "replica" };
        assert_eq!(node.role, role, "{node:?}");
        assert_eq!(node.timeline, status.nodes[0].timeline, "{node:?}");
    }

    if let Some(version) = version_under_test() {
        for node in cluster.nodes() {
            // Without this a suite that is meant for one major could pass on another.
            assert_eq!(value_at(node.postgres, "SHOW server_version").unwrap(), version, "{}", node.name);
        }
    }
    let ledger = Ledger::start(&cluster);
    for node in cluster.nodes() {
        let recovers = |port| value_at(port, "SELECT pg_is_in_recovery()").unwrap();
        assert_eq!(recovers(node.read_write), "f", "read-write of {} leads to the primary", node.name);
        wait_for("read-only to lead to a replica", REPLAY_TIMEOUT, || {
            (recovers(node.read_only) == "t").then_some(())
        });
        assert_eq!(recovers(node.postgres), if node.name == primary { "f" } else { "t" }, "{}", node.name);
    }
    let account = ledger.finish_and_check(&cluster);
    assert_eq!(account.in_doubt, 0, "{:?}", account.errors);
}

#[test]
fn the_command_line_shows_the_cluster() {
    let cluster = Cluster::start(3);
    let dir = cluster.dir();
    let dir = dir.to_str().unwrap();
    let shown = pgherd(&["status", "--dir", dir]);
    assert!(shown.status.success());
    let text = String::from_utf8(shown.stdout).unwrap();
    for word in ["primary", "replica", "n1", "n2", "n3", "ANY 1"] {
        assert!(text.contains(word), "{word} is missing in\n{text}");
    }
    let json = pgherd(&["status", "--json", "--dir", dir]);
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json["nodes"].as_array().unwrap().len(), 3);

    let events = pgherd(&["events", "--json", "--dir", dir]);
    assert!(events.status.success());
    let events: serde_json::Value = serde_json::from_slice(&events.stdout).unwrap();
    assert!(!events.as_array().unwrap().is_empty(), "making a cluster is an event");

    let explained = pgherd(&["explain", "--json", "--dir", dir]);
    let explained: serde_json::Value = serde_json::from_slice(&explained.stdout).unwrap();
    let primary = json["primary"].as_str().unwrap();
    let of_primary = explained.as_array().unwrap().iter().find(|one| one["node"] == primary).unwrap();
    assert!(of_primary["takes_over"].is_string(), "{of_primary}");
}
