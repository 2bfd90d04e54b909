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
    let primary = cluster.node("n1").postgres;
    let needed = tests::value_at(primary, "SELECT pg_walfile_name(pg_current_wal_lsn())").unwrap();

    // Segments, each begun anew, and checkpoints that remove what no slot may hold any more: the slot of n3 is lost on the way.
    let mut session = session_at(primary);
    wait_for("the primary to have no more what n3 needs", MOMENT, || {
        for _ in 0..4 {
            session.execute("SELECT pg_logical_emit_message(true, 'filler', repeat('x', 4000000))").unwrap();
            session.execute("SELECT pg_switch_wal()").unwrap();
        }
        session.execute("CHECKPOINT").unwrap();
        let kept = format!(
            "SELECT count(*) FROM pg_ls_waldir() WHERE name <= '{needed}' AND name ~ '^[0-9A-F]{{24}}$'"
        );
        (tests::value_at(primary, &kept).unwrap() == "0").then_some(())
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
