//! An ideal cluster: every action succeeds at once, every message arrives at once. Only decisions are of interest;
//! what goes wrong in between is the simulator's part.

mod commands;
mod origin;
mod server;
mod store;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use brain::{
    Action, Durable, Fence, LeaseRecord, MemberId, MemberRecord, MembersRecord, Millis, NodeKind, NodeName,
    OnLastStandbyLost, OriginRecord, Postgres, Settings, SlotGate, SlotReport, Status, StoreView, Term,
    Upstream, Versioned, View, decide, fence, releases_store_lease, wants_store_lease,
};
use wire::{History, Lsn, Timeline};

use origin::Origin;
use server::{Server, apply};
use store::SlowStore;

const STEP_MS: u64 = 10;

struct Node {
    alive: bool,
    boot: u64,
    sequence: u64,
    view: View,
    server: Option<Server>,
    incarnation: u32,
    revoking: Option<Term>,
    last_sent: Millis,
    last_status: Option<Status>,
    last_line: String,
    /// What the node's fencer keeps for the next agent.
    fenced_until: Option<Millis>,
    /// Why its configuration cannot be applied.
    misconfigured: Option<String>,
}

#[derive(Default)]
pub struct World {
    now: Millis,
    nodes: BTreeMap<NodeName, Node>,
    store: StoreView,
    lease_ends: Millis,
    origin: Option<Origin>,
    cuts: BTreeSet<(NodeName, NodeName)>,
    /// The first has no more of the WAL that the second needs next.
    withheld: BTreeSet<(NodeName, NodeName)>,
    slow: BTreeMap<NodeName, SlowStore>,
    pub trace: String,
    pub quiet: bool,
}

impl World {
    /// `cluster n1 n2 n3 k=1 witness=n3`; `origin=h1:5432` makes it a standby cluster; with `record=n1` the store has a record of members, at first those named
    /// (with a comma in between), and the others are added later.
    pub fn new(words: &[&str]) -> World {
        let names: BTreeSet<NodeName> =
            words.iter().filter(|w| !w.contains('=')).map(|w| (*w).into()).collect();
        let setting = |key: &str| words.iter().find_map(|w| w.strip_prefix(key)?.strip_prefix('='));
        let witness: BTreeSet<NodeName> = setting("witness").into_iter().map(NodeName::from).collect();
        let settings = Settings {
            cluster: "golden".into(),
            full: names.difference(&witness).cloned().collect(),
            voters: names.clone(),
            heartbeat_ms: 250,
            failure_timeout_ms: 2000,
            drift_percent: 5,
            standbys: setting("k").map_or(1, |k| k.parse().unwrap()),
            slot_gate: SlotGate::Warn,
            on_last_standby_lost: match setting("lost") {
                Some("degrade") => OnLastStandbyLost::Degrade,
                _ => OnLastStandbyLost::Block,
            },
            drain_timeout_ms: 5000,
            origin: setting("origin")
                .map(|host| OriginRecord { hosts: vec![host.to_owned()], ..Default::default() }),
            maximum_lag_bytes: 1 << 20,
        };
        let mut world = World { now: Millis(1_000_000), ..World::default() };
        world.origin = settings.origin.is_some().then(|| Origin::new(Timeline(2), Lsn(0x2000)));
        for name in names {
            let view = View {
                postgres: Postgres::Empty,
                ..View::new(name.clone(), settings.clone(), Durable::default(), world.now)
            };
            let node = Node {
                alive: true,
                boot: 1,
                sequence: 0,
                view,
                server: None,
                incarnation: 0,
                revoking: None,
                last_sent: Millis(0),
                last_status: None,
                last_line: String::new(),
                fenced_until: None,
                misconfigured: None,
            };
            world.nodes.insert(name, node);
        }
        world.store.loaded = true;
        if let Some(recorded) = setting("record") {
            world.store.members = Some(Versioned { value: MembersRecord::default(), version: 1 });
            recorded.split(',').for_each(|name| world.record_member(name, false));
        }
        world
    }

    fn record_member(&mut self, name: &str, leaving: bool) {
        let full = self.nodes[&NodeName::from(name)].view.settings.full.contains(&NodeName::from(name));
        let kind = if full { NodeKind::Full } else { NodeKind::Witness };
        let member = MemberRecord { kind, peer: name.to_owned(), postgres: None, leaving };
        let members = self.store.members.as_mut().expect("record= makes one");
        members.value.removed.remove(&NodeName::from(name));
        members.value.nodes.insert(name.into(), member);
        members.version += 1;
    }

    fn is_member(&self, name: &NodeName) -> bool {
        self.store.members.as_ref().is_none_or(|members| members.value.nodes.contains_key(name))
    }

    pub fn run(&mut self, milliseconds: u64) {
        for _ in 0..milliseconds / STEP_MS {
            self.now = self.now.plus(STEP_MS);
            self.stream();
            let names: Vec<NodeName> = self.nodes.keys().cloned().collect();
            for name in &names {
                self.turn(name);
            }
        }
    }

    fn node(&mut self, name: &str) -> &mut Node {
        self.nodes.get_mut(&NodeName::from(name)).unwrap()
    }

    fn note(&mut self, text: &str) {
        let _ = writeln!(self.trace, "> {text}");
    }

    fn linked(&self, from: &NodeName, to: &NodeName) -> bool {
        !self.cuts.contains(&(from.clone(), to.clone()))
    }

    /// A node uses the store while it reaches a majority both ways.
    fn in_majority(&self, name: &NodeName) -> bool {
        let members = || self.nodes.iter().filter(|(peer, _)| self.is_member(peer));
        let reached = members().filter(|(peer, node)| {
            node.alive && (*peer == name || self.linked(name, peer) && self.linked(peer, name))
        });
        self.is_member(name) && reached.count() > members().count() / 2
    }

    fn turn(&mut self, name: &NodeName) {
        if !self.nodes[name].alive {
            return;
        }
        let (now, postgres, connected) = (self.now, self.observe(name), self.in_majority(name));
        let store = self.store.clone();
        let told = store.members.as_ref().is_some_and(|members| members.value.removed.contains_key(name));
        let node = self.nodes.get_mut(name).unwrap();
        (node.view.postgres, node.view.looked_at) = (postgres, Some(now));
        node.view.store.removed |= told;
        if connected {
            node.view.store = store;
            if let Some(members) = &node.view.store.members {
                node.view.settings.follow(&members.value);
                let voters = &node.view.settings.voters;
                node.view.memory.peers.retain(|peer, _| voters.contains(peer));
            }
        }
        node.view.wall_s = now.0 / 1000;
        let looked = self.look_at_origin(&self.nodes[name].view);
        let node = self.nodes.get_mut(name).unwrap();
        node.view.origin = looked;
        // A lease of one failure timeout, kept while it is wanted and the store is reached.
        match wants_store_lease(&node.view).filter(|_| connected) {
            Some(term) => {
                node.view.store_lease = Some((term, now.plus(node.view.settings.lease_usable_ms())));
                self.lease_ends = now.plus(node.view.settings.failure_timeout_ms);
                let value = LeaseRecord { node: name.clone(), term };
                self.store.lease = Some(Versioned { value, version: 1 });
            }
            None if self.store.lease.as_ref().is_some_and(|l| l.value.node == *name)
                && connected
                && releases_store_lease(&node.view) =>
            {
                self.store.lease = None;
            }
            None => {}
        }
        if now >= self.lease_ends {
            self.store.lease = None;
        }
        if connected {
            node.view.store.lease = self.store.lease.clone();
        }
        node.view.tick(now);
        match fence(&node.view) {
            Fence::Until(until) => node.fenced_until = Some(until),
            Fence::Rest => node.fenced_until = None,
            Fence::Keep => {}
        }
        let decision = decide(&node.view);
        node.revoking = decision.actions.iter().find_map(|action| match action {
            Action::Revoke { term } => Some(*term),
            _ => None,
        });
        let names: Vec<&str> = decision.actions.iter().map(Action::name).collect();
        let line = format!("{name} {} [{}]", decision.rule, names.join(" "));
        if line != node.last_line {
            if !self.quiet {
                let _ = writeln!(self.trace, "{line}");
            }
            node.last_line = line;
        }
        for action in decision.actions {
            self.execute(name, action, connected);
        }
        let observed = self.observe(name);
        let node = self.nodes.get_mut(name).unwrap();
        (node.view.postgres, node.view.looked_at) = (observed, Some(self.now));
        self.send(name, decision.rule);
    }

    fn execute(&mut self, name: &NodeName, action: Action, connected: bool) {
        let now = self.now;
        if let Action::Commit(commit) = action {
            if connected {
                self.send_commit(name, &commit);
            }
            return;
        }
        let source = match &action {
            Action::Clone { node, .. } | Action::Rewind { node, .. } if node.is_origin() => {
                let origin = self.origin.as_ref().filter(|origin| origin.lives).expect("it was seen to live");
                Some(Server::new(origin.history.clone(), origin.end, now))
            }
            Action::Clone { node, .. } | Action::Rewind { node, .. } => self.nodes[node].server.clone(),
            _ => None,
        };
        let from_origin =
            matches!(&action, Action::Clone { node, .. } | Action::Rewind { node, .. } if node.is_origin());
        let refused = from_origin && self.origin.as_ref().is_some_and(|origin| origin.refuses);
        let node = self.nodes.get_mut(name).unwrap();
        let durable = &mut node.view.durable;
        let mut fresh_id = |durable: &mut Durable| {
            node.incarnation += 1;
            durable.member = Some(MemberId::new(name, &format!("{:x}", node.incarnation)));
        };
        match action {
            Action::Promise { term } => durable.promise = durable.promise.max(term),
            Action::StartDetached => {
                node.view.condition.outgrown = false;
                apply(node.server.as_mut().unwrap(), durable, action, now);
            }
            Action::Revoke { .. } | Action::Commit(_) => {}
            Action::Checkpoint { request } => node.view.errands.checkpointed = request,
            Action::Reload { request } => match &node.misconfigured {
                Some(why) => node.view.errands.not_reloaded = Some((request, why.clone())),
                None => node.view.errands.reloaded = request,
            },
            Action::GiveUp { request } => durable.give_up(request),
            Action::Restart { request } => {
                durable.obeyed = request;
                node.server.as_mut().unwrap().running = false;
            }
            Action::Initdb => {
                fresh_id(durable);
                node.server = Some(Server::new(History::root(Timeline(1)), Lsn(0x1000), now));
            }
            Action::Clone { term, .. } if refused => {
                fresh_id(durable);
                (durable.promise, durable.needs_clone) = (durable.promise.max(term), true);
                node.server = None;
            }
            Action::Rewind { term, .. } if refused => {
                (durable.promise, durable.rewound) = (durable.promise.max(term), true);
                node.server.as_mut().unwrap().running = false;
            }
            Action::Clone { term, node: from } => {
                fresh_id(durable);
                durable.promise = durable.promise.max(term);
                (durable.needs_clone, durable.rewound) = (false, false);
                let source = source.unwrap();
                node.server = Some(Server::new(source.history, source.end, now));
                if self.store.primary.as_ref().is_some_and(|p| p.value.node != from) {
                    let _ = writeln!(self.trace, "  {name} copies {from}");
                }
            }
            Action::Rewind { term, node: upstream } => {
                let source = source.unwrap();
                (durable.promise, durable.rewound) = (durable.promise.max(term), false);
                let upstream = Some(Upstream { node: upstream, term });
                node.server =
                    Some(Server { running: true, upstream, ..Server::new(source.history, source.end, now) });
            }
            taken @ Action::TakeSlots { .. } => {
                node.view.slots = SlotReport::default();
                apply(node.server.as_mut().unwrap(), durable, taken, now);
            }
            on_server => apply(node.server.as_mut().unwrap(), durable, on_server, now),
        }
    }

    /// Heartbeats go out on time and on every change.
    fn send(&mut self, name: &NodeName, rule: &str) {
        let now = self.now;
        let node = self.nodes.get_mut(name).unwrap();
        let status = Status::of(&node.view, node.boot, node.sequence + 1, node.revoking, rule);
        let due = now.since(node.last_sent) >= node.view.settings.heartbeat_ms;
        if !due && node.last_status.as_ref().is_some_and(|old| status.differs_in_progress_only(old)) {
            return;
        }
        node.sequence += 1;
        node.last_sent = now;
        node.view.memory.on_sent(now, &status);
        node.last_status = Some(status.clone());
        let boot = node.boot;
        let peers: Vec<NodeName> = self.nodes.keys().filter(|peer| *peer != name).cloned().collect();
        for peer in peers {
            let strangers = !self.is_member(name) || !self.is_member(&peer);
            if strangers || !self.nodes[&peer].alive || !self.linked(name, &peer) {
                continue;
            }
            let answered = self.linked(&peer, name);
            let other = self.nodes.get_mut(&peer).unwrap();
            let View { durable, settings, memory, .. } = &mut other.view;
            let grant = memory.on_status(now, status.clone(), durable, settings);
            if let Some(grant) = grant.filter(|_| answered) {
                let asker = self.nodes.get_mut(name).unwrap();
                let term = asker.view.record().map(|record| record.term);
                asker.view.memory.on_grant(boot, term, grant);
            }
        }
    }
}
