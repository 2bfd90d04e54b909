//! What happens by itself: commits, walsenders, receivers, crashes, lost disks.
//!
//! What it models of PostgreSQL: walsenders that apply a reload one by one and late, release by their own reading and
//! count whoever's own walsender claims a priority; a slot admits one walsender; a receiver follows a host and ends late.
//! An acknowledgement is taken as soon as a walsender could give it: that only adds duties.

use super::deviation::Executor;
use super::laws::Broken;
use super::moves::{Next, Rules, Step};
use super::state::{Link, Log, NONE, Node, Role, Sender, State};
use super::store::read_store;

impl Rules {
    pub(super) fn environment(&self, state: &State, at: usize, out: &mut Vec<Next>) {
        let node = &state.nodes[at];
        if node.role == Role::Primary {
            self.environment_of_primary(state, at, out);
        }
        if node.role == Role::Standby {
            self.environment_of_standby(state, at, out);
        }
        if node.era + 1 < state.era_count {
            let mut next = *state;
            read_store(&mut next, at);
            self.push(state, Step::ReadsStore(at), Some(next), out);
        }
        if state.left.crashes > 0 {
            let mut next = *state;
            next.left.crashes -= 1;
            let mut restarted = next;
            if matches!(node.role, Role::Primary | Role::Standby) {
                stop(&mut next, at);
                self.push(state, Step::ServerCrashes(at), Some(next), out);
            }
            let agent = &mut restarted.nodes[at];
            (agent.served, agent.applied, agent.busy, agent.doubt) = (0, false, false, true);
            if self.lies(Executor::PromiseVolatile) {
                agent.promise = 0;
            }
            self.push(state, Step::AgentRestarts(at), Some(restarted), out);
        }
        if state.left.disks > 0 && node.role != Role::Empty && node.member.is_multiple_of(2) {
            let mut next = *state;
            next.left.disks -= 1;
            stop(&mut next, at);
            let (era, served) = (node.era, 0);
            next.nodes[at] =
                Node { member: NONE, upstream: NONE, doubt: true, era, served, ..Node::default() };
            self.push(state, Step::DiskLost(at), Some(next), out);
        }
    }

    fn environment_of_primary(&self, state: &State, at: usize, out: &mut Vec<Next>) {
        let node = &state.nodes[at];
        if state.left.commits > 0 {
            let mut next = *state;
            next.left.commits -= 1;
            next.nodes[at].log.len += 1;
            self.push(state, Step::Appends(at), Some(next), out);
        }
        for peer in state.nodes() {
            let sender = &node.senders[peer];
            if sender.link == Link::Connected && sender.names != node.names {
                let mut next = *state;
                next.nodes[at].senders[peer].names = node.names;
                self.push(state, Step::WalsenderRereads(at, peer), Some(next), out);
            }
            if sender.link == Link::Lingering {
                let mut next = *state;
                next.nodes[at].senders[peer] = Sender::default();
                self.push(state, Step::WalsenderEnds(at, peer), Some(next), out);
            }
        }
        let by_host = self.lies(Executor::NamesByHost);
        if node.busy && node.senders.iter().all(|s| !s.counts(by_host) || s.names == node.names) {
            let mut next = *state;
            let early = self.lies(Executor::MeasureEarly);
            let lsn = if early { node.lsn } else { node.log.len };
            next.nodes[at] = Node { busy: false, applied: true, lsn, ..*node };
            self.push(state, Step::InForce(at), Some(next), out);
        }
    }

    fn environment_of_standby(&self, state: &State, at: usize, out: &mut Vec<Next>) {
        if state.nodes[at].unread {
            let mut next = *state;
            next.nodes[at].unread = false;
            self.push(state, Step::StartupHasRead(at), Some(next), out);
        }
        match state.host_of(at) {
            Some(host) => {
                if state.left.cuts > 0 {
                    let mut next = *state;
                    next.left.cuts -= 1;
                    linger(&mut next, at);
                    self.push(state, Step::LosesConnection(at), Some(next), out);
                }
                self.stream(state, at, (host, Step::Streams(at)), out);
            }
            None => {
                if let Some((fetched, overwritten)) = fetch(state, at) {
                    self.push_streamed(state, at, Step::Fetches(at), fetched, overwritten, out);
                }
                if let Some((connected, host)) = self.connect(state, at) {
                    let step = Step::Connects(at);
                    if self.slow {
                        let mut next = connected;
                        next.nodes[host].senders[at].flush = state.nodes[at].log.len;
                        self.push(state, step, Some(next), out);
                    } else {
                        self.stream(&connected, at, (host, step), out);
                    }
                }
            }
        }
    }

    /// A receiver asks its host for WAL: the host lets it in when its WAL is, by timelines, a beginning of its own.
    pub(super) fn connect(&self, state: &State, at: usize) -> Option<(State, usize)> {
        let own = &state.nodes[at];
        let far = state.nodes.get(usize::from(own.upstream)).filter(|far| far.role == Role::Primary)?;
        if usize::from(own.upstream) == at || own.unread || !begins_by_timeline(state, own.log, far.log) {
            return None;
        }
        let host = usize::from(own.upstream);
        let ghost = state.nodes[host].senders[at].link == Link::Lingering;
        let sender = Sender {
            link: Link::Connected,
            member: own.member,
            term: own.upstream_term,
            flush: 0,
            names: far.names,
            twice: ghost && self.lies(Executor::NoSlot),
        };
        let mut next = *state;
        next.nodes[host].senders[at] = sender;
        Some((next, host))
    }

    /// All that the host has flushed comes, is flushed, and is reported at once.
    fn stream(&self, state: &State, at: usize, (host, step): (usize, Step), out: &mut Vec<Next>) {
        let whole = state.nodes[host].log;
        let mut next = *state;
        let overwritten = !state.begins(state.nodes[at].log, whole);
        next.nodes[at].log = state.settle_log(whole);
        next.nodes[host].senders[at].flush = whole.len;
        self.push_streamed(state, at, step, next, overwritten, out);
    }

    fn push_streamed(
        &self,
        state: &State,
        at: usize,
        step: Step,
        next: State,
        overwritten: bool,
        out: &mut Vec<Next>,
    ) {
        let before = out.len();
        self.push(state, step, Some(next), out);
        if overwritten && out.len() > before {
            out[before].broken = Some(Broken::Overwritten { node: at as u8 });
        }
    }

    /// Waiters are released by every walsender that may: by its own k, over everybody who counts.
    pub(super) fn acknowledge(&self, state: &mut State) {
        let by_host = self.lies(Executor::NamesByHost);
        for at in state.nodes() {
            let node = &mut state.nodes[at];
            if node.role != Role::Primary {
                continue;
            }
            let branch = usize::from(node.log.branch);
            let era = &state.eras[usize::from(node.era)];
            let own = node.member == era.member && state.branches[branch].timeline == era.timeline;
            if own && node.admitted && era.sync_term == era.term {
                node.served = node.served.max(era.term);
            }
            let mut flushes: Vec<u8> = Vec::new();
            for sender in node.senders.iter().filter(|s| s.counts(by_host) && s.flush > 0) {
                flushes.extend(std::iter::repeat_n(sender.flush, 1 + usize::from(sender.twice)));
            }
            flushes.sort_unstable_by(|left, right| right.cmp(left));
            let releasing = node
                .senders
                .iter()
                .filter(|s| node.admitted && s.link == Link::Connected && s.counts(by_host) && s.flush > 0);
            for sender in releasing {
                let k = usize::from(sender.names.set.k);
                let end = k.checked_sub(1).and_then(|last| flushes.get(last)).copied().unwrap_or(0);
                let acked = &mut state.branches[branch].acked;
                *acked = (*acked).max(end.min(node.log.len));
            }
        }
    }
}

/// Every walsender notices that its standby has gone.
pub(super) fn bury(state: &mut State) {
    for sender in state.nodes.iter_mut().flat_map(|node| &mut node.senders) {
        if sender.link == Link::Lingering {
            *sender = Sender::default();
        }
    }
}

/// The walsender of `at`'s receiver has not noticed that it has gone.
pub(super) fn linger(state: &mut State, at: usize) {
    for host in state.nodes() {
        let sender = &mut state.nodes[host].senders[at];
        if sender.link == Link::Connected {
            sender.link = if sender.flush > 0 { Link::Lingering } else { Link::None };
            if sender.flush == 0 {
                *sender = Sender::default();
            }
        }
    }
}

/// Every process of the server ends; all that is kept here was flushed.
pub(super) fn stop(state: &mut State, at: usize) {
    linger(state, at);
    let node = &mut state.nodes[at];
    (node.role, node.upstream, node.unread) = (Role::Down, NONE, false);
}

/// All WAL of a standby that takes none itself comes to the one that is pointed at it. A standby's walsender acknowledges
/// nothing.
fn fetch(state: &State, at: usize) -> Option<(State, bool)> {
    let own = &state.nodes[at];
    let source = state.nodes.get(usize::from(own.upstream)).filter(|source| source.role == Role::Standby)?;
    let more = source.log != own.log && begins_by_timeline(state, own.log, source.log);
    if usize::from(own.upstream) == at || own.unread || source.unread || !more {
        return None;
    }
    let mut next = *state;
    next.nodes[at].log = state.settle_log(source.log);
    Some((next, !state.begins(own.log, source.log)))
}

/// As `IDENTIFY_SYSTEM` and the history file tell it: by timeline ids and lengths, which is all that PostgreSQL knows.
fn begins_by_timeline(state: &State, part: Log, whole: Log) -> bool {
    let timeline = state.timeline(part);
    let mut at = whole;
    loop {
        if state.branches[usize::from(at.branch)].timeline == timeline {
            return part.len <= at.len;
        }
        if at.branch == 0 {
            return part.len == 0;
        }
        let branch = &state.branches[usize::from(at.branch)];
        at = Log { branch: branch.parent, len: at.len.min(branch.fork) };
    }
}
