//! Which sync set the open primary should have, and the next safe step towards it (DESIGN 5).
//!
//! `quorum` says what is allowed; this module says what is wanted. One step at a time: the next one starts from
//! what is then in the store and in force.

use std::collections::BTreeSet;

use crate::mutation::{Mutation, is_on};
use crate::{
    Action, Applied, Ask, Commit, Key, MemberId, OnLastStandbyLost, Operation, Primary, PrimaryRecord, Put,
    Status, SyncRecord, SyncSet, Versioned, View, quorum,
};

/// A member that has not streamed for this long is taken out of the set: a reconnect after a blip takes
/// `wal_retrieve_retry_interval` (100 ms) and a handshake, a second is several of them.
pub const MISSING_MS_MAX: u64 = 1_000;

/// A standby this far behind the primary's flush LSN has not caught up: 16 MiB, one WAL segment.
pub(crate) const CAUGHT_UP_BYTES_MAX: u64 = 16 << 20;

/// The set that differs from `set` by at most one change and is nearer to what is wanted.
pub fn next_target(
    view: &View,
    primary: &Primary,
    record: &PrimaryRecord,
    set: &SyncSet,
) -> (SyncSet, String) {
    let stays = |member: &MemberId| view.settings.full.contains(&member.node());
    if view.settings.full.iter().eq([&view.me]) && *set != SyncSet::default() {
        return (SyncSet::default(), "this is the only node with PostgreSQL: it goes on alone".to_owned());
    }
    let caught_up = caught_up(view, primary, record);
    let joins = |member: &&MemberId| stays(member) && speaks_as(view, member);
    if let Some(member) = caught_up.difference(&set.members).find(joins) {
        return (set.with(member), format!("{member} streams and has caught up: add it"));
    }
    let k = view.k_wanted();
    let gone = |member: &MemberId| view.memory.missing_ms(view.now, member) > MISSING_MS_MAX;
    // Before any removal, which would wait for a flush by those who are lost too.
    let lost_count = set.members.iter().filter(|member| gone(member)).count();
    let left = set.members.len() - lost_count;
    if view.settings.on_last_standby_lost == OnLastStandbyLost::Degrade && left < set.k {
        return (
            set.with_k(set.k - 1),
            format!("{left} member(s) left for k = {}: lower it, as on_last_standby_lost says", set.k),
        );
    }
    let streams = primary.streaming(record.term);
    // Who is there goes only while the others can flush: the removal itself waits for that, and so would all commits.
    let spare = |member: &MemberId| {
        set.members.iter().filter(|other| *other != member && streams.contains(*other)).count() >= set.k
    };
    let lost = |member: &&MemberId| {
        gone(member).then(|| ((*member).clone(), format!("has not streamed for {MISSING_MS_MAX} ms")))
    };
    let superfluous = |member: &&MemberId| {
        let leaves = || (!stays(member)).then(|| "is to leave the cluster".to_owned());
        let reason = unwanted(view, member).or_else(leaves).filter(|_| spare(member))?;
        Some(((*member).clone(), reason))
    };
    let mut members = set.members.iter();
    let found = members.clone().find_map(|member| lost(&member));
    if let Some((member, reason)) = found.or_else(|| members.find_map(|member| superfluous(&member)))
        && !set.has_nobody_to_spare()
    {
        return (set.without(&member), format!("{member} {reason}: remove it"));
    }
    // Not on one that is about to be copied anew: its id is dead then, and the store would need it.
    let sound = set.members.intersection(&caught_up).count();
    if set.k < k && sound > set.k {
        return (set.with_k(set.k + 1), format!("k is {}, {k} is wanted: raise it", set.k));
    }
    if set.k > k && (set.k > 1 || view.settings.is_async()) {
        return (set.with_k(set.k - 1), format!("k is {}, {k} is wanted: lower it", set.k));
    }
    (set.clone(), "the sync set is as wanted".to_owned())
}

/// Its agent has said so itself, knowing the present list of members. A node that was removed and is added again may come
/// with an empty disk while the old connection still looks as if it streamed, and the old agent's last words are still on
/// their way; where nobody was ever listed, nobody was removed.
fn speaks_as(view: &View, member: &MemberId) -> bool {
    let Some(members) = &view.store.members else { return true };
    let knows = |status: &Status| status.members >= members.version || is_on(Mutation::LateWordTaken);
    let heard = view.memory.peers.get(&member.node()).map(|heard| &heard.status);
    heard.is_some_and(|status| status.member.as_ref() == Some(member) && knows(status))
}

/// Members that stream under the record's term, are near the primary's end, and may be in the set.
pub fn caught_up(view: &View, primary: &Primary, record: &PrimaryRecord) -> BTreeSet<MemberId> {
    let near = |flush| primary.flush.bytes_since(flush) <= CAUGHT_UP_BYTES_MAX;
    let senders = primary.walsenders.iter().filter(|w| w.streaming && w.term == record.term && near(w.flush));
    senders.map(|w| w.member.clone()).filter(|member| unwanted(view, member).is_none()).collect()
}

/// Why a member should not be in the set although it may stream.
pub fn unwanted(view: &View, member: &MemberId) -> Option<String> {
    let node = member.node();
    let status = view.memory.peers.get(&node).map(|heard| &heard.status);
    if status.is_some_and(|status| status.tags.nosync) {
        return Some("is tagged nosync".to_owned());
    }
    if let Some(source) = status.and_then(|status| status.source.as_ref()) {
        return Some(format!("takes its WAL from {source}"));
    }
    let counted = is_on(Mutation::CopiedCounted);
    // What it still streams and acknowledges is about to be no more; the id of the copy that takes its place is another.
    let replaced = |status: &Status| {
        status.busy == Some(Operation::Clone) || status.member.as_ref().is_some_and(|own| own != member)
    };
    if !counted && status.is_some_and(replaced) {
        return Some("is being replaced by a new copy".to_owned());
    }
    // Before the opening it may be the only one to open with, and the request waits for that.
    let given_up = view.opened()
        && view.requests().any(|r| matches!(&r.ask, Ask::Reinit { node: asked } if *asked == node));
    // Also while the node is at work: its old server runs until the copy has come. The new copy is let in once the request
    // is over.
    let copies = counted && status.is_some_and(|status| status.busy.is_some());
    (given_up && !copies).then(|| "is to be copied anew".to_owned())
}

/// The next step of an open primary; `None` when nothing is to be done.
pub fn step(
    view: &View,
    record: &Versioned<PrimaryRecord>,
    primary: &Primary,
    sync: &Versioned<SyncRecord>,
) -> Option<(Option<Action>, String)> {
    if let Some(settle) = settle(view, record, sync) {
        return Some((
            Some(settle),
            "an earlier write of /sync may still arrive: settle it first".to_owned(),
        ));
    }
    let term = record.value.term;
    let stored = &sync.value.set;
    let apply = |set: &SyncSet| Some(Action::ApplySync { term, set: set.clone() });
    let Some(applied) = primary.applied.as_ref() else {
        return Some((
            apply(stored),
            "what PostgreSQL has in force is not known: apply the store's set".into(),
        ));
    };
    if applied.term != term {
        let set = if quorum::covers(stored, &applied.set) { &applied.set } else { stored };
        return Some((apply(set), format!("the standby names are of term {}", applied.term)));
    }
    let (target, why) = next_target(view, primary, &record.value, stored);
    if applied.set != *stored {
        return Some(finish(view, record, primary, sync, applied, &target, why));
    }
    if target == *stored {
        let wanted = by_lease(view, stored);
        return (wanted != sync.value.by_lease).then(|| {
            let why = match wanted {
                true => "the store's lease is held: whoever finds it gone may take over",
                false => "the store's lease decides no more",
            };
            (Some(record_set(view, record, sync, target)), why.to_owned())
        });
    }
    let reversed = reversed(stored, &target);
    if quorum::may_record(stored, &applied.set, &target, false) != reversed {
        return Some((Some(record_set(view, record, sync, target)), format!("{why} (store first)")));
    }
    let allowed = quorum::may_apply(stored, &applied.set, &target) || reversed;
    Some((allowed.then(|| apply(&target)).flatten(), format!("{why} (PostgreSQL first)")))
}

/// The fault that is switched on takes this change's two steps in the wrong order.
fn reversed(stored: &SyncSet, target: &SyncSet) -> bool {
    let (members, wanted) = (stored.members.len(), target.members.len());
    wanted < members && is_on(Mutation::RemoveStoreFirst)
        || wanted > members && is_on(Mutation::AddPostgresFirst)
        || target.k < stored.k && is_on(Mutation::LowerPostgresFirst)
        || target.k > stored.k && is_on(Mutation::RaiseStoreFirst)
}

/// The store and PostgreSQL differ: a change is half done. Go on if it is still wanted, else go back.
fn finish(
    view: &View,
    record: &Versioned<PrimaryRecord>,
    primary: &Primary,
    sync: &Versioned<SyncRecord>,
    applied: &Applied,
    target: &SyncSet,
    why: String,
) -> (Option<Action>, String) {
    let stored = &sync.value.set;
    let term = record.value.term;
    if applied.set != *target {
        let set = stored.clone();
        return (Some(Action::ApplySync { term, set }), "bring the store's set in force".to_owned());
    }
    let flushed = primary.flushed(target, term, applied.lsn) >= target.k || is_on(Mutation::ChangeUnflushed);
    if quorum::may_record(stored, &applied.set, target, flushed) {
        return (
            Some(record_set(view, record, sync, target.clone())),
            format!("{why} (in force and flushed: store)"),
        );
    }
    (None, format!("{why}: waiting for {} of {target} to flush {}", target.k, applied.lsn))
}

/// While an earlier write of `/sync` may still be on its way, what is in force may not change: the write could be applied
/// afterwards. Rewriting the record as it is gives it a new version, on which every earlier write fails.
pub fn settle(
    view: &View,
    record: &Versioned<PrimaryRecord>,
    sync: &Versioned<SyncRecord>,
) -> Option<Action> {
    let in_doubt = view.memory.in_doubt(sync.version) && !is_on(Mutation::SettleDropped);
    in_doubt.then(|| {
        Action::Commit(Commit {
            conditions: vec![(Key::Primary, record.version), (Key::Sync, sync.version)],
            puts: vec![Put::Sync(sync.value.clone())],
        })
    })
}

/// Others may take over by the store's lease once this primary holds it, and only while k is 0 by the operator's choice.
fn by_lease(view: &View, set: &SyncSet) -> bool {
    let held = view.store_lease.is_some_and(|(_, until)| view.now < until);
    let kept = view.sync().is_some_and(|sync| sync.by_lease);
    set.k == 0 && view.settings.is_async() && (held || kept)
}

/// Writes the set on the condition that this node is still the recorded primary.
pub fn record_set(
    view: &View,
    record: &Versioned<PrimaryRecord>,
    sync: &Versioned<SyncRecord>,
    set: SyncSet,
) -> Action {
    let PrimaryRecord { term, member, .. } = &record.value;
    let mut conditions = vec![(Key::Primary, record.version), (Key::Sync, sync.version)];
    if is_on(Mutation::RecordPrimaryStale) {
        conditions.retain(|(key, _)| *key != Key::Primary);
    }
    Action::Commit(Commit {
        conditions,
        puts: vec![Put::Sync(SyncRecord {
            term: *term,
            primary: member.clone(),
            by_lease: by_lease(view, &set),
            idle: false,
            set,
        })],
    })
}
