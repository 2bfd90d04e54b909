//! Replication slots that a takeover must keep: what nodes tell each other of them, and the arithmetic of copies.
//!
//! The primary has the slots; every other full node has copies of those that are *kept*, so that a consumer finds at a
//! new primary what it had at the old one. What this module does not do: make, advance or drop anything.
//! Invariants: a copy is never ahead of what its consumer has confirmed to the primary, nor of the copy's own replay;
//! readiness prefers a candidate among equals and never outweighs a term or an LSN.

use serde::{Deserialize, Serialize};
use wire::Lsn;

use crate::{MemberId, NodeName, Position, Postgres, SyncRecord, Tags, Tally, View};

/// How much the readiness of slots may matter to a takeover.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum SlotGate {
    Off,
    #[default]
    Warn,
    Wait,
}

/// The answer of a live member takes a promise (one fsync), the end of a receiver and two messages: some 100 ms.
const WARN_MS_MAX: u64 = 500;

/// What a user who asked to wait is given before writes matter more than slots.
const WAIT_MS_MAX: u64 = 5_000;

/// From this share of its budget on a slot is warned about.
const NEAR_PERCENT: u64 = 80;

/// One slot of a server as its agent tells of it.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct SlotState {
    pub name: String,
    /// Of a logical slot; a physical one has none.
    pub database: Option<String>,
    /// A takeover keeps it: it is declared, or PostgreSQL synchronizes it itself.
    pub kept: bool,
    pub active: bool,
    /// The oldest WAL that it holds.
    pub restart: Option<Lsn>,
    /// Up to here its consumer has confirmed; logical only.
    pub confirmed: Option<Lsn>,
    /// Rows of the catalog that it holds back from vacuum.
    pub catalog_xmin: Option<u32>,
    /// The same for rows of every table: a replica with `hot_standby_feedback`.
    pub xmin: Option<u32>,
    pub held_bytes: u64,
    pub budget_bytes: u64,
    /// `None`: nobody has declared it.
    pub owner: Option<String>,
    /// It can be used no more, and why.
    pub lost: Option<String>,
}

impl SlotState {
    /// Nobody reads it, and it keeps vacuum from removing dead rows.
    pub fn holds_back_vacuum(&self) -> bool {
        !self.active && self.lost.is_none() && (self.catalog_xmin.is_some() || self.xmin.is_some())
    }
}

/// What a node tells of the slots on its server.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct SlotReport {
    /// The server has been looked at by the agent that tells; before that `slots` says nothing.
    pub looked: bool,
    /// Why a takeover to this node would not keep every slot; empty: its slots are ready.
    pub missing: Vec<String>,
    /// A restart of this replica would bring logical slots that are missing.
    pub restart: bool,
    pub slots: Vec<SlotState>,
}

impl SlotReport {
    pub fn ready(&self) -> bool {
        self.missing.is_empty()
    }

    /// The same without what merely goes on: LSNs, bytes and transaction ids.
    pub(crate) fn outline(&self) -> SlotReport {
        let mut outline = self.clone();
        for slot in &mut outline.slots {
            (slot.restart, slot.confirmed, slot.catalog_xmin, slot.xmin) = (None, None, None, None);
            slot.held_bytes = 0;
        }
        outline
    }
}

/// How a slot stands to its budget.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Budget {
    Within,
    Near,
    Over,
}

impl Budget {
    pub fn of(slot: &SlotState) -> Budget {
        match slot.held_bytes {
            held if held >= slot.budget_bytes => Budget::Over,
            held if held >= slot.budget_bytes / 100 * NEAR_PERCENT => Budget::Near,
            _ => Budget::Within,
        }
    }
}

/// `a` is an older transaction id than `b`, counted as PostgreSQL does: modulo 2^32, half of them in the past.
pub fn xid_precedes(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) < 0
}

/// How far `copy` may be advanced on a replica that has replayed to `replay`; `None`: it is there already.
pub fn advance_to(copy: &SlotState, original: &SlotState, replay: Lsn) -> Option<Lsn> {
    let of = |slot: &SlotState| if slot.database.is_some() { slot.confirmed } else { slot.restart };
    let target = of(original)?.min(replay);
    let usable = !copy.active && copy.lost.is_none() && original.lost.is_none();
    (usable && of(copy)? < target).then_some(target)
}

/// Why the consumer of `original` would not find at `copy` what it needs; `None`: it would.
///
/// `floor`: the oldest catalog rows that the primary has surely kept for this replica since it heard of its needs.
/// Without one nothing is known of the rows that a logical copy needs. WAL is kept in whole segments of
/// `segment_bytes`.
pub fn unready(
    copy: &SlotState,
    original: &SlotState,
    floor: Option<u32>,
    segment_bytes: u64,
) -> Option<String> {
    if let Some(lost) = &copy.lost {
        return Some(format!("the copy is lost: {lost}"));
    }
    let ahead = |what: &str, here: Option<Lsn>, there: Option<Lsn>| match (here, there) {
        (Some(here), Some(there)) if here > there => {
            Some(format!("the copy {what} {here}, the consumer needs {there}: ready once it has read on"))
        }
        (None, Some(_)) => Some("the copy has no position yet".to_owned()),
        _ => None,
    };
    if original.database.is_none() {
        let begin = |lsn: Option<Lsn>| lsn.map(|lsn| Lsn(lsn.0 - lsn.0 % segment_bytes.max(1)));
        return ahead("begins at", begin(copy.restart), begin(original.restart));
    }
    if let Some(reason) = ahead("has confirmed", copy.confirmed, original.confirmed) {
        return Some(reason);
    }
    match (copy.catalog_xmin, floor) {
        (Some(xmin), Some(floor)) if !xid_precedes(xmin, floor) => None,
        (_, None) => Some("the primary does not keep catalog rows for this replica yet".to_owned()),
        (xmin, Some(floor)) => Some(format!(
            "the copy needs catalog rows from transaction {} on, the primary keeps them from {floor} on: ready once the \
             consumer has read on",
            xmin.unwrap_or(0)
        )),
    }
}

/// Why a takeover that could be recorded now waits a moment: the winner's slots are not ready, and a live member that
/// is not behind it and whose slots are has not answered yet. Over after a bounded time, whatever comes.
pub(crate) fn hold_back(view: &View, sync: &SyncRecord, tally: &Tally) -> Option<String> {
    let patience_ms = match view.settings.slot_gate {
        SlotGate::Off => return None,
        SlotGate::Warn => WARN_MS_MAX,
        SlotGate::Wait => WAIT_MS_MAX,
    };
    let waited_ms = view.now.since(view.memory.suspect_since?);
    let crate::Outcome::Chosen(winner) = tally.outcome(sync) else { return None };
    if winner.fitness.wanted || winner.fitness.slots_ready || waited_ms >= patience_ms {
        return None;
    }
    let awaited = |(node, member, position): &(NodeName, MemberId, Position)| {
        sync.set.members.contains(member)
            && *position >= winner.position
            && !tally.answers.iter().any(|answer| answer.node == *node)
    };
    let (node, ..) = ready_standbys(view, winner.fitness.priority).into_iter().find(awaited)?;
    Some(format!(
        "the slots of {} are not ready, those of {node} are: its answer is given {patience_ms} ms",
        winner.node
    ))
}

/// Standbys that may be primary, of at least this priority, whose slots are ready.
fn ready_standbys(view: &View, priority: u32) -> Vec<(NodeName, MemberId, Position)> {
    let ready =
        |node: &NodeName, member: &Option<MemberId>, postgres: &Postgres, slots: &SlotReport, tags: &Tags| {
            let fit = slots.ready() && !tags.nofailover && tags.failover_priority >= priority;
            let standby = postgres.standby().filter(|_| fit)?;
            Some((node.clone(), member.clone()?, standby.position))
        };
    let own = ready(&view.me, &view.durable.member, &view.postgres, &view.slots, &view.tags);
    let peers = view.fresh_peers().filter_map(|s| ready(&s.node, &s.member, &s.postgres, &s.slots, &s.tags));
    own.into_iter().chain(peers).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logical(confirmed: u64, catalog_xmin: u32) -> SlotState {
        SlotState {
            name: "app".into(),
            database: Some("postgres".into()),
            restart: Some(Lsn(confirmed - 10)),
            confirmed: Some(Lsn(confirmed)),
            catalog_xmin: Some(catalog_xmin),
            ..SlotState::default()
        }
    }

    #[test]
    fn a_copy_is_never_advanced_beyond_the_consumer_nor_beyond_replay() {
        let (copy, original) = (logical(100, 7), logical(300, 9));
        assert_eq!(advance_to(&copy, &original, Lsn(500)), Some(Lsn(300)));
        assert_eq!(advance_to(&copy, &original, Lsn(200)), Some(Lsn(200)));
        assert_eq!(advance_to(&copy, &original, Lsn(100)), None);
        assert_eq!(advance_to(&original, &copy, Lsn(500)), None, "never back");
        let lost = SlotState { lost: Some("wal_removed".into()), ..copy.clone() };
        assert_eq!(advance_to(&lost, &original, Lsn(500)), None);
        let physical = |lsn| SlotState { restart: Some(Lsn(lsn)), ..SlotState::default() };
        assert_eq!(advance_to(&physical(100), &physical(300), Lsn(250)), Some(Lsn(250)));
        let active = SlotState { active: true, ..physical(100) };
        assert_eq!(advance_to(&active, &physical(300), Lsn(250)), None, "somebody reads from it here");
    }

    #[test]
    fn a_copy_is_ready_only_with_what_its_consumer_needs() {
        let original = logical(300, 9);
        let unready = |copy: &SlotState, original: &SlotState, floor| unready(copy, original, floor, 100);
        assert_eq!(unready(&logical(300, 9), &original, Some(9)), None);
        assert!(unready(&logical(301, 9), &original, Some(9)).unwrap().contains("has confirmed"));
        assert!(unready(&logical(300, 8), &original, Some(9)).unwrap().contains("catalog rows"));
        assert!(unready(&logical(300, 9), &original, None).is_some(), "no feedback, no promise");
        let physical = |lsn| SlotState { restart: Some(Lsn(lsn)), ..SlotState::default() };
        assert_eq!(unready(&physical(200), &physical(300), None), None);
        assert_eq!(unready(&physical(399), &physical(300), None), None, "the segment is kept as a whole");
        assert!(unready(&physical(400), &physical(399), None).unwrap().contains("begins at"));
    }

    #[test]
    fn transaction_ids_wrap_around() {
        assert!(xid_precedes(3, 4) && !xid_precedes(4, 4) && !xid_precedes(5, 4));
        assert!(xid_precedes(u32::MAX, 3) && !xid_precedes(3, u32::MAX));
    }

    #[test]
    fn a_budget_warns_at_four_fifths() {
        let slot = |held_bytes| SlotState { held_bytes, budget_bytes: 1000, ..SlotState::default() };
        let stands = [799, 800, 999, 1000].map(|held| Budget::of(&slot(held)));
        assert_eq!(stands, [Budget::Within, Budget::Near, Budget::Near, Budget::Over]);
    }
}
