//! Maintenance: nobody takes over and nothing is started by itself; what an operator asks for is done.

use std::time::Duration;

use tests::{Cluster, Ledger, wait_for};

const MOMENT: Duration = Duration::from_secs(30);

#[test]
fn a_paused_cluster_does_nothing_by_itself() {
    let cluster = Cluster::start(3);
    let before = cluster.wait_until_whole();
    let old = before.primary.unwrap();
    let ledger = Ledger::start(&cluster);
    ledger.wait_until_flowing();
    cluster.pgherd_ok(&["pause", "--for", "5min"]);
    cluster.kill_postgres(&old);
    wait_for("the word that nobody takes over", MOMENT, || {
        cluster.pgherd_ok(&["status"]).contains("is down; the cluster is paused").then_some(())
    });
    assert_eq!(cluster.status().unwrap().term, before.term);
    assert_eq!(cluster.node(&old).postmaster_pid(), None, "nothing is started");

    let to = cluster.names().into_iter().find(|name| *name != old).unwrap();
    cluster.pgherd_ok(&["failover", "--to", &to, "--confirm", "demo"]);
    assert_eq!(cluster.primary(), Some(to));
    ledger.wait_until_flowing();

    cluster.pgherd_ok(&["resume"]);
    cluster.wait_until_whole();
    ledger.finish_and_check(&cluster);
}
