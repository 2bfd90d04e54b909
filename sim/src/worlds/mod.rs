//! Small worlds, walked exhaustively: the real `brain::decide` on three to five nodes.
//!
//! What it is: an explicit-state search. A state is what servers, disks, walsenders and the store hold at one moment;
//! every node may decide at any moment, over whatever peers it hears and whatever timers have run out, and everything
//! decided may happen late or never. What it is not: the simulator, which has clocks, leases and liveness.
//! Invariant: names of nodes mean nothing here, so states that differ by a renaming are one.

mod act;
mod bundle;
mod canon;
mod deviation;
mod environment;
mod execution;
mod laws;
mod mind;
mod moves;
mod search;
mod sight;
mod state;
mod store;
mod words;

pub use bundle::{SMALL, long, short};
pub use deviation::{Break, Deviation, Executor, deviations};
pub use laws::Broken;
pub use search::{Found, Trace};

use std::fmt;

use brain::mutation::Mutation;
use mind::{Frame, Mind};
use moves::Rules;
use state::{Branch, ERAS, Era, Left, Link, Log, NODES, NONE, Names, Node, Role, Sender, Set, State, WRITES};

/// A world's size: how many nodes and members, and how often each thing may happen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct World {
    pub nodes: u8,
    pub members: u8,
    pub k: u8,
    /// Records that primaries write besides their ends of recovery.
    pub commits: u8,
    /// Changes of the sync set within a term.
    pub changes: u8,
    /// Changes of `/primary`: takeovers and renewals.
    pub takeovers: u8,
    /// Crashes of servers and restarts of agents, together.
    pub crashes: u8,
    pub disks: u8,
    /// Transactions that reach the store later than at once, or never.
    pub late: u8,
    /// Connections of standbys that end for no reason.
    pub cuts: u8,
    /// The settings may also ask for another k than the first.
    pub any_k: bool,
    /// Standbys may see an old store too, not primaries alone.
    pub stale: bool,
    /// A walsender whose standby has gone may not notice, and counts on.
    pub ghosts: bool,
    /// A standby streams before it has flushed what its host has.
    pub slow: bool,
    /// At any moment any node may be tagged nofailover.
    pub tags: bool,
    /// Without the reductions that rest on what rules of the brain look at.
    pub thorough: bool,
}

impl fmt::Display for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} nodes, {} members, k {}", self.nodes, self.members, self.k)?;
        let counts = [
            ("commits", self.commits),
            ("changes", self.changes),
            ("takeovers", self.takeovers),
            ("crashes", self.crashes),
            ("disks", self.disks),
            ("late", self.late),
            ("cuts", self.cuts),
        ];
        for (name, count) in counts.into_iter().filter(|(_, count)| *count > 0) {
            write!(f, ", {name} {count}")?;
        }
        let switches = [
            ("any k", self.any_k),
            ("stale", self.stale),
            ("ghosts", self.ghosts),
            ("slow", self.slow),
            ("tags", self.tags),
            ("thorough", self.thorough),
        ];
        for (name, _) in switches.into_iter().filter(|(_, on)| *on) {
            write!(f, ", {name}")?;
        }
        Ok(())
    }
}

impl World {
    /// The limits are those of the bytes that a state is packed in.
    pub fn check(&self) -> Result<(), String> {
        let within = |name: &str, value: u8, low: u8, high: u8| {
            let fits = (low..=high).contains(&value);
            fits.then_some(()).ok_or(format!("--{name} {value}: {low} to {high} is possible"))
        };
        within("nodes", self.nodes, 2, NODES as u8)?;
        within("members", self.members, 1, self.nodes - 1)?;
        within("k", self.k, 1, self.members)?;
        within("takeovers", self.takeovers, 0, ERAS as u8 - 2)?;
        within("commits", self.commits, 0, 8)?;
        within("changes", self.changes, 0, 8)?;
        within("crashes", self.crashes, 0, 8)?;
        within("disks", self.disks, 0, 1)?;
        within("late", self.late, 0, WRITES as u8)?;
        within("cuts", self.cuts, 0, 8)
    }

    /// Node 0 is the open primary of term 1 and its members stream; the others are standbys of nobody.
    fn start(&self) -> State {
        let mut state = State { count: self.nodes, branch_count: 1, era_count: 1, ..State::default() };
        let members = (1..=self.members).map(|node| 1u16 << (node * 2)).sum();
        let set = Set { members, k: self.k };
        let names = Names { term: 1, set };
        state.branches[0] = Branch { timeline: 1, term: 1, acked: 1, ..Branch::default() };
        state.eras[0] = Era { term: 1, timeline: 1, from_timeline: 1, sync_term: 1, set, ..Era::default() };
        for index in 0..self.nodes {
            let node = &mut state.nodes[usize::from(index)];
            *node = Node {
                role: Role::Standby,
                log: Log { branch: 0, len: 1 },
                member: index * 2,
                promise: 1,
                upstream: NONE,
                ..Node::default()
            };
            if (1..=self.members).contains(&index) {
                (node.upstream, node.upstream_term) = (0, 1);
                let (link, member) = (Link::Connected, index * 2);
                state.nodes[0].senders[usize::from(index)] =
                    Sender { link, member, term: 1, flush: 1, names, twice: false };
            }
        }
        let primary = &mut state.nodes[0];
        (primary.role, primary.promoted, primary.served, primary.admitted) = (Role::Primary, 1, 1, true);
        (primary.names, primary.applied, primary.lsn) = (names, true, 1);
        let World { commits, changes, takeovers, crashes, disks, late, cuts, .. } = *self;
        state.left = Left { commits, changes, takeovers, crashes, disks, late, cuts };
        state
    }

    /// How this world goes on, with at most one rule broken. A fault of the brain is switched on by who walks.
    fn rules(&self, breaks: Option<Break>) -> Rules {
        let executor = match breaks {
            Some(Break::Executor(executor)) => Some(executor),
            _ => None,
        };
        let other = if self.k == 1 { 2 } else { 1 };
        let frame = Frame {
            ks: 1 << self.k | if self.any_k { 1 << other } else { 0 },
            lies: matches!(executor, Some(Executor::PositionEarly | Executor::ReceiverKept)),
            tags: self.tags,
            by_host: executor == Some(Executor::NamesByHost),
            thorough: self.thorough,
        };
        let unread = executor == Some(Executor::PositionEarly)
            || breaks == Some(Break::Brain(Mutation::PositionUnread));
        let World { stale, ghosts, slow, .. } = *self;
        Rules { mind: Mind::default(), frame, executor, stale, ghosts, slow, unread, first: 0 }
    }

    /// Walks this world, with at most one rule broken.
    pub fn explore(&self, breaks: Option<Break>, states_max: u64) -> Found {
        let mutation = match breaks {
            Some(Break::Brain(mutation)) => Some(mutation),
            _ => None,
        };
        brain::mutation::with(mutation, || search::search(&self.start(), &mut self.rules(breaks), states_max))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_world_is_exhausted_and_loses_nothing() {
        let found = SMALL.explore(None, 100_000);
        assert!(found.exhausted && found.broken.is_none(), "{found:?}");
        assert!(found.states > 500, "{} states", found.states);
    }

    /// The shortest way there is told step by step, from the start.
    #[test]
    fn a_broken_executor_is_found_with_its_trace() {
        let found = SMALL.explore(Some(Break::Executor(Executor::ReceiverKept)), 100_000);
        let trace = found.broken.expect("a receiver that goes on loses a commit");
        assert!(matches!(trace.broken, Broken::Lost { .. }));
        assert_eq!(trace.steps.len() as u32, found.depth, "every step was found again");
    }

    #[test]
    fn the_same_world_twice_is_the_same() {
        let (one, other) = (SMALL.explore(None, 100_000), SMALL.explore(None, 100_000));
        assert_eq!((one.states, one.depth), (other.states, other.depth));
    }
}
