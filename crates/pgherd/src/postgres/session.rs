//! The agent's own connections to its server, by the private socket.
//!
//! They speak the simple query protocol in walsenders that are bound to a database (`replication=database`), which run
//! SQL like any backend but take their slots from `max_wal_senders`: clients that hold every connection slot, those
//! reserved for superusers too, keep neither a running agent nor one that starts out of its server. One connection also
//! answers `IDENTIFY_SYSTEM`. Only where walsenders are used up does a session take an ordinary slot.
//!
//! Invariant: none of them ever waits for a standby (`synchronous_commit = local`), resolves a name outside
//! `pg_catalog`, or hangs: every statement has a deadline, and a connection that missed one is thrown away.

use std::time::Duration;

use bytes::BytesMut;
use postgres_protocol::message::backend::{DataRowBody, ErrorResponseBody, Message};
use postgres_protocol::message::frontend;
use rustix::net::RecvFlags;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio_postgres::fallible_iterator::FallibleIterator;

use super::error::{Error, Result, TOO_MANY_CONNECTIONS, within};
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

/// Where the agent's kept sessions are.
const OWN_DATABASE: &str = "postgres";

/// Whose slot a session takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Seat {
    Walsender,
    /// As clients connect.
    Ordinary,
}

pub(super) struct Session {
    stream: UnixStream,
    received: BytesMut,
    broken: bool,
}

/// One row of an answer, as text.
#[derive(Debug)]
pub(super) struct Row(Vec<Option<String>>);

impl Row {
    /// `None` for NULL and for a column that is not there.
    pub fn get(&self, index: usize) -> Option<&str> {
        self.0.get(index)?.as_deref()
    }

    /// All that are not NULL, in their order.
    pub fn columns(&self) -> impl Iterator<Item = &str> {
        self.0.iter().flatten().map(String::as_str)
    }
}

impl Session {
    pub async fn open(layout: &Layout, port: u16, deadline: Duration) -> Result<Session> {
        match Session::open_as(Seat::Walsender, layout, port, deadline).await {
            Err(error) if error.sqlstate() == Some(TOO_MANY_CONNECTIONS) => {
                Session::open_as(Seat::Ordinary, layout, port, deadline).await
            }
            result => result,
        }
    }

    pub async fn open_as(seat: Seat, layout: &Layout, port: u16, deadline: Duration) -> Result<Session> {
        Session::connect(OWN_DATABASE, seat, layout, port, deadline).await
    }

    /// In another database than our own; needed for what PostgreSQL does only in an object's own database.
    pub async fn open_in(layout: &Layout, port: u16, database: &str, deadline: Duration) -> Result<Session> {
        if database == OWN_DATABASE {
            return Session::open(layout, port, deadline).await;
        }
        Session::connect(database, Seat::Ordinary, layout, port, deadline).await
    }

    async fn connect(
        database: &str,
        seat: Seat,
        layout: &Layout,
        port: u16,
        deadline: Duration,
    ) -> Result<Session> {
        const WHAT: &str = "connect to the local PostgreSQL";
        let path = layout.run.join(format!(".s.PGSQL.{port}"));
        within(WHAT, deadline, async {
            let stream = UnixStream::connect(&path).await.map_err(Error::at("connect to", &path))?;
            let mut session = Session { stream, received: BytesMut::new(), broken: false };
            let parameters = [
                ("user", "postgres"),
                ("database", database),
                ("application_name", APPLICATION_NAME),
                ("client_encoding", "UTF8"),
                ("options", OPTIONS),
                ("replication", "database"),
            ];
            let count = if seat == Seat::Walsender { 6 } else { 5 };
            let mut message = BytesMut::new();
            let parameters = parameters.into_iter().take(count);
            frontend::startup_message(parameters, &mut message).map_err(Error::io(WHAT))?;
            session.stream.write_all(&message).await.map_err(Error::io(WHAT))?;
            session.until_ready(WHAT).await.map(drop)?;
            Ok(session)
        })
        .await
    }

    /// True while the server has not closed the connection and no answer is owed.
    pub fn usable(&mut self) -> bool {
        let mut bytes = [0; 4096];
        // What comes between two statements is notices and settings that a reload has changed, read with the next answer.
        while !self.broken {
            match rustix::net::recv(&self.stream, &mut bytes[..], RecvFlags::DONTWAIT) {
                Ok((0, _)) => self.broken = true,
                Ok((count, _)) => self.received.extend_from_slice(&bytes[..count]),
                Err(rustix::io::Errno::AGAIN) => break,
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => self.broken = true,
            }
        }
        !self.broken
    }

    /// The rows of all statements in `sql`.
    pub async fn rows(&mut self, what: &str, sql: &str, deadline: Duration) -> Result<Vec<Row>> {
        // Broken until proven otherwise: also when the caller drops this future half way.
        self.broken = true;
        let result = within(what, deadline, async {
            let mut message = BytesMut::new();
            frontend::query(sql, &mut message).map_err(Error::io(what))?;
            self.stream.write_all(&message).await.map_err(Error::io(what))?;
            self.until_ready(what).await
        })
        .await;
        // An error of the statement leaves the connection whole; one of the connection does not.
        self.broken = !matches!(&result, Ok(_) | Err(Error::Sql { closed: false, .. }));
        result
    }

    /// The first column of the first row; `None` for NULL or no row.
    pub async fn value(&mut self, what: &str, sql: &str, deadline: Duration) -> Result<Option<String>> {
        let rows = self.rows(what, sql, deadline).await?;
        Ok(rows.first().and_then(|row| row.get(0)).map(str::to_owned))
    }

    /// Reads up to ReadyForQuery; the first error that was reported on the way is the result.
    async fn until_ready(&mut self, what: &str) -> Result<Vec<Row>> {
        let mut rows = Vec::new();
        let mut failed = None;
        loop {
            match Message::parse(&mut self.received).map_err(Error::io(what))? {
                Some(Message::ReadyForQuery(_)) => return failed.map_or(Ok(rows), Err),
                Some(Message::ErrorResponse(body)) => {
                    failed.get_or_insert_with(|| reported(what, &body));
                }
                Some(Message::DataRow(body)) => rows.push(texts(&body).map_err(Error::io(what))?),
                Some(
                    Message::AuthenticationOk
                    | Message::BackendKeyData(_)
                    | Message::ParameterStatus(_)
                    | Message::NoticeResponse(_)
                    | Message::RowDescription(_)
                    | Message::EmptyQueryResponse
                    | Message::CommandComplete(_),
                ) => {}
                Some(_) => return Err(lost(what, "the server sent an unexpected message")),
                None => {
                    let count = self.stream.read_buf(&mut self.received).await.map_err(Error::io(what))?;
                    if count == 0 {
                        let closed = || lost(what, "the server closed the connection");
                        return Err(failed.map_or_else(closed, Error::closing));
                    }
                }
            }
        }
    }
}

fn lost(what: &str, message: &str) -> Error {
    Error::Sql { what: what.to_owned(), message: message.to_owned(), sqlstate: None, closed: true }
}

fn texts(body: &DataRowBody) -> std::io::Result<Row> {
    let text = |range: Option<std::ops::Range<usize>>| {
        range.map(|range| String::from_utf8_lossy(&body.buffer()[range]).into_owned())
    };
    body.ranges().map(|range| Ok(text(range))).collect().map(Row)
}

fn reported(what: &str, body: &ErrorResponseBody) -> Error {
    let (mut message, mut sqlstate) = (String::new(), None);
    let mut fields = body.fields();
    while let Ok(Some(field)) = fields.next() {
        let value = String::from_utf8_lossy(field.value_bytes()).into_owned();
        match field.type_() {
            b'M' => message = value,
            b'C' => sqlstate = Some(value),
            _ => {}
        }
    }
    if let Some(code) = &sqlstate {
        message.push_str(&format!(" (SQLSTATE {code})"));
    }
    Error::Sql { what: what.to_owned(), message, sqlstate, closed: false }
}

/// A session that is opened when first needed and again when it broke.
#[derive(Default)]
pub(super) struct Kept(Option<Session>);

impl Kept {
    pub async fn session(&mut self, layout: &Layout, port: u16) -> Result<&mut Session> {
        self.session_in(layout, port, OWN_DATABASE).await
    }

    pub async fn session_in(&mut self, layout: &Layout, port: u16, database: &str) -> Result<&mut Session> {
        if !self.0.as_mut().is_some_and(Session::usable) {
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
