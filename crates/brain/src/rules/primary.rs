//! The recorded primary: promotion, opening, serving.

use std::collections::BTreeSet;

use super::{Want, act, wait};
use crate::mutation::{Mutation, is_on};
use crate::{
    Action, Applied, Commit, Key, MemberId, OnLastStandbyLost, Primary, PrimaryRecord, Put, SyncRecord,
    SyncSet, View, health, sync_set,
};

/// Recorded as primary, not yet promoted, and free to be: the record's timeline has not been entered from here before. A
/// head may lie below its record's timeline, when its origin's takeover went back; it is promoted all the same by nobody.
fn winner(view: &View) -> Option<&PrimaryRecord> {
    let record = view.recorded_me().map(|record| &record.value).filter(|record| !record.head)?;
    let standby = view.postgres.standby()?;
    let fresh = view.durable.promoted < record.term && standby.position.timeline < record.timeline;
    (fresh && view.durable.promise <= record.term).then_some(record)
}

pub(super) fn promise_own(view: &View) -> Option<Want> {
    let record = winner(view).or_else(|| view.serving().map(|(record, _)| &record.value))?;
    (view.durable.promise < record.term).then(|| {
        act(Action::Promise { term: record.term }, format!("recorded as primary of term {}", record.term))
    })?
}

pub(super) fn detach_first(view: &View) -> Option<Want> {
    let record = winner(view)?;
    let standby = view.postgres.standby()?;
    let attached = standby.upstream.is_some() || standby.receiver;
    attached.then(|| act(Action::Detach { term: record.term }, "a receiver may still be running"))?
}

pub(super) fn promote(view: &View) -> Option<Want> {
    let record = winner(view)?;
    let standby = view.postgres.standby().filter(|standby| standby.answers())?;
    if standby.position < record.from && !is_on(Mutation::GoneBackPromoted) {
        return wait(format!(
            "chosen at {} on timeline {}, but the WAL here ends at {} on timeline {}: the disk has gone back",
            record.from.lsn, record.from.timeline, standby.position.lsn, standby.position.timeline
        ));
    }
    let PrimaryRecord { term, timeline, .. } = *record;
    let set = first_set(view);
    // Smaller settings cost another start, which only the restart that an operator asked for has time for.
    let lower = view.restarts_in_place();
    let why = format!("winner of term {term}, from {}", record.from.lsn);
    act(Action::Promote { term, timeline, set, lower }, why)
}

/// The set a new primary starts with: the standbys that are there to follow it; when none is, those that might
/// come back. It is never empty while k > 0, so nothing is acknowledged alone.
fn first_set(view: &View) -> SyncSet {
    let k = view.k_to_open();
    let alive: BTreeSet<MemberId> = view
        .fresh_peers()
        .filter(|status| status.postgres.standby().is_some() && !status.tags.nosync)
        .filter_map(|status| status.member.clone())
        .collect();
    if alive.len() >= k {
        return SyncSet { members: alive, k };
    }
    let own = view.durable.member.as_ref();
    let last = view.sync().map(|sync| sync.set.members.iter().chain([&sync.primary]));
    let known = last.into_iter().flatten().filter(|member| Some(*member) != own).cloned();
    SyncSet { members: alive.into_iter().chain(known).collect(), k }
}

pub(super) fn renew(view: &View) -> Option<Want> {
    let (record, _) = view.serving()?;
    let sync = view.store.sync.as_ref()?;
    let promised = view.fresh_peers().map(|status| status.promise).max()?;
    let asked = |status: &crate::Status| status.revoking.filter(|_| !is_on(Mutation::RenewInCampaign));
    let campaign = view.fresh_peers().filter_map(asked).max();
    if is_on(Mutation::RenewDropped) {
        return None;
    }
    if promised <= record.value.term || campaign.is_some_and(|term| term > record.value.term) {
        return None;
    }
    let mut conditions = vec![(Key::Primary, record.version)];
    let mut puts = vec![Put::Primary(PrimaryRecord { term: promised, ..record.value.clone() })];
    if view.opened() {
        conditions.push((Key::Sync, sync.version));
        puts.push(Put::Sync(SyncRecord { term: promised, ..sync.value.clone() }));
    }
    let why = format!("a peer has promised {promised} and nobody is taking over: renew under it");
    act(Action::Commit(Commit { conditions, puts }), why)
}

pub(super) fn prepare(view: &View) -> Option<Want> {
    let (record, primary) = view.serving()?;
    let term = record.value.term;
    let due = !primary.prepared && !view.opened();
    due.then(|| act(Action::Prepare { term }, "replicas cannot log in yet"))?
}

pub(super) fn prepare_again(view: &View) -> Option<Want> {
    let (record, primary) = view.serving()?;
    let term = record.value.term;
    (!primary.prepared).then(|| act(Action::Prepare { term }, "this agent has not seen the roles yet"))?
}

/// The members that may follow: those heard of, and those that the store counts on.
fn followers(view: &View) -> BTreeSet<MemberId> {
    let own = view.durable.member.as_ref();
    let peers = view.fresh_peers().filter_map(|status| status.member.clone());
    let stored = view.sync().into_iter().flat_map(|sync| sync.set.members.iter().cloned());
    peers.chain(stored).filter(|member| Some(member) != own).collect()
}

/// The slots that are there, as members; the slot's name spells them with underscores only.
fn slotted(primary: &Primary) -> BTreeSet<MemberId> {
    primary.slots.iter().filter_map(|slot| MemberId::of_slot(slot)).collect()
}

pub(super) fn missing_slots(view: &View) -> Option<Want> {
    let (record, primary) = view.serving()?;
    let missing: BTreeSet<MemberId> =
        followers(view).into_iter().filter(|member| !primary.slots.contains(&member.slot_name())).collect();
    let names: Vec<&str> = missing.iter().map(|member| member.0.as_str()).collect();
    let why = format!("{} has none", names.join(", "));
    let members = slotted(primary).into_iter().chain(missing.iter().cloned()).collect();
    (!missing.is_empty()).then(|| act(Action::Slots { term: record.value.term, members }, why))?
}

/// A slot is superfluous once its node is heard under another id, or is no member any more; until then its member may
/// come back.
pub(super) fn superfluous_slots(view: &View) -> Option<Want> {
    let (record, primary) = view.serving()?;
    let followers = followers(view);
    let wanted: BTreeSet<String> = followers.iter().map(MemberId::slot_name).collect();
    let heard: Vec<&str> =
        view.fresh_peers().filter(|s| s.member.is_some()).map(|status| status.node.0.as_str()).collect();
    let removed = |slot: &str| {
        view.store
            .members
            .as_ref()
            .is_some_and(|members| !members.value.nodes.keys().any(|node| belongs_to(slot, &node.0)))
    };
    let (kept, dropped): (BTreeSet<MemberId>, BTreeSet<MemberId>) =
        slotted(primary).into_iter().partition(|member| {
            let slot = member.slot_name();
            let replaced = heard.iter().any(|node| belongs_to(&slot, node));
            wanted.contains(&slot) || !replaced && !removed(&slot)
        });
    let names: Vec<&str> = dropped.iter().map(|member| member.0.as_str()).collect();
    let why = format!("{} is no more", names.join(", "));
    (!dropped.is_empty()).then(|| act(Action::Slots { term: record.value.term, members: kept }, why))?
}

/// The slot is one of `node`'s members'.
pub(super) fn belongs_to(slot: &str, node: &str) -> bool {
    let member = MemberId::of_slot(slot).map(|member| member.0);
    member.and_then(|member| Some(member.rsplit_once('_')?.0 == node.replace('-', "_"))).unwrap_or(false)
}

/// All of `set` stream under the record's term, and suffice for k. One that does not may be under a rewind or a clone:
/// recorded as a member it might never answer.
fn can_flush(primary: &Primary, record: &PrimaryRecord, set: &SyncSet) -> bool {
    set.k <= set.members.len() && set.members.is_subset(&primary.streaming(record.term))
}

/// k of the first set. A new primary that was chosen by a quorum has all that was acknowledged; whether it opens with
/// fewer than k standbys, once all have had time to come, is the operator's choice.
fn k_to_open(view: &View, there: usize) -> usize {
    let degrades = view.settings.on_last_standby_lost == OnLastStandbyLost::Degrade;
    let late = view.memory.record_age_ms(view.now) > sync_set::MISSING_MS_MAX;
    if degrades && late { view.k_to_open().min(there) } else { view.k_to_open() }
}

pub(super) fn choose_set(view: &View) -> Option<Want> {
    let (record, primary) = view.serving()?;
    if view.opened() {
        return None;
    }
    let term = record.value.term;
    let members = sync_set::caught_up(view, primary, &record.value);
    let wanted = SyncSet { k: k_to_open(view, members.len()), members };
    let usable = |applied: &Applied| {
        let fits = applied.term == term && applied.set.k == wanted.k;
        fits && can_flush(primary, &record.value, &applied.set)
    };
    let ready = primary.applied.as_ref().is_some_and(usable);
    if ready || wanted.members.len() < wanted.k {
        return None;
    }
    let why = format!("{wanted} can flush, what is in force cannot");
    if let Some(settle) = view.store.sync.as_ref().and_then(|sync| sync_set::settle(view, record, sync)) {
        return act(settle, format!("{why}; an earlier write of /sync may still arrive: settle it first"));
    }
    act(Action::ApplySync { term, set: wanted }, why)
}

pub(super) fn open(view: &View) -> Option<Want> {
    let (record, primary) = view.serving()?;
    let sync = view.store.sync.as_ref()?;
    let applied = primary.applied.as_ref().filter(|applied| applied.term == record.value.term)?;
    let there = sync_set::caught_up(view, primary, &record.value).len();
    if view.opened()
        || applied.set.k != k_to_open(view, there)
        || !can_flush(primary, &record.value, &applied.set)
    {
        return None;
    }
    let end = applied.lsn.max(primary.end_of_recovery);
    let flushed = primary.flushed(&applied.set, record.value.term, end);
    if flushed < applied.set.k && !is_on(Mutation::OpenUnflushed) {
        return None;
    }
    let why = format!("{flushed} of {} have flushed {end}", applied.set);
    act(sync_set::record_set(view, record, sync, applied.set.clone()), why)
}

pub(super) fn wait_to_open(view: &View) -> Option<Want> {
    let (record, primary) = view.serving()?;
    if view.opened() {
        return None;
    }
    let streaming = primary.streaming(record.value.term).len();
    wait(format!(
        "{} must flush {}; {streaming} member(s) stream",
        primary.applied.as_ref().map_or("nobody".to_owned(), |applied| applied.set.to_string()),
        primary.end_of_recovery
    ))
}

pub(super) fn fence_lease(view: &View) -> Option<Want> {
    let (record, primary) = view.serving()?;
    let term = record.value.term;
    // A new agent has no answers yet; what its predecessor was answered binds the members until the moment that the
    // fencer kept, and not one restart longer. Nothing kept, nothing held. A renewed term goes on by its answers.
    let inherited = view.memory.inherits(view.now);
    // The store's lease names a term, and is taken anew for a renewed one.
    let renewed = view.sync().is_some_and(SyncRecord::is_async)
        && view.memory.record_age_ms(view.now) < view.settings.failure_timeout_ms;
    let inherited = inherited || renewed;
    if primary.quarantined || !view.opened() || inherited || health::may_serve(view) {
        return None;
    }
    act(Action::Quarantine { term }, "fewer than k members of the sync set hold the lease: clients are cut")
}

pub(super) fn admit(view: &View) -> Option<Want> {
    let (record, primary) = view.serving()?;
    let looked_at = if is_on(Mutation::OldLookSettles) { Some(view.now) } else { view.looked_at };
    let settled = view.memory.settled(looked_at, primary) || is_on(Mutation::AdmitUnsettled);
    let may = primary.quarantined && settled && health::may_serve(view) && view.fencer.obstacle.is_none();
    let may = may || primary.quarantined && is_on(Mutation::AdmitUnopened);
    may.then(|| act(Action::Admit { term: record.value.term }, "open, and the lease is held"))?
}

pub(super) fn change_set(view: &View) -> Option<Want> {
    let (record, primary) = view.serving()?;
    let sync = view.store.sync.as_ref()?;
    let (action, why) = sync_set::step(view, record, primary, sync)?;
    Some(Want { actions: action.into_iter().collect(), why: vec![why] })
}

pub(super) fn steady(view: &View) -> Option<Want> {
    let (record, primary) = view.serving()?;
    let state = match &view.fencer.obstacle {
        _ if !primary.quarantined => "open",
        Some(obstacle) => obstacle,
        None => "quarantined, waiting for the lease",
    };
    wait(format!("primary of term {}, {state}", record.value.term))
}
