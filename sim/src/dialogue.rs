//! An agent's dialogue with the store: watches that fire late, reads that are due, transactions whose answers get lost.
//!
//! Invariant: an agent's view of the store never goes back, and one transaction of an agent is on its way at a time.

use std::rc::Rc;

use crate::event::Event;
use crate::trace::Detail;
use crate::words;
use crate::world::World;

/// A store transaction without an answer is given up after this; it may still be applied.
const STORE_TIMEOUT_US: u64 = 1_000_000;

impl World {
    /// A read of the store that is due: the watch missed something, or this agent is new.
    pub fn ask_store(&mut self, node: usize) {
        let newest = self.store.revision();
        let reachable = self.store_reachable(node);
        let delay = self.dice.millis(2..30);
        let Some(agent) = self.agent(node) else { return };
        let boot = agent.boot;
        if reachable && !agent.store_asked && (agent.store_revision < newest || !agent.view.store.loaded) {
            agent.store_asked = true;
            self.after(delay, Event::StoreSeen { node, boot, revision: newest });
        }
    }

    pub fn store_seen(&mut self, node: usize, revision: usize) {
        let value = self.store.at(revision).clone();
        let Some(agent) = self.agent(node) else { return };
        agent.store_asked = false;
        if revision >= agent.store_revision {
            agent.store_revision = revision;
            agent.view.store = brain::StoreView::clone(&value);
            self.follow_members(node);
            self.turn(node);
        }
    }

    /// Sends one transaction to the store, unless one is on its way.
    pub fn send_commit(&mut self, node: usize, commit: &brain::Commit) {
        let id = self.next_id();
        let commit = commit.clone();
        let late = self.dice.percent(self.plan.store_late_percent);
        let delay = if late { self.dice.millis(100..2_500) } else { self.dice.millis(1..12) };
        let delay = self.late.filter(|(who, _)| *who == node).map_or(delay, |(_, late_us)| late_us);
        let Some(agent) = self.agent(node) else { return };
        if agent.committing.is_some() {
            return;
        }
        agent.committing = Some(id);
        self.check_commit(node, id, &commit);
        let Some(agent) = self.agent(node) else { return };
        agent.view.memory.on_commit(&commit);
        let boot = agent.boot;
        self.after(delay, Event::StoreArrive { node, boot, id, commit: Rc::new(commit) });
        self.after(STORE_TIMEOUT_US, Event::StoreAnswer { node, boot, id });
    }

    /// The transaction reaches the store.
    pub fn store_arrive(&mut self, node: usize, boot: u64, id: u64, commit: &brain::Commit) {
        if !self.store_reachable(node) {
            return;
        }
        let applied = self.store.commit(commit);
        let who = self.nodes[node].name.clone();
        if self.trace.wants(Detail::Decisions) {
            let word = if applied { "applied" } else { "refused" };
            self.trace.line(self.now_us, "store", format_args!("{word} {who}'s{}", words::puts(commit)));
        }
        if applied {
            self.check_committed(node, id);
            self.store_changed(node);
        }
        if self.dice.percent(97) {
            let delay = self.dice.millis(1..10);
            self.after(delay, Event::StoreAnswer { node, boot, id });
        }
        self.stepped(node, "stored");
    }

    pub fn store_answer(&mut self, node: usize, id: u64) {
        let Some(agent) = self.agent(node) else { return };
        if agent.committing == Some(id) {
            agent.committing = None;
            self.stepped(node, "answered");
            // An answer is followed by a read, so that the next decision does not ask for the same again.
            self.ask_store(node);
        }
    }

    /// Watches fire, each in its own time.
    pub fn watch(&mut self) {
        let revision = self.store.revision();
        for node in 0..self.nodes.len() {
            let slow = self.dice.percent(5);
            let delay = if slow { self.dice.millis(50..900) } else { self.dice.millis(1..15) };
            let reachable = self.store_reachable(node);
            if let Some(boot) = self.agent(node).map(|agent| agent.boot).filter(|_| reachable) {
                self.after(delay, Event::StoreSeen { node, boot, revision });
            }
        }
    }
}
