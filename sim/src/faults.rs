//! Faults as they strike and end.
//!
//! Invariant: fewer than k members of the set that `/sync` names lose their disks, and only the open primary's disk
//! goes back: what I2 is promised under.

use crate::event::Event;
use crate::plan::{Kind, Target};
use crate::trace::Detail;
use crate::world::World;

impl World {
    /// The cluster is open for the first time: the storm begins after a while.
    pub fn schedule_faults(&mut self) {
        let warm = self.plan.warm_us;
        for index in 0..self.plan.faults.len() {
            if self.plan.faults[index].trigger.is_none() {
                let at_us = self.plan.faults[index].at_us;
                self.after(warm + at_us, Event::Fault { index });
            }
        }
        self.schedule_strikes();
        self.after(warm + self.plan.storm_us, Event::HealAll);
    }

    /// A node has come to another rule: faults that wait for it strike.
    pub fn rule_entered(&mut self, node: usize, rule: &str) {
        self.checkers.forced |= rule == "takeover.forced";
        if self.checkers.healed_us.is_some() || self.checkers.storm_us.is_none_or(|at| at > self.now_us) {
            return;
        }
        self.origin_moment(rule);
        let count = self.nodes.len();
        for index in 0..self.plan.faults.len() {
            let fault = &mut self.plan.faults[index];
            if fault.trigger == Some(rule) && !fault.struck {
                fault.trigger = None;
                match fault.target {
                    Target::Trigger => fault.target = Target::Node(node),
                    Target::Peer(order) => {
                        fault.target = Target::Node((node + 1 + order % (count - 1).max(1)) % count)
                    }
                    _ => {}
                }
                let at_us = fault.at_us;
                self.after(at_us, Event::Fault { index });
            }
        }
    }

    pub fn recorded_primary(&self) -> Option<usize> {
        let record = self.store.newest().primary.as_ref()?;
        self.index_of(&record.value.node)
    }

    pub fn resolve(&self, target: Target) -> usize {
        let primary = self.recorded_primary();
        match target {
            Target::Primary => primary.unwrap_or(0),
            Target::Replica(order) => {
                let others: Vec<usize> =
                    (0..self.nodes.len()).filter(|n| self.nodes[*n].full && Some(*n) != primary).collect();
                others.get(order % others.len().max(1)).copied().unwrap_or(0)
            }
            Target::Node(node) => node,
            Target::Trigger | Target::Peer(_) => 0,
        }
    }

    pub fn strike(&mut self, index: usize) {
        if self.checkers.healed_us.is_some() || self.plan.faults[index].struck {
            return;
        }
        let fault = self.plan.faults[index].clone();
        let node = self.resolve(fault.target);
        if !self.permitted(fault.kind, node) {
            return;
        }
        self.plan.faults[index].struck = true;
        self.checkers.whole |= crate::checkers::at_rest(self);
        self.plan.faults[index].active = Some(node);
        let seconds = fault.lasts_us as f64 / 1e6;
        self.note(Detail::Decisions, node, format_args!("*** {:?} for {seconds:.2} s", fault.kind));
        self.stirred_us = self.now_us;
        self.begin_fault(fault.kind, node, fault.peer, fault.lasts_us);
        self.rebuild_net();
        self.after(fault.lasts_us, Event::Heal { index });
    }

    /// Faults beyond what the invariants are promised under do not happen.
    fn permitted(&self, kind: Kind, node: usize) -> bool {
        let store = self.store.newest();
        let (Some(record), Some(sync)) = (&store.primary, &store.sync) else { return true };
        let member = self.nodes[node].durable.member.as_ref();
        let counts = member.is_some_and(|member| sync.value.set.members.contains(member));
        let opened = sync.value.term == record.value.term;
        match kind {
            // What no node has, the origin has, if it lives; one disk in a run, as elsewhere.
            Kind::LoseDisk if record.value.head => {
                self.nodes[node].full && member.is_some() && !self.disk_was_lost()
            }
            Kind::LoseDisk => {
                let lost = self
                    .plan
                    .faults
                    .iter()
                    .any(|f| matches!(f.kind, Kind::LoseDisk | Kind::GoBack) && f.struck);
                // A standby that streams may become a member at any moment: of those with k = 1, none. And none in
                // the middle of a takeover, when a rewind may hold another member's data directory open.
                let primary = member == Some(&record.value.member);
                let spare = opened && (sync.value.set.k > 1 || primary && !counts && sync.value.set.k > 0);
                let whole = self.nodes.iter().all(|node| !node.durable.needs_clone && !node.durable.rewound);
                self.nodes[node].full && member.is_some() && !lost && spare && whole
            }
            Kind::GoBack => {
                let lost = self
                    .plan
                    .faults
                    .iter()
                    .any(|f| matches!(f.kind, Kind::LoseDisk | Kind::GoBack) && f.struck);
                let own = member == Some(&record.value.member);
                opened && !counts && !lost && own && sync.value.set.k > 0
            }
            _ => true,
        }
    }

    fn begin_fault(&mut self, kind: Kind, node: usize, peer: usize, lasts_us: u64) {
        let until_us = self.now_us + lasts_us;
        match kind {
            Kind::KillPostgres => self.kill_postgres(node),
            Kind::KillAgent => self.kill_agent(node),
            Kind::KillNode => self.kill_node(node),
            Kind::FreezeAgent => self.nodes[node].agent_frozen = self.nodes[node].agent.is_some(),
            Kind::FreezeAgentUnfenced => {
                let timeout_us = self.plan.settings.failure_timeout_ms * 1000;
                let host = &mut self.nodes[node];
                host.agent_frozen = host.agent.is_some();
                host.unfenced = true;
                host.excused_until_us = until_us + timeout_us;
            }
            Kind::FreezePostgres => self.nodes[node].server.frozen = self.nodes[node].server.up(),
            Kind::FreezeNode | Kind::PauseMachine => {
                let now_us = self.now_us;
                let host = &mut self.nodes[node];
                host.agent_frozen = host.agent.is_some();
                host.server.frozen = host.server.up();
                host.paused_us = host.paused_us.or(Some(now_us));
            }
            Kind::FullDisk => self.nodes[node].server.disk_full = true,
            Kind::StepClock => self.step_clock(node),
            Kind::FreezeSender => {
                let count = self.nodes[node].server.senders.len();
                let chosen = self.dice.index(count);
                if let Some(sender) = self.nodes[node].server.senders.get_mut(chosen) {
                    sender.frozen_until_us = until_us;
                }
            }
            Kind::KillAll => (0..self.nodes.len()).for_each(|node| self.kill_node(node)),
            Kind::LoseDisk => self.lose_disk(node),
            Kind::GoBack => self.go_back(node),
            Kind::SlowDisk => self.nodes[node].server.slow_disks += 1,
            Kind::StickReplay => self.nodes[node].server.stuck_until_us = until_us,
            Kind::CutNode
            | Kind::CutPair
            | Kind::Mute
            | Kind::Deaf
            | Kind::OneWay
            | Kind::CutPort
            | Kind::CutPeers
            | Kind::CutStream
            | Kind::CutPeerLink
            | Kind::Loss
            | Kind::SlowNet => {
                let _ = peer;
            }
        }
    }

    fn kill_postgres(&mut self, node: usize) {
        self.nodes[node].server.crash();
        self.thaw(node);
    }

    /// The wall clock jumps. The agent and the fencer do not look at it; PostgreSQL's replication timeouts do.
    fn step_clock(&mut self, node: usize) {
        let forward = self.dice.percent(50);
        let server = &mut self.nodes[node].server;
        let heard_us = if forward { 0 } else { self.now_us + 5_000_000 };
        server.senders.iter_mut().for_each(|sender| sender.heard_us = heard_us);
        server.receiver.iter_mut().for_each(|receiver| receiver.heard_us = heard_us);
    }

    /// The machine goes on. A paused one's clock may have stood still: then its lease is older than it believes.
    fn resume(&mut self, node: usize, stood_still: bool) {
        let timeout_us = self.plan.settings.failure_timeout_ms * 1000;
        let now_us = self.now_us;
        let wakes = self.dice.within(0..20_000);
        let host = &mut self.nodes[node];
        host.agent_frozen = false;
        host.server.frozen = false;
        host.server.read_files();
        let Some(paused_us) = host.paused_us.take() else { return };
        if stood_still {
            host.clock.lost_us += now_us - paused_us;
        }
        // Who wakes first may serve one read before the fencer and the agent look at the clock.
        let excused_us = if stood_still { timeout_us } else { 100_000 };
        host.excused_until_us = host.excused_until_us.max(now_us + excused_us);
        self.after(wakes, Event::Fence { node });
        // One that ended before or meanwhile could not be started.
        self.after(wakes + 1_000, Event::AgentStart { node });
    }

    fn kill_node(&mut self, node: usize) {
        let host = &mut self.nodes[node];
        // Also of a machine that stands still: what starts there next has a clock that goes.
        (host.fenced_until, host.paused_us) = (None, None);
        self.kill_agent(node);
        self.nodes[node].server.crash();
        self.nodes[node].deferred.clear();
    }

    pub fn lose_disk(&mut self, node: usize) {
        self.kill_node(node);
        let host = &mut self.nodes[node];
        host.server.wal = None;
        host.server.slots.clear();
        host.server.half_made = false;
        host.durable = brain::Durable::default();
        host.promise_synced = brain::Term(0);
        self.checkers.requests.forget(node);
    }

    pub fn go_back(&mut self, node: usize) {
        self.kill_node(node);
        let lost = 1 + self.dice.index(12);
        let server = &mut self.nodes[node].server;
        let fork = server.end_of_recovery + 1;
        if let Some(wal) = &mut server.wal {
            let keep = wal.len().saturating_sub(lost).max(fork.min(wal.len()));
            wal.truncate(keep);
        }
    }

    /// The cuts that stand now, from the faults that are active.
    fn rebuild_net(&mut self) {
        self.net.heal();
        let all = 0..self.nodes.len();
        for fault in &self.plan.faults {
            let Some(node) = fault.active else { continue };
            let others = all.clone().filter(|other| *other != node);
            match fault.kind {
                Kind::CutNode => others.for_each(|other| {
                    self.net.cut(node, other);
                    self.net.cut(other, node);
                }),
                Kind::CutPair => {
                    self.net.cut(node, fault.peer);
                    self.net.cut(fault.peer, node);
                }
                Kind::Mute => others.for_each(|other| self.net.cut(node, other)),
                Kind::Deaf => others.for_each(|other| self.net.cut(other, node)),
                Kind::OneWay => self.net.cut(node, fault.peer),
                Kind::CutPort => others.for_each(|other| {
                    self.net.cut_port(node, other);
                    self.net.cut_port(other, node);
                }),
                Kind::CutPeers => others.for_each(|other| {
                    self.net.cut_peer(node, other);
                    self.net.cut_peer(other, node);
                }),
                Kind::CutStream => {
                    self.net.cut_port(node, fault.peer);
                    self.net.cut_port(fault.peer, node);
                }
                Kind::CutPeerLink => {
                    self.net.cut_peer(node, fault.peer);
                    self.net.cut_peer(fault.peer, node);
                }
                Kind::Loss => self.net.loss_percent = 30,
                Kind::SlowNet => self.net.slowness = 40,
                _ => {}
            }
        }
        self.note_reach();
    }

    pub fn heal(&mut self, index: usize) {
        let Some(node) = self.plan.faults[index].active.take() else { return };
        let kind = self.plan.faults[index].kind;
        self.note(Detail::Decisions, node, format_args!("*** {kind:?} ends"));
        self.stirred_us = self.now_us;
        self.rebuild_net();
        match kind {
            Kind::KillAgent | Kind::KillNode | Kind::LoseDisk | Kind::GoBack => self.start_agent(node),
            Kind::KillAll => {
                self.stirred_us = self.now_us + 3_000_000;
                for node in 0..self.nodes.len() {
                    let start = self.dice.millis(0..3_000);
                    self.after(start, Event::AgentStart { node });
                }
            }
            // On a machine that stands still nothing goes on.
            Kind::FreezeAgent => {
                let host = &mut self.nodes[node];
                host.agent_frozen &= host.paused_us.is_some();
            }
            Kind::FreezeAgentUnfenced => {
                let host = &mut self.nodes[node];
                host.agent_frozen &= host.paused_us.is_some();
                host.unfenced = false;
                host.excused_until_us = host.excused_until_us.max(self.now_us + 100_000);
                self.arm(node);
            }
            Kind::FreezePostgres => {
                let host = &mut self.nodes[node];
                host.server.frozen &= host.paused_us.is_some();
                host.server.read_files();
            }
            Kind::FreezeNode => self.resume(node, false),
            Kind::PauseMachine => {
                let stood_still = self.dice.percent(60);
                self.resume(node, stood_still);
            }
            Kind::FullDisk => self.nodes[node].server.disk_full = false,
            Kind::SlowDisk => self.nodes[node].server.slow_disks -= 1,
            _ => {}
        }
        self.thaw(node);
    }

    /// No fault any more, from now on.
    pub fn heal_all(&mut self) {
        for index in 0..self.plan.faults.len() {
            self.heal(index);
        }
        self.net.heal();
        self.settle_origin();
        for node in 0..self.nodes.len() {
            self.resume(node, false);
            self.nodes[node].server.stuck_until_us = 0;
            let now = self.now_us;
            for sender in &mut self.nodes[node].server.senders {
                sender.frozen_until_us = sender.frozen_until_us.min(now);
            }
            self.thaw(node);
            self.after(1_000, Event::AgentStart { node });
        }
        self.checkers.healed_us = Some(self.now_us);
        self.resume_all();
        self.trace.line(self.now_us, "faults", format_args!("*** all faults have ended"));
    }
}
