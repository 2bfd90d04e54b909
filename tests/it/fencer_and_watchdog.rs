//! The watchdog's device, played by a file: patted while a primary is watched over, closed in order afterwards.

use std::fs;
use std::time::Duration;

use tests::{Cluster, Node, Prepared, cluster, wait_for};

const TIMEOUT: Duration = Duration::from_secs(60);
/// More than one: it goes on.
const PATS: usize = 10;

fn said(node: &Node) -> String {
    fs::read_to_string(node.dir.join("watchdog")).unwrap_or_default()
}

#[test]
fn a_primary_is_opened_under_its_watchdog_and_a_replica_needs_none() {
    let prepared = Prepared::new(3);
    prepared.set("fencing", "watchdog", |_| "\"required\"".to_owned());
    prepared.set("fencing", "device", |node| format!("{:?}", node.dir.join("watchdog")));
    prepared.nodes.iter().for_each(|node| fs::write(node.dir.join("watchdog"), "").unwrap());
    let cluster = Cluster::start_prepared(prepared);
    let before = cluster.wait_until_whole();
    let old = cluster.node(before.primary.as_ref().unwrap()).clone();
    wait_for("pats", TIMEOUT, || (said(&old).len() > PATS).then_some(()));
    assert!(said(&old).chars().all(|c| c == '1'), "open for as long as it is armed");
    for replica in cluster.nodes().iter().filter(|node| node.name != old.name) {
        assert_eq!(said(replica), "", "{}: there is nothing to fence", replica.name);
    }

    cluster.kill_postgres(&old.name);
    let next = wait_for("a primary in a later term", TIMEOUT, || {
        cluster.status().filter(|status| status.term > before.term)?.primary
    });
    wait_for("the old primary's device to be closed in order", TIMEOUT, || {
        (next == old.name || said(&old).ends_with('V')).then_some(())
    });
    assert!(said(cluster.node(&next)).contains('1'), "{next} serves under its own");
}

#[test]
fn a_watchdog_that_is_required_and_not_there_is_told_before_anything_starts() {
    let prepared = Prepared::new(1);
    prepared.set("fencing", "watchdog", |_| "\"required\"".to_owned());
    prepared.set("fencing", "device", |_| "\"/nonexistent/watchdog\"".to_owned());
    let output = cluster::pgherd(&["run", "--config", &prepared.nodes[0].config().to_string_lossy()]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(5), "{said}");
    assert!(said.contains("/nonexistent/watchdog") && said.contains("modprobe softdog"), "{said}");
}
