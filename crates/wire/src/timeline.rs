//! Timelines and their history files.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::Lsn;

/// A timeline id, PostgreSQL's `TimeLineID`; the first is 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timeline(pub u32);

impl Timeline {
    pub const FIRST: Timeline = Timeline(1);

    pub fn next(self) -> Timeline {
        Timeline(self.0 + 1)
    }

    /// The name of its history file in `pg_wal`, as `TLHistoryFileName` makes it.
    pub fn history_file(self) -> String {
        format!("{:08X}.history", self.0)
    }
}

impl fmt::Display for Timeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Debug for Timeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tl{}", self.0)
    }
}

/// One finished stretch of a history: `timeline` was left at `end`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Branch {
    pub timeline: Timeline,
    /// The first byte that belongs to the next timeline.
    pub end: Lsn,
}

/// The way to a timeline: its ancestors, oldest first, then itself without an end.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct History {
    pub ancestors: Vec<Branch>,
    pub current: Timeline,
}

/// A history file that PostgreSQL's `readTimeLineHistory` would refuse.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HistoryError {
    pub line: usize,
    pub text: String,
}

impl fmt::Display for HistoryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {} of the timeline history file is malformed: \"{}\"", self.line, self.text)
    }
}

impl std::error::Error for HistoryError {}

impl History {
    /// The history of a timeline that has no ancestors.
    pub fn root(current: Timeline) -> History {
        History { ancestors: Vec::new(), current }
    }

    /// Reads `NNNNNNNN.history` of `current`: a timeline id, the LSN at which it was left and a reason per line.
    pub fn parse(current: Timeline, file: &str) -> Result<History, HistoryError> {
        let mut ancestors: Vec<Branch> = Vec::new();
        for (index, line) in file.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let malformed = || HistoryError { line: index + 1, text: line.to_owned() };
            let mut fields = line.split_whitespace();
            let timeline =
                fields.next().and_then(|id| id.parse().ok()).map(Timeline).ok_or_else(malformed)?;
            let end = fields.next().and_then(|lsn| lsn.parse().ok()).ok_or_else(malformed)?;
            let ascends = ancestors.last().is_none_or(|last| last.timeline < timeline);
            if !ascends || timeline >= current {
                return Err(malformed());
            }
            ancestors.push(Branch { timeline, end });
        }
        Ok(History { ancestors, current })
    }

    /// The timeline that holds the record ending at `lsn`: the first one that was not left before it.
    pub fn timeline_at(&self, lsn: Lsn) -> Timeline {
        self.ancestors.iter().find(|branch| lsn <= branch.end).map_or(self.current, |branch| branch.timeline)
    }

    /// Where `timeline` was left, `None` when it is the current one or no part of this history.
    pub fn end_of(&self, timeline: Timeline) -> Option<Lsn> {
        self.ancestors.iter().find(|branch| branch.timeline == timeline).map(|branch| branch.end)
    }

    /// False when `other` has a branch with the id of this one's current timeline, and it began elsewhere: then it is another.
    pub fn begins_as(&self, other: &History) -> bool {
        let known = other.current == self.current || other.end_of(self.current).is_some();
        let before = other.ancestors.iter().filter(|branch| branch.timeline < self.current);
        !known || before.eq(self.ancestors.iter())
    }

    /// True when a log whose last record ends at `lsn` on `timeline` is a beginning of this one,
    /// which itself reaches to `own_end` on its current timeline.
    pub fn contains(&self, timeline: Timeline, lsn: Lsn, own_end: Lsn) -> bool {
        if timeline == self.current {
            lsn <= own_end
        } else {
            self.end_of(timeline).is_some_and(|end| lsn <= end)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_file_tells_where_a_record_lies() {
        let file =
            "1\t0/3000060\tno recovery target specified\n\n3\t0/5000000\tno recovery target specified\n";
        let history = History::parse(Timeline(4), file).unwrap();
        assert_eq!(history.timeline_at(Lsn(0x3000060)), Timeline(1));
        assert_eq!(history.timeline_at(Lsn(0x3000061)), Timeline(3));
        assert_eq!(history.timeline_at(Lsn(0x5000001)), Timeline(4));
        assert!(history.contains(Timeline(1), Lsn(0x3000060), Lsn(0x6000000)));
        assert!(!history.contains(Timeline(1), Lsn(0x3000061), Lsn(0x6000000)));
        assert!(
            !history.contains(Timeline(2), Lsn(0x10), Lsn(0x6000000)),
            "a skipped timeline is no ancestor"
        );
        assert!(!history.contains(Timeline(4), Lsn(0x6000001), Lsn(0x6000000)), "ahead of the end");
    }

    #[test]
    fn malformed_files_are_refused() {
        for file in ["x 0/1", "1", "1 zz", "2 0/1\n1 0/2", "4 0/1"] {
            assert!(History::parse(Timeline(4), file).is_err(), "{file}");
        }
    }
}
