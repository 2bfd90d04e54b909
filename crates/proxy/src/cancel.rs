//! Cancel requests: from a key to the server process that the session has now.
//!
//! What it is: a map of the keys of live sessions, bounded by their number (each holds one), and a gate per session.
//! What it is not: cluster-wide; a request that reaches another node's proxy finds no key there and is dropped.
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

    fn enter(self: &Arc<Gate>) -> Option<Pass> {
        let mut state = lock(&self.state);
        if state.commit == Commit::Asked {
            return None;
        }
        state.cancels_under_way += 1;
        Some(Pass { gate: Arc::clone(self), commit: state.commit })
    }
}

/// One cancel under way; a commit waits until it is dropped.
struct Pass {
    gate: Arc<Gate>,
    commit: Commit,
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
    keys: Mutex<HashMap<Vec<u8>, Target>>,
}

/// The server process behind a key. It is another one than the key names when the session was moved.
#[derive(Clone, Debug)]
struct Target {
    address: Arc<str>,
    pid: u32,
    secret: Vec<u8>,
    gate: Arc<Gate>,
}

/// What became of a cancel request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cancelled {
    Sent,
    /// A commit is under way.
    Withheld,
    /// No session, or no server.
    Lost,
}

impl CancelMap {
    /// Makes `key` known until the answer is dropped.
    pub fn register(
        self: &Arc<Self>,
        key: CancelKey<'_>,
        address: &Arc<str>,
        gate: &Arc<Gate>,
    ) -> Registered {
        let registered = Registered { map: Arc::clone(self), name: name(key), gate: Arc::clone(gate) };
        registered.point_to(key, address);
        registered
    }

    /// Passes the request to the session's server, unless that could end the wait of a commit. Unknown keys are
    /// dropped in silence, as PostgreSQL does, so that nobody learns which keys exist.
    pub async fn forward(&self, key: CancelKey<'_>, waits: Option<&dyn SyncWaits>) -> Cancelled {
        let target = lock(&self.keys).get(&name(key)).cloned();
        let Some(target) = target else { return Cancelled::Lost };
        let Some(pass) = target.gate.enter() else {
            tracing::debug!(address = %target.address, "cancel dropped: a commit is under way");
            return Cancelled::Withheld;
        };
        if let (Commit::Possible, Some(waits)) = (pass.commit, waits) {
            let question = timeout(QUESTION_TIMEOUT, waits.waits(&target.address, target.pid));
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
        let key = CancelKey { pid: target.pid, secret: &target.secret };
        match timeout(CANCEL_TIMEOUT, send(&target.address, key)).await {
            Ok(Ok(())) => Cancelled::Sent,
            _ => Cancelled::Lost,
        }
    }
}

async fn send(address: &str, key: CancelKey<'_>) -> std::io::Result<()> {
    let mut server = TcpStream::connect(address).await?;
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

impl Registered {
    /// From now on the session's key means the process that gave `key`.
    pub fn point_to(&self, key: CancelKey<'_>, address: &Arc<str>) {
        let target = Target {
            address: Arc::clone(address),
            pid: key.pid,
            secret: key.secret.to_owned(),
            gate: Arc::clone(&self.gate),
        };
        lock(&self.map.keys).insert(self.name.clone(), target);
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        let mut keys = lock(&self.map.keys);
        // Another server may have given the same key since; then the entry is not ours.
        if keys.get(&self.name).is_some_and(|target| Arc::ptr_eq(&target.gate, &self.gate)) {
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
        let first = map.register(key, &"a:1".into(), &gate);
        let second = map.register(key, &"b:1".into(), &other);
        drop(first);
        assert_eq!(&*lock(&map.keys).get(&name(key)).unwrap().address, "b:1");
        drop(second);
        assert!(lock(&map.keys).is_empty());
    }

    #[test]
    fn a_key_means_the_process_that_the_session_was_moved_to() {
        let map = Arc::new(CancelMap::default());
        let key = CancelKey { pid: 7, secret: &[1; 32] };
        let registered = map.register(key, &"a:1".into(), &Arc::default());
        registered.point_to(CancelKey { pid: 8, secret: &[2; 32] }, &"b:1".into());
        let target = lock(&map.keys).get(&name(key)).cloned().unwrap();
        assert_eq!((&*target.address, target.pid, &target.secret[..]), ("b:1", 8, &[2; 32][..]));
        drop(registered);
        assert!(lock(&map.keys).is_empty());
    }

    #[test]
    fn a_commit_and_a_cancel_exclude_each_other() {
        let gate = Arc::new(Gate::default());
        let mut cx = Context::from_waker(Waker::noop());
        let pass = gate.enter().unwrap();
        gate.set(Commit::Asked);
        assert!(gate.poll_quiet(&mut cx).is_pending(), "the commit waits for the cancel");
        assert!(gate.enter().is_none(), "and lets no other in");
        drop(pass);
        assert!(gate.poll_quiet(&mut cx).is_ready());
        gate.set(Commit::None);
        assert!(gate.enter().is_some());
    }
}
