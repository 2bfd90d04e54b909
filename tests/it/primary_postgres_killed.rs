//! The primary's postmaster gets SIGKILL: another takes over, and the killed one comes back by itself.

use std::time::Duration;

use tests::{Cluster, Ledger, wait_for};

/// Ten times the bound for the p99: this is about safety, the bench measures speed.
const TAKEOVER_TIMEOUT: Duration = Duration::from_secs(30);

#[test]
fn a_killed_postgres_costs_no_acknowledged_commit() {
    let cluster = Cluster::start(3);
    let before = cluster.wait_until_whole();
    let old = before.primary.unwrap();
    let ledger = Ledger::start(&cluster);

    cluster.kill_postgres(&old);
    // Either another node took over, or the old one was started again in a term of its own.
    wait_for("a primary in a later term", TAKEOVER_TIMEOUT, || {
        cluster.status().filter(|status| status.term > before.term && status.primary.is_some())
    });
    ledger.wait_until_flowing();
    cluster.wait_until_whole();
    ledger.finish_and_check(&cluster);
}

#[test]
fn it_may_happen_again_and_again() {
    let cluster = Cluster::start(3);
    let ledger = Ledger::start(&cluster);
    for _ in 0..3 {
        let before = cluster.wait_until_whole();
        cluster.kill_postgres(&before.primary.unwrap());
        wait_for("a primary in a later term", TAKEOVER_TIMEOUT, || {
            cluster.status().filter(|status| status.term > before.term && status.primary.is_some())
        });
        ledger.wait_until_flowing();
    }
    ledger.finish_and_check(&cluster);
}
