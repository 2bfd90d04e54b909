//! Counting the answers of a takeover and choosing the winner (DESIGN 4.2 to 4.5).
//!
//! Invariant: an answer's promise is at least the campaign's term and its server takes WAL from nobody, so nothing
//! older can be acknowledged through it any more.

use wire::{Lsn, Timeline};

use crate::mutation::{Mutation, is_on};
use crate::{
    Action, Ask, Commit, Durable, Key, MemberId, NodeName, Operation, Position, Postgres, PrimaryRecord, Put,
    Request, Stage, SyncRecord, SyncSet, Tags, Term, TimelineRecord, View,
};

/// A member that promised, and the end of its WAL.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer {
    pub node: NodeName,
    pub member: MemberId,
    pub position: Position,
    /// Replayed, so surely whole records: the end of `position` may be a piece of one.
    pub replay: Lsn,
    pub fitness: Fitness,
    /// This was the open primary of the term that `/sync` names, and its agent has lived ever since: it has all
    /// that it acknowledged.
    pub whole: bool,
}

/// Among answers with the same WAL the greater wins.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Fitness {
    /// It may be primary at all.
    pub eligible: bool,
    /// A request names it.
    pub wanted: bool,
    pub priority: u32,
    /// It is in the old primary's zone.
    pub near: bool,
}

/// The answers so far, and why others do not count.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Tally {
    pub answers: Vec<Answer>,
    pub rejected: Vec<String>,
}

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

/// What is known of one member at this moment.
struct Candidate<'a> {
    node: &'a NodeName,
    member: &'a MemberId,
    promise: Term,
    served: Option<Term>,
    busy: Option<Operation>,
    postgres: &'a Postgres,
    tags: &'a Tags,
}

/// The term that a campaign on this node asks for: above the record, and no promise is higher.
pub fn campaign_term(view: &View) -> Term {
    let recorded = view.record().map(|record| record.term).unwrap_or_default();
    let promises = view.fresh_peers().map(|status| status.promise).max().unwrap_or_default();
    recorded.next().max(promises).max(view.durable.promise)
}

/// Collects the answers for `term` against the set that the store holds now.
pub fn tally(view: &View, sync: &SyncRecord, term: Term) -> Tally {
    let mut tally = Tally::default();
    for candidate in candidates(view) {
        match consider(view, sync, term, &candidate) {
            Ok(answer) => tally.answers.push(answer),
            Err(reason) => tally.rejected.push(format!("{}: {reason}", candidate.node)),
        }
    }
    tally
}

fn candidates(view: &View) -> Vec<Candidate<'_>> {
    let Durable { member, promise, .. } = &view.durable;
    let own = member.as_ref().map(|member| Candidate {
        node: &view.me,
        member,
        promise: *promise,
        served: view.served,
        busy: view.busy,
        postgres: &view.postgres,
        tags: &view.tags,
    });
    let peers = view.fresh_peers().filter_map(|status| {
        Some(Candidate {
            node: &status.node,
            member: status.member.as_ref()?,
            promise: status.promise,
            served: status.served,
            busy: status.busy,
            postgres: &status.postgres,
            tags: &status.tags,
        })
    });
    own.into_iter().chain(peers).collect()
}

fn consider(view: &View, sync: &SyncRecord, term: Term, candidate: &Candidate<'_>) -> Result<Answer, String> {
    let was_primary = *candidate.member == sync.primary;
    let counts = sync.set.members.contains(candidate.member) || is_on(Mutation::StrangerCounts);
    if !counts && !was_primary {
        return Err("not in the sync set".to_owned());
    }
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
    if !view.store.explains(standby.position.timeline) && !is_on(Mutation::UnexplainedWins) {
        return Err(format!("no recorded term explains timeline {}", standby.position.timeline));
    }
    Ok(Answer {
        node: candidate.node.clone(),
        member: candidate.member.clone(),
        position: standby.position,
        replay: standby.replay,
        fitness: fitness(view, candidate),
        whole: false,
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
        eligible: !nofailover && *failover_priority > 0,
        wanted: view.requests().any(named),
        priority: *failover_priority,
        near: primary.and_then(zone_of) == Some(zone),
    }
}

impl Tally {
    /// The winner once the answers suffice: |S| − k + 1 members, or the whole primary of the set's own term.
    /// The highest recorded term wins, then the highest LSN, then fitness, then the name.
    pub fn outcome(&self, sync: &SyncRecord) -> Outcome {
        let member = |answer: &&Answer| sync.set.members.contains(&answer.member);
        let strangers = is_on(Mutation::StrangerCounts);
        let members = self.answers.iter().filter(|answer| member(answer) || strangers).count();
        let whole = self.answers.iter().any(|answer| answer.whole);
        let eligible = |answer: &&Answer| answer.whole || member(answer);
        let counted = self.answers.iter().filter(eligible);
        let further = |a: &Answer, b: &Answer| {
            if is_on(Mutation::TimelineIgnored) {
                return a.position.lsn.cmp(&b.position.lsn);
            }
            a.position.cmp(&b.position)
        };
        let order = |a: &&Answer, b: &&Answer| {
            let (a, b) = (*a, *b);
            further(a, b).then(a.fitness.cmp(&b.fitness)).then_with(|| b.node.cmp(&a.node))
        };
        let best = counted.clone().max_by(order);
        let best_eligible = counted.filter(|answer| answer.fitness.eligible).max_by(order);
        match best {
            Some(best) if whole || sync.set.may_choose(members) => match best_eligible {
                Some(by) if !best.fitness.eligible => Outcome::Fetch { from: best.clone(), by: by.clone() },
                None => Outcome::Missing(format!(
                    "{} has the WAL, but nobody who answers may be primary",
                    best.node
                )),
                Some(_) => Outcome::Chosen(best.clone()),
            },
            _ => Outcome::Missing(format!(
                "{members} of {} have answered, {} are needed",
                sync.set,
                sync.set.answers_needed()
            )),
        }
    }
}

/// The one transaction that makes `winner` primary of `term`: on the condition that neither `/primary` nor the
/// `/sync` that the answers were counted against has changed since.
pub fn record(view: &View, winner: &Answer, term: Term) -> Option<Action> {
    let primary = view.store.primary.as_ref()?;
    let sync = view.store.sync.as_ref()?;
    let timelines = view.store.timelines.as_ref()?;
    let timeline = if is_on(Mutation::TimelineReused) {
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
    };
    let mut history = timelines.value.clone();
    history.push(TimelineRecord { timeline, term, member: winner.member.clone() });
    let mut conditions =
        vec![(Key::Primary, primary.version), (Key::Sync, sync.version), (Key::Timelines, timelines.version)];
    let mut puts = vec![Put::Primary(record), Put::Timelines(history)];
    if is_on(Mutation::RecordSyncStale) {
        conditions.retain(|(key, _)| *key != Key::Sync);
    }
    if is_on(Mutation::SyncAtPromotion) {
        let set = SyncSet { members: followers(view, winner), k: view.k_wanted() };
        puts.push(Put::Sync(SyncRecord { term, primary: winner.member.clone(), set }));
    }
    Some(Action::Commit(Commit { conditions, puts }))
}

/// Who would follow the winner: for the fault that believes in them before they do.
fn followers(view: &View, winner: &Answer) -> std::collections::BTreeSet<MemberId> {
    let heard = candidates(view).into_iter().map(|candidate| candidate.member.clone());
    heard.filter(|member| *member != winner.member).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Health, Memory, Millis, Settings, Standby, Status, StoreView, Versioned};

    const NOW: Millis = Millis(100_000);
    const TERM: Term = Term(2);

    fn member(name: &str) -> MemberId {
        MemberId::new(&name.into(), "1")
    }

    fn standby(lsn: u64) -> Postgres {
        let position = Position { timeline: wire::Timeline(1), lsn: Lsn(lsn) };
        Postgres::Standby(Standby {
            system_id: 7,
            upstream: None,
            receiver: false,
            streaming: false,
            position,
            replay: position.lsn,
            complete: true,
            quarantined: true,
            stalled_ms: 0,
        })
    }

    fn promised(name: &str, busy: Option<Operation>) -> Status {
        Status {
            node: name.into(),
            boot: 1,
            sequence: 1,
            member: Some(member(name)),
            promise: TERM,
            record_term: Term(1),
            revoking: None,
            sees_fine: false,
            health: Health::NotPrimary,
            wants_lease: false,
            open: false,
            postgres: standby(200),
            busy,
            served: None,
            rule: String::new(),
            fencer: crate::Fencer::default(),
            tags: Tags::default(),
            holding: None,
        }
    }

    /// n1 asks; it and n2 are the members of ANY 1, so both must answer, and both have promised and detached.
    fn view(own: Option<Operation>, peer: Option<Operation>) -> View {
        let names = ["n1", "n2", "n3"].map(NodeName::from);
        let settings = Settings {
            cluster: "election".to_owned(),
            full: names.clone().into(),
            voters: names.into(),
            heartbeat_ms: 250,
            failure_timeout_ms: 2_000,
            drift_percent: 5,
            standbys: 1,
            on_last_standby_lost: Default::default(),
            drain_timeout_ms: 5_000,
        };
        let sync = SyncRecord {
            term: Term(1),
            primary: member("n3"),
            set: SyncSet::new([member("n1"), member("n2")], 1),
        };
        let timelines =
            vec![TimelineRecord { timeline: wire::Timeline(1), term: Term(1), member: member("n3") }];
        let store = StoreView {
            loaded: true,
            sync: Some(Versioned { value: sync, version: 1 }),
            timelines: Some(Versioned { value: timelines, version: 1 }),
            ..StoreView::default()
        };
        let durable = Durable { member: Some(member("n1")), promise: TERM, ..Durable::default() };
        let mut memory = Memory::new(Millis(0));
        memory.on_status(NOW, promised("n2", peer), &durable, &settings);
        View {
            postgres: standby(100),
            busy: own,
            store,
            memory,
            ..View::new("n1".into(), settings, durable, NOW)
        }
    }

    fn outcome(view: &View) -> Outcome {
        let sync = view.sync().unwrap();
        tally(view, sync, TERM).outcome(sync)
    }

    fn chosen(own: Option<Operation>, peer: Option<Operation>) -> Option<NodeName> {
        match outcome(&view(own, peer)) {
            Outcome::Chosen(answer) => Some(answer.node),
            Outcome::Fetch { .. } | Outcome::Missing(_) => None,
        }
    }

    #[test]
    fn the_longest_of_those_who_answer_wins() {
        assert_eq!(chosen(None, None), Some("n2".into()));
    }

    /// A look taken before the work shows a detached standby; meanwhile the work may have pointed it at a primary, whose
    /// commits it acknowledges.
    #[test]
    fn who_may_be_taking_wal_does_not_answer() {
        for operation in [Operation::Follow, Operation::Rewind, Operation::Clone, Operation::Detach] {
            assert_eq!(chosen(None, Some(operation)), None, "{operation:?} on the peer");
            assert_eq!(chosen(Some(operation), None), None, "{operation:?} on this node");
        }
    }

    #[test]
    fn work_that_leaves_the_wal_alone_hinders_no_answer() {
        assert_eq!(chosen(Some(Operation::Gate), Some(Operation::Slots)), Some("n2".into()));
    }
}
