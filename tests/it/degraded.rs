//! `on_last_standby_lost = degrade`: writes go on without standbys, and are safe again once one is back.

use std::time::Duration;

use tests::{Cluster, Ledger, wait_for};

const MOMENT: Duration = Duration::from_secs(60);

#[test]
fn writes_go_on_without_standbys() {
    let cluster = Cluster::start_configured(3, |_| "[sync]\non_last_standby_lost = \"degrade\"".to_owned());
    let primary = cluster.wait_until_whole().primary.unwrap();
    let ledger = Ledger::start(&cluster);
    ledger.wait_until_flowing();
    // In maintenance a replica that has ended stays so.
    cluster.pgherd_ok(&["pause", "--for", "5min"]);
    for name in cluster.names().into_iter().filter(|name| *name != primary) {
        cluster.kill_postgres(&name);
    }
    let sync = |k: u32| {
        wait_for(&format!("k = {k}"), MOMENT, || {
            cluster.status().filter(|s| s.sync.k == k && s.primary.is_some())
        });
    };
    sync(0);
    ledger.wait_until_flowing();
    assert!(cluster.pgherd_ok(&["status"]).contains("DEGRADED"));
    cluster.pgherd_ok(&["resume"]);
    sync(1);
    cluster.wait_until_whole();
    ledger.finish_and_check(&cluster);
}
