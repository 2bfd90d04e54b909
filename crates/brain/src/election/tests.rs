//! Who wins, on views of two or three nodes.

use wire::Lsn;

use super::*;
use crate::answer::tally;
use crate::{
    Condition, Durable, Health, Memory, Millis, NodeName, Operation, Postgres, Settings, SlotGate,
    SlotReport, Standby, Status, StoreView, Tags, Versioned,
};

const NOW: Millis = Millis(100_000);
const TERM: Term = Term(2);

fn member(name: &str) -> MemberId {
    MemberId::new(&name.into(), "1")
}

fn standby(lsn: u64) -> Postgres {
    let position = Position { timeline: wire::Timeline(1), lsn: Lsn(lsn) };
    Postgres::Standby(Standby {
        system_id: 7,
        upstream: None,
        receiver: false,
        streaming: false,
        position,
        replay: position.lsn,
        complete: true,
        quarantined: true,
        stalled_ms: 0,
        complaint: None,
        history: None,
        slots: Default::default(),
    })
}

fn promised(name: &str, busy: Option<Operation>) -> Status {
    Status {
        node: name.into(),
        boot: 1,
        sequence: 1,
        member: Some(member(name)),
        promise: TERM,
        record_term: Term(1),
        members: 0,
        revoking: None,
        sees_fine: false,
        health: Health::NotPrimary,
        wants_lease: false,
        keeps_lease: false,
        open: false,
        postgres: standby(200),
        busy,
        condition: Condition::default(),
        slots: SlotReport::default(),
        served: None,
        rule: String::new(),
        fencer: crate::Fencer::default(),
        tags: Tags::default(),
        holding: None,
        source: None,
        paused: false,
        why_not_source: String::new(),
        unfetched: None,
        origin: Default::default(),
        configuration: 0,
    }
}

/// n1 asks; it and n2 are the members of ANY 1, so both must answer, and both have promised and detached.
fn view(own: Option<Operation>, peer: Option<Operation>) -> View {
    let names = ["n1", "n2", "n3"].map(NodeName::from);
    let settings = Settings {
        cluster: "election".to_owned(),
        full: names.clone().into(),
        voters: names.into(),
        heartbeat_ms: 250,
        failure_timeout_ms: 2_000,
        drift_percent: 5,
        standbys: 1,
        slot_gate: SlotGate::Warn,
        on_last_standby_lost: Default::default(),
        drain_timeout_ms: 5_000,
        maximum_lag_bytes: 1 << 20,
        origin: None,
    };
    let sync = SyncRecord {
        term: Term(1),
        primary: member("n3"),
        set: SyncSet::new([member("n1"), member("n2")], 1),
        by_lease: false,
        idle: false,
    };
    let timelines =
        vec![TimelineRecord { timeline: wire::Timeline(1), term: Term(1), member: member("n3"), at: None }];
    let store = StoreView {
        loaded: true,
        sync: Some(Versioned { value: sync, version: 1 }),
        timelines: Some(Versioned { value: timelines, version: 1 }),
        ..StoreView::default()
    };
    let durable = Durable { member: Some(member("n1")), promise: TERM, ..Durable::default() };
    let mut memory = Memory::new(Millis(0));
    memory.on_status(NOW, promised("n2", peer), &durable, &settings);
    View {
        postgres: standby(100),
        busy: own,
        condition: Condition::default(),
        store,
        memory,
        ..View::new("n1".into(), settings, durable, NOW)
    }
}

fn outcome(view: &View) -> Outcome {
    let sync = view.sync().unwrap();
    tally(view, sync, TERM).outcome(sync)
}

fn chosen(own: Option<Operation>, peer: Option<Operation>) -> Option<NodeName> {
    match outcome(&view(own, peer)) {
        Outcome::Chosen(answer) => Some(answer.node),
        Outcome::Fetch { .. } | Outcome::Missing(_) => None,
    }
}

#[test]
fn the_longest_of_those_who_answer_wins() {
    assert_eq!(chosen(None, None), Some("n2".into()));
}

#[test]
fn ready_slots_decide_among_equals_and_never_over_wal() {
    let unready = SlotReport { missing: vec!["app".into()], ..SlotReport::default() };
    let mut equal = view(None, None);
    equal.postgres = standby(200);
    let winner = |view: &View| match outcome(view) {
        Outcome::Chosen(answer) => answer.node,
        other => panic!("{other:?}"),
    };
    assert_eq!(winner(&equal), "n1".into(), "by name");
    equal.slots = unready.clone();
    assert_eq!(winner(&equal), "n2".into(), "n2's slots are ready");
    let mut ahead = equal.clone();
    ahead.postgres = standby(201);
    assert_eq!(winner(&ahead), "n1".into(), "one byte of WAL weighs more");
}

#[test]
fn a_takeover_waits_a_bounded_time_for_a_candidate_with_ready_slots() {
    let mut view = view(None, None);
    view.postgres = standby(200);
    view.slots = SlotReport { missing: vec!["app".into()], ..SlotReport::default() };
    view.memory.suspect_since = Some(Millis(NOW.0 - 100));
    // n2 is ready and has as much WAL, but its answer has not come: n1 and the old primary suffice.
    let mut sync = view.sync().unwrap().clone();
    sync.set = SyncSet::new([member("n1"), member("n2")], 2);
    let mut told = tally(&view, &sync, TERM);
    assert_eq!(crate::slots::hold_back(&view, &sync, &told), None, "n2 has answered and wins");
    told.answers.retain(|answer| answer.node == "n1".into());
    assert!(crate::slots::hold_back(&view, &sync, &told).unwrap().contains("n2"));
    view.memory.suspect_since = Some(Millis(NOW.0 - 600));
    assert_eq!(crate::slots::hold_back(&view, &sync, &told), None, "long enough");
    view.settings.slot_gate = SlotGate::Wait;
    assert!(crate::slots::hold_back(&view, &sync, &told).is_some());
    view.settings.slot_gate = SlotGate::Off;
    assert_eq!(crate::slots::hold_back(&view, &sync, &told), None);
}

/// A look taken before the work shows a detached standby; meanwhile the work may have pointed it at a primary, whose
/// commits it acknowledges.
#[test]
fn who_may_be_taking_wal_does_not_answer() {
    for operation in [Operation::Follow, Operation::Rewind, Operation::Clone, Operation::Detach] {
        assert_eq!(chosen(None, Some(operation)), None, "{operation:?} on the peer");
        assert_eq!(chosen(Some(operation), None), None, "{operation:?} on this node");
    }
}

/// What was acknowledged may be on the full disk alone: one with room fetches it and takes over.
#[test]
fn a_full_disk_wins_nothing_and_loses_nothing() {
    let full = Condition { disk_full: true, ..Condition::default() };
    let mut view = view(None, None);
    view.memory.peers.get_mut(&"n2".into()).unwrap().status.condition = full.clone();
    match outcome(&view) {
        Outcome::Fetch { from, by } => {
            assert_eq!((from.node.0.as_str(), by.node.0.as_str()), ("n2", "n1"))
        }
        other => panic!("n2 has more, and no room: {other:?}"),
    }
    let winner = |view: &View| match outcome(view) {
        Outcome::Chosen(answer) => Some(answer.node.0),
        _ => None,
    };
    view.postgres = standby(200);
    assert_eq!(winner(&view).as_deref(), Some("n1"), "both have the same");
    view.condition = full;
    assert_eq!(winner(&view), None, "both are full");
    view.memory.peers.get_mut(&"n2".into()).unwrap().status.condition = Condition::default();
    assert_eq!(winner(&view).as_deref(), Some("n2"));
}

/// Only who has a beginning of that WAL can fetch the rest.
#[test]
fn whose_wal_has_left_fetches_nothing() {
    let mut view = view(None, None);
    let second =
        TimelineRecord { timeline: wire::Timeline(2), term: Term(1), member: member("n2"), at: None };
    view.store.timelines.as_mut().unwrap().value.push(second);
    let mut outcome_at = |fork: u64| {
        let peer = &mut view.memory.peers.get_mut(&"n2".into()).unwrap().status;
        peer.condition.disk_full = true;
        let Postgres::Standby(standby) = &mut peer.postgres else { panic!("n2 is a standby") };
        standby.position.timeline = wire::Timeline(2);
        let first = wire::Branch { timeline: wire::Timeline(1), end: Lsn(fork) };
        standby.history = Some(wire::History { ancestors: vec![first], current: wire::Timeline(2) });
        outcome(&view)
    };
    assert!(matches!(outcome_at(100), Outcome::Fetch { by, .. } if by.node == "n1".into()));
    let Outcome::Missing(why) = outcome_at(99) else {
        panic!("n1 has WAL to 100 on the timeline that ended at 99")
    };
    assert!(why.contains("n1 has WAL that is no beginning of it"), "{why}");
}

/// With asynchronous replication one answer suffices, and the best may be the one that this node cannot give yet.
#[test]
fn without_a_set_all_who_are_there_are_heard_first() {
    let mut view = view(None, None);
    view.memory.suspect_since = Some(NOW);
    let mut sync = view.sync().unwrap().clone();
    (sync.set, sync.by_lease) = (SyncSet::new([member("n1"), member("n2")], 0), true);
    let told = |view: &View| super::outcome(view, &sync, &tally(view, &sync, TERM));
    assert!(matches!(told(&view), Outcome::Chosen(winner) if winner.node == "n2".into()));
    view.durable.promise = Term(1);
    assert_eq!(told(&view), Outcome::Missing("n1 has not answered yet".to_owned()));
    view.memory.suspect_since = Some(Millis(NOW.0 - 5_000));
    assert!(matches!(told(&view), Outcome::Chosen(winner) if winner.node == "n2".into()), "long enough");
}

#[test]
fn work_that_leaves_the_wal_alone_hinders_no_answer() {
    assert_eq!(chosen(Some(Operation::Gate), Some(Operation::Slots)), Some("n2".into()));
}

/// A head may lie on a lower timeline than its record when its origin went back to one.
#[test]
fn a_head_below_its_recorded_timeline_is_promoted_by_nobody() {
    let mut view = view(None, None);
    let from = Position { timeline: wire::Timeline(3), lsn: Lsn(100) };
    let (term, timeline) = (TERM, from.timeline);
    let mut record =
        PrimaryRecord { term, node: "n1".into(), member: member("n1"), timeline, from, head: true };
    let mut rule = |head: bool| {
        record.head = head;
        view.store.primary = Some(Versioned { value: record.clone(), version: 1 });
        crate::decide(&view).rule
    };
    assert_eq!(rule(true), "head.follow");
    assert_eq!(rule(false), "promote");
}

#[test]
fn of_a_timeline_that_it_has_not_reached_the_winner_has_nothing() {
    let mut view = view(None, None);
    let from = Position { timeline: wire::Timeline(1), lsn: Lsn(100) };
    let (timeline, member) = (wire::Timeline(3), member("n2"));
    let record = PrimaryRecord { term: Term(1), node: "n2".into(), member, timeline, from, head: false };
    view.store.primary = Some(Versioned { value: record, version: 1 });
    view.memory.peers.get_mut(&NodeName::from("n2")).unwrap().last_flush = Some(Lsn(150));
    let mut winner = crate::answer::own_answer(&view, TERM).unwrap();
    winner.position = Position { timeline: wire::Timeline(1), lsn: Lsn(200) };
    assert_eq!(lost_bytes(&view, &winner), 50, "its own WAL beyond the fork is none of the primary's");
    winner.position.timeline = wire::Timeline(3);
    assert_eq!(lost_bytes(&view, &winner), 0);
}
