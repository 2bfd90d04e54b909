//! A copy of the data directory breaks off, with its tool and then with its node. The part that came counts for nothing and
//! takes no room for long; the next attempt begins anew.

use std::time::Duration;

use rustix::process::Signal;
use tests::cluster::Node;
use tests::{Cluster, Ledger, processes, wait_for};

/// A copy begins once the primary has let its member go.
const COPY_TIMEOUT: Duration = Duration::from_secs(60);

#[track_caller]
fn wait_for_copying(node: &Node) -> i32 {
    wait_for("a copy to be under way", COPY_TIMEOUT, || {
        let tools = processes::belonging_to(&node.dir).into_iter();
        tools.filter(|process| process.program() == "pg_basebackup").map(|process| process.pid).next()
    })
}

/// Directories that are or were data directories, or are to become one.
fn copies(node: &Node) -> Vec<String> {
    let entries = std::fs::read_dir(&node.dir).expect("its directory").flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with("data")).collect()
}

#[test]
fn what_is_half_copied_is_never_used_and_does_not_stay() {
    let mut cluster = Cluster::start(3);
    let primary = cluster.wait_until_whole().primary.unwrap();
    let replica = cluster.names().into_iter().find(|name| *name != primary).unwrap();
    let node = cluster.node(&replica).clone();
    let ledger = Ledger::start(&cluster);
    ledger.wait_until_flowing();

    assert_eq!(cluster.pgherd(&["reinit", &replica, "--wait", "0s"]).status.code(), Some(6), "it goes on");
    let tool = wait_for_copying(&node);
    processes::signal(tool, Signal::KILL);
    wait_for("the broken copy to have ended", COPY_TIMEOUT, || {
        processes::process(tool).is_none().then_some(())
    });
    // It is tried again by itself, and this time the whole node goes.
    wait_for_copying(&node);
    cluster.kill_node(&replica);
    assert!(copies(&node).contains(&"data.new".to_owned()), "{:?}", copies(&node));
    ledger.wait_until_flowing();

    cluster.start_agent(&replica);
    cluster.wait_until_whole();
    wait_for("one data directory and no more", COPY_TIMEOUT, || (copies(&node) == ["data"]).then_some(()));
    let events = std::fs::read_to_string(node.dir.join("events.jsonl")).unwrap_or_default();
    assert!(events.contains("Clone failed"), "the broken copy was told of");
    ledger.finish_and_check(&cluster);
}
