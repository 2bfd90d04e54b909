//! What people ask of a cluster while it runs, faults or none, and how it is written into the store: as the API does it.
//!
//! What they are not: faults; the cluster has to carry them out, or to say why not. The choices are a die's of their own, so
//! that a seed in which nobody asks for anything is not moved by them.

use brain::{Ask, Commit, Key, NodeName, Put, Requests, Stage, Tags, Term};

use crate::dice::Dice;
use crate::event::Event;
use crate::plan::Fault;
use crate::trace::Detail;
use crate::world::World;

/// Decisions at which somebody may ask for something more: in the middle of a takeover, a rejoin, another request.
const MOMENTS: &[&str] = &[
    "takeover.revoke",
    "promote",
    "open.sync",
    "rejoin.rewind",
    "switchover.drain",
    "switchover.stop",
    "request.restart",
    "request.reinit",
];

/// Decisions of requests at which a fault may strike.
const NARROW: &[&str] = &[
    "switchover.check",
    "switchover.checkpoint",
    "switchover.drain",
    "switchover.stop",
    "request.close",
    "request.restart",
    "request.reinit",
    "takeover.defer",
    "takeover.fetch",
    "takeover.fetched",
    "start",
];

/// A session's transaction may have been open for so long, and stay open for so long: beyond the drain timeout, too.
const OPEN_MS_MAX: u64 = 7_000;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Request {
    /// The setting `standbys`: how many must flush a commit.
    Standbys(usize),
    /// To this replica, the given one in order, or to any.
    Switchover {
        to: Option<usize>,
        force: bool,
        in_s: u64,
    },
    RestartPrimary {
        force: bool,
    },
    RestartReplica {
        replica: usize,
        force: bool,
    },
    Reload {
        replica: usize,
    },
    Reinit {
        replica: usize,
    },
    /// The named one takes over although too few answer.
    Failover {
        replica: usize,
    },
    /// The standby cluster takes writes from now on.
    Promote {
        force: bool,
    },
    /// The cluster follows the other one, which somebody has raised above its timelines first.
    Demote {
        raised: bool,
    },
    /// The newest request that has not ended.
    Cancel,
    Pause {
        seconds: u64,
    },
    Resume,
    /// The tag of this replica; of all others it is taken away.
    NoFailover {
        replica: usize,
    },
    Priority {
        replica: usize,
        priority: u32,
    },
    /// This replica is removed from the cluster.
    Leave {
        replica: usize,
    },
    /// One that was removed is added again, with an empty disk or as it was.
    Join {
        empty: bool,
    },
}

/// A request, and when it is made.
#[derive(Clone, Debug)]
pub struct Asked {
    /// From the end of the warm-up, or, with a moment, after the decision.
    pub at_us: u64,
    pub moment: Option<&'static str>,
    pub request: Request,
}

/// Half of the larger clusters' seeds stay as they were made.
pub fn draw(dice: &mut Dice, full: usize, storm_us: u64) -> Vec<Asked> {
    if full < 3 || dice.percent(85) {
        return Vec::new();
    }
    let count = 1 + dice.index(2);
    let asked = |dice: &mut Dice| {
        let at_us = dice.within(0..storm_us);
        Asked { at_us, moment: None, request: Request::Standbys(1 + dice.index(full - 1)) }
    };
    (0..count).map(|_| asked(dice)).collect()
}

/// What people ask for over the API, in half of the seeds.
pub fn wishes(dice: &mut Dice, full: usize, storm_us: u64) -> Vec<Asked> {
    if full < 2 || dice.percent(50) {
        return Vec::new();
    }
    let count = 1 + dice.index(4);
    (0..count)
        .map(|_| {
            let moment = dice.percent(20).then(|| MOMENTS[dice.index(MOMENTS.len())]);
            let at_us = dice.within(0..if moment.is_some() { 60_000 } else { storm_us });
            Asked { at_us, moment, request: wish(dice) }
        })
        .collect()
}

fn wish(dice: &mut Dice) -> Request {
    let (replica, force) = (dice.index(4), dice.percent(30));
    match dice.within(0..100) {
        0..38 => {
            let to = dice.percent(60).then_some(replica);
            let in_s = if dice.percent(10) { 1 + dice.within(0..6) } else { 0 };
            Request::Switchover { to, force, in_s }
        }
        38..48 => Request::RestartPrimary { force },
        48..58 => Request::RestartReplica { replica, force },
        58..61 => Request::Reload { replica },
        61..73 => Request::Reinit { replica },
        73..77 => Request::Failover { replica },
        77..82 => Request::Cancel,
        82..89 => Request::Pause { seconds: 2 + dice.within(0..20) },
        89..92 => Request::Resume,
        92..97 => Request::NoFailover { replica },
        _ => Request::Priority { replica, priority: 2 },
    }
}

/// Where people ask for something, some faults wait for the narrow moments of it.
pub fn aim(dice: &mut Dice, faults: &mut [Fault]) {
    for fault in faults.iter_mut().filter(|fault| fault.trigger.is_none()) {
        if dice.percent(35) {
            fault.trigger = Some(NARROW[dice.index(NARROW.len())]);
            fault.at_us = dice.within(0..40_000);
        }
    }
}

impl World {
    pub fn schedule_requests(&mut self) {
        self.record_members();
        for index in 0..self.plan.requests.len() {
            let Asked { at_us, moment, .. } = self.plan.requests[index];
            if moment.is_none() {
                self.after(self.plan.warm_us + at_us, Event::Request { index });
            }
        }
    }

    /// A node has come to another rule: people who wait for it ask.
    pub fn moment_reached(&mut self, rule: &str) {
        for index in 0..self.plan.requests.len() {
            let asked = &mut self.plan.requests[index];
            if asked.moment == Some(rule) {
                asked.moment = None;
                let at_us = asked.at_us;
                self.after(at_us, Event::Request { index });
            }
        }
    }

    pub fn request(&mut self, index: usize) {
        let request = self.plan.requests[index].request;
        self.ask(request);
    }

    /// Somebody asks for it now.
    pub fn ask(&mut self, request: Request) {
        self.note(Detail::Decisions, 0, format_args!("*** asked for: {request:?}"));
        match request {
            Request::Standbys(standbys) => {
                self.plan.settings.standbys = standbys;
                for node in 0..self.nodes.len() {
                    let delay = if self.dice.percent(90) {
                        self.dice.millis(1..50)
                    } else {
                        self.dice.millis(50..1_500)
                    };
                    self.after(delay, Event::Settings { node });
                }
            }
            Request::NoFailover { replica } => {
                let Some(name) = self.replica(replica) else { return };
                for node in 0..self.nodes.len() {
                    let nofailover = self.nodes[node].name == name;
                    self.tag(node, |tags| tags.nofailover = nofailover);
                }
            }
            Request::Priority { replica, priority } => {
                let Some(node) = self.replica(replica).and_then(|name| self.index_of(&name)) else { return };
                self.tag(node, |tags| tags.failover_priority = priority);
            }
            Request::Leave { replica } => self.remove_member(replica),
            Request::Join { empty } => self.add_member(empty),
            Request::Demote { raised } => {
                if raised && self.checkers.healed_us.is_none() {
                    self.raise_origin();
                }
                self.submit(request);
            }
            _ => self.submit(request),
        }
    }

    /// Somebody who asks this node gets an answer.
    pub fn answers_people(&self, node: usize) -> bool {
        let host = &self.nodes[node];
        host.agent.is_some() && !host.agent_frozen && self.store_reachable(node)
    }

    fn tag(&mut self, node: usize, change: impl Fn(&mut Tags)) {
        change(&mut self.nodes[node].tags);
        let delay = self.people.millis(1..100);
        self.after(delay, Event::Settings { node });
    }

    /// The full node in order that is not the recorded primary.
    pub fn replica(&self, order: usize) -> Option<NodeName> {
        let primary = self.recorded_primary();
        let there = |n: &usize| self.nodes[*n].full && self.belongs(*n) && Some(*n) != primary;
        let others: Vec<usize> = (0..self.nodes.len()).filter(there).collect();
        Some(self.nodes[*others.get(order % others.len().max(1))?].name.clone())
    }

    /// The first node that answers writes it down; where nobody does, nobody was asked.
    fn submit(&mut self, request: Request) {
        let count = self.nodes.len();
        let first = self.people.index(count);
        let mut all = (0..count).map(|step| (first + step) % count);
        let Some(via) = all.find(|node| self.answers_people(*node)) else { return };
        let stored = self.store.newest().requests.clone();
        let (mut requests, version) =
            stored.map_or_else(Default::default, |stored| (stored.value, stored.version));
        if let Err(reason) = self.write_down(&mut requests, request) {
            return self.note(Detail::Decisions, via, format_args!("refused: {reason}"));
        }
        self.open_transaction(request);
        let conditions = vec![(Key::Requests, version)];
        if self.store.commit(&Commit { conditions, puts: vec![Put::Requests(requests)] }) {
            self.store_changed(via);
        }
    }

    fn write_down(&mut self, requests: &mut Requests, request: Request) -> Result<(), String> {
        let now_s = self.wall_s();
        let term = self.store.newest().primary.as_ref().map_or(Term(0), |primary| primary.value.term);
        match request {
            Request::Cancel => {
                let open = |stage| matches!(stage, Stage::Waiting | Stage::Preparing | Stage::Holding);
                let found = requests.list.iter_mut().rev().find(|request| open(request.stage));
                let request = found.ok_or("nothing can be canceled")?;
                (request.stage, request.note) = (Stage::Failed, "canceled".to_owned());
            }
            Request::Pause { seconds } => requests.paused_until = Some(now_s + seconds),
            Request::Resume => requests.paused_until = None,
            _ => {
                let ask = self.ask_of(request).ok_or("there is no such node")?;
                let head = self.store.newest().primary.as_ref().is_some_and(|primary| primary.value.head);
                let fits = match ask {
                    Ask::Promote { .. } => head,
                    Ask::Demote { .. } | Ask::Switchover { .. } | Ask::Failover { .. } => !head,
                    _ => true,
                };
                if !fits {
                    return Err("this is no cluster for it".to_owned());
                }
                if let Some(other) = requests.against(&ask, now_s, head) {
                    return Err(format!("request {} is under way", other.id));
                }
                requests.add(ask, term, now_s);
            }
        }
        Ok(())
    }

    fn ask_of(&self, request: Request) -> Option<Ask> {
        Some(match request {
            Request::Switchover { to, force, in_s } => {
                let to = match to {
                    Some(order) => Some(self.replica(order)?),
                    None => None,
                };
                Ask::Switchover { to, at: (in_s > 0).then(|| self.wall_s() + in_s), force }
            }
            Request::RestartPrimary { force } => {
                Ask::Restart { node: self.nodes[self.recorded_primary()?].name.clone(), force }
            }
            Request::RestartReplica { replica, force } => {
                Ask::Restart { node: self.replica(replica)?, force }
            }
            Request::Reload { replica } => Ask::Reload { node: self.replica(replica)?, after: None },
            Request::Reinit { replica } => Ask::Reinit { node: self.replica(replica)? },
            Request::Failover { replica } => Ask::Failover { to: self.replica(replica)? },
            Request::Promote { force } => Ask::Promote { force },
            Request::Demote { .. } => {
                let hosts = self.plan.origin.as_ref()?.hosts;
                Ask::Demote { hosts: crate::origin::Origin::addresses(hosts), slot: None }
            }
            _ => return None,
        })
    }

    /// Some hand-overs meet a transaction that is open for long.
    fn open_transaction(&mut self, request: Request) {
        let hands_over = matches!(request, Request::Switchover { .. } | Request::RestartPrimary { .. });
        if !hands_over || !self.people.percent(self.plan.busy_percent) {
            return;
        }
        let Some(primary) = self.recorded_primary() else { return };
        let (since, until) = (self.people.millis(0..OPEN_MS_MAX), self.people.millis(0..OPEN_MS_MAX));
        let now_us = self.now_us;
        self.nodes[primary].server.transaction = Some((now_us.saturating_sub(since), now_us + until));
    }

    /// The wall clock of all nodes, in seconds.
    pub fn wall_s(&self) -> u64 {
        1_000_000 + self.now_us / 1_000_000
    }

    /// A checkpoint takes its time; the agent asks for one at a time.
    pub fn begin_checkpoint(&mut self, node: usize, request: u64) {
        let slow = self.people.percent(10);
        let delay = if slow { self.people.millis(1_000..6_000) } else { self.people.millis(5..300) };
        let Some(agent) = self.agent(node) else { return };
        if agent.checkpointing == Some(request) {
            return;
        }
        agent.checkpointing = Some(request);
        let boot = agent.boot;
        self.after(delay, Event::Checkpointed { node, boot, request });
    }

    pub fn checkpointed(&mut self, node: usize, request: u64) {
        let up = self.nodes[node].server.up() && !self.nodes[node].server.frozen;
        let Some(agent) = self.agent(node) else { return };
        agent.checkpointing = None;
        if up {
            agent.view.errands.checkpointed = request;
        }
        self.turn(node);
    }

    /// The proxy on this node holds its sessions between two transactions.
    pub fn parks(&mut self, proxy: usize) -> bool {
        if self.store.newest().requests.is_none() {
            return false;
        }
        let now = self.clock(proxy);
        let host = &mut self.nodes[proxy];
        let Some(agent) = host.agent.as_mut().filter(|_| !host.agent_frozen) else { return false };
        agent.view.now = now;
        agent.view.hold().is_some()
    }

    /// An agent reads the settings that hold now.
    pub fn read_settings(&mut self, node: usize) {
        let (settings, tags) = (self.plan.settings.clone(), self.nodes[node].tags.clone());
        if let Some(agent) = self.agent(node) {
            (agent.view.settings, agent.view.tags) = (settings, tags);
            self.follow_members(node);
            self.turn(node);
        }
    }

    /// Maintenance is over when the faults are.
    pub fn resume_all(&mut self) {
        if self.store.newest().requests.as_ref().is_some_and(|requests| requests.value.paused_until.is_some())
        {
            self.submit(Request::Resume);
        }
    }
}
