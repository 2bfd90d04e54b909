//! The cluster that a standby cluster follows: its *origin*, as the store records it and as a node sees it.
//!
//! The recorded node of such a cluster is its *head*: a server in recovery that streams from the origin's primary; the
//! others follow the head. What this module does not do: follow, rewind or promote; that is `rules/head.rs`.
//! Invariants: a cluster is a standby cluster while `/origin` is there and names no term in which it was left; only a
//! recorded request to promote leaves it, and what was left is never followed again by itself.

use serde::{Deserialize, Serialize};
use wire::{History, Lsn, Timeline};

use crate::mutation::{Mutation, is_on};
use crate::{Ask, Health, NodeName, Postgres, PrimaryRecord, Request, Stage, Standby, Term, Upstream, View};

/// How a promotion leaves room below the timeline that it takes: an origin that lives goes on counting from where this
/// cluster left it, and two branches with one id look like one to `pg_rewind`. Eight takeovers of it fit in between.
pub(crate) const TIMELINES_LEFT: u32 = 8;

/// `/origin`: whom this cluster follows.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct OriginRecord {
    /// `host:port` of the PostgreSQL of each of its nodes.
    pub hosts: Vec<String>,
    /// A permanent physical slot there, which its takeovers keep.
    #[serde(default)]
    pub slot: Option<String>,
    /// The term in which this cluster was promoted: since then it follows nobody.
    #[serde(default)]
    pub left: Option<Term>,
}

/// What a node last saw of the origin.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct OriginReport {
    /// In the order in which they are configured; empty before the first look has ended.
    pub hosts: Vec<OriginHost>,
    /// When the look began, on the clock of the node that looked.
    pub begun: crate::Millis,
    /// The host that the node's receiver streams from.
    pub sender: Option<String>,
    /// Wall-clock second at which this node last streamed from the origin.
    pub streamed_at: Option<u64>,
    /// When the last transaction that was replayed here had committed, as PostgreSQL writes it.
    pub last_commit: Option<String>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct OriginHost {
    /// `host:port`.
    pub address: String,
    pub answer: OriginAnswer,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum OriginAnswer {
    /// It is no standby: it writes, or would.
    Primary(OriginPrimary),
    Standby,
    /// It gave no answer, and why.
    Silent(String),
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct OriginPrimary {
    pub system_id: u64,
    pub history: History,
    /// End of the flushed WAL.
    pub flush: Lsn,
}

impl OriginReport {
    /// The primary: of several that answer as one, the one on the highest timeline; an older one was deposed.
    pub fn primary(&self) -> Option<(&str, &OriginPrimary)> {
        let primaries = self.hosts.iter().filter_map(|host| match &host.answer {
            OriginAnswer::Primary(primary) => Some((host.address.as_str(), primary)),
            _ => None,
        });
        primaries.max_by_key(|(_, primary)| (primary.history.current, primary.flush))
    }

    /// Hosts that answer as standbys.
    pub fn standbys(&self) -> impl Iterator<Item = &str> {
        let standby = |host: &&OriginHost| matches!(host.answer, OriginAnswer::Standby);
        self.hosts.iter().filter(standby).map(|host| host.address.as_str())
    }

    /// Each host and what it said, in words.
    pub fn words(&self) -> String {
        let word = |host: &OriginHost| match &host.answer {
            OriginAnswer::Primary(_) => format!("{} is a primary", host.address),
            OriginAnswer::Standby => format!("{} is a standby", host.address),
            OriginAnswer::Silent(reason) => format!("{} gives no answer ({reason})", host.address),
        };
        let words: Vec<String> = self.hosts.iter().map(word).collect();
        if words.is_empty() { "nobody was asked yet".to_owned() } else { words.join("; ") }
    }

    /// The same without what merely goes on.
    pub(crate) fn outline(&self) -> OriginReport {
        let mut outline =
            OriginReport { begun: crate::Millis(0), streamed_at: None, last_commit: None, ..self.clone() };
        for host in &mut outline.hosts {
            if let OriginAnswer::Primary(primary) = &mut host.answer {
                primary.flush = Lsn::ZERO;
            }
        }
        outline
    }
}

/// The name under which the origin stands where otherwise a node does; no node can have it.
const ORIGIN: &str = "@origin";

impl NodeName {
    /// The origin, in the place of a node: in an upstream, and in what is followed, rewound to or copied.
    pub fn origin() -> NodeName {
        NodeName(ORIGIN.to_owned())
    }

    pub fn is_origin(&self) -> bool {
        self.0 == ORIGIN
    }
}

impl Standby {
    /// It is pointed at the origin, as head of `term`.
    pub fn follows_origin(&self, term: Term) -> bool {
        self.upstream.as_ref() == Some(&Upstream { node: NodeName::origin(), term })
    }
}

/// Where a standby's WAL stands to another server's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// It is a beginning of it.
    Beginning,
    /// It is what the other may have soon, or had; nothing is overwritten for it.
    Ahead,
    /// It has left the other's history.
    Left,
}

impl Place {
    /// Histories only grow, so an old `history` or `end` makes this `Ahead` at most, never wrongly `Left`.
    pub fn of(own: &Standby, history: &History, end: Lsn) -> Place {
        let (timeline, lsn) = (own.position.timeline, own.position.lsn);
        if own.is_namesake(history) {
            Place::Left
        } else if history.contains(timeline, lsn, end) {
            Place::Beginning
        } else if timeline >= history.current {
            Place::Ahead
        } else {
            Place::Left
        }
    }
}

impl View {
    /// Whom this cluster follows; `None` when it follows nobody (any more).
    pub fn origin_record(&self) -> Option<&OriginRecord> {
        self.store.origin.as_ref().map(|origin| &origin.value).filter(|origin| origin.left.is_none())
    }

    /// The record of a head: the recorded node follows the origin, and nobody writes.
    pub fn head(&self) -> Option<&PrimaryRecord> {
        self.record().filter(|record| record.head)
    }

    /// This node is the head.
    pub fn is_head(&self) -> bool {
        self.head().is_some() && self.recorded_me().is_some()
    }

    /// The request to promote that has passed its checks: from here on a takeover finds the primary.
    pub(crate) fn promoting(&self) -> Option<&Request> {
        self.head()?;
        self.requests().find(|r| matches!(r.ask, Ask::Promote { .. }) && r.stage == Stage::Stopping)
    }

    /// A head that takes over becomes a primary: it was asked for.
    pub(crate) fn leaves_origin(&self) -> bool {
        self.head().is_some() && (self.promoting().is_some() || is_on(Mutation::PromotedUnasked))
    }

    /// The request to demote that is handing over, and whom the cluster is to follow.
    pub(crate) fn demoting(&self) -> Option<OriginRecord> {
        let request = self.handing().filter(|_| self.head().is_none())?;
        match &request.ask {
            Ask::Demote { hosts, slot, .. } => {
                Some(OriginRecord { hosts: hosts.clone(), slot: slot.clone(), left: None })
            }
            _ => None,
        }
    }

    /// The hosts at which this node is to look: those of the origin, or those that the cluster is asked to follow.
    pub fn origin_hosts(&self) -> Vec<String> {
        let asked = self.requests().find_map(|request| match &request.ask {
            Ask::Demote { hosts, .. } => Some(hosts.clone()),
            _ => None,
        });
        asked.or_else(|| self.origin_record().map(|origin| origin.hosts.clone())).unwrap_or_default()
    }

    /// The local standby streams from whom the record says.
    pub fn streams_as_recorded(&self) -> bool {
        let (Some(record), Some(standby)) = (self.record(), self.postgres.standby()) else { return false };
        let head = self.is_head() && standby.follows_origin(record.term);
        standby.streaming && (standby.in_place(record, self.source()) || head)
    }

    /// The look at the origin began after this node had learnt of `request`'s stage.
    pub(crate) fn looked_since(&self, request: &Request) -> bool {
        let age_ms = self.now.since(self.origin.begun);
        !self.origin.hosts.is_empty() && age_ms < self.memory.stage_age_ms(self.now, request.id)
    }

    /// The highest timeline that a primary of the origin was seen on, by this node or a peer.
    pub(crate) fn origin_timeline(&self) -> Option<Timeline> {
        let peers = self.fresh_peers().map(|status| &status.origin).chain([&self.origin]);
        let seen = peers.filter_map(OriginReport::primary).map(|(_, primary)| primary.history.current).max();
        seen.max(self.memory.origin_timeline())
    }

    /// Greater than every timeline that this cluster or its origin is known to have used, with room for the origin.
    pub(crate) fn timeline_beyond_origin(&self) -> Timeline {
        let seen = self.memory.timeline_seen().map_or(Timeline::FIRST, Timeline::next);
        let origin = self.origin_timeline().map(Timeline::next);
        let unused = self.store.unused_timeline().max(seen).max(origin.unwrap_or(seen));
        Timeline(unused.0 + TIMELINES_LEFT)
    }
}

/// What a head says of itself. Its server stands for no writes: it is fine while it runs, wherever its origin is.
pub(crate) fn health_of_head(view: &View, record: &PrimaryRecord, settling: bool) -> Health {
    let promised = view.fresh_peers().map(|status| status.promise).chain([view.durable.promise]).max();
    // Somebody who has promised a higher term can follow this one no more: a new term frees them.
    let stranded = promised.is_some_and(|promise| promise > record.term);
    match view.postgres {
        _ if stranded => Health::Down,
        Postgres::Standby(_) => Health::Fine,
        Postgres::Unknown => Health::Unknown,
        Postgres::Stopped | Postgres::Starting if settling || view.busy.is_some() => Health::Fine,
        _ => Health::Down,
    }
}
