//! The store: its transactions apply at once, unless a node's are held on their way.

use std::fmt::Write;

use brain::{Commit, Key, NodeName, Put, Versioned};

use super::World;

/// A node whose transactions take their time.
#[derive(Default)]
pub(super) struct SlowStore {
    /// What is sent now is on its way until it is delivered; until then nothing else is sent.
    holds: bool,
    on_their_way: Vec<Commit>,
}

impl World {
    /// The node's next transaction is sent, but does not arrive yet; it sends no other while it waits for the answer.
    pub fn hold_commits(&mut self, node: &str) {
        self.note(&format!("hold commits {node}"));
        self.slow.entry(node.into()).or_default().holds = true;
    }

    /// The node has given up waiting: what it sends from now on arrives at once, what it sent before still may.
    pub fn pass_commits(&mut self, node: &str) {
        self.note(&format!("pass commits {node}"));
        self.slow.entry(node.into()).or_default().holds = false;
    }

    /// What was on its way arrives.
    pub fn deliver_commits(&mut self, node: &str) {
        self.note(&format!("deliver commits {node}"));
        let late =
            self.slow.get_mut(&NodeName::from(node)).map(|slow| std::mem::take(&mut slow.on_their_way));
        for commit in late.unwrap_or_default() {
            let word = if self.commit(&commit) { "applied" } else { "refused" };
            self.tell_commit(&node.into(), &commit, word);
        }
    }

    /// The transactions of a node whose transactions are of interest are told in full.
    fn tell_commit(&mut self, node: &NodeName, commit: &Commit, word: &str) {
        for put in &commit.puts {
            let what = match put {
                Put::Sync(sync) => format!("term {} {}", sync.term, sync.set),
                Put::Primary(record) => format!("term {} {}", record.term, record.node),
                Put::Cluster(_) | Put::Timelines(_) | Put::Members(_) | Put::Requests(_) => String::new(),
                Put::Origin(origin) => format!("left {:?}", origin.left),
            };
            let _ = writeln!(self.trace, "  {node} writes {} {what}: {word}", put.key().path());
        }
    }

    /// Sends a transaction; it is remembered from then on.
    pub(super) fn send_commit(&mut self, name: &NodeName, commit: &Commit) {
        let slow = self.slow.get(name);
        let (told, holds) = (slow.is_some(), slow.is_some_and(|slow| slow.holds));
        if slow.is_some_and(|slow| slow.holds && !slow.on_their_way.is_empty()) {
            return;
        }
        if let Some(node) = self.nodes.get_mut(name) {
            node.view.memory.on_commit(commit);
        }
        let word = if holds {
            self.slow.entry(name.clone()).or_default().on_their_way.push(commit.clone());
            "on its way"
        } else if self.commit(commit) {
            "applied"
        } else {
            "refused"
        };
        if told {
            self.tell_commit(name, commit, word);
        }
    }

    /// True when its conditions hold, so that it is applied.
    fn commit(&mut self, commit: &Commit) -> bool {
        let store = &mut self.store;
        let version = |key: Key| match key {
            Key::Cluster => store.cluster.as_ref().map_or(0, |v| v.version),
            Key::Primary => store.primary.as_ref().map_or(0, |v| v.version),
            Key::Sync => store.sync.as_ref().map_or(0, |v| v.version),
            Key::Timelines => store.timelines.as_ref().map_or(0, |v| v.version),
            Key::Members => store.members.as_ref().map_or(0, |v| v.version),
            Key::Requests => store.requests.as_ref().map_or(0, |v| v.version),
            Key::Lease => store.lease.as_ref().map_or(0, |v| v.version),
            Key::Origin => store.origin.as_ref().map_or(0, |v| v.version),
        };
        if commit.conditions.iter().any(|(key, expected)| version(*key) != *expected) {
            return false;
        }
        fn next<T>(slot: &mut Option<Versioned<T>>, value: T) {
            let version = slot.as_ref().map_or(0, |v| v.version) + 1;
            *slot = Some(Versioned { value, version });
        }
        for put in commit.puts.clone() {
            match put {
                Put::Cluster(value) => next(&mut store.cluster, value),
                Put::Primary(value) => next(&mut store.primary, value),
                Put::Sync(value) => next(&mut store.sync, value),
                Put::Timelines(value) => next(&mut store.timelines, value),
                Put::Members(value) => next(&mut store.members, value),
                Put::Requests(value) => next(&mut store.requests, value),
                Put::Origin(value) => next(&mut store.origin, value),
            }
        }
        true
    }
}
