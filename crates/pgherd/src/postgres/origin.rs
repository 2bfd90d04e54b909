//! A server of another cluster, asked by the network: is it a primary, and which history has it?
//!
//! Asked as the rewind role, which the other cluster has by the same name and password: this one is a copy of it. What it
//! is not: a judgement which of several is right. Invariant: what could not be read as a whole is an error.

use std::time::Duration;

use tokio_postgres::{Client, Config, NoTls, SimpleQueryMessage};
use wire::{History, Lsn, Timeline};

use super::error::{Error, Result, within};
use super::hba::REWIND_ROLE;
use super::server::{Server, Source};
use super::session::QUERY_DEADLINE;
use super::sync::parse_lsn;

/// A connection over a long line takes some hundred milliseconds; a dead host answers never.
const ASK_DEADLINE: Duration = Duration::from_secs(2);

const WHAT: &str = "ask a server of the cluster that is followed";

/// What it said.
#[derive(Clone, PartialEq, Debug)]
pub enum OriginServer {
    Primary { system_id: u64, history: History, flush: Lsn },
    Standby { system_id: u64 },
}

/// What the local server says of whom it streams from.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Received {
    /// `host:port`, the host as it was configured.
    pub sender: Option<String>,
    /// When the last transaction that was replayed had committed.
    pub last_commit: Option<String>,
}

/// Asks the server at `source`, whose password is [`REWIND_ROLE`]'s.
pub async fn ask(source: &Source) -> Result<OriginServer> {
    let mut config = Config::new();
    config.host(&source.host).port(source.port).user(REWIND_ROLE).password(&source.password);
    config.dbname("postgres").application_name("pgherd standby cluster").connect_timeout(ASK_DEADLINE);
    within(WHAT, ASK_DEADLINE, async {
        let (client, connection) = config.connect(NoTls).await.map_err(Error::sql(WHAT))?;
        // The driver's error is the client's too, which reports it.
        let driver = tokio::spawn(async move { drop(connection.await) });
        let answer = read(&client).await;
        driver.abort();
        answer
    })
    .await
}

async fn read(client: &Client) -> Result<OriginServer> {
    const ROLE: &str =
        "SELECT pg_catalog.pg_is_in_recovery(), system_identifier FROM pg_catalog.pg_control_system()";
    let role = row(client, ROLE).await?;
    let system_id =
        role.get(1).and_then(|id| id.parse().ok()).ok_or_else(|| unreadable("a system identifier"))?;
    if role.first().map(String::as_str) == Some("t") {
        return Ok(OriginServer::Standby { system_id });
    }
    const END: &str = "SELECT left(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn()), 8), \
         pg_catalog.pg_current_wal_flush_lsn()";
    let end = row(client, END).await?;
    let timeline = end.first().and_then(|id| u32::from_str_radix(id, 16).ok()).map(Timeline);
    let timeline = timeline.ok_or_else(|| unreadable("a timeline"))?;
    let flush = parse_lsn(end.get(1).cloned())?;
    let history = match timeline {
        Timeline::FIRST => History::root(timeline),
        later => {
            let sql = format!(
                "SELECT pg_catalog.convert_from(pg_catalog.pg_read_binary_file('pg_wal/{}'), 'UTF8')",
                later.history_file()
            );
            let text = row(client, &sql).await?.into_iter().next().unwrap_or_default();
            History::parse(later, &text).map_err(|error| unreadable(&error.to_string()))?
        }
    };
    Ok(OriginServer::Primary { system_id, history, flush })
}

fn unreadable(what: &str) -> Error {
    Error::Io {
        what: WHAT.into(),
        source: std::io::Error::other(format!("its answer holds no readable {what}")),
    }
}

/// The first row.
async fn row(client: &Client, sql: &str) -> Result<Vec<String>> {
    let messages = client.simple_query(sql).await.map_err(Error::sql(WHAT))?;
    let row = messages.into_iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => {
            Some((0..row.len()).map(|index| row.get(index).unwrap_or_default().to_owned()).collect())
        }
        _ => None,
    });
    row.ok_or_else(|| unreadable("row"))
}

impl Server {
    /// Whom the local receiver streams from; `None` while the server is being changed.
    pub async fn received(&self) -> Option<Received> {
        const SQL: &str = "SELECT r.sender_host, r.sender_port, pg_last_xact_replay_timestamp()::text \
             FROM (SELECT) AS one LEFT JOIN pg_stat_wal_receiver AS r ON r.status = 'streaming'";
        let mut admin = self.admin.try_lock().ok()?;
        let session = admin.session(&self.layout, self.config.port).await.ok()?;
        let rows = session.rows("read whom the receiver streams from", SQL, QUERY_DEADLINE).await.ok()?;
        let value = |index: usize| rows.first().and_then(|row| row.get(index)).map(str::to_owned);
        let sender = value(0).zip(value(1)).map(|(host, port)| match host.contains(':') {
            true => format!("[{host}]:{port}"),
            false => format!("{host}:{port}"),
        });
        Some(Received { sender, last_commit: value(2) })
    }
}
