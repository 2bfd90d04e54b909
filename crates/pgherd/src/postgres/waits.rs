//! Whether a process of some server waits for synchronous replication: the question behind each cancel.
//!
//! Any node may ask any server, since a session and its proxy need not be on one node.
//!
//! What it is: a connection to the server in question, as the cluster's own role, kept for the next question. What it
//! is not: an answer that lasts; the process may begin to wait right after. Invariant: what cannot be told is told so.

use tokio::sync::Mutex;

use super::remote::Remote;

/// Other users' processes show their waits to `pg_read_all_stats` only; without it nothing is known.
const MAY_SEE: &str = "SELECT pg_catalog.pg_has_role('pg_read_all_stats', 'usage')";

/// One connection serves all questions of this node, one after the other: each takes a millisecond.
#[derive(Default)]
pub struct SyncRepQuestion {
    kept: Mutex<Option<Remote>>,
}

impl SyncRepQuestion {
    /// Asks the server at `address` as the cluster's rewind role, whose password it is. `None` when it cannot be told.
    pub async fn ask(&self, address: &str, pid: u32, password: &str) -> Option<bool> {
        let mut kept = self.kept.lock().await;
        // Taken out until it has answered: one that did not is not asked again.
        let usable = kept.take().filter(|kept| kept.address == address && kept.is_usable());
        let sql = format!("SELECT wait_event = 'SyncRep' FROM pg_catalog.pg_stat_activity WHERE pid = {pid}");
        let first = match &usable {
            Some(connection) => first_value(connection, &sql).await,
            None => None,
        };
        let (connection, answer) = match (usable, first) {
            (Some(connection), Some(answer)) => (connection, answer),
            // The server may have been away since the last question.
            _ => {
                let connection = connect(address, password).await?;
                let answer = first_value(&connection, &sql).await?;
                (connection, answer)
            }
        };
        *kept = Some(connection);
        // No row: the process has ended. NULL: it waits for nothing.
        Some(answer.as_deref() == Some("t"))
    }
}

async fn connect(address: &str, password: &str) -> Option<Remote> {
    let remote = match Remote::connect(address, password).await {
        Ok(remote) => remote,
        Err(error) => {
            tracing::warn!(address, %error, "asking a server what its processes wait for failed");
            return None;
        }
    };
    (first_value(&remote, MAY_SEE).await?.as_deref() == Some("t")).then_some(remote)
}

/// The first column of the first row; the outer `None` when there was no answer.
async fn first_value(remote: &Remote, sql: &str) -> Option<Option<String>> {
    let row = remote.first_row(sql).await?;
    Some(row.and_then(|row| row.get(0).map(str::to_owned)))
}
