//! Is the recorded primary fine? The primary's own word, its peers' opinion, and the lease.

use serde::{Deserialize, Serialize};

use crate::mutation::{Mutation, is_on};
use crate::{Millis, NodeName, Operation, Status, SyncRecord, Term, View, origin};

/// A promotion may take this long before others take over from it: end-of-recovery on a caught-up standby takes
/// tens of milliseconds, opening takes one follower's reconnect; thirty times that is surely stuck.
pub const PROMOTION_MS_MAX: u64 = 15_000;

/// What an agent says of its own server as the primary of the recorded term.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Health {
    /// A write probe was flushed by a quorum within `failure_timeout`, or a promotion is under way.
    Fine,
    /// The server writes to its own disk, but k members have not flushed a probe within `failure_timeout`.
    Blocked,
    /// The speaker cannot tell yet; silence decides.
    Unknown,
    /// The server does not take writes, and the speaker does not serve.
    Down,
    /// The speaker is not the recorded primary.
    NotPrimary,
}

/// What this node says of itself.
pub fn own(view: &View) -> Health {
    let Some(record) = view.recorded_me().map(|versioned| &versioned.value) else {
        return Health::NotPrimary;
    };
    let record_age_ms = view.memory.record_age_ms(view.now);
    let settling = record_age_ms < PROMOTION_MS_MAX;
    if record.head {
        return origin::health_of_head(view, record, settling);
    }
    if let Some((_, primary)) = view.serving() {
        if !view.opened() {
            return if settling { Health::Fine } else { Health::Down };
        }
        let timeout_ms = view.settings.failure_timeout_ms;
        let just_started = view.now.since(view.memory.started) < timeout_ms;
        let recent = |age_ms: Option<u64>| age_ms.is_some_and(|age_ms| age_ms <= timeout_ms);
        // What an earlier primaryship of this server was found to be says nothing of the present one.
        let is_old = |age_ms| age_ms > record_age_ms && !is_on(Mutation::OldProbeJudged);
        return match (recent(primary.probe_age_ms), recent(primary.write_age_ms)) {
            (true, _) => Health::Fine,
            _ if just_started || settling && primary.probe_age_ms.is_none() => Health::Unknown,
            (false, true) => Health::Blocked,
            (false, false) if settling && primary.probe_age_ms.is_some_and(is_old) => Health::Unknown,
            (false, false) => Health::Down,
        };
    }
    let promotable = (view.durable.promoted < record.term || view.busy == Some(Operation::Promote))
        && view.durable.promise <= record.term;
    // A renewed record keeps its timeline: who has been on it is not promoted again, whatever the term.
    let entered = view.postgres.standby().is_some_and(|s| s.position.timeline >= record.timeline);
    let promotable = promotable && !entered;
    match view.postgres {
        crate::Postgres::Unknown => Health::Unknown,
        _ if promotable && settling => Health::Fine,
        _ => Health::Down,
    }
}

/// Why this node suspects the recorded primary; `None` while it does not, or there is none.
pub fn suspect(view: &View) -> Option<String> {
    let record = view.record()?;
    if let Some(request) = view.promoting() {
        return Some(format!("request {} promotes this standby cluster", request.id));
    }
    if view.recorded_me().is_some() {
        return (own(view) == Health::Down && view.serving().is_none())
            .then(|| format!("this node is the primary of term {} and its PostgreSQL is down", record.term));
    }
    let timeout_ms = view.settings.failure_timeout_ms;
    let heard = view.memory.fresh(view.now, timeout_ms).find(|status| status.node == record.node);
    if let Some(status) = heard.filter(|status| status.record_term == record.term) {
        match status.health {
            Health::Down | Health::NotPrimary => {
                return Some(format!("{} says that its PostgreSQL takes no writes", record.node));
            }
            // It waits for standbys. Whoever can follow does; only who tried and cannot has a reason to take over.
            Health::Blocked => {
                let stalled_ms =
                    view.postgres.standby().filter(|s| s.follows(record)).map_or(0, |s| s.stalled_ms);
                return (stalled_ms > timeout_ms).then(|| {
                    format!("{} is blocked, and no WAL came from it for {stalled_ms} ms", record.node)
                });
            }
            Health::Fine | Health::Unknown => {}
        }
    }
    // Whoever cannot tell any more, or is not heard any more, has not become better by that.
    if view.memory.down_heard() {
        return Some(format!(
            "{} has said that its PostgreSQL takes no writes, and nothing since",
            record.node
        ));
    }
    let silent_ms = view.memory.fine_age_ms(view.now).unwrap_or(view.memory.record_age_ms(view.now));
    (silent_ms > timeout_ms).then(|| format!("{} has not been fine for {silent_ms} ms", record.node))
}

/// This node heard the recorded primary say that it is fine, within `failure_timeout`.
pub fn sees_fine(view: &View) -> bool {
    if view.recorded_me().is_some() {
        return own(view) == Health::Fine;
    }
    let heard =
        view.memory.fine_age_ms(view.now).is_some_and(|age_ms| age_ms <= view.settings.failure_timeout_ms);
    heard && suspect(view).is_none()
}

/// True when a majority sees the primary fine: then this node alone has lost it. A peer that hears the primary
/// vouches for the primary too; one that has read of a higher term vouches against a campaign that begins with this one.
pub fn vouched_for(view: &View) -> Option<String> {
    let record = view.record()?;
    let vouches = |status: &&Status| {
        let fine = status.record_term == record.term && status.sees_fine;
        status.node != record.node && (fine || status.record_term > record.term)
    };
    let vouchers: Vec<&str> =
        view.fresh_peers().filter(vouches).map(|status| status.node.0.as_str()).collect();
    // Who was never heard, or has only just started, has no opinion yet: a node that is added, or an agent that restarts,
    // does not unmake this majority.
    let timeout_ms = view.settings.failure_timeout_ms;
    let heard_long = |voter: &NodeName| {
        let heard = view.memory.peers.get(voter);
        heard.is_some_and(|heard| heard.status.sees_fine || view.now.since(heard.since) > timeout_ms)
    };
    let has_opinion = |voter: &&NodeName| **voter == view.me || **voter == record.node || heard_long(voter);
    let majority = view.settings.voters.iter().filter(has_opinion).count() / 2 + 1;
    (!vouchers.is_empty() && vouchers.len() + 1 >= majority).then(|| {
        format!("{} still see(s) {} fine, or know(s) of a higher term", vouchers.join(", "), record.node)
    })
}

/// This node serves, or is about to serve, by its peers' answers. What it was answered is given back only once it
/// serves nobody: first the clients are cut, then it says so.
pub fn wants_lease(view: &View) -> bool {
    let Some((record, primary)) = view.serving() else { return false };
    view.opened() && (view.durable.promise <= record.value.term) && (is_well(view) || !primary.quarantined)
}

/// The server that served gives no answer, and its sessions may go on when it does. What its peers answered is not asked
/// for anew and not given back either: it runs out, and by then the fencer has sent the sessions away. A server that is
/// back before serves on, and nobody was cut. The same while sessions are being sent away: until the gate is closed one of
/// them may answer.
pub fn keeps_lease(view: &View) -> bool {
    let hangs = view.postgres == crate::Postgres::Unknown && view.memory.unanswered_ms(view.now).is_some();
    view.recorded_me().is_some() && (hangs || view.busy == Some(Operation::Gate))
}

/// Where nobody could take over, a disk that stalls is waited for, as without pgherd.
fn is_well(view: &View) -> bool {
    let is_alone = view.settings.full.iter().all(|node| *node == view.me);
    is_alone || matches!(own(view), Health::Fine | Health::Unknown)
}

/// Without synchronous replication the store's lease is held while this node serves, and given back when it stops.
pub fn wants_store_lease(view: &View) -> Option<Term> {
    let (record, _) = view.serving()?;
    if !view.settings.is_async() && !view.sync().is_some_and(SyncRecord::is_async) {
        return None;
    }
    wants_lease(view).then_some(record.value.term)
}

/// The store's lease is given back: nobody is served here. While its server is silent, and may serve again when it is back, it
/// is left to run out instead, and the fencer is there before.
pub fn releases_store_lease(view: &View) -> bool {
    wants_store_lease(view).is_none() && (!keeps_lease(view) || is_on(Mutation::StoreLeaseReturned))
}

/// Others may take over once the store's lease is gone: so it says in the store, or a write of this node that says so may have
/// arrived there, unseen as yet.
fn by_store_lease(view: &View, sync: &SyncRecord) -> bool {
    let version = view.store.sync.as_ref().map_or(0, |sync| sync.version);
    let perhaps = sync.set.k == 0
        && view.settings.is_async()
        && view.memory.in_doubt(version)
        && !is_on(Mutation::LeaseWriteUnseen);
    sync.is_async() || perhaps
}

/// k members of the set promise nobody else. With k = 0 nobody else may take over; where that was chosen for several
/// nodes, the store's lease says so.
pub fn lease_held(view: &View) -> bool {
    let Some(sync) = view.sync() else { return false };
    if is_on(Mutation::LeaseIgnored) {
        return true;
    }
    if by_store_lease(view, sync) {
        let term = view.record().map(|record| record.term);
        return view.store_lease.is_some_and(|(held, until)| Some(held) == term && view.now < until);
    }
    view.memory.leases_held(view.now, &sync.set, &view.settings) >= sync.set.k
}

/// Until when the lease is held, if nothing newer is heard; `None` when k members have not answered. With k = 0 it is the
/// store's where that was chosen; else nobody takes over by himself, and the right lasts while the agent lives.
pub fn lease_until(view: &View) -> Option<Millis> {
    let sync = view.sync()?;
    if by_store_lease(view, sync) {
        let term = view.record().map(|record| record.term);
        return view.store_lease.filter(|(held, _)| Some(*held) == term).map(|(_, until)| until);
    }
    if sync.set.k == 0 {
        return wants_lease(view).then(|| view.now.plus(view.settings.lease_usable_ms()));
    }
    view.memory.lease_until(&sync.set, &view.settings)
}

/// Clients may be served here as primary: opened, well, and the lease is held.
pub fn may_serve(view: &View) -> bool {
    wants_lease(view) && is_well(view) && lease_held(view)
}

/// This node serves clients as primary now.
pub fn open(view: &View) -> bool {
    view.serving().is_some_and(|(_, primary)| !primary.quarantined) && may_serve(view)
}

/// The same, or its server served when it last answered and the lease still holds: it may be back before that ends, and its
/// sessions are not sent away for a moment's silence.
pub fn stays_open(view: &View) -> bool {
    let of_record = view.recorded_me().is_some_and(|versioned| {
        let record = &versioned.value;
        !record.head && view.durable.promise <= record.term
    });
    let hangs = view.postgres == crate::Postgres::Unknown && view.memory.was_open();
    open(view) || of_record && hangs && view.opened() && lease_held(view)
}
