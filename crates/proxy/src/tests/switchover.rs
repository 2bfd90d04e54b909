//! pgbench through two proxies while the primary changes, as in a planned switchover: no client may notice.

use std::net::SocketAddr;
use std::process::{Output, Stdio};

use tokio::time::Instant;

use super::server::{Postgres, command};
use super::*;
use crate::topology::Hold;

const CLIENTS: usize = 4;
/// Of each client: some seconds of work.
const TRANSACTIONS: usize = 1500;

/// TPC-B through a read-write port, with whatever else is asked.
fn pgbench(address: SocketAddr, arguments: &[&str]) -> tokio::task::JoinHandle<Output> {
    let mut command = command("pgbench");
    command
        .args(["-h", "127.0.0.1", "-p", &address.port().to_string(), "-U", "postgres"])
        .args(arguments)
        .arg("postgres")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    tokio::task::spawn_blocking(move || command.output().unwrap())
}

async fn transactions(postgres: &Postgres) -> i64 {
    let row = postgres.admin().await.query_one("SELECT count(*) FROM pgbench_history", &[]).await.unwrap();
    row.get(0)
}

async fn has_standby(postgres: &Postgres) -> bool {
    let streaming = "SELECT count(*) > 0 FROM pg_stat_replication WHERE state = 'streaming'";
    postgres.admin().await.query_one(streaming, &[]).await.unwrap().get(0)
}

/// Its output at the end, however long so much work takes on this machine: while transactions end, nobody hangs.
async fn ended(mut run: tokio::task::JoinHandle<Output>, postgres: &Postgres) -> Output {
    let mut done = transactions(postgres).await;
    loop {
        match tokio::time::timeout(PATIENCE, &mut run).await {
            Ok(output) => return output.unwrap(),
            Err(_) => {
                let now = transactions(postgres).await;
                assert!(now > done, "pgbench hangs: {now} transactions, and no other within {PATIENCE:?}");
                done = now;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pgbench_survives_a_switchover_without_an_error() {
    let old = tokio::task::spawn_blocking(|| Postgres::start("trust", &[])).await.unwrap();
    let admin = old.admin().await;
    let stands = [
        Stand::new(config(), topology(1, Some(&old.address), &[])).await,
        Stand::new(config(), topology(1, Some(&old.address), &[])).await,
    ];
    let initialized = soon(pgbench(stands[0].read_write(), &["-i", "-q"])).await.unwrap();
    assert!(initialized.status.success(), "{initialized:?}");
    let (new, mut old) = tokio::task::spawn_blocking(move || (old.standby(), old)).await.unwrap();
    let runs = ["simple", "extended", "prepared"].map(|protocol| {
        let stand = &stands[usize::from(protocol == "extended")];
        let (clients, count) = (CLIENTS.to_string(), TRANSACTIONS.to_string());
        pgbench(stand.read_write(), &["-n", "-M", protocol, "-c", &clients, "-t", &count])
    });
    // Under way, and with a successor: who does not stream yet when the old primary stops is sent nothing.
    soon(async { while transactions(&old).await < 200 || !has_standby(&old).await {} }).await;
    let hold = Some(Hold { id: 1, until: Instant::now() + PATIENCE });
    for stand in &stands {
        stand.topology.send_modify(|topology| topology.hold = hold);
    }
    stands[0].until(|counts| counts.parked == 2 * CLIENTS).await;
    stands[1].until(|counts| counts.parked == CLIENTS).await;
    let before = admin.query_one("SELECT count(*) FROM pgbench_history", &[]).await.unwrap().get::<_, i64>(0);
    assert!(before < (3 * CLIENTS * TRANSACTIONS) as i64, "the switchover came too late");
    drop(admin);
    let old = tokio::task::spawn_blocking(move || {
        old.stop();
        old
    });
    let _old = soon(old).await.unwrap();
    for stand in &stands {
        stand.topology.send_replace(Topology { hold, ..topology(1, None, &[]) });
    }
    let new = tokio::task::spawn_blocking(move || {
        new.promote();
        new
    });
    let new = soon(new).await.unwrap();
    assert_eq!(transactions(&new).await, before, "nothing is lost, and nothing has run meanwhile");
    for stand in &stands {
        stand.topology.send_replace(topology(2, Some(&new.address), &[]));
    }
    for run in runs {
        let output = ended(run, &new).await;
        let text =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{text}");
        assert!(text.contains("number of failed transactions: 0 "), "{text}");
    }
    assert_eq!(transactions(&new).await, (3 * CLIENTS * TRANSACTIONS) as i64, "each ran once");
    let counts = stands.map(|stand| stand.proxy.counts());
    assert_eq!(counts.map(|counts| counts.moved), [2 * CLIENTS as u64, CLIENTS as u64]);
    assert_eq!(counts.map(|counts| counts.cuts), [0, 0]);
}
