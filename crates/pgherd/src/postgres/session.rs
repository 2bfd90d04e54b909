//! The agent's own connections to its server, by the private socket.
//!
//! Invariant: none of them ever waits for a standby (`synchronous_commit = local`), resolves a name outside
//! `pg_catalog`, or hangs: every statement has a deadline, and a connection that missed one is thrown away.

use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_postgres::{Client, Config, NoTls, SimpleQueryMessage, SimpleQueryRow};

use super::error::{Error, Result, within};
use super::layout::Layout;

pub(super) const APPLICATION_NAME: &str = "pgherd agent";

/// A fork, the authentication and a catalog look-up take milliseconds; a second means trouble.
pub(super) const CONNECT_DEADLINE: Duration = Duration::from_secs(1);
/// For statements that read shared memory only.
pub(super) const QUERY_DEADLINE: Duration = Duration::from_secs(1);

/// The server ends a statement of ours that nobody waits for any more. `CHECKPOINT` sets its own.
const OPTIONS: &str = "-c synchronous_commit=local -c statement_timeout=30s -c lock_timeout=0 -c search_path=pg_catalog \
     -c idle_session_timeout=0 -c idle_in_transaction_session_timeout=0 -c standard_conforming_strings=on \
     -c client_min_messages=warning -c default_transaction_read_only=off -c log_statement=none -c log_min_duration_statement=-1";

pub(super) struct Session {
    client: Client,
    driver: JoinHandle<()>,
    broken: bool,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Session {
    pub async fn open(layout: &Layout, port: u16, deadline: Duration) -> Result<Session> {
        Session::open_in(layout, port, "postgres", deadline).await
    }

    /// In another database than our own; needed for what PostgreSQL does only in an object's own database.
    pub async fn open_in(layout: &Layout, port: u16, database: &str, deadline: Duration) -> Result<Session> {
        let mut config = Config::new();
        config
            .host_path(&layout.run)
            .port(port)
            .user("postgres")
            .dbname(database)
            .application_name(APPLICATION_NAME)
            .options(OPTIONS);
        let what = "connect to the local PostgreSQL";
        within(what, deadline, async {
            let (client, connection) = config.connect(NoTls).await.map_err(Error::sql(what))?;
            // The driver's error is the client's too, which reports it.
            let driver = tokio::spawn(async move { drop(connection.await) });
            Ok(Session { client, driver, broken: false })
        })
        .await
    }

    pub fn usable(&self) -> bool {
        !self.broken && !self.client.is_closed()
    }

    /// The rows of all statements in `sql`, as text.
    pub async fn rows(&mut self, what: &str, sql: &str, deadline: Duration) -> Result<Vec<SimpleQueryRow>> {
        // Broken until proven otherwise: also when the caller drops this future half way.
        self.broken = true;
        let result =
            within(what, deadline, async { self.client.simple_query(sql).await.map_err(Error::sql(what)) })
                .await;
        self.broken = matches!(result, Err(Error::Deadline { .. }));
        let row = |message| match message {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        };
        Ok(result?.into_iter().filter_map(row).collect())
    }

    /// The first column of the first row; `None` for NULL or no row.
    pub async fn value(&mut self, what: &str, sql: &str, deadline: Duration) -> Result<Option<String>> {
        let rows = self.rows(what, sql, deadline).await?;
        Ok(rows.first().and_then(|row| row.get(0)).map(str::to_owned))
    }
}

/// A session that is opened when first needed and again when it broke.
#[derive(Default)]
pub(super) struct Kept(Option<Session>);

impl Kept {
    pub async fn session(&mut self, layout: &Layout, port: u16) -> Result<&mut Session> {
        self.session_in(layout, port, "postgres").await
    }

    pub async fn session_in(&mut self, layout: &Layout, port: u16, database: &str) -> Result<&mut Session> {
        if !self.0.as_ref().is_some_and(Session::usable) {
            self.0 = None;
        }
        match &mut self.0 {
            Some(session) => Ok(session),
            empty => Ok(empty.insert(Session::open_in(layout, port, database, CONNECT_DEADLINE).await?)),
        }
    }

    pub fn close(&mut self) {
        self.0 = None;
    }
}

/// A string constant; `standard_conforming_strings` is on in every session of ours.
pub(super) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// A quoted identifier.
pub(super) fn identifier(text: &str) -> String {
    format!("\"{}\"", text.replace('"', "\"\""))
}
