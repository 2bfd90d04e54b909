//! One client from its first byte to a server of its own.
//!
//! What it is: the order of things (hello, admission, adoption by a worker) and the clocks on them. What it is not: any of
//! these. Invariant: whoever does not become a session is told why, or was never one.

use std::io;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;
use wire::startup::CancelKey;

use super::admission::{Admitted, NotAdmitted, admit};
use super::books::Books;
use super::cancel::Cancelled;
use super::hello::{Hello, HelloError, read_hello};
use super::policy::{self, LoweredCommit};
use super::refusal::Refusal;
use super::worker::{Adopted, FAREWELL_TIMEOUT};
use super::{Counters, Port, Shared, Stage};

/// Serves one connection; without a `permit` only cancel requests and a refusal.
pub async fn serve(
    shared: Arc<Shared>,
    port: Port,
    mut client: TcpStream,
    permit: Option<OwnedSemaphorePermit>,
) {
    let mut stage = shared.stage.subscribe();
    let hello = tokio::select! {
        hello = timeout(shared.config.login_timeout, read_hello(&mut client)) => hello,
        () = Stage::Draining.reached(&mut stage) => return,
    };
    let (startup, replication) = match hello {
        Ok(Ok(Hello::Session { startup, replication })) => (startup, replication),
        Ok(Ok(Hello::Cancel { pid, secret })) => {
            return cancel(&shared, CancelKey { pid, secret: &secret }).await;
        }
        Ok(Err(HelloError::Left(_))) => return,
        Ok(Err(HelloError::Malformed(error))) => {
            // A client that speaks something else would not understand, but a person who looks will.
            return farewell(&mut client, &Refusal::Protocol(error.to_string())).await;
        }
        Ok(Err(error @ HelloError::Insists)) => {
            return farewell(&mut client, &Refusal::Protocol(error.to_string())).await;
        }
        Err(_) => return,
    };
    let Some(permit) = permit else {
        Counters::add(&shared.counters.refused);
        let sessions_max = shared.config.sessions_max;
        return farewell(&mut client, &Refusal::TooManySessions { sessions_max }).await;
    };
    let mut books = Books::new(replication, startup.hides_warnings, shared.config.lowered_commit);
    if startup.lowers_commit {
        match shared.config.lowered_commit {
            LoweredCommit::Allow => {}
            LoweredCommit::Warn => {
                Counters::add(&shared.counters.lowered_commits);
                if !startup.hides_warnings {
                    books.news = policy::warning().encode();
                }
            }
            LoweredCommit::Forbid => {
                Counters::add(&shared.counters.refused);
                return farewell(&mut client, &Refusal::LoweredCommit).await;
            }
        }
    }
    let mut early = Vec::new();
    match admit(&shared, port, &startup.packet, &mut client, &mut early).await {
        Ok(admitted) => {
            if let Err(error) = adopt(&shared, client, startup.packet, admitted, books, early, permit) {
                tracing::warn!(%error, "a session ends: its sockets cannot be handed on");
            }
        }
        Err(NotAdmitted::ClientLeft) => {}
        Err(NotAdmitted::Refused(refusal)) => {
            Counters::add(&shared.counters.refused);
            farewell(&mut client, &refusal).await;
        }
    }
}

async fn cancel(shared: &Shared, key: CancelKey<'_>) {
    match shared.cancels.forward(key, shared.sync_waits.as_deref()).await {
        Cancelled::Sent => Counters::add(&shared.counters.cancels),
        Cancelled::Withheld => Counters::add(&shared.counters.withheld_cancels),
        Cancelled::Lost => {}
    }
}

/// Hands the session to a worker.
fn adopt(
    shared: &Shared,
    client: TcpStream,
    startup: Vec<u8>,
    admitted: Admitted,
    books: Books,
    early: Vec<u8>,
    permit: OwnedSemaphorePermit,
) -> io::Result<()> {
    let Admitted { choice, seat, opened, .. } = admitted;
    shared.workers.adopt(Adopted {
        client: client.into_std()?,
        server: opened.stream.into_std()?,
        early,
        answer: opened.answer,
        startup: startup.into(),
        books,
        choice,
        seat,
        permit,
    });
    Ok(())
}

async fn farewell<C: AsyncRead + AsyncWrite + Unpin>(client: &mut C, refusal: &Refusal) {
    let _ = timeout(FAREWELL_TIMEOUT, say(client, &refusal.response().encode())).await;
}

/// Sends the error and reads until the client closes: closing with unread bytes would reset the connection, and a
/// reset takes back what the client has not read yet.
async fn say<C: AsyncRead + AsyncWrite + Unpin>(client: &mut C, message: &[u8]) -> std::io::Result<()> {
    client.write_all(message).await?;
    client.shutdown().await?;
    discard(client).await
}

async fn discard<C: AsyncRead + Unpin>(from: &mut C) -> std::io::Result<()> {
    let mut chunk = [0; 512];
    while from.read(&mut chunk).await? > 0 {}
    Ok(())
}
