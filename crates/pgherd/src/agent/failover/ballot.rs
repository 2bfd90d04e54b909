//! Who answered in a takeover, and what was counted.

use std::collections::BTreeMap;

use brain::{Answer, Millis, NodeName, SyncRecord, Tally, Term, View};
use serde::{Deserialize, Serialize};
use wire::Lsn;

use super::{NODES_MAX, brief};

/// The answers, and the set that they were counted against.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Ballot {
    /// The sync set of the old primary, by node.
    pub set: Vec<String>,
    /// How many of the set had to flush a commit before it was acknowledged.
    pub k: u32,
    /// How many of the set must answer, or the whole old primary; 0 where any answer counts.
    pub needed: u32,
    /// Who asked for the promises, as far as the new primary knows.
    pub candidates: Vec<String>,
    /// In the order in which the new primary heard them.
    pub votes: Vec<Vote>,
    /// Who did not answer, and why, at the moment of the record.
    pub rejected: Vec<String>,
}

/// An answer: a promise, and where its WAL ends.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Vote {
    pub node: String,
    /// Its data directory.
    pub member: String,
    /// The term that it has promised.
    pub promise: u64,
    pub timeline: u32,
    pub lsn: Lsn,
    /// Milliseconds from the report's beginning until the new primary heard it.
    pub heard_ms: u64,
    /// It is one of the set, or has all that was acknowledged.
    pub counted: bool,
}

/// Collects answers as they are heard.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Votes {
    term: Term,
    candidates: Vec<NodeName>,
    heard: BTreeMap<NodeName, Heard>,
    rejected: Vec<String>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Heard {
    at: Millis,
    promise: Term,
    counted: bool,
    answer: Answer,
}

impl Votes {
    /// Who asks is known by what it says. A campaign for another term begins anew.
    pub fn campaign(&mut self, term: Term, candidates: Vec<NodeName>) {
        if self.term != term {
            *self = Votes { term, ..Votes::default() };
        }
        for candidate in candidates {
            if !self.candidates.contains(&candidate) && self.candidates.len() < NODES_MAX {
                self.candidates.push(candidate);
            }
        }
    }

    /// The answers for the campaign's term, as they stand now. One that is heard no more, because its node has gone on already, was
    /// an answer all the same.
    pub fn take_in(&mut self, view: &View, tally: Tally) {
        let promise_of = |node: &NodeName| match *node == view.me {
            true => view.durable.promise,
            false => view.memory.peers.get(node).map_or(Term(0), |heard| heard.status.promise),
        };
        let answers = tally.answers.into_iter().map(|answer| (true, answer));
        let strangers = tally.strangers.into_iter().map(|answer| (false, answer));
        for (counted, answer) in answers.chain(strangers) {
            let (at, promise) = (view.now, promise_of(&answer.node));
            let heard = self.heard.entry(answer.node.clone()).or_insert(Heard {
                at,
                promise,
                counted,
                answer: answer.clone(),
            });
            (heard.counted, heard.promise, heard.answer) = (counted, promise, answer);
        }
        self.rejected = tally.rejected;
    }

    pub fn answer_of(&self, node: &NodeName) -> Option<&Answer> {
        self.heard.get(node).map(|heard| &heard.answer)
    }

    /// Of the members of the set.
    pub fn counted(&self) -> usize {
        self.heard.values().filter(|heard| heard.counted).count()
    }

    /// Of a takeover for `term`, recorded against `sync`, that began at `beginning`.
    pub fn ballot(&self, term: Term, sync: &SyncRecord, beginning: Millis) -> Ballot {
        let any = sync.is_async() || sync.idle;
        let mut ballot = Ballot {
            set: sync.set.members.iter().map(|member| member.node().0).take(NODES_MAX).collect(),
            k: sync.set.k as u32,
            needed: if any { 0 } else { sync.set.answers_needed() as u32 },
            ..Ballot::default()
        };
        // Answers for a lower term are none: somebody asked anew.
        if self.term != term {
            return ballot;
        }
        ballot.candidates = self.candidates.iter().map(|node| node.0.clone()).collect();
        let mut heard: Vec<&Heard> = self.heard.values().collect();
        heard.sort_by_key(|heard| heard.at);
        let vote = |heard: &Heard| Vote {
            node: heard.answer.node.0.clone(),
            member: heard.answer.member.0.clone(),
            promise: heard.promise.0,
            timeline: heard.answer.position.timeline.0,
            lsn: heard.answer.position.lsn,
            heard_ms: heard.at.since(beginning),
            counted: heard.counted,
        };
        ballot.votes = heard.into_iter().take(NODES_MAX).map(vote).collect();
        let is_left_out = |reason: &&String| {
            let node = reason.split_once(':').map_or(reason.as_str(), |(node, _)| node);
            !self.heard.contains_key(&NodeName::from(node))
        };
        let primary = sync.primary.node().0;
        let unheard = ballot.set.iter().chain([&primary]).filter(|node| {
            let known = self.rejected.iter().any(|reason| reason.starts_with(&format!("{node}:")));
            !known && !self.heard.contains_key(&NodeName::from(node.as_str()))
        });
        let unheard = unheard.map(|node| format!("{node}: not heard"));
        let rejected = self.rejected.iter().filter(is_left_out).map(|reason| brief(reason));
        ballot.rejected = rejected.chain(unheard).take(NODES_MAX).collect();
        ballot
    }
}
