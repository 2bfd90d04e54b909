//! A primary lets a replica's receiver in no more: the replica keeps its data directory, because a copy would be refused as
//! well, `pgherd status` says what PostgreSQL says, and it follows again once it is let in.

use std::fs;
use std::time::Duration;

use tests::{Cluster, Ledger, session_at, wait_for};

/// Longer than the 30 s after which a replica that does not stream is copied anew.
const REFUSED: Duration = Duration::from_secs(90);

#[test]
fn a_replica_that_is_not_let_in_keeps_what_it_has() {
    let cluster = Cluster::start(3);
    let primary = cluster.wait_until_whole().primary.unwrap();
    let refused = cluster.names().into_iter().find(|name| *name != primary).unwrap();
    let ledger = Ledger::start(&cluster);
    ledger.wait_until_flowing();
    let mark = cluster.node(&refused).data().join("of_the_first_copy");
    fs::write(&mark, "").unwrap();

    let hba = cluster.node(&primary).dir.join("conf/pg_hba.conf");
    let before = fs::read_to_string(&hba).unwrap();
    fs::write(&hba, format!("host replication all all reject\n{before}")).unwrap();
    let mut session = session_at(cluster.node(&primary).postgres);
    session.execute("SELECT pg_reload_conf()").unwrap();
    // Who streams goes on; who connects is refused.
    let end = format!(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_replication WHERE application_name LIKE '{refused}%'"
    );
    wait_for("its receiver to be refused", REFUSED, || {
        session.execute(&end).unwrap();
        let status = cluster.status()?;
        let node = status.nodes.into_iter().find(|node| node.name == refused)?;
        node.receiver_note.contains("rejects replication connection").then_some(())
    });
    let node = cluster.node(&refused);
    let explained = wait_for("the rule that would copy to hold back", REFUSED, || {
        let own = tests::status::ask(node.http)?;
        let own = own.nodes.into_iter().find(|own| own.name == refused)?;
        (own.rule == "rejoin.stalled").then_some(own.why.join("; "))
    });
    assert!(explained.contains("would not stream either"), "{explained}");

    fs::write(&hba, before).unwrap();
    session.execute("SELECT pg_reload_conf()").unwrap();
    let status = cluster.wait_until_whole();
    assert!(status.nodes.iter().all(|node| node.receiver_note.is_empty()), "{status:?}");
    assert!(mark.exists(), "the data directory was copied anew");
    ledger.finish_and_check(&cluster);
}
