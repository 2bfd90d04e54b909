//! The state machine of the store: commands in, outcomes out.
//!
//! It knows no clock, no dice and no disk: the expiry of a lease is a command like any other, so every node that
//! applies the same commands in the same order holds the same state.
//!
//! Invariant: a command with an id takes effect at most once, however often it is proposed.

mod seats;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Change, Entry, LeaseId, STATE_BYTES_MAX, StoreError, Transaction, Version};

/// Leases held at once. A node holds a few; 4,096 × 60 bytes keep a snapshot small when somebody leaks them.
const LEASES_MAX: usize = 4096;

/// A store directory that takes part in Raft: the node, and which of its directories.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Seat {
    pub name: String,
    pub incarnation: u64,
}

/// Who proposed a command. `incarnation` grows at each start of the proposer, `sequence` with each command, and
/// nothing below `floor` is still waited for by the proposer, so later copies of those are dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct CommandId {
    pub node: u64,
    pub incarnation: u64,
    pub sequence: u64,
    pub floor: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Command {
    Commit(Transaction),
    Grant {
        ttl_ms: u64,
    },
    KeepAlive {
        lease: LeaseId,
    },
    Revoke {
        lease: LeaseId,
    },
    /// Ends the lease only if no keep-alive came in between; harmless when repeated, so it needs no id.
    Expire {
        lease: LeaseId,
        renewals: u64,
    },
}

/// What the log carries.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Proposal {
    pub id: Option<CommandId>,
    pub command: Command,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Revision(u64),
    Granted(LeaseId),
    Done,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Cell {
    value: Value,
    version: Version,
    lease: Option<LeaseId>,
    /// What it takes in a snapshot, for the limit on the whole.
    bytes: usize,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Lease {
    pub ttl_ms: u64,
    pub renewals: u64,
}

/// The commands of one proposer that were applied: all below `floor` that ever will be, and those listed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Session {
    incarnation: u64,
    floor: u64,
    applied: BTreeSet<u64>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct State {
    cells: BTreeMap<String, Cell>,
    leases: BTreeMap<LeaseId, Lease>,
    sessions: BTreeMap<u64, Session>,
    /// By Raft id, voters and learners.
    #[serde(default)]
    seats: BTreeMap<u64, Seat>,
    /// Ids that were removed, oldest first.
    #[serde(default)]
    departed: Vec<u64>,
    revision: u64,
    last_lease: u64,
    bytes: usize,
}

impl State {
    /// Applies a proposal; `None` for a copy of a command that has taken effect already.
    pub fn apply(&mut self, proposal: Proposal) -> Option<Result<Outcome, StoreError>> {
        if let Some(id) = proposal.id
            && !self.admit(id)
        {
            return None;
        }
        Some(self.execute(proposal.command))
    }

    pub fn execute(&mut self, command: Command) -> Result<Outcome, StoreError> {
        match command {
            Command::Commit(transaction) => self.commit(transaction).map(Outcome::Revision),
            Command::Grant { ttl_ms } => {
                if self.leases.len() >= LEASES_MAX {
                    return Err(StoreError::Unavailable(format!("{LEASES_MAX} leases are held already")));
                }
                self.last_lease += 1;
                let lease = LeaseId(self.last_lease);
                self.leases.insert(lease, Lease { ttl_ms, renewals: 0 });
                Ok(Outcome::Granted(lease))
            }
            Command::KeepAlive { lease } => {
                let held = self.leases.get_mut(&lease).ok_or(StoreError::LeaseGone { lease })?;
                held.renewals += 1;
                Ok(Outcome::Done)
            }
            Command::Revoke { lease } => {
                self.end_lease(lease);
                Ok(Outcome::Done)
            }
            Command::Expire { lease, renewals } => {
                if self.leases.get(&lease).is_some_and(|held| held.renewals == renewals) {
                    self.end_lease(lease);
                }
                Ok(Outcome::Done)
            }
        }
    }

    pub fn revision(&self) -> u64 {
        self.revision
    }

    pub fn get(&self, key: &str) -> Option<Entry> {
        self.cells.get(key).map(|cell| Entry { value: cell.value.clone(), version: cell.version })
    }

    pub fn entries(&self) -> BTreeMap<String, Entry> {
        self.cells
            .iter()
            .map(|(key, cell)| (key.clone(), Entry { value: cell.value.clone(), version: cell.version }))
            .collect()
    }

    pub fn leases(&self) -> &BTreeMap<LeaseId, Lease> {
        &self.leases
    }

    /// Whether the command has had its chance: it, or a later command that gave it up, was applied.
    pub fn is_settled(&self, node: u64, incarnation: u64, sequence: u64) -> bool {
        self.sessions.get(&node).is_some_and(|session| {
            session.incarnation > incarnation
                || (session.incarnation == incarnation
                    && (sequence < session.floor || session.applied.contains(&sequence)))
        })
    }

    /// Notes the command as applied; false if it was, or if its proposer has given it up or is gone.
    fn admit(&mut self, id: CommandId) -> bool {
        // A command of a removed seat that was under way meets no session; it must not be taken for a new one.
        if self.has_departed(id.node) || self.is_settled(id.node, id.incarnation, id.sequence) {
            return false;
        }
        let session = self.sessions.entry(id.node).or_default();
        if id.incarnation > session.incarnation {
            *session = Session { incarnation: id.incarnation, ..Session::default() };
        }
        session.floor = session.floor.max(id.floor);
        session.applied = session.applied.split_off(&session.floor);
        session.applied.insert(id.sequence);
        true
    }

    fn commit(&mut self, transaction: Transaction) -> Result<u64, StoreError> {
        for condition in &transaction.conditions {
            let found = self.cells.get(&condition.key).map_or(0, |cell| cell.version);
            if found != condition.version {
                return Err(StoreError::Conflict {
                    key: condition.key.clone(),
                    expected: condition.version,
                    found,
                });
            }
        }
        if let Some(lease) = transaction.lease
            && !self.leases.contains_key(&lease)
        {
            return Err(StoreError::LeaseGone { lease });
        }
        self.check_room(&transaction.changes)?;
        let version = self.revision + 1;
        let mut changed = false;
        for change in transaction.changes {
            match change {
                Change::Put { key, value } => {
                    self.remove(&key);
                    let bytes = cell_bytes(&key, &value);
                    self.bytes += bytes;
                    self.cells.insert(key, Cell { value, version, lease: transaction.lease, bytes });
                    changed = true;
                }
                Change::Delete { key } => changed |= self.remove(&key),
            }
        }
        if changed {
            self.revision = version;
        }
        Ok(self.revision)
    }

    /// Counted before anything is changed, because a transaction that does not fit must leave no trace. What the
    /// puts replace is not deducted twice: only the last change of a key counts.
    fn check_room(&self, changes: &[Change]) -> Result<(), StoreError> {
        let mut last: BTreeMap<&str, usize> = BTreeMap::new();
        for change in changes {
            match change {
                Change::Put { key, value } => last.insert(key, cell_bytes(key, value)),
                Change::Delete { key } => last.insert(key, 0),
            };
        }
        let added: usize = last.values().sum();
        let freed: usize = last.keys().filter_map(|key| self.cells.get(*key)).map(|cell| cell.bytes).sum();
        let bytes = self.bytes + added - freed;
        // Shrinking is always allowed, or a full store could not be emptied.
        if bytes > STATE_BYTES_MAX && added > freed {
            return Err(StoreError::TooLarge {
                what: "the state with this change",
                bytes,
                limit: STATE_BYTES_MAX,
            });
        }
        Ok(())
    }

    fn remove(&mut self, key: &str) -> bool {
        match self.cells.remove(key) {
            Some(cell) => {
                self.bytes -= cell.bytes;
                true
            }
            None => false,
        }
    }

    fn end_lease(&mut self, lease: LeaseId) {
        if self.leases.remove(&lease).is_none() {
            return;
        }
        let bound: Vec<String> = self
            .cells
            .iter()
            .filter(|(_, cell)| cell.lease == Some(lease))
            .map(|(key, _)| key.clone())
            .collect();
        for key in &bound {
            self.remove(key);
        }
        if !bound.is_empty() {
            self.revision += 1;
        }
    }
}

/// At least what the cell takes in a snapshot: the key may double by escapes, and around it are field names, version
/// and lease.
fn cell_bytes(key: &str, value: &Value) -> usize {
    const FRAME: usize = 100;
    FRAME + 2 * key.len() + value.to_string().len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(sequence: u64, floor: u64) -> Proposal {
        Proposal {
            id: Some(CommandId { node: 1, incarnation: 1, sequence, floor }),
            command: Command::Commit(Transaction::new().put("k", sequence)),
        }
    }

    #[test]
    fn a_copy_of_a_command_has_no_effect() {
        let mut state = State::default();
        assert_eq!(state.apply(put(1, 1)), Some(Ok(Outcome::Revision(1))));
        assert_eq!(state.apply(put(2, 1)), Some(Ok(Outcome::Revision(2))));
        assert_eq!(state.apply(put(1, 1)), None);
        // Nothing below the floor is waited for, so a straggler that was never applied stays out.
        assert_eq!(state.apply(put(9, 9)), Some(Ok(Outcome::Revision(3))));
        assert_eq!(state.apply(put(5, 1)), None);
        assert_eq!(state.get("k").map(|entry| entry.version), Some(3));
    }

    #[test]
    fn an_earlier_incarnation_is_dead() {
        let mut state = State::default();
        let mut late = put(7, 1);
        let mut fresh = put(1, 1);
        fresh.id.as_mut().unwrap().incarnation = 2;
        assert!(state.apply(fresh).is_some());
        assert_eq!(state.apply(late.clone()), None);
        late.id.as_mut().unwrap().incarnation = 3;
        assert!(state.apply(late).is_some());
    }

    #[test]
    fn versions_do_not_return_after_a_delete() {
        let mut state = State::default();
        state.execute(Command::Commit(Transaction::new().put("k", 1))).unwrap();
        let first = state.get("k").unwrap().version;
        state.execute(Command::Commit(Transaction::new().delete("k"))).unwrap();
        state.execute(Command::Commit(Transaction::new().put("k", 1))).unwrap();
        assert!(state.get("k").unwrap().version > first);
    }

    #[test]
    fn expiry_yields_to_a_keep_alive() {
        let mut state = State::default();
        let Ok(Outcome::Granted(lease)) = state.execute(Command::Grant { ttl_ms: 500 }) else { panic!() };
        state.execute(Command::Commit(Transaction::new().put("k", 1).with_lease(lease))).unwrap();
        state.execute(Command::KeepAlive { lease }).unwrap();
        state.execute(Command::Expire { lease, renewals: 0 }).unwrap();
        assert!(state.get("k").is_some());
        state.execute(Command::Expire { lease, renewals: 1 }).unwrap();
        assert!(state.get("k").is_none());
        assert_eq!(state.execute(Command::KeepAlive { lease }), Err(StoreError::LeaseGone { lease }));
    }

    #[test]
    fn a_full_state_refuses_growth_and_allows_emptying() {
        let mut state = State::default();
        let block = "x".repeat(STATE_BYTES_MAX / 2 - 200);
        state.execute(Command::Commit(Transaction::new().put("a", block.clone()))).unwrap();
        let before = state.clone();
        let refused = state
            .execute(Command::Commit(Transaction::new().put("b", block.clone()).put("c", "x".repeat(400))));
        assert!(matches!(refused, Err(StoreError::TooLarge { .. })));
        assert_eq!(state, before);
        state.execute(Command::Commit(Transaction::new().put("b", block).delete("a"))).unwrap();
        assert!(state.get("a").is_none() && state.get("b").is_some());
    }

    #[test]
    fn a_snapshot_of_the_state_is_the_state() {
        let mut state = State::default();
        state.apply(put(1, 1)).unwrap().unwrap();
        state.execute(Command::Grant { ttl_ms: 500 }).unwrap();
        let copy: State = serde_json::from_slice(&serde_json::to_vec(&state).unwrap()).unwrap();
        assert_eq!(copy, state);
    }
}
