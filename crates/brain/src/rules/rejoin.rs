//! Everybody but the primary: start, detach, follow, rewind, clone.

use super::{Want, act, wait};
use crate::fetch::STALLED_MS_MAX as FETCH_MS_MAX;
use crate::mutation::{Mutation, is_on};
use crate::sync_set::CAUGHT_UP_BYTES_MAX;
use crate::{
    Action, Ask, MemberId, NodeName, Operation, Postgres, Primary, PrimaryRecord, Standby, Status,
    SyncRecord, View, Walsender,
};

/// A standby that has not streamed for this long from a primary that is fine has lost the WAL it needs: reconnects
/// are retried every 100 ms, so this is some three hundred of them.
const STALLED_MS_MAX: u64 = 30_000;

/// How long standbys that need no rewind are given to reach a new primary: a promotion and a reconnect, three times.
const OTHERS_MS: u64 = 1_000;

/// How long the order by name stands among members that wait to be rewound: a rewind takes some 2 s; one that has not
/// begun by then is held up by something else.
const TURN_MS_MAX: u64 = 3_000;

/// Somebody asked for the restart of this very server, also in maintenance.
fn asked_to_run(view: &View) -> bool {
    view.requests().any(|request| match &request.ask {
        Ask::Restart { node, .. } => *node == view.me,
        _ => view.handing().is_some(),
    })
}

pub(super) fn start_paused(view: &View) -> Option<Want> {
    let stopped = view.postgres == Postgres::Stopped && view.paused() && !asked_to_run(view);
    stopped.then(|| wait("the cluster is paused: PostgreSQL is not started; pgherd resume"))?
}

/// A copy or a rewind would be due.
pub(super) fn paused(view: &View) -> Option<Want> {
    let asked = view.requests().any(|r| matches!(&r.ask, Ask::Reinit { node } if *node == view.me));
    let rebuilt = view.postgres == Postgres::Empty
        || view.durable.needs_clone
        || view.durable.rewound
        || branch(view).is_some_and(|(_, primary, standby)| diverged(primary, standby));
    (view.paused() && !asked && rebuilt)
        .then(|| wait("the cluster is paused: no data directory is rebuilt; pgherd resume"))?
}

pub(super) fn start(view: &View) -> Option<Want> {
    let whole = view.durable.member.is_some() && !view.durable.needs_clone && !view.durable.rewound;
    let ours = view.postgres == Postgres::Stopped && whole;
    ours.then(|| act(Action::StartDetached, "PostgreSQL is stopped"))?
}

/// The primary may have no more of the WAL that this node needs next, but a peer that streams from it may: it is asked
/// before the whole data directory is copied. Reconnects are retried every 100 ms, so this is fifty of them.
const FETCH_AFTER_MS: u64 = 5_000;

/// So far ahead a peer must be for a fetch to begin: what is nearer lies in the primary's last segments.
const FETCH_BYTES_MIN: u64 = 16 << 20;

/// So near to its peer a fetch ends, and the primary is followed again.
const FETCHED_BYTES: u64 = 1 << 20;

/// From a peer that brought nothing nobody fetches again for so long: twice the time after which a copy begins.
const FETCH_AGAIN_MS: u64 = 2 * STALLED_MS_MAX;

/// A peer that streams from the recorded primary and has more than `bytes` that this node lacks. What it has is a
/// beginning of the primary's WAL, as this node's is.
fn peer_with_more<'a>(view: &'a View, record: &PrimaryRecord, bytes: u64) -> Option<&'a Status> {
    let own = view.postgres.standby()?.position;
    let failed = view.memory.unfetched(view.now, FETCH_AGAIN_MS);
    let ahead = |status: &&Status| {
        if Some(&status.node) == failed {
            return false;
        }
        let standby = status.postgres.standby().filter(|s| s.streaming && s.follows(record));
        standby.is_some_and(|s| s.position > own && s.position.lsn.bytes_since(own.lsn) > bytes)
    };
    let position = |status: &&Status| status.postgres.standby().map(|s| s.position);
    view.fresh_peers().filter(|status| status.record_term == record.term).filter(ahead).max_by_key(position)
}

/// It takes WAL from a peer under the recorded term, and there is more to take.
fn fetching(view: &View) -> Option<String> {
    let record = view.record()?;
    let upstream = view.postgres.standby()?.upstream.as_ref()?;
    if upstream.term != record.term || upstream.node == record.node || view.durable.promise > record.term {
        return None;
    }
    if view.source() == Some(&upstream.node) || view.memory.fetch_stalled_ms(view.now) > FETCH_MS_MAX {
        return None;
    }
    let peer = peer_with_more(view, record, FETCHED_BYTES)?;
    (peer.node == upstream.node)
        .then(|| format!("fetching WAL that {} has no more from {}", record.node, peer.node))
}

pub(super) fn fetch_goes_on(view: &View) -> Option<Want> {
    wait(fetching(view)?)
}

/// Copied WAL is cheaper than a copied data directory.
pub(super) fn fetch(view: &View) -> Option<Want> {
    let (record, status, _) = upstream(view).ok()?;
    let stalled = |s: &&Standby| s.follows(record) && !s.streaming && s.stalled_ms > FETCH_AFTER_MS;
    let standby = view.postgres.standby().filter(stalled)?;
    let peer = peer_with_more(view, record, FETCH_BYTES_MIN).filter(|_| status.open)?;
    let why = format!(
        "not streaming from {} for {} ms; {} has WAL that is missing here",
        record.node, standby.stalled_ms, peer.node
    );
    act(Action::Fetch { term: record.term, node: peer.node.clone() }, why)
}

pub(super) fn detach(view: &View) -> Option<Want> {
    let standby = view.postgres.standby().filter(|_| !is_on(Mutation::DetachDropped))?;
    let promise = view.durable.promise;
    if let Some(upstream) = &standby.upstream {
        let why = match view.memory.cascade.why_not.as_str() {
            reason if upstream.term >= promise && !reason.is_empty() => {
                format!("no WAL is taken from {} any more: {reason}", upstream.node)
            }
            _ => format!("promised {promise}, the upstream {} has term {}", upstream.node, upstream.term),
        };
        let of_term = |r: &&PrimaryRecord| r.term == upstream.term;
        // Who was rewound to the origin, or copied it, is compared with the head once nothing more comes from there.
        let as_head = view.is_head() || view.head().is_some() && is_on(Mutation::OriginKept);
        let other = view.record().filter(of_term).is_some_and(|r| !standby.in_place(r, view.source()))
            && !(upstream.node.is_origin() && as_head)
            && fetching(view).is_none();
        return (upstream.term < promise || other).then(|| act(Action::Detach { term: promise }, why))?;
    }
    standby.receiver.then(|| act(Action::Detach { term: promise }, "a receiver runs without an upstream"))?
}

/// The recorded primary, when it is promoted and not this node, and is the one whose term this node may follow.
pub(super) fn upstream(view: &View) -> Result<(&PrimaryRecord, &Status, &Primary), String> {
    let record = view.record().ok_or("no primary is recorded")?;
    if view.recorded_me().is_some() {
        return Err("this node is the recorded primary".to_owned());
    }
    if view.durable.promise > record.term {
        return Err(format!("promised {}, the primary has term {}", view.durable.promise, record.term));
    }
    let status = view
        .fresh_peers()
        .find(|status| status.node == record.node)
        .ok_or_else(|| format!("{} is not heard", record.node))?;
    let primary =
        status.postgres.primary().ok_or_else(|| format!("{} is {}", record.node, status.postgres.word()))?;
    let current = status.member.as_ref() == Some(&record.member)
        && status.record_term == record.term
        && status.promise <= record.term
        && primary.timeline() == record.timeline
        && (primary.prepared || view.opened());
    if current {
        Ok((record, status, primary))
    } else {
        Err(format!("{} is not promoted and prepared yet", record.node))
    }
}

pub(super) fn clone(view: &View) -> Option<Want> {
    let empty = view.postgres == Postgres::Empty;
    if !empty && !view.durable.needs_clone {
        return None;
    }
    let (record, _, primary) = upstream(view).ok()?;
    if !empty && !expendable(view, record, primary) {
        return None;
    }
    let why = if empty { "there is no data directory" } else { "the data directory cannot be repaired" };
    copy(view, record, primary, why)
}

/// A new data directory, in turn with the others.
fn copy(view: &View, record: &PrimaryRecord, primary: &Primary, why: &str) -> Option<Want> {
    if let Some(other) = copying(view) {
        return wait(format!("{other} is copying; one node at a time loads the primary"));
    }
    let (node, from) = copy_source(view, record, primary);
    act(Action::Clone { term: record.term, node }, format!("{why}{from}"))
}

/// Whose data directory is copied, and why not the primary's: by preference that of a replica tagged clonefrom, of those in
/// this zone first, then by name. What it has is a beginning of the primary's WAL, and it is not far from the end. After a
/// copy that failed the next comes from the primary, so that no replica stands in the way for ever.
fn copy_source(view: &View, record: &PrimaryRecord, primary: &Primary) -> (NodeName, String) {
    let fit = |status: &&Status| {
        let near = |s: &&Standby| {
            let here = s.streaming && s.follows(record) && s.position.timeline == record.timeline;
            here && primary.flush.bytes_since(s.position.lsn) <= CAUGHT_UP_BYTES_MAX
        };
        let whole = !status.condition.disk_full && !status.condition.outgrown;
        status.tags.clonefrom
            && (status.record_term, status.promise) == (record.term, record.term)
            && !status.busy.is_some_and(Operation::moves_wal)
            && whole
            && status.postgres.standby().filter(near).is_some()
    };
    let near = |status: &&Status| (status.tags.zone != view.tags.zone, status.node.clone());
    let tried = view.copies_failed % 2 == 1;
    match view.fresh_peers().filter(fit).min_by_key(near).filter(|_| view.opened() && !tried) {
        Some(status) => (status.node.clone(), format!("; {} is tagged clonefrom", status.node)),
        None => (record.node.clone(), String::new()),
    }
}

/// Following, rewinding and copying all write: on a full disk the server would end, be started, and end again.
pub(super) fn full(view: &View) -> Option<Want> {
    let (record, ..) = upstream(view).ok()?;
    let follows = view.postgres.standby().is_some_and(|standby| standby.in_place(record, view.source()));
    (view.condition.disk_full && !follows).then(|| {
        wait(format!("no room is left on the disk of {}: it follows {} once there is", view.me, record.node))
    })?
}

/// Who copies now, in a cluster that serves. Before it has opened nobody is harmed, and all begin at once.
fn copying(view: &View) -> Option<&NodeName> {
    let mut peers = view.fresh_peers().filter(|_| view.opened());
    peers.find(|status| status.busy == Some(Operation::Clone)).map(|status| &status.node)
}

pub(super) fn rewind_again(view: &View) -> Option<Want> {
    let (record, ..) = upstream(view).ok()?;
    let waits = matches!(view.postgres, Postgres::Stopped | Postgres::Starting);
    let begun = view.durable.rewound && !view.durable.needs_clone && waits;
    let action = Action::Rewind { term: record.term, node: record.node.clone() };
    begun.then(|| act(action, "a rewind was begun and its end has not been seen"))?
}

pub(super) fn wait_for_primary(view: &View) -> Option<Want> {
    match upstream(view) {
        Err(reason) => wait(reason),
        Ok((record, ..)) if view.postgres.standby().is_none() && !view.durable.needs_clone => {
            wait(format!("PostgreSQL is {}; the primary is {}", view.postgres.word(), record.node))
        }
        Ok(_) => None,
    }
}

pub(super) fn promise(view: &View) -> Option<Want> {
    let (record, ..) = upstream(view).ok()?;
    view.postgres.standby()?;
    let due = view.durable.promise < record.term && !is_on(Mutation::FollowUnpromised);
    due.then(|| {
        act(
            Action::Promise { term: record.term },
            "to follow a term is to promise it, and the promise comes first",
        )
    })?
}

pub(super) fn unread(view: &View) -> Option<Want> {
    let standby = view.postgres.standby().filter(|standby| standby.upstream.is_none())?;
    if !standby.answers() {
        return wait("startup is still reading pg_wal");
    }
    // The end may be a piece of a record that its writer never finished; replay tells.
    let (_, primary, _) = branch(view)?;
    let unsure = diverged(primary, standby) && standby.replay < standby.position.lsn;
    unsure.then(|| wait("replay has not reached the end of the WAL yet"))?
}

/// Where this standby's WAL stands to the primary's; `None` while it already follows.
fn branch(view: &View) -> Option<(&PrimaryRecord, &Primary, &Standby)> {
    let (record, _, primary) = upstream(view).ok()?;
    let standby = view.postgres.standby()?;
    (!standby.in_place(record, view.source())).then_some((record, primary, standby))
}

pub(super) fn ahead(view: &View) -> Option<Want> {
    let (record, primary, standby) = branch(view)?;
    let ahead = standby.position.timeline == primary.timeline() && standby.position.lsn > primary.flush;
    let ahead = ahead && !standby.is_namesake(&primary.history);
    ahead.then(|| {
        wait(format!("WAL here ends at {}, {}'s at {}", standby.position.lsn, record.node, primary.flush))
    })?
}

/// No takeover needs this data directory: this is no member of the set that counts (the old primary never is), or
/// the primary has not opened yet, k others have all that was acknowledged, and it is this member's turn. A member of
/// an open primary's set is removed first, unless the set has nobody to spare: then the primary, which has all that it
/// acknowledged, waits for this very member, or goes on alone (k = 0).
fn expendable(view: &View, record: &PrimaryRecord, primary: &Primary) -> bool {
    if is_on(Mutation::ExpendableAlways) {
        return true;
    }
    let Some(sync) = view.sync() else { return false };
    let Some(own) = view.durable.member.as_ref() else { return true };
    if !sync.set.members.contains(own) {
        return true;
    }
    if sync.term == record.term {
        return sync.set.has_nobody_to_spare();
    }
    (holders(sync, record, primary, own) >= sync.set.k || spared(view, sync, record, own))
        && needed(view, record, primary)
        && turn_to_rewind(view, sync, record)
}

/// Who has all that was acknowledged: the primary, which was chosen for it, and who has flushed its end of recovery. A
/// primary from outside the set is none: its answer would not count.
fn holders(sync: &SyncRecord, record: &PrimaryRecord, primary: &Primary, own: &MemberId) -> usize {
    let holds =
        |w: &&Walsender| w.term == record.term && w.flush >= primary.end_of_recovery && w.member != *own;
    let counts = sync.set.members.contains(&record.member) || sync.primary == record.member;
    usize::from(counts) + primary.walsenders.iter().filter(holds).count()
}

/// Should the new primary die while this member is rewound, the other members of the old set still suffice for a takeover.
/// With a k near |S| several may be ahead of the winner, and none of them could wait for k others.
fn spared(view: &View, sync: &SyncRecord, record: &PrimaryRecord, own: &MemberId) -> bool {
    let whole = |status: &&Status| {
        let member = status.member.as_ref().filter(|member| **member != record.member && *member != own);
        member.is_some_and(|member| sync.set.members.contains(member))
            && status.postgres.standby().is_some()
            && !matches!(status.busy, Some(Operation::Rewind | Operation::Clone))
    };
    sync.set.may_choose(view.fresh_peers().filter(whole).count())
}

/// Without this member too few stream from the new primary for it to open, and others have had their time to.
fn needed(view: &View, record: &PrimaryRecord, primary: &Primary) -> bool {
    let late = view.memory.record_age_ms(view.now) > OTHERS_MS;
    late && primary.streaming(record.term).len() < view.k_wanted_of(&record.node)
}

/// One member at a time is rewound before the opening, which may need it to stream. First come the first by name.
fn turn_to_rewind(view: &View, sync: &SyncRecord, record: &PrimaryRecord) -> bool {
    let counts = |status: &&Status| {
        let member = status.member.as_ref().filter(|member| **member != record.member);
        member.is_some_and(|member| sync.set.members.contains(member))
    };
    let at_it = |status: &Status| matches!(status.busy, Some(Operation::Rewind | Operation::Clone));
    let in_order = view.memory.record_age_ms(view.now) < TURN_MS_MAX;
    let first = |status: &Status| {
        let waits = status.postgres.standby().is_some_and(|standby| !standby.follows(record));
        in_order && waits && status.node < view.me
    };
    !view.fresh_peers().filter(counts).any(|status| at_it(status) || first(status))
}

fn diverged(primary: &Primary, standby: &Standby) -> bool {
    let (timeline, lsn) = (standby.position.timeline, standby.position.lsn);
    let begins =
        primary.history.contains(timeline, lsn, primary.flush) && !standby.is_namesake(&primary.history);
    !begins && !is_on(Mutation::FollowDiverged)
}

pub(super) fn guard(view: &View) -> Option<Want> {
    let (record, primary, standby) = branch(view)?;
    let needed = diverged(primary, standby) && !expendable(view, record, primary);
    needed.then(|| {
        wait(format!(
            "/sync of an earlier term still counts on this data directory; {} has not opened",
            record.node
        ))
    })?
}

/// Why a branch whose id is also that of the branch which is to be followed is copied.
pub(super) const ONE_ID: &str = "pg_rewind takes two timelines with one id for one and would change nothing";

pub(super) fn rewind(view: &View) -> Option<Want> {
    let (record, primary, standby) = branch(view)?;
    let why = format!(
        "WAL here ends at {} on timeline {}, which is no part of {}'s history",
        standby.position.lsn, standby.position.timeline, record.node
    );
    if !diverged(primary, standby) {
        return None;
    }
    if standby.position.timeline != primary.timeline() {
        return act(Action::Rewind { term: record.term, node: record.node.clone() }, why);
    }
    copy(view, record, primary, &format!("{why}; {ONE_ID}"))
}

pub(super) fn follow(view: &View) -> Option<Want> {
    let (record, _, standby) = branch(view)?;
    let why = format!("WAL here ends at {}, a beginning of {}'s", standby.position.lsn, record.node);
    act(Action::Follow { term: record.term, node: record.node.clone() }, why)
}

pub(super) fn admit(view: &View) -> Option<Want> {
    let (record, ..) = upstream(view).ok()?;
    let standby = view.postgres.standby()?;
    let ready = standby.quarantined && standby.streaming && standby.in_place(record, view.source());
    let from = standby.upstream.as_ref().map_or(&record.node, |upstream| &upstream.node);
    ready.then(|| {
        act(Action::Admit { term: record.term }, format!("it streams from {from}, term {}", record.term))
    })?
}

pub(super) fn stalled(view: &View) -> Option<Want> {
    let (record, status, primary) = upstream(view).ok()?;
    let standby = view.postgres.standby().filter(|standby| standby.stalled_ms > STALLED_MS_MAX)?;
    if !status.open || !expendable(view, record, primary) {
        return wait(format!("not streaming for {} ms{}", standby.stalled_ms, standby.complains()));
    }
    if view.condition.disk_full {
        return wait(format!("no room is left on the disk of {} for a copy: make some", view.me));
    }
    if let Some(why) = standby.refused() {
        return wait(format!("not streaming from {}, and {why}", record.node));
    }
    let (stalled_ms, says) = (standby.stalled_ms, standby.complains());
    copy(
        view,
        record,
        primary,
        &format!("not streaming for {stalled_ms} ms although {} is open{says}", record.node),
    )
}

pub(super) fn steady(view: &View) -> Option<Want> {
    match (view.record(), view.postgres.standby()) {
        (Some(record), Some(standby)) if standby.streaming => {
            let from = standby.upstream.as_ref().map_or(&record.node, |upstream| &upstream.node);
            let mut want = wait(format!("streaming from {from}, term {}", record.term))?;
            want.why.extend(Some(view.memory.cascade.why_not.clone()).filter(|why| !why.is_empty()));
            Some(want)
        }
        (Some(record), standby) => {
            let says = standby.map_or_else(String::new, Standby::complains);
            wait(format!("pointed at {}, term {}; not streaming yet{says}", record.node, record.term))
        }
        (None, _) => wait("no primary is recorded"),
    }
}
