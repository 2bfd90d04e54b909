//! One client from its first byte to its last.
//!
//! What it is: the order of things (hello, admission, relay, good-bye) and the clocks on them. What it is not: any of
//! these. Invariant: when the choice of its server becomes wrong, that connection is closed before anything else is
//! done, and the client is told at a message boundary or not at all.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{sleep, timeout};
use wire::startup::CancelKey;

use super::admission::{Admitted, NotAdmitted, admit};
use super::backend::Choice;
use super::hello::{Hello, HelloError, read_hello};
use super::ledger::Ledger;
use super::refusal::{CutCause, Refusal};
use super::relay::{End, Relay};
use super::{Counters, Port, Shared, Stage};

/// From the server's first answer to its first ReadyForQuery: PostgreSQL's greatest `authentication_timeout` and a
/// little, so that the server's own limit speaks first.
const AUTHENTICATION_TIMEOUT: Duration = Duration::from_secs(610);
/// For a last message to a client that may read no more, and for the client to close.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(1);
/// For a server to finish what a client asked and did not wait for, as it would without a proxy.
const LINGER: Duration = Duration::from_secs(10);

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
            if shared.cancels.forward(CancelKey { pid, secret: &secret }).await {
                Counters::add(&shared.counters.cancels);
            }
            return;
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
    if permit.is_none() {
        Counters::add(&shared.counters.refused);
        let sessions_max = shared.config.sessions_max;
        return farewell(&mut client, &Refusal::TooManySessions { sessions_max }).await;
    }
    let mut early = Vec::new();
    match admit(&shared, port, &startup, &mut client, &mut early).await {
        Ok(admitted) => attend(&shared, client, admitted, Ledger::new(replication), &early).await,
        Err(NotAdmitted::ClientLeft) => {}
        Err(NotAdmitted::Refused(refusal)) => {
            Counters::add(&shared.counters.refused);
            farewell(&mut client, &refusal).await;
        }
    }
}

/// What ends a relay.
enum Verdict {
    End(End),
    Cut(CutCause),
}

async fn attend(shared: &Shared, client: TcpStream, admitted: Admitted, ledger: Ledger, early: &[u8]) {
    // The seat is held to the end: it is what the server's load is counted by.
    let Admitted { choice, seat, opened } = admitted;
    let cancels = Arc::clone(&shared.cancels);
    let mut relay = Relay::new(client, opened.stream, ledger, cancels, Arc::clone(seat.address()));
    let verdict = match relay.preload(early, &opened.answer) {
        Ok(()) => watch_over(shared, &choice, &mut relay).await,
        Err(end) => Verdict::End(end),
    };
    let node = choice.backend.node.clone();
    let cause = match verdict {
        Verdict::Cut(cause) => {
            Counters::add(&shared.counters.cuts);
            cause
        }
        Verdict::End(End::ClientLeft) => return linger(shared, &choice, relay.server).await,
        Verdict::End(End::ClientGarbled(error)) => {
            drop(relay.server);
            return farewell(&mut relay.client, &Refusal::Protocol(error.to_string())).await;
        }
        Verdict::End(End::ServerGarbled(error)) => CutCause::ServerGarbled { node, error: error.to_string() },
        Verdict::End(End::ServerLeft) => CutCause::ServerClosed { node },
        Verdict::End(End::Drained) => CutCause::Shutdown,
    };
    part(relay, cause).await;
}

/// Runs the relay until it ends or its server may not be used any more.
async fn watch_over<C, S>(shared: &Shared, choice: &Choice, relay: &mut Relay<C, S>) -> Verdict
where
    C: AsyncRead + AsyncWrite + Unpin,
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut topology = shared.topology.clone();
    let mut stage = shared.stage.subscribe();
    // It may have been left behind between the admission and here.
    stage.mark_changed();
    let mut login = std::pin::pin!(sleep(AUTHENTICATION_TIMEOUT));
    let mut login_pending = true;
    let cut = choice.until_cut(&mut topology);
    let mut cut = std::pin::pin!(cut);
    loop {
        tokio::select! {
            biased;
            cause = &mut cut => return Verdict::Cut(cause),
            // A stopped proxy drops the sender last of all, so an error here is as good as `Stopped`.
            changed = stage.changed() => match *stage.borrow_and_update() {
                _ if changed.is_err() => return Verdict::Cut(CutCause::Shutdown),
                Stage::Running => {}
                Stage::Draining => relay.draining = true,
                Stage::Stopped => return Verdict::Cut(CutCause::Shutdown),
            },
            () = &mut login, if login_pending => {
                login_pending = false;
                if !relay.ledger.logged_in() {
                    return Verdict::End(End::ClientLeft);
                }
            }
            end = relay.run() => return Verdict::End(end),
        }
    }
}

/// Closes the server's connection and tells the client what that means for it.
async fn part<C, S>(relay: Relay<C, S>, cause: CutCause)
where
    C: AsyncRead + AsyncWrite + Unpin,
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (mut relay, server) = relay.without_server();
    drop(server);
    if !relay.client_at_boundary() || relay.ledger.end_is_explained() {
        return;
    }
    let refusal = Refusal::Cut { cause, loss: relay.ledger.loss() };
    let told = async {
        relay.flush_client().await?;
        say(&mut relay.client, &refusal).await
    };
    // A client that takes nothing within the time learns it from the closed connection.
    let _ = timeout(FAREWELL_TIMEOUT, told).await;
}

async fn farewell<C: AsyncRead + AsyncWrite + Unpin>(client: &mut C, refusal: &Refusal) {
    let _ = timeout(FAREWELL_TIMEOUT, say(client, refusal)).await;
}

/// Sends the error and reads until the client closes: closing with unread bytes would reset the connection, and a
/// reset takes back what the client has not read yet.
async fn say<C: AsyncRead + AsyncWrite + Unpin>(client: &mut C, refusal: &Refusal) -> std::io::Result<()> {
    client.write_all(&refusal.response().encode()).await?;
    client.shutdown().await?;
    discard(client).await
}

async fn discard<C: AsyncRead + Unpin>(from: &mut C) -> std::io::Result<()> {
    let mut chunk = [0; 512];
    while from.read(&mut chunk).await? > 0 {}
    Ok(())
}

/// The client has left, perhaps with a request under way. Closing with unread bytes would reset the connection and
/// could take that request back, which a direct connection would not do: read to the end instead.
async fn linger<S: AsyncRead + AsyncWrite + Unpin>(shared: &Shared, choice: &Choice, mut server: S) {
    let mut topology = shared.topology.clone();
    let mut stage = shared.stage.subscribe();
    let drain = async {
        server.shutdown().await?;
        discard(&mut server).await
    };
    tokio::select! {
        biased;
        _ = choice.until_cut(&mut topology) => {}
        () = Stage::Stopped.reached(&mut stage) => {}
        _ = timeout(LINGER, drain) => {}
    }
}
