//! What an agent does next. The list is closed: executors match it without a wildcard.

use serde::{Deserialize, Serialize};

use crate::{
    ClusterRecord, MemberId, MembersRecord, NodeName, OriginRecord, PrimaryRecord, Requests, SyncRecord,
    SyncSet, Term, TimelineRecord,
};
use std::collections::BTreeSet;
use std::fmt;
use wire::Timeline;

/// The name of a rule, stable for ever: events carry it.
pub type RuleId = &'static str;

/// The first rule that matched, what to do, and the reasons, candidates that were rejected included.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Decision {
    pub rule: RuleId,
    pub actions: Vec<Action>,
    pub why: Vec<String>,
}

/// Each action is idempotent: an executor that is already at it, or finds it done, does nothing. Each that touches
/// the server carries its term; an executor refuses one below the node's promise.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Action {
    /// Change the store, all or nothing, if every condition holds.
    Commit(Commit),
    /// Make the promise durable; nothing else.
    Promise { term: Term },
    /// Ask every peer for a promise of `term`, for as long as this action is decided.
    Revoke { term: Term },
    /// Create the first data directory of the cluster, with a new member id.
    Initdb,
    /// Start as a standby of nobody, quarantined.
    StartDetached,
    /// Stop: fast, then at once.
    Stop,
    /// Credential away, `primary_conninfo` empty, receiver ended; after that the position is final.
    Detach { term: Term },
    /// Promise `term`, then point at `node`: the primary of that term, or a replica of it that has a slot for this member. A
    /// head points at the origin, and may be told to again.
    Follow { term: Term, node: NodeName },
    /// Promise `term`, then take the WAL of a peer that has promised it too, without a slot.
    Fetch { term: Term, node: NodeName },
    /// Replace the data directory by a copy of `node`'s, with a new member id; the old one is moved aside.
    Clone { term: Term, node: NodeName },
    /// Stop, keep the divergent WAL, `pg_rewind` against `node`, start detached.
    Rewind { term: Term, node: NodeName },
    /// Note durably that `term` is being promoted, then promote to exactly `timeline`, quarantined, with `set` in
    /// `synchronous_standby_names` under `term` before the first writable moment.
    /// `lower`: with settings that are configured smaller than the former primary's.
    Promote { term: Term, timeline: Timeline, set: SyncSet, lower: bool },
    /// Create the roles for replication and rewind.
    Prepare { term: Term },
    /// Bring `set` in force under `term`; an empty set with k > 0 blocks every commit.
    ApplySync { term: Term, set: SyncSet },
    /// Admit only internal connections, end all others.
    Quarantine { term: Term },
    /// Admit clients.
    Admit { term: Term },
    /// Restart as a standby of nobody, with copies of the logical slots of `node`.
    TakeSlots { term: Term, node: NodeName },
    /// Have exactly the slots of these members.
    Slots { term: Term, members: BTreeSet<MemberId> },
    /// CHECKPOINT, beside all other work; its end shows in the view's errands.
    Checkpoint { request: u64 },
    /// Read the configuration file anew and apply what needs no restart; its end shows in the view's errands.
    Reload { request: u64 },
    /// Note durably that the request is obeyed, then stop: it starts again by itself.
    Restart { request: u64 },
    /// Note durably that the request is obeyed and the data directory given up: it is cloned anew.
    GiveUp { request: u64 },
}

impl Action {
    /// Its name in events and golden scripts.
    pub fn name(&self) -> &'static str {
        match self {
            Action::Commit(_) => "commit",
            Action::Promise { .. } => "promise",
            Action::Revoke { .. } => "revoke",
            Action::Initdb => "initdb",
            Action::StartDetached => "start-detached",
            Action::Stop => "stop",
            Action::Detach { .. } => "detach",
            Action::Follow { .. } => "follow",
            Action::Fetch { .. } => "fetch",
            Action::Clone { .. } => "clone",
            Action::Rewind { .. } => "rewind",
            Action::Promote { .. } => "promote",
            Action::Prepare { .. } => "prepare",
            Action::ApplySync { .. } => "apply-sync",
            Action::Quarantine { .. } => "quarantine",
            Action::Admit { .. } => "admit",
            Action::TakeSlots { .. } => "take-slots",
            Action::Slots { .. } => "slots",
            Action::Checkpoint { .. } => "checkpoint",
            Action::Reload { .. } => "reload",
            Action::Restart { .. } => "restart",
            Action::GiveUp { .. } => "give-up",
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Action::Commit(commit) => {
                let keys: Vec<&str> = commit.puts.iter().map(|put| put.key().path()).collect();
                write!(f, "write {} to the store", keys.join(", "))
            }
            Action::Promise { term } => write!(f, "promise term {term}"),
            Action::Revoke { term } => write!(f, "ask for promises of term {term}"),
            Action::Initdb => write!(f, "create the first data directory"),
            Action::StartDetached => write!(f, "start PostgreSQL as a standby of nobody"),
            Action::Stop => write!(f, "stop PostgreSQL"),
            Action::Detach { .. } => write!(f, "take no more WAL from the upstream"),
            Action::Follow { term, node } => write!(f, "follow {}, term {term}", whom(node)),
            Action::Fetch { node, .. } => write!(f, "fetch the WAL of {node}"),
            Action::Clone { node, .. } => write!(f, "copy the data directory of {}", whom(node)),
            Action::Rewind { node, .. } => write!(f, "rewind to {}", whom(node)),
            Action::Promote { term, timeline, .. } => {
                write!(f, "promote as term {term} onto timeline {timeline}")
            }
            Action::Prepare { .. } => write!(f, "create the roles for replication and rewind"),
            Action::ApplySync { set, .. } => write!(f, "bring {set} in force"),
            Action::Quarantine { .. } => write!(f, "admit no clients"),
            Action::Admit { .. } => write!(f, "admit clients"),
            Action::TakeSlots { node, .. } => write!(f, "restart with the logical slots of {node}"),
            Action::Slots { members, .. } => {
                let members: Vec<&str> = members.iter().map(|member| member.0.as_str()).collect();
                write!(f, "have slots for {}", members.join(", "))
            }
            Action::Checkpoint { .. } => write!(f, "checkpoint ahead of the stop"),
            Action::Reload { .. } => write!(f, "read the configuration anew"),
            Action::Restart { .. } => write!(f, "restart PostgreSQL"),
            Action::GiveUp { .. } => write!(f, "give up the data directory"),
        }
    }
}

/// A node by its name; the cluster that is followed has none.
fn whom(node: &NodeName) -> &str {
    if node.is_origin() { "the origin" } else { &node.0 }
}

/// A record's place in the store.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub enum Key {
    Cluster,
    Primary,
    Sync,
    Timelines,
    Members,
    Requests,
    Lease,
    Origin,
}

impl Key {
    /// The key as the store spells it.
    pub fn path(self) -> &'static str {
        match self {
            Key::Cluster => "/cluster",
            Key::Primary => "/primary",
            Key::Sync => "/sync",
            Key::Timelines => "/timelines",
            Key::Members => "/members",
            Key::Requests => "/requests",
            Key::Lease => "/lease",
            Key::Origin => "/origin",
        }
    }
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Put {
    Cluster(ClusterRecord),
    Primary(PrimaryRecord),
    Sync(SyncRecord),
    Timelines(Vec<TimelineRecord>),
    Members(MembersRecord),
    Requests(Requests),
    Origin(OriginRecord),
}

impl Put {
    pub fn key(&self) -> Key {
        match self {
            Put::Cluster(_) => Key::Cluster,
            Put::Primary(_) => Key::Primary,
            Put::Sync(_) => Key::Sync,
            Put::Timelines(_) => Key::Timelines,
            Put::Members(_) => Key::Members,
            Put::Requests(_) => Key::Requests,
            Put::Origin(_) => Key::Origin,
        }
    }
}

/// One transaction: every key in `conditions` must have exactly that version (0: be absent), then `puts` apply.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Commit {
    pub conditions: Vec<(Key, u64)>,
    pub puts: Vec<Put>,
}
