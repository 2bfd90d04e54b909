//! The store's lease of a primary without synchronous replication: asked for and kept by its agent, ended by the store.
//!
//! The store counts from when it takes the request, the holder from when it asked: here that is the same moment, and
//! the holder's clock takes the drift margin off.

use std::rc::Rc;

use brain::{LeaseRecord, Term, Versioned, releases_store_lease, wants_store_lease};

use crate::world::World;

/// It is asked for anew after a third of its length.
const KEEP_US: u64 = 600_000;

/// When the store lets the lease end, and when its holder asked last.
#[derive(Default)]
pub struct Lease {
    ends_us: u64,
    asked_us: u64,
}

impl World {
    /// The node's agent gets, keeps or gives back the lease, as far as the store is reached.
    pub(crate) fn keep_lease(&mut self, node: usize) {
        let now_us = self.now_us;
        if self.lease.ends_us <= now_us {
            self.store.set_lease(None);
        }
        let reached = self.store_reachable(node);
        let Some(view) = self.nodes[node].agent.as_ref().map(|agent| &agent.view) else { return };
        let (wanted, released) = (wants_store_lease(view), releases_store_lease(view));
        let me = self.nodes[node].name.clone();
        let own = self.store.newest().lease.as_ref().map(|lease| lease.value.node == me);
        match wanted {
            Some(term) if reached && own != Some(false) => self.renew_lease(node, term),
            None if released && reached && own == Some(true) => {
                self.store.set_lease(None);
                if let Some(agent) = self.agent(node) {
                    agent.view.store_lease = None;
                }
            }
            _ => {}
        }
    }

    fn renew_lease(&mut self, node: usize, term: Term) {
        let (now, now_us) = (self.clock(node), self.now_us);
        let me = self.nodes[node].name.clone();
        let recorded =
            self.store.newest().primary.as_ref().is_some_and(|p| p.value.term == term && p.value.node == me);
        let held = self.store.newest().lease.is_some();
        if !recorded || held && now_us < self.lease.asked_us + KEEP_US {
            return;
        }
        let settings = &self.plan.settings;
        let (usable_ms, length_us) = (settings.lease_usable_ms(), settings.failure_timeout_ms * 1_000);
        self.lease = Lease { ends_us: now_us + length_us, asked_us: now_us };
        if !held {
            self.store.set_lease(Some(LeaseRecord { node: me, term }));
        }
        if let Some(agent) = self.agent(node) {
            agent.view.store_lease = Some((term, now.plus(usable_ms)));
        }
    }
}

impl crate::store::Store {
    /// A revision of its own when something changes.
    fn set_lease(&mut self, lease: Option<LeaseRecord>) {
        if self.newest().lease.as_ref().map(|lease| &lease.value) == lease.as_ref() {
            return;
        }
        let version = self.revision() as u64 + 1;
        let mut next = brain::StoreView::clone(self.newest());
        next.lease = lease.map(|value| Versioned { value, version });
        self.push(Rc::new(next));
    }
}
