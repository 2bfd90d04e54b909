//! One PostgreSQL server as an agent sees it; what an agent tells its peers of its own.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use wire::{History, Lsn, Timeline};

use crate::mutation::{Mutation, is_on};
use crate::{MemberId, NodeName, PrimaryRecord, SyncSet, Term};

/// The end of valid WAL in a data directory.
///
/// Ordered by timeline, then LSN. Timeline ids are used once and recorded in growing order with growing terms, so
/// this is Raft's order (highest recorded term, then length) for positions on recorded timelines.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Position {
    pub timeline: Timeline,
    pub lsn: Lsn,
}

/// What the node's server is doing.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum Postgres {
    /// Not looked at yet.
    #[default]
    Unknown,
    /// There is no data directory.
    Empty,
    /// There is a data directory that is not ours to touch, and why.
    Unusable(String),
    Stopped,
    /// The postmaster runs but does not answer queries yet.
    Starting,
    Standby(Standby),
    Primary(Primary),
}

/// Whom a standby's files point at.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Upstream {
    pub node: NodeName,
    pub term: Term,
}

/// What a WAL receiver says in the server's log when it ends.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Complaint {
    /// PostgreSQL's own.
    pub words: String,
    /// A new copy of the upstream may stream. Not so where the receiver could not even log in, and where its slot is the
    /// matter.
    pub copy_helps: bool,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Standby {
    pub system_id: u64,
    /// As configured; `None` is detached.
    pub upstream: Option<Upstream>,
    /// A `walreceiver` is in `pg_stat_activity`, whatever it is connected to.
    pub receiver: bool,
    /// The receiver streams.
    pub streaming: bool,
    /// The greater of receive and replay LSN, and the timeline of the record that ends there.
    pub position: Position,
    pub replay: Lsn,
    /// Startup has read all of `pg_wal` since the server's last start, so `position` understates nothing.
    pub complete: bool,
    /// Only internal connections are admitted.
    pub quarantined: bool,
    /// Milliseconds for which it has been pointed at its upstream without streaming; 0 while it streams.
    pub stalled_ms: u64,
    /// Why nothing has come lately; `None` while it streams, and when its receiver says nothing.
    #[serde(default)]
    pub complaint: Option<Complaint>,
    /// How it came to the timeline of its position; `None` when that cannot be told.
    #[serde(default)]
    pub history: Option<History>,
    /// Physical slots of ours, for nodes that take their WAL from here, and whether one reads from it.
    #[serde(default)]
    pub slots: BTreeMap<String, bool>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Primary {
    pub system_id: u64,
    /// How it came to its present timeline.
    pub history: History,
    /// End of the flushed WAL.
    pub flush: Lsn,
    /// Only internal connections are admitted.
    pub quarantined: bool,
    /// Roles for replication and rewind exist.
    pub prepared: bool,
    /// End of recovery: the first LSN of the present timeline's own WAL.
    pub end_of_recovery: Lsn,
    /// The set in force; `None` while that is not known (agent just started, or a change was interrupted).
    pub applied: Option<Applied>,
    pub walsenders: Vec<Walsender>,
    /// Physical slots of ours.
    pub slots: BTreeSet<String>,
    /// What clients and the archiver are at.
    #[serde(default)]
    pub activity: Activity,
    /// Milliseconds since the last write probe that reached the local disk; `None` before the first.
    pub write_age_ms: Option<u64>,
    /// Milliseconds since the last write probe that k of the set flushed; `None` before the first.
    pub probe_age_ms: Option<u64>,
}

/// What a planned stop of a primary has to wait for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Activity {
    /// Clients' sessions that run a statement or have a transaction open.
    pub busy_sessions: u32,
    /// Age of their oldest open transaction.
    pub oldest_transaction_ms: u64,
    /// WAL files that wait for `archive_command`; a shutdown waits for them.
    pub unarchived: u32,
    /// For how long the oldest of them has waited; `None` when nothing is archived from here.
    #[serde(default)]
    pub archive_waits_ms: Option<u64>,
}

/// `synchronous_standby_names` in force, that is applied by every walsender (DESIGN 5).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Applied {
    /// The term in the standby names.
    pub term: Term,
    pub set: SyncSet,
    /// Measured after the change was in force.
    pub lsn: Lsn,
}

/// A row of `pg_stat_replication` that belongs to a member.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Walsender {
    pub member: MemberId,
    pub term: Term,
    pub streaming: bool,
    pub flush: Lsn,
    pub replay: Lsn,
}

/// Work on the server that must end before another rule may touch it.
///
/// It ends with a fresh observation: a view without `busy` shows the server as the work left it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub enum Operation {
    Initdb,
    Start,
    Stop,
    Detach,
    Follow,
    Clone,
    Rewind,
    Promote,
    Prepare,
    ApplySync,
    Gate,
    Slots,
    TakeSlots,
}

impl Operation {
    /// While it is under way the server may take WAL, lose WAL or change its role: no look tells where it stands.
    pub fn moves_wal(self) -> bool {
        match self {
            Operation::Initdb | Operation::Start | Operation::Stop | Operation::Detach => true,
            Operation::Follow | Operation::Clone | Operation::Rewind | Operation::Promote => true,
            Operation::TakeSlots => true,
            Operation::Prepare | Operation::ApplySync | Operation::Gate | Operation::Slots => false,
        }
    }
}

impl Primary {
    pub fn timeline(&self) -> Timeline {
        self.history.current
    }

    /// Members that stream under `term`.
    pub fn streaming(&self, term: Term) -> BTreeSet<MemberId> {
        self.walsenders.iter().filter(|w| w.streaming && w.term == term).map(|w| w.member.clone()).collect()
    }

    /// How many members of `set` have flushed `lsn` while they followed `term`.
    pub fn flushed(&self, set: &SyncSet, term: Term, lsn: Lsn) -> usize {
        let flushed = |member: &MemberId| {
            self.walsenders.iter().any(|w| w.member == *member && w.term == term && w.flush >= lsn)
        };
        set.members.iter().filter(|member| flushed(member)).count()
    }
}

impl Standby {
    /// It is pointed at the recorded primary, in its recorded term.
    pub fn follows(&self, record: &PrimaryRecord) -> bool {
        self.upstream.as_ref().is_some_and(|u| u.node == record.node && u.term == record.term)
    }

    /// Its WAL ends on a branch that only has the id of one of `history`'s. Two clusters that went apart each count their
    /// timelines on: a branch is the same only where it began at the same place.
    pub(crate) fn is_namesake(&self, history: &History) -> bool {
        is_namesake(self.history.as_ref(), self.position.timeline, history)
    }

    /// Why a copy of whom it follows would not stream either, and what to do.
    pub(crate) fn refused(&self) -> Option<String> {
        let complaint = self.complaint.as_ref().filter(|complaint| !complaint.copy_helps)?;
        let next = "once it is let in there (port, pg_hba.conf, max_wal_senders, slot) it goes on by itself";
        Some(format!("a new copy would not stream either: {}; {next}", complaint.words))
    }

    /// `: ` and what its receiver says, or nothing.
    pub(crate) fn complains(&self) -> String {
        self.complaint.as_ref().map_or_else(String::new, |complaint| format!(": {}", complaint.words))
    }

    /// Takes WAL from nobody, and knows the end of its own.
    pub fn answers(&self) -> bool {
        let receiver = self.receiver && !is_on(Mutation::ReceiverCounts);
        let complete = self.complete || is_on(Mutation::PositionUnread);
        self.upstream.is_none() && !receiver && complete
    }
}

impl Postgres {
    pub fn standby(&self) -> Option<&Standby> {
        match self {
            Postgres::Standby(standby) => Some(standby),
            _ => None,
        }
    }

    pub fn primary(&self) -> Option<&Primary> {
        match self {
            Postgres::Primary(primary) => Some(primary),
            _ => None,
        }
    }

    /// The timeline on which its WAL ends.
    pub fn timeline(&self) -> Option<Timeline> {
        match self {
            Postgres::Standby(standby) => Some(standby.position.timeline),
            Postgres::Primary(primary) => Some(primary.timeline()),
            _ => None,
        }
    }

    /// One word for people.
    pub fn word(&self) -> &'static str {
        match self {
            Postgres::Unknown => "unknown",
            Postgres::Empty => "empty",
            Postgres::Unusable(_) => "unusable",
            Postgres::Stopped => "stopped",
            Postgres::Starting => "starting",
            Postgres::Standby(standby) if standby.streaming => "streaming",
            Postgres::Standby(_) => "standby",
            Postgres::Primary(primary) if primary.quarantined => "quarantined",
            Postgres::Primary(_) => "running",
        }
    }
}

/// `Standby::is_namesake`, of WAL that ends on `timeline` and has the history `own`.
pub(crate) fn is_namesake(own: Option<&History>, timeline: Timeline, history: &History) -> bool {
    let own = own.filter(|own| own.current == timeline);
    own.is_some_and(|own| !own.begins_as(history)) && !is_on(Mutation::NamesakeFollowed)
}
