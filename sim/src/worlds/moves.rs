//! Everything that may happen next: the environment's moves, and the brain's decisions as the executor carries them out.
//!
//! What it is: which of them are walked, and in which order none is needed. What it is not: what they do, which is in
//! `environment`, `execution` and `store`. Invariant: every state that is pushed has been looked at by every law.

use super::act::Act;
use super::deviation::Executor;
use super::environment::bury;
use super::laws::{self, Broken};
use super::mind::{Frame, Mind};
use super::state::{NONE, Node, Role, State, Write};

/// One step of a trace; numbers are nodes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    Decides(usize, &'static str, Act),
    SendsLate(usize, &'static str, Write),
    Appends(usize),
    Connects(usize),
    LosesConnection(usize),
    WalsenderEnds(usize, usize),
    Streams(usize),
    Fetches(usize),
    WalsenderRereads(usize, usize),
    InForce(usize),
    WriteArrives(Write),
    ReadsStore(usize),
    StartupHasRead(usize),
    ServerCrashes(usize),
    AgentRestarts(usize),
    DiskLost(usize),
}

#[derive(Clone, Copy, Debug)]
pub struct Next {
    pub step: Step,
    pub state: State,
    pub broken: Option<Broken>,
}

/// How this world goes on.
pub struct Rules {
    pub mind: Mind,
    pub frame: Frame,
    pub executor: Option<Executor>,
    /// Nodes that are no primary may also see an old store, not primaries alone.
    pub stale: bool,
    /// A walsender whose standby has gone may count on.
    pub ghosts: bool,
    /// A receiver streams first, and flushes what is new at a later moment.
    pub slow: bool,
    /// A started standby does not know the end of its WAL at once; it is mute until then.
    pub unread: bool,
    /// Whose step without order comes first: any will do, and a way is found again only by the one that was taken.
    pub first: usize,
}

impl Rules {
    pub(super) fn lies(&self, executor: Executor) -> bool {
        self.executor == Some(executor)
    }

    pub fn successors(&mut self, state: &State, out: &mut Vec<Next>) {
        if !self.frame.thorough && self.at_once(state, out) {
            return;
        }
        for node in state.nodes() {
            self.environment(state, node, out);
        }
        for index in 0..state.write_count as usize {
            let (step, next) = (Step::WriteArrives(state.writes[index]), self.arrive(state, index));
            self.push(state, step, next, out);
        }
        self.decide(state, out);
    }

    /// Steps that need no order among others. A server that is down is, for all others, one that is not heard. What a
    /// member streams after its promise it might as well have streamed before. A deposed primary that has read so might
    /// as well have read it when it stops. Whom an open primary admits late it could have admitted at once, with more
    /// duties.
    fn at_once(&mut self, state: &State, out: &mut Vec<Next>) -> bool {
        let due = |node: &Node| match node.role {
            Role::Down => !node.rewound,
            Role::Standby => node.upstream != NONE && node.promise > node.upstream_term,
            Role::Primary => {
                let era = &state.eras[usize::from(node.era)];
                let own = node.member == era.member;
                node.era + 1 == state.era_count && !own
                    || own && !node.admitted && era.sync_term == era.term && era.sync_primary == node.member
            }
            Role::Empty => false,
        };
        let mut turn = state.nodes().map(|at| (at + self.first) % state.count as usize);
        let Some(at) = turn.find(|at| due(&state.nodes[*at])) else { return false };
        for (rule, act) in self.mind.decisions(state, at, self.frame) {
            if matches!(act, Act::Start | Act::Detach(_) | Act::Stop | Act::Admit) {
                let next = self.act(state, at, act);
                self.push(state, Step::Decides(at, rule, act), next, out);
            }
        }
        !out.is_empty()
    }

    pub(super) fn push(&self, before: &State, step: Step, next: Option<State>, out: &mut Vec<Next>) {
        let Some(mut state) = next else { return };
        if beyond(before, step) {
            return;
        }
        if !self.ghosts {
            bury(&mut state);
        }
        state.forget();
        self.acknowledge(&mut state);
        if state != *before {
            let broken = laws::broken(&state);
            out.push(Next { step, state, broken });
        }
    }

    fn decide(&mut self, state: &State, out: &mut Vec<Next>) {
        let mut terms: Vec<u8> = Vec::new();
        for node in state.nodes() {
            for (rule, act) in self.mind.decisions(state, node, self.frame) {
                if let Act::Revoke(term) = act {
                    terms.push(term);
                }
                let next = self.act(state, node, act);
                self.push(state, Step::Decides(node, rule, act), next, out);
                if let Act::Write(write) = act {
                    let next = self.send_late(state, node, write);
                    self.push(state, Step::SendsLate(node, rule, write), next, out);
                }
            }
        }
        terms.sort_unstable();
        terms.dedup();
        for term in terms {
            for node in state.nodes().filter(|node| state.nodes[*node].promise < term) {
                for (rule, act) in self.mind.asked(state, node, self.frame, term) {
                    let next = self.act(state, node, act);
                    self.push(state, Step::Decides(node, rule, act), next, out);
                }
            }
        }
    }
}

/// No takeover is left and the last winner is promoted: no later log can lack what the last primary acknowledges, so
/// only what older primaries may still acknowledge is walked.
fn beyond(state: &State, step: Step) -> bool {
    let last = state.branch_count as usize - 1;
    let (era, newest) = (state.era(), &state.branches[last]);
    if state.left.takeovers > 0 || newest.timeline != era.timeline || last == 0 {
        return false;
    }
    let old = |node: &Node| node.role == Role::Primary && usize::from(node.log.branch) != last;
    if !state.nodes.iter().any(old) {
        return true;
    }
    let newest = usize::from(newest.node);
    match step {
        Step::Appends(at) | Step::InForce(at) | Step::WalsenderRereads(at, _) => at == newest,
        Step::Decides(_, _, Act::Follow(_, host)) => usize::from(host) == newest,
        Step::Decides(_, _, Act::Rewind(..) | Act::Clone(..)) => true,
        Step::Decides(at, ..) | Step::SendsLate(at, ..) => at == newest,
        Step::Connects(at) | Step::Streams(at) => usize::from(state.nodes[at].upstream) == newest,
        _ => false,
    }
}
