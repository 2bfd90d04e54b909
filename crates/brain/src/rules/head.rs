//! A standby cluster: the head follows the origin, the others follow the head (`standby.rs`), and nobody writes.
//!
//! Every rule here asks for a record with `head`, and none promotes: a takeover finds the next head among those who
//! answer, and only a request to promote makes it record a primary instead (`election::record`).
//! Invariant: the origin is followed in the term of a recorded head and never after; WAL that the origin does not have is
//! rewound, kept and listed, never overwritten.

use std::collections::BTreeSet;

use super::rejoin::ONE_ID;
use super::standby::head_standby;
use super::{Want, act, wait};
use crate::mutation::{Mutation, is_on};
use crate::{
    Action, MemberId, NodeName, Operation, Place, Postgres, PrimaryRecord, Standby, Status, Term, View,
    health,
};

/// A receiver that has not streamed for this long may have lost its way: reconnects are tried every 100 ms, on each of
/// the origin's hosts in turn, which takes a dead host's `connect_timeout` (2 s).
const ASTRAY_MS: u64 = 1_000;

/// As for a replica (`rejoin.stalled`): some three hundred attempts.
pub(super) const STALLED_MS_MAX: u64 = 30_000;

/// A copy is given up after some twenty minutes of failures; three times that, in which somebody may look.
const COPIED_FIRST_MS_MAX: u64 = 3_600_000;

/// Whoever is not recorded leaves the head this long to come back before it copies from the far origin what the head has
/// near by: an agent's restart takes seconds, a machine's a minute.
const RESCUE_MS: u64 = 60_000;

/// This node's record, when it is the head.
fn own(view: &View) -> Option<&PrimaryRecord> {
    view.head().filter(|_| view.is_head())
}

fn origin_follow(record: &PrimaryRecord) -> Action {
    Action::Follow { term: record.term, node: NodeName::origin() }
}

/// Maintenance, or no room: nothing is copied, rewound or pointed.
pub(super) fn held_up(view: &View) -> Option<Want> {
    if view.paused() {
        return wait("the cluster is paused: no data directory is rebuilt; pgherd resume");
    }
    view.condition.disk_full.then(|| wait(format!("no room is left on the disk of {}", view.me)))?
}

pub(super) fn promise(view: &View) -> Option<Want> {
    let record = view.head()?;
    let followable =
        view.is_head() || view.postgres.standby().is_some() && head_standby(view, record).is_ok();
    let due = followable && view.durable.promise < record.term;
    due.then(|| {
        act(
            Action::Promise { term: record.term },
            format!(
                "{} is the head of term {}, and to follow a term is to promise it",
                record.node, record.term
            ),
        )
    })?
}

/// The head has no data directory that can be used: it copies the origin's. Its peers hear that it is down; who of them
/// has one is head before the copy ends.
pub(super) fn clone(view: &View) -> Option<Want> {
    let record = own(view)?;
    let empty = view.postgres == Postgres::Empty;
    if !empty && !view.durable.needs_clone || view.durable.promise > record.term {
        return None;
    }
    let why = if empty { "there is no data directory" } else { "the data directory cannot be repaired" };
    let mut peers = view.fresh_peers().filter(|status| view.settings.full.contains(&status.node));
    if let Some(other) = peers.find(|status| status.postgres.standby().is_some())
        && view.postgres.standby().is_some()
        && view.origin.primary().is_none()
    {
        // While this server runs nobody takes over from it, and it is one that somebody gave up.
        return act(Action::Stop, format!("{why}, nor anything to copy; {} is to be head", other.node));
    }
    clone_origin(view, record.term, why)
}

pub(super) fn clone_origin(view: &View, term: Term, why: &str) -> Option<Want> {
    if let Some(want) = held_up(view) {
        return Some(want);
    }
    let Some((address, _)) = view.origin.primary() else {
        return wait(format!("{why}; there is nothing to copy from: {}", view.origin.words()));
    };
    act(Action::Clone { term, node: NodeName::origin() }, format!("{why}; {address} is copied"))
}

/// Nobody has a server that a takeover could choose, and what is here can neither run nor be asked: it is made good from the
/// origin, as head or not. What lies here is no WAL that could be lost; a takeover then records the node by the usual way.
/// The node that is recorded does so at once, also under another id than is recorded; others wait for it.
pub(super) fn rescue(view: &View) -> Option<Want> {
    let record = view.head()?;
    health::suspect(view)?;
    let (empty, durable) = (view.postgres == Postgres::Empty, &view.durable);
    let waits = matches!(view.postgres, Postgres::Stopped | Postgres::Starting);
    if !empty && !(waits && (durable.needs_clone || durable.rewound)) {
        return None;
    }
    let mut peers = view.fresh_peers().filter(|status| view.settings.full.contains(&status.node));
    // Who may not be primary is not made head either.
    let may = |status: &Status| !status.tags.nofailover && status.tags.failover_priority > 0;
    let able = |status: &Status| status.postgres.standby().is_some() && may(status) || status.busy.is_some();
    let waited_ms = view.memory.suspect_since.map_or(0, |since| view.now.since(since));
    if peers.any(able) || record.node != view.me && waited_ms < RESCUE_MS {
        return None;
    }
    let why = "nobody has a server that could follow the origin";
    let term = record.term.max(durable.promise);
    if durable.rewound && !durable.needs_clone && !empty {
        return rewind_to_origin(view, term, format!("{why}, and a rewind here has not ended"));
    }
    clone_origin(view, term, why)
}

/// Of the head and of any other node: what it has to be rewound to is the origin.
pub(super) fn rewind_again(view: &View) -> Option<Want> {
    let record = view.head().filter(|record| view.durable.promise <= record.term)?;
    let waits = matches!(view.postgres, Postgres::Stopped | Postgres::Starting);
    if !waits || !view.durable.rewound || view.durable.needs_clone {
        return None;
    }
    rewind_to_origin(view, record.term, "a rewind was begun and its end has not been seen".to_owned())
}

pub(super) fn rewind_to_origin(view: &View, term: Term, why: String) -> Option<Want> {
    if let Some(want) = held_up(view) {
        return Some(want);
    }
    let Some((_, primary)) = view.origin.primary() else {
        return wait(format!("{why}; there is no primary to rewind to: {}", view.origin.words()));
    };
    let own = view.postgres.standby().map(|standby| standby.position.timeline);
    if own == Some(primary.history.current) {
        return clone_origin(view, term, &format!("{why}; {ONE_ID}"));
    }
    act(Action::Rewind { term, node: NodeName::origin() }, why)
}

pub(super) fn wait_for_server(view: &View) -> Option<Want> {
    let record = own(view)?;
    if view.durable.promise > record.term {
        return wait(format!("promised {}, this node is head of term {}", view.durable.promise, record.term));
    }
    view.postgres.standby().is_none().then(|| wait(format!("PostgreSQL is {}", view.postgres.word())))?
}

/// What is known here of where this standby's WAL stands to the origin's.
fn place(view: &View, standby: &Standby) -> Option<Place> {
    let (_, primary) = view.origin.primary()?;
    if is_on(Mutation::LeftFollowed) {
        return Some(Place::Beginning);
    }
    Some(Place::of(standby, &primary.history, primary.flush))
}

pub(super) fn unread(view: &View) -> Option<Want> {
    view.head()?;
    let standby = view.postgres.standby().filter(|standby| standby.upstream.is_none())?;
    if !standby.answers() {
        return wait("startup is still reading pg_wal");
    }
    // The end may be a piece of a record whose rest never came; replay tells.
    let unsure = place(view, standby) == Some(Place::Left) && standby.replay < standby.position.lsn;
    unsure.then(|| wait("replay has not reached the end of the WAL yet"))?
}

/// What streams is the origin's by that; what does not, and holds WAL that the origin lacks, never will.
pub(super) fn rewind(view: &View) -> Option<Want> {
    let record = view.head().filter(|record| view.durable.promise <= record.term)?;
    let standby = view.postgres.standby()?;
    let still = standby.upstream.is_none() || !standby.streaming && standby.stalled_ms > ASTRAY_MS;
    if !still || place(view, standby) != Some(Place::Left) {
        return None;
    }
    let why = format!(
        "WAL here ends at {} on timeline {}, which is no part of the origin's history",
        standby.position.lsn, standby.position.timeline
    );
    rewind_to_origin(view, record.term, why)
}

pub(super) fn follow(view: &View) -> Option<Want> {
    let record = own(view)?;
    let standby = view.postgres.standby()?;
    if !standby.follows_origin(record.term) {
        if let Some(want) = held_up(view).filter(|_| !view.paused()) {
            return Some(want);
        }
        let why = format!("WAL here ends at {}; {}", standby.position.lsn, view.origin.words());
        // PostgreSQL compares timelines by their ids alone. Whose WAL is of this cluster's own terms is pointed only once the
        // two histories have been compared.
        if view.origin.primary().is_none() && view.store.explains(standby.position.timeline) {
            return wait(format!("{why}; they are compared before anything is taken from there"));
        }
        return act(origin_follow(record), why);
    }
    let (address, primary) = view.origin.primary()?;
    let sender = view.origin.sender.as_deref().filter(|_| standby.streaming)?;
    let deposed = sender != address && primary.history.current > standby.position.timeline;
    let why = format!(
        "it streams from {sender} on timeline {}, but {address} is primary on timeline {}",
        standby.position.timeline, primary.history.current
    );
    deposed.then(|| act(origin_follow(record), why))?
}

/// A node whose copy is under way or was tried a moment ago. Why the origin sends no WAL is not known: were it to refuse
/// copies, too, the nodes would give up one data directory after the other.
fn copied_first(view: &View) -> Option<&NodeName> {
    let mut peers = view.memory.peers.values().filter(|heard| {
        let (status, since) = (&heard.status, heard.away_since);
        let rebuilt = matches!(status.postgres, Postgres::Empty | Postgres::Stopped | Postgres::Starting);
        let tried = since.is_some_and(|since| view.now.since(since) < COPIED_FIRST_MS_MAX);
        rebuilt && (tried || status.busy == Some(Operation::Clone))
    });
    peers.find_map(|heard| {
        let fresh = view.fresh_peers().any(|status| status.node == heard.status.node);
        (fresh && view.settings.full.contains(&heard.status.node)).then_some(&heard.status.node)
    })
}

/// The origin has a primary, and not the WAL that is needed next.
pub(super) fn stalled(view: &View) -> Option<Want> {
    let record = own(view)?;
    let standby = view.postgres.standby().filter(|s| s.stalled_ms > STALLED_MS_MAX)?;
    let (address, primary) = view.origin.primary()?;
    if place(view, standby) != Some(Place::Beginning) {
        return wait(format!(
            "WAL here ends at {} on timeline {}, that of {address} at {} on timeline {}: it is ahead of what it should follow",
            standby.position.lsn, standby.position.timeline, primary.flush, primary.history.current
        ));
    }
    if let Some(want) = held_up(view) {
        return Some(want);
    }
    let why = format!("not streaming for {} ms although {address} is a primary", standby.stalled_ms);
    if let Some(refused) = standby.refused() {
        return wait(format!("{why}, and {refused}"));
    }
    let why = format!("{why}{}", standby.complains());
    if let Some(other) = copied_first(view) {
        return wait(format!("{why}; this data directory is kept until {other} has a copy of its own"));
    }
    act(Action::Clone { term: record.term, node: NodeName::origin() }, why)
}

/// One slot for each data directory that follows, and none for one that is no more.
pub(super) fn slots(view: &View) -> Option<Want> {
    let record = own(view)?;
    let standby = view.postgres.standby().filter(|standby| standby.follows_origin(record.term))?;
    let full = |status: &&Status| view.settings.full.contains(&status.node);
    let heard: Vec<&Status> = view.fresh_peers().filter(full).collect();
    // A server that is pointed at this one goes on by itself, with its agent dead, too. Where this head has been rewound to
    // WAL with a namesake of that server's timeline, PostgreSQL takes the one for the other: no slot, no stream.
    let beginning = |of: &Standby| {
        let history = standby.history.as_ref();
        history.is_none_or(|history| Place::of(of, history, standby.position.lsn) != Place::Left)
    };
    let compared = |status: &&&Status| match &status.postgres {
        Postgres::Standby(of) => {
            of.upstream.as_ref().is_none_or(|upstream| upstream.term >= record.term) && beginning(of)
        }
        Postgres::Unknown | Postgres::Primary(_) => false,
        _ => true,
    };
    let member = |status: &&Status| status.member.clone();
    let heard_as: BTreeSet<MemberId> = heard.iter().filter_map(member).collect();
    let wanted: BTreeSet<MemberId> = heard.iter().filter(compared).filter_map(member).collect();
    let present: BTreeSet<MemberId> =
        standby.slots.keys().filter_map(|slot| MemberId::of_slot(slot)).collect();
    let spelled = |member: &MemberId| MemberId(member.0.replace('-', "_"));
    let known = |member: &MemberId| heard_as.iter().any(|heard| spelled(heard) == *member);
    // One that is read from cannot be dropped: its reader's agent sees to it that it ends.
    let active: BTreeSet<MemberId> = standby
        .slots
        .iter()
        .filter(|(_, read)| **read)
        .filter_map(|(slot, _)| MemberId::of_slot(slot))
        .collect();
    // Who is not heard may come back; who is heard under another id will not.
    let replaced = |member: &MemberId| {
        let node = member.node();
        let of_cluster = |name: &NodeName| name.0.replace('-', "_") == node.0;
        heard.iter().any(|status| of_cluster(&status.node)) || !view.settings.full.iter().any(of_cluster)
    };
    let kept: BTreeSet<MemberId> =
        present.iter().filter(|m| known(m) || active.contains(*m) || !replaced(m)).cloned().collect();
    let missing: Vec<&MemberId> =
        wanted.iter().filter(|member| !present.contains(&spelled(member))).collect();
    if missing.is_empty() && kept == present {
        return None;
    }
    let names: Vec<&str> = wanted.iter().map(|member| member.0.as_str()).collect();
    let why = format!("{} follow this head", names.join(", "));
    let there = |member: &&MemberId| wanted.contains(*member) || present.contains(&spelled(member));
    let own = heard_as.iter().filter(there).cloned();
    let members = kept.into_iter().filter(|member| !known(member)).chain(own).collect();
    act(Action::Slots { term: record.term, members }, why)
}

/// Readers are admitted, at the head and behind it.
pub(super) fn admit(view: &View) -> Option<Want> {
    let record = view.head()?;
    let standby = view.postgres.standby()?;
    let ready = standby.quarantined && view.streams_as_recorded();
    ready.then(|| act(Action::Admit { term: record.term }, "it streams"))?
}

pub(super) fn steady(view: &View) -> Option<Want> {
    let record = view.head()?;
    let streams = view.postgres.standby().is_some_and(|standby| standby.streaming);
    let whom = match (&view.origin.sender, view.is_head()) {
        (Some(sender), true) => format!("{sender}, head of term {}", record.term),
        (None, true) => format!("the origin, head of term {}", record.term),
        (_, false) => format!("{}, the head of term {}", record.node, record.term),
    };
    let mut want = match streams {
        true => wait(format!("streaming from {whom}")),
        false => {
            let says = view.postgres.standby().map_or_else(String::new, Standby::complains);
            wait(format!("pointed at {whom}; not streaming yet{says}; {}", view.origin.words()))
        }
    }?;
    want.why.extend(Some(view.memory.cascade.why_not.clone()).filter(|why| !why.is_empty()));
    Some(want)
}
