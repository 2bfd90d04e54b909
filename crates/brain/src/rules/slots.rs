//! Logical slots on PostgreSQL 15 and 16: a replica takes them in by a restart, one replica at a time.

use super::{Want, act, rejoin};
use crate::{Action, MemberId, Operation, Status, View};

/// A restarted standby streams again after a second or two; one that has not by then is not waited for.
const AWAY_MS_MAX: u64 = 10_000;

/// Another standby is away for a while: this one stays meanwhile.
fn away(status: &Status) -> bool {
    let returning = |s: &crate::Standby| !s.streaming && s.stalled_ms < AWAY_MS_MAX;
    status.busy.is_some_and(Operation::moves_wal) || status.postgres.standby().is_some_and(returning)
}

/// The first by name of those that stream and want it restarts first.
fn before(view: &View, status: &Status) -> bool {
    status.slots.restart && status.node < view.me && status.postgres.standby().is_some_and(|s| s.streaming)
}

pub(super) fn take_in(view: &View) -> Option<Want> {
    let (record, status, primary) = rejoin::upstream(view).ok()?;
    let standby = view.postgres.standby()?;
    let sync = view.sync().filter(|sync| sync.term == record.term)?;
    let wanted = view.slots.restart && status.open && standby.streaming && standby.follows(record);
    // Two that begin to want it at the same moment must have heard of each other: whoever is not fresh by then is gone.
    let told = view.memory.slots_wanted_ms(view.now) >= view.settings.failure_timeout_ms;
    let others = view.fresh_peers().filter(|peer| peer.node != record.node);
    if !wanted || !told || others.into_iter().any(|peer| away(peer) || before(view, peer)) {
        return None;
    }
    let own = view.durable.member.as_ref();
    let counts = |member: &&MemberId| Some(*member) != own && sync.set.members.contains(*member);
    let streaming = primary.streaming(record.term);
    let left = streaming.iter().filter(counts).count();
    // Without it commits would wait for the length of a restart.
    if left < sync.set.k {
        return None;
    }
    let why = format!("{}; {left} other member(s) of the sync set stream", view.slots.missing.join("; "));
    act(Action::TakeSlots { term: record.term, node: record.node.clone() }, why)
}
