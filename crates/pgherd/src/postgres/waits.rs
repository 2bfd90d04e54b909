//! Whether a process of some server waits for synchronous replication: the question behind each cancel.
//!
//! Any node may ask any server, since a session and its proxy need not be on one node.
//!
//! What it is: a connection to the server in question, as the cluster's own role, kept for the next question. What it
//! is not: an answer that lasts; the process may begin to wait right after. Invariant: what cannot be told is told so.

use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio_postgres::{Client, Config, NoTls, SimpleQueryMessage};

use super::hba::REWIND_ROLE;

/// Other users' processes show their waits to `pg_read_all_stats` only; without it nothing is known.
const MAY_SEE: &str = "SELECT pg_catalog.pg_has_role('pg_read_all_stats', 'usage')";

/// One connection serves all questions of this node, one after the other: each takes a millisecond.
#[derive(Default)]
pub struct SyncRepQuestion {
    kept: Mutex<Option<Kept>>,
}

struct Kept {
    address: String,
    client: Client,
    driver: JoinHandle<()>,
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl SyncRepQuestion {
    /// Asks the server at `address` as the cluster's rewind role, whose password it is. `None` when it cannot be told.
    pub async fn ask(&self, address: &str, pid: u32, password: &str) -> Option<bool> {
        let mut kept = self.kept.lock().await;
        // Taken out until it has answered: one that did not is not asked again.
        let usable = kept.take().filter(|kept| kept.address == address && !kept.client.is_closed());
        let sql = format!("SELECT wait_event = 'SyncRep' FROM pg_catalog.pg_stat_activity WHERE pid = {pid}");
        let first = match &usable {
            Some(connection) => first_value(&connection.client, &sql).await,
            None => None,
        };
        let (connection, answer) = match (usable, first) {
            (Some(connection), Some(answer)) => (connection, answer),
            // The server may have been away since the last question.
            _ => {
                let connection = connect(address, password).await?;
                let answer = first_value(&connection.client, &sql).await?;
                (connection, answer)
            }
        };
        *kept = Some(connection);
        // No row: the process has ended. NULL: it waits for nothing.
        Some(answer.as_deref() == Some("t"))
    }
}

async fn connect(address: &str, password: &str) -> Option<Kept> {
    let (host, port) = address.rsplit_once(':')?;
    let mut config = Config::new();
    config
        .host(host.trim_start_matches('[').trim_end_matches(']'))
        .port(port.parse().ok()?)
        .user(REWIND_ROLE)
        .password(password)
        .dbname("postgres")
        .application_name("pgherd proxy");
    let (client, connection) = match config.connect(NoTls).await {
        Ok(connected) => connected,
        Err(error) => {
            tracing::warn!(address, %error, "asking a server what its processes wait for failed");
            return None;
        }
    };
    // The driver's error is the client's too, which reports it.
    let driver = tokio::spawn(async move { drop(connection.await) });
    let kept = Kept { address: address.to_owned(), client, driver };
    (first_value(&kept.client, MAY_SEE).await?.as_deref() == Some("t")).then_some(kept)
}

/// The first column of the first row; the outer `None` when there was no answer.
async fn first_value(client: &Client, sql: &str) -> Option<Option<String>> {
    let messages = client.simple_query(sql).await.ok()?;
    let value = messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    });
    Some(value)
}
