//! The power fails for everybody at once: every process gets SIGKILL, then all nodes are started again.

use tests::{Cluster, Ledger};

#[test]
fn a_cluster_survives_the_death_of_all_its_nodes() {
    let mut cluster = Cluster::start(3);
    let before = cluster.wait_until_whole();
    let ledger = Ledger::start(&cluster);

    let names = cluster.names();
    cluster.kill_nodes(&names);
    for name in &names {
        cluster.start_agent(name);
    }
    let after = cluster.wait_until_whole();
    assert!(after.term >= before.term, "a term never falls: {} then {}", before.term, after.term);
    ledger.wait_until_flowing();
    ledger.finish_and_check(&cluster);
}

#[test]
fn the_sync_set_is_enough_to_come_back() {
    let mut cluster = Cluster::start(3);
    let primary = cluster.wait_until_whole().primary.unwrap();
    let ledger = Ledger::start(&cluster);

    let names = cluster.names();
    cluster.kill_nodes(&names);
    // Of the two members one has flushed each commit, nobody knows which; the last primary's disk may have gone back.
    for name in names.iter().filter(|name| **name != primary) {
        cluster.start_agent(name);
    }
    ledger.wait_until_flowing();
    cluster.start_agent(&primary);
    ledger.finish_and_check(&cluster);
}
