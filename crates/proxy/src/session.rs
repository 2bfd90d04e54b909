//! One client from its first byte to its last.
//!
//! What it is: the order of things (hello, admission, relay, relocation, good-bye) and the clocks on them. What it is
//! not: any of these. Invariant: when the choice of its server becomes wrong, that connection is closed before
//! anything else is done; then the session is moved when that is possible without lying, or the client is told, at a
//! message boundary or not at all.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use wire::startup::CancelKey;

use super::admission::{Admitted, NotAdmitted, admit, until_left};
use super::backend::{Choice, Role};
use super::books::Books;
use super::cancel::Cancelled;
use super::hello::{Hello, HelloError, read_hello};
use super::policy::{self, LoweredCommit};
use super::refusal::{CutCause, Refusal};
use super::relay::{End, Relay, Surroundings, UNREAD_MAX};
use super::relocation::{Relocated, Welcome, relocate};
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
    if permit.is_none() {
        Counters::add(&shared.counters.refused);
        let sessions_max = shared.config.sessions_max;
        return farewell(&mut client, &Refusal::TooManySessions { sessions_max }).await;
    }
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
        Ok(admitted) => attend(&shared, client, &startup.packet, admitted, books, &early).await,
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

/// What ends a relay.
enum Verdict {
    End(End),
    Cut(CutCause),
}

async fn attend(
    shared: &Shared,
    client: TcpStream,
    startup: &[u8],
    admitted: Admitted,
    books: Books,
    early: &[u8],
) {
    // The seat is held to the end: it is what the server's load is counted by.
    let Admitted { mut choice, mut seat, opened, .. } = admitted;
    let around =
        Surroundings { cancels: Arc::clone(&shared.cancels), counters: Arc::clone(&shared.counters) };
    let mut relay = Relay::new(client, opened.stream, books, around, Arc::clone(seat.address()));
    let mut preloaded = relay.preload(early, &opened.answer);
    loop {
        let verdict = match std::mem::replace(&mut preloaded, Ok(())) {
            Ok(()) => watch_over(shared, &choice, &mut relay).await,
            Err(end) => Verdict::End(end),
        };
        let node = choice.backend.node.clone();
        let cause = match verdict {
            Verdict::Cut(cause) => cause,
            Verdict::End(End::ClientLeft) => return linger(shared, &choice, relay.server).await,
            Verdict::End(End::ClientGarbled(error)) => {
                drop(relay.server);
                return farewell(&mut relay.client, &Refusal::Protocol(error.to_string())).await;
            }
            Verdict::End(End::ServerGarbled(error)) => {
                CutCause::ServerGarbled { node, error: error.to_string() }
            }
            Verdict::End(End::ServerLeft) => CutCause::ServerClosed { node },
            Verdict::End(End::Stuck) => CutCause::Stuck,
            Verdict::End(End::Drained) => CutCause::Shutdown,
        };
        // The old server is closed before anything else is done.
        let address = Arc::clone(seat.address());
        let movable = choice.role == Role::Primary && cause.leaves_room() && relay.is_movable();
        let (mut parted, old) = relay.replace_server(tokio::io::empty(), address);
        drop(old);
        if !movable {
            let cause = match parted.books.ties.bound() {
                Some(why)
                    if choice.role == Role::Primary
                        && cause.leaves_room()
                        && parted.at_boundary()
                        && parted.books.ledger.logged_in() =>
                {
                    CutCause::Bound { cause: Box::new(cause), why }
                }
                _ => cause,
            };
            count_cut(shared, &cause);
            let refusal = Refusal::Cut { cause, loss: parted.books.ledger.loss() };
            return part(parted, &refusal).await;
        }
        drop(seat);
        match between_servers(shared, startup, &mut parted).await {
            Ok(found) if found.at_once && found.choice.is_same_server(&choice) && parted.was_terminated() => {
                // It was this session that had to end, and not its server.
                drop(found.stream);
                let last_words = std::mem::take(&mut parted.books.last_words);
                return part_with(parted, &last_words).await;
            }
            Ok(found) => {
                Counters::add(&shared.counters.moved);
                tracing::debug!(
                    from = choice.backend.node,
                    to = found.choice.backend.node,
                    "a session moved"
                );
                relay = take_up(parted, found.stream, Arc::clone(found.seat.address()), found.welcome);
                (choice, seat) = (found.choice, found.seat);
            }
            Err(NotAdmitted::ClientLeft) => return,
            Err(NotAdmitted::Refused(refusal)) => {
                Counters::add(&shared.counters.cuts);
                return part(parted, &refusal).await;
            }
        }
    }
}

fn count_cut(shared: &Shared, cause: &CutCause) {
    let by_server =
        matches!(cause, CutCause::ServerClosed { .. } | CutCause::ServerGarbled { .. } | CutCause::Shutdown);
    if !by_server {
        Counters::add(&shared.counters.cuts);
    }
}

/// Looks for a new server; meanwhile the client may leave, or ask what has to wait.
async fn between_servers<C, S>(
    shared: &Shared,
    startup: &[u8],
    relay: &mut Relay<C, S>,
) -> Result<Relocated, NotAdmitted>
where
    C: AsyncRead + AsyncWrite + Unpin,
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut stage = shared.stage.subscribe();
    let mut early = Vec::new();
    let room = UNREAD_MAX.saturating_sub(relay.up.unread.len());
    let outcome = tokio::select! {
        biased;
        found = relocate(shared, startup, &relay.books.ties) => found.map_err(NotAdmitted::Refused),
        () = until_left(&mut relay.client, &mut early, room) => Err(NotAdmitted::ClientLeft),
        () = Stage::Draining.reached(&mut stage) => Err(NotAdmitted::Refused(Refusal::cut(CutCause::Shutdown))),
    };
    if !early.is_empty() {
        relay.keep_for_later(&early);
    }
    outcome
}

/// Goes on with the new server as if it were the old one.
fn take_up<C, S, T>(parted: Relay<C, S>, stream: T, address: Arc<str>, welcome: Welcome) -> Relay<C, T>
where
    C: AsyncRead + AsyncWrite + Unpin,
    S: AsyncRead + AsyncWrite + Unpin,
    T: AsyncRead + AsyncWrite + Unpin,
{
    let (mut relay, _) = parted.replace_server(stream, address);
    if let Some(key) = CancelKey::parse(&welcome.key) {
        relay.point_key_to(key);
    }
    let news = relay.books.ties.adopt_parameters(welcome.parameters);
    relay.down.waiting.extend_from_slice(&news);
    relay.books.last_words.clear();
    relay
}

/// Runs the relay until it ends or its server may not be used any more.
async fn watch_over<C, S>(shared: &Shared, choice: &Choice, relay: &mut Relay<C, S>) -> Verdict
where
    C: AsyncRead + AsyncWrite + Unpin,
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut topology = shared.topology.clone();
    let mut holds = shared.topology.clone();
    let mut stage = shared.stage.subscribe();
    // It may have been left behind between the admission and here.
    stage.mark_changed();
    let mut login = std::pin::pin!(sleep(AUTHENTICATION_TIMEOUT));
    let mut login_pending = true;
    let cut = choice.until_cut(&mut topology);
    let mut cut = std::pin::pin!(cut);
    loop {
        let held_until = holds.borrow_and_update().held_until().filter(|_| choice.role == Role::Primary);
        relay.hold = held_until.is_some();
        tokio::select! {
            biased;
            cause = &mut cut => return Verdict::Cut(cause),
            // A publisher that is gone is a cut, above.
            changed = holds.changed() => match changed {
                Ok(()) => {}
                Err(_) => return Verdict::Cut(CutCause::AgentGone),
            },
            () = until(held_until) => {}
            // A stopped proxy drops the sender last of all, so an error here is as good as `Stopped`.
            changed = stage.changed() => match *stage.borrow_and_update() {
                _ if changed.is_err() => return Verdict::Cut(CutCause::Shutdown),
                Stage::Running => {}
                Stage::Draining => relay.draining = true,
                Stage::Stopped => return Verdict::Cut(CutCause::Shutdown),
            },
            () = &mut login, if login_pending => {
                login_pending = false;
                if !relay.books.ledger.logged_in() {
                    return Verdict::End(End::ClientLeft);
                }
            }
            end = relay.run() => return Verdict::End(end),
        }
    }
}

/// Waits until then, or for ever.
async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// Tells the client, whose server is closed, what that means for it.
async fn part<C, S>(relay: Relay<C, S>, refusal: &Refusal)
where
    C: AsyncRead + AsyncWrite + Unpin,
    S: AsyncRead + AsyncWrite + Unpin,
{
    part_with(relay, &refusal.response().encode()).await;
}

async fn part_with<C, S>(mut relay: Relay<C, S>, last: &[u8])
where
    C: AsyncRead + AsyncWrite + Unpin,
    S: AsyncRead + AsyncWrite + Unpin,
{
    if !relay.client_at_boundary() || relay.books.ledger.end_is_explained() {
        return;
    }
    let told = async {
        relay.flush_client().await?;
        say(&mut relay.client, last).await
    };
    // A client that takes nothing within the time learns it from the closed connection.
    let _ = timeout(FAREWELL_TIMEOUT, told).await;
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
