//! A planned switchover: to whom one says, losing nothing, or not at all.

use std::time::Duration;

use tests::{Cluster, Ledger, session_at, wait_for};

const MOMENT: Duration = Duration::from_secs(30);

#[test]
fn the_named_node_becomes_primary_and_nothing_is_lost() {
    let cluster = Cluster::start(3);
    let before = cluster.wait_until_whole();
    let old = before.primary.unwrap();
    let ledger = Ledger::start(&cluster);
    for round in 1..=2 {
        let to = cluster.names().into_iter().find(|name| Some(name) != cluster.primary().as_ref()).unwrap();
        let told = cluster.pgherd_ok(&["switchover", "--to", &to]);
        assert!(
            told.contains(&format!("done       {to} is the primary of term {}", before.term + round)),
            "{told}"
        );
        assert_eq!(cluster.primary(), Some(to));
        ledger.wait_until_flowing();
        cluster.wait_until_whole();
    }
    let list = cluster.pgherd_ok(&["requests"]);
    assert_eq!(list.matches("done").count(), 2, "{list}");
    let account = ledger.finish_and_check(&cluster);
    assert!(account.acknowledged.len() > 10);
    // The old primary follows without a rewind: what it had is a beginning of the new one's.
    let log = std::fs::read_to_string(cluster.node(&old).dir.join("pgherd.log")).unwrap();
    assert!(!log.contains("rejoin.rewind"), "{old} was rewound after a planned switchover");
}

#[test]
fn a_transaction_that_does_not_end_ends_the_switchover() {
    let cluster = Cluster::start_configured(3, |_| "[failover]\ndrain_timeout = \"1s\"".to_owned());
    let old = cluster.wait_until_whole().primary.unwrap();
    let mut session = session_at(cluster.node(&old).postgres);
    session.execute("BEGIN; SELECT 1").unwrap();
    let output = cluster.pgherd(&["switchover"]);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(6), "{told}");
    assert!(told.contains("transaction"), "{told}");
    assert_eq!(cluster.primary().as_ref(), Some(&old));
    // The session was not harmed, and nobody is held.
    session.execute("COMMIT").unwrap();
    let ledger = Ledger::start(&cluster);
    ledger.wait_until_flowing();
    ledger.finish_and_check(&cluster);

    session.execute("BEGIN; SELECT 1").unwrap();
    cluster.pgherd_ok(&["switchover", "--force"]);
    wait_for("another primary", MOMENT, || cluster.primary().filter(|name| *name != old));
}

#[test]
fn what_makes_no_sense_is_refused_with_a_reason() {
    let cluster = Cluster::start(3);
    let primary = cluster.wait_until_whole().primary.unwrap();
    let refused = |arguments: &[&str], code: i32, text: &str| {
        let output = cluster.pgherd(arguments);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {told}");
        assert!(told.contains(text), "{arguments:?}: {told}");
    };
    refused(&["switchover", "--to", "n9"], 5, "no node with PostgreSQL");
    refused(&["switchover", "--to", &primary], 5, "the primary already");
    refused(&["reinit", &primary], 5, "switchover");
    refused(&["failover", "--to", "n2"], 5, "nothing need be lost");
    refused(&["switchover", "--at", "yesterday"], 2, "no time");
    refused(&["requests", "--cancel", "77"], 5, "no request 77");
    refused(&["pause", "--for", "999h"], 5, "a pause of");
}
