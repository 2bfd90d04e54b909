//! Who answers in a takeover, and with what WAL (DESIGN 4.2 and 4.3).
//!
//! What it does not do: count, or choose; that is `election`.
//! Invariant: an answer's promise is at least the campaign's term and its server takes WAL from nobody, so nothing
//! older can be acknowledged through it any more.

use wire::{History, Lsn};

use crate::fetch;
use crate::mutation::{Mutation, is_on};
use crate::postgres::is_namesake;
use crate::{
    Ask, Durable, MemberId, NodeName, Operation, Position, Postgres, Request, Stage, SyncRecord, Tags, Term,
    View,
};

/// A member that promised, and the end of its WAL.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer {
    pub node: NodeName,
    pub member: MemberId,
    pub position: Position,
    /// Replayed, so surely whole records: the end of `position` may be a piece of one.
    pub replay: Lsn,
    /// How its WAL came to be where it ends; `None` when not known.
    pub history: Option<History>,
    pub fitness: Fitness,
    /// This was the open primary of the term that `/sync` names, and its agent has lived ever since: it has all
    /// that it acknowledged.
    pub whole: bool,
    /// Whose WAL it tried to fetch a moment ago, and could not.
    pub unfetched: Option<NodeName>,
}

impl Answer {
    /// Its WAL is a beginning of `other`'s, or may be: what it lacks can be fetched from there. PostgreSQL would take a branch
    /// by its id alone.
    pub fn begins(&self, other: &Answer) -> bool {
        let Position { timeline, lsn } = self.position;
        let Some(history) = &other.history else { return true };
        !is_namesake(self.history.as_ref(), timeline, history)
            && history.contains(timeline, lsn, other.position.lsn)
    }
}

/// Among answers with the same WAL the greater wins.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Fitness {
    /// It may be primary at all.
    pub eligible: bool,
    /// It is not about to leave the cluster.
    pub stays: bool,
    /// A request names it.
    pub wanted: bool,
    pub priority: u32,
    /// A takeover to it keeps every replication slot.
    pub slots_ready: bool,
    /// It is in the old primary's zone.
    pub near: bool,
}

/// The answers so far, and why others do not count.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Tally {
    pub answers: Vec<Answer>,
    /// Of nodes outside the set that may be primary. They count for nothing; what they hold may decide who can win.
    pub strangers: Vec<Answer>,
    pub rejected: Vec<String>,
}

/// What is known of one member at this moment.
pub(crate) struct Candidate<'a> {
    node: &'a NodeName,
    pub member: &'a MemberId,
    promise: Term,
    served: Option<Term>,
    busy: Option<Operation>,
    full: bool,
    pub postgres: &'a Postgres,
    slots_ready: bool,
    tags: &'a Tags,
    unfetched: Option<&'a NodeName>,
}

/// Collects the answers for `term` against the set that the store holds now.
pub fn tally(view: &View, sync: &SyncRecord, term: Term) -> Tally {
    let mut tally = Tally::default();
    for candidate in candidates(view) {
        match consider(view, sync, term, &candidate) {
            Ok(answer) if counts(sync, &answer) => tally.answers.push(answer),
            Ok(answer) => {
                tally.rejected.push(format!("{}: not in the sync set", candidate.node));
                tally.strangers.extend(Some(answer).filter(|answer| answer.fitness.eligible));
            }
            Err(reason) => tally.rejected.push(format!("{}: {reason}", candidate.node)),
        }
    }
    tally
}

pub(crate) fn candidates(view: &View) -> Vec<Candidate<'_>> {
    let Durable { member, promise, .. } = &view.durable;
    let own = member.as_ref().map(|member| Candidate {
        node: &view.me,
        member,
        promise: *promise,
        served: view.served,
        busy: view.busy,
        full: view.condition.disk_full,
        postgres: &view.postgres,
        slots_ready: view.slots.ready(),
        tags: &view.tags,
        unfetched: view.memory.unfetched(view.now, fetch::AGAIN_MS),
    });
    let peers = view.fresh_peers().filter_map(|status| {
        Some(Candidate {
            node: &status.node,
            member: status.member.as_ref()?,
            promise: status.promise,
            served: status.served,
            busy: status.busy,
            full: status.condition.disk_full,
            postgres: &status.postgres,
            slots_ready: status.slots.ready(),
            tags: &status.tags,
            unfetched: status.unfetched.as_ref(),
        })
    });
    own.into_iter().chain(peers).collect()
}

/// Nodes whose server is a standby, and that have not answered: their answers may still come.
pub(crate) fn silent<'a>(view: &'a View, tally: &'a Tally) -> impl Iterator<Item = &'a NodeName> {
    let answered =
        |node: &NodeName| tally.answers.iter().chain(&tally.strangers).any(|answer| answer.node == *node);
    let standbys = candidates(view).into_iter().filter(|candidate| candidate.postgres.standby().is_some());
    standbys.map(|candidate| candidate.node).filter(move |node| !answered(node))
}

/// It is one of the set's answers, or that of the primary that the set was made by and that has all it acknowledged.
fn counts(sync: &SyncRecord, answer: &Answer) -> bool {
    let member = sync.set.members.contains(&answer.member);
    member || answer.whole || sync.is_async() || sync.idle || is_on(Mutation::StrangerCounts)
}

fn consider(view: &View, sync: &SyncRecord, term: Term, candidate: &Candidate<'_>) -> Result<Answer, String> {
    let was_primary = *candidate.member == sync.primary;
    let lived = candidate.served == Some(sync.term) || is_on(Mutation::WholeUnlived);
    let whole = was_primary && (sync.set.k == 0 || lived);
    Ok(Answer { whole, ..answer(view, term, candidate)? })
}

/// What this node itself would answer, a member or not.
pub fn own_answer(view: &View, term: Term) -> Option<Answer> {
    let own = candidates(view).into_iter().find(|candidate| *candidate.node == view.me)?;
    answer(view, term, &own).ok()
}

fn answer(view: &View, term: Term, candidate: &Candidate<'_>) -> Result<Answer, String> {
    let unasked = is_on(Mutation::PromiseUnasked) || is_on(Mutation::RevokeDropped);
    if candidate.promise < term && !unasked {
        return Err(format!("has promised {} only", candidate.promise));
    }
    let moves_wal = |operation: &Operation| operation.moves_wal() && !is_on(Mutation::BusyAnswers);
    if let Some(operation) = candidate.busy.filter(moves_wal) {
        return Err(format!(
            "{operation:?} is under way: where its WAL ends, and whose it takes, may change"
        ));
    }
    let Some(standby) = candidate.postgres.standby() else {
        return Err(format!("PostgreSQL is {}", candidate.postgres.word()));
    };
    if !standby.answers() && !is_on(Mutation::RevokeDropped) {
        return Err("not yet: its WAL is not read to the end, or its receiver has not gone".to_owned());
    }
    // In a standby cluster the timelines are its origin's.
    let idle = view.sync().is_some_and(|sync| sync.idle);
    if !idle && !view.store.explains(standby.position.timeline) && !is_on(Mutation::UnexplainedWins) {
        return Err(format!("no recorded term explains timeline {}", standby.position.timeline));
    }
    Ok(Answer {
        node: candidate.node.clone(),
        member: candidate.member.clone(),
        position: standby.position,
        replay: standby.replay,
        history: standby.history.clone(),
        fitness: fitness(view, candidate),
        whole: false,
        unfetched: candidate.unfetched.cloned(),
    })
}

fn fitness(view: &View, candidate: &Candidate<'_>) -> Fitness {
    let Tags { nofailover, failover_priority, zone, .. } = candidate.tags;
    let named = |request: &Request| match &request.ask {
        Ask::Failover { to } => to == candidate.node,
        _ => request.stage == Stage::Stopping && request.successor() == Some(candidate.node),
    };
    let primary = view.record().map(|record| &record.node);
    let zone_of = |node: &NodeName| match *node == view.me {
        true => Some(&view.tags.zone),
        false => view.memory.peers.get(node).map(|heard| &heard.status.tags.zone),
    };
    Fitness {
        eligible: !nofailover && *failover_priority > 0 && !candidate.full,
        stays: view.settings.full.contains(candidate.node),
        wanted: view.requests().any(named),
        priority: *failover_priority,
        slots_ready: candidate.slots_ready,
        near: primary.and_then(zone_of) == Some(zone),
    }
}
