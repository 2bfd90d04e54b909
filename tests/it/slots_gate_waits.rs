//! `[slots] gate = "wait"`: a node whose slots are ready is alive and does not answer. The others, whose slots are not, give it
//! five seconds, and then go on without it: WAL and writes come before slots.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use tests::consumer::Consumer;
use tests::ledger::value_at;
use tests::{Cluster, Ledger, Node, Prepared, configure, processes, wait_for};

const SLOTS: &str = "[sync]\nstandbys = 2\n[slots]\ngate = \"wait\"\n[slots.feed]\ntype = \"logical\"\ndatabase = \"postgres\"\nplugin = \"test_decoding\"\nowner = \"test\"";
/// On 15 and 16 a restart of each replica, one after the other.
const READY_TIMEOUT: Duration = Duration::from_secs(120);
const TAKEOVER_TIMEOUT: Duration = Duration::from_secs(60);
/// What the gate waits for a ready node, from the suspicion on; the primary's silence comes before.
const GATE: Duration = Duration::from_secs(5);

#[track_caller]
fn wait_for_ready(cluster: &Cluster, ready: impl Fn(&str) -> bool) {
    cluster.wait_until_whole();
    wait_for("the slots to be as ready as they are to be", READY_TIMEOUT, || {
        let status = cluster.status()?;
        let same = |node: &tests::status::NodeStatus| node.healthy && node.slots.ready == ready(&node.name);
        status.nodes.iter().all(same).then_some(())
    });
}

/// From 17 on PostgreSQL brings the copies by itself, and lets nobody take one away.
fn keeps_copies_itself(node: &Node) -> bool {
    let number = value_at(node.postgres, "SHOW server_version_num").unwrap();
    number.parse::<u32>().unwrap() >= 170_000
}

#[test]
fn a_takeover_waits_for_the_ready_node_no_longer_than_it_may() {
    let prepared = Prepared::new(4);
    prepared.nodes.iter().for_each(|node| configure(node, SLOTS));
    let mut cluster = Cluster::start_prepared(prepared);
    let primary = cluster.wait_until_whole().primary.unwrap();
    if keeps_copies_itself(cluster.node(&primary)) {
        return;
    }
    // Copies need WAL that the replicas have: a consumer reads on beyond where they were made.
    let consumer = Consumer::start(&cluster, "feed");
    let ledger = Ledger::start(&cluster);
    wait_for_ready(&cluster, |_| true);
    let replicas: Vec<String> = cluster.names().into_iter().filter(|name| *name != primary).collect();
    let (ready, unready) = replicas.split_first().unwrap();
    for name in unready {
        configure(cluster.node(name), "[slots]\nrestart_replicas = \"never\"");
        cluster.kill_agent(name);
        cluster.start_agent(name);
    }
    cluster.wait_until_whole();
    for name in unready {
        value_at(cluster.node(name).postgres, "SELECT pg_drop_replication_slot('feed')").unwrap();
    }
    wait_for_ready(&cluster, |name| !unready.iter().any(|other| other == name));
    ledger.wait_until_flowing();

    // The ready one goes on taking WAL, and can do nothing that it is asked for.
    let postmaster = cluster.node(ready).postmaster_pid().unwrap();
    processes::signal(postmaster, Signal::STOP);
    let term = cluster.status().unwrap().term;
    let begun = Instant::now();
    cluster.kill_node(&primary);
    wait_for("a later term to be recorded", TAKEOVER_TIMEOUT, || {
        cluster.status().filter(|status| status.term > term)
    });
    let waited = begun.elapsed();
    assert!(waited >= GATE, "the ready node was not waited for: {waited:?}");
    let told = |name: &String| {
        let events = std::fs::read_to_string(cluster.node(name).dir.join("events.jsonl")).unwrap_or_default();
        events.contains(&format!("those of {ready} are: its answer is given 5000 ms"))
    };
    assert!(unready.iter().any(told), "the wait was for the slots");
    // With two nodes away nobody could confirm what the new primary writes; the slow one is enough.
    processes::signal(postmaster, Signal::CONT);
    ledger.wait_until_flowing();
    drop(consumer);
    cluster.start_agent(&primary);
    cluster.wait_until_whole();
    ledger.finish_and_check(&cluster);
}
