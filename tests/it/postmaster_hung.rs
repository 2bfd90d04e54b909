//! The primary's postmaster hangs: sessions of before work, no new connection does. It is replaced and fenced.

use std::time::Duration;

use rustix::process::Signal;
use tests::{Cluster, Ledger, processes};

/// Ten times the bound for the p99: this is about safety, the bench measures speed.
const TAKEOVER_TIMEOUT: Duration = Duration::from_secs(60);

#[test]
fn a_hung_postmaster_is_taken_over_from() {
    let cluster = Cluster::start(3);
    let old = cluster.wait_until_whole().primary.unwrap();
    let ledger = Ledger::start(&cluster);
    ledger.mark();

    let postmaster = cluster.node(&old).postmaster_pid().expect("the primary's PostgreSQL");
    processes::signal(postmaster, Signal::STOP);
    cluster.wait_for_primary_other_than(&old, TAKEOVER_TIMEOUT);
    ledger.wait_until_flowing();
    // The hung server hears no word to stop: its agent ends it by itself, and it comes back without a thaw.
    cluster.wait_until_whole();
    assert_ne!(cluster.node(&old).postmaster_pid(), Some(postmaster));
    ledger.finish_and_check(&cluster);
}
