//! The store: the place where nodes agree on terms, sync sets, configuration and requests.
//!
//! What it is: a small map of keys to JSON values with compare-and-set over several keys, leases and a watch. Every
//! implementation passes the one contract suite in `contract.rs`; consumers know only the trait [`Store`].
//!
//! What it is not: it does not decide who is primary, and nobody needs it to fence. It moves no data of users.
//!
//! Invariant: a transaction is applied once and whole, or not at all; what [`Store::commit`] or [`Store::read`] has
//! answered with success, no later read contradicts.

#[cfg(test)]
mod contract;
pub mod memory;
pub mod raft;
mod state;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use thiserror::Error;

pub use memory::MemoryStore;
pub use raft::{RaftConfig, RaftStore, SeatReport, Standing};

/// The revision at which a key was last written; 0 means that the key is absent. It grows with each change of the
/// key, also across a delete, so a version that once matched never matches a different value.
pub type Version = u64;

/// One transaction, encoded, may be this big: a command must fit one frame of the peer link with room to spare.
pub const TRANSACTION_BYTES_MAX: usize = 1 << 20;

/// All keys and values together may be this big: a snapshot travels as one message and is held in memory.
pub const STATE_BYTES_MAX: usize = 8 << 20;

/// The shortest lease. It must outlast an election (1 s at the default tick) or keep-alives could not hold it.
pub const LEASE_TTL_MIN: Duration = Duration::from_millis(100);

/// The longest lease; more is a unit mistake.
pub const LEASE_TTL_MAX: Duration = Duration::from_secs(24 * 3600);

/// The record of the cluster's members. The embedded store reads its nodes' names: they are its voters.
pub const MEMBERS: &str = "/members";

/// Names a lease; given by [`Store::grant_lease`], never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LeaseId(pub u64);

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "lease {}", self.0)
    }
}

/// A value and the version at which it was written.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    pub value: Value,
    pub version: Version,
}

/// The state as this node has applied it: possibly stale, never torn, never going back while the handle lives.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    pub entries: BTreeMap<String, Entry>,
    /// Grows by one with each transaction that changed something. A caller whose commit answered `r` sees its own
    /// write in every snapshot with `revision >= r`.
    pub revision: u64,
    /// The node that leads the store, as far as this node knows. It says nothing about PostgreSQL's primary.
    pub leader: Option<String>,
    /// Whether a leader has been known within the election timeout.
    pub connected: bool,
}

impl Snapshot {
    pub fn get(&self, key: &str) -> Option<&Entry> {
        self.entries.get(key)
    }

    /// The version to put into a [`Condition`] for a key that must not have changed since this snapshot.
    pub fn version(&self, key: &str) -> Version {
        self.entries.get(key).map_or(0, |entry| entry.version)
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Change {
    Put { key: String, value: Value },
    Delete { key: String },
}

/// The key must have exactly this version; 0: it must be absent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Condition {
    pub key: String,
    pub version: Version,
}

/// All conditions hold and all changes happen, or nothing happens.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Transaction {
    pub conditions: Vec<Condition>,
    pub changes: Vec<Change>,
    /// Keys put by this transaction vanish with this lease. A put without a lease frees the key from an earlier one.
    pub lease: Option<LeaseId>,
}

impl Transaction {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn require(mut self, key: impl Into<String>, version: Version) -> Self {
        self.conditions.push(Condition { key: key.into(), version });
        self
    }

    pub fn put(mut self, key: impl Into<String>, value: impl Into<Value>) -> Self {
        self.changes.push(Change::Put { key: key.into(), value: value.into() });
        self
    }

    pub fn delete(mut self, key: impl Into<String>) -> Self {
        self.changes.push(Change::Delete { key: key.into() });
        self
    }

    pub fn with_lease(mut self, lease: LeaseId) -> Self {
        self.lease = Some(lease);
        self
    }
}

#[derive(Clone, Debug, Error, PartialEq)]
pub enum StoreError {
    /// Another writer was first. Nothing was applied; read again and decide again.
    #[error(
        "key {key:?} has version {found}, expected {expected}: it was changed meanwhile; read it again and decide again"
    )]
    Conflict { key: String, expected: Version, found: Version },
    /// The lease has expired, was revoked, or never was. Nothing was applied.
    #[error("{lease} has expired or was revoked; grant a new one")]
    LeaseGone { lease: LeaseId },
    /// Nothing was applied, for sure.
    #[error("the store is unavailable, nothing was changed: {0}")]
    Unavailable(String),
    /// The change may or may not have been, or may yet be, applied. Read before trying again.
    #[error("the outcome of the change is unknown: {0}; read the keys before trying again")]
    Unknown(String),
    #[error("{what} is {bytes} bytes, the limit is {limit}; store less")]
    TooLarge { what: &'static str, bytes: usize, limit: usize },
    #[error("the request makes no sense: {0}")]
    Invalid(String),
}

/// Where nodes agree. Handles are shared by [`Arc`]; every method may be called from many tasks at once.
pub trait Store: Send + Sync + 'static {
    /// Linearizable: it sees every change that was answered before the call, by any node.
    fn read<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Entry>, StoreError>>;

    /// Compare-and-set on several keys; the answer is the revision that it made (or found, if it changed nothing).
    fn commit(&self, transaction: Transaction) -> BoxFuture<'_, Result<u64, StoreError>>;

    /// A lease lives for `ttl` after its grant and after each keep-alive, counted from their application, thus never
    /// less than `ttl` after the moment the holder asked. A change of the store's leader restarts the count.
    fn grant_lease(&self, ttl: Duration) -> BoxFuture<'_, Result<LeaseId, StoreError>>;

    fn keep_alive(&self, lease: LeaseId) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Ends the lease now; its keys vanish. Revoking a lease that is gone is success.
    fn revoke_lease(&self, lease: LeaseId) -> BoxFuture<'_, Result<(), StoreError>>;

    /// The locally applied state. Quick changes may be seen as one; none is seen out of order.
    fn watch(&self) -> tokio::sync::watch::Receiver<Arc<Snapshot>>;
}

/// Refuses a lease's length that cannot be meant.
fn check_ttl(ttl: Duration) -> Result<u64, StoreError> {
    if ttl < LEASE_TTL_MIN || ttl > LEASE_TTL_MAX {
        return Err(StoreError::Invalid(format!(
            "a lease of {ttl:?}; it must be from {LEASE_TTL_MIN:?} to {LEASE_TTL_MAX:?}"
        )));
    }
    Ok(ttl.as_millis() as u64)
}

/// Refuses a transaction that would not fit a frame, or whose keys would not print in an error.
fn check_transaction(transaction: &Transaction) -> Result<(), StoreError> {
    for change in &transaction.changes {
        let (Change::Put { key, .. } | Change::Delete { key }) = change;
        if key.is_empty() || key.chars().any(char::is_control) {
            return Err(StoreError::Invalid(format!("the key {key:?} is empty or has control characters")));
        }
    }
    let encoded = serde_json::to_vec(transaction).map_err(|error| StoreError::Invalid(error.to_string()))?;
    if encoded.len() > TRANSACTION_BYTES_MAX {
        return Err(StoreError::TooLarge {
            what: "the transaction",
            bytes: encoded.len(),
            limit: TRANSACTION_BYTES_MAX,
        });
    }
    Ok(())
}
