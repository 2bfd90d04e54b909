//! What the store holds.

use serde::{Deserialize, Serialize};
use wire::Timeline;

use crate::{MemberId, NodeName, Position, Requests, SyncSet, Term};

/// `/cluster`: who makes the cluster, and which one it is once it is made.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ClusterRecord {
    pub name: String,
    /// The one node that may run initdb.
    pub claimed_by: NodeName,
    /// PostgreSQL's system identifier; `None` until the first server exists.
    pub system_id: Option<u64>,
}

/// `/primary`: who is primary, by which term.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PrimaryRecord {
    pub term: Term,
    pub node: NodeName,
    pub member: MemberId,
    /// The timeline that its promotion takes: one greater than every id ever recorded.
    pub timeline: Timeline,
    /// The answer it was chosen by; a data directory that ends before it has gone back and may not be promoted.
    pub from: Position,
}

/// `/sync`: the set that takeovers count by. It lags `/primary` until the new primary opens.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SyncRecord {
    pub term: Term,
    /// The primary of that term.
    pub primary: MemberId,
    pub set: SyncSet,
}

/// An entry of `/timelines`: a timeline id is used once, by the primary of one term.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TimelineRecord {
    pub timeline: Timeline,
    pub term: Term,
    pub member: MemberId,
}

/// A record and the version that a condition on it must name; absent keys have version 0.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Versioned<T> {
    pub value: T,
    pub version: u64,
}

/// The store as this node last saw it. It may be stale: every change names the versions it was decided on.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct StoreView {
    /// Something has been read from the store since the agent started.
    pub loaded: bool,
    pub cluster: Option<Versioned<ClusterRecord>>,
    pub primary: Option<Versioned<PrimaryRecord>>,
    pub sync: Option<Versioned<SyncRecord>>,
    pub timelines: Option<Versioned<Vec<TimelineRecord>>>,
    #[serde(default)]
    pub requests: Option<Versioned<Requests>>,
}

impl StoreView {
    /// True when some recorded term explains WAL on `timeline`.
    pub fn explains(&self, timeline: Timeline) -> bool {
        self.timelines.as_ref().is_some_and(|t| t.value.iter().any(|record| record.timeline == timeline))
    }

    /// One greater than every timeline id ever recorded.
    pub fn unused_timeline(&self) -> Timeline {
        let recorded = self.timelines.iter().flat_map(|t| t.value.iter()).map(|record| record.timeline);
        recorded.max().map_or(Timeline::FIRST, Timeline::next)
    }
}
