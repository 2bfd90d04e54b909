//! The replication protocol's `IDENTIFY_SYSTEM`, on a connection of its own by the private socket.
//!
//! Why it is needed: no SQL function of PostgreSQL 15 to 18 tells on which timeline a standby's replay is *now*. The
//! control file lags by a restartpoint, `received_tli` belongs to the receiver, and the newest history file in pg_wal
//! may name a branch that the server has refused to enter. `IDENTIFY_SYSTEM` answers from the startup
//! process's own shared memory (`GetStandbyFlushRecPtr`: the timeline of the last replayed record).

use std::time::Duration;

use bytes::BytesMut;
use postgres_protocol::message::backend::{DataRowBody, ErrorResponseBody, Message};
use postgres_protocol::message::frontend;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio_postgres::fallible_iterator::FallibleIterator;
use wire::{Lsn, Timeline};

use super::error::{Error, Result, within};
use super::layout::Layout;
use super::session::APPLICATION_NAME;

/// What the server says of itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Identity {
    pub system_id: u64,
    /// Of the last replayed record on a standby, the current one on a primary.
    pub timeline: Timeline,
    /// Primary: flushed. Standby: replayed, or received where the receiver is on the same timeline and further.
    pub lsn: Lsn,
}

pub(super) struct Replication {
    stream: UnixStream,
    received: BytesMut,
    broken: bool,
}

impl Replication {
    pub async fn open(layout: &Layout, port: u16, deadline: Duration) -> Result<Replication> {
        let path = layout.run.join(format!(".s.PGSQL.{port}"));
        within("open a replication connection to the local PostgreSQL", deadline, async {
            let stream = UnixStream::connect(&path).await.map_err(Error::at("connect to", &path))?;
            let mut connection = Replication { stream, received: BytesMut::new(), broken: false };
            let parameters =
                [("user", "postgres"), ("replication", "true"), ("application_name", APPLICATION_NAME)];
            let mut message = BytesMut::new();
            frontend::startup_message(parameters, &mut message).map_err(protocol)?;
            connection.stream.write_all(&message).await.map_err(protocol)?;
            connection.until_ready().await?;
            Ok(connection)
        })
        .await
    }

    pub fn usable(&self) -> bool {
        !self.broken
    }

    pub async fn identify(&mut self, deadline: Duration) -> Result<Identity> {
        self.broken = true;
        let identity = within("IDENTIFY_SYSTEM", deadline, async {
            let mut message = BytesMut::new();
            frontend::query("IDENTIFY_SYSTEM", &mut message).map_err(protocol)?;
            self.stream.write_all(&message).await.map_err(protocol)?;
            let columns = self.until_ready().await?;
            let column = |index: usize| columns.get(index).map(String::as_str).unwrap_or_default();
            let parsed = (column(0).parse(), column(1).parse(), column(2).parse());
            match parsed {
                (Ok(system_id), Ok(timeline), Ok(lsn)) => {
                    Ok(Identity { system_id, timeline: Timeline(timeline), lsn })
                }
                _ => Err(unexpected(&format!("IDENTIFY_SYSTEM answered {columns:?}"))),
            }
        })
        .await?;
        self.broken = false;
        Ok(identity)
    }

    /// Reads up to ReadyForQuery; returns the columns of the last row.
    async fn until_ready(&mut self) -> Result<Vec<String>> {
        let mut columns = Vec::new();
        loop {
            match Message::parse(&mut self.received).map_err(protocol)? {
                Some(Message::ReadyForQuery(_)) => return Ok(columns),
                Some(Message::ErrorResponse(body)) => return Err(reported(&body)),
                Some(Message::DataRow(body)) => columns = texts(&body)?,
                Some(
                    Message::AuthenticationOk
                    | Message::BackendKeyData(_)
                    | Message::ParameterStatus(_)
                    | Message::NoticeResponse(_)
                    | Message::RowDescription(_)
                    | Message::CommandComplete(_),
                ) => {}
                Some(_) => return Err(unexpected("an unexpected message")),
                None => {
                    let count = self.stream.read_buf(&mut self.received).await.map_err(protocol)?;
                    if count == 0 {
                        return Err(unexpected("the connection was closed"));
                    }
                }
            }
        }
    }
}

fn texts(body: &DataRowBody) -> Result<Vec<String>> {
    let text = |range: Option<std::ops::Range<usize>>| {
        range.map(|range| String::from_utf8_lossy(&body.buffer()[range]).into_owned()).unwrap_or_default()
    };
    body.ranges().map(|range| Ok(text(range))).collect().map_err(protocol)
}

fn reported(body: &ErrorResponseBody) -> Error {
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
    Error::Sql { what: "replication connection to the local PostgreSQL".into(), message, sqlstate }
}

fn unexpected(message: &str) -> Error {
    protocol(std::io::Error::other(message.to_owned()))
}

fn protocol(error: std::io::Error) -> Error {
    Error::io("replication connection to the local PostgreSQL")(error)
}
