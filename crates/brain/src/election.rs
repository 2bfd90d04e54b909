//! What the answers of a takeover allow: counting them, choosing the winner, recording it (DESIGN 4.2, 4.4, 4.5).
//!
//! Invariant: nobody wins before |S| − k + 1 members have answered, and who wins has all WAL that they have.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use wire::{Lsn, Timeline};

use crate::answer::{self, candidates};
use crate::mutation::{Mutation, is_on};
use crate::{
    Action, Answer, Commit, Key, LeaseRecord, MemberId, OriginRecord, Position, PrimaryRecord, Put,
    SyncRecord, SyncSet, Tally, Term, TimelineRecord, View,
};

/// What the tally allows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    Chosen(Answer),
    /// `from` has the most WAL but may not be primary: `by`, which may, takes that WAL first.
    Fetch {
        from: Answer,
        by: Answer,
    },
    Missing(String),
}

/// The term that a campaign on this node asks for: above the record, and no promise is higher.
pub fn campaign_term(view: &View) -> Term {
    let recorded = view.record().map(|record| record.term).unwrap_or_default();
    let promises = view.fresh_peers().map(|status| status.promise).max().unwrap_or_default();
    recorded.next().max(promises).max(view.durable.promise)
}

/// What the answers for `term` allow. With asynchronous replication nobody had to confirm what was acknowledged: the
/// store's lease decides when a takeover is due, and the furthest of those who are there is the best that can be had.
pub fn outcome(view: &View, sync: &SyncRecord, tally: &Tally) -> Outcome {
    if !sync.is_async() && !sync.idle {
        return tally.outcome(sync);
    }
    if let Some(lease) = view.store.lease.as_ref().filter(|_| !sync.idle) {
        let LeaseRecord { node, term } = &lease.value;
        return Outcome::Missing(format!("{node} holds the store's lease for term {term}"));
    }
    let patient =
        view.memory.suspect_since.is_some_and(|at| view.now.since(at) > 2 * view.settings.failure_timeout_ms);
    if let Some(node) = answer::silent(view, tally).next().filter(|_| !patient) {
        return Outcome::Missing(format!("{node} has not answered yet"));
    }
    let outcome = best(&tally.answers.iter().collect::<Vec<_>>(), &[]);
    if sync.idle {
        return outcome;
    }
    if let Outcome::Chosen(winner) | Outcome::Fetch { from: winner, .. } = &outcome {
        let lost = lost_bytes(view, winner);
        if lost > view.settings.maximum_lag_bytes {
            return Outcome::Missing(format!(
                "{} bytes of WAL would be lost, maximum_lag_on_failover is {}",
                lost, view.settings.maximum_lag_bytes
            ));
        }
    }
    outcome
}

/// What the primary was last known to have and the winner has not. It may have written more since.
pub fn lost_bytes(view: &View, winner: &Answer) -> u64 {
    let Some(record) = view.record() else { return 0 };
    let end = view.memory.peers.get(&record.node).and_then(|heard| heard.last_flush);
    end.map_or(0, |end| missing_bytes(record, end, winner.position))
}

/// Bytes of WAL of `record`'s primary, which ended at `end`, that somebody whose WAL ends at `position` does not have.
pub fn missing_bytes(record: &PrimaryRecord, end: Lsn, position: Position) -> u64 {
    // Who has not come to the primary's timeline has nothing of it, however long its own WAL is.
    let common = match position.timeline < record.timeline {
        true => position.lsn.min(record.from.lsn),
        false => position.lsn,
    };
    end.bytes_since(common)
}

/// By the term of the last record, then by LSN. Two logs that end on the same timeline are beginnings of one log.
fn further(a: &Answer, b: &Answer) -> Ordering {
    if is_on(Mutation::TimelineIgnored) {
        return a.position.lsn.cmp(&b.position.lsn);
    }
    a.position.cmp(&b.position)
}

fn order(a: &&Answer, b: &&Answer) -> Ordering {
    further(a, b).then(a.fitness.cmp(&b.fitness)).then_with(|| b.node.cmp(&a.node))
}

/// `answers` suffice: the best of them has all that was acknowledged. If it may not be primary, whoever may takes that
/// WAL first, by preference one of them. A node outside the set whose WAL is as long or longer has all of it too: it has
/// promised as they have, and by its last record its log holds theirs. Of these one that is about to leave comes last: as
/// primary it stays.
fn best(answers: &[&Answer], strangers: &[Answer]) -> Outcome {
    let Some(best) = answers.iter().copied().max_by(order) else {
        return Outcome::Missing("nobody has answered".to_owned());
    };
    if best.fitness.eligible {
        return Outcome::Chosen(best.clone());
    }
    let may = |answer: &&Answer| answer.fitness.eligible;
    let tried = |answer: &&Answer| answer.unfetched.as_ref() == Some(&best.node);
    let has = |answer: &&Answer| further(answer, best).is_ge() || is_on(Mutation::StrangerBehind);
    let able = |answer: &&Answer| may(answer) && (has(answer) || !tried(answer) && answer.begins(best));
    let own = answers.iter().copied().filter(able).max_by(order);
    let staying = |a: &&Answer, b: &&Answer| a.fitness.stays.cmp(&b.fitness.stays).then_with(|| order(a, b));
    let by = own.or_else(|| strangers.iter().filter(able).max_by(staying));
    let others = || answers.iter().copied().chain(strangers).filter(may);
    let left: Vec<&str> =
        others().filter(|answer| !answer.begins(best)).map(|answer| answer.node.0.as_str()).collect();
    match (by, others().find(tried)) {
        (Some(by), _) if has(&by) => Outcome::Chosen(by.clone()),
        (Some(by), _) => Outcome::Fetch { from: best.clone(), by: by.clone() },
        (None, Some(tried)) => Outcome::Missing(format!(
            "{} has WAL to {} but may not be primary, and {} could not fetch it; it will try again",
            best.node, best.position.lsn, tried.node
        )),
        (None, None) if !left.is_empty() => Outcome::Missing(format!(
            "{} has WAL to {} but may not be primary, and {} has WAL that is no beginning of it: take its nofailover away, \
             make room on its disk, or start another node",
            best.node,
            best.position.lsn,
            left.join(", ")
        )),
        (None, None) => Outcome::Missing(format!(
            "{} has WAL to {} but may not be primary, and nobody else who answers may: take its nofailover away, make room \
             on its disk, or start another node",
            best.node, best.position.lsn
        )),
    }
}

impl Tally {
    /// The winner once the answers suffice: |S| − k + 1 members, or the whole primary of the set's own term.
    /// The highest recorded term wins, then the highest LSN, then fitness, then the name. One whose disk is full is not fit:
    /// another fetches its WAL first, and so it is with one that is tagged.
    pub fn outcome(&self, sync: &SyncRecord) -> Outcome {
        let member = |answer: &&Answer| sync.set.members.contains(&answer.member);
        let strangers = is_on(Mutation::StrangerCounts);
        let members = self.answers.iter().filter(|answer| member(answer) || strangers).count();
        let whole = self.answers.iter().any(|answer| answer.whole);
        let eligible = |answer: &&Answer| answer.whole || member(answer);
        if !whole && !sync.set.may_choose(members) {
            return Outcome::Missing(format!(
                "{members} of {} have answered, {} are needed",
                sync.set,
                sync.set.answers_needed()
            ));
        }
        let counted: Vec<&Answer> = self.answers.iter().filter(eligible).collect();
        best(&counted, &self.strangers)
    }
}

/// The one transaction that makes `winner` primary of `term`: on the condition that neither `/primary` nor the
/// `/sync` that the answers were counted against has changed since.
pub fn record(view: &View, winner: &Answer, term: Term) -> Option<Action> {
    let primary = view.store.primary.as_ref()?;
    let sync = view.store.sync.as_ref()?;
    let timelines = view.store.timelines.as_ref()?;
    // In a standby cluster a takeover finds the next head, unless somebody asked for a primary.
    let head = view.demoting().is_some() || view.head().is_some() && !view.leaves_origin();
    let timeline = if head {
        winner.position.timeline
    } else if view.leaves_origin() {
        view.timeline_beyond_origin()
    } else if is_on(Mutation::TimelineReused) {
        winner.position.timeline.next()
    } else {
        let seen = view.memory.timeline_seen().map_or(Timeline::FIRST, Timeline::next);
        view.store.unused_timeline().max(seen)
    };
    let record = PrimaryRecord {
        term,
        node: winner.node.clone(),
        member: winner.member.clone(),
        timeline,
        from: Position { lsn: winner.position.lsn.min(winner.replay), ..winner.position },
        head,
    };
    let mut history = timelines.value.clone();
    // A head is on a timeline of its origin's, which is no term's of this cluster while it is followed. Who has not
    // followed the first primary yet ends on one; without a record of it nobody could answer when that primary dies.
    if view.leaves_origin() {
        history.extend(unexplained(view).into_iter().map(|(timeline, member)| TimelineRecord {
            timeline,
            term: primary.value.term,
            member: member.clone(),
            at: None,
        }));
    }
    // Should this cluster be promoted again before it has streamed, it keeps away from the other's timelines.
    if view.demoting().is_some()
        && let Some(timeline) = view.origin_timeline()
        && !view.store.explains(timeline)
    {
        history.push(TimelineRecord { timeline, term, member: winner.member.clone(), at: None });
    }
    if !head {
        let at = view.recorded_at();
        history.push(TimelineRecord { timeline, term, member: winner.member.clone(), at });
    }
    let mut conditions =
        vec![(Key::Primary, primary.version), (Key::Sync, sync.version), (Key::Timelines, timelines.version)];
    // Who is removed meanwhile is not made primary.
    conditions.push((Key::Members, view.store.members.as_ref().map_or(0, |members| members.version)));
    if sync.value.is_async() {
        conditions.push((Key::Lease, 0));
    }
    let mut puts = vec![Put::Primary(record), Put::Timelines(history)];
    if let Some(origin) = turned(view, term) {
        // What was asked for must still stand, and the cluster must still be what it was.
        conditions.push((Key::Origin, view.store.origin.as_ref().map_or(0, |origin| origin.version)));
        conditions.push((Key::Requests, view.store.requests.as_ref().map_or(0, |requests| requests.version)));
        if origin.left.is_none() {
            let (primary, set) = (winner.member.clone(), SyncSet::default());
            puts.push(Put::Sync(SyncRecord { term, primary, set, by_lease: false, idle: true }));
        }
        puts.push(Put::Origin(origin));
    }
    if is_on(Mutation::RecordSyncStale) {
        conditions.retain(|(key, _)| *key != Key::Sync);
    }
    if is_on(Mutation::SyncAtPromotion) {
        let set = SyncSet { members: followers(view, winner), k: view.k_wanted() };
        let primary = winner.member.clone();
        puts.push(Put::Sync(SyncRecord { term, primary, set, by_lease: false, idle: false }));
    }
    Some(Action::Commit(Commit { conditions, puts }))
}

/// `/origin` as this takeover leaves it, when it turns a standby cluster into one that is written to, or back.
fn turned(view: &View, term: Term) -> Option<OriginRecord> {
    let left = || {
        let origin = view.origin_record().filter(|_| view.leaves_origin())?;
        Some(OriginRecord { left: Some(term), ..origin.clone() })
    };
    view.demoting().or_else(left)
}

/// The timelines on the way of those who are heard that no record explains, each with one of them. Who is not heard ends on
/// one of these as well, unless it left that way.
fn unexplained(view: &View) -> BTreeMap<Timeline, &MemberId> {
    let mut ways = BTreeMap::new();
    for candidate in candidates(view) {
        let Some(standby) = candidate.postgres.standby() else { continue };
        let ancestors = standby.history.iter().flat_map(|history| &history.ancestors);
        let way = ancestors.map(|branch| branch.timeline).chain([standby.position.timeline]);
        ways.extend(way.map(|timeline| (timeline, candidate.member)));
    }
    ways.retain(|timeline, _| !view.store.explains(*timeline));
    ways
}

/// Who would follow the winner: for the fault that believes in them before they do.
fn followers(view: &View, winner: &Answer) -> BTreeSet<MemberId> {
    let heard = candidates(view).into_iter().map(|candidate| candidate.member.clone());
    heard.filter(|member| *member != winner.member).collect()
}

#[cfg(test)]
mod tests;
