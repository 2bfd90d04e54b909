//! Everything of the primary's node gets SIGKILL at once: the others notice by silence alone.

use std::time::Duration;

use tests::{Cluster, Ledger};

const TAKEOVER_TIMEOUT: Duration = Duration::from_secs(60);

#[test]
fn a_lost_node_costs_no_acknowledged_commit() {
    let mut cluster = Cluster::start(3);
    let old = cluster.wait_until_whole().primary.unwrap();
    let ledger = Ledger::start(&cluster);

    cluster.kill_node(&old);
    let new = cluster.wait_for_primary_other_than(&old, TAKEOVER_TIMEOUT);
    ledger.wait_until_flowing();
    let status = cluster.status().expect("two nodes answer");
    assert_eq!(status.primary.as_ref(), Some(&new));
    assert!(!status.node(&old).is_some_and(|node| node.healthy), "{old} is gone: {status:?}");

    cluster.start_agent(&old);
    cluster.wait_until_whole();
    ledger.finish_and_check(&cluster);
}
