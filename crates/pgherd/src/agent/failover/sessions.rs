//! What the proxy of a node counted while its sessions could not write.
//!
//! What it is: a state machine over the proxy's counts at each turn of the agent's loop. What it is not: exact to the session: counts
//! are sampled, and what happened in the second before and after belongs to it as well. Invariant: its times are differences on one
//! node's clock, so they mean the same everywhere.

use brain::Millis;
use proxy::Counts;
use serde::{Deserialize, Serialize};

/// Cuts and moves follow the change of the topology within this.
const AFTER_MS: u64 = 1_000;

/// Servers that died are noticed by sessions before they are by the agent: the counts before are so old at least.
const BEFORE_MS: u64 = 1_000;

/// One proxy during one failover.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ProxyReport {
    pub node: String,
    /// Of the primary that ended it.
    pub timeline: u32,
    /// Milliseconds from the moment when the proxy had no primary, or held, until it had one and did not.
    pub away_ms: u64,
    /// Sessions that waited for a server at the same time, at most as far as was seen.
    pub held: u64,
    /// Idle sessions, and those between two transactions, that were given a server on the new primary.
    pub moved: u64,
    /// Sessions that were ended because their server was not to be used any more.
    pub cut: u64,
    /// Sessions that waited longer than they may.
    pub timed_out: u64,
}

pub struct SessionWatch {
    node: String,
    /// The older one is from before `BEFORE_MS`, once there is one.
    before: [Option<(Millis, Counts)>; 2],
    state: State,
    last: Option<ProxyReport>,
}

enum State {
    /// It has had no primary yet: how long there has been none is not known here.
    Unserved,
    Served,
    Away {
        since: Millis,
        before: Counts,
        held: usize,
    },
    Back {
        at: Millis,
        since: Millis,
        before: Counts,
        held: usize,
    },
}

impl SessionWatch {
    pub fn new(node: &str) -> SessionWatch {
        SessionWatch { node: node.to_owned(), before: [None, None], state: State::Unserved, last: None }
    }

    /// After each publication of the topology: `serves` when it has a primary and no hold.
    pub fn look(&mut self, now: Millis, counts: Counts, serves: bool, timeline: u32) {
        let waiting = counts.queued + counts.parked + counts.seeking;
        let state = std::mem::replace(&mut self.state, State::Served);
        self.state = match state {
            State::Unserved if !serves => State::Unserved,
            State::Unserved | State::Served if serves => {
                self.sample(now, counts);
                State::Served
            }
            State::Unserved | State::Served => {
                let before = self.before[0].map_or(counts, |(_, before)| before);
                State::Away { since: now, before, held: waiting }
            }
            State::Away { since, before, held } if !serves => {
                State::Away { since, before, held: held.max(waiting) }
            }
            State::Away { since, before, held } => {
                State::Back { at: now, since, before, held: held.max(waiting) }
            }
            // A hold that goes on after the new primary has opened belongs to the same failover.
            State::Back { since, before, held, .. } if !serves => {
                State::Away { since, before, held: held.max(waiting) }
            }
            State::Back { at, since, before, held } if now.since(at) < AFTER_MS => {
                State::Back { at, since, before, held }
            }
            State::Back { at, since, before, held } => {
                self.last = Some(ProxyReport {
                    node: self.node.clone(),
                    timeline,
                    away_ms: at.since(since),
                    held: held as u64,
                    moved: counts.moved.saturating_sub(before.moved),
                    cut: counts.cuts.saturating_sub(before.cuts),
                    timed_out: counts.queue_timeouts.saturating_sub(before.queue_timeouts),
                });
                self.before = [None, Some((now, counts))];
                State::Served
            }
        };
    }

    /// Of a failover that is over; once.
    pub fn take(&mut self) -> Option<ProxyReport> {
        self.last.take()
    }

    fn sample(&mut self, now: Millis, counts: Counts) {
        let newer = self.before[1].get_or_insert((now, counts));
        if now.since(newer.0) >= BEFORE_MS {
            self.before = [self.before[1], Some((now, counts))];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(parked: usize, moved: u64, cuts: u64) -> Counts {
        Counts { parked, moved, cuts, ..Counts::default() }
    }

    fn watch(looks: &[(u64, Counts, bool)]) -> Option<ProxyReport> {
        let mut watch = SessionWatch::new("n1");
        looks.iter().for_each(|(now, counts, serves)| watch.look(Millis(*now), *counts, *serves, 2));
        watch.take()
    }

    #[test]
    fn the_peak_counts_and_what_came_of_it_is_the_difference() {
        let told = watch(&[
            (0, counts(0, 7, 1), true),
            (1_000, counts(0, 7, 1), true),
            // Its sessions have noticed before the agent has.
            (1_900, counts(0, 7, 3), true),
            (2_000, counts(3, 7, 3), false),
            (2_100, counts(9, 7, 3), false),
            (2_700, counts(1, 9, 3), true),
            (3_000, counts(0, 15, 4), true),
            (3_700, counts(0, 15, 4), true),
        ]);
        let report = ProxyReport {
            node: "n1".into(),
            timeline: 2,
            away_ms: 700,
            held: 9,
            moved: 8,
            cut: 3,
            timed_out: 0,
        };
        assert_eq!(told, Some(report));
    }

    #[test]
    fn a_hold_that_outlasts_the_opening_is_one_with_it() {
        let idle = counts(0, 0, 0);
        let looks = [(0, true), (10, false), (400, true), (450, false), (600, true), (1_700, true)];
        let told = watch(&looks.map(|(now, serves)| (now, idle, serves)));
        assert_eq!(told.map(|report| report.away_ms), Some(590));
    }

    #[test]
    fn nothing_is_told_before_it_is_over_nor_without_an_interruption() {
        let idle = counts(0, 0, 0);
        assert_eq!(
            watch(&[(0, idle, false), (500, idle, true), (9_000, idle, true)]),
            None,
            "begun in the middle"
        );
        assert_eq!(watch(&[(0, idle, true), (9_000, idle, true)]), None);
        assert_eq!(watch(&[(0, idle, true), (5, idle, false), (900, idle, true), (1_800, idle, true)]), None);
    }
}
