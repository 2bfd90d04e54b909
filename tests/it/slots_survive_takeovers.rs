//! A consumer reads changes from a declared logical slot, the primary dies, and it goes on at the next one without a
//! gap; then that one dies, too, after the first has come back.

use std::time::Duration;

use tests::consumer::Consumer;
use tests::ledger::value_at;
use tests::machine::version_under_test;
use tests::{Cluster, Ledger, wait_for};

const SLOTS: &str = r#"
[slots.feed]
type = "logical"
database = "postgres"
plugin = "test_decoding"
owner = "test: reads the ledger"
wal_budget = "2GB"

[slots.tape]
type = "physical"
owner = "test: receives WAL"
"#;

/// On 15 and 16 a restart of each replica, one after the other; from 17 on PostgreSQL looks every 30 s when it is idle.
const READY_TIMEOUT: Duration = Duration::from_secs(120);
const TAKEOVER_TIMEOUT: Duration = Duration::from_secs(30);
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(60);

#[track_caller]
fn wait_until_ready(cluster: &Cluster) {
    cluster.wait_until_whole();
    let shown = || {
        let status = cluster.status()?;
        let kept =
            |node: &tests::status::NodeStatus| node.slots.slots.iter().filter(|slot| slot.kept).count();
        let ready = status.nodes.iter().all(|node| node.slots.ready && node.healthy && kept(node) == 2);
        if ready { Some(()) } else { None }
    };
    wait_for("every slot to be ready on every node", READY_TIMEOUT, shown);
}

/// Everything acknowledged until now has been read by the consumer.
#[track_caller]
fn wait_until_read(ledger: &Ledger, consumer: &Consumer) {
    let acknowledged = ledger.account().acknowledged;
    let caught_up = || consumer.seen().ids.is_superset(&acknowledged).then_some(());
    wait_for("the consumer to have every acknowledged row", CATCH_UP_TIMEOUT, caught_up);
}

#[test]
fn a_logical_consumer_goes_on_at_the_next_primary_without_a_gap() {
    let cluster = Cluster::start_with(3, SLOTS);
    let ledger = Ledger::start(&cluster);
    let consumer = Consumer::start(&cluster, "feed");
    wait_until_ready(&cluster);
    wait_until_read(&ledger, &consumer);

    let before = cluster.wait_until_whole();
    let first = before.primary.unwrap();
    cluster.kill_postgres(&first);
    wait_for("a primary in a later term", TAKEOVER_TIMEOUT, || {
        cluster.status().filter(|status| status.term > before.term && status.primary.is_some())
    });
    ledger.wait_until_flowing();
    wait_until_read(&ledger, &consumer);

    // The one that died comes back, by a rewind or not, and has its copies again.
    wait_until_ready(&cluster);
    let before = cluster.wait_until_whole();
    let second = before.primary.unwrap();
    cluster.kill_postgres(&second);
    wait_for("a primary in a later term", TAKEOVER_TIMEOUT, || {
        cluster.status().filter(|status| status.term > before.term && status.primary.is_some())
    });
    ledger.wait_until_flowing();
    wait_until_read(&ledger, &consumer);

    let seen = consumer.seen();
    let lost: Vec<&String> = seen.errors.iter().filter(|error| error.contains("does not exist")).collect();
    assert!(lost.is_empty(), "the slot was away: {lost:?}");
    drop(consumer);
    ledger.finish_and_check(&cluster);
    let primary = cluster.primary().unwrap();
    let major = value_at(cluster.node(&primary).postgres, "SHOW server_version_num").unwrap();
    if major.parse::<u32>().unwrap() >= 170_000 {
        // From 17 on nobody is sent what the sync set has not flushed: nothing was read that is not there.
        let rows = tests::ledger::rows_of(cluster.node(&primary)).unwrap();
        let phantoms: Vec<_> = seen.ids.difference(&rows).collect();
        assert!(phantoms.is_empty(), "read, but not there: {phantoms:?} ({:?})", version_under_test());
    }
}
