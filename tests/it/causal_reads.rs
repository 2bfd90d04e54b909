//! Sessions of the auto port read what they have written, through takeovers, while replicas serve most of what they read.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use tests::{Cluster, Node, connect, page_at, wait_for};

const TAKEOVER_TIMEOUT: Duration = Duration::from_secs(30);
/// Reads by replicas that show that these serve.
const SERVED: u64 = 100;
const SERVED_TIMEOUT: Duration = Duration::from_secs(60);
/// Between two reads, so that a replica has time to have what was written: a read, too.
const PAUSE: &str = "SELECT pg_sleep(0.02)";

/// Counts up in a row of its own and reads the count after each write: twice, so that a replica has time to have it.
async fn count_up(port: u16, id: i32, rounds: &AtomicU64, stop: &AtomicBool) -> Result<()> {
    let mut known = 0i64;
    while !stop.load(Ordering::Relaxed) {
        // The proxy has those wait who come while there is no primary.
        let Ok(session) = connect(port).await else { continue };
        while !stop.load(Ordering::Relaxed) {
            let raise = "UPDATE counters SET n = n + 1 WHERE id = $1 RETURNING n";
            let Ok(row) = session.query_one(raise, &[&id]).await else { break };
            let raised: i64 = row.get(0);
            // One that ended in an error may have counted.
            ensure!(raised > known, "session {id}: after {known} it wrote {raised}: a write is lost");
            known = raised;
            for _ in 0..2 {
                let read = "SELECT n FROM counters WHERE id = $1";
                // Nobody repeats what a primary may have done.
                let Ok(row) = session.query_one(read, &[&id]).await else { continue };
                let read: i64 = row.get(0);
                ensure!(read == known, "session {id}: it wrote {known} and reads {read}");
                let _ = session.batch_execute(PAUSE).await;
            }
            rounds.fetch_add(1, Ordering::Relaxed);
        }
    }
    Ok(())
}

/// Reads that the replicas have served to the sessions of this node's auto port.
fn served(node: &Node) -> Option<u64> {
    let name = "pgherd_proxy_reads_by_replicas_total ";
    let text = page_at(&node.host, node.http, "/metrics")?;
    text.lines().find_map(|line| line.strip_prefix(name)?.parse().ok())
}

#[test]
fn a_session_reads_what_it_has_written_through_a_takeover() {
    let cluster = Cluster::start(3);
    let before = cluster.wait_until_whole();
    let old = before.primary.unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let first = cluster.node(&old).clone();
    runtime.block_on(async {
        let made = "CREATE TABLE counters (id int PRIMARY KEY, n bigint); \
                    INSERT INTO counters SELECT i, 0 FROM generate_series(0, 11) i";
        connect(first.auto).await.unwrap().batch_execute(made).await.unwrap();
    });
    let (rounds, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let sessions: Vec<_> = (0..12)
        .map(|id| {
            let port = cluster.nodes()[id as usize % 3].auto;
            let (rounds, stop) = (Arc::clone(&rounds), Arc::clone(&stop));
            runtime.spawn(async move { count_up(port, id, &rounds, &stop).await })
        })
        .collect();
    let wait_served = |what: &str| {
        let so_far: Vec<u64> = cluster.nodes().iter().map(|node| served(node).unwrap_or(0)).collect();
        wait_for(what, SERVED_TIMEOUT, || {
            let now = cluster.nodes().iter().zip(&so_far);
            let all =
                now.into_iter().all(|(node, so_far)| served(node).is_some_and(|now| now >= so_far + SERVED));
            (all || sessions.iter().any(|session| session.is_finished())).then_some(())
        });
    };
    wait_served("reads by replicas, through each node");
    cluster.kill_postgres(&old);
    wait_for("a primary in a later term", TAKEOVER_TIMEOUT, || {
        cluster.status().filter(|status| status.term > before.term && status.primary.is_some())
    });
    wait_served("reads by replicas of the new primary, through each node");
    stop.store(true, Ordering::Relaxed);
    for session in sessions {
        runtime.block_on(session).unwrap().unwrap();
    }
    assert!(rounds.load(Ordering::Relaxed) > 0);
}
