//! A primary dies with WAL that nobody else has; when it returns, it discards that by rewind, keeps a copy, follows.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;
use tests::cluster::{Node, pgherd};
use tests::ledger::{rows_of, value_at};
use tests::{Cluster, Ledger, processes, wait_for};

const TAKEOVER_TIMEOUT: Duration = Duration::from_secs(60);
/// Writing locally needs a working server only.
const LOCAL_TIMEOUT: Duration = Duration::from_secs(20);
/// An id that the ledger never reaches.
const DIVERGENT: i64 = -1;

#[test]
fn divergent_wal_is_discarded_but_kept() {
    let mut cluster = Cluster::start(3);
    let old = cluster.wait_until_whole().primary.unwrap();
    let ledger = Ledger::start(&cluster);

    // Frozen replicas take no WAL, so this commit, which asks for no standby, is on the primary alone.
    let replicas: Vec<Node> = cluster.nodes().iter().filter(|node| node.name != old).cloned().collect();
    let receivers = || -> Vec<i32> {
        let of = |node: &Node| processes::belonging_to(&node.dir);
        let all = replicas.iter().flat_map(of);
        all.filter(|process| process.command.iter().any(|word| word.contains("walreceiver")))
            .map(|process| process.pid)
            .collect()
    };
    let frozen = wait_for("both replicas to stream", LOCAL_TIMEOUT, || {
        Some(receivers()).filter(|receivers| receivers.len() == replicas.len())
    });
    frozen.iter().for_each(|&pid| processes::signal(pid, Signal::STOP));
    let divergent =
        format!("SET synchronous_commit = local; INSERT INTO ledger VALUES ({DIVERGENT}) RETURNING id");
    let port = cluster.node(&old).postgres;
    wait_for("a commit that no replica has", LOCAL_TIMEOUT, || value_at(port, &divergent).ok());
    cluster.kill_node(&old);
    // The row waits in the receivers' sockets. A receiver that wakes with SIGTERM pending ends before it reads on.
    for &pid in &frozen {
        processes::signal(pid, Signal::TERM);
        processes::signal(pid, Signal::CONT);
    }

    let new = cluster.wait_for_primary_other_than(&old, TAKEOVER_TIMEOUT);
    ledger.wait_until_flowing();
    let parted = !rows_of(cluster.node(&new)).unwrap().contains(&DIVERGENT);
    assert!(parted, "a frozen replica got the row after all: this test needs a better freeze");

    cluster.start_agent(&old);
    cluster.wait_until_whole();
    let rows = rows_of(cluster.node(&old)).unwrap();
    assert!(!rows.contains(&DIVERGENT), "{old} follows the history of {new}");
    let events = pgherd(&["events", "--json", "--limit", "1000", "--dir", cluster.dir().to_str().unwrap()]);
    let events = String::from_utf8(events.stdout).unwrap();
    assert!(events.contains("rewind"), "rewinding is an event:\n{events}");
    assert!(
        kept_wal(&cluster.node(&old).dir),
        "the discarded WAL is kept in {}",
        cluster.node(&old).dir.display()
    );
    ledger.finish_and_check(&cluster);
}

/// True when a WAL segment lies outside the data directory.
fn kept_wal(node_dir: &Path) -> bool {
    let mut folders: Vec<PathBuf> = vec![node_dir.to_owned()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for entry in entries.filter_map(Result::ok) {
            let name = entry.file_name().to_string_lossy().into_owned();
            if entry.path().is_dir() {
                if entry.path() != node_dir.join("data") {
                    folders.push(entry.path());
                }
            } else if name.len() >= 24 && name[..24].bytes().all(|byte| byte.is_ascii_hexdigit()) {
                return true;
            }
        }
    }
    false
}
