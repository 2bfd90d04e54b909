//! A small world in the brain's own words: what one node sees, and what the brain decides.
//!
//! What it is: the bridge to the real `brain::decide`. Time is taken away by its extremes: `Mood` says whether every
//! timer that may have run out has. What it is not: a rule; which action follows is the brain's alone.

use std::collections::{BTreeMap, BTreeSet};

use brain::{
    Activity, Applied, ClusterRecord, Condition, Durable, Fencer, Grant, Health, Millis, NodeName,
    OnLastStandbyLost, Operation, Position, Postgres, Primary, PrimaryRecord, Settings, SlotGate, SlotReport,
    Standby, Status, StoreView, SyncRecord, Tags, Term, TimelineRecord, Upstream, Versioned, View, Walsender,
    decide,
};
use wire::{Branch, History, Lsn, Timeline};

use super::act::{Act, Naming, lsn};
use super::state::{Link, Log, NONE, Role, State};

const NOW: Millis = Millis(10_000_000);
const SYSTEM_ID: u64 = 7;
/// Long before `NOW`, and long after the beginning.
const BEFORE: Millis = Millis(NOW.0 / 2);
const SYNC_VERSION: u64 = 2;

/// What a node's clock and ears tell it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Mood {
    /// The primary, when it is heard, is fine; who does not stream has stopped just now.
    Calm,
    /// Every timer has run out: the primary is not fine, who does not stream has been gone for long.
    Late,
    /// `Late`, this node's own server takes no writes either, and a peer asks for a promise of this term.
    Asked(u8),
}

/// What `node` sees and hears, ready for `decide`.
pub struct Sight<'a> {
    pub state: &'a State,
    pub node: usize,
    /// Peers whose heartbeats come, as bits.
    pub heard: u8,
    pub mood: Mood,
    /// `standbys` in the settings.
    pub k: u8,
    pub naming: Naming,
    /// A standby hides that startup still reads, or that its receiver still runs.
    pub lies: bool,
    /// A standby's name says nothing of the term.
    pub by_host: bool,
    /// Who is tagged nofailover, as bits.
    pub barred: u8,
}

impl Sight<'_> {
    /// What the brain decides, as actions that change something.
    pub fn decide(&self) -> (&'static str, Vec<Act>) {
        let decision = decide(&self.view());
        let acts = decision.actions.iter().filter_map(|action| self.naming.act(action)).collect();
        (decision.rule, acts)
    }

    fn settings(&self) -> Settings {
        let names: BTreeSet<NodeName> = (0..self.state.count).map(|index| self.naming.node(index)).collect();
        Settings {
            cluster: "small".to_owned(),
            full: names.clone(),
            voters: names,
            heartbeat_ms: 250,
            failure_timeout_ms: 2_000,
            drift_percent: 5,
            standbys: usize::from(self.k),
            slot_gate: SlotGate::Off,
            on_last_standby_lost: OnLastStandbyLost::Block,
            maximum_lag_bytes: 0,
            drain_timeout_ms: 1_000,
            origin: None,
        }
    }

    fn store(&self) -> StoreView {
        let eras = &self.state.eras[..=usize::from(self.state.nodes[self.node].era)];
        let Some(era) = eras.last() else { return StoreView::default() };
        let mut timelines: BTreeMap<u8, TimelineRecord> = BTreeMap::new();
        for past in eras {
            timelines.entry(past.timeline).or_insert_with(|| TimelineRecord {
                timeline: Timeline(u32::from(past.timeline)),
                term: Term(u64::from(past.term)),
                member: self.naming.member(era.member),
                at: None,
            });
        }
        let primary = PrimaryRecord {
            term: Term(u64::from(era.term)),
            node: self.naming.node(era.node),
            member: self.naming.member(era.member),
            timeline: Timeline(u32::from(era.timeline)),
            from: Position { timeline: Timeline(u32::from(era.from_timeline)), lsn: lsn(era.from_len) },
            head: false,
        };
        let sync = SyncRecord {
            term: Term(u64::from(era.sync_term)),
            primary: self.naming.member(era.sync_primary),
            set: self.naming.set(era.set),
            by_lease: false,
            idle: false,
        };
        let cluster = ClusterRecord {
            name: "small".to_owned(),
            claimed_by: self.naming.node(0),
            system_id: Some(SYSTEM_ID),
        };
        StoreView {
            loaded: true,
            cluster: Some(Versioned { value: cluster, version: 1 }),
            primary: Some(Versioned { value: primary, version: SYNC_VERSION }),
            sync: Some(Versioned { value: sync, version: SYNC_VERSION }),
            timelines: Some(Versioned { value: timelines.into_values().collect(), version: SYNC_VERSION }),
            ..StoreView::default()
        }
    }

    /// Every data directory that is or was a member's.
    fn members(&self) -> impl Iterator<Item = u8> + use<> {
        let set = self.state.nodes().fold(0, |set, node| set | 1u16 << (node * 2));
        let present = self.state.nodes().map(|node| self.state.nodes[node].member).filter(|m| *m != NONE);
        let set = present.fold(set, |set, member| set | 1 << member);
        (0..10).filter(move |member| set & (1 << member) != 0)
    }

    fn position(&self, log: Log) -> Position {
        let timeline = if log.len == 0 { 1 } else { self.state.timeline(log) };
        Position { timeline: Timeline(u32::from(timeline)), lsn: lsn(log.len) }
    }

    fn history(&self, branch: u8) -> History {
        let mut ancestors = Vec::new();
        let mut at = self.state.branches[usize::from(branch)];
        let current = Timeline(u32::from(at.timeline));
        while at.fork > 0 {
            let parent = self.state.branches[usize::from(at.parent)];
            ancestors.insert(0, Branch { timeline: Timeline(u32::from(parent.timeline)), end: lsn(at.fork) });
            at = parent;
        }
        History { ancestors, current }
    }

    fn server(&self, index: usize) -> Postgres {
        let node = &self.state.nodes[index];
        match node.role {
            Role::Empty => Postgres::Empty,
            Role::Down => Postgres::Stopped,
            Role::Standby => Postgres::Standby(self.standby(index)),
            Role::Primary => Postgres::Primary(self.primary(index)),
        }
    }

    fn standby(&self, index: usize) -> Standby {
        let node = &self.state.nodes[index];
        let host = self.state.host_of(index);
        let known = if node.unread { Log::default() } else { node.log };
        let detached = node.upstream == NONE;
        Standby {
            system_id: SYSTEM_ID,
            upstream: (!detached).then(|| Upstream {
                node: self.naming.node(node.upstream),
                term: Term(u64::from(node.upstream_term)),
            }),
            receiver: !detached || host.is_some() && !self.lies,
            streaming: host.is_some_and(|host| self.state.nodes[host].senders[index].flush > 0),
            position: self.position(known),
            replay: lsn(known.len),
            complete: !node.unread || self.lies,
            quarantined: false,
            stalled_ms: 0,
            complaint: None,
            history: None,
            slots: Default::default(),
        }
    }

    fn primary(&self, index: usize) -> Primary {
        let node = &self.state.nodes[index];
        let walsenders = self.state.nodes().filter_map(|peer| {
            let sender = &node.senders[peer];
            (sender.link != Link::None).then(|| Walsender {
                member: self.naming.member(sender.member),
                term: Term(u64::from(if self.by_host { node.names.term } else { sender.term })),
                streaming: sender.flush > 0,
                flush: lsn(sender.flush),
                replay: lsn(sender.flush),
            })
        });
        let branch = &self.state.branches[usize::from(node.log.branch)];
        let applied = node.applied.then(|| Applied {
            term: Term(u64::from(node.names.term)),
            set: self.naming.set(node.names.set),
            lsn: lsn(node.lsn),
        });
        Primary {
            system_id: SYSTEM_ID,
            history: self.history(node.log.branch),
            flush: lsn(node.log.len),
            quarantined: !node.admitted,
            prepared: true,
            end_of_recovery: lsn(branch.fork + 1),
            applied,
            walsenders: walsenders.collect(),
            slots: self.members().map(|member| self.naming.member(member).slot_name()).collect(),
            activity: Activity::default(),
            write_age_ms: Some(0),
            probe_age_ms: Some(0),
        }
    }

    fn tags(&self, index: usize) -> Tags {
        Tags { nofailover: self.barred & (1 << index) != 0, ..Tags::default() }
    }

    fn status(&self, index: usize, health: Health) -> Status {
        let node = &self.state.nodes[index];
        Status {
            node: self.naming.node(index as u8),
            boot: 1,
            sequence: 1,
            member: (node.member != NONE).then(|| self.naming.member(node.member)),
            promise: Term(u64::from(node.promise)),
            record_term: Term(u64::from(self.state.eras[usize::from(node.era)].term)),
            members: 0,
            revoking: None,
            sees_fine: false,
            health,
            wants_lease: false,
            keeps_lease: false,
            open: node.admitted,
            postgres: self.server(index),
            busy: node.busy.then_some(Operation::ApplySync),
            served: (node.served > 0).then_some(Term(u64::from(node.served))),
            rule: String::new(),
            condition: Condition::default(),
            slots: SlotReport::default(),
            fencer: Fencer::default(),
            tags: self.tags(index),
            holding: None,
            origin: Default::default(),
            configuration: 0,
            source: None,
            paused: false,
            why_not_source: String::new(),
            unfetched: None,
        }
    }

    /// The view at its moment, with a memory that was built the way an agent builds it.
    fn view(&self) -> View {
        let node = &self.state.nodes[self.node];
        let member = (node.member != NONE).then(|| self.naming.member(node.member));
        let durable = Durable {
            member,
            promise: Term(u64::from(node.promise)),
            promoted: Term(u64::from(node.promoted)),
            rewound: node.rewound,
            ..Durable::default()
        };
        let mut view = View::new(self.naming.node(self.node as u8), self.settings(), durable, Millis(0));
        (view.postgres, view.looked_at) = (self.server(self.node), Some(NOW));
        view.tags = self.tags(self.node);
        view.busy = node.busy.then_some(Operation::ApplySync);
        view.store = self.store();
        view.served = (node.served > 0).then_some(Term(u64::from(node.served)));
        let era = &self.state.eras[usize::from(node.era)];
        let hears_primary = self.heard & (1 << era.node) != 0 || usize::from(era.node) == self.node;
        let first = if self.mood == Mood::Calm && !hears_primary { NOW } else { Millis(0) };
        self.first_look(&mut view, first);
        if self.mood != Mood::Calm {
            // Suspected for so long that every candidate has had its turn.
            view.tick(BEFORE);
        }
        for peer in self.state.nodes().filter(|peer| self.heard & (1 << *peer) != 0) {
            let fine = self.mood == Mood::Calm;
            let mut status = self.status(peer, if fine { Health::Fine } else { Health::NotPrimary });
            if let Mood::Asked(term) = self.mood {
                status.revoking = Some(Term(u64::from(term)));
            }
            view.memory.on_status(NOW, status, &view.durable, &view.settings);
        }
        if matches!(self.mood, Mood::Asked(_))
            && let Postgres::Primary(primary) = &mut view.postgres
        {
            (primary.write_age_ms, primary.probe_age_ms) = (None, None);
        }
        view.tick(NOW);
        self.hold_lease(&mut view);
        view
    }

    /// Starts the clocks: of the record, of members that do not stream, of the doubt about `/sync`.
    fn first_look(&self, view: &mut View, at: Millis) {
        let node = &self.state.nodes[self.node];
        let (postgres, sync) = (view.postgres.clone(), view.store.sync.clone());
        if !node.doubt
            && let Some(sync) = &mut view.store.sync
        {
            sync.version = SYNC_VERSION - 1;
        }
        if self.mood == Mood::Calm
            && let Postgres::Primary(primary) = &mut view.postgres
        {
            let era = &self.state.eras[usize::from(node.era)];
            primary.walsenders = self
                .members()
                .map(|member| Walsender {
                    member: self.naming.member(member),
                    term: Term(u64::from(era.term)),
                    streaming: true,
                    flush: Lsn::ZERO,
                    replay: Lsn::ZERO,
                })
                .collect();
        }
        view.tick(at);
        (view.postgres, view.store.sync) = (postgres, sync);
    }

    /// Every member of the set has just answered: no lease holds a primary back here.
    fn hold_lease(&self, view: &mut View) {
        let Some(record) = view.record().map(|record| record.term) else { return };
        if view.serving().is_none() {
            return;
        }
        let mut status = self.status(self.node, Health::Fine);
        status.wants_lease = true;
        view.memory.on_sent(NOW, &status);
        let members = view.sync().map(|sync| sync.set.members.clone()).unwrap_or_default();
        for member in members {
            let grant = Grant { boot: 1, sequence: 1, term: record, member };
            view.memory.on_grant(1, Some(record), grant);
        }
    }
}
