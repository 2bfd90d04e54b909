//! From a start-up packet to a server that has answered it, waiting while there is none.
//!
//! What it is: the queue. What it is not: first come, first served to the letter; all who wait are woken together and
//! the limit on openings sorts them. Invariant: at most `queue_max` sessions wait, none longer than `queue_timeout`,
//! and one whose client has left waits no more.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::backend::Choice;
use super::ceilings::{Crowd, Place};
use super::refusal::{CutCause, HELD, Refusal};
use super::routes::Moment;
use super::servers::{Opened, Seat};
use super::tally::Owner;
use super::worker::Order;
use super::{Counters, Port, Shared, Stage};

/// Between two rounds over servers that all failed. Ten tries a second find a server that has just opened soon, and
/// a queue of a thousand costs a refusing host ten thousand SYNs a second at most.
const RETRY_AFTER: Duration = Duration::from_millis(100);
/// A client has nothing to say before it is asked; this much is read before there is a server for it.
const EARLY_MAX: usize = 8 * 1024;

/// A session's server.
#[derive(Debug)]
pub struct Admitted {
    pub choice: Choice,
    pub seat: Seat,
    pub opened: Opened,
    /// The first one asked took it.
    pub at_once: bool,
}

/// Which servers will do.
#[derive(Clone, Debug)]
pub struct Way {
    pub port: Port,
    /// A replica must show everything up to then.
    pub since: Moment,
    /// Best of all the one at this address.
    pub prefers: Option<String>,
}

impl Way {
    /// Any to which the port leads.
    pub fn of(port: Port) -> Way {
        Way { port, since: Moment::default(), prefers: None }
    }
}

/// What is looked for.
pub struct Search<'a> {
    pub way: &'a Way,
    pub startup: &'a [u8],
    /// Without any queue time a healthy server must still have time to accept: this is never before it could.
    pub deadline: Instant,
    /// Takes a place in the queue. A session that had a server already takes none: the limit on sessions holds it.
    pub queues: bool,
    /// A database that is paused has none. Who has been let in waits elsewhere, and who wants to end the pause not at all.
    pub minds_pause: bool,
    /// The client has been let in, so PostgreSQL need not see where it comes from.
    pub is_in: bool,
}

/// Why there is none.
#[derive(Debug)]
pub enum NotAdmitted {
    ClientLeft,
    Refused(Refusal),
}

/// Waits for a server as long as the configuration allows. Bytes that the client sends meanwhile go to `early`.
pub async fn admit<C: AsyncRead + Unpin>(
    shared: &Shared,
    port: Port,
    startup: &[u8],
    client: &mut C,
    early: &mut Vec<u8>,
    minds_pause: bool,
) -> Result<Admitted, NotAdmitted> {
    let mut stage = shared.stage.subscribe();
    let deadline = Instant::now() + shared.config.queue_timeout;
    let way = Way::of(port);
    let search = Search { way: &way, startup, deadline, queues: true, minds_pause, is_in: false };
    tokio::select! {
        biased;
        outcome = find(shared, &search) => {
            let admitted = outcome.map_err(NotAdmitted::Refused)?;
            // The rest is between client and server.
            shared.servers.works(&admitted.choice.backend.address);
            Ok(admitted)
        }
        () = until_left(client, early, EARLY_MAX) => Err(NotAdmitted::ClientLeft),
        () = Stage::Draining.reached(&mut stage) => {
            Err(NotAdmitted::Refused(Refusal::cut(CutCause::Shutdown)))
        }
    }
}

/// Resolves when the client has gone. What it sends meanwhile goes to `early`; beyond `early_max` it is not read, and
/// whether it is still there not known.
pub async fn until_left<C: AsyncRead + Unpin>(client: &mut C, early: &mut Vec<u8>, early_max: usize) {
    let mut chunk = [0; 512];
    while early.len() < early_max {
        match client.read(&mut chunk).await {
            Ok(read @ 1..) => early.extend_from_slice(&chunk[..read]),
            _ => return,
        }
    }
    std::future::pending().await
}

/// Waits for a server up to the deadline of `search`.
pub async fn find(shared: &Shared, search: &Search<'_>) -> Result<Admitted, Refusal> {
    let config = &shared.config;
    let Search { way, startup, deadline, queues, minds_pause, is_in } = *search;
    let Way { port, since, .. } = *way;
    let started = Instant::now();
    let open_deadline = deadline.max(started + config.connect_timeout);
    let mut topology = shared.topology.clone();
    let mut failed: Vec<String> = Vec::new();
    let mut last_error = None;
    let mut queued = None;
    let mut at_once = true;
    let mut place = None;
    loop {
        let mut now = topology.borrow_and_update().clone();
        let held_until = now.held_until().filter(|_| now.primary.is_some());
        if held_until.is_some() {
            now.primary = None;
            now.reason = HELD.to_owned();
        }
        let seen = shared.freshness.seen();
        let listed = now.replicas.len();
        now.replicas.retain(|replica| seen.serves(&replica.address, since));
        let may_catch_up = now.replicas.len() < listed;
        let paused = minds_pause && shared.desk.pauses(|| Owner::of(startup).database);
        if paused {
            (now.primary, now.replicas) = (None, Vec::new());
            now.reason = "The database is paused; RESUME in the console ends that.".to_owned();
        }
        if let Some((choice, mut seat)) = shared.servers.pick(way, &now, &failed) {
            let at_hand =
                place.take().map_or_else(|| shared.server_ceilings.try_place(|| Owner::of(startup)), Ok);
            match at_hand {
                Ok(place) => seat.hold(place),
                Err(_) => {
                    place = Some(wait_for_place(shared, startup, deadline).await?);
                    // Meanwhile much may have happened.
                    at_once = false;
                    continue;
                }
            }
            let socket = shared.nearby.socket_to(&choice.backend, startup).filter(|_| is_in);
            let mut watched = topology.clone();
            let opened = tokio::select! {
                biased;
                // What happened is in the topology, which is read again at once.
                cause = choice.until_cut(&mut watched) => match cause {
                    CutCause::AgentGone => return Err(Refusal::cut(cause)),
                    _ => {
                        at_once = false;
                        continue;
                    }
                },
                opened = timeout_at(open_deadline, seat.open(startup, socket, config.connect_timeout, &shared.tls)) => opened,
            };
            match opened {
                Ok(Ok(opened)) => return Ok(Admitted { choice, seat, opened, at_once }),
                Ok(Err(error)) => {
                    shared.servers.failed(&choice.backend.address);
                    tracing::debug!(node = choice.backend.node, %error, "opening failed");
                    last_error = Some(format!("The last attempt: {error}."));
                    failed.push(choice.backend.address);
                    continue;
                }
                Err(_) => last_error = last_error.or(Some(format!("{} did not answer.", seat.address()))),
            }
        }
        // Who waits for a server takes nobody's place.
        place = None;
        if now.is_standby && port != Port::ReadOnly {
            return Err(Refusal::StandbyCluster { port, reason: now.reason });
        }
        at_once = false;
        if queues && queued.is_none() {
            queued = Some(InQueue::enter(shared).ok_or_else(|| Refusal::QueueFull {
                port,
                queue_max: config.queue_max,
                reason: now.reason.clone(),
            })?);
        }
        let retries = paused || may_catch_up || !failed.is_empty();
        let wake = async {
            tokio::select! {
                changed = topology.changed() => changed.is_ok(),
                () = sleep(RETRY_AFTER), if retries => true,
                () = sleep_until(held_until.unwrap_or(deadline)), if held_until.is_some() => true,
            }
        };
        let woken = if Instant::now() < deadline { timeout_at(deadline, wake).await.ok() } else { None };
        if woken != Some(true) {
            Counters::add(&shared.counters.queue_timeouts);
            let waited = started.elapsed();
            return Err(Refusal::QueueTimeout { port, waited, reason: now.reason, last_error });
        }
        failed.clear();
    }
}

/// Waits until the limits on servers allow one more.
async fn wait_for_place(shared: &Shared, startup: &[u8], deadline: Instant) -> Result<Place, Refusal> {
    let mut full = None;
    let make_room = |crowd: &Crowd| shared.workers.order_one(&Order::MakeRoom(crowd.clone()));
    let placing = shared.server_ceilings.place(|| Owner::of(startup), &mut full, make_room);
    match timeout_at(deadline, placing).await {
        Ok(place) => Ok(place),
        Err(_) => {
            Counters::add(&shared.counters.queue_timeouts);
            let crowd = full.unwrap_or(Crowd::All);
            let limit = shared.server_ceilings.limit(&crowd);
            Err(Refusal::Crowded { what: "server connections", crowd, limit })
        }
    }
}

/// A place in the queue, given back when dropped.
struct InQueue {
    queued: Arc<AtomicUsize>,
}

impl InQueue {
    fn enter(shared: &Shared) -> Option<InQueue> {
        let queue_max = shared.config.queue_max;
        shared
            .queued
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |queued| {
                (queued < queue_max).then_some(queued + 1)
            })
            .ok()?;
        Some(InQueue { queued: Arc::clone(&shared.queued) })
    }
}

impl Drop for InQueue {
    fn drop(&mut self) {
        self.queued.fetch_sub(1, Ordering::Relaxed);
    }
}
