//! The disk of the logs is full: lines are lost, and nothing else. PostgreSQL's own disk has room.

use std::fs::File;
use std::time::Duration;

use tests::{Cluster, Ledger, wait_for};

/// A restart and the way back into the cluster.
const RETURN_TIMEOUT: Duration = Duration::from_secs(60);

#[test]
fn a_node_that_cannot_log_goes_on_deciding() {
    let mut cluster = Cluster::start(3);
    let primary = cluster.wait_until_whole().primary.unwrap();
    let ledger = Ledger::start(&cluster);
    let mute = cluster.names().into_iter().find(|name| *name != primary).unwrap();
    cluster.kill_agent(&mute);
    // Each write to it fails as on a disk without a free block.
    let full = File::options().write(true).open("/dev/full").unwrap();
    cluster.start_agent_logging_to(full, &mute);
    wait_for("the node to be healthy without a log", RETURN_TIMEOUT, || {
        cluster.status().filter(|status| status.node(&mute).is_some_and(|node| node.healthy))
    });
    // It still sees its server die, and brings it back.
    cluster.kill_postgres(&mute);
    wait_for("its server to be down", RETURN_TIMEOUT, || {
        cluster.status().filter(|status| status.node(&mute).is_some_and(|node| !node.healthy))
    });
    cluster.wait_until_whole();
    ledger.finish_and_check(&cluster);
}
