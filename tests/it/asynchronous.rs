//! k = 0 for three nodes: the store's lease decides who may serve, and a takeover waits for its end.

use std::time::Duration;

use tests::{Cluster, Ledger};

const TAKEOVER_TIMEOUT: Duration = Duration::from_secs(60);

#[test]
fn a_lost_primary_is_replaced_after_its_lease() {
    let mut cluster = Cluster::start_configured(3, |_| "[sync]\nstandbys = 0".to_owned());
    let before = cluster.wait_until_whole();
    let old = before.primary.unwrap();
    assert_eq!(before.sync.k, 0);
    let ledger = Ledger::start(&cluster);
    ledger.wait_until_flowing();
    cluster.kill_node(&old);
    let new = cluster.wait_for_primary_other_than(&old, TAKEOVER_TIMEOUT);
    ledger.wait_until_flowing();
    let events = cluster.pgherd_ok(&["events", "--limit", "1000"]);
    assert!(events.contains("asynchronous: "), "the loss is told: {events}");
    cluster.start_agent(&old);
    cluster.wait_until_whole();
    // A planned switchover loses nothing, without synchronous replication too.
    let account = ledger.finish();
    assert!(!account.acknowledged.is_empty());
    let rows = tests::rows_of(cluster.node(&new)).unwrap();
    cluster.pgherd_ok(&["switchover", "--to", &old]);
    let after = tests::rows_of(cluster.node(&old)).unwrap();
    assert_eq!(rows, after);
}
