//! Whether a process of some server waits for synchronous replication: the question behind each cancel.
//!
//! What it is: a connection to the server in question, as the cluster's own role, kept for the next question. What it
//! is not: an answer that lasts; the process may begin to wait right after. Invariant: what cannot be told is told so.

use std::pin::Pin;
use std::sync::Arc;

use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio_postgres::{Client, Config, NoTls, SimpleQueryMessage};

use super::work::Worker;
use crate::postgres::REWIND_ROLE;
use crate::proxy::SyncWaits;

/// Other users' processes show their waits to `pg_read_all_stats` only; without it nothing is known.
const MAY_SEE: &str = "SELECT pg_catalog.pg_has_role('pg_read_all_stats', 'usage')";

/// One connection serves all questions of this node, one after the other: each takes a millisecond.
pub struct ServerWaits {
    worker: Arc<Worker>,
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

impl ServerWaits {
    pub fn new(worker: Arc<Worker>) -> ServerWaits {
        ServerWaits { worker, kept: Mutex::default() }
    }

    async fn ask(&self, address: &str, pid: u32) -> Option<bool> {
        let mut kept = self.kept.lock().await;
        // Taken out until it has answered: one that did not is not asked again.
        let usable = kept.take().filter(|kept| kept.address == address && !kept.client.is_closed());
        let connection = match usable {
            Some(connection) => connection,
            None => self.connect(address).await?,
        };
        let sql = format!("SELECT wait_event = 'SyncRep' FROM pg_catalog.pg_stat_activity WHERE pid = {pid}");
        let answer = first_value(&connection.client, &sql).await?;
        *kept = Some(connection);
        // No row: the process has ended. NULL: it waits for nothing.
        Some(answer.as_deref() == Some("t"))
    }

    async fn connect(&self, address: &str) -> Option<Kept> {
        let (host, port) = address.rsplit_once(':')?;
        let password = self.worker.known().credentials.as_ref()?.rewind.clone();
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

impl SyncWaits for ServerWaits {
    fn waits<'a>(
        &'a self,
        address: &'a str,
        pid: u32,
    ) -> Pin<Box<dyn Future<Output = Option<bool>> + Send + 'a>> {
        Box::pin(self.ask(address, pid))
    }
}
