//! A second cluster that follows the first: through a takeover there and the loss of its own head, then in its place.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use tests::{Cluster, Ledger, Node, Prepared, configure, rows_of, session_at, value_at, wait_for};

/// A base backup, or a rewind, and the way back into the stream, beside other tests.
const FOLLOW_TIMEOUT: Duration = Duration::from_secs(90);
const MOMENT: Duration = Duration::from_secs(30);

fn address(node: &Node) -> String {
    format!("127.0.0.1:{}", node.postgres)
}

fn hosts(cluster: &Cluster) -> String {
    cluster.nodes().iter().map(address).collect::<Vec<_>>().join(",")
}

/// A standby cluster of `main` with so many nodes, each of which streams.
fn follow(main: &Cluster, nodes: u16) -> Cluster {
    let credentials = main.nodes()[0].dir.join("credentials.json");
    wait_for("the credentials of the cluster to follow", MOMENT, || credentials.is_file().then_some(()));
    let prepared = Prepared::new(nodes);
    for node in &prepared.nodes {
        let own = node.dir.join("origin.json");
        std::fs::copy(&credentials, &own).unwrap();
        let lines = format!("[standby_cluster]\nhosts = \"{}\"\ncredentials = {own:?}", hosts(main));
        configure(node, &lines);
    }
    let standby = Cluster::start_following(prepared);
    wait_until_following(&standby, main);
    standby
}

/// The head streams from the primary of `main`, and every other node from the head.
#[track_caller]
fn wait_until_following(standby: &Cluster, main: &Cluster) -> String {
    wait_for("the standby cluster to stream from the other's primary", FOLLOW_TIMEOUT, || {
        let primary = main.primary()?;
        let status = standby.status()?;
        let origin = status.origin.as_ref()?;
        let whole = status.nodes.iter().all(|node| node.healthy);
        (whole && origin.sender == Some(address(main.node(&primary)))).then(|| origin.head.clone())?
    })
}

#[track_caller]
fn wait_for_rows(node: &Node, wanted: &BTreeSet<i64>) {
    wait_for(&format!("{} to have every row", node.name), FOLLOW_TIMEOUT, || {
        rows_of(node).ok().filter(|rows| rows.is_superset(wanted))
    });
}

fn promotions(cluster: &Cluster) -> usize {
    let promoted = |dir: &Path| {
        std::fs::read_to_string(dir.join("events.jsonl")).unwrap_or_default().matches("\"promote\"").count()
    };
    cluster.nodes().iter().map(|node| promoted(&node.dir)).sum()
}

#[test]
fn it_follows_through_a_takeover_there_and_the_loss_of_its_head() {
    let main = Cluster::start(2);
    let mut standby = follow(&main, 3);
    let ledger = Ledger::start(&main);

    // Reads are served, writes are refused with the reason at once.
    let reader = &standby.nodes()[1];
    assert_eq!(value_at(reader.read_only, "SELECT pg_is_in_recovery()").unwrap(), "t");
    let refused = format!("{:#}", value_at(reader.read_write, "SELECT 1").unwrap_err());
    assert!(refused.contains("no primary accepts connections"), "{refused}");
    let shown = standby.client(&["status"]);
    assert!(shown.contains("head ") && shown.contains("standby of ") && shown.contains("lag "), "{shown}");

    // The other cluster does not take those who stream from it for its own.
    let members = main.wait_until_whole().sync.members;
    assert_eq!(members.len(), 1, "{members:?}");

    let old = main.primary().unwrap();
    main.kill_postgres(&old);
    main.wait_for_primary_other_than(&old, MOMENT);
    ledger.wait_until_flowing();
    let head = wait_until_following(&standby, &main);

    let told = standby.client(&["explain", &head]);
    assert!(told.contains("would be head: nothing is promoted"), "{told}");
    let refused = standby.pgherd(&["member", "remove", &head]);
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && told.contains("is the head"), "{told}");

    standby.kill_node(&head);
    let next = wait_for("another head that streams", MOMENT, || {
        let origin = standby.status()?.origin?;
        origin.sender.as_ref()?;
        origin.head.filter(|name| *name != head)
    });
    ledger.wait_until_flowing();
    standby.start_agent(&head);
    assert_eq!(wait_until_following(&standby, &main), next, "the old head follows the new one");

    let account = ledger.finish_and_check(&main);
    for node in standby.nodes() {
        wait_for_rows(node, &account.acknowledged);
    }
    let refused = standby.pgherd(&["promote", "--confirm", "demo"]);
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(6), "{told}");
    assert!(told.contains("two clusters would take writes"), "{told}");
    assert_eq!(promotions(&standby), 0, "nobody asked for a primary");
}

#[test]
fn it_takes_the_place_of_the_lost_cluster_which_follows_it_then() {
    let mut main = Cluster::start(2);
    let standby = follow(&main, 2);
    let ledger = Ledger::start(&main);
    ledger.wait_until_flowing();
    let account = ledger.finish();
    for node in standby.nodes() {
        wait_for_rows(node, &account.acknowledged);
    }
    main.kill_nodes(&main.names());
    // Nobody but an operator ends the wait.
    wait_for("the loss to be seen", MOMENT, || standby.status()?.origin?.sender.is_none().then_some(()));
    let told = standby.client(&["promote", "--confirm", "demo"]);
    assert!(told.contains("the last WAL of the origin here is"), "{told}");
    let status = standby.wait_until_whole();
    assert!(status.origin.is_none() && status.sync.k == 1, "{status:?}");
    let second = Ledger::start(&standby);
    let rows = rows_of(standby.node(&status.primary.unwrap())).unwrap();
    assert!(rows.is_superset(&account.acknowledged));

    // The lost cluster comes back by itself, as it was: what is written there now is on another branch.
    main.names().iter().for_each(|name| main.start_agent(name));
    let back = main.wait_until_whole().primary.unwrap();
    let mut session = session_at(main.node(&back).read_write);
    session.execute("INSERT INTO ledger SELECT 1000000 + n FROM generate_series(1, 100) n").unwrap();
    drop(session);
    let told = main.client(&["demote", "--to-standby-of", &hosts(&standby), "--confirm", "demo"]);
    assert!(told.contains("is head of term"), "{told}");
    wait_until_following(&main, &standby);
    second.wait_until_flowing();
    let account = second.finish_and_check(&standby);
    for node in main.nodes() {
        wait_for_rows(node, &account.acknowledged);
        let rows = rows_of(node).unwrap();
        assert!(rows.iter().all(|id| *id <= 1_000_000), "{} kept rows that the other never had", node.name);
    }
    let lost: u64 =
        main.status().unwrap().nodes.iter().flat_map(|n| &n.condition.lost).map(|l| l.transactions).sum();
    assert!(lost > 0, "what was rewound is listed");
    assert!(standby.status().unwrap().origin.is_none(), "what was left is not followed again");
}

#[test]
fn it_follows_an_origin_whose_settings_have_grown() {
    let main = Cluster::start(2);
    let standby = follow(&main, 2);
    let ledger = Ledger::start(&main);
    let primary = main.primary().unwrap();
    for node in main.nodes() {
        configure(node, "[postgres.parameters]\nmax_connections = \"150\"");
        main.pgherd_ok(&["reload", &node.name]);
    }
    main.pgherd_ok(&["restart", &primary]);
    main.wait_until_whole();
    for node in standby.nodes() {
        let what = format!("{} to have settings as large as the origin's", node.name);
        wait_for(&what, FOLLOW_TIMEOUT, || {
            let value = value_at(node.postgres, "SELECT current_setting('max_connections')").ok();
            value.filter(|value| value == "150")
        });
    }
    wait_until_following(&standby, &main);
    ledger.wait_until_flowing();
    let account = ledger.finish_and_check(&main);
    for node in standby.nodes() {
        wait_for_rows(node, &account.acknowledged);
    }
    assert_eq!(promotions(&standby), 0, "nobody asked for a primary");
}
