//! How the brain's decisions are carried out: each action happens at once, at one later moment.
//!
//! What it is not: a choice. What an executor refuses by its own checks is refused here too.

use super::act::Act;
use super::deviation::Executor;
use super::environment::{linger, stop};
use super::moves::Rules;
use super::state::{Link, Log, NONE, Names, Node, Role, State};

impl Rules {
    pub(super) fn act(&self, state: &State, at: usize, act: Act) -> Option<State> {
        let mut next = *state;
        let node = &mut next.nodes[at];
        let (role, promise) = (node.role, node.promise);
        let free = !node.busy;
        match act {
            Act::Write(write) => {
                let sent = self.send(state, at, write)?;
                let index = sent.writes().iter().position(|known| *known == write)?;
                return self.arrive(&sent, index);
            }
            // With no takeover left a promise only takes possibilities away.
            Act::Promise(term) if term > state.era().term && state.left.takeovers == 0 => return None,
            Act::Promise(term) => node.promise = promise.max(term),
            Act::Revoke(_) => return None,
            Act::Start if role == Role::Down => {
                *node = Node { role: Role::Standby, unread: self.unread, upstream: NONE, ..*node };
            }
            Act::Stop if matches!(role, Role::Primary | Role::Standby) && free => stop(&mut next, at),
            Act::Detach(term) if role == Role::Standby && term >= promise => {
                // The emptied setting and the receiver's end are two moments; only a look between them tells.
                let ends = node.upstream == NONE || !self.frame.thorough;
                node.upstream = NONE;
                if ends && !self.lies(Executor::ReceiverKept) {
                    linger(&mut next, at);
                }
            }
            Act::Follow(term, host) if role == Role::Standby && term >= promise => {
                (node.upstream, node.upstream_term, node.promise) = (host, term, term);
                linger(&mut next, at);
                if !self.frame.thorough
                    && let Some((connected, host)) = self.connect(&next, at)
                {
                    // Pointed but not streaming, it would be as mute as if it were not heard.
                    next = connected;
                    let whole = next.nodes[host].log;
                    if self.slow {
                        next.nodes[host].senders[at].flush = next.nodes[at].log.len;
                    } else if next.begins(next.nodes[at].log, whole) {
                        next.nodes[at].log = next.settle_log(whole);
                        next.nodes[host].senders[at].flush = whole.len;
                    }
                }
            }
            // To fetch is to promise nothing: the promise of the term has been given.
            Act::Fetch(term, source) if role == Role::Standby && term == promise => {
                (node.upstream, node.upstream_term) = (source, term);
                linger(&mut next, at);
            }
            Act::Clone(term, source) if role == Role::Empty && term >= promise => {
                let from = state.nodes[usize::from(source)];
                let keeps = self.lies(Executor::CloneKeepsMember);
                let member = at as u8 * 2 + u8::from(!keeps);
                let log = if keeps { self.oldest_replica(state, at)? } else { from.log };
                if from.role != Role::Primary {
                    return None;
                }
                *node = Node { role: Role::Down, log, member, promise: term, ..*node };
            }
            Act::Rewind(term, source) if term >= promise => return rewind(state, at, term, source),
            Act::Promote(term, timeline, set) if role == Role::Standby && term >= promise => {
                return self.promote(state, at, timeline, Names { term, set });
            }
            Act::Apply(term, set) if role == Role::Primary && free && term >= promise => {
                let era = state.eras[usize::from(node.era)];
                if era.sync_term == era.term && era.set != set && state.left.changes == 0 {
                    return None;
                }
                (node.names, node.applied, node.busy) = (Names { term, set }, false, true);
                node.lsn = node.log.len;
                if !node.admitted && !self.frame.thorough {
                    // Nobody waits for a commit in quarantine: who has read what when is of no consequence.
                    let present = node.senders.iter_mut().filter(|sender| sender.link != Link::None);
                    present.for_each(|sender| sender.names = Names { term, set });
                    (node.applied, node.busy) = (true, false);
                }
                if self.lies(Executor::Signalled) {
                    (node.applied, node.busy) = (true, false);
                }
            }
            Act::Admit if role == Role::Primary && !node.admitted && free => {
                node.admitted = true;
                let branch = &mut next.branches[usize::from(node.log.branch)];
                branch.acked = branch.acked.max(branch.fork + 1);
            }
            _ => return None,
        }
        Some(next)
    }

    /// The shortest log among the other standbys: "from a replica by preference".
    fn oldest_replica(&self, state: &State, at: usize) -> Option<Log> {
        let others = state.nodes().filter(|peer| *peer != at && state.nodes[*peer].role == Role::Standby);
        others.map(|peer| state.nodes[peer].log).min_by_key(|log| (log.len, log.branch))
    }

    fn promote(&self, state: &State, at: usize, timeline: u8, names: Names) -> Option<State> {
        let mut next = *state;
        let index = state.branch_count as usize;
        let node = &mut next.nodes[at];
        if node.unread || state.host_of(at).is_some() || index >= next.branches.len() {
            return None;
        }
        let log = node.log;
        let branch = &mut next.branches[index];
        (branch.parent, branch.fork, branch.acked) = (log.branch, log.len, 0);
        (branch.timeline, branch.term, branch.node) = (timeline, names.term, at as u8);
        next.branch_count += 1;
        let log = Log { branch: index as u8, len: log.len + 1 };
        *node = Node {
            role: Role::Primary,
            log,
            promoted: names.term,
            upstream: NONE,
            names,
            applied: true,
            lsn: log.len,
            ..*node
        };
        Some(next)
    }
}

/// A rewind is two moments: the data directory is in pieces, and it is whole again and follows its source.
fn rewind(state: &State, at: usize, term: u8, source: u8) -> Option<State> {
    let mut next = *state;
    let from = state.nodes[usize::from(source)];
    match state.nodes[at] {
        Node { role: Role::Standby, .. } => {
            stop(&mut next, at);
            let node = &mut next.nodes[at];
            (node.promise, node.rewound, node.log) = (term, true, Log::default());
        }
        Node { role: Role::Down, rewound: true, .. } if from.role == Role::Primary => {
            let node = &mut next.nodes[at];
            (node.role, node.promise, node.rewound) = (Role::Standby, term, false);
            (node.upstream, node.upstream_term, node.log) = (source, term, state.settle_log(from.log));
        }
        _ => return None,
    }
    Some(next)
}
