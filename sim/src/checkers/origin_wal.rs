//! I2 and I7 across clusters: a promotion loses nothing of the origin's WAL that an answering member has; a demotion finds all
//! that was acknowledged, and what the other cluster has not is kept.

use std::collections::{BTreeMap, BTreeSet};

use brain::{Commit, Put, Status};

use super::{Acknowledged, Promotion, durable};
use crate::wal::Wal;
use crate::world::{Node, World};

/// What each turn of the cluster leaves behind.
#[derive(Default)]
pub struct Turns {
    /// The recorded node is a head.
    pub head: bool,
    /// Acknowledged before the cluster was demoted.
    pub left_behind: Vec<Acknowledged>,
    /// Records of data directories that copies have replaced: they stand aside.
    pub aside: BTreeSet<u64>,
    /// Whoever was recorded as head of a demoted cluster, with its log at that moment.
    pub heads: Vec<Promotion>,
    /// By transaction: what it would lose, should it be applied.
    pub decided: BTreeMap<u64, String>,
    /// When the cluster was last promoted.
    pub left_us: u64,
}

/// How much of `wal` is the origin's own history, as its newest primary has it.
fn shared(wal: &Wal, origin: Option<&Wal>) -> usize {
    origin.map_or(wal.len(), |origin| wal.len() - wal.beyond(origin).len())
}

/// A takeover that leaves the origin is decided on `node`: the winner has all WAL of the origin's that anybody has who
/// answered, as this node was told. What an origin that came later has from this cluster itself is none.
pub fn left_behind(world: &World, node: usize, commit: &Commit) -> Option<String> {
    let puts = || commit.puts.iter();
    let term = puts().find_map(|put| match put {
        Put::Origin(origin) => origin.left,
        _ => None,
    })?;
    let winner = puts().find_map(|put| match put {
        Put::Primary(record) => Some(record.node.clone()),
        _ => None,
    })?;
    let winner = world.nodes[world.index_of(&winner)?].server.wal.as_ref()?;
    let view = &world.nodes[node].agent.as_ref()?.view;
    let answers = |status: &&Status| {
        let at_work = status.busy.is_some_and(brain::Operation::moves_wal);
        let detached = status
            .postgres
            .standby()
            .is_some_and(|standby| standby.upstream.is_none() && !standby.receiver && standby.complete);
        status.promise >= term && detached && !at_work
    };
    let own_from = world.origin.as_ref().map_or(0, |origin| origin.own_from);
    let origin = world.origin.as_ref().and_then(|origin| origin.newest()).map(|(_, wal)| wal);
    view.fresh_peers().filter(answers).find_map(|status| {
        let own = world.nodes[world.index_of(&status.node)?].server.wal.as_ref()?;
        let most = shared(own, origin);
        let has = most <= own_from
            || own.range(most - 1, most).iter().all(|record| winner.holds(most - 1, record.id));
        (!has).then(|| {
            format!(
                "term {term} is recorded for a server without WAL of the origin to {} that {} answered with",
                crate::wal::lsn(most),
                status.node
            )
        })
    })
}

/// The store has changed: the cluster has become another's, or its own.
pub fn on_turn(world: &mut World) -> Option<(&'static str, String)> {
    let store = world.store.newest().clone();
    let record = &store.primary.as_ref()?.value;
    if record.head == world.checkers.turns.head {
        return None;
    }
    world.checkers.turns.head = record.head;
    if !record.head {
        world.checkers.turns.left_us = world.now_us;
        world.checkers.left = store.origin.as_ref().and_then(|origin| origin.value.left);
        return None;
    }
    let node = world.index_of(&record.node)?;
    // When its disk was lost or has gone back since it answered, those who answered with it have what it had.
    let there = |host: &&Node| {
        let end = host.server.wal.as_ref().map(|wal| crate::wal::lsn(wal.len()));
        host.durable.member.as_ref() == Some(&record.member) && end >= Some(record.from.lsn)
    };
    let logs = || world.nodes.iter().filter_map(|host| host.server.wal.as_ref());
    let own = Some(&world.nodes[node]).filter(there).and_then(|host| host.server.wal.as_ref());
    let log = own.or_else(|| logs().max_by_key(|wal| wal.len())).map(Wal::identities).unwrap_or_default();
    let head = Promotion { term: record.term, node, log, opened: true };
    let lost = durable::on_promoted(&world.checkers.ledger, &head);
    let ledger = std::mem::take(&mut world.checkers.ledger);
    world.checkers.turns.left_behind.extend(ledger);
    world.checkers.reads.clear();
    if !world.checkers.promotions.is_empty() {
        world.checkers.turns.heads.push(head.clone());
        world.checkers.promotions.push(head);
    }
    Some(("I2", lost?))
}

/// It comes late, from before a demotion whose head has it: it is the demotion's to keep, and no later promotion's.
pub fn comes_late(world: &World, commit: &Acknowledged) -> bool {
    let turns = &world.checkers.turns;
    turns.heads.iter().any(|head| head.term > commit.born && head.holds(commit))
}

/// At the end: what was acknowledged before a demotion is in the other cluster's log, or in a data directory, or was kept.
pub fn at_end(world: &World) -> Option<String> {
    if world.disk_was_lost() {
        return None;
    }
    let origin = world.origin.as_ref()?.newest().map(|(_, wal)| wal);
    let kept = |commit: &&Acknowledged| {
        let here = |wal: &Wal| wal.holds(commit.index, commit.id);
        origin.is_some_and(here)
            || world.checkers.turns.aside.contains(&commit.id)
            || world
                .nodes
                .iter()
                .any(|node| node.kept.contains(&commit.id) || node.server.wal.as_ref().is_some_and(here))
    };
    let gone = world.checkers.turns.left_behind.iter().filter(|commit| !kept(commit)).count();
    (gone > 0).then(|| format!("{gone} commit(s) from before a demotion are nowhere, nor kept"))
}

/// At rest behind an origin that lives: nobody has WAL that the origin has not.
pub fn strays(world: &World) -> Option<(usize, String)> {
    let (_, origin) = world.origin.as_ref()?.newest()?;
    world.nodes.iter().enumerate().find_map(|(index, node)| {
        let own = node.server.wal.as_ref()?.beyond(origin).len();
        (own > 0).then(|| (index, format!("{own} record(s) at its end are not the origin's")))
    })
}

impl World {
    /// A copy is about to take the place of this node's data directory.
    pub fn set_aside(&mut self, node: usize) {
        if self.origin.is_some()
            && let Some(old) = &self.nodes[node].server.wal
        {
            let ids = old.identities();
            self.checkers.turns.aside.extend(ids);
        }
    }
}
