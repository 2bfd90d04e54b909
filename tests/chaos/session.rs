//! A connection that asks simple questions, each with a deadline.

use std::fmt;
use std::time::Duration;

use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

/// Longer than a proxy's queue in a takeover within its bounds; a door that stays shut must not keep a client.
const OPEN_TIMEOUT: Duration = Duration::from_secs(4);
/// A commit that waits for a standby that was cut off is in doubt after this, and its client goes elsewhere.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

pub struct Session {
    client: Client,
    connection: tokio::task::JoinHandle<()>,
}

#[derive(Debug)]
pub enum Problem {
    Server { state: SqlState, severity: String, message: String },
    Connection(String),
    NoAnswer,
}

impl Problem {
    pub fn state(&self) -> Option<SqlState> {
        match self {
            Problem::Server { state, .. } => Some(state.clone()),
            _ => None,
        }
    }

    pub fn keeps_session(&self) -> bool {
        matches!(self, Problem::Server { severity, .. } if severity == "ERROR")
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Problem::Server { state, message, .. } => write!(f, "{}: {message}", state.code()),
            Problem::Connection(text) => write!(f, "connection: {text}"),
            Problem::NoAnswer => write!(f, "no answer within {} s", ANSWER_TIMEOUT.as_secs()),
        }
    }
}

impl std::error::Error for Problem {}

impl From<tokio_postgres::Error> for Problem {
    fn from(error: tokio_postgres::Error) -> Problem {
        match error.as_db_error() {
            Some(error) => Problem::Server {
                state: error.code().clone(),
                severity: error.severity().to_owned(),
                message: error.message().to_owned(),
            },
            None => Problem::Connection(error.to_string()),
        }
    }
}

impl Session {
    /// As the superuser.
    pub async fn open(host: &str, port: u16) -> Result<Session, Problem> {
        Session::open_as("postgres", host, port).await
    }

    pub async fn open_as(user: &str, host: &str, port: u16) -> Result<Session, Problem> {
        let text = format!("host={host} port={port} user={user} dbname=postgres application_name=chaos");
        let attempt = tokio::time::timeout(OPEN_TIMEOUT, tokio_postgres::connect(&text, NoTls)).await;
        let (client, connection) = attempt.map_err(|_| Problem::NoAnswer)??;
        let connection = tokio::spawn(async move {
            // The client's own calls report what went wrong with the connection.
            let _ = connection.await;
        });
        Ok(Session { client, connection })
    }

    /// The first value of the answer, when there is one.
    pub async fn ask(&self, sql: &str) -> Result<Option<String>, Problem> {
        let rows = self.rows(sql).await?;
        Ok(rows.into_iter().next().and_then(|row| row.into_iter().next().flatten()))
    }

    pub async fn rows(&self, sql: &str) -> Result<Vec<Vec<Option<String>>>, Problem> {
        let answer = tokio::time::timeout(ANSWER_TIMEOUT, self.client.simple_query(sql)).await;
        let messages = answer.map_err(|_| Problem::NoAnswer)??;
        let rows = messages.into_iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => {
                Some((0..row.len()).map(|column| row.get(column).map(str::to_owned)).collect())
            }
            _ => None,
        });
        Ok(rows.collect())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // One that does not answer is closed, not waited for.
        self.connection.abort();
    }
}

pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime")
}
