//! Breadth first over every state that can be reached: the first state that breaks a law has a shortest way there.
//!
//! What it keeps: a fingerprint of 64 bits per state and that of its parent; the way is found again by walking it.
//! Two states with one fingerprint would hide each other: with 10^8 states the chance is 3 in 10,000.

use std::hash::{DefaultHasher, Hasher};

use super::laws::Broken;
use super::moves::{Next, Rules, Step};
use super::state::State;

/// What a search came to.
#[derive(Clone, Debug)]
pub struct Found {
    /// Distinct states seen.
    pub states: u64,
    /// Steps of the longest way that was walked.
    pub depth: u32,
    /// Every reachable state was seen.
    pub exhausted: bool,
    pub broken: Option<Trace>,
    /// How often the brain was asked.
    pub decisions: u64,
}

/// The way to a state that breaks a law.
#[derive(Clone, Debug)]
pub struct Trace {
    pub broken: Broken,
    /// Each step with the state after it.
    pub steps: Vec<(Step, State)>,
    pub start: State,
}

/// Fingerprints with their parents': open addressing, at most three quarters full.
struct Seen {
    slots: Vec<(u64, u64)>,
    len: usize,
}

impl Seen {
    fn new() -> Seen {
        Seen { slots: vec![(0, 0); 1 << 16], len: 0 }
    }

    fn slot(&self, print: u64) -> usize {
        let mask = self.slots.len() - 1;
        let mut at = print as usize & mask;
        while self.slots[at].0 != 0 && self.slots[at].0 != print {
            at = (at + 1) & mask;
        }
        at
    }

    /// True when it was not there.
    fn insert(&mut self, print: u64, parent: u64) -> bool {
        if self.len * 4 > self.slots.len() * 3 {
            let old = std::mem::take(&mut self.slots);
            self.slots = vec![(0, 0); old.len() * 2];
            for entry in old.into_iter().filter(|entry| entry.0 != 0) {
                let at = self.slot(entry.0);
                self.slots[at] = entry;
            }
        }
        let at = self.slot(print);
        let new = self.slots[at].0 == 0;
        if new {
            self.slots[at] = (print, parent);
            self.len += 1;
        }
        new
    }

    fn parent(&self, print: u64) -> u64 {
        self.slots[self.slot(print)].1
    }
}

/// Packed states, one behind the other.
#[derive(Default)]
struct Queue {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Queue {
    fn push(&mut self, packed: &[u8]) {
        self.bytes.extend_from_slice(packed);
        self.ends.push(self.bytes.len());
    }

    fn get(&self, index: usize) -> &[u8] {
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.bytes[start..self.ends[index]]
    }
}

fn fingerprint(packed: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(packed);
    // 0 marks an empty slot.
    hasher.finish() | 1 << 63
}

/// Walks every state from `start`, until a law is broken or `states_max` have been seen.
pub fn search(start: &State, rules: &mut Rules, states_max: u64) -> Found {
    let mut seen = Seen::new();
    let (mut now, mut next) = (Queue::default(), Queue::default());
    let mut packed = Vec::new();
    start.canonical(&mut packed);
    let first = fingerprint(&packed);
    seen.insert(first, 0);
    now.push(&packed);
    let mut successors: Vec<Next> = Vec::new();
    let mut depth = 0;
    while !now.ends.is_empty() {
        for index in 0..now.ends.len() {
            let bytes = now.get(index);
            let parent = fingerprint(bytes);
            let state = State::unpack(bytes);
            successors.clear();
            rules.successors(&state, &mut successors);
            for next_state in &successors {
                next_state.state.canonical(&mut packed);
                let print = fingerprint(&packed);
                let new = seen.insert(print, parent);
                if let Some(broken) = next_state.broken {
                    let trace = retrace(start, rules, &seen, parent, next_state, broken);
                    return Found {
                        states: seen.len as u64,
                        depth: depth + 1,
                        exhausted: false,
                        broken: Some(trace),
                        decisions: rules.mind.asked,
                    };
                }
                if new {
                    next.push(&packed);
                }
            }
            if seen.len as u64 >= states_max {
                let states = seen.len as u64;
                return Found { states, depth, exhausted: false, broken: None, decisions: rules.mind.asked };
            }
        }
        depth += 1;
        std::mem::swap(&mut now, &mut next);
        next.bytes.clear();
        next.ends.clear();
    }
    let states = seen.len as u64;
    Found { states, depth, exhausted: true, broken: None, decisions: rules.mind.asked }
}

/// Finds the way again: from the start, each time the successor with the next fingerprint. Nodes keep the names that
/// they have at the start.
fn retrace(start: &State, rules: &mut Rules, seen: &Seen, last: u64, end: &Next, broken: Broken) -> Trace {
    let mut prints = Vec::new();
    let mut at = last;
    while at != 0 {
        prints.push(at);
        at = seen.parent(at);
    }
    prints.pop();
    let mut packed = Vec::new();
    let mut state = *start;
    let mut steps = Vec::new();
    let mut successors = Vec::new();
    end.state.canonical(&mut packed);
    prints.insert(0, fingerprint(&packed));
    for (left, print) in prints.iter().enumerate().rev() {
        successors.clear();
        for first in state.nodes() {
            rules.first = first;
            rules.successors(&state, &mut successors);
        }
        rules.first = 0;
        let found = successors.iter().find(|next| {
            next.state.canonical(&mut packed);
            fingerprint(&packed) == *print && (left > 0 || next.broken.is_some())
        });
        let Some(found) = found else { break };
        steps.push((found.step, found.state));
        state = found.state;
    }
    Trace { broken, steps, start: *start }
}
