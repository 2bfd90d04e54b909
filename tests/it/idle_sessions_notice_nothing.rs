//! The primary's postmaster gets SIGKILL while sessions are idle: they go on with the new primary as they were.

use std::time::Duration;

use anyhow::{Context, Result};
use tests::{Cluster, wait_for};
use tokio_postgres::{Client, NoTls};

/// Ten times the bound for the p99: this is about what sessions see, the bench measures speed.
const TAKEOVER_TIMEOUT: Duration = Duration::from_secs(30);
/// For one answer: it waits for the new primary.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

async fn session(port: u16) -> Result<Client> {
    let text = format!("host=127.0.0.1 port={port} user=postgres dbname=postgres connect_timeout=10");
    let (client, connection) = tokio_postgres::connect(&text, NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// The session's own mark, which only its settings have, and whether it may write.
async fn mark(session: &Client) -> Result<(String, bool)> {
    let row = session.query_one("SELECT current_setting('my.mark'), pg_is_in_recovery()", &[]).await?;
    Ok((row.get(0), !row.get::<_, bool>(1)))
}

#[test]
fn sessions_keep_their_settings_and_statements() {
    let cluster = Cluster::start(3);
    let before = cluster.wait_until_whole();
    let old = before.primary.unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    // The killed node's own proxy lives, and so do its sessions.
    let sessions: Vec<_> = cluster
        .nodes()
        .iter()
        .map(|node| {
            runtime.block_on(async {
                let session = session(node.read_write).await?;
                session.batch_execute(&format!("SET my.mark = '{}'", node.name)).await?;
                let statement = session.prepare("SELECT $1::int + 1").await?;
                anyhow::Ok((node.name.clone(), session, statement))
            })
        })
        .collect::<Result<_>>()
        .unwrap();

    cluster.kill_postgres(&old);
    wait_for("a primary in a later term", TAKEOVER_TIMEOUT, || {
        cluster.status().filter(|status| status.term > before.term && status.primary.is_some())
    });
    for (name, session, statement) in &sessions {
        let answer = async {
            let seen = mark(session).await?;
            let sum: i32 = session.query_one(statement, &[&41]).await?.get(0);
            anyhow::Ok((seen, sum))
        };
        let answer = runtime.block_on(async { tokio::time::timeout(ANSWER_TIMEOUT, answer).await });
        let (seen, sum) = answer.unwrap().with_context(|| format!("the session through {name}")).unwrap();
        assert_eq!((seen, sum), ((name.clone(), true), 42));
    }
}
