//! The other nodes of a standby cluster: they follow the head as replicas follow a primary, in its term.
//!
//! Invariant: nobody follows a head that does not follow the origin in its own term, and WAL that the head lacks is rewound
//! to the origin, which is what the head will have.

use super::head::{STALLED_MS_MAX, clone_origin, held_up, rewind_to_origin};
use super::{Want, act, request, wait};
use crate::request::ANSWER_MS_MAX;
use crate::{Action, Ask, Operation, Place, Postgres, PrimaryRecord, Standby, Status, View};

/// The record of a head that is another node.
fn other(view: &View) -> Option<&PrimaryRecord> {
    view.head().filter(|_| !view.is_head())
}

/// The head's server, when it has been pointed at the origin in its term and this node may follow it.
pub(super) fn head_standby<'a>(
    view: &'a View,
    record: &PrimaryRecord,
) -> Result<(&'a Status, &'a Standby), String> {
    if view.durable.promise > record.term {
        return Err(format!("promised {}, the head has term {}", view.durable.promise, record.term));
    }
    let status = view
        .fresh_peers()
        .find(|status| status.node == record.node)
        .ok_or_else(|| format!("{} is not heard", record.node))?;
    let standby =
        status.postgres.standby().ok_or_else(|| format!("{} is {}", record.node, status.postgres.word()))?;
    let current = status.member.as_ref() == Some(&record.member)
        && status.record_term == record.term
        && standby.follows_origin(record.term);
    if current {
        Ok((status, standby))
    } else {
        Err(format!("{} does not follow the origin yet", record.node))
    }
}

/// What the head has is what the origin sends, so that a copy of it is one that lasts.
pub(super) fn head_streams(view: &View, record: &PrimaryRecord) -> bool {
    head_standby(view, record).is_ok_and(|(_, head)| head.streaming)
}

pub(super) fn clone(view: &View) -> Option<Want> {
    let record = other(view)?;
    let empty = view.postgres == Postgres::Empty;
    if !empty && !view.durable.needs_clone {
        return None;
    }
    let (_, head) = match head_standby(view, record) {
        Ok(found) => found,
        Err(reason) => return wait(reason),
    };
    if let Some(want) = held_up(view) {
        return Some(want);
    }
    let why = if empty { "there is no data directory" } else { "the data directory cannot be repaired" };
    if !head.streaming && (head.stalled_ms < STALLED_MS_MAX || view.origin.primary().is_none()) {
        return wait(format!("{} does not stream; a copy of it might be of WAL that it loses", record.node));
    }
    if let Some(status) = view.fresh_peers().find(|status| status.busy == Some(Operation::Clone)) {
        return wait(format!("{} is copying; one node at a time loads the head", status.node));
    }
    // The head may wait for this very copy before it gives up what it has.
    if !head.streaming {
        return clone_origin(view, record.term, why);
    }
    act(Action::Clone { term: record.term, node: record.node.clone() }, why)
}

pub(super) fn wait_for_head(view: &View) -> Option<Want> {
    let record = other(view)?;
    match head_standby(view, record) {
        Err(reason) => wait(reason),
        Ok(_) if view.postgres.standby().is_none() => wait(format!("PostgreSQL is {}", view.postgres.word())),
        Ok(_) => None,
    }
}

/// The own WAL is a beginning of the head's, or will be once the head has gone on.
pub(super) fn follow(view: &View) -> Option<Want> {
    let record = other(view)?;
    let (_, head) = head_standby(view, record).ok()?;
    let standby = view.postgres.standby().filter(|standby| !standby.follows(record))?;
    let Some(history) = &head.history else {
        return wait(format!("where the WAL of {} ends is not known yet", record.node));
    };
    let (lsn, timeline) = (standby.position.lsn, standby.position.timeline);
    match Place::of(standby, history, head.position.lsn) {
        Place::Beginning => act(
            Action::Follow { term: record.term, node: record.node.clone() },
            format!("WAL here ends at {lsn}, a beginning of the head's"),
        ),
        Place::Ahead => wait(format!(
            "WAL here ends at {lsn} on timeline {timeline}, that of {} at {}: once it has gone on, it is followed",
            record.node, head.position.lsn
        )),
        Place::Left => {
            let why = format!(
                "WAL here ends at {lsn} on timeline {timeline}, which is no part of the head's history"
            );
            rewind_to_origin(view, record.term, why)
        }
    }
}

/// The head does not have the WAL any more.
pub(super) fn stalled(view: &View) -> Option<Want> {
    let record = other(view)?;
    let (_, head) = head_standby(view, record).ok()?;
    let standby = view.postgres.standby().filter(|s| s.follows(record) && s.stalled_ms > STALLED_MS_MAX)?;
    if let Some(want) = held_up(view) {
        return Some(want);
    }
    if !head.streaming || view.fresh_peers().any(|status| status.busy == Some(Operation::Clone)) {
        return wait(format!("not streaming for {} ms", standby.stalled_ms));
    }
    if let Some(why) = standby.refused() {
        return wait(format!("not streaming from {}, and {why}", record.node));
    }
    let (stalled_ms, says) = (standby.stalled_ms, standby.complains());
    let why = format!("not streaming for {stalled_ms} ms although {} streams{says}", record.node);
    act(Action::Clone { term: record.term, node: record.node.clone() }, why)
}

/// What is here is given up only where a copy can be made: of a head that streams. Where the origin is gone it may be the WAL
/// that a promotion needs.
pub(super) fn reinit(view: &View) -> Option<Want> {
    let record = other(view)?;
    let request = view.asked_here(|ask| matches!(ask, Ask::Reinit { .. }))?;
    if head_streams(view, record) || view.durable.obeyed >= request.id {
        return request::reinit(view);
    }
    let late = view.memory.stage_age_ms(view.now, request.id) > ANSWER_MS_MAX;
    late.then(|| {
        let reason = format!("{} does not stream, so there is nothing to copy", record.node);
        request::fail(view, request, format!("{reason}; what is here is kept"))
    })?
}

/// What is asked of a server of a standby cluster as of any other.
pub(super) fn restart(view: &View) -> Option<Want> {
    view.head().and_then(|_| request::restart(view))
}

pub(super) fn reload(view: &View) -> Option<Want> {
    view.head().and_then(|_| request::reload(view))
}
