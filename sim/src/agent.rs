//! One agent: the brain's view, what the executor remembers, heartbeats, the dialogue with the store.
//!
//! What it is not: a decider. It feeds `brain::View`, calls `brain::decide` and hands actions to `exec`.
//! Invariant: an observation taken before an operation ended is never shown after that end, and none is shown while work
//! is under way that moves WAL.

use std::rc::Rc;

use brain::{
    Applied, Decision, Durable, Fence, Grant, Memory, Millis, Postgres, Status, Term, View, decide, fence,
};

use crate::event::{Event, Recipient};
use crate::exec::Op;
use crate::look::{look_primary, look_standby};
use crate::sabotage::Sabotage;
use crate::server::Process;
use crate::trace::Detail;
use crate::wal::Kind;
use crate::words;
use crate::world::{Node, World};

/// The agent looks at its server this often, microseconds; `decide` runs after each look.
const OBSERVE_US: u64 = 40_000;
/// The write probe's period: ten fit into `failure_timeout`.
const PROBE_US: u64 = 200_000;
/// An agent that gets no answer from its server for this long says so.
const HUNG_US: u64 = 1_000_000;

pub struct Agent {
    pub boot: u64,
    pub view: View,
    pub sequence: u64,
    pub revoking: Option<Term>,
    pub rule: &'static str,
    decided: Option<Decision>,
    pub op: Option<Op>,
    pub promising: Option<Term>,
    pub checkpointing: Option<u64>,
    /// Rewinds to the origin that failed, in a row.
    pub rewinds_failed: u32,
    pub committing: Option<u64>,
    pub store_asked: bool,
    pub store_revision: usize,
    pub applied: Option<Applied>,
    pub write_ms: Option<Millis>,
    pub probe_ms: Option<Millis>,
    observed_us: u64,
    /// The last word of a server that answers, and when.
    answered_us: u64,
    /// Work on the server has begun or ended since it answered: what it said then is forgotten.
    pub(crate) forgets_answer: bool,
    said: String,
}

impl World {
    pub fn clock(&self, node: usize) -> Millis {
        let clock = &self.nodes[node].clock;
        let elapsed_us = self.now_us.saturating_sub(clock.lost_us);
        Millis(clock.offset_ms + elapsed_us * (10_000 + clock.rate) / 10_000_000)
    }

    pub fn agent(&mut self, node: usize) -> Option<&mut Agent> {
        self.nodes[node].agent.as_mut()
    }

    pub fn start_agent(&mut self, node: usize) {
        let host = &self.nodes[node];
        if host.agent.is_some() || host.paused_us.is_some() || self.seats.is_absent(node) {
            return;
        }
        let boot = self.dice.word();
        let now = self.clock(node);
        let Node { name, durable, fenced_until, .. } = &self.nodes[node];
        let memory = Memory::inheriting(now, *fenced_until);
        let tags = self.nodes[node].tags.clone();
        let view = View {
            memory,
            tags,
            ..View::new(name.clone(), self.plan.settings.clone(), durable.clone(), now)
        };
        self.nodes[node].agent_frozen = false;
        self.nodes[node].agent = Some(Agent {
            boot,
            view,
            sequence: 0,
            revoking: None,
            rule: "",
            decided: None,
            op: None,
            promising: None,
            checkpointing: None,
            rewinds_failed: 0,
            committing: None,
            store_asked: false,
            store_revision: 0,
            applied: None,
            write_ms: None,
            probe_ms: None,
            observed_us: 0,
            answered_us: self.now_us,
            forgets_answer: false,
            said: String::new(),
        });
        self.note(Detail::Decisions, node, format_args!("agent starts"));
        let first = self.dice.millis(1..60);
        self.after(first, Event::Observe { node, boot });
        self.after(first + 20_000, Event::Probe { node, boot });
        self.after(first + 5_000, Event::Heartbeat { node, boot });
        self.start_looking(node, boot);
    }

    pub fn kill_agent(&mut self, node: usize) {
        if self.nodes[node].agent.take().is_some() {
            self.nodes[node].agent_frozen = false;
            // What the kernel holds for its server is not lost with it.
            self.nodes[node].deferred.retain(|event| matches!(event.recipient(), Recipient::Server(..)));
            let synced = self.nodes[node].promise_synced;
            let words = &mut self.nodes[node].durable;
            match self.sabotage {
                Some(Sabotage::PromiseVolatile) => words.promise = synced,
                Some(Sabotage::RewindUnmarked) => words.rewound = false,
                Some(Sabotage::CopyUnmarked) => words.needs_clone = false,
                Some(Sabotage::ObeyedForgotten) => words.obeyed = 0,
                _ => {}
            }
        }
    }

    pub fn heartbeat(&mut self, node: usize) {
        let Some(agent) = self.agent(node) else { return };
        let boot = agent.boot;
        let period_us = self.plan.settings.heartbeat_ms * 1000;
        self.after(period_us, Event::Heartbeat { node, boot });
        self.ask_store(node);
        self.turn(node);
        self.send_status(node);
    }

    pub fn observe(&mut self, node: usize) {
        let jitter = self.dice.within(0..15_000);
        let delay = if self.dice.percent(4) {
            self.dice.millis(10..80)
        } else {
            self.dice.within(200..self.plan.look_us)
        };
        let Some(agent) = self.agent(node) else { return };
        let boot = agent.boot;
        self.after(OBSERVE_US + jitter, Event::Observe { node, boot });
        if self.moves_wal(node) {
            // What it shows changes under the look; the end of the work brings the next one.
            return self.turn(node);
        }
        if let Some(postgres) = self.look(node) {
            let (taken_us, taken, postgres) = (self.now_us, self.clock(node), Box::new(postgres));
            self.after(delay, Event::Observed { node, boot, taken_us, taken, postgres });
        } else {
            self.turn(node);
        }
    }

    pub fn observed(&mut self, node: usize, taken_us: u64, taken: Millis, postgres: Postgres) {
        let moves_wal = self.moves_wal(node);
        let Node { agent, durable, .. } = &mut self.nodes[node];
        let Some(agent) = agent.as_mut() else { return };
        if taken_us >= agent.observed_us && !moves_wal {
            agent.observed_us = taken_us;
            (agent.view.postgres, agent.view.looked_at) = (postgres, Some(taken));
            // It accepts connections, so it has all the WAL that it needs.
            let whole = agent.op.is_none() && agent.view.postgres.standby().is_some();
            durable.rewound &= !whole;
        }
        self.turn(node);
    }

    /// Work is under way whose end alone tells what the server has become; the agent shows it as it was before.
    fn moves_wal(&self, node: usize) -> bool {
        let op = self.nodes[node].agent.as_ref().and_then(|agent| agent.op.as_ref());
        op.is_some_and(|op| op.operation.moves_wal())
    }

    /// An operation has ended: what is seen from now on was seen after it. What a server that gives no answer was before is
    /// no more.
    pub fn refresh(&mut self, node: usize) {
        let now = self.now_us;
        let seen = self.look(node);
        let Some(agent) = self.agent(node) else { return };
        agent.observed_us = now;
        (agent.view.postgres, agent.view.looked_at) = (seen.unwrap_or(Postgres::Unknown), None);
    }

    /// What the agent sees of its server at this moment; `None` while it gets no answer and waits.
    fn look(&mut self, node: usize) -> Option<Postgres> {
        let (now, clock) = (self.now_us, self.clock(node));
        let full = self.nodes[node].full;
        let Node { server, agent, .. } = &mut self.nodes[node];
        let agent = agent.as_mut()?;
        if server.frozen {
            let hung = now.saturating_sub(agent.answered_us) > HUNG_US;
            if agent.forgets_answer || hung && !self.plan.hung_is_stale {
                return Some(Postgres::Unknown);
            }
            let mut primary = agent.view.postgres.primary()?.clone();
            primary.write_age_ms = agent.write_ms.map(|at| clock.since(at));
            primary.probe_age_ms = agent.probe_ms.map(|at| clock.since(at));
            return Some(Postgres::Primary(primary));
        }
        (agent.answered_us, agent.forgets_answer) = (now, false);
        if !full || server.wal.is_none() {
            return Some(Postgres::Empty);
        }
        Some(match server.process {
            Process::Down => Postgres::Stopped,
            Process::Starting => Postgres::Starting,
            Process::Up if server.primary => Postgres::Primary(look_primary(server, agent, clock, now)),
            Process::Up => {
                let compared = self.plan.origin.is_some();
                let standby = look_standby(server, now, compared);
                if compared && standby.streaming {
                    server.pointed_us = now;
                }
                Postgres::Standby(standby)
            }
        })
    }

    pub fn on_status(&mut self, node: usize, status: &Rc<Status>) {
        let now = self.clock(node);
        let Some(from) = self.index_of(&status.node) else { return };
        let Some(agent) = self.agent(node) else { return };
        let View { memory, durable, settings, .. } = &mut agent.view;
        if !settings.voters.contains(&status.node) {
            return;
        }
        let grant = memory.on_status(now, Status::clone(status), durable, settings);
        if let Some(grant) = grant
            && let Some(at_us) = self.send(node, from)
        {
            self.at(at_us, Event::Grant { node: from, grant });
        }
        self.turn(node);
    }

    pub fn on_grant(&mut self, node: usize, grant: Grant) {
        let Some(agent) = self.agent(node) else { return };
        let boot = agent.boot;
        let term = agent.view.record().map(|record| record.term);
        agent.view.memory.on_grant(boot, term, grant);
        self.check_leases(node..node + 1);
        self.turn(node);
    }

    /// Brings the view up to now, decides, acts, and tells peers when something changed.
    pub fn turn(&mut self, node: usize) {
        self.keep_lease(node);
        let now = self.clock(node);
        let durable = &self.nodes[node].durable;
        let changed = self.nodes[node].agent.as_ref().is_some_and(|agent| agent.view.durable != *durable);
        let copy: Option<Durable> = changed.then(|| durable.clone());
        let wall_s = self.wall_s();
        let Some(agent) = self.agent(node) else { return };
        if let Some(durable) = copy {
            agent.view.durable = durable;
        }
        agent.view.busy = agent.op.as_ref().map(|op| op.operation);
        agent.view.wall_s = wall_s;
        agent.view.tick(now);
        let kept = fence(&agent.view);
        let decision = decide(&agent.view);
        let revoking = decision.actions.iter().find_map(|action| match action {
            brain::Action::Revoke { term } => Some(*term),
            _ => None,
        });
        agent.revoking = revoking;
        let new_rule = agent.rule != decision.rule;
        agent.rule = decision.rule;
        let news =
            agent.decided.as_ref().is_none_or(|d| d.rule != decision.rule || d.actions != decision.actions);
        match kept {
            Fence::Until(until) => self.nodes[node].fenced_until = Some(until),
            Fence::Rest => self.nodes[node].fenced_until = None,
            Fence::Keep => {}
        }
        self.arm(node);
        if news {
            self.tell(node, &decision);
        }
        if new_rule {
            self.moment_reached(decision.rule);
            self.rule_entered(node, decision.rule);
        }
        for action in &decision.actions {
            self.execute(node, action);
            if news {
                self.stepped(node, action.name());
            }
        }
        if let Some(agent) = self.agent(node) {
            agent.decided = Some(decision);
        }
        if news || self.has_news(node) {
            self.send_status(node);
        }
    }

    fn tell(&mut self, node: usize, decision: &Decision) {
        if let Some(what) = crate::checkers::unexplained(decision) {
            self.violate("I7", node, what);
        }
        if self.trace.wants(Detail::Decisions) {
            let actions: Vec<String> =
                decision.actions.iter().map(|action| format!(" [{}]", words::action(action))).collect();
            let why = decision.why.join("; ");
            self.note(Detail::Decisions, node, format_args!("{}{} | {why}", decision.rule, actions.concat()));
        }
    }

    /// Something that peers decide by has changed since the last heartbeat.
    fn has_news(&mut self, node: usize) -> bool {
        let Some(agent) = self.agent(node) else { return false };
        let view = &agent.view;
        let standby = view.postgres.standby().map(|s| (s.answers(), s.streaming, s.upstream.is_some()));
        let hold = view.hold().map(|hold| hold.request);
        let key =
            format!("{:?}{:?}{}{standby:?}{hold:?}", view.durable.promise, view.busy, view.postgres.word());
        let news = key != agent.said;
        agent.said = key;
        news
    }

    fn send_status(&mut self, node: usize) {
        let now = self.clock(node);
        let Some(agent) = self.agent(node) else { return };
        agent.sequence += 1;
        let status = Status::of(&agent.view, agent.boot, agent.sequence, agent.revoking, agent.rule);
        agent.view.memory.on_sent(now, &status);
        let status = Rc::new(status);
        for peer in 0..self.nodes.len() {
            if peer != node
                && let Some(at_us) = self.send(node, peer)
            {
                self.at(at_us, Event::Status { node: peer, status: status.clone() });
            }
        }
    }

    /// When a message sent now arrives; `None` when it is lost. One connection keeps its order.
    fn send(&mut self, from: usize, to: usize) -> Option<u64> {
        let lost = self.dice.percent(self.net.loss_percent);
        let hop = self.hop();
        let slow = if self.dice.percent(1) { self.dice.millis(10..120) } else { 0 };
        if lost || !self.net.link(from, to) {
            return None;
        }
        let last = &mut self.arrivals[from * self.nodes.len() + to];
        *last = (self.now_us + hop + slow).max(*last + 1);
        Some(*last)
    }

    /// The agent writes through its server, as a client would.
    pub fn probe(&mut self, node: usize) {
        let Some(agent) = self.agent(node) else { return };
        let boot = agent.boot;
        self.after(PROBE_US, Event::Probe { node, boot });
        let server = &self.nodes[node].server;
        if server.writes() && !server.frozen && !server.stopping {
            self.write(node, Kind::Probe);
        }
    }

    /// A probe's record reached the local disk.
    pub fn probe_written(&mut self, node: usize) {
        let now = self.clock(node);
        if let Some(agent) = self.agent(node) {
            agent.write_ms = Some(now);
        }
    }

    /// A probe was released by a walsender.
    pub fn probe_flushed(&mut self, node: usize, since_us: u64) {
        let now = self.clock(node);
        let age_ms = (self.now_us - since_us) / 1000;
        if let Some(agent) = self.agent(node) {
            // A probe counts from the moment it was written: older ones tell nothing about now.
            let at = Millis(now.0.saturating_sub(age_ms));
            agent.probe_ms = agent.probe_ms.max(Some(at));
        }
    }
}
