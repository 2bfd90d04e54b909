//! Patroni's HTTP interface, answered by pgherd: load balancers, probes and monitors that were set up for Patroni go on.
//!
//! What it is: Patroni's paths, status codes and names of fields, over the same reports as everything else here: health
//! checks (`health`), documents (`documents`), changes (`changes`), metrics (`metrics`). What it is not: Patroni. A field
//! that pgherd cannot know is left out, and what it does otherwise is said in `docs/concepts/patroni.md`.
//! Invariant: `/primary` is answered with 200 by a node only while it is the open primary and its lease holds at the moment
//! of the answer.

pub mod changes;
pub mod documents;
mod duration;
pub mod dynamic;
pub mod health;
pub mod metrics;
mod size;
#[cfg(test)]
pub mod tests;
mod words;

use super::OwnReport;
use super::report::{NodeReport, Role, StatusReport};
use super::routes::View;

/// All that one answer is made of, taken at one moment.
pub(super) struct Told {
    pub report: StatusReport,
    pub own: OwnReport,
}

impl Told {
    pub fn by(view: &View) -> Told {
        Told { report: view.status(), own: view.own() }
    }

    /// The row of the node that answers; `None` while it is not part of its own view.
    pub fn row(&self) -> Option<&NodeReport> {
        self.report.nodes.iter().find(|node| node.name == self.report.from)
    }

    /// Its server answers, whatever it is.
    pub fn is_running(&self) -> bool {
        self.row().is_some_and(|row| words::state(row) == words::State::Running)
    }

    /// A primary in quarantine is not named in `primary` yet: no client may be sent there.
    pub fn is_primary(&self) -> bool {
        let named = |row: &NodeReport| self.report.primary.as_ref() == Some(&row.name);
        self.row().is_some_and(|row| row.healthy && row.role == Role::Primary && named(row))
    }

    pub fn is_standby_leader(&self) -> bool {
        self.is_running() && self.row().is_some_and(|row| row.role == Role::Head && !row.quarantined)
    }

    pub fn is_leader(&self) -> bool {
        self.is_primary() || self.is_standby_leader()
    }

    /// It answers clients, and what it answers was the cluster's.
    pub fn is_replica(&self) -> bool {
        self.is_running() && self.row().is_some_and(|row| row.role == Role::Replica && !row.quarantined)
    }

    /// The name of the one that leads, as far as it is heard of.
    pub fn leader(&self) -> Option<&str> {
        let head = self.report.origin.as_ref().and_then(|origin| origin.head.as_deref());
        self.report.primary.as_deref().or(head)
    }

    pub fn standing(&self, row: &NodeReport) -> Standing {
        let sync = &self.report.sync;
        match row.role {
            Role::Replica if row.sync && sync.members.len() <= sync.k as usize => Standing::Sync,
            Role::Replica if row.sync => Standing::Quorum,
            _ => Standing::Async,
        }
    }

    /// Bytes that `lsn` is behind the one that leads, or while its end of WAL is not known, behind the furthest that anybody
    /// has received.
    pub fn lag(&self, lsn: wire::Lsn) -> u64 {
        let nodes = &self.report.nodes;
        let leading = self.leader().and_then(|name| nodes.iter().find(|node| node.name == name));
        let end = leading.and_then(|node| node.lsn).or(nodes.iter().filter_map(|node| node.lsn).max());
        // Of a standby cluster the end is the origin's, which is no row.
        let ahead = leading.filter(|node| node.role == Role::Head).and_then(|head| head.lag_bytes);
        end.map_or(0, |end| end.bytes_since(lsn)) + ahead.unwrap_or(0)
    }
}

/// How commits count on a replica.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Standing {
    /// Every acknowledged commit is on it: all of the sync set must flush, and it is one of them.
    Sync,
    /// k of the sync set must flush, and it is one of more than k.
    Quorum,
    Async,
}
