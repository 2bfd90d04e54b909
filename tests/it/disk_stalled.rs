//! The disk under the primary's WAL stalls: its processes cannot even be killed. Another node takes over, and what was
//! written to the stalled disk is acknowledged by nobody.

use std::time::Duration;

use tests::ledger::value_at;
use tests::machine::{StallingDisk, move_wal};
use tests::{Cluster, Ledger, wait_for};

/// Ten times the bound for the p99: this is about safety, the bench measures speed.
const TAKEOVER_TIMEOUT: Duration = Duration::from_secs(60);
/// Each node has its first WAL, some 100 MB, and a reserve on it.
const DISK_MB: u64 = 300;

#[test]
fn a_stalled_disk_is_taken_over_from() {
    let mut cluster = Cluster::start(3);
    let names = cluster.names();
    cluster.kill_nodes(&names);
    // Whoever is primary then has such a disk.
    let mut disks = Vec::new();
    for name in &names {
        let at = cluster.dir().join(format!("disk-{name}"));
        let Some(disk) = StallingDisk::mount(&at, DISK_MB) else { return };
        move_wal(&cluster.node(name).data(), &at);
        disks.push((name.clone(), disk));
    }
    names.iter().for_each(|name| cluster.start_agent(name));
    let old = cluster.wait_until_whole().primary.unwrap();
    let ledger = Ledger::start(&cluster);
    let disk = &disks.iter().find(|(name, _)| *name == old).unwrap().1;

    disk.stall();
    let port = cluster.node(&old).postgres;
    let lonely = std::thread::spawn(move || value_at(port, "INSERT INTO ledger VALUES (-1) RETURNING id"));
    cluster.wait_for_primary_other_than(&old, TAKEOVER_TIMEOUT);
    ledger.wait_until_flowing();
    let outcome = lonely.join().expect("the attempt ends");
    assert!(outcome.is_err(), "acknowledged by a disk that takes nothing: {outcome:?}");

    disk.thaw();
    cluster.wait_until_whole();
    let kept = || value_at(port, "SELECT count(*) FROM ledger WHERE id = -1").ok();
    assert_eq!(wait_for("the old primary to answer as a replica", TAKEOVER_TIMEOUT, kept), "0");
    ledger.finish_and_check(&cluster);
}
