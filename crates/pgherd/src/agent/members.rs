//! Who belongs to the cluster, as this node knows it: the store's record, its last copy on disk, or the configuration.
//!
//! The record is the truth once there is one. Until this node can read it, it uses what others tell it, its last copy
//! (`members.json` beside `member.json`), or the peers of the configuration file, in this order.
//! What it is not: a decision. Who is added or removed is written by `changes`, and who votes follows in the store.
//! Invariant: addresses and peers follow the record; a stale one costs connections, never safety.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use arc_swap::ArcSwap;
use brain::MembersRecord;
use serde_json::Value;
use tokio::sync::watch;

use super::durable::write_durably;
use crate::peer::{Link, PeerAddress};
use crate::store::{MEMBERS, SeatReport, Snapshot};

/// Each node's PostgreSQL as `host:port`; replaced as a whole when the record changes.
pub type Addresses = ArcSwap<BTreeMap<String, String>>;

pub fn addresses(record: &MembersRecord) -> BTreeMap<String, String> {
    let full =
        record.nodes.iter().filter_map(|(name, member)| Some((name.0.clone(), member.postgres.clone()?)));
    full.collect()
}

/// The members, and those who were removed and may not know it.
pub fn peers(record: &MembersRecord) -> BTreeMap<String, PeerAddress> {
    let removed = record
        .removed
        .iter()
        .map(|(name, address)| (name.0.clone(), PeerAddress { address: address.clone(), removed: true }));
    let members = record.nodes.iter().map(|(name, member)| (name.0.clone(), PeerAddress::of(&member.peer)));
    removed.chain(members).collect()
}

/// The last record that this node has seen, on disk.
pub struct MembersFile {
    path: PathBuf,
}

impl MembersFile {
    pub fn in_dir(dir: &Path) -> MembersFile {
        MembersFile { path: dir.join("members.json") }
    }

    pub fn read(&self) -> Result<Option<MembersRecord>> {
        let bytes = match std::fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("read {}", self.path.display())),
        };
        let damaged = || {
            let path = self.path.display();
            format!("{path} is damaged; remove it, and this node begins with the peers of its configuration")
        };
        Ok(Some(serde_json::from_slice(&bytes).with_context(damaged)?))
    }

    fn write(&self, record: &MembersRecord) -> Result<()> {
        write_durably(&self.path, &serde_json::to_vec_pretty(record)?)
    }
}

/// Follows the record for as long as the store lives: addresses, peers, and the copy on disk.
pub async fn follow(
    mut record: MembersRecord,
    file: MembersFile,
    mut store: watch::Receiver<Arc<Snapshot>>,
    mut seats: watch::Receiver<Arc<SeatReport>>,
    link: Arc<Link>,
    addresses: Arc<Addresses>,
) {
    loop {
        let read = store.borrow_and_update().get(MEMBERS).map(|entry| entry.value.clone());
        let told = seats.borrow_and_update().told.clone();
        // What others tell counts while the own copy of the store is behind theirs, so that a node can come back.
        if let Some(newer) = told.or(read).as_ref().and_then(parse)
            && newer != record
        {
            record = newer;
            addresses.store(Arc::new(self::addresses(&record)));
            link.set_peers(peers(&record)).await;
            if let Err(error) = file.write(&record) {
                // The store has it; only a start without the store would miss it.
                tracing::warn!(error = format!("{error:#}"), "the members could not be written down");
            }
        }
        tokio::select! {
            changed = store.changed() => if changed.is_err() { return },
            changed = seats.changed() => if changed.is_err() { return },
        }
    }
}

fn parse(value: &Value) -> Option<MembersRecord> {
    let parsed = serde_json::from_value(value.clone());
    parsed.inspect_err(|error| tracing::error!(%error, "the store's {MEMBERS} is not readable")).ok()
}

#[cfg(test)]
mod tests {
    use brain::{MemberRecord, NodeKind};

    use super::*;

    fn record() -> MembersRecord {
        let member = |postgres: Option<&str>| MemberRecord {
            kind: if postgres.is_some() { NodeKind::Full } else { NodeKind::Witness },
            peer: "h:7432".to_owned(),
            postgres: postgres.map(str::to_owned),
            leaving: false,
        };
        let nodes = [("n1".into(), member(Some("h:5432"))), ("w".into(), member(None))].into();
        MembersRecord { nodes, removed: [("n2".into(), "h:1".to_owned())].into() }
    }

    #[test]
    fn the_copy_comes_back_as_it_went_and_a_damaged_one_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let file = MembersFile::in_dir(dir.path());
        assert_eq!(file.read().unwrap(), None);
        file.write(&record()).unwrap();
        assert_eq!(file.read().unwrap(), Some(record()));
        std::fs::write(dir.path().join("members.json"), b"{\"nodes\":").unwrap();
        assert!(format!("{:#}", file.read().unwrap_err()).contains("remove it"));
    }

    #[test]
    fn removed_nodes_are_peers_and_have_no_server() {
        let peers = peers(&record());
        assert!(peers["n2"].removed && !peers["n1"].removed && peers.contains_key("w"));
        assert_eq!(addresses(&record()).keys().collect::<Vec<_>>(), ["n1"]);
    }
}
