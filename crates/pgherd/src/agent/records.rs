//! The store's entries as the brain's records, and the brain's commits as store transactions.

use anyhow::{Context, Result};
use brain::{Commit, Key, Put, StoreView, Versioned};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::store::{Change, Condition, Entry, Snapshot, Transaction};

/// Passwords of the roles that pgherd made for itself; every node needs them to follow and to rewind.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credentials {
    pub replication: String,
    pub rewind: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credentials(…)")
    }
}

const CREDENTIALS: &str = "/credentials";

/// A record that cannot be read is an error: deciding without it would be deciding on a guess.
fn record<T: DeserializeOwned>(snapshot: &Snapshot, path: &str) -> Result<Option<Versioned<T>>> {
    let Some(Entry { value, version }) = snapshot.entries.get(path) else { return Ok(None) };
    let value = serde_json::from_value(value.clone())
        .with_context(|| format!("the store's {path} is not readable"))?;
    Ok(Some(Versioned { value, version: *version }))
}

/// `loaded` says that the snapshot is a real one: the store has caught up once since the agent started.
pub fn store_view(snapshot: &Snapshot, loaded: bool) -> Result<StoreView> {
    Ok(StoreView {
        loaded,
        cluster: record(snapshot, Key::Cluster.path())?,
        primary: record(snapshot, Key::Primary.path())?,
        sync: record(snapshot, Key::Sync.path())?,
        timelines: record(snapshot, Key::Timelines.path())?,
        members: record(snapshot, Key::Members.path())?,
        removed: false,
        requests: record(snapshot, Key::Requests.path())?,
        lease: record(snapshot, Key::Lease.path())?,
        origin: record(snapshot, Key::Origin.path())?,
    })
}

pub fn credentials(snapshot: &Snapshot) -> Result<Option<Credentials>> {
    Ok(record::<Credentials>(snapshot, CREDENTIALS)?.map(|versioned| versioned.value))
}

pub fn transaction(commit: &Commit) -> Result<Transaction> {
    let conditions = commit.conditions.iter().map(|(key, version)| condition(key.path(), *version)).collect();
    let change = |put: &Put| {
        let value = match put {
            Put::Cluster(record) => serde_json::to_value(record),
            Put::Primary(record) => serde_json::to_value(record),
            Put::Sync(record) => serde_json::to_value(record),
            Put::Timelines(records) => serde_json::to_value(records),
            Put::Members(record) => serde_json::to_value(record),
            Put::Requests(requests) => serde_json::to_value(requests),
            Put::Origin(record) => serde_json::to_value(record),
        };
        Ok(Change::Put { key: put.key().path().to_owned(), value: value? })
    };
    let changes = commit.puts.iter().map(change).collect::<Result<Vec<_>>>()?;
    Ok(Transaction { conditions, changes, lease: None })
}

/// Makes the cluster's credentials, once: the condition is that there are none.
pub fn new_credentials() -> Result<(Credentials, Transaction)> {
    let credentials = Credentials { replication: password(), rewind: password() };
    let transaction = first_credentials(&credentials)?;
    Ok((credentials, transaction))
}

/// Records these as the cluster's, on the condition that it has none.
pub fn first_credentials(credentials: &Credentials) -> Result<Transaction> {
    let change = Change::Put { key: CREDENTIALS.to_owned(), value: serde_json::to_value(credentials)? };
    Ok(Transaction { conditions: vec![condition(CREDENTIALS, 0)], changes: vec![change], lease: None })
}

/// Writes `key` on the condition that it still has this version.
pub fn put_if(key: &str, version: u64, value: &impl Serialize) -> Result<Transaction, serde_json::Error> {
    let change = Change::Put { key: key.to_owned(), value: serde_json::to_value(value)? };
    Ok(Transaction { conditions: vec![condition(key, version)], changes: vec![change], lease: None })
}

pub fn condition(key: &str, version: u64) -> Condition {
    Condition { key: key.to_owned(), version }
}

/// 32 letters and digits from the system's generator, some 190 bits.
fn password() -> String {
    use rand::distr::{Alphanumeric, SampleString};
    Alphanumeric.sample_string(&mut rand::rng(), 32)
}
