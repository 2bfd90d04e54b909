//! One moment of a small world: servers with their logs, walsenders, the store, writes on their way.
//!
//! What it is: plain bytes, so that a state can be copied, compared and packed. A log is a branch and a length: each
//! promotion makes a branch, and a record is named by its branch and its place.
//! What it is not: time. Invariant: nodes are named by index, and no meaning hangs on the order of the indices.

pub const NODES: usize = 5;
pub const BRANCHES: usize = 6;
pub const ERAS: usize = 6;
/// Writes to the store that may be on their way at once: an old one, and one that a node sends although it is.
pub const WRITES: usize = 2;
pub const NONE: u8 = 31;

/// Members as bits; a member is `node * 2 + incarnation`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Set {
    pub members: u16,
    pub k: u8,
}

impl Set {
    pub fn has(self, member: u8) -> bool {
        member < 16 && self.members & (1 << member) != 0
    }
}

/// `synchronous_standby_names`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Names {
    pub term: u8,
    pub set: Set,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Log {
    pub branch: u8,
    pub len: u8,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum Role {
    #[default]
    Empty,
    Down,
    Standby,
    Primary,
}

/// A walsender, and the flush that its standby reported last; 0 before the first report.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Sender {
    pub link: Link,
    pub member: u8,
    /// The term in its standby's `application_name`.
    pub term: u8,
    pub flush: u8,
    /// Its own reading of the configuration.
    pub names: Names,
    /// A second walsender of the same member counts too; only without slots.
    pub twice: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum Link {
    #[default]
    None,
    Connected,
    /// The standby has gone, and the walsender has not noticed.
    Lingering,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Node {
    pub role: Role,
    pub log: Log,
    pub member: u8,
    pub promise: u8,
    pub promoted: u8,
    pub rewound: bool,
    /// Startup has not read all of the WAL.
    pub unread: bool,
    pub upstream: u8,
    pub upstream_term: u8,
    /// The store as it was at the end of this era, or as it is now when this is the last.
    pub era: u8,
    pub doubt: bool,
    pub served: u8,
    pub admitted: bool,
    pub names: Names,
    /// What is in force is known: `names`, and `lsn` was measured after.
    pub applied: bool,
    pub lsn: u8,
    /// A change of `names` is under way.
    pub busy: bool,
    pub senders: [Sender; NODES],
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Branch {
    pub parent: u8,
    /// Records that it shares with its parent.
    pub fork: u8,
    pub timeline: u8,
    pub term: u8,
    pub node: u8,
    /// Records up to here were acknowledged or read.
    pub acked: u8,
}

/// `/primary` from one change of it to the next, and `/sync` as it was at the end.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Era {
    pub term: u8,
    pub node: u8,
    pub member: u8,
    pub timeline: u8,
    pub from_timeline: u8,
    pub from_len: u8,
    pub sync_term: u8,
    pub sync_primary: u8,
    pub set: Set,
    /// `/sync` still has the version that it had at the end of this era.
    pub sync_is_current: bool,
}

/// A transaction: on which present versions it is conditioned, and what it puts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Write {
    pub if_primary: bool,
    pub if_sync: bool,
    pub puts_primary: bool,
    pub term: u8,
    pub node: u8,
    pub member: u8,
    pub timeline: u8,
    pub from_timeline: u8,
    pub from_len: u8,
    pub puts_sync: bool,
    pub sync_term: u8,
    pub sync_primary: u8,
    pub set: Set,
}

/// What may still happen.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Left {
    pub commits: u8,
    pub changes: u8,
    pub takeovers: u8,
    pub crashes: u8,
    pub disks: u8,
    /// Writes that do not arrive at once.
    pub late: u8,
    /// Connections that end for no reason.
    pub cuts: u8,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct State {
    pub nodes: [Node; NODES],
    pub count: u8,
    pub branches: [Branch; BRANCHES],
    pub branch_count: u8,
    pub eras: [Era; ERAS],
    pub era_count: u8,
    pub writes: [Write; WRITES],
    pub write_count: u8,
    pub left: Left,
}

impl State {
    pub fn era(&self) -> &Era {
        &self.eras[self.era_count as usize - 1]
    }

    pub fn nodes(&self) -> std::ops::Range<usize> {
        0..self.count as usize
    }

    pub fn branches(&self) -> &[Branch] {
        &self.branches[..self.branch_count as usize]
    }

    pub fn writes(&self) -> &[Write] {
        &self.writes[..self.write_count as usize]
    }

    /// A log's last record names its branch.
    pub fn settle_log(&self, mut log: Log) -> Log {
        while log.branch > 0 && log.len <= self.branches[log.branch as usize].fork {
            log.branch = self.branches[log.branch as usize].parent;
        }
        log
    }

    /// True when `part` is a beginning of `whole`.
    pub fn begins(&self, part: Log, whole: Log) -> bool {
        let (part, mut at) = (self.settle_log(part), self.settle_log(whole));
        let mut end = at.len;
        while at.branch != part.branch && at.branch > 0 {
            let branch = &self.branches[at.branch as usize];
            end = end.min(branch.fork);
            at.branch = branch.parent;
        }
        part.len == 0 || at.branch == part.branch && part.len <= end
    }

    /// The timeline of a log's last record.
    pub fn timeline(&self, log: Log) -> u8 {
        self.branches[self.settle_log(log).branch as usize].timeline
    }

    /// Whose server `node` is connected to as a standby.
    pub fn host_of(&self, node: usize) -> Option<usize> {
        self.nodes().find(|host| self.nodes[*host].senders[node].link == Link::Connected)
    }

    /// The node that `/primary` names, when its server is that primary.
    pub fn serving(&self) -> Option<usize> {
        let era = self.era();
        let node = &self.nodes[era.node as usize];
        let serves = node.role == Role::Primary
            && node.member == era.member
            && self.branches[node.log.branch as usize].timeline == era.timeline;
        serves.then_some(era.node as usize)
    }
}

impl Sender {
    /// `sync_standby_priority` > 0, written by this process alone by its own reading.
    pub fn counts(&self, by_host: bool) -> bool {
        self.link != Link::None
            && self.names.set.has(self.member)
            && (by_host || self.names.term == self.term)
    }
}
