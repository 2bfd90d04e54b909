//! The store: linearizable, all revisions kept so that a node can be shown an old one.
//!
//! What it is not: Raft. Its availability is `World::store_reachable`; this is only the state machine.

use std::rc::Rc;

use brain::{Commit, Key, Put, StoreView, Versioned};

pub struct Store {
    revisions: Vec<Rc<StoreView>>,
}

impl Default for Store {
    fn default() -> Store {
        Store { revisions: vec![Rc::new(StoreView { loaded: true, ..StoreView::default() })] }
    }
}

fn version(view: &StoreView, key: Key) -> u64 {
    match key {
        Key::Cluster => view.cluster.as_ref().map(|v| v.version),
        Key::Primary => view.primary.as_ref().map(|v| v.version),
        Key::Sync => view.sync.as_ref().map(|v| v.version),
        Key::Timelines => view.timelines.as_ref().map(|v| v.version),
        Key::Members => view.members.as_ref().map(|v| v.version),
        Key::Requests => view.requests.as_ref().map(|v| v.version),
        Key::Lease => view.lease.as_ref().map(|v| v.version),
        Key::Origin => view.origin.as_ref().map(|v| v.version),
    }
    .unwrap_or(0)
}

impl Store {
    /// Number of the newest revision; the first is 0.
    pub fn revision(&self) -> usize {
        self.revisions.len() - 1
    }

    pub fn at(&self, revision: usize) -> &Rc<StoreView> {
        &self.revisions[revision]
    }

    pub fn newest(&self) -> &Rc<StoreView> {
        self.at(self.revision())
    }

    /// Applies a transaction if all its conditions hold.
    pub fn commit(&mut self, commit: &Commit) -> bool {
        let current = self.newest();
        if !commit.conditions.iter().all(|(key, wanted)| version(current, *key) == *wanted) {
            return false;
        }
        let version = self.revisions.len() as u64;
        let mut next = StoreView::clone(current);
        for put in &commit.puts {
            match put.clone() {
                Put::Cluster(value) => next.cluster = Some(Versioned { value, version }),
                Put::Primary(value) => next.primary = Some(Versioned { value, version }),
                Put::Sync(value) => next.sync = Some(Versioned { value, version }),
                Put::Timelines(value) => next.timelines = Some(Versioned { value, version }),
                Put::Members(value) => next.members = Some(Versioned { value, version }),
                Put::Requests(value) => next.requests = Some(Versioned { value, version }),
                Put::Origin(value) => next.origin = Some(Versioned { value, version }),
            }
        }
        self.push(Rc::new(next));
        true
    }

    pub(crate) fn push(&mut self, next: Rc<StoreView>) {
        self.revisions.push(next);
    }
}
