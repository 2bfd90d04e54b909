//! What every store must do, as one suite: `suite!(cluster)` in an implementation's tests runs all of it, where
//! `cluster` makes three handles, as three nodes have them, onto one new store.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Entry, LEASE_TTL_MAX, Snapshot, Store, StoreError, TRANSACTION_BYTES_MAX, Transaction};

/// Conditions are waited for this long; a healthy store needs a hundredth.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub struct Cluster {
    pub handles: Vec<Arc<dyn Store>>,
    /// What must live as long as the handles: network, folders.
    pub _keep: Box<dyn std::any::Any + Send>,
}

/// One test per clause, so that a failure names the clause.
macro_rules! suite {
    ($cluster:ident) => {
        $crate::store::contract::suite!(@tests $cluster:
            compare_and_set, several_keys_or_none, absent_keys, a_read_elsewhere_sees_the_write,
            watches_see_changes_in_order, a_lease_ends, a_keep_alive_holds_a_lease, a_revoked_lease_takes_its_keys,
            a_put_without_lease_frees_the_key, too_large_is_refused, racing_increments_are_all_counted,
            changing_nothing_makes_no_revision);
    };
    (@tests $cluster:ident: $($name:ident),*) => {
        mod contract {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    let cluster = super::$cluster(stringify!($name)).await;
                    $crate::store::contract::$name(&cluster).await;
                }
            )*
        }
    };
}
pub(crate) use suite;

impl Cluster {
    fn store(&self, node: usize) -> &dyn Store {
        self.handles[node].as_ref()
    }
}

/// Waits until a node has applied what `wanted` looks for.
pub async fn seen(store: &dyn Store, wanted: impl FnMut(&Arc<Snapshot>) -> bool) -> Arc<Snapshot> {
    let mut watch = store.watch();
    let found = tokio::time::timeout(PATIENCE, watch.wait_for(wanted)).await;
    found.expect("in time").expect("the store lives").clone()
}

/// Commits, trying again while it is certain that nothing was applied (elections).
pub async fn commit(store: &dyn Store, transaction: Transaction) -> Result<u64, StoreError> {
    let until = Instant::now() + PATIENCE;
    loop {
        match store.commit(transaction.clone()).await {
            Err(StoreError::Unavailable(_)) if Instant::now() < until => tokio::task::yield_now().await,
            result => return result,
        }
    }
}

pub async fn read(store: &dyn Store, key: &str) -> Option<Entry> {
    let until = Instant::now() + PATIENCE;
    loop {
        match store.read(key).await {
            Err(StoreError::Unavailable(_)) if Instant::now() < until => tokio::task::yield_now().await,
            result => return result.expect("read"),
        }
    }
}

pub async fn compare_and_set(cluster: &Cluster) {
    let store = cluster.store(0);
    commit(store, Transaction::new().put("k", "a")).await.unwrap();
    let first = read(store, "k").await.unwrap();
    commit(store, Transaction::new().require("k", first.version).put("k", "b")).await.unwrap();
    let second = read(store, "k").await.unwrap();
    assert_eq!(second.value, "b");
    assert!(second.version > first.version);
    let stale = commit(store, Transaction::new().require("k", first.version).put("k", "c")).await;
    let conflict =
        StoreError::Conflict { key: "k".to_owned(), expected: first.version, found: second.version };
    assert_eq!(stale, Err(conflict));
    assert_eq!(read(store, "k").await, Some(second));
}

pub async fn several_keys_or_none(cluster: &Cluster) {
    let store = cluster.store(0);
    let revision = commit(store, Transaction::new().put("a", 1).put("b", 1)).await.unwrap();
    let both = read(store, "a").await.unwrap();
    assert_eq!(both.version, read(store, "b").await.unwrap().version);
    assert_eq!(both.version, revision);
    let half = Transaction::new().require("a", both.version).require("b", 999).put("a", 2).delete("b");
    assert!(matches!(commit(store, half).await, Err(StoreError::Conflict { .. })));
    assert_eq!(read(store, "a").await, Some(both.clone()));
    assert!(read(store, "b").await.is_some());
    let whole =
        Transaction::new().require("a", both.version).require("b", both.version).put("a", 2).delete("b");
    commit(store, whole).await.unwrap();
    assert_eq!(read(store, "a").await.unwrap().value, 2);
    assert_eq!(read(store, "b").await, None);
}

pub async fn absent_keys(cluster: &Cluster) {
    let store = cluster.store(0);
    assert_eq!(read(store, "new").await, None);
    let create = Transaction::new().require("new", 0).put("new", 1);
    let version = commit(store, create.clone()).await.unwrap();
    let again = commit(store, create.clone()).await;
    let conflict = StoreError::Conflict { key: "new".to_owned(), expected: 0, found: version };
    assert_eq!(again, Err(conflict));
    commit(store, Transaction::new().delete("new")).await.unwrap();
    let recreated = commit(store, create).await.unwrap();
    assert!(recreated > version, "a version never returns");
}

pub async fn a_read_elsewhere_sees_the_write(cluster: &Cluster) {
    for round in 0..10 {
        let (writer, reader) = (cluster.store(round % 3), cluster.store((round + 1) % 3));
        commit(writer, Transaction::new().put("k", round)).await.unwrap();
        assert_eq!(read(reader, "k").await.unwrap().value, round);
    }
}

pub async fn watches_see_changes_in_order(cluster: &Cluster) {
    let mut watch = cluster.store(2).watch();
    let watcher = tokio::spawn(async move {
        let mut last = (0, 0);
        while last.1 < 20 {
            tokio::time::timeout(PATIENCE, watch.changed()).await.expect("in time").expect("alive");
            let snapshot = watch.borrow_and_update().clone();
            let value = snapshot.get("k").map_or(0, |entry| entry.value.as_u64().unwrap());
            assert!((snapshot.revision, value) >= last, "went back");
            last = (snapshot.revision, value);
        }
    });
    let mut revision = 0;
    for value in 1..=20 {
        revision = commit(cluster.store(0), Transaction::new().put("k", value)).await.unwrap();
    }
    watcher.await.unwrap();
    for node in 0..3 {
        let snapshot = seen(cluster.store(node), |snapshot| snapshot.revision >= revision).await;
        assert_eq!(snapshot.version("k"), revision);
        assert_eq!(snapshot.version("other"), 0);
    }
    seen(cluster.store(1), |snapshot| snapshot.connected && snapshot.leader.is_some()).await;
}

pub async fn a_lease_ends(cluster: &Cluster) {
    let store = cluster.store(0);
    commit(store, Transaction::new().put("stays", 1)).await.unwrap();
    let ttl = Duration::from_millis(300);
    let asked = Instant::now();
    let lease = store.grant_lease(ttl).await.unwrap();
    commit(store, Transaction::new().put("goes", 1).with_lease(lease)).await.unwrap();
    seen(cluster.store(1), |snapshot| snapshot.get("goes").is_some()).await;
    seen(cluster.store(1), |snapshot| snapshot.get("goes").is_none()).await;
    assert!(asked.elapsed() >= ttl, "ended early");
    assert_eq!(read(store, "goes").await, None);
    assert!(read(store, "stays").await.is_some());
    let gone = Err(StoreError::LeaseGone { lease });
    assert_eq!(store.keep_alive(lease).await, gone.clone());
    let bound = Transaction::new().put("late", 1).with_lease(lease);
    assert_eq!(commit(store, bound).await.map(drop), gone);
    assert_eq!(read(store, "late").await, None);
    assert!(matches!(store.grant_lease(LEASE_TTL_MAX * 2).await, Err(StoreError::Invalid(_))));
}

pub async fn a_keep_alive_holds_a_lease(cluster: &Cluster) {
    let store = cluster.store(0);
    commit(store, Transaction::new().put("warm", 1)).await.unwrap();
    let ttl = Duration::from_millis(1500);
    let lease = store.grant_lease(ttl).await.unwrap();
    commit(store, Transaction::new().put("k", 1).with_lease(lease)).await.unwrap();
    let begun = Instant::now();
    let mut beat = tokio::time::interval(ttl / 5);
    while begun.elapsed() < ttl * 2 {
        beat.tick().await;
        store.keep_alive(lease).await.expect("the lease is held");
    }
    assert!(read(cluster.store(1), "k").await.is_some());
    seen(cluster.store(1), |snapshot| snapshot.get("k").is_none()).await;
}

pub async fn a_revoked_lease_takes_its_keys(cluster: &Cluster) {
    let store = cluster.store(0);
    commit(store, Transaction::new().put("warm", 1)).await.unwrap();
    let lease = store.grant_lease(Duration::from_secs(60)).await.unwrap();
    let other = store.grant_lease(Duration::from_secs(60)).await.unwrap();
    assert_ne!(lease, other);
    commit(store, Transaction::new().put("a", 1).put("b", 1).with_lease(lease)).await.unwrap();
    commit(store, Transaction::new().put("c", 1).with_lease(other)).await.unwrap();
    cluster.store(1).revoke_lease(lease).await.unwrap();
    cluster.store(1).revoke_lease(lease).await.unwrap();
    assert_eq!(read(store, "a").await, None);
    assert_eq!(read(store, "b").await, None);
    assert!(read(store, "c").await.is_some());
}

pub async fn a_put_without_lease_frees_the_key(cluster: &Cluster) {
    let store = cluster.store(0);
    commit(store, Transaction::new().put("warm", 1)).await.unwrap();
    let lease = store.grant_lease(Duration::from_secs(60)).await.unwrap();
    commit(store, Transaction::new().put("k", 1).with_lease(lease)).await.unwrap();
    commit(store, Transaction::new().put("k", 2)).await.unwrap();
    store.revoke_lease(lease).await.unwrap();
    assert_eq!(read(store, "k").await.unwrap().value, 2);
}

pub async fn too_large_is_refused(cluster: &Cluster) {
    let store = cluster.store(0);
    let large = Transaction::new().put("k", "x".repeat(TRANSACTION_BYTES_MAX));
    assert!(matches!(store.commit(large).await, Err(StoreError::TooLarge { .. })));
    let fits = Transaction::new().put("k", "x".repeat(TRANSACTION_BYTES_MAX - 100));
    commit(store, fits).await.unwrap();
    assert!(read(cluster.store(1), "k").await.is_some());
}

/// The sum shows both lost updates and commands applied twice.
pub async fn racing_increments_are_all_counted(cluster: &Cluster) {
    commit(cluster.store(0), Transaction::new().put("n", 0)).await.unwrap();
    let mut racers = Vec::new();
    for handle in cluster.handles.clone() {
        racers.push(tokio::spawn(async move {
            let store = handle.as_ref();
            let mut counted = 0;
            while counted < 8 {
                let entry = read(store, "n").await.unwrap();
                let next = entry.value.as_u64().unwrap() + 1;
                match commit(store, Transaction::new().require("n", entry.version).put("n", next)).await {
                    Ok(_) => counted += 1,
                    Err(StoreError::Conflict { .. }) => {}
                    Err(other) => panic!("{other}"),
                }
            }
        }));
    }
    for racer in racers {
        racer.await.unwrap();
    }
    assert_eq!(read(cluster.store(0), "n").await.unwrap().value, 24);
}

pub async fn changing_nothing_makes_no_revision(cluster: &Cluster) {
    let store = cluster.store(0);
    let revision = commit(store, Transaction::new().put("k", 1)).await.unwrap();
    assert_eq!(commit(store, Transaction::new().require("k", revision)).await, Ok(revision));
    assert_eq!(commit(store, Transaction::new().delete("absent")).await, Ok(revision));
}
