//! People who remove nodes and add them again while the cluster runs, as the API lets them.
//!
//! What they are not: faults; the primary lets a node go one safe step at a time, and a node that joins comes by itself, with
//! an empty disk or with the data directory it had. Who has a seat is `seats`. Invariant: at least two full nodes stay, and
//! what the API refuses is not asked of the cluster.

use brain::NodeName;

use crate::dice::Dice;
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
    /// Somebody has been asked to leave, and is not let go yet.
    pub fn leaving(&self) -> Option<&NodeName> {
        let members = self.store.newest().members.as_ref()?;
        members.value.nodes.iter().find(|(_, member)| member.leaving).map(|(name, _)| name)
    }

    /// The record as the first node writes it; only where somebody will leave.
    pub fn record_members(&mut self) {
        let leaves = |asked: &Asked| matches!(asked.request, Request::Leave { .. });
        if self.plan.requests.iter().any(leaves) {
            self.change_members(|_, _| {}, 0);
        }
    }

    /// `pgherd member remove`.
    pub fn remove_member(&mut self, order: usize) {
        let Some(members) = self.store.newest().members.clone() else { return };
        let Some(name) = self.replica(order) else { return };
        let Some(node) = self.index_of(&name) else { return };
        let Some(via) = (0..self.nodes.len()).find(|via| self.belongs(*via) && self.answers_people(*via))
        else {
            return;
        };
        let answers = |other: usize| {
            let Some(agent) = &self.nodes[via].agent else { return false };
            let other = &self.nodes[other].name;
            *other == agent.view.me || agent.view.fresh_peers().any(|status| status.node == *other)
        };
        let staying: Vec<usize> =
            (0..self.nodes.len()).filter(|other| *other != node && self.stays(*other)).collect();
        let full = staying.iter().filter(|other| self.nodes[**other].full).count();
        let there = staying.iter().filter(|other| answers(**other)).count();
        if !members.value.nodes.contains_key(&name) || full < 2 || there <= staying.len() / 2 {
            return self.note(Detail::Decisions, via, format_args!("refused: {name} cannot leave now"));
        }
        self.leave(node);
    }

    /// `pgherd member add`: the first node that has left comes back.
    pub fn add_member(&mut self, empty: bool) {
        let Some(node) = (0..self.nodes.len()).find(|node| !self.belongs(*node)) else { return };
        if !(0..self.nodes.len()).any(|via| self.belongs(via) && self.answers_people(via)) {
            return;
        }
        if empty {
            self.lose_disk(node);
        } else {
            self.kill_agent(node);
        }
        self.join(node);
    }
}
