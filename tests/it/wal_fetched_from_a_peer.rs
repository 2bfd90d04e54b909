//! A replica was away for so long that the primary has removed the WAL it needs: it takes that WAL from the other
//! replica, and nothing is copied.

use std::time::Duration;

use tests::{Cluster, Ledger, session_at, wait_for};

const MOMENT: Duration = Duration::from_secs(60);

#[test]
fn what_the_primary_no_longer_has_comes_from_the_other_replica() {
    // Only the first primary keeps little.
    let mut cluster = Cluster::start_configured(3, |node| match node.name.as_str() {
        "n1" => "[postgres.parameters]\nmax_slot_wal_keep_size = \"96MB\"\nwal_keep_size = \"0\"\n\
                 max_wal_size = \"64MB\"\nmin_wal_size = \"32MB\""
            .to_owned(),
        _ => String::new(),
    });
    assert_eq!(cluster.wait_until_whole().primary.as_deref(), Some("n1"));
    wait_for("both replicas in the sync set", MOMENT, || {
        cluster.status().filter(|status| status.sync.members.len() == 2)
    });
    let ledger = Ledger::start(&cluster);
    ledger.wait_until_flowing();
    let mark = cluster.node("n3").data().join("of_the_first_copy");
    std::fs::write(&mark, "").unwrap();
    cluster.kill_node("n3");

    // Twenty segments, each begun anew, and checkpoints that remove what no slot may hold any more.
    let mut session = session_at(cluster.node("n1").postgres);
    for _ in 0..20 {
        session.execute("SELECT pg_logical_emit_message(true, 'filler', repeat('x', 4000000))").unwrap();
        session.execute("SELECT pg_switch_wal()").unwrap();
    }
    wait_for("the slot of n3 to be lost", MOMENT, || {
        session.execute("CHECKPOINT").unwrap();
        let sql = "SELECT count(*) FROM pg_replication_slots WHERE slot_name LIKE 'pgherd_n3%' AND wal_status = 'lost'";
        let anew = "SELECT count(*) FROM pg_replication_slots WHERE slot_name LIKE 'pgherd_n3%' AND restart_lsn >= \
                    pg_current_wal_lsn() - 33554432";
        let count = |sql| tests::value_at(cluster.node("n1").postgres, sql).unwrap();
        (count(sql) == "1" || count(anew) == "1").then_some(())
    });

    cluster.start_agent("n3");
    wait_for("the fetch", MOMENT, || {
        cluster.pgherd_ok(&["events", "--limit", "1000"]).contains("fetch the WAL of n2").then_some(())
    });
    cluster.wait_until_whole();
    wait_for("both replicas in the sync set", MOMENT, || {
        cluster.status().filter(|status| status.sync.members.len() == 2)
    });
    assert!(mark.exists(), "the data directory was copied anew");
    ledger.finish_and_check(&cluster);
}
