//! What the store holds.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use wire::Timeline;

use crate::{MemberId, NodeName, OriginRecord, Position, Requests, SyncSet, Term};

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
    /// The timeline that its promotion takes: one greater than every id ever recorded. Of a head: the one it was on.
    pub timeline: Timeline,
    /// The answer it was chosen by; a data directory that ends before it has gone back and may not be promoted.
    pub from: Position,
    /// It is the head of a standby cluster: it follows the origin and is never promoted in this term.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub head: bool,
}

/// `/sync`: the set that takeovers count by. It lags `/primary` until the new primary opens.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SyncRecord {
    pub term: Term,
    /// The primary of that term.
    pub primary: MemberId,
    pub set: SyncSet,
    /// With k = 0: a takeover is allowed while nobody holds the store's lease. Written by a primary that holds it; what a
    /// node's own settings say decides nothing here, because they change on one node after the other.
    #[serde(default)]
    pub by_lease: bool,
    /// A standby cluster: nothing was acknowledged here, so any answer counts, and the furthest is the best.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub idle: bool,
}

impl SyncRecord {
    /// Asynchronous replication, as the operator chose it: the store's lease says who may serve.
    pub fn is_async(&self) -> bool {
        self.by_lease && self.set.k == 0
    }
}

/// `/lease`: who may serve as primary without synchronous replication. It vanishes with the store's lease.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LeaseRecord {
    pub node: NodeName,
    pub term: Term,
}

/// An entry of `/timelines`: a timeline id is used once, by the primary of one term. With a promotion come those of the
/// origin that was followed, under the last term in which it was.
#[derive(Clone, Eq, Debug, Serialize, Deserialize)]
pub struct TimelineRecord {
    pub timeline: Timeline,
    pub term: Term,
    pub member: MemberId,
    /// Wall-clock second of the recording, for people; nothing is decided by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<u64>,
}

/// Without the second: the same record, wanted a second later, is no other one, and is not written again.
impl PartialEq for TimelineRecord {
    fn eq(&self, other: &TimelineRecord) -> bool {
        (self.timeline, self.term, &self.member) == (other.timeline, other.term, &other.member)
    }
}

/// What a node is made of.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeKind {
    /// PostgreSQL and a vote.
    Full,
    /// A vote.
    Witness,
}

/// A node of the cluster.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MemberRecord {
    pub kind: NodeKind,
    /// `host:port` of its agent.
    pub peer: String,
    /// `host:port` of its PostgreSQL; a witness has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub postgres: Option<String>,
    /// It is to go: no commit counts on it any more once the sync set has let it out, and then the record does, too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub leaving: bool,
}

/// `/members`: who belongs to the cluster.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct MembersRecord {
    pub nodes: BTreeMap<NodeName, MemberRecord>,
    /// Nodes that were removed, with the address of their agent, so that they can be told.
    #[serde(default)]
    pub removed: BTreeMap<NodeName, String>,
}

/// Removed nodes that are remembered: more than a cluster has nodes.
const REMOVED_MAX: usize = 8;

impl MembersRecord {
    /// The same with `node` staying.
    pub fn keeping(&self, node: &NodeName) -> MembersRecord {
        let mut rest = self.clone();
        rest.nodes.entry(node.clone()).and_modify(|member| member.leaving = false);
        rest
    }

    /// The same without `node`.
    pub fn without(&self, node: &NodeName) -> MembersRecord {
        let mut rest = self.clone();
        if let Some(member) = rest.nodes.remove(node) {
            while rest.removed.len() >= REMOVED_MAX && rest.removed.pop_first().is_some() {}
            rest.removed.insert(node.clone(), member.peer);
        }
        rest
    }
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
    /// `None` where the settings alone say who belongs.
    pub members: Option<Versioned<MembersRecord>>,
    /// The store has told this node that it was removed; what else is here may be old.
    pub removed: bool,
    #[serde(default)]
    pub requests: Option<Versioned<Requests>>,
    /// Bound to a lease of the store: it is there while its holder keeps it.
    #[serde(default)]
    pub lease: Option<Versioned<LeaseRecord>>,
    /// The cluster that this one follows or followed.
    #[serde(default)]
    pub origin: Option<Versioned<OriginRecord>>,
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
