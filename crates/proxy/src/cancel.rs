//! Cancel requests: from a key to the server process that the session has now.
//!
//! What it is: a map of the keys of live sessions, bounded by their number (each holds one), and a gate per session.
//! What it is not: cluster-wide; a request whose key is not here is given to who may know more ([`Elsewhere`]).
//! Invariant (I3): from the moment an explicit commit is about to be passed on until its answer, no cancel is passed
//! on, and a commit waits for a cancel that is under way. While a statement runs that may commit by itself, the server
//! is asked first, and a cancel for a process that waits for a standby, or of which nobody can tell, is dropped. What
//! slips between question and signal ends in 08007 for the client (`answers`).

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use wire::startup::CancelKey;

use super::tls::{Stream, Tls};

/// From the connection to the server's close of it, which says that the signal was sent. A commit waits for this.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(2);

/// For the question whether a process waits for a standby; a look into shared memory takes milliseconds.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(1);

/// Tells whether a server process waits for synchronous replication. The agent implements it.
pub trait SyncWaits: Send + Sync {
    /// `None` when it cannot be told.
    fn waits<'a>(
        &'a self,
        address: &'a str,
        pid: u32,
    ) -> Pin<Box<dyn Future<Output = Option<bool>> + Send + 'a>>;
}

/// Takes cancel requests for sessions that this proxy does not have: one before it on this node has them, or that of another
/// node. The node implements it.
pub trait Elsewhere: Send + Sync {
    /// Passes the request on; nobody waits for what becomes of it.
    fn cancel(&self, key: CancelKey<'_>);
}

/// How near a session is to a commit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Commit {
    #[default]
    None,
    /// What runs may commit by standing alone, or by CALL.
    Possible,
    /// COMMIT and its like.
    Asked,
}

/// Keeps commits and cancels of one session apart.
#[derive(Default, Debug)]
pub struct Gate {
    state: Mutex<GateState>,
}

#[derive(Default, Debug)]
struct GateState {
    commit: Commit,
    cancels_under_way: u32,
    waiter: Option<Waker>,
    /// `None` while the session has no server.
    target: Option<Target>,
    /// A cancel was sent, and nobody knows when its signal comes.
    late: bool,
    /// Of a session that waits for a server for what it asks.
    waits: Option<Waker>,
    /// A cancel came meanwhile.
    gave_up: bool,
}

/// What a session's server is worth once no cancel for it is under way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Released {
    /// No signal is on its way there.
    Clean,
    /// One may be: it would hit whoever has the server next.
    Tainted,
}

impl Gate {
    /// Says which commit is under way, or about to be.
    pub fn set(&self, commit: Commit) {
        lock(&self.state).commit = commit;
    }

    /// Ready when no cancel is under way; the commit's bytes may then leave.
    pub fn poll_quiet(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = lock(&self.state);
        if state.cancels_under_way == 0 {
            return Poll::Ready(());
        }
        state.waiter = Some(cx.waker().clone());
        Poll::Pending
    }

    /// From now on a cancel of this session is for that server process.
    pub fn point_to(&self, target: Target) {
        let mut state = lock(&self.state);
        (state.target, state.late) = (Some(target), false);
        (state.waits, state.gave_up) = (None, false);
    }

    /// Until it points to a server again a cancel wakes `waker`, once.
    pub fn wait(&self, waker: &Waker) {
        lock(&self.state).waits.get_or_insert_with(|| waker.clone());
    }

    /// The session asks for nothing any more. True when a cancel came while it waited.
    pub fn stop_waiting(&self) -> bool {
        let mut state = lock(&self.state);
        state.waits = None;
        std::mem::take(&mut state.gave_up)
    }

    /// It is for nobody: the server is gone.
    pub fn forget(&self) {
        lock(&self.state).target = None;
    }

    /// From now on it is for nobody, once no cancel is under way any more.
    pub fn poll_release(&self, cx: &mut Context<'_>) -> Poll<Released> {
        let mut state = lock(&self.state);
        if state.cancels_under_way > 0 {
            state.waiter = Some(cx.waker().clone());
            return Poll::Pending;
        }
        state.target = None;
        Poll::Ready(if std::mem::take(&mut state.late) { Released::Tainted } else { Released::Clean })
    }

    /// Begins a cancel of what runs now.
    pub fn enter(self: &Arc<Gate>) -> Result<Pass, Cancelled> {
        let mut state = lock(&self.state);
        let Some(target) = state.target.clone() else {
            let waiter = state.waits.take().ok_or(Cancelled::Lost)?;
            state.gave_up = true;
            waiter.wake();
            return Err(Cancelled::Sent);
        };
        if state.commit == Commit::Asked {
            tracing::debug!(address = %target.address, "cancel dropped: a commit is under way");
            return Err(Cancelled::Withheld);
        }
        state.cancels_under_way += 1;
        Ok(Pass { gate: Arc::clone(self), commit: state.commit, target })
    }
}

/// One cancel under way; a commit waits until it is dropped.
pub struct Pass {
    gate: Arc<Gate>,
    commit: Commit,
    target: Target,
}

impl Pass {
    /// The request was sent, and its end was not seen.
    fn is_late(&self) {
        lock(&self.gate.state).late = true;
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let mut state = lock(&self.gate.state);
        state.cancels_under_way -= 1;
        if let Some(waiter) = state.waiter.take() {
            waiter.wake();
        }
    }
}

/// The keys of all live sessions of this proxy.
#[derive(Default, Debug)]
pub struct CancelMap {
    /// By pid (4 bytes) and secret: pids of two servers collide, the secret tells them apart.
    keys: Mutex<HashMap<Vec<u8>, Arc<Gate>>>,
}

/// The server process that a session has now. It is another one than the client's key names when the session was moved, or
/// is one of a pool.
#[derive(Clone, Debug)]
pub struct Target {
    address: Arc<str>,
    /// The body of BackendKeyData.
    key: Arc<[u8]>,
}

impl Target {
    pub fn new(address: &Arc<str>, key: &[u8]) -> Target {
        Target { address: Arc::clone(address), key: key.into() }
    }

    pub fn address(&self) -> &Arc<str> {
        &self.address
    }

    /// Of the server's process; 0 when it did not say.
    pub fn pid(&self) -> u32 {
        CancelKey::parse(&self.key).map_or(0, |key| key.pid)
    }
}

/// What became of a cancel request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cancelled {
    /// It was passed on, to the server, or to a session that waits for one.
    Sent,
    /// A commit is under way.
    Withheld,
    /// The session has no server, or that did not take it.
    Lost,
    /// No session of this proxy has the key.
    Unknown,
}

impl CancelMap {
    /// Makes `key` known until the answer is dropped.
    pub fn register(self: &Arc<Self>, key: CancelKey<'_>, gate: &Arc<Gate>) -> Registered {
        lock(&self.keys).insert(name(key), Arc::clone(gate));
        Registered { map: Arc::clone(self), name: name(key), gate: Arc::clone(gate) }
    }

    /// Passes the request to the session's server, unless that could end the wait of a commit. Who asked is told nothing, as by
    /// PostgreSQL, so that nobody learns which keys exist.
    pub async fn forward(&self, key: CancelKey<'_>, waits: Option<&dyn SyncWaits>, tls: &Tls) -> Cancelled {
        let gate = lock(&self.keys).get(&name(key)).cloned();
        match gate.as_ref().map(Gate::enter) {
            Some(Ok(pass)) => pass.cancel(waits, tls).await,
            Some(Err(cancelled)) => cancelled,
            None => Cancelled::Unknown,
        }
    }
}

impl Pass {
    /// Cancels what runs in the session behind the gate, unless that could end the wait of a commit.
    pub async fn cancel(self, waits: Option<&dyn SyncWaits>, tls: &Tls) -> Cancelled {
        let target = &self.target;
        let Some(key) = CancelKey::parse(&target.key) else { return Cancelled::Lost };
        if let (Commit::Possible, Some(waits)) = (self.commit, waits) {
            let question = timeout(QUESTION_TIMEOUT, waits.waits(&target.address, key.pid));
            match question.await.ok().flatten() {
                Some(false) => {}
                Some(true) => {
                    tracing::debug!(address = %target.address, "cancel dropped: the statement has committed and waits for a standby");
                    return Cancelled::Withheld;
                }
                None => {
                    tracing::warn!(
                        address = %target.address,
                        "cancel dropped: the server did not tell whether the statement waits for a standby"
                    );
                    return Cancelled::Withheld;
                }
            }
        }
        match timeout(CANCEL_TIMEOUT, send(&target.address, key, tls)).await {
            Ok(Ok(())) => Cancelled::Sent,
            _ => {
                self.is_late();
                Cancelled::Lost
            }
        }
    }
}

async fn send(address: &str, key: CancelKey<'_>, tls: &Tls) -> std::io::Result<()> {
    let mut server = Stream::from(TcpStream::connect(address).await?);
    tls.encrypt(&mut server, address).await?;
    server.write_all(&key.request()).await?;
    // The postmaster's child closes after it has sent the signal.
    server.read(&mut [0]).await.map(drop)
}

fn name(key: CancelKey<'_>) -> Vec<u8> {
    [&key.pid.to_be_bytes(), key.secret].concat()
}

/// Nothing that holds these locks can panic half way, so a poisoned one is whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A session's entry; removed with it.
#[derive(Debug)]
pub struct Registered {
    map: Arc<CancelMap>,
    name: Vec<u8>,
    gate: Arc<Gate>,
}

impl Drop for Registered {
    fn drop(&mut self) {
        let mut keys = lock(&self.map.keys);
        // Another server may have given the same key since; then the entry is not ours.
        if keys.get(&self.name).is_some_and(|gate| Arc::ptr_eq(gate, &self.gate)) {
            keys.remove(&self.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_lives_as_long_as_its_session_and_removes_only_itself() {
        let map = Arc::new(CancelMap::default());
        let (gate, other) = (Arc::new(Gate::default()), Arc::new(Gate::default()));
        let key = CancelKey { pid: 7, secret: &[1; 32] };
        let first = map.register(key, &gate);
        let second = map.register(key, &other);
        drop(first);
        assert!(Arc::ptr_eq(lock(&map.keys).get(&name(key)).unwrap(), &other));
        drop(second);
        assert!(lock(&map.keys).is_empty());
    }

    fn target(address: &str) -> Target {
        Target::new(&address.into(), &[0, 0, 0, 7, 1])
    }

    #[test]
    fn a_cancel_is_for_the_server_that_the_session_has_now() {
        let gate = Arc::new(Gate::default());
        let mut cx = Context::from_waker(Waker::noop());
        assert_eq!(gate.enter().err(), Some(Cancelled::Lost));
        gate.point_to(target("a:1"));
        gate.point_to(target("b:1"));
        let pass = gate.enter().unwrap();
        assert_eq!(&*pass.target.address, "b:1");
        assert!(gate.poll_release(&mut cx).is_pending(), "its signal would hit whoever has the server next");
        drop(pass);
        assert_eq!(gate.poll_release(&mut cx), Poll::Ready(Released::Clean));
        assert_eq!(gate.enter().err(), Some(Cancelled::Lost));
        gate.point_to(target("b:1"));
        gate.enter().unwrap().is_late();
        assert_eq!(gate.poll_release(&mut cx), Poll::Ready(Released::Tainted));
        gate.point_to(target("c:1"));
        assert_eq!(gate.poll_release(&mut cx), Poll::Ready(Released::Clean));
    }

    #[test]
    fn who_waits_for_a_server_is_told_of_a_cancel_once() {
        let gate = Arc::new(Gate::default());
        gate.wait(Waker::noop());
        assert_eq!(gate.enter().err(), Some(Cancelled::Sent));
        assert_eq!(gate.enter().err(), Some(Cancelled::Lost));
        assert!(gate.stop_waiting() && !gate.stop_waiting());
        gate.wait(Waker::noop());
        assert!(!gate.stop_waiting());
        assert_eq!(gate.enter().err(), Some(Cancelled::Lost));
        gate.wait(Waker::noop());
        assert_eq!(gate.enter().err(), Some(Cancelled::Sent));
        // It has a server before it has heard of it: what runs there is not what was to be cancelled any more.
        gate.point_to(target("a:1"));
        assert!(!gate.stop_waiting());
    }

    #[test]
    fn a_commit_and_a_cancel_exclude_each_other() {
        let gate = Arc::new(Gate::default());
        let mut cx = Context::from_waker(Waker::noop());
        gate.point_to(target("a:1"));
        let pass = gate.enter().unwrap();
        gate.set(Commit::Asked);
        assert!(gate.poll_quiet(&mut cx).is_pending(), "the commit waits for the cancel");
        assert_eq!(gate.enter().err(), Some(Cancelled::Withheld), "and lets no other in");
        drop(pass);
        assert!(gate.poll_quiet(&mut cx).is_ready());
        gate.set(Commit::None);
        assert!(gate.enter().is_ok());
    }
}
