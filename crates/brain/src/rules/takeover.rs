//! Suspect, revoke, choose, record (DESIGN 4.1 to 4.5).

use super::{Want, wait};
use crate::mutation::{Mutation, is_on};
use crate::{Action, Operation, Postgres, Status, Term, View, election, election::Outcome, health};

/// Each candidate gives the one before it this long before it stands itself: a campaign takes a promise (one fsync,
/// a receiver's end) and two messages, some 100 ms.
const TURN_MS: u64 = 300;

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

/// How many other candidates stand before this node: full nodes by name, the suspect itself last.
fn rank(view: &View) -> u64 {
    let Some(record) = view.record() else { return 0 };
    let key = |node: &crate::NodeName| (*node == record.node, node.clone());
    let own = key(&view.me);
    let before = |status: &&Status| view.settings.full.contains(&status.node) && key(&status.node) < own;
    view.fresh_peers().filter(before).count() as u64
}

pub(super) fn defer(view: &View) -> Option<Want> {
    suspicion(view)?;
    let since = view.memory.suspect_since.unwrap_or(view.now);
    let (waited_ms, turn_ms) = (view.now.since(since), rank(view) * TURN_MS);
    (waited_ms < turn_ms)
        .then(|| wait(format!("{} candidate(s) come first, for {turn_ms} ms", rank(view))))?
}

pub(super) fn record(view: &View) -> Option<Want> {
    suspicion(view)?;
    let sync = view.sync()?;
    let term = election::campaign_term(view);
    let tally = election::tally(view, sync, term);
    let Outcome::Chosen(winner) = tally.outcome(sync) else { return None };
    let mut why = vec![format!("{} wins term {term} with WAL to {}", winner.node, winner.position.lsn)];
    why.extend(
        tally
            .answers
            .iter()
            .map(|a| format!("{} answered {} on timeline {}", a.node, a.position.lsn, a.position.timeline)),
    );
    why.extend(tally.rejected.iter().cloned());
    Some(Want { actions: vec![election::record(view, &winner, term)?], why })
}

pub(super) fn revoke(view: &View) -> Option<Want> {
    let reason = suspicion(view)?;
    let sync = view.sync()?;
    let term = election::campaign_term(view);
    let tally = election::tally(view, sync, term);
    let mut why = vec![reason];
    if let Outcome::Missing(missing) = tally.outcome(sync) {
        why.push(missing);
    }
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
