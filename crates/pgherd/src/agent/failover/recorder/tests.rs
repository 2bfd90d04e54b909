//! A cluster of three as n2 sees it: n1 is the primary of term 1, S = {n2, n3}, k = 1.

use brain::{
    Durable, Position, Postgres, Primary, PrimaryRecord, Requests, Settings, SlotGate, Standby, Status,
    StoreView, SyncRecord, SyncSet, Term, TimelineRecord, Versioned, decide,
};
use wire::{History, Timeline};

use super::*;

const WALL: &str = "2026-01-02T03:04:05Z";

struct World {
    view: View,
    recorder: Recorder,
    sequence: u64,
    version: u64,
    /// Read at each look.
    wall: Timestamp,
}

fn member(node: &str) -> MemberId {
    MemberId::new(&node.into(), "1")
}

fn standby(lsn: u64) -> Postgres {
    let position = Position { timeline: Timeline(1), lsn: Lsn(lsn) };
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

fn primary(timeline: u32, lsn: u64, quarantined: bool) -> Postgres {
    Postgres::Primary(Primary {
        system_id: 7,
        history: History::root(Timeline(timeline)),
        flush: Lsn(lsn),
        quarantined,
        prepared: true,
        end_of_recovery: Lsn(lsn),
        applied: None,
        walsenders: Vec::new(),
        slots: Default::default(),
        activity: Default::default(),
        write_age_ms: Some(0),
        probe_age_ms: Some(0),
    })
}

fn versioned<T>(value: T, version: u64) -> Option<Versioned<T>> {
    Some(Versioned { value, version })
}

impl World {
    /// As a node sees it whose agent has run for long; k = 0 is asynchronous.
    fn of(me: &str, k: usize) -> World {
        let names = ["n1", "n2", "n3"].map(NodeName::from);
        let settings = Settings {
            cluster: "reports".to_owned(),
            full: names.clone().into(),
            voters: names.into(),
            heartbeat_ms: 250,
            failure_timeout_ms: 2_000,
            drift_percent: 5,
            standbys: k,
            slot_gate: SlotGate::Warn,
            on_last_standby_lost: Default::default(),
            drain_timeout_ms: 5_000,
            maximum_lag_bytes: 1 << 20,
            origin: None,
        };
        let durable = Durable { member: Some(member(me)), promise: Term(1), ..Durable::default() };
        let mut view = View::new(me.into(), settings, durable, Millis(0));
        view.store = StoreView { loaded: true, ..StoreView::default() };
        view.postgres = if me == "n1" { primary(1, 0x500, false) } else { standby(0x400) };
        let wall = WALL.parse().unwrap();
        let mut world = World { view, recorder: Recorder::default(), sequence: 0, version: 0, wall };
        let others: Vec<&str> = ["n1", "n2", "n3"].into_iter().filter(|node| *node != "n1").collect();
        let set = SyncSet::new(others.into_iter().filter(|_| k > 0).map(member), k);
        let sync = SyncRecord { term: Term(1), primary: member("n1"), set, by_lease: k == 0, idle: false };
        world.view.store.sync = versioned(sync, 1);
        world.record("n1", 1, 1);
        world
    }

    fn record(&mut self, node: &str, term: u64, timeline: u32) {
        self.version += 1;
        let record = PrimaryRecord {
            term: Term(term),
            node: node.into(),
            member: member(node),
            timeline: Timeline(timeline),
            from: Position { timeline: Timeline(1), lsn: Lsn(0x400) },
            head: false,
        };
        self.view.store.primary = versioned(record, self.version);
        let mut timelines =
            self.view.store.timelines.take().map_or_else(Vec::new, |timelines| timelines.value);
        let entry =
            TimelineRecord { timeline: Timeline(timeline), term: Term(term), member: member(node), at: None };
        if !timelines.iter().any(|known| known.timeline == entry.timeline) {
            timelines.push(entry);
        }
        self.view.store.timelines = versioned(timelines, self.version);
    }

    /// `/sync` names this primary now: it has opened.
    fn open(&mut self, node: &str, term: u64) {
        let set = SyncSet::new([member("n3")], 1);
        let sync = SyncRecord { term: Term(term), primary: member(node), set, by_lease: true, idle: false };
        // k = 0 in the set: the lease of this world's primary needs nobody's answer.
        let sync = SyncRecord { set: SyncSet { k: 0, ..sync.set.clone() }, by_lease: false, ..sync };
        self.version += 1;
        self.view.store.sync = versioned(sync, self.version);
    }

    fn request(&mut self, ask: Ask, stage: Stage) {
        let term = self.view.record().unwrap().term;
        let request = Request { id: 5, ask, stage, term, asked_at: 0, note: String::new() };
        self.version += 1;
        let list = Requests { last_id: 5, paused_until: None, list: vec![request] };
        self.view.store.requests = versioned(list, self.version);
    }

    /// `node` says this.
    fn hear(&mut self, now: u64, node: &str, change: impl FnOnce(&mut Status)) {
        self.sequence += 1;
        let mut said = Status::of(&self.view, 1, self.sequence, None, "");
        (said.node, said.member) = (node.into(), Some(member(node)));
        (said.promise, said.health, said.postgres) = (Term(1), Health::NotPrimary, standby(0x400));
        (said.holding, said.sees_fine, said.open) = (None, false, false);
        change(&mut said);
        let View { memory, durable, settings, .. } = &mut self.view;
        memory.on_status(Millis(now), said, durable, settings);
    }

    fn hear_fine(&mut self, now: u64) {
        self.hear(now, "n1", |status| {
            (status.health, status.postgres) = (Health::Fine, primary(1, 0x500, false))
        });
    }

    fn look(&mut self, now: u64) {
        self.view.tick(Millis(now));
        let decision = decide(&self.view);
        self.recorder.look(&self.view, &decision, self.wall);
    }

    fn look_deciding(&mut self, now: u64, rule: &'static str, actions: Vec<Action>) {
        self.view.tick(Millis(now));
        let decision = Decision { rule, actions, why: Vec::new() };
        self.recorder.look(&self.view, &decision, self.wall);
    }

    /// From the record of term 2 on timeline 2 to the opening, in steps of 100 ms.
    fn promote_and_open(&mut self, now: u64) {
        let me = self.view.me.0.clone();
        self.view.busy = Some(Operation::Promote);
        self.look(now);
        self.view.busy = None;
        let timeline = self.view.record().unwrap().timeline.0;
        self.view.postgres = primary(timeline, 0x440, true);
        self.look(now + 100);
        self.look_deciding(now + 200, "open.record", Vec::new());
        self.open(&me, self.view.record().unwrap().term.0);
        self.view.postgres = primary(timeline, 0x440, false);
        self.look(now + 300);
    }

    /// After all the waiting for others' counts.
    fn finish(&mut self, now: u64) -> Option<FailoverReport> {
        self.look(now);
        self.recorder.finish(&self.view, Vec::new()).map(|(_, report)| report)
    }

    /// n1 falls silent at 1,000; n2 asks at 3,100, n3 answers at 3,150, and n2 is recorded at 3,200.
    fn take_over(&mut self) {
        self.look(900);
        self.hear_fine(1_000);
        self.hear(1_000, "n3", |_| {});
        self.look(1_000);
        self.hear(3_050, "n3", |_| {});
        self.look_deciding(3_050, "takeover.defer", Vec::new());
        self.view.durable.promise = Term(2);
        self.look_deciding(3_100, "takeover.revoke", vec![Action::Revoke { term: Term(2) }]);
        self.hear(3_150, "n3", |status| status.promise = Term(2));
        self.look_deciding(3_150, "takeover.record", vec![Action::Revoke { term: Term(2) }]);
        self.record("n2", 2, 2);
        self.look(3_200);
    }
}

fn names_and_lengths(report: &FailoverReport) -> Vec<(&str, u64)> {
    report.phases.iter().map(|phase| (phase.name.as_str(), phase.ms)).collect()
}

#[track_caller]
fn check_sum(report: &FailoverReport) {
    let mut end = 0;
    for phase in &report.phases {
        assert_eq!(phase.start_ms, end, "{report:#?}");
        end += phase.ms;
    }
    assert_eq!(report.total_ms, end);
}

#[test]
fn a_takeover_is_told_phase_by_phase() {
    let mut world = World::of("n2", 1);
    world.take_over();
    world.promote_and_open(3_300);
    assert_eq!(world.recorder.opened(), Some(2));
    assert_eq!(world.finish(3_700), None, "others may still tell what their proxies counted");
    let report = world.finish(9_000).expect("the report");
    assert_eq!((report.kind, report.term), (FailoverKind::Takeover, 2));
    assert_eq!((report.from.node.as_str(), report.to.node.as_str()), ("n1", "n2"));
    assert!(report.from.opened && report.reason.contains("has not been fine"), "{report:#?}");
    let phases = [
        ("detection", 2_050),
        ("turn", 50),
        ("promises", 50),
        ("record", 50),
        ("preparation", 100),
        ("promotion", 100),
        ("synchronization", 100),
        ("opening", 100),
    ];
    assert_eq!(names_and_lengths(&report), phases);
    check_sum(&report);
    assert_eq!(report.writes_paused_ms, Some(2_600));
    // 2.2 s before the record.
    assert_eq!(report.at, "2026-01-02T03:04:02.8Z");
    let votes: Vec<(&str, u64, u64)> =
        report.ballot.votes.iter().map(|vote| (vote.node.as_str(), vote.promise, vote.heard_ms)).collect();
    assert_eq!(votes, [("n2", 2, 2_100), ("n3", 2, 2_150)]);
    assert_eq!((report.ballot.k, report.ballot.needed), (1, 2));
    assert_eq!(report.ballot.candidates, ["n2"]);
    assert_eq!(report.ballot.rejected, ["n1: not heard"]);
    assert_eq!(report.loss.bytes, 0);
    assert_eq!(report.silent_proxies, ["n1", "n2", "n3"]);
    assert_eq!(world.finish(9_100), None, "once");
}

#[test]
fn without_synchronous_replication_the_loss_is_told() {
    let mut world = World::of("n2", 0);
    world.take_over();
    world.promote_and_open(3_300);
    let report = world.finish(9_000).expect("the report");
    assert_eq!((report.loss.bytes, report.ballot.needed), (0x100, 0));
    assert!(report.loss.why.starts_with("asynchronous"));
}

#[test]
fn a_switchover_begins_with_the_asking_and_ends_with_the_hold() {
    let mut world = World::of("n2", 1);
    let ask = || Ask::Switchover { to: Some("n2".into()), at: None, force: false };
    world.hear_fine(1_000);
    world.look(1_000);
    for (now, stage) in [
        (1_100, Stage::Waiting),
        (1_150, Stage::Preparing),
        (1_400, Stage::Holding),
        (1_500, Stage::Stopping),
    ] {
        world.request(ask(), stage);
        world.hear_fine(now);
        world.look(now);
    }
    world.hear(1_800, "n1", |status| (status.health, status.postgres) = (Health::Down, Postgres::Stopped));
    world.look_deciding(1_800, "takeover.defer", Vec::new());
    world.view.durable.promise = Term(2);
    world.look_deciding(1_810, "takeover.revoke", vec![Action::Revoke { term: Term(2) }]);
    world.hear(1_840, "n3", |status| (status.promise, status.holding) = (Term(2), Some(5)));
    world.look_deciding(1_840, "takeover.record", vec![Action::Revoke { term: Term(2) }]);
    world.record("n2", 2, 2);
    world.look(1_850);
    world.promote_and_open(1_900);
    world.request(ask(), Stage::Done);
    world.look(2_250);
    world.hear(2_300, "n3", |status| status.promise = Term(2));
    world.hear(2_300, "n1", |_| {});
    world.look(2_300);
    let report = world.finish(8_000).expect("the report");
    assert_eq!((report.kind, report.request), (FailoverKind::Switchover, Some(5)));
    assert_eq!(report.reason, "request 5 asked for a switchover to n2");
    let phases = [
        ("checks", 50),
        ("checkpoint", 250),
        ("drain", 100),
        ("stop", 300),
        ("turn", 10),
        ("promises", 30),
        ("record", 10),
        ("preparation", 50),
        ("promotion", 100),
        ("synchronization", 100),
        ("opening", 100),
        ("release", 100),
    ];
    assert_eq!(names_and_lengths(&report), phases);
    check_sum(&report);
    assert_eq!(report.writes_paused_ms, Some(900));
}

#[test]
fn a_restart_in_place_is_one_from_a_node_to_itself() {
    let mut world = World::of("n1", 1);
    let ask = || Ask::Restart { node: "n1".into(), force: false };
    world.look(10_000);
    for (now, stage) in [(10_100, Stage::Preparing), (10_300, Stage::Holding), (10_400, Stage::Stopping)] {
        world.request(ask(), stage);
        world.look(now);
    }
    world.view.postgres = Postgres::Stopped;
    world.look(10_600);
    world.view.postgres = standby(0x500);
    world.view.durable.promise = Term(2);
    world.look_deciding(10_900, "takeover.revoke", vec![Action::Revoke { term: Term(2) }]);
    world.record("n1", 2, 2);
    world.look(11_000);
    world.promote_and_open(11_100);
    world.request(ask(), Stage::Done);
    world.look(11_500);
    let report = world.finish(17_000).expect("the report");
    assert_eq!(
        (report.kind, &report.from.node, &report.to.node),
        (FailoverKind::Restart, &"n1".into(), &"n1".into())
    );
    assert_eq!(names_and_lengths(&report)[..2], [("checks", 0), ("checkpoint", 200)]);
    check_sum(&report);
}

#[test]
fn a_takeover_that_is_taken_over_from_is_not_reported_by_its_winner() {
    let mut world = World::of("n2", 1);
    world.take_over();
    world.view.busy = Some(Operation::Promote);
    world.look(3_300);
    world.view.busy = None;
    world.record("n3", 3, 3);
    world.look(5_000);
    assert_eq!(world.recorder.opened(), None);
    assert_eq!(world.finish(60_000), None);
    // The next one that this node wins tells of the primary before it, and not of n1.
    world.view.postgres = standby(0x480);
    world.view.durable.promise = Term(4);
    world.look_deciding(60_100, "takeover.revoke", vec![Action::Revoke { term: Term(4) }]);
    world.record("n2", 4, 4);
    world.look(60_200);
    world.promote_and_open(60_300);
    let report = world.finish(70_000).expect("the report");
    assert_eq!((report.from.node.as_str(), report.from.term, report.from.opened), ("n3", 3, false));
    check_sum(&report);
}

#[test]
fn a_renewed_term_is_the_same_primaryship() {
    let mut world = World::of("n2", 1);
    world.take_over();
    world.record("n2", 3, 2);
    world.look(3_250);
    world.promote_and_open(3_300);
    let report = world.finish(9_000).expect("the report");
    assert_eq!(report.term, 2, "the term that the takeover made");
}

#[test]
fn an_agent_that_starts_in_the_middle_reports_nothing() {
    let mut world = World::of("n2", 1);
    world.take_over();
    world.recorder = Recorder::default();
    world.promote_and_open(3_300);
    assert_eq!(world.recorder.opened(), None);
    assert_eq!(world.finish(60_000), None);
}

#[test]
fn a_node_that_has_missed_a_primaryship_reports_nothing() {
    let mut world = World::of("n2", 1);
    world.take_over();
    world.recorder = Recorder::default();
    let mut late = World::of("n2", 1);
    late.look(1_000);
    late.record("n3", 2, 2);
    late.record("n2", 3, 3);
    late.look(2_000);
    late.promote_and_open(2_100);
    assert_eq!(late.finish(60_000), None);
}

#[test]
fn clocks_that_jump_make_long_phases_and_no_negative_ones() {
    let mut world = World::of("n2", 1);
    world.take_over();
    // The wall clock is set back by years, and the machine is suspended for a minute.
    world.wall = "1999-01-01T00:00:00Z".parse().unwrap();
    world.promote_and_open(63_300);
    let report = world.finish(70_000).expect("the report");
    assert_eq!(report.at, "2026-01-02T03:04:02.8Z", "dated by the wall clock at the record");
    check_sum(&report);
    assert_eq!(names_and_lengths(&report)[4], ("preparation", 60_100));
}

#[test]
fn a_false_alarm_leaves_no_trace() {
    let mut world = World::of("n2", 1);
    world.look(900);
    world.hear_fine(1_000);
    world.look(1_000);
    world.look(3_500);
    world.hear_fine(3_600);
    world.look(3_600);
    world.hear(20_000, "n3", |_| {});
    world.hear_fine(20_000);
    world.look(20_000);
    world.view.durable.promise = Term(2);
    world.hear(22_100, "n3", |status| (status.promise, status.revoking) = (Term(2), Some(Term(2))));
    world.look_deciding(22_100, "takeover.defer", Vec::new());
    world.record("n2", 2, 2);
    world.look(22_200);
    world.promote_and_open(22_300);
    let report = world.finish(30_000).expect("the report");
    assert_eq!(names_and_lengths(&report)[0], ("detection", 2_100));
    assert_eq!(report.ballot.candidates, ["n3"]);
}

#[test]
fn a_primary_that_ends_before_its_stop_was_taken_over_from() {
    let mut world = World::of("n2", 1);
    world.look(900);
    world.hear_fine(1_000);
    world.request(Ask::Switchover { to: None, at: None, force: false }, Stage::Holding);
    world.look(1_000);
    world.take_over();
    world.promote_and_open(3_300);
    let report = world.finish(9_000).expect("the report");
    assert_eq!((report.kind, report.request), (FailoverKind::Takeover, None));
    assert!(
        report.phases.iter().all(|phase| phase.name != "drain" && phase.name != "release"),
        "{report:#?}"
    );
    check_sum(&report);
}
