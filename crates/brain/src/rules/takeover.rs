//! Suspect, revoke, choose, record (DESIGN 4.1 to 4.5).

use super::{Want, wait};
use crate::mutation::{Mutation, is_on};
use crate::{
    Action, Ask, NodeName, Operation, Postgres, Stage, Status, SyncRecord, Tally, Term, View, answer,
    election, election::Outcome, fetch, health, slots,
};

/// Each candidate gives the one before it this long before it stands itself: a campaign takes a promise (one fsync,
/// a receiver's end) and two messages, some 100 ms.
const TURN_MS: u64 = 300;

/// A successor is chosen because it is well; it campaigns as soon as it hears that the primary has stopped.
const SUCCESSOR_TURN_MS: u64 = 1_000;

/// A primary that hands over to itself starts again and reads its WAL: some hundred milliseconds after the
/// checkpoint ahead, here twenty times that.
const RESTART_TURN_MS: u64 = 5_000;

/// This node may promise now: it owes no lease, and it is not a primary that others hold to be one.
fn free_to_promise(view: &View) -> Result<(), String> {
    if view.durable.member.is_none() {
        return Err("there is no data directory here".to_owned());
    }
    if view.memory.owes(view.now, &view.settings) && !is_on(Mutation::LeaseOwedIgnored) {
        return Err("this node owes the primary its lease".to_owned());
    }
    if view.busy == Some(Operation::Promote) {
        return Err("a promotion is under way here".to_owned());
    }
    let yields = matches!(health::own(view), health::Health::Blocked | health::Health::Down);
    if view.serving().is_some() && !yields {
        return Err("this node is the primary and serves".to_owned());
    }
    Ok(())
}

/// The highest term that a candidate asks this node to promise.
fn requested(view: &View) -> Option<(Term, &Status)> {
    let known = view.record().map(|record| record.term).unwrap_or_default();
    view.fresh_peers()
        .filter_map(|status| Some((status.revoking?, status)))
        .filter(|(term, _)| *term > view.durable.promise && *term > known)
        .max_by_key(|(term, _)| *term)
}

pub(super) fn promise(view: &View) -> Option<Want> {
    let (term, status) = requested(view)?;
    free_to_promise(view).ok()?;
    super::act(Action::Promise { term }, format!("{} asks for it", status.node))
}

/// The suspicion on which this node may act: why, and since when.
fn suspicion(view: &View) -> Option<String> {
    if view.serving().is_some() {
        return None;
    }
    health::suspect(view)
}

pub(super) fn vouched(view: &View) -> Option<Want> {
    suspicion(view)?;
    let vouchers = health::vouched_for(view).filter(|_| !is_on(Mutation::VouchersIgnored))?;
    wait(vouchers)
}

/// A primary whose disk is full ends at its next segment of WAL, and so would each of its heirs.
pub(super) fn full(view: &View) -> Option<Want> {
    suspicion(view)?;
    let peers: Vec<&Status> = view.fresh_peers().filter(|status| status.member.is_some()).collect();
    if !view.condition.disk_full || peers.iter().any(|status| !status.condition.disk_full) {
        return None;
    }
    let mut names: Vec<&str> =
        peers.iter().map(|status| status.node.0.as_str()).chain([view.me.0.as_str()]).collect();
    names.sort_unstable();
    wait(format!("no room is left on the disk of {}; make room on one of them", names.join(", ")))
}

pub(super) fn outcome(view: &View, sync: &SyncRecord, term: Term) -> Outcome {
    election::outcome(view, sync, &answer::tally(view, sync, term))
}

/// How many other candidates stand before this node: full nodes by name, those without room on their disk behind the
/// others, the suspect itself last.
fn rank(view: &View) -> u64 {
    let Some(record) = view.record() else { return 0 };
    let key = |node: &NodeName, full: bool| (full, *node == record.node, node.clone());
    let own = key(&view.me, view.condition.disk_full);
    let before = |status: &&Status| {
        view.settings.full.contains(&status.node) && key(&status.node, status.condition.disk_full) < own
    };
    view.fresh_peers().filter(before).count() as u64
}

/// The node that a hand-over prefers, and how long the others give it: a primary that restarts has to start first.
fn successor(view: &View) -> Option<(&NodeName, u64)> {
    let request = view.handing()?;
    let restarts = matches!(request.ask, Ask::Restart { .. });
    Some((request.successor()?, if restarts { RESTART_TURN_MS } else { SUCCESSOR_TURN_MS }))
}

/// The primary stopped for a request that this node knows nothing of: its view of the store is late. A successor knows that
/// it is one, and is not kept from it by who merely hears of the stop first.
fn hands_over_unread(view: &View) -> bool {
    let Some(record) = view.record() else { return false };
    let primary = view.fresh_peers().find(|status| status.node == record.node);
    let held = primary.filter(|status| status.record_term == record.term).and_then(|status| status.holding);
    let known = |id: u64| {
        view.store
            .requests
            .as_ref()
            .is_some_and(|r| r.value.list.iter().any(|r| r.id == id && r.stage >= Stage::Stopping))
    };
    held.is_some_and(|id| !known(id)) && !is_on(Mutation::HandoverUnread)
}

/// A hand-over whose successor is there and has not answered yet waits for it, for it may owe the old primary its lease a
/// moment longer than the others. No longer than such a lease lasts: then whoever answers may win.
fn successor_awaited(view: &View, tally: &Tally) -> Option<String> {
    let (node, turn_ms) = successor(view)?;
    let waited_ms = view.now.since(view.memory.suspect_since?);
    let patience_ms = turn_ms.max(view.settings.failure_timeout_ms);
    let silent = answer::silent(view, tally).any(|silent| silent == node);
    let awaited = silent && waited_ms < patience_ms && !is_on(Mutation::SuccessorUnawaited);
    awaited.then(|| format!("{node} is to take over: its answer is given {patience_ms} ms"))
}

pub(super) fn defer(view: &View) -> Option<Want> {
    suspicion(view)?;
    let since = view.memory.suspect_since.unwrap_or(view.now);
    let (first, turn_ms) = match successor(view) {
        Some((node, _)) if *node == view.me => return None,
        Some((node, turn_ms)) => (format!("{node} is to take over"), turn_ms + rank(view) * TURN_MS),
        None if hands_over_unread(view) => {
            let turn_ms = SUCCESSOR_TURN_MS + rank(view) * TURN_MS;
            ("the primary hands over, and to whom has not been read here".to_owned(), turn_ms)
        }
        None => (format!("{} candidate(s) come first", rank(view)), rank(view) * TURN_MS),
    };
    (view.now.since(since) < turn_ms).then(|| wait(format!("{first}, for {turn_ms} ms")))?
}

/// Maintenance suppresses takeovers, but not what an operator asks for.
pub(super) fn paused(view: &View) -> Option<Want> {
    let asked = view.handing().is_some()
        || view.promoting().is_some()
        || view.requests().any(|r| matches!(r.ask, Ask::Failover { .. }));
    if !view.paused() || asked {
        return None;
    }
    let reason = suspicion(view)?;
    wait(format!("{reason}; the cluster is paused, so nobody takes over; pgherd resume"))
}

/// An operator takes the responsibility, once all members have had time to answer.
pub(super) fn forced(view: &View) -> Option<Want> {
    let request =
        view.requests().find(|request| matches!(&request.ask, Ask::Failover { to } if *to == view.me))?;
    suspicion(view)?;
    let sync = view.sync()?;
    let term = election::campaign_term(view);
    let Outcome::Missing(missing) = outcome(view, sync, term) else { return None };
    let patient = view.memory.stage_age_ms(view.now, request.id) > view.settings.failure_timeout_ms;
    if !patient || request.stage != Stage::Waiting {
        return None;
    }
    let own = answer::own_answer(view, term)?;
    let why = format!(
        "{missing}; request {} names {}, whose WAL ends at {}",
        request.id, own.node, own.position.lsn
    );
    super::act(election::record(view, &own, term)?, why)
}

/// The winner by WAL may not be primary; this node may, and takes that WAL first. Its source has promised the same
/// term and takes WAL from nobody, so what is fetched is what was answered.
pub(super) fn fetch(view: &View) -> Option<Want> {
    suspicion(view)?;
    let sync = view.sync()?;
    let term = election::campaign_term(view);
    let Outcome::Fetch { from, by } = outcome(view, sync, term) else { return None };
    if by.node != view.me {
        return None;
    }
    let why = format!(
        "{} has WAL to {} but may not be primary; {} has {}",
        from.node, from.position.lsn, by.node, by.position.lsn
    );
    Some(Want {
        actions: vec![Action::Revoke { term }, Action::Fetch { term, node: from.node.clone() }],
        why: vec![why],
    })
}

/// Fetching: pointed at a peer under a term that nobody has been recorded for.
pub(super) fn fetched(view: &View) -> Option<Want> {
    let standby = view.postgres.standby()?;
    let upstream = standby.upstream.as_ref()?;
    if upstream.term <= view.record()?.term {
        return None;
    }
    let term = upstream.term;
    let source = view.fresh_peers().find(|status| status.node == upstream.node);
    let end = source.and_then(|status| status.postgres.standby()).map(|source| source.position);
    let stalled_ms = view.memory.fetch_stalled_ms(view.now);
    match end {
        Some(end) if standby.position < end && stalled_ms > fetch::STALLED_MS_MAX => super::act(
            Action::Detach { term },
            format!("no WAL has come from {} for {stalled_ms} ms: let others try", upstream.node),
        ),
        Some(end) if standby.position < end => Some(Want {
            actions: vec![Action::Revoke { term }],
            why: vec![format!(
                "WAL here ends at {}, {}'s at {}",
                standby.position.lsn, upstream.node, end.lsn
            )],
        }),
        Some(_) => super::act(Action::Detach { term }, format!("all WAL of {} is here", upstream.node)),
        None => super::act(Action::Detach { term }, format!("{} is gone", upstream.node)),
    }
}

pub(super) fn record(view: &View) -> Option<Want> {
    suspicion(view)?;
    let sync = view.sync()?;
    let term = election::campaign_term(view);
    let tally = answer::tally(view, sync, term);
    let Outcome::Chosen(winner) = election::outcome(view, sync, &tally) else { return None };
    if slots::hold_back(view, sync, &tally).or_else(|| successor_awaited(view, &tally)).is_some() {
        return None;
    }
    let mut why = vec![format!("{} wins term {term} with WAL to {}", winner.node, winner.position.lsn)];
    if sync.is_async() {
        let lost = election::lost_bytes(view, &winner);
        why.push(format!("asynchronous: {lost} bytes that the old primary was last known to have are lost, and what it wrote since"));
    }
    why.extend(
        tally
            .answers
            .iter()
            .map(|a| format!("{} answered {} on timeline {}", a.node, a.position.lsn, a.position.timeline)),
    );
    if !winner.fitness.slots_ready {
        why.push(format!(
            "not every slot is ready on {}; no candidate with as much WAL has more",
            winner.node
        ));
    }
    why.extend(tally.rejected.iter().cloned());
    Some(Want { actions: vec![election::record(view, &winner, term)?], why })
}

pub(super) fn revoke(view: &View) -> Option<Want> {
    let reason = suspicion(view)?;
    let sync = view.sync()?;
    let term = election::campaign_term(view);
    let tally = answer::tally(view, sync, term);
    let mut why = vec![reason];
    if let Outcome::Missing(missing) = election::outcome(view, sync, &tally) {
        why.push(missing);
    }
    why.extend(slots::hold_back(view, sync, &tally));
    why.extend(successor_awaited(view, &tally));
    why.extend(tally.rejected);
    let mut actions = vec![Action::Revoke { term }];
    let server = !matches!(view.postgres, Postgres::Unknown | Postgres::Empty | Postgres::Unusable(_));
    if server && view.durable.promise < term {
        match free_to_promise(view) {
            Ok(()) => actions.push(Action::Promise { term }),
            Err(reason) => why.push(reason),
        }
    }
    Some(Want { actions, why })
}
