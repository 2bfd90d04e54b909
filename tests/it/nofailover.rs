//! A node that is tagged nofailover never becomes primary, and the others take its place in the order.

use std::time::Duration;

use tests::{Cluster, Ledger};

const TAKEOVER_TIMEOUT: Duration = Duration::from_secs(30);

#[test]
fn the_tagged_node_is_passed_over() {
    let cluster = Cluster::start_configured(3, |node| match node.name.as_str() {
        // By name it would come before n3.
        "n2" => "[tags]\nnofailover = true\nnoloadbalance = true".to_owned(),
        _ => String::new(),
    });
    let mut cluster = cluster;
    assert_eq!(cluster.wait_until_whole().primary.as_deref(), Some("n1"));
    let output = cluster.pgherd(&["switchover", "--to", "n2"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("nofailover"));
    let ledger = Ledger::start(&cluster);
    ledger.wait_until_flowing();
    cluster.kill_node("n1");
    assert_eq!(cluster.wait_for_primary_other_than("n1", TAKEOVER_TIMEOUT), "n3");
    ledger.wait_until_flowing();
    cluster.start_agent("n1");
    cluster.wait_until_whole();
    ledger.finish_and_check(&cluster);
}
