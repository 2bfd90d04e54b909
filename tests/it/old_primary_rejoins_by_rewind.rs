//! A primary dies with WAL that nobody else has; when it returns, it discards that by rewind, keeps a copy, follows.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;
use tests::cluster::pgherd;
use tests::ledger::{rows_of, value_at};
use tests::processes::{self, Process};
use tests::{Cluster, Ledger, wait_for};

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

    // What its frozen senders have not sent nobody gets, so this commit, which asks for no standby, is there alone.
    // (A receiver would be the wrong end: one that is frozen while it writes reads on when it wakes, even to die.)
    let dir = cluster.node(&old).dir.clone();
    let senders = || -> Vec<Process> {
        // The agent has a walsender, too, for its questions: that one streams nothing.
        let streams = |word: &String| word.contains("walsender") && word.contains("streaming");
        let is_sender = |process: &Process| process.command.iter().any(streams);
        processes::belonging_to(&dir).into_iter().filter(is_sender).collect()
    };
    let replicas = cluster.nodes().len() - 1;
    wait_for("both replicas to be sent WAL and the senders to be frozen", LOCAL_TIMEOUT, || {
        let senders = senders();
        senders.iter().for_each(|sender| processes::signal(sender.pid, Signal::STOP));
        (senders.len() == replicas && senders.iter().all(|sender| sender.is_frozen())).then_some(())
    });
    let divergent =
        format!("SET synchronous_commit = local; INSERT INTO ledger VALUES ({DIVERGENT}) RETURNING id");
    let port = cluster.node(&old).postgres;
    wait_for("a commit that no replica has", LOCAL_TIMEOUT, || value_at(port, &divergent).ok());
    cluster.kill_node(&old);

    let new = cluster.wait_for_primary_other_than(&old, TAKEOVER_TIMEOUT);
    ledger.wait_until_flowing();
    let parted = !rows_of(cluster.node(&new)).unwrap().contains(&DIVERGENT);
    assert!(parted, "a row that was never sent is on {new}");

    cluster.start_agent(&old);
    cluster.wait_until_whole();
    let rows = rows_of(cluster.node(&old)).unwrap();
    assert!(!rows.contains(&DIVERGENT), "{old} follows the history of {new}");
    let events = wait_for("the listing to be an event", LOCAL_TIMEOUT, || {
        let dir = cluster.dir();
        let events = pgherd(&["events", "--json", "--limit", "1000", "--dir", dir.to_str().unwrap()]);
        Some(String::from_utf8(events.stdout).unwrap()).filter(|events| events.contains("left history at"))
    });
    assert!(events.contains("rewind"), "rewinding is an event:\n{events}");
    assert!(
        kept_wal(&cluster.node(&old).dir),
        "the discarded WAL is kept in {}",
        cluster.node(&old).dir.display()
    );
    // What left history is counted, named and shown until somebody has seen it.
    let lost = || tests::status::ask(cluster.node(&old).http)?.node(&old)?.condition.lost.first().cloned();
    let lost = wait_for("the lost writes to be shown", LOCAL_TIMEOUT, lost);
    assert!(lost.transactions >= 1 && lost.relations == 1 && lost.bytes > 0, "{lost:?}");
    let listing = std::fs::read_to_string(&lost.listed).unwrap();
    assert!(listing.contains("postgres.public.ledger"), "{listing}");
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
