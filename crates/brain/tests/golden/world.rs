//! An ideal cluster: every action succeeds at once, every message arrives at once. Only decisions are of interest;
//! what goes wrong in between is the simulator's part.

mod origin;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use brain::{
    Action, Activity, Applied, Ask, Commit, Durable, Fence, Key, LeaseRecord, MemberId, MemberRecord,
    MembersRecord, Memory, Millis, NodeKind, NodeName, OnLastStandbyLost, OriginRecord, Position, Postgres,
    Primary, Put, Requests, Settings, SlotGate, SlotReport, Standby, Status, StoreView, SyncSet, Term,
    Upstream, Versioned, View, Walsender, decide, fence, wants_store_lease,
};
use wire::{History, Lsn, Timeline};

use origin::{Origin, branched};

const STEP_MS: u64 = 10;

#[derive(Clone)]
struct Server {
    running: bool,
    writable: bool,
    upstream: Option<Upstream>,
    history: History,
    end: Lsn,
    end_of_recovery: Lsn,
    quarantined: bool,
    prepared: bool,
    applied: Option<Applied>,
    slots: BTreeSet<String>,
    busy_sessions: u32,
    stalled_since: Millis,
    streaming: bool,
    /// It runs and answers nobody.
    hangs: bool,
}

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
}

/// A node whose transactions take their time.
#[derive(Default)]
struct SlowStore {
    /// What is sent now is on its way until it is delivered; until then nothing else is sent.
    holds: bool,
    on_their_way: Vec<Commit>,
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

    pub fn add_member(&mut self, name: &str) {
        self.note(&format!("add {name}"));
        self.record_member(name, false);
    }

    /// What `pgherd member remove` writes; the primary does the rest.
    pub fn leave(&mut self, name: &str) {
        self.note(&format!("remove {name}"));
        self.record_member(name, true);
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

    pub fn kill_postgres(&mut self, node: &str) {
        self.note(&format!("kill postgres {node}"));
        if let Some(server) = &mut self.node(node).server {
            server.running = false;
        }
    }

    /// `hang postgres n1`, `wake postgres n1`
    pub fn hang_postgres(&mut self, node: &str, hangs: bool) {
        self.note(&format!("{} postgres {node}", if hangs { "hang" } else { "wake" }));
        if let Some(server) = &mut self.node(node).server {
            server.hangs = hangs;
        }
    }

    /// Somebody has removed its data directory.
    pub fn lose(&mut self, node: &str) {
        self.note(&format!("lose {node}"));
        self.node(node).server = None;
    }

    /// `disk n1 full`, `disk n1 room`
    pub fn disk(&mut self, node: &str, state: &str) {
        self.note(&format!("disk {node} {state}"));
        self.node(node).view.condition.disk_full = state == "full";
    }

    /// Replay stops until the server is started again.
    pub fn outgrow(&mut self, node: &str) {
        self.note(&format!("outgrow {node}"));
        self.node(node).view.condition.outgrown = true;
    }

    pub fn kill_agent(&mut self, node: &str) {
        self.note(&format!("kill agent {node}"));
        self.node(node).alive = false;
    }

    pub fn kill_node(&mut self, node: &str) {
        self.kill_agent(node);
        self.kill_postgres(node);
    }

    pub fn start_agent(&mut self, node: &str) {
        self.note(&format!("start node {node}"));
        let now = self.now;
        let node = self.node(node);
        node.alive = true;
        node.boot += 1;
        node.sequence = 0;
        node.view.memory = Memory::inheriting(now, node.fenced_until);
        node.view.served = None;
        if let Some(server) = &mut node.server {
            server.applied = None;
        }
    }

    pub fn cut(&mut self, from: &str, to: &str) {
        self.note(&format!("cut {from} {to}"));
        self.cuts.insert((from.into(), to.into()));
    }

    /// `from` has removed WAL that `to` needs, until `to` has as much as it has.
    pub fn withhold(&mut self, from: &str, to: &str) {
        self.note(&format!("withhold {from} {to}"));
        self.withheld.insert((from.into(), to.into()));
    }

    pub fn heal(&mut self) {
        self.note("heal");
        self.cuts.clear();
        self.withheld.clear();
    }

    /// The node's next transaction is sent, but does not arrive yet; it sends no other while it waits for the answer.
    pub fn hold_commits(&mut self, node: &str) {
        self.note(&format!("hold commits {node}"));
        self.slow.entry(node.into()).or_default().holds = true;
    }

    /// The node has given up waiting: what it sends from now on arrives at once, what it sent before still may.
    pub fn pass_commits(&mut self, node: &str) {
        self.note(&format!("pass commits {node}"));
        self.slow.entry(node.into()).or_default().holds = false;
    }

    /// What was on its way arrives.
    pub fn deliver_commits(&mut self, node: &str) {
        self.note(&format!("deliver commits {node}"));
        let late =
            self.slow.get_mut(&NodeName::from(node)).map(|slow| std::mem::take(&mut slow.on_their_way));
        for commit in late.unwrap_or_default() {
            let word = if self.commit(&commit) { "applied" } else { "refused" };
            self.tell_commit(&node.into(), &commit, word);
        }
    }

    /// The transactions of a node whose transactions are of interest are told in full.
    fn tell_commit(&mut self, node: &NodeName, commit: &Commit, word: &str) {
        for put in &commit.puts {
            let what = match put {
                Put::Sync(sync) => format!("term {} {}", sync.term, sync.set),
                Put::Primary(record) => format!("term {} {}", record.term, record.node),
                Put::Cluster(_) | Put::Timelines(_) | Put::Members(_) | Put::Requests(_) => String::new(),
                Put::Origin(origin) => format!("left {:?}", origin.left),
            };
            let _ = writeln!(self.trace, "  {node} writes {} {what}: {word}", put.key().path());
        }
    }

    /// Sends a transaction; it is remembered from then on.
    fn send_commit(&mut self, name: &NodeName, commit: &Commit) {
        let slow = self.slow.get(name);
        let (told, holds) = (slow.is_some(), slow.is_some_and(|slow| slow.holds));
        if slow.is_some_and(|slow| slow.holds && !slow.on_their_way.is_empty()) {
            return;
        }
        if let Some(node) = self.nodes.get_mut(name) {
            node.view.memory.on_commit(commit);
        }
        let word = if holds {
            self.slow.entry(name.clone()).or_default().on_their_way.push(commit.clone());
            "on its way"
        } else if self.commit(commit) {
            "applied"
        } else {
            "refused"
        };
        if told {
            self.tell_commit(name, commit, word);
        }
    }

    /// The node's slots are not ready, for this reason; with `restart`, a restart would mend it. Without a reason they
    /// are ready.
    pub fn slots(&mut self, node: &str, restart: bool, reason: &[&str]) {
        let missing: Vec<String> = (!reason.is_empty()).then(|| reason.join(" ")).into_iter().collect();
        self.note(&format!("slots {node}{} {}", if restart { " restart" } else { "" }, reason.join(" ")));
        self.node(node).view.slots = SlotReport { looked: true, missing, restart, slots: Vec::new() };
    }

    /// WAL that nobody has received yet.
    pub fn write(&mut self, node: &str, bytes: u64) {
        self.note(&format!("write {node} {bytes}"));
        let server = self.node(node).server.as_mut().unwrap();
        server.end = Lsn(server.end.0 + bytes);
    }

    /// `ask switchover n2`, `ask failover n2`, `ask restart n1`, `ask reinit n3`, `ask reload n1`, `ask pause 60`
    pub fn ask(&mut self, words: &[&str]) {
        self.note(&format!("ask {}", words.join(" ")));
        let node = |index: usize| words.get(index).map(|name| NodeName::from(*name));
        let force = words.contains(&"force");
        let Versioned { mut value, version } =
            self.store.requests.clone().unwrap_or(Versioned { value: Requests::default(), version: 0 });
        let term = self.store.primary.as_ref().map(|p| p.value.term).unwrap_or_default();
        let ask = match words[0] {
            "switchover" => Ask::Switchover { to: node(1).filter(|_| words[1] != "any"), at: None, force },
            "failover" => Ask::Failover { to: node(1).unwrap() },
            "restart" => Ask::Restart { node: node(1).unwrap(), force },
            "reinit" => Ask::Reinit { node: node(1).unwrap() },
            "reload" => Ask::Reload { node: node(1).unwrap() },
            "promote" => Ask::Promote { force },
            "demote" => Ask::Demote { hosts: vec![words[1].to_owned()], slot: None },
            "pause" => {
                value.paused_until = Some(self.now.0 / 1000 + words[1].parse::<u64>().unwrap());
                self.store.requests = Some(Versioned { value, version: version + 1 });
                return;
            }
            other => panic!("nobody can ask for {other}"),
        };
        value.add(ask, term, 0);
        self.store.requests = Some(Versioned { value, version: version + 1 });
    }

    /// So many sessions of clients have a transaction open.
    pub fn busy_sessions(&mut self, node: &str, count: u32) {
        self.note(&format!("busy {node} {count}"));
        self.node(node).server.as_mut().unwrap().busy_sessions = count;
    }

    /// `tag n2 nofailover`
    pub fn tag(&mut self, node: &str, tag: &str) {
        self.note(&format!("tag {node} {tag}"));
        let tags = &mut self.node(node).view.tags;
        match tag.split_once('=') {
            None if tag == "nofailover" => tags.nofailover = true,
            None if tag == "nosync" => tags.nosync = true,
            None if tag == "clonefrom" => tags.clonefrom = true,
            Some(("replicatefrom", "")) => tags.replicatefrom = None,
            Some(("replicatefrom", value)) => tags.replicatefrom = Some(value.into()),
            Some(("priority", value)) => tags.failover_priority = value.parse().unwrap(),
            Some(("zone", value)) => tags.zone = value.to_owned(),
            _ => panic!("no tag is called {tag}"),
        }
    }

    /// What the node's last decision says, and whom its server takes WAL from.
    pub fn why(&mut self, node: &str) {
        let decision = decide(&self.node(node).view);
        let why = decision.why.join("; ");
        let _ = writeln!(self.trace, "  {node} {}: {why}", decision.rule);
    }

    pub fn show(&mut self) {
        let record_node = self.store.primary.as_ref().map(|p| p.value.node.clone());
        let record = self.store.primary.as_ref().map(|p| {
            let head = if p.value.head { ", a head" } else { "" };
            format!("term {} {} timeline {}{head}", p.value.term, p.value.node, p.value.timeline)
        });
        let sync = self.store.sync.as_ref().map(|s| format!("term {} {}", s.value.term, s.value.set));
        let mut lines =
            format!("  /primary {}\n  /sync {}\n", record.unwrap_or_default(), sync.unwrap_or_default());
        if let Some(origin) = &self.store.origin {
            let left = origin.value.left.map_or(String::new(), |term| format!(", left in term {term}"));
            let _ = writeln!(lines, "  /origin {}{left}", origin.value.hosts.join(" "));
        }
        if let Some(members) = &self.store.members {
            let names: Vec<&str> = members.value.nodes.keys().map(|name| name.0.as_str()).collect();
            let _ = writeln!(lines, "  /members {}", names.join(" "));
        }
        for (name, node) in &self.nodes {
            let postgres = if node.alive { node.view.postgres.word() } else { "no agent" };
            let from = node.view.postgres.standby().and_then(|standby| standby.upstream.as_ref());
            let over = from.filter(|from| node.alive && record_node.as_ref() != Some(&from.node));
            let over = over.map_or_else(String::new, |from| format!(" from {}", from.node));
            let _ = writeln!(lines, "  {name} {postgres}{over}, promised {}", node.view.durable.promise);
        }
        for request in self.store.requests.iter().flat_map(|requests| &requests.value.list) {
            let _ = writeln!(lines, "  request {} {}: {}", request.id, request.stage.word(), request.note);
        }
        self.trace.push_str(&lines);
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

    /// Attached standbys take what their upstream has.
    fn stream(&mut self) {
        let snapshot: BTreeMap<NodeName, Server> =
            self.nodes.iter().filter_map(|(name, n)| Some((name.clone(), n.server.clone()?))).collect();
        let (now, origin) = (self.now, self.origin.as_ref());
        for (name, node) in &mut self.nodes {
            let Some(server) = node.server.as_mut().filter(|s| s.running && !s.writable) else { continue };
            if server.upstream.as_ref().is_some_and(|upstream| upstream.node.is_origin()) {
                let own = (server.history.timeline_at(server.end), server.end);
                let origin = origin.filter(|o| server.end >= o.kept_from);
                let origin =
                    origin.filter(|o| o.lives && !o.refuses && o.history.contains(own.0, own.1, o.end));
                server.streaming = origin.is_some();
                if let Some(origin) = origin {
                    (server.end, server.history, server.stalled_since) =
                        (origin.end, origin.history.clone(), now);
                }
                continue;
            }
            let both = |peer: &NodeName| {
                !self.cuts.contains(&(name.clone(), peer.clone()))
                    && !self.cuts.contains(&(peer.clone(), name.clone()))
            };
            let source =
                server.upstream.as_ref().filter(|u| both(&u.node)).and_then(|u| snapshot.get(&u.node));
            let withheld = |u: &Upstream| self.withheld.contains(&(u.node.clone(), name.clone()));
            let lacks = server.upstream.as_ref().is_some_and(withheld);
            let passes_on =
                |s: &&Server| s.writable || s.streaming && s.end >= server.end || s.end > server.end;
            let source = source.filter(|s| s.running).filter(passes_on);
            let source = source.filter(|s| !lacks || s.end <= server.end);
            server.streaming = source.is_some();
            if let Some(source) = source {
                server.end = source.end;
                server.history = source.history.clone();
                server.stalled_since = now;
            }
        }
    }

    fn observe(&self, name: &NodeName) -> Postgres {
        let Some(server) = &self.nodes[name].server else { return Postgres::Empty };
        if !server.running {
            return Postgres::Stopped;
        }
        if server.hangs {
            return Postgres::Unknown;
        }
        if !server.writable {
            let timeline = server.history.timeline_at(server.end);
            return Postgres::Standby(Standby {
                system_id: 7,
                upstream: server.upstream.clone(),
                receiver: server.upstream.is_some(),
                streaming: server.streaming,
                position: Position { timeline, lsn: server.end },
                replay: server.end,
                quarantined: server.quarantined,
                complete: true,
                stalled_ms: if server.streaming { 0 } else { self.now.since(server.stalled_since) },
                history: Some(server.history.clone()),
                slots: server.slots.iter().map(|slot| (slot.clone(), false)).collect(),
            });
        }
        let followers = self.nodes.values().filter_map(|peer| {
            let standby = peer.server.as_ref().filter(|s| s.running && s.streaming)?;
            let upstream = standby.upstream.as_ref().filter(|u| u.node == *name)?;
            let member = peer.view.durable.member.clone()?;
            let term = upstream.term;
            Some(Walsender { member, term, streaming: true, flush: standby.end, replay: standby.end })
        });
        let walsenders: Vec<Walsender> = followers.collect();
        let mut primary = Primary {
            system_id: 7,
            history: server.history.clone(),
            flush: server.end,
            quarantined: server.quarantined,
            prepared: server.prepared,
            end_of_recovery: server.end_of_recovery,
            applied: server.applied.clone(),
            walsenders,
            slots: server.slots.clone(),
            activity: Activity { busy_sessions: server.busy_sessions, ..Activity::default() },
            write_age_ms: Some(0),
            probe_age_ms: None,
        };
        let flushed = server.applied.as_ref().is_some_and(|a| {
            primary.flushed(&a.set, a.term, server.end) >= a.set.k && a.set.members.len() >= a.set.k
        });
        primary.probe_age_ms = Some(if flushed { 0 } else { 10_000 });
        Postgres::Primary(primary)
    }

    fn turn(&mut self, name: &NodeName) {
        if !self.nodes[name].alive {
            return;
        }
        let (now, postgres, connected) = (self.now, self.observe(name), self.in_majority(name));
        let store = self.store.clone();
        let told = store.members.as_ref().is_some_and(|members| members.value.removed.contains_key(name));
        let node = self.nodes.get_mut(name).unwrap();
        node.view.postgres = postgres;
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
            None if self.store.lease.as_ref().is_some_and(|l| l.value.node == *name) && connected => {
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
        self.nodes.get_mut(name).unwrap().view.postgres = observed;
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
            Action::Reload { request } => node.view.errands.reloaded = request,
            Action::GiveUp { request } => (durable.obeyed, durable.needs_clone) = (request, true),
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

    /// True when its conditions hold, so that it is applied.
    fn commit(&mut self, commit: &Commit) -> bool {
        let store = &mut self.store;
        let version = |key: Key| match key {
            Key::Cluster => store.cluster.as_ref().map_or(0, |v| v.version),
            Key::Primary => store.primary.as_ref().map_or(0, |v| v.version),
            Key::Sync => store.sync.as_ref().map_or(0, |v| v.version),
            Key::Timelines => store.timelines.as_ref().map_or(0, |v| v.version),
            Key::Members => store.members.as_ref().map_or(0, |v| v.version),
            Key::Requests => store.requests.as_ref().map_or(0, |v| v.version),
            Key::Lease => store.lease.as_ref().map_or(0, |v| v.version),
            Key::Origin => store.origin.as_ref().map_or(0, |v| v.version),
        };
        if commit.conditions.iter().any(|(key, expected)| version(*key) != *expected) {
            return false;
        }
        fn next<T>(slot: &mut Option<Versioned<T>>, value: T) {
            let version = slot.as_ref().map_or(0, |v| v.version) + 1;
            *slot = Some(Versioned { value, version });
        }
        for put in commit.puts.clone() {
            match put {
                Put::Cluster(value) => next(&mut store.cluster, value),
                Put::Primary(value) => next(&mut store.primary, value),
                Put::Sync(value) => next(&mut store.sync, value),
                Put::Timelines(value) => next(&mut store.timelines, value),
                Put::Members(value) => next(&mut store.members, value),
                Put::Requests(value) => next(&mut store.requests, value),
                Put::Origin(value) => next(&mut store.origin, value),
            }
        }
        true
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

impl Server {
    fn new(history: History, end: Lsn, now: Millis) -> Server {
        Server {
            running: false,
            writable: false,
            upstream: None,
            history,
            end,
            end_of_recovery: Lsn::ZERO,
            quarantined: true,
            prepared: false,
            applied: None,
            slots: BTreeSet::new(),
            busy_sessions: 0,
            stalled_since: now,
            streaming: false,
            hangs: false,
        }
    }
}

/// The actions on an existing server.
fn apply(server: &mut Server, durable: &mut Durable, action: Action, now: Millis) {
    let in_force = |server: &mut Server, term: Term, set: SyncSet| {
        server.applied = Some(Applied { term, set, lsn: server.end });
    };
    match action {
        Action::StartDetached => {
            (server.running, server.writable, server.upstream) = (true, false, None);
            (server.quarantined, server.applied, server.streaming) = (true, None, false);
        }
        Action::Stop => (server.running, server.hangs) = (false, false),
        Action::Detach { .. } => (server.upstream, server.streaming) = (None, false),
        Action::Follow { term, node } | Action::Fetch { term, node } => {
            assert!(durable.promise <= term);
            durable.promise = term;
            // Of a former primaryship, or for nodes that come anew; a head has those that its followers need.
            if !node.is_origin() {
                server.slots.clear();
            }
            server.upstream = Some(Upstream { node, term });
            server.stalled_since = now;
        }
        Action::Promote { term, timeline, set, .. } => {
            durable.promoted = term;
            server.history = branched(&server.history, server.end, timeline);
            (server.writable, server.quarantined) = (true, true);
            server.prepared = durable.promoted > Term(1);
            server.end = Lsn(server.end.0 + 0x100);
            server.end_of_recovery = server.end;
            in_force(server, term, set);
        }
        // Back as it was stopped, with the slots in it.
        Action::TakeSlots { .. } => {
            (server.upstream, server.quarantined, server.streaming) = (None, true, false);
        }
        Action::Prepare { .. } => server.prepared = true,
        Action::ApplySync { term, set } => in_force(server, term, set),
        Action::Quarantine { .. } => server.quarantined = true,
        Action::Admit { .. } => server.quarantined = false,
        Action::Slots { members, .. } => server.slots = members.iter().map(MemberId::slot_name).collect(),
        Action::Commit(_) | Action::Promise { .. } | Action::Revoke { .. } | Action::Initdb => unreachable!(),
        Action::Clone { .. } | Action::Rewind { .. } => unreachable!(),
        Action::Checkpoint { .. } | Action::Reload { .. } => unreachable!(),
        Action::Restart { .. } | Action::GiveUp { .. } => unreachable!(),
    }
}
