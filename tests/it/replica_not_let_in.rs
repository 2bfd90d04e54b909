//! A primary lets a replica's receiver in no more: the replica keeps its data directory, because a copy would be refused as
//! well, `pgherd status` says what PostgreSQL says, and it follows again once it is let in.

use std::fs;
use std::time::Duration;

use tests::{Cluster, Ledger, session_at, value_at, wait_for};

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

    let port = cluster.node(&primary).postgres;
    let own = "SELECT rolpassword FROM pg_authid WHERE rolname = 'pgherd_replication'";
    let verifier = value_at(port, own).unwrap();
    let mut session = session_at(port);
    session.execute("ALTER ROLE pgherd_replication PASSWORD 'another'").unwrap();
    // Who streams goes on; who connects is refused.
    let end = format!(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_replication WHERE application_name LIKE '{refused}%'"
    );
    wait_for("its receiver to be refused", REFUSED, || {
        session.execute(&end).unwrap();
        let status = cluster.status()?;
        let node = status.nodes.into_iter().find(|node| node.name == refused)?;
        node.receiver_note.contains("password authentication failed").then_some(())
    });
    let node = cluster.node(&refused);
    let explained = wait_for("the rule that would copy to hold back", REFUSED, || {
        let own = tests::status::ask(node.http)?;
        let own = own.nodes.into_iter().find(|own| own.name == refused)?;
        (own.rule == "rejoin.stalled").then_some(own.why.join("; "))
    });
    assert!(explained.contains("would not stream either"), "{explained}");

    session.execute(&format!("ALTER ROLE pgherd_replication PASSWORD '{verifier}'")).unwrap();
    let status = cluster.wait_until_whole();
    assert!(status.nodes.iter().all(|node| node.receiver_note.is_empty()), "{status:?}");
    assert!(mark.exists(), "the data directory was copied anew");
    ledger.finish_and_check(&cluster);
}
