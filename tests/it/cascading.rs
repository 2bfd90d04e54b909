//! A replica takes its WAL from another replica, over the loss of that one, of its own agent and of the primary; and a copy
//! comes from the replica that is named for it.

use std::time::Duration;

use tests::status::NodeStatus;
use tests::{Cluster, Ledger, value_at, wait_for};

const MOMENT: Duration = Duration::from_secs(40);

fn node(cluster: &Cluster, name: &str) -> Option<NodeStatus> {
    cluster.status()?.node(name).cloned()
}

#[track_caller]
fn wait_to_stream_from(cluster: &Cluster, name: &str, upstream: &str) {
    wait_for(&format!("{name} to stream from {upstream}"), MOMENT, || {
        let node = node(cluster, name)?;
        (node.state == "streaming" && node.upstream.as_deref() == Some(upstream)).then_some(())
    });
}

/// The walsenders of `of` that serve `member`'s data directory.
fn walsenders(cluster: &Cluster, of: &str, member: &str) -> String {
    let sql = format!(
        "SELECT coalesce(string_agg(pid::text, ','), '') FROM pg_stat_replication \
         WHERE application_name LIKE '{member}\\_%' AND state = 'streaming'"
    );
    value_at(cluster.node(of).postgres, &sql).unwrap()
}

fn slots(cluster: &Cluster, of: &str, member: &str) -> String {
    let sql =
        format!("SELECT count(*) FROM pg_replication_slots WHERE slot_name LIKE 'pgherd\\_{member}\\_%'");
    value_at(cluster.node(of).postgres, &sql).unwrap()
}

fn sync_members(cluster: &Cluster) -> Vec<String> {
    cluster.status().map(|status| status.sync.members).unwrap_or_default()
}

#[test]
fn a_replica_streams_from_another_whatever_happens_to_the_others() {
    let mut cluster = Cluster::start_configured(4, |node| match node.name.as_str() {
        "n2" => "[tags]\nnofailover = true\nclonefrom = true\n\
                 [postgres.parameters]\nlog_replication_commands = \"on\""
            .to_owned(),
        "n3" => "[tags]\nreplicatefrom = \"n2\"".to_owned(),
        _ => String::new(),
    });
    assert_eq!(cluster.wait_until_whole().primary.as_deref(), Some("n1"));
    let ledger = Ledger::start(&cluster);
    wait_to_stream_from(&cluster, "n3", "n2");
    wait_for("n3 to be no member of the sync set", MOMENT, || {
        (sync_members(&cluster) == ["n2", "n4"]).then_some(())
    });
    ledger.wait_until_flowing();
    let sender = walsenders(&cluster, "n2", "n3");
    assert!(!sender.is_empty() && walsenders(&cluster, "n1", "n3").is_empty());
    wait_for("n2 to tell whose slot it has", MOMENT, || {
        let told = node(&cluster, "n2")?.slots.slots;
        told.iter().any(|slot| slot.owner.as_deref() == Some("pgherd: replica n3")).then_some(())
    });
    // The primary's slot for n3 goes with it, so it holds next to nothing and n3 finds what it needs.
    let mark_lsn = value_at(cluster.node("n1").postgres, "SELECT pg_current_wal_lsn()").unwrap();
    wait_for("the primary's slot for n3 to come along", MOMENT, || {
        let sql = format!(
            "SELECT count(*) FROM pg_replication_slots WHERE slot_name LIKE 'pgherd\\_n3\\_%' \
             AND restart_lsn >= '{mark_lsn}' AND NOT active"
        );
        (value_at(cluster.node("n1").postgres, &sql).unwrap() == "1").then_some(())
    });
    let mark = cluster.node("n3").data().join("of_the_first_copy");
    std::fs::write(&mark, "").unwrap();

    // Its own agent: the stream goes on.
    cluster.kill_agent("n3");
    cluster.start_agent("n3");
    cluster.wait_until_whole();
    wait_to_stream_from(&cluster, "n3", "n2");
    assert_eq!(walsenders(&cluster, "n2", "n3"), sender, "the stream was broken off");

    // Its upstream: the primary instead, with the same data directory, and back again.
    cluster.kill_node("n2");
    wait_to_stream_from(&cluster, "n3", "n1");
    ledger.wait_until_flowing();
    let note = node(&cluster, "n3").unwrap().upstream_note;
    assert!(note.contains("n2"), "{note:?}");
    cluster.start_agent("n2");
    wait_to_stream_from(&cluster, "n3", "n2");
    wait_for("a slot for n3 on n2 alone", MOMENT, || {
        (slots(&cluster, "n2", "n3") == "1" && slots(&cluster, "n4", "n3") == "0").then_some(())
    });
    ledger.wait_until_flowing();

    // The primary: everybody comes to the new timeline, n3 over n2 again.
    cluster.kill_node("n1");
    assert_eq!(cluster.wait_for_primary_other_than("n1", MOMENT), "n4");
    ledger.wait_until_flowing();
    wait_to_stream_from(&cluster, "n2", "n4");
    wait_to_stream_from(&cluster, "n3", "n2");
    wait_for("one timeline", MOMENT, || {
        let status = cluster.status()?;
        let timeline = |name: &str| status.node(name).and_then(|node| node.timeline);
        let new = timeline("n4").filter(|timeline| *timeline > 1)?;
        (timeline("n2") == Some(new) && timeline("n3") == Some(new)).then_some(())
    });
    assert!(mark.exists(), "the data directory of n3 was copied anew");
    cluster.start_agent("n1");
    cluster.wait_until_whole();

    // A copy comes from the replica that is named for it.
    let told = cluster.pgherd_ok(&["reinit", "n1"]);
    assert!(told.contains("has a new copy and streams"), "{told}");
    let events = cluster.pgherd_ok(&["events", "--limit", "1000"]);
    assert!(events.contains("copy the data directory of n2"), "{events}");
    let log = postgres_log(&cluster, "n2");
    assert!(log.contains("BASE_BACKUP"), "no base backup in n2's log");
    wait_to_stream_from(&cluster, "n1", "n4");
    cluster.wait_until_whole();
    ledger.finish_and_check(&cluster);
}

/// All that PostgreSQL of this node has logged.
fn postgres_log(cluster: &Cluster, name: &str) -> String {
    let log = cluster.node(name).dir.join("log").join("postgres.log");
    std::fs::read_to_string(&log).unwrap_or_else(|error| panic!("{}: {error}", log.display()))
}

#[test]
fn a_circle_streams_from_the_primary_and_says_so() {
    let cluster = Cluster::start_configured(3, |node| match node.name.as_str() {
        "n2" => "[tags]\nreplicatefrom = \"n3\"".to_owned(),
        "n3" => "[tags]\nreplicatefrom = \"n2\"".to_owned(),
        _ => String::new(),
    });
    let ledger = Ledger::start(&cluster);
    for name in ["n2", "n3"] {
        wait_to_stream_from(&cluster, name, "n1");
        let note = wait_for("the reason", MOMENT, || {
            node(&cluster, name).map(|node| node.upstream_note).filter(|note| !note.is_empty())
        });
        assert!(note.contains("circle"), "{note}");
    }
    assert!(cluster.pgherd_ok(&["status"]).contains("go round in a circle"));
    // Commits can be confirmed by either.
    wait_for("both in the sync set", MOMENT, || (sync_members(&cluster) == ["n2", "n3"]).then_some(()));
    ledger.wait_until_flowing();
    ledger.finish_and_check(&cluster);
}
