//! The WAL of one data directory: a sequence of records, each with its timeline, writer and identity.
//!
//! An LSN is a record's index times a fixed size. Identities are unique over the whole run and WAL is only ever
//! copied from its start, so two logs that hold the same identity at one index agree on everything before it.

use std::collections::BTreeSet;

use brain::Position;
use wire::{Branch, History, Lsn, Timeline};

/// A record stands for this much WAL, so that a segment (16 MiB) holds 64 and "caught up" means something.
const RECORD_BYTES: u64 = 256 << 10;
pub const SEGMENT_RECORDS: usize = 64;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A client's commit.
    Commit,
    /// The agent's write probe; waits like a commit.
    Probe,
    /// Checkpoints, end of recovery, messages.
    Filler,
    /// Roles for replication and rewind.
    Roles,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Record {
    pub id: u64,
    pub timeline: Timeline,
    pub kind: Kind,
}

#[derive(Clone, Debug, Default)]
pub struct Wal {
    records: Vec<Record>,
    /// Records that a crash does not take away.
    pub flushed: usize,
    /// Where each timeline begins.
    branches: Vec<(Timeline, usize)>,
}

pub fn lsn(index: usize) -> Lsn {
    Lsn(index as u64 * RECORD_BYTES)
}

pub fn segment_start(index: usize) -> usize {
    index / SEGMENT_RECORDS * SEGMENT_RECORDS
}

impl Wal {
    pub fn len(&self) -> usize {
        self.records.len()
    }

    pub fn push(&mut self, record: Record) {
        if self.branches.last().is_none_or(|(timeline, _)| *timeline != record.timeline) {
            self.branches.push((record.timeline, self.records.len()));
        }
        self.records.push(record);
    }

    pub fn truncate(&mut self, length: usize) {
        self.records.truncate(length);
        self.flushed = self.flushed.min(length);
        while self.branches.last().is_some_and(|(_, start)| *start >= length) {
            self.branches.pop();
        }
    }

    pub fn holds(&self, index: usize, id: u64) -> bool {
        self.records.get(index).is_some_and(|record| record.id == id)
    }

    pub fn range(&self, from: usize, to: usize) -> Vec<Record> {
        self.records[from.min(to)..to].to_vec()
    }

    /// A copy of what is on disk.
    pub fn copy_flushed(&self) -> Wal {
        let mut copy = self.clone();
        copy.truncate(self.flushed);
        copy
    }

    pub fn timeline(&self) -> Timeline {
        self.branches.last().map_or(Timeline::FIRST, |(timeline, _)| *timeline)
    }

    pub fn timelines(&self) -> BTreeSet<Timeline> {
        self.branches.iter().map(|(timeline, _)| *timeline).collect()
    }

    pub fn has_roles(&self) -> bool {
        self.records.iter().any(|record| record.kind == Kind::Roles)
    }

    /// The end of the first `length` records.
    pub fn position(&self, length: usize) -> Position {
        let timeline = length.checked_sub(1).and_then(|last| self.records.get(last)).map(|r| r.timeline);
        Position { timeline: timeline.unwrap_or(Timeline::FIRST), lsn: lsn(length) }
    }

    pub fn history(&self) -> History {
        self.history_of(self.len())
    }

    /// How the first `length` records came to be where they end.
    pub fn history_of(&self, length: usize) -> History {
        let begun = self.branches.iter().filter(|(_, start)| *start < length);
        let ends = begun.clone().skip(1).map(|(_, start)| lsn(*start));
        let ancestors =
            begun.clone().zip(ends).map(|((timeline, _), end)| Branch { timeline: *timeline, end });
        let current = begun.clone().next_back().map_or(Timeline::FIRST, |(timeline, _)| *timeline);
        History { ancestors: ancestors.collect(), current }
    }

    /// Writes a streamed record at `index`. True when that put another record in place of one that stood there:
    /// PostgreSQL overwrites without a look, and what came after is no longer reached.
    pub fn overwrite(&mut self, index: usize, record: Record) -> bool {
        if self.holds(index, record.id) {
            return false;
        }
        let replaced = index < self.records.len();
        self.truncate(index);
        self.push(record);
        self.flushed = self.records.len();
        replaced
    }

    /// The last client's commit in the log: its place and identity.
    pub fn last_commit(&self) -> Option<(usize, u64)> {
        let last = self.records.iter().rposition(|record| record.kind == Kind::Commit)?;
        Some((last, self.records[last].id))
    }

    /// The identities of what this log holds and `other` does not. Logs agree on all before a record that they share.
    pub fn beyond(&self, other: &Wal) -> Vec<u64> {
        let shared = (0..self.len().min(other.len())).rev().find(|i| other.holds(*i, self.records[*i].id));
        self.records[shared.map_or(0, |last| last + 1)..].iter().map(|record| record.id).collect()
    }

    /// The identities, in order: what a checker keeps of a log.
    pub fn identities(&self) -> Vec<u64> {
        self.records.iter().map(|record| record.id).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(id: u64, timeline: u32) -> Record {
        Record { id, timeline: Timeline(timeline), kind: Kind::Filler }
    }

    #[test]
    fn a_fork_shows_in_the_history() {
        let mut wal = Wal::default();
        for (id, timeline) in [(1, 1), (2, 1), (3, 3)] {
            wal.push(record(id, timeline));
        }
        let history = wal.history();
        assert_eq!(history.current, Timeline(3));
        assert_eq!(history.ancestors, vec![Branch { timeline: Timeline(1), end: lsn(2) }]);
        assert_eq!(wal.position(2).timeline, Timeline(1));
        assert_eq!(wal.position(3).timeline, Timeline(3));
        wal.truncate(2);
        assert_eq!(wal.timeline(), Timeline(1));
    }

    #[test]
    fn a_stream_overwrites_what_differs() {
        let mut wal = Wal::default();
        (1..=4).for_each(|id| wal.push(record(id, 1)));
        assert!(!wal.overwrite(1, record(2, 1)) && wal.len() == 4);
        assert!(wal.overwrite(2, record(9, 1)) && wal.len() == 3);
    }
}
