//! Cascading replication: from which replica this node takes its WAL, and why from the primary after all.
//!
//! What it is: the judgement of the replica that the tag `replicatefrom` names, with patience in both directions. Who
//! executes what follows from it are the rules (`rules/cascade`).
//! What it does not do: vouch for anybody. A replica that passes WAL on confirms nothing to the primary for those below,
//! and a node that takes WAL from a replica is no member of the sync set, so no commit and no takeover counts on it.
//! Invariant: a node is pointed at a replica only under the recorded term, after it has taken WAL from nobody and found its
//! own to be a beginning of the replica's, while that replica streams under the same term on the recorded timeline.

use serde::{Deserialize, Serialize};

use crate::mutation::{Mutation, is_on};
use crate::sync_set::CAUGHT_UP_BYTES_MAX;
use crate::{Millis, NodeName, Operation, Postgres, PrimaryRecord, Standby, Status, Term, View};

/// A replica has been fit for so long before it is streamed from: four heartbeats without a doubt.
const FIT_MS_MIN: u64 = 1_000;

/// A replica whose fitness is in doubt is not left before: its receiver reconnects every 100 ms, so this is ten times.
const DOUBT_MS_MAX: u64 = 1_000;

/// No WAL has come from a replica that says that it streams: twenty reconnects.
const STALLED_MS_MAX: u64 = 2_000;

/// From a replica that was left nobody streams again before. A turn costs two handshakes and a heartbeat, some 500 ms in
/// which a replica lags: at this pace a tenth of the time, and less with each further turn.
const AGAIN_MS: u64 = 5_000;

/// Six doublings: 320 s.
const DOUBLINGS_MAX: u32 = 6;

/// What has gone well for so long begins with the shortest pause again.
const WELL_MS: u64 = 60_000;

/// What a node remembers of the replica it is to stream from. Lost with the process, which looks anew: one that is found
/// streaming from a fit replica goes on.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Cascade {
    /// The replica that WAL is taken from, or is about to be.
    source: Option<NodeName>,
    /// Why the tag's replica is not streamed from; empty while it is, or without a tag.
    pub why_not: String,
    /// The term for which all this was found.
    term: Term,
    looked: bool,
    taken_at: Millis,
    fit_since: Option<Millis>,
    doubt_since: Option<Millis>,
    /// When a replica was left last, and how often lately.
    left: Option<Millis>,
    leaves: u32,
}

/// Why a replica is not streamed from.
struct Unfit {
    why: String,
    /// It would be wrong to wait for it to pass by.
    at_once: bool,
}

fn never(why: impl Into<String>) -> Result<(), Unfit> {
    Err(Unfit { why: why.into(), at_once: true })
}

fn doubtful(why: impl Into<String>) -> Result<(), Unfit> {
    Err(Unfit { why: why.into(), at_once: false })
}

impl View {
    /// The replica that this node takes its WAL from, or is about to; `None`: from the primary.
    pub fn source(&self) -> Option<&NodeName> {
        self.memory.cascade.source()
    }
}

impl Cascade {
    pub(crate) fn source(&self) -> Option<&NodeName> {
        self.source.as_ref()
    }
}

impl Standby {
    /// It is pointed, in the recorded term, at whom it is to take WAL from: the primary, or `source`.
    pub fn in_place(&self, record: &PrimaryRecord, source: Option<&NodeName>) -> bool {
        let by_source = |upstream: &crate::Upstream| {
            upstream.term == record.term && Some(&upstream.node) == source && upstream.node != record.node
        };
        self.follows(record) || self.upstream.as_ref().is_some_and(by_source)
    }
}

/// The memory as it is after this moment.
pub(crate) fn look(view: &View) -> Cascade {
    let before = &view.memory.cascade;
    let now = view.now;
    let term = view.record().map(|record| record.term).unwrap_or_default();
    let Some(wanted) = view.tags.replicatefrom.as_ref() else { return Cascade::default() };
    // With a new primary everything is found out anew, and nobody is to blame for what came before.
    let mut cascade = if before.term == term {
        before.clone()
    } else {
        Cascade { term, looked: before.looked, ..Cascade::default() }
    };
    let seen = !matches!(view.postgres, Postgres::Unknown | Postgres::Starting);
    if !cascade.looked && seen && view.record().is_some() {
        // A new agent finds its server streaming from there: that goes on unless something speaks against it.
        cascade.looked = true;
        if pointed_at(view, wanted) {
            (cascade.source, cascade.taken_at) = (Some(wanted.clone()), now);
        }
    }
    match verdict(view, wanted, cascade.source.is_some()) {
        Ok(()) => {
            cascade.doubt_since = None;
            let fit_since = *cascade.fit_since.get_or_insert(now);
            let rested = cascade.left.is_none_or(|left| now.since(left) >= pause_ms(cascade.leaves));
            if cascade.source.is_none() && now.since(fit_since) >= FIT_MS_MIN && rested {
                (cascade.source, cascade.taken_at) = (Some(wanted.clone()), now);
            }
            if cascade.source.is_some() {
                cascade.why_not.clear();
            } else {
                cascade.why_not = format!("{wanted} is fit, and is watched for a moment first");
            }
        }
        Err(unfit) => {
            cascade.fit_since = None;
            // Without a primary to go back to there is nothing better than what is.
            let elsewhere = crate::rules::may_follow(view);
            cascade.doubt_since = elsewhere.then(|| cascade.doubt_since.unwrap_or(now));
            let doubt_since = cascade.doubt_since.unwrap_or(now);
            if unfit.at_once || now.since(doubt_since) >= DOUBT_MS_MAX || cascade.source.is_none() {
                if cascade.source.take().is_some() {
                    let well = now.since(cascade.taken_at) >= WELL_MS;
                    cascade.leaves = if well { 1 } else { cascade.leaves.saturating_add(1) };
                    cascade.left = Some(now);
                }
                cascade.why_not = unfit.why;
            }
        }
    }
    cascade
}

/// After so many turns in a row the next waits so long.
fn pause_ms(leaves: u32) -> u64 {
    AGAIN_MS << leaves.saturating_sub(1).min(DOUBLINGS_MAX)
}

/// This server is pointed at `node` under the recorded term.
fn pointed_at(view: &View, node: &NodeName) -> bool {
    let upstream = view.postgres.standby().and_then(|standby| standby.upstream.as_ref());
    upstream.zip(view.record()).is_some_and(|(u, record)| u.node == *node && u.term == record.term)
}

fn verdict(view: &View, wanted: &NodeName, taken: bool) -> Result<(), Unfit> {
    let Some(record) = view.record() else { return never("no primary is recorded") };
    // Its slots, and what is copied and rewound, are arranged between the head and each of the others.
    if record.head {
        return never("in a standby cluster every node follows the head");
    }
    if *wanted == view.me {
        return never("the tag replicatefrom names this node itself");
    }
    if !view.settings.full.contains(wanted) {
        return never(format!(
            "replicatefrom names {wanted}, which is no node of this cluster with PostgreSQL"
        ));
    }
    if *wanted == record.node {
        return never(format!("{wanted} is the primary"));
    }
    if let Some(cycle) = cycle(view, wanted) {
        return never(format!("the tags replicatefrom go round in a circle: {cycle}"));
    }
    if !view.opened() {
        return never(format!("{} has not opened", record.node));
    }
    needless(view, record)?;
    let Some(status) = view.fresh_peers().find(|status| status.node == *wanted) else {
        return doubtful(format!("{wanted} is not heard"));
    };
    let standby = replica(status, record)?;
    passes_on(view, status, record)?;
    own(view, wanted, standby)?;
    let primary = view.fresh_peers().find(|status| status.node == record.node);
    let end = primary.and_then(|status| status.postgres.primary()).map(|primary| primary.flush);
    match end {
        _ if taken => Ok(()),
        None => doubtful(format!("{} is not heard", record.node)),
        Some(end) if end.bytes_since(standby.position.lsn) > CAUGHT_UP_BYTES_MAX => {
            doubtful(format!("{wanted} is far behind {}", record.node))
        }
        Some(_) => Ok(()),
    }
}

/// Commits can do without this node: others that stay, as many as are wanted, stream from the primary and are members of
/// the sync set.
fn needless(view: &View, record: &PrimaryRecord) -> Result<(), Unfit> {
    let Some(sync) = view.sync() else { return never("there is no sync set yet") };
    if view.tags.nosync {
        return Ok(());
    }
    let own = view.durable.member.as_ref();
    let streams = |status: &&Status| {
        let member = status.member.as_ref().filter(|_| view.settings.full.contains(&status.node));
        let counts = member.is_some_and(|m| Some(m) != own && sync.set.members.contains(m));
        counts && status.postgres.standby().is_some_and(|s| s.streaming && s.follows(record))
    };
    let others = view.fresh_peers().filter(streams).count();
    if others < view.k_wanted() {
        return doubtful("commits need this node as a member of the sync set");
    }
    Ok(())
}

/// It is a standby of the recorded primary's term, on the recorded timeline, and not being rebuilt.
fn replica<'a>(status: &'a Status, record: &PrimaryRecord) -> Result<&'a Standby, Unfit> {
    let unfit = |why: &str, at_once| Unfit { why: format!("{} {why}", status.node), at_once };
    let standby = status
        .postgres
        .standby()
        .filter(|_| !status.busy.is_some_and(Operation::moves_wal))
        .ok_or_else(|| unfit("is no running replica", true))?;
    let upstream = standby.upstream.as_ref().ok_or_else(|| unfit("takes WAL from nobody", true))?;
    let same_term =
        status.record_term == record.term && status.promise == record.term && upstream.term == record.term;
    if is_on(Mutation::CascadeStale) {
        return Ok(standby);
    }
    if !same_term {
        return Err(unfit("is not in the recorded term", true));
    }
    if standby.position.timeline != record.timeline {
        return Err(unfit("has not come to the recorded timeline", true));
    }
    if !standby.streaming {
        return Err(unfit("is not streaming", false));
    }
    Ok(standby)
}

/// What the replica takes comes, over others or at once, from the recorded primary, and not over this node.
fn passes_on(view: &View, first: &Status, record: &PrimaryRecord) -> Result<(), Unfit> {
    let mut status = first;
    for _ in 0..=view.settings.full.len() {
        let Some(upstream) = status.postgres.standby().and_then(|standby| standby.upstream.as_ref()) else {
            return doubtful(format!("{} takes WAL from nobody", status.node));
        };
        if upstream.node == record.node || is_on(Mutation::CascadeStale) {
            return Ok(());
        }
        if upstream.node == view.me {
            return never(format!("{} takes its WAL from this node", status.node));
        }
        let Some(next) = view.fresh_peers().find(|peer| peer.node == upstream.node) else {
            return doubtful(format!(
                "{}, from which {} takes its WAL, is not heard",
                upstream.node, status.node
            ));
        };
        replica(next, record)?;
        status = next;
    }
    never(format!("what {} takes does not come from {}", first.node, record.node))
}

/// This server can take WAL from there.
fn own(view: &View, wanted: &NodeName, source: &Standby) -> Result<(), Unfit> {
    let Some(own) = view.postgres.standby() else {
        return doubtful("PostgreSQL does not run here as a replica");
    };
    if pointed_at(view, wanted) && own.stalled_ms > STALLED_MS_MAX {
        return never(format!("no WAL comes from {wanted}"));
    }
    if own.upstream.is_none() && own.position > source.position && !is_on(Mutation::CascadeStale) {
        return doubtful(format!("WAL here ends beyond that of {wanted}"));
    }
    Ok(())
}

/// `n3 from n2, n2 from n3`, when following the tags from this node never leaves them. Every node of a circle sees it, by
/// what each tells of its own tag.
fn cycle(view: &View, wanted: &NodeName) -> Option<String> {
    let mut path = vec![(view.me.clone(), wanted.clone())];
    while let Some((_, next)) = path.last().cloned() {
        if path.iter().any(|(node, _)| *node == next) {
            let steps: Vec<String> = path.iter().map(|(node, from)| format!("{node} from {from}")).collect();
            return Some(steps.join(", "));
        }
        let tag = view.memory.peers.get(&next).and_then(|heard| heard.status.tags.replicatefrom.clone())?;
        path.push((next, tag));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_to_a_bound() {
        assert_eq!([0, 1, 2, 3].map(pause_ms), [5_000, 5_000, 10_000, 20_000]);
        assert_eq!(pause_ms(u32::MAX), 320_000);
    }
}
