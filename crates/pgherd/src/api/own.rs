//! What a node tells of itself beyond its row in the status: for Patroni's documents and for the metrics.

use std::sync::Arc;

use brain::{OnLastStandbyLost, Postgres, View};
use wire::{History, Lsn, Timeline};

use super::panel::NodeView;
use crate::agent::Facts;

/// The reporting node. What is not known is `None`, never a guess.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct OwnReport {
    /// `None` while its server gives no answer, or there is none.
    pub facts: Option<Arc<Facts>>,
    pub system_id: Option<u64>,
    /// Wall-clock second at which the store last had a leader.
    pub store_seen: Option<u64>,
    /// Age of the agent's last decision; before the first one, of the process.
    pub decided_ms_ago: u64,
    /// Without synchronous replication a successor may be so far behind.
    pub maximum_lag_bytes: u64,
    /// k as configured.
    pub standbys: usize,
    /// Commits wait rather than go unconfirmed when the last standby is lost.
    pub blocks: bool,
}

/// A timeline that was left for the next one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PastTimeline {
    pub timeline: u32,
    /// Where it was left.
    pub end: Lsn,
    /// Of the next one; `None` when the store explains it by no term.
    pub next: Option<Successor>,
}

/// Who began the next timeline.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Successor {
    pub node: String,
    pub term: u64,
    /// Wall-clock second of the record.
    pub at: Option<u64>,
}

pub(super) fn report(node: &NodeView) -> OwnReport {
    let age_ms = |since: u64| crate::clock::boot_millis().saturating_sub(since);
    let Some(seen) = node.panel.seen() else {
        return OwnReport { decided_ms_ago: age_ms(node.started_ms), ..OwnReport::default() };
    };
    let view = &seen.view;
    OwnReport {
        facts: seen.facts.clone(),
        system_id: system_id(view),
        store_seen: seen.store_seen,
        decided_ms_ago: age_ms(view.now.0),
        maximum_lag_bytes: view.settings.maximum_lag_bytes,
        standbys: view.settings.standbys,
        blocks: view.settings.on_last_standby_lost == OnLastStandbyLost::Block,
    }
}

fn system_id(view: &View) -> Option<u64> {
    match &view.postgres {
        Postgres::Primary(primary) => Some(primary.system_id),
        Postgres::Standby(standby) => Some(standby.system_id),
        _ => view.store.cluster.as_ref()?.value.system_id,
    }
}

/// Oldest first. Where the timelines were left is in PostgreSQL's history files, by whom in the store.
pub(super) fn history(view: &View) -> Vec<PastTimeline> {
    let Some(history) = known_history(view) else { return Vec::new() };
    let successor = |timeline: Timeline| {
        let mut records = view.store.timelines.iter().flat_map(|timelines| &timelines.value);
        let record = records.rfind(|record| record.timeline == timeline)?;
        Some(Successor { node: record.member.node().0, term: record.term.0, at: record.at })
    };
    let nexts = history.ancestors.iter().skip(1).map(|branch| branch.timeline).chain([history.current]);
    let past = history.ancestors.iter().zip(nexts);
    past.map(|(branch, next)| PastTimeline {
        timeline: branch.timeline.0,
        end: branch.end,
        next: successor(next),
    })
    .collect()
}

/// That of the newest timeline that anybody tells of.
fn known_history(view: &View) -> Option<&History> {
    let peers = view.memory.peers.values().map(|heard| &heard.status.postgres);
    let all = std::iter::once(&view.postgres).chain(peers).filter_map(history_of);
    all.max_by_key(|history| history.current)
}

fn history_of(postgres: &Postgres) -> Option<&History> {
    match postgres {
        Postgres::Primary(primary) => Some(&primary.history),
        Postgres::Standby(standby) => standby.history.as_ref(),
        _ => None,
    }
}
