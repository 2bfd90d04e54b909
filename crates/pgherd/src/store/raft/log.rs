//! The Raft log as raft-rs reads it: a mirror in memory of what `disk.rs` has made durable.
//!
//! The log is compacted every few hundred entries (see `replica.rs`), so all of it fits in memory and no read can fail
//! in the middle of the protocol, where raft-rs would have to panic.
//!
//! Invariant: nothing is in here that is not on disk, and entries are contiguous after `compacted`.

use std::collections::VecDeque;

use raft::eraftpb::{ConfState, Entry, HardState, Snapshot};
use raft::{GetEntriesContext, RaftState, Storage, StorageError};

/// What is on disk: loaded at start, then followed change by change.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Log {
    pub hard_state: HardState,
    /// Index and term of the last entry that is gone; (0, 0) for a log that is whole.
    pub compacted: (u64, u64),
    pub entries: VecDeque<Entry>,
    /// The state at some index at or after `compacted`; empty in a directory that has none yet. Every applied change of
    /// seats is followed by a snapshot, so its seats are those that count.
    pub snapshot: Snapshot,
}

impl Log {
    pub fn first(&self) -> u64 {
        self.compacted.0 + 1
    }

    pub fn last(&self) -> u64 {
        self.compacted.0 + self.entries.len() as u64
    }

    pub fn conf_state(&self) -> ConfState {
        self.snapshot.get_metadata().get_conf_state().clone()
    }

    /// New entries replace whatever stood at their index and after.
    pub fn append(&mut self, entries: &[Entry]) {
        let Some(first) = entries.first() else { return };
        let keep = first.index.saturating_sub(self.first()) as usize;
        self.entries.truncate(keep);
        self.entries.extend(entries.iter().cloned());
    }

    /// A snapshot from the leader replaces the whole log.
    pub fn install(&mut self, snapshot: Snapshot) {
        let metadata = snapshot.get_metadata();
        self.compacted = (metadata.index, metadata.term);
        self.hard_state.commit = self.hard_state.commit.max(metadata.index);
        self.entries.clear();
        self.snapshot = snapshot;
    }

    /// Entries up to `index` go; the snapshot covers them.
    pub fn compact(&mut self, index: u64, snapshot: Snapshot) {
        self.snapshot = snapshot;
        if let Some(term) = self.term_at(index)
            && index > self.compacted.0
        {
            self.entries.drain(..(index - self.compacted.0) as usize);
            self.compacted = (index, term);
        }
    }

    pub fn term_at(&self, index: u64) -> Option<u64> {
        if index == self.compacted.0 {
            return Some(self.compacted.1);
        }
        let offset = index.checked_sub(self.first())?;
        self.entries.get(offset as usize).map(|entry| entry.term)
    }
}

impl Storage for Log {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState::new(self.hard_state.clone(), self.conf_state()))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low < self.first() {
            return Err(StorageError::Compacted.into());
        }
        if high > self.last() + 1 {
            return Err(StorageError::Unavailable.into());
        }
        let range = (low - self.first()) as usize..(high - self.first()) as usize;
        let mut entries: Vec<Entry> = self.entries.range(range).cloned().collect();
        raft::util::limit_size(&mut entries, max_size.into());
        Ok(entries)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        self.term_at(index).ok_or_else(|| {
            if index < self.compacted.0 { StorageError::Compacted } else { StorageError::Unavailable }.into()
        })
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.first())
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last())
    }

    fn snapshot(&self, request_index: u64, _to: u64) -> raft::Result<Snapshot> {
        if self.snapshot.is_empty() || self.snapshot.get_metadata().index < request_index {
            return Err(StorageError::SnapshotTemporarilyUnavailable.into());
        }
        Ok(self.snapshot.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(index: u64, term: u64) -> Entry {
        Entry { index, term, ..Entry::default() }
    }

    fn snapshot(index: u64, term: u64) -> Snapshot {
        let mut snapshot = Snapshot::default();
        snapshot.mut_metadata().index = index;
        snapshot.mut_metadata().term = term;
        snapshot
    }

    #[test]
    fn a_new_leaders_entries_replace_the_tail() {
        let mut log = Log::default();
        log.append(&[entry(1, 1), entry(2, 1), entry(3, 1)]);
        log.append(&[entry(2, 2)]);
        assert_eq!((log.first(), log.last(), log.term_at(2), log.term_at(3)), (1, 2, Some(2), None));
    }

    #[test]
    fn compaction_keeps_the_term_before_the_first_entry() {
        let mut log = Log::default();
        log.append(&[entry(1, 1), entry(2, 1), entry(3, 2)]);
        log.compact(2, snapshot(3, 2));
        assert_eq!((log.first(), log.last(), log.term_at(2), log.term_at(1)), (3, 3, Some(1), None));
        let gone = log.entries(2, 3, None, GetEntriesContext::empty(false));
        assert_eq!(gone, Err(StorageError::Compacted.into()));
        log.install(snapshot(9, 4));
        assert_eq!((log.first(), log.last(), log.term_at(9)), (10, 9, Some(4)));
    }
}
