//! The world of one seed: nodes, network, store, clients, and the queue of what will happen.
//!
//! Invariant: everything that happens comes from the queue in the order of (time, number), and every choice from one
//! die; so a seed is a run.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use brain::{Durable, Millis, NodeName, Term};

use crate::agent::Agent;
use crate::checkers::Checkers;
use crate::dice::Dice;
use crate::event::{Event, Recipient};
use crate::net::Net;
use crate::origin::Origin;
use crate::plan::Plan;
use crate::sabotage::Sabotage;
use crate::server::Server;
use crate::store::Store;
use crate::trace::{Detail, Trace};

/// The one cluster's system identifier.
pub const SYSTEM_ID: u64 = 7_400_000_000_000_000_001;
/// So many events are no run any more but a circle; the longest run makes a tenth of it.
const EVENTS_MAX: u64 = 8_000_000;
/// A run that has not ended by then is a run that does not end; the bounds of the checkers add up to less.
const RUN_US_MAX: u64 = 240_000_000;

pub struct Clock {
    pub offset_ms: u64,
    /// Parts of ten thousand by which it runs fast.
    pub rate: u64,
    /// For how long it stood still while the machine was paused, microseconds.
    pub lost_us: u64,
}

pub struct Node {
    pub name: NodeName,
    pub full: bool,
    pub clock: Clock,
    pub agent: Option<Agent>,
    pub agent_frozen: bool,
    /// What came for a frozen process; it reads all of it when it goes on.
    pub deferred: Vec<Event>,
    /// On disk, beside the data directory.
    pub durable: Durable,
    pub promise_synced: Term,
    pub server: Server,
    /// What the node's fencer keeps for the next agent.
    pub fenced_until: Option<Millis>,
    /// It is dead, until the agent starts another.
    pub unfenced: bool,
    /// Its timer is set.
    pub fence_set: bool,
    /// Since when agent, server and fencer stand still together.
    pub paused_us: Option<u64>,
    /// Until when a read that is stale is the clock's doing: the machine stood still.
    pub excused_until_us: u64,
    /// WAL that rewinds have discarded, kept beside the data directory.
    pub kept: Vec<u64>,
    pub tags: brain::Tags,
}

/// A broken invariant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    pub invariant: &'static str,
    pub what: String,
    pub at_us: u64,
}

struct Queued {
    at_us: u64,
    number: u64,
    event: Event,
}

impl PartialEq for Queued {
    fn eq(&self, other: &Queued) -> bool {
        (self.at_us, self.number) == (other.at_us, other.number)
    }
}
impl Eq for Queued {}
impl PartialOrd for Queued {
    fn partial_cmp(&self, other: &Queued) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Queued {
    fn cmp(&self, other: &Queued) -> std::cmp::Ordering {
        (self.at_us, self.number).cmp(&(other.at_us, other.number))
    }
}

/// Seeds from here on: see [`World::new`].
pub const PEOPLE_FROM: u64 = 1_000_000_000;
pub const MEMBERS_FROM: u64 = 2_000_000_000;
pub const ALL_FROM: u64 = 3_000_000_000;
pub const ORIGIN_FROM: u64 = 4_000_000_000;

pub struct World {
    pub now_us: u64,
    pub dice: Dice,
    /// The die of those who ask for something.
    pub people: Dice,
    pub plan: Plan,
    pub nodes: Vec<Node>,
    pub net: Net,
    pub(crate) lease: crate::lease::Lease,
    pub store: Store,
    pub trace: Trace,
    pub checkers: Checkers,
    pub sabotage: Option<Sabotage>,
    /// When the last message from one node to another arrives: order within a connection.
    pub arrivals: Vec<u64>,
    pub violation: Option<Violation>,
    pub finished: bool,
    /// When a fault struck or ended last.
    pub stirred_us: u64,
    /// This node's store transactions arrive so many microseconds after they were sent.
    pub late: Option<(usize, u64)>,
    /// What has been done so far, counted step by step, and the kill that is set on one of them.
    pub trip: crate::crash_steps::Trip,
    pub seats: crate::seats::Seats,
    /// The cluster that this one follows, or may come to follow.
    pub origin: Option<Origin>,
    names: BTreeMap<NodeName, usize>,
    queue: BinaryHeap<Reverse<Queued>>,
    number: u64,
    id: u64,
}

impl World {
    /// From [`PEOPLE_FROM`] on people ask for things as well, in the world of the seed below it; from [`MEMBERS_FROM`] on
    /// nodes leave and join instead; from [`ALL_FROM`] on both. From [`ORIGIN_FROM`] on it follows an origin, or comes to.
    pub fn new(seed: u64, detail: Detail, sabotage: Option<Sabotage>) -> World {
        let mut dice = Dice::new(seed % PEOPLE_FROM);
        let people = (PEOPLE_FROM..MEMBERS_FROM).contains(&seed) || (ALL_FROM..ORIGIN_FROM).contains(&seed);
        let mut plan = Plan::draw(&mut dice, people);
        if seed >= ORIGIN_FROM {
            crate::origin::draw(&mut dice.fork(), &mut plan);
        } else if seed >= MEMBERS_FROM {
            crate::members::draw(&mut dice.fork(), &mut plan);
        }
        World::of(dice, plan, detail, sabotage)
    }

    /// The world of a plan; the die draws the rest.
    pub fn of(mut dice: Dice, plan: Plan, detail: Detail, sabotage: Option<Sabotage>) -> World {
        let mut nodes = Vec::new();
        for (index, (name, full)) in plan.nodes.iter().enumerate() {
            nodes.push(Node {
                name: name.clone(),
                full: *full,
                clock: Clock {
                    offset_ms: dice.within(10_000..9_000_000),
                    rate: dice.within(0..400),
                    lost_us: 0,
                },
                agent: None,
                agent_frozen: false,
                deferred: Vec::new(),
                durable: Durable::default(),
                promise_synced: Term(0),
                server: Server::new(dice.within(600..4_000)),
                fenced_until: None,
                unfenced: false,
                fence_set: false,
                paused_us: None,
                excused_until_us: 0,
                kept: Vec::new(),
                tags: plan.tags(index),
            });
        }
        if let Some((node, rate)) = plan.drift {
            nodes[node].clock.rate = rate;
        }
        let count = nodes.len();
        let names = nodes.iter().enumerate().map(|(index, node)| (node.name.clone(), index)).collect();
        let mut world = World {
            now_us: 0,
            people: dice.fork(),
            dice,
            plan,
            nodes,
            net: Net::new(count),
            lease: crate::lease::Lease::default(),
            store: Store::default(),
            trace: Trace::new(detail),
            checkers: Checkers::default(),
            sabotage,
            arrivals: vec![0; count * count],
            violation: None,
            finished: false,
            stirred_us: 0,
            late: None,
            trip: crate::crash_steps::Trip::default(),
            seats: crate::seats::Seats::of(count),
            origin: None,
            names,
            queue: BinaryHeap::new(),
            number: 0,
            id: 0,
        };
        world.begin();
        world
    }

    fn begin(&mut self) {
        for node in 0..self.nodes.len() {
            let start = self.dice.millis(0..200);
            self.after(start, Event::AgentStart { node });
            if self.nodes[node].full {
                self.after(start, Event::House { node });
                self.after(start, Event::Client { node });
            }
        }
        self.after(100_000, Event::Check);
        self.begin_origin();
        self.trace.line(0, "plan", format_args!("{}", self.plan.line()));
    }

    /// Runs to the end, or to the first violation.
    pub fn run(&mut self) {
        while self.step() {}
    }

    /// The next thing happens; false when it was the last.
    pub fn step(&mut self) -> bool {
        if self.violation.is_some() || self.finished {
            return false;
        }
        let Some(Reverse(queued)) = self.queue.pop() else { return false };
        self.now_us = queued.at_us;
        if self.now_us > RUN_US_MAX || self.number > EVENTS_MAX {
            self.violate("I5", 0, "the run does not end".to_owned());
            return false;
        }
        self.deliver(queued.event);
        true
    }

    pub fn at(&mut self, at_us: u64, event: Event) {
        self.number += 1;
        self.queue.push(Reverse(Queued { at_us: at_us.max(self.now_us), number: self.number, event }));
    }

    pub fn after(&mut self, delay_us: u64, event: Event) {
        self.at(self.now_us + delay_us, event);
    }

    pub fn next_id(&mut self) -> u64 {
        self.id += 1;
        self.id
    }

    pub fn index_of(&self, name: &NodeName) -> Option<usize> {
        self.names.get(name).copied()
    }

    pub fn note(&mut self, detail: Detail, node: usize, what: std::fmt::Arguments<'_>) {
        if self.trace.wants(detail) {
            self.trace.line(self.now_us, &self.nodes[node].name.0, what);
        }
    }

    pub fn violate(&mut self, invariant: &'static str, node: usize, what: String) {
        // What was acknowledged without a standby may be lost, and was said to be; that nobody serves beside a later
        // primary holds there too, as far as clocks do.
        let weak =
            matches!(invariant, "I2" | "I3" | "I7" | "I8") || invariant == "I1" && self.clock_excused(node);
        let weak = weak || self.checkers.forced && matches!(invariant, "I1" | "I6");
        if (self.plan.asynchronous || self.checkers.forced) && weak {
            return;
        }
        if self.violation.is_none() {
            let what = format!("{}: {what}", self.nodes[node].name);
            self.trace.line(self.now_us, invariant, format_args!("VIOLATED: {what}"));
            self.violation = Some(Violation { invariant, what, at_us: self.now_us });
        }
    }

    /// One way over the network, microseconds.
    pub fn hop(&mut self) -> u64 {
        let hop = self.dice.within(80..1_500);
        hop * self.net.slowness
    }

    /// One fsync on a node's disk, microseconds.
    pub fn fsync(&mut self, node: usize) -> u64 {
        const SLOWER: u64 = 60;
        let server = &self.nodes[node].server;
        let most = server.fsync_us * if server.slow_disks > 0 { SLOWER } else { 1 };
        self.dice.within(most / 8..most)
    }

    /// The store answers a node that is connected both ways with a majority of voters.
    pub fn store_reachable(&self, node: usize) -> bool {
        // A voter whose disk is full cannot write its log.
        let lives = |peer: &usize| {
            let host = &self.nodes[*peer];
            host.agent.is_some() && !host.agent_frozen && !host.server.disk_full
        };
        let near = |peer: &usize| self.net.link(node, *peer) && self.net.link(*peer, node);
        let reached = self.seats.voters().filter(lives).filter(near).count();
        reached > self.seats.voters().count() / 2
    }

    fn deliver(&mut self, event: Event) {
        match event.recipient() {
            Recipient::Agent(node, boot) => {
                let Some(agent) = &self.nodes[node].agent else { return };
                if boot.is_some_and(|boot| boot != agent.boot) {
                    return;
                }
                let saving = agent.promising.is_some() && !matches!(event, Event::Promised { .. });
                if self.nodes[node].agent_frozen || saving {
                    self.nodes[node].deferred.push(event);
                    return;
                }
            }
            Recipient::Server(node, epoch) => {
                if self.nodes[node].server.epoch != epoch {
                    return;
                }
                if self.nodes[node].server.frozen {
                    self.nodes[node].deferred.push(event);
                    return;
                }
            }
            Recipient::World => {}
        }
        self.happen(event);
    }

    /// A process goes on: what came for it meanwhile comes now, in order.
    pub fn thaw(&mut self, node: usize) {
        for event in std::mem::take(&mut self.nodes[node].deferred) {
            // The store's news take a way of their own; peers' messages lie in the socket, before all that comes later.
            if matches!(event, Event::StoreSeen { .. }) {
                let delay = self.dice.millis(1..800);
                self.after(delay, event);
            } else {
                self.deliver(event);
            }
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Heartbeat { node, .. } => self.heartbeat(node),
            Event::Observe { node, .. } => self.observe(node),
            Event::Observed { node, taken_us, taken, postgres, .. } => {
                self.observed(node, taken_us, taken, *postgres)
            }
            Event::Probe { node, .. } => self.probe(node),
            Event::Status { node, status } => self.on_status(node, &status),
            Event::Grant { node, grant } => self.on_grant(node, grant),
            Event::OpStep { node, id, .. } => self.op_step(node, id),
            Event::Promised { node, term, .. } => self.promised(node, term),
            Event::StoreAnswer { node, id, .. } => self.store_answer(node, id),
            Event::StoreSeen { node, revision, .. } => self.store_seen(node, revision),
            Event::Checkpointed { node, request, .. } => self.checkpointed(node, request),
            Event::Settings { node } => self.read_settings(node),
            Event::SyncDefined { node, .. } => self.define_sync(node),
            Event::Fence { node } => self.fence(node),
            Event::Request { index } => self.request(index),
            Event::OriginTick { node, boot } => self.origin_tick(node, boot),
            Event::OriginAsked { node, boot, begun } => self.origin_asked(node, boot, begun),
            Event::OriginSeen { node, report, .. } => self.origin_seen(node, *report),
            Event::OriginWrites => self.origin_writes(),
            Event::OriginAppears => self.origin_appears(),
            Event::OriginStruck { index } => self.origin_struck(index),
            Event::OriginHealed { index } => self.origin_healed(index),
            Event::Ready { node, .. } => {
                self.server_ready(node);
                self.stepped(node, "started");
            }
            Event::Complete { node, .. } => self.nodes[node].server.complete = true,
            Event::Flush { node, upto, .. } => self.flushed(node, upto),
            Event::Connect { node, connection, .. } => self.connect(node, connection),
            Event::Pump { node, connection, .. } => self.pump(node, connection),
            Event::Arrive { node, connection, from, records, .. } => {
                self.arrive(node, connection, from, records)
            }
            Event::Reply { node, connection, flush, .. } => self.on_reply(node, connection, flush),
            Event::ReceiverDies { node, connection, .. } => self.receiver_dies(node, connection),
            Event::SenderDies { node, connection, .. } => self.sender_dies(node, connection),
            Event::Reload { node, .. } => self.reload(node),
            Event::Promoted { node, term, timeline, .. } => {
                self.server_promoted(node, term, timeline);
                self.stepped(node, "promoted");
            }
            Event::House { node } => self.house(node),
            Event::Client { node } => self.client(node),
            Event::AgentStart { node } => self.start_agent(node),
            Event::StoreArrive { node, boot, id, commit } => self.store_arrive(node, boot, id, &commit),
            Event::Fault { index } => self.strike(index),
            Event::Heal { index } => self.heal(index),
            Event::HealAll => self.heal_all(),
            Event::Check => self.check(),
        }
    }
}
