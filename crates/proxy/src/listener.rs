//! Accepting, and the options of every socket.
//!
//! What it is: one accept loop per doorway that owns the sessions it started. What it is not: admission; it only keeps
//! the number of connections bounded. Invariant: at most `sessions_max` sessions and `DEAD_ENDS_MAX` more
//! connections that will be told so exist at any time.

use std::sync::Arc;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout_at};

use super::doorways::Doorway;
use super::tls::Stream;
use super::{Counters, Port, STOP_TIMEOUT, Shared, Stage, session};

/// Connections beyond `sessions_max` that are let in to cancel or to be refused with words. The rest is closed.
const DEAD_ENDS_MAX: usize = 64;
/// Accept fails when descriptors run out; sessions that end give some back.
const ACCEPT_RETRY_AFTER: Duration = Duration::from_millis(50);
/// A silent host is noticed after 10 + 3 × 5 = 25 s.
const KEEPALIVE_TIME: Duration = Duration::from_secs(10);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_RETRIES: u32 = 3;

/// Connections that may exist beyond the sessions.
pub fn dead_ends() -> Arc<tokio::sync::Semaphore> {
    Arc::new(tokio::sync::Semaphore::new(DEAD_ENDS_MAX))
}

/// Small messages leave at once, and a host that is gone is noticed while the session is idle.
///
/// TCP_USER_TIMEOUT is left alone: Linux also counts the time in which a living peer has its window closed, so it
/// would end sessions whose client reads a result slowly, or whose server waits in the middle of a COPY. A host that
/// dies with our bytes under way is noticed by the topology (servers) or by the kernel's retransmissions (clients).
pub fn set_socket_options(stream: &TcpStream) {
    let socket = SockRef::from(stream);
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_TIME)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(KEEPALIVE_RETRIES);
    if let Err(error) = socket.set_tcp_nodelay(true).and_then(|()| socket.set_tcp_keepalive(&keepalive)) {
        tracing::debug!(%error, "setting socket options failed; the connection works without");
    }
}

/// Accepts until the proxy drains or somebody else accepts, then waits for its sessions to end.
pub async fn accept_loop(shared: Arc<Shared>, port: Port, doorway: Doorway) {
    let mut stage = shared.stage.subscribe();
    let mut sessions = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            () = Stage::HandedOver.reached(&mut stage) => break,
            Some(ended) = sessions.join_next() => note(ended),
            accepted = doorway.accept() => match accepted {
                Ok(client) => admit(&shared, port, client, &mut sessions),
                Err(error) => {
                    tracing::warn!(port = port.name(), %error, "accepting a connection failed");
                    sleep(ACCEPT_RETRY_AFTER).await;
                }
            },
        }
    }
    drop(doorway);
    let mut stopped = std::pin::pin!(Stage::Stopped.reached(&mut stage));
    loop {
        tokio::select! {
            ended = sessions.join_next() => match ended {
                Some(ended) => note(ended),
                None => return,
            },
            () = &mut stopped => break,
        }
    }
    let deadline = Instant::now() + STOP_TIMEOUT;
    while let Ok(Some(ended)) = timeout_at(deadline, sessions.join_next()).await {
        note(ended);
    }
    // Dropping the set aborts whoever is left.
}

fn admit(shared: &Arc<Shared>, port: Port, client: Stream, sessions: &mut JoinSet<()>) {
    let permit = Arc::clone(&shared.sessions).try_acquire_owned().ok();
    let dead_end = match permit {
        Some(_) => None,
        None => match Arc::clone(&shared.dead_ends).try_acquire_owned() {
            Ok(dead_end) => Some(dead_end),
            Err(_) => return Counters::add(&shared.counters.refused),
        },
    };
    let shared = Arc::clone(shared);
    sessions.spawn(async move {
        session::serve(shared, port, client, permit).await;
        drop(dead_end);
    });
}

fn note(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "a session of the proxy panicked; only that session ended");
    }
}
