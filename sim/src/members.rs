//! Nodes that leave the cluster and join it while it runs, as the API writes it and as the store's voters follow.
//!
//! What they are not: faults; the primary lets a node go one safe step at a time, and a node that joins comes by itself, with
//! an empty disk or with the data directory it had. Invariant: a node that is no member is heard by nobody who knows it.

use brain::{Commit, Key, MemberRecord, MembersRecord, NodeKind, NodeName, Put};

use crate::dice::Dice;
use crate::event::Event;
use crate::plan::Plan;
use crate::requests::{Asked, Request};
use crate::trace::Detail;
use crate::world::World;

/// Leaves and joins of one seed: mixed with its faults, by a die of their own.
pub fn draw(dice: &mut Dice, plan: &mut Plan) {
    let full = plan.settings.full.len();
    if plan.single || full < 3 {
        return;
    }
    for _ in 0..1 + dice.index(full - 2) {
        let at_us = dice.within(0..plan.storm_us);
        plan.requests.push(Asked { at_us, moment: None, request: Request::Leave { replica: dice.index(4) } });
        if dice.percent(70) {
            let at_us = at_us + dice.millis(500..9_000);
            let request = Request::Join { empty: dice.percent(60) };
            plan.requests.push(Asked { at_us, moment: None, request });
        }
    }
}

impl World {
    /// The node is a member, or nobody has ever left.
    pub fn belongs(&self, node: usize) -> bool {
        let name = &self.nodes[node].name;
        self.store.newest().members.as_ref().is_none_or(|members| members.value.nodes.contains_key(name))
    }

    /// Somebody has been asked to leave, and is not let go yet.
    pub fn leaving(&self) -> Option<&NodeName> {
        let members = self.store.newest().members.as_ref()?;
        members.value.nodes.iter().find(|(_, member)| member.leaving).map(|(name, _)| name)
    }

    /// The agent of `node` takes over who belongs to the cluster, as its store shows it.
    pub fn follow_members(&mut self, node: usize) {
        let Some(agent) = self.agent(node) else { return };
        if let Some(members) = &agent.view.store.members {
            agent.view.settings.follow(&members.value);
        }
    }

    /// What comes from `from` is not for `node` any more: by what it knows, that is no member.
    pub fn strange(&self, node: usize, from: usize) -> bool {
        let Some(agent) = &self.nodes[node].agent else { return false };
        let name = &self.nodes[from].name;
        agent.view.store.members.as_ref().is_some_and(|members| !members.value.nodes.contains_key(name))
    }

    /// The record as the first node writes it; only where somebody will leave.
    pub fn record_members(&mut self) {
        let leaves = |asked: &Asked| matches!(asked.request, Request::Leave { .. });
        if !self.plan.requests.iter().any(leaves) {
            return;
        }
        let mut members = MembersRecord::default();
        for node in &self.nodes {
            members.nodes.insert(node.name.clone(), record_of(&node.name, node.full));
        }
        self.write_members(0, members, 0);
    }

    fn write_members(&mut self, via: usize, members: MembersRecord, version: u64) {
        let commit = Commit { conditions: vec![(Key::Members, version)], puts: vec![Put::Members(members)] };
        if self.store.commit(&commit) {
            self.store_changed(via);
        }
    }

    pub fn leave(&mut self, order: usize) {
        let Some(members) = self.store.newest().members.clone() else { return };
        let Some(name) = self.replica(order) else { return };
        let Some(via) = (0..self.nodes.len()).find(|node| self.answers_people(*node)) else { return };
        let stays = |node: &usize| {
            let own = &self.nodes[*node].name;
            *own != name && members.value.nodes.get(own).is_some_and(|member| !member.leaving)
        };
        let staying: Vec<usize> = (0..self.nodes.len()).filter(stays).collect();
        let full = staying.iter().filter(|node| self.nodes[**node].full).count();
        let there = staying.iter().filter(|node| self.answers_people(**node)).count();
        let known = members.value.nodes.get(&name).is_some_and(|member| !member.leaving);
        if !known || full < 2 || there <= staying.len() / 2 {
            return self.note(Detail::Decisions, via, format_args!("refused: {name} cannot leave now"));
        }
        let mut changed = members.value;
        changed.nodes.entry(name).and_modify(|member| member.leaving = true);
        self.write_members(via, changed, members.version);
    }

    /// The first node that has left comes back.
    pub fn join(&mut self, empty: bool) {
        let Some(members) = self.store.newest().members.clone() else { return };
        let Some(node) = (0..self.nodes.len()).find(|node| !self.belongs(*node)) else { return };
        let Some(via) = (0..self.nodes.len()).find(|via| self.belongs(*via) && self.answers_people(*via))
        else {
            return;
        };
        if empty {
            self.lose_disk(node);
        } else {
            self.kill_agent(node);
        }
        let name = self.nodes[node].name.clone();
        let mut changed = members.value;
        changed.removed.remove(&name);
        changed.nodes.insert(name.clone(), record_of(&name, self.nodes[node].full));
        self.write_members(via, changed, members.version);
        let start = self.people.millis(50..2_000);
        self.after(start, Event::AgentStart { node });
    }
}

fn record_of(name: &NodeName, full: bool) -> MemberRecord {
    let kind = if full { NodeKind::Full } else { NodeKind::Witness };
    MemberRecord { kind, peer: name.0.clone(), postgres: None, leaving: false }
}
