//! What a script says, beyond the store and the origin.

use std::fmt::Write;

use brain::{Ask, Complaint, Memory, NodeName, Requests, SlotReport, Versioned, decide};
use wire::Lsn;

use super::World;

impl World {
    pub fn add_member(&mut self, name: &str) {
        self.note(&format!("add {name}"));
        self.record_member(name, false);
    }

    /// What `pgherd member remove` writes; the primary does the rest.
    pub fn leave(&mut self, name: &str) {
        self.note(&format!("remove {name}"));
        self.record_member(name, true);
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

    /// `refuse n3`, `let in n3`: its receiver cannot log in upstream, and says so.
    pub fn refuse(&mut self, node: &str, refused: bool) {
        self.note(&format!("{} {node}", if refused { "refuse" } else { "let in" }));
        let complaint = Complaint { words: "no pg_hba.conf entry".to_owned(), copy_helps: false };
        self.node(node).server.as_mut().unwrap().refused = refused.then_some(complaint);
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

    /// The node's slots are not ready, for this reason; with `restart`, a restart would mend it. Without a reason they
    /// are ready.
    pub fn slots(&mut self, node: &str, restart: bool, reason: &[&str]) {
        let missing: Vec<String> = (!reason.is_empty()).then(|| reason.join(" ")).into_iter().collect();
        self.note(&format!("slots {node}{} {}", if restart { " restart" } else { "" }, reason.join(" ")));
        self.node(node).view.slots = SlotReport { looked: true, missing, restart, slots: Vec::new() };
    }

    /// The node's configuration cannot be applied, for this reason.
    pub fn misconfigure(&mut self, node: &str, reason: &[&str]) {
        self.note(&format!("misconfigure {node} {}", reason.join(" ")));
        self.node(node).misconfigured = Some(reason.join(" "));
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
            "reload" => {
                Ask::Reload { node: node(1).unwrap(), after: words.get(2).map(|id| id.parse().unwrap()) }
            }
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
}
