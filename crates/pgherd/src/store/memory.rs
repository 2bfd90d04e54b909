//! The store in memory: several handles, one per node, onto one shared state.
//!
//! For tests and the simulator of higher parts. It survives nothing and needs a tokio runtime with a timer; under a
//! paused clock leases expire in paused time. A handle can be cut off to play a node without a majority.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::watch;

use super::state::{Command, Outcome, State};
use super::{Entry, LeaseId, Snapshot, Store, StoreError, Transaction, check_transaction, check_ttl};

struct Shared {
    state: Mutex<State>,
    /// Cloned by each handle; sent to while the state is locked, so it never goes back.
    watch: watch::Sender<Arc<Snapshot>>,
    leader: String,
}

/// One node's handle. `another` makes the handle of another node.
pub struct MemoryStore {
    shared: Arc<Shared>,
    cut: AtomicBool,
}

impl MemoryStore {
    /// A new, empty store whose leader is called `leader` in snapshots.
    pub fn new(leader: impl Into<String>) -> Arc<Self> {
        let leader = leader.into();
        let first = Snapshot { leader: Some(leader.clone()), connected: true, ..Snapshot::default() };
        let shared = Shared { state: Mutex::default(), watch: watch::Sender::new(Arc::new(first)), leader };
        Arc::new(Self { shared: Arc::new(shared), cut: AtomicBool::new(false) })
    }

    /// Another node's handle onto the same state.
    pub fn another(&self) -> Arc<Self> {
        Arc::new(Self { shared: self.shared.clone(), cut: AtomicBool::new(false) })
    }

    /// While cut off, every call of this handle answers [`StoreError::Unavailable`]. The watch goes on.
    pub fn cut_off(&self, cut: bool) {
        self.cut.store(cut, Ordering::SeqCst);
    }

    fn reachable(&self) -> Result<(), StoreError> {
        match self.cut.load(Ordering::SeqCst) {
            true => Err(StoreError::Unavailable("this handle is cut off".to_owned())),
            false => Ok(()),
        }
    }

    fn execute(&self, command: Command) -> Result<Outcome, StoreError> {
        self.reachable()?;
        self.shared.execute(command)
    }
}

impl Shared {
    fn execute(&self, command: Command) -> Result<Outcome, StoreError> {
        let mut state = lock(&self.state);
        let before = state.revision();
        let outcome = state.execute(command);
        if state.revision() != before {
            self.watch.send_replace(Arc::new(Snapshot {
                entries: state.entries(),
                revision: state.revision(),
                leader: Some(self.leader.clone()),
                connected: true,
            }));
        }
        outcome
    }

    /// One short task per renewal: it ends the lease unless a later renewal came.
    fn expire_later(self: &Arc<Self>, lease: LeaseId) {
        let Some(held) = lock(&self.state).leases().get(&lease).cloned() else { return };
        let shared = Arc::downgrade(self);
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(held.ttl_ms)).await;
            if let Some(shared) = shared.upgrade() {
                // Expire cannot fail: a lease that is gone or renewed is left alone.
                let _ = shared.execute(Command::Expire { lease, renewals: held.renewals });
            }
        });
    }
}

/// A panic in another thread leaves the state whole, since apply works on it only through complete steps.
fn lock(state: &Mutex<State>) -> std::sync::MutexGuard<'_, State> {
    state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl Store for MemoryStore {
    fn read<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Entry>, StoreError>> {
        Box::pin(async move {
            self.reachable()?;
            Ok(lock(&self.shared.state).get(key))
        })
    }

    fn commit(&self, transaction: Transaction) -> BoxFuture<'_, Result<u64, StoreError>> {
        Box::pin(async move {
            check_transaction(&transaction)?;
            match self.execute(Command::Commit(transaction))? {
                Outcome::Revision(revision) => Ok(revision),
                other => Err(StoreError::Invalid(format!("a commit answered {other:?}"))),
            }
        })
    }

    fn grant_lease(&self, ttl: Duration) -> BoxFuture<'_, Result<LeaseId, StoreError>> {
        Box::pin(async move {
            match self.execute(Command::Grant { ttl_ms: check_ttl(ttl)? })? {
                Outcome::Granted(lease) => {
                    self.shared.expire_later(lease);
                    Ok(lease)
                }
                other => Err(StoreError::Invalid(format!("a grant answered {other:?}"))),
            }
        })
    }

    fn keep_alive(&self, lease: LeaseId) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move {
            self.execute(Command::KeepAlive { lease })?;
            self.shared.expire_later(lease);
            Ok(())
        })
    }

    fn revoke_lease(&self, lease: LeaseId) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move { self.execute(Command::Revoke { lease }).map(drop) })
    }

    fn watch(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.shared.watch.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::super::contract::{Cluster, suite};
    use super::*;

    async fn cluster(_: &str) -> Cluster {
        let first = MemoryStore::new("n1");
        let handles: Vec<Arc<dyn Store>> = vec![first.clone(), first.another(), first.another()];
        Cluster { handles, _keep: Box::new(()) }
    }

    suite!(cluster);

    #[tokio::test]
    async fn a_handle_that_is_cut_off_changes_nothing() {
        let one = MemoryStore::new("n1");
        let other = one.another();
        one.cut_off(true);
        let refused = one.commit(Transaction::new().put("k", 1)).await;
        assert!(matches!(refused, Err(StoreError::Unavailable(_))));
        assert_eq!(other.read("k").await, Ok(None));
        one.cut_off(false);
        assert_eq!(one.commit(Transaction::new().put("k", 1)).await, Ok(1));
    }
}
