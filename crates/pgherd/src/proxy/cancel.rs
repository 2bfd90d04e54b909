//! Cancel requests: from a key to the server that gave it.
//!
//! What it is: a map of the keys of live sessions, bounded by their number (each holds one), and a gate per session.
//! What it is not: cluster-wide; a request that reaches another node's proxy finds no key there and is dropped.
//! Invariant (I3, in part): from the moment an explicit commit is about to be passed on until its answer, no cancel is
//! passed on, and a commit waits for a cancel that is under way. A statement that commits by standing alone can be
//! cancelled as with PostgreSQL itself; making that end in an error needs the server's warnings (I8), which comes
//! with the pooled session.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use wire::startup::CancelKey;

/// From the connection to the server's close of it, which says that the signal was sent. A commit waits for this.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(2);

/// Keeps commits and cancels of one session apart.
#[derive(Default, Debug)]
pub struct Gate {
    state: Mutex<GateState>,
}

#[derive(Default, Debug)]
struct GateState {
    committing: bool,
    cancels_under_way: u32,
    waiter: Option<Waker>,
}

impl Gate {
    /// Says whether a commit is under way, or about to be.
    pub fn set_committing(&self, committing: bool) {
        lock(&self.state).committing = committing;
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
        if state.committing {
            return None;
        }
        state.cancels_under_way += 1;
        Some(Pass { gate: Arc::clone(self) })
    }
}

/// One cancel under way; a commit waits until it is dropped.
struct Pass {
    gate: Arc<Gate>,
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

#[derive(Clone, Debug)]
struct Target {
    address: Arc<str>,
    gate: Arc<Gate>,
}

impl CancelMap {
    /// Makes `key` known until the answer is dropped.
    pub fn register(
        self: &Arc<Self>,
        key: CancelKey<'_>,
        address: &Arc<str>,
        gate: &Arc<Gate>,
    ) -> Registered {
        let name = name(key);
        let target = Target { address: Arc::clone(address), gate: Arc::clone(gate) };
        lock(&self.keys).insert(name.clone(), target);
        Registered { map: Arc::clone(self), name, gate: Arc::clone(gate) }
    }

    /// Passes the request to the server that gave the key; true when it did. Unknown keys are dropped in silence,
    /// as PostgreSQL does, so that nobody learns which keys exist.
    pub async fn forward(&self, key: CancelKey<'_>) -> bool {
        let target = lock(&self.keys).get(&name(key)).cloned();
        let Some(target) = target else { return false };
        let Some(_pass) = target.gate.enter() else {
            tracing::debug!(address = %target.address, "cancel dropped: a commit is under way");
            return false;
        };
        matches!(timeout(CANCEL_TIMEOUT, send(&target.address, key)).await, Ok(Ok(())))
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
    fn a_commit_and_a_cancel_exclude_each_other() {
        let gate = Arc::new(Gate::default());
        let mut cx = Context::from_waker(Waker::noop());
        let pass = gate.enter().unwrap();
        gate.set_committing(true);
        assert!(gate.poll_quiet(&mut cx).is_pending(), "the commit waits for the cancel");
        assert!(gate.enter().is_none(), "and lets no other in");
        drop(pass);
        assert!(gate.poll_quiet(&mut cx).is_ready());
        gate.set_committing(false);
        assert!(gate.enter().is_some());
    }
}
