//! `archive_command` hangs. A planned hand-over does not begin; one that has begun ends within its bounds; a takeover does
//! not notice. Nothing is lost.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use tests::ledger::{session_at, value_at};
use tests::{Cluster, Ledger, processes, status, wait_for};

/// Ten times the bound for the p99: this is about safety, the bench measures speed.
const TAKEOVER_TIMEOUT: Duration = Duration::from_secs(60);
/// Five seconds for the archiver, the immediate stop that follows, a takeover; and what a busy machine adds.
const HANDED_OVER_TIMEOUT: Duration = Duration::from_secs(30);

/// A cluster whose archive commands hang while a file is there.
struct Archive {
    cluster: Cluster,
    gate: PathBuf,
}

impl Archive {
    fn start() -> Archive {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let gate = PathBuf::from(format!("/tmp/pgherd-archive-{}-{number}", std::process::id()));
        let command = format!("while test -e '{}'; do sleep 0.1; done", gate.display());
        let cluster = Cluster::start_configured(3, |_| {
            format!(
                "[postgres.parameters]\narchive_mode = \"on\"\narchive_command = \"{command}\"\n[failover]\ndrain_timeout = \"30s\""
            )
        });
        Archive { cluster, gate }
    }

    fn hang(&self) {
        std::fs::write(&self.gate, "").expect("a file in /tmp");
    }

    fn go_on(&self) {
        std::fs::remove_file(&self.gate).expect("the file");
    }
}

impl Drop for Archive {
    fn drop(&mut self) {
        // Commands that outlive their servers end with it; the test may have ended before it was made, or after.
        let _ = std::fs::remove_file(&self.gate);
    }
}

#[test]
fn a_switchover_is_refused_before_anybody_waits_and_goes_through_once_it_is_mended() {
    let archive = Archive::start();
    let cluster = &archive.cluster;
    let before = cluster.wait_until_whole();
    let old = before.primary.clone().unwrap();
    let ledger = Ledger::start(cluster);
    ledger.wait_until_flowing();

    archive.hang();
    let refused = cluster.pgherd(&["switchover"]);
    let said =
        String::from_utf8_lossy(&refused.stderr).into_owned() + &String::from_utf8_lossy(&refused.stdout);
    assert!(!refused.status.success() && said.contains("archive_command"), "{said}");
    let after = cluster.wait_until_whole();
    assert_eq!((after.primary.as_ref(), after.term), (Some(&old), before.term), "nothing has happened");
    ledger.wait_until_flowing();

    archive.go_on();
    wait_for("the switchover to go through", HANDED_OVER_TIMEOUT, || {
        cluster.pgherd(&["switchover"]).status.success().then_some(())
    });
    assert_ne!(cluster.wait_until_whole().primary, Some(old));
    ledger.finish_and_check(cluster);
}

#[test]
fn one_that_hangs_at_the_stop_holds_it_up_for_seconds_only() {
    let archive = Archive::start();
    let cluster = &archive.cluster;
    let old = cluster.wait_until_whole().primary.unwrap();
    let ledger = Ledger::start(cluster);
    ledger.wait_until_flowing();

    // The archiver has proved itself and the sessions are held, but for one whose transaction is open.
    let node = cluster.node(&old);
    let mut session = session_at(node.read_write);
    session.execute("BEGIN; SELECT 1").unwrap();
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| cluster.pgherd_ok(&["switchover"]));
        wait_for("the sessions to be held", TAKEOVER_TIMEOUT, || {
            let requests = status::requests(node.http)?;
            requests.iter().any(|request| request.stage == "holding").then_some(())
        });
        archive.hang();
        let begun = Instant::now();
        session.execute("COMMIT").unwrap();
        asked.join().expect("the switchover is done");
        assert!(begun.elapsed() < HANDED_OVER_TIMEOUT, "it took {:?}", begun.elapsed());
    });
    assert_ne!(cluster.primary(), Some(old));
    ledger.wait_until_flowing();
    // The old primary is back as a replica while the commands hang still.
    cluster.wait_until_whole();
    ledger.finish_and_check(cluster);
}

#[test]
fn a_takeover_does_not_wait_for_it() {
    let archive = Archive::start();
    let cluster = &archive.cluster;
    let old = cluster.wait_until_whole().primary.unwrap();
    let ledger = Ledger::start(cluster);
    ledger.wait_until_flowing();

    archive.hang();
    value_at(cluster.node(&old).postgres, "SELECT pg_switch_wal()").unwrap();
    let shell = || {
        let working = processes::belonging_to(&cluster.node(&old).data());
        working.into_iter().find(|process| ["sh", "sleep"].contains(&process.program()))
    };
    wait_for("the command to hang", TAKEOVER_TIMEOUT, shell);
    cluster.kill_postgres(&old);
    cluster.wait_for_primary_other_than(&old, TAKEOVER_TIMEOUT);
    ledger.wait_until_flowing();
    // The old primary is back as a replica while the command hangs still.
    cluster.wait_until_whole();
    ledger.finish_and_check(cluster);
}
