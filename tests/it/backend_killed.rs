//! A backend of the primary gets SIGKILL. PostgreSQL alone would restart and show commits that no standby has; here it
//! stays down, another node takes over at once, and nobody reads what is not on the quorum.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::Signal;
use tests::ledger::{rows_of, value_at};
use tests::processes::{self, Process};
use tests::{Cluster, Ledger, Node, wait_for};

/// Ten times the bound for the p99: this is about safety, the bench measures speed.
const TAKEOVER_TIMEOUT: Duration = Duration::from_secs(60);
const LOCAL_TIMEOUT: Duration = Duration::from_secs(20);
/// An id that the ledger never reaches.
const WAITING: i64 = -1;

#[test]
fn a_crash_restart_shows_no_commit_that_waited_for_its_standbys() {
    let cluster = Cluster::start(3);
    let before = cluster.wait_until_whole();
    let old = before.primary.clone().unwrap();
    let node = cluster.node(&old).clone();
    let ledger = Ledger::start(&cluster);

    // What frozen senders have not sent nobody gets: the commit waits, in no standby's WAL.
    let frozen = || senders(&node).iter().filter(|sender| sender.is_frozen()).count();
    wait_for("the senders to be frozen", LOCAL_TIMEOUT, || {
        senders(&node).iter().for_each(|sender| processes::signal(sender.pid, Signal::STOP));
        (frozen() == 2).then_some(())
    });
    let port = node.postgres;
    let insert = format!("INSERT INTO ledger VALUES ({WAITING}) RETURNING id");
    let waiting = std::thread::spawn(move || value_at(port, &insert));
    wait_for("the commit to wait", LOCAL_TIMEOUT, || {
        let sql =
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND query LIKE '%(-1)%'";
        value_at(port, sql).ok().filter(|count| count == "1")
    });
    let reading = Arc::new(AtomicBool::new(true));
    let reader = std::thread::spawn({
        let (reading, node) = (reading.clone(), node.clone());
        move || {
            let mut seen = false;
            while reading.load(Ordering::Relaxed) {
                seen |= rows_of(&node).is_ok_and(|rows| rows.contains(&WAITING));
            }
            seen
        }
    });
    processes::signal(backend(&node).pid, Signal::KILL);

    cluster.wait_for_primary_other_than(&old, TAKEOVER_TIMEOUT);
    ledger.wait_until_flowing();
    cluster.wait_until_whole();
    reading.store(false, Ordering::Relaxed);
    let acknowledged = waiting.join().unwrap().is_ok();
    let seen = reader.join().unwrap();
    let kept = rows_of(&node).unwrap().contains(&WAITING);
    assert!(kept || !acknowledged, "acknowledged and lost");
    assert!(kept || !seen, "read by somebody and lost");
    assert_eq!(cluster.status().unwrap().term, before.term + 1, "one takeover");
    ledger.finish_and_check(&cluster);
}

fn title(process: &Process, words: &[&str]) -> bool {
    words.iter().all(|word| process.command.iter().any(|part| part.contains(word)))
}

/// Those that send WAL; the agent's own walsenders send none.
fn senders(node: &Node) -> Vec<Process> {
    let all = processes::belonging_to(&node.data());
    all.into_iter().filter(|process| title(process, &["walsender", "streaming"])).collect()
}

fn backend(node: &Node) -> Process {
    let all = processes::belonging_to(&node.data());
    let waiting = all.into_iter().find(|process| title(process, &["INSERT", "waiting for"]));
    waiting.expect("the backend whose commit waits")
}
