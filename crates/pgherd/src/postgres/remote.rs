//! A connection of this node's to any server of the cluster, as the cluster's own role.

use tokio::task::JoinHandle;
use tokio_postgres::{Client, Config, NoTls, SimpleQueryMessage, SimpleQueryRow};

use super::hba::REWIND_ROLE;

/// Closed when dropped.
pub(super) struct Remote {
    pub address: String,
    client: Client,
    driver: JoinHandle<()>,
}

impl Drop for Remote {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Remote {
    /// To `address`, `host:port`, with the rewind role's password. The error is for the log.
    pub async fn connect(address: &str, password: &str) -> Result<Remote, String> {
        let parts = address.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse().ok()?)));
        let (host, port) = parts.ok_or("it is no address with a port")?;
        let mut config = Config::new();
        config
            .host(host.trim_start_matches('[').trim_end_matches(']'))
            .port(port)
            .user(REWIND_ROLE)
            .password(password)
            .dbname("postgres")
            .application_name("pgherd proxy");
        let (client, connection) = config.connect(NoTls).await.map_err(|error| error.to_string())?;
        // The driver's error is the client's too, which reports it.
        let driver = tokio::spawn(async move { drop(connection.await) });
        Ok(Remote { address: address.to_owned(), client, driver })
    }

    pub fn is_usable(&self) -> bool {
        !self.client.is_closed()
    }

    /// The outer `None` when there was no answer.
    pub async fn first_row(&self, sql: &str) -> Option<Option<SimpleQueryRow>> {
        let messages = self.client.simple_query(sql).await.ok()?;
        let row = messages.into_iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        });
        Some(row)
    }
}
