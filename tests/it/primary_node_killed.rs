//! Everything of the primary's node gets SIGKILL at once: the others notice by silence alone.

use std::time::Duration;

use tests::{Cluster, Ledger, wait_for};

const TAKEOVER_TIMEOUT: Duration = Duration::from_secs(60);
/// The takeover is over: what is left is two answers over HTTP.
const SAYING_TIMEOUT: Duration = Duration::from_secs(10);

#[test]
fn a_lost_node_costs_no_acknowledged_commit() {
    let mut cluster = Cluster::start(3);
    let old = cluster.wait_until_whole().primary.unwrap();
    let ledger = Ledger::start(&cluster);

    cluster.kill_node(&old);
    let new = cluster.wait_for_primary_other_than(&old, TAKEOVER_TIMEOUT);
    ledger.wait_until_flowing();
    wait_for(
        &format!("the survivors to say that {old} is gone and {new} is primary"),
        SAYING_TIMEOUT,
        || {
            let status = cluster.status().filter(|status| status.primary.as_ref() == Some(&new))?;
            status.nodes.iter().find(|node| node.name == old).is_none_or(|node| !node.healthy).then_some(())
        },
    );

    cluster.start_agent(&old);
    cluster.wait_until_whole();
    ledger.finish_and_check(&cluster);
}
