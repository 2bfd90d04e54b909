//! States as bytes, and the one state that stands for all that differ only in which node is which.
//!
//! Invariant: packing and unpacking give the same state back, and two states that a renaming of nodes makes equal have
//! the same canonical bytes.

use super::state::{Branch, Era, Left, Link, Log, NODES, NONE, Names, Node, Role, Sender, Set, State, Write};

/// Reads or writes bytes, so that one list of fields serves both.
trait Tape {
    fn byte(&mut self, value: &mut u8);

    fn flags<const COUNT: usize>(&mut self, flags: [&mut bool; COUNT]) {
        let mut byte = flags.iter().enumerate().map(|(at, flag)| u8::from(**flag) << at).sum();
        self.byte(&mut byte);
        for (at, flag) in flags.into_iter().enumerate() {
            *flag = byte & (1 << at) != 0;
        }
    }

    fn pair(&mut self, low: &mut u8, high: &mut u8) {
        let mut byte = *low & 15 | *high << 4;
        self.byte(&mut byte);
        (*low, *high) = (byte & 15, byte >> 4);
    }

    fn set(&mut self, set: &mut Set) {
        let [mut low, mut high] = (set.members | u16::from(set.k) << 12).to_le_bytes();
        self.byte(&mut low);
        self.byte(&mut high);
        let word = u16::from_le_bytes([low, high]);
        *set = Set { members: word & 0xFFF, k: (word >> 12) as u8 };
    }

    fn names(&mut self, names: &mut Names) {
        self.byte(&mut names.term);
        self.set(&mut names.set);
    }

    fn log(&mut self, log: &mut Log) {
        self.pair(&mut log.branch, &mut log.len);
    }
}

struct Pack<'a>(&'a mut Vec<u8>);

impl Tape for Pack<'_> {
    fn byte(&mut self, value: &mut u8) {
        self.0.push(*value);
    }
}

struct Unpack<'a>(&'a [u8], usize);

impl Tape for Unpack<'_> {
    fn byte(&mut self, value: &mut u8) {
        *value = self.0[self.1];
        self.1 += 1;
    }
}

impl Sender {
    fn tape(&mut self, tape: &mut impl Tape) {
        let mut link = self.link as u8 | u8::from(self.twice) << 4;
        tape.byte(&mut link);
        self.twice = link & 16 != 0;
        self.link = [Link::None, Link::Connected, Link::Lingering][usize::from(link & 15)];
        if self.link != Link::None {
            tape.byte(&mut self.member);
            tape.pair(&mut self.term, &mut self.flush);
            tape.names(&mut self.names);
        }
    }
}

impl Node {
    fn tape(&mut self, tape: &mut impl Tape, count: usize) {
        let mut role = self.role as u8;
        tape.pair(&mut role, &mut self.era);
        self.role = [Role::Empty, Role::Down, Role::Standby, Role::Primary][usize::from(role)];
        tape.log(&mut self.log);
        tape.byte(&mut self.member);
        tape.pair(&mut self.promise, &mut self.promoted);
        tape.pair(&mut self.served, &mut self.lsn);
        tape.byte(&mut self.upstream);
        tape.byte(&mut self.upstream_term);
        let Node { rewound, unread, doubt, admitted, applied, busy, .. } = self;
        tape.flags([rewound, unread, doubt, admitted, applied, busy]);
        if self.role == Role::Primary {
            tape.names(&mut self.names);
            self.senders[..count].iter_mut().for_each(|sender| sender.tape(tape));
        }
    }
}

impl State {
    fn tape(&mut self, tape: &mut impl Tape) {
        tape.pair(&mut self.count, &mut self.branch_count);
        tape.pair(&mut self.era_count, &mut self.write_count);
        let Left { commits, changes, takeovers, crashes, disks, late, cuts } = &mut self.left;
        tape.pair(commits, changes);
        tape.pair(takeovers, crashes);
        tape.pair(disks, late);
        tape.byte(cuts);
        let count = self.count as usize;
        self.nodes[..count].iter_mut().for_each(|node| node.tape(tape, count));
        for branch in &mut self.branches[..self.branch_count as usize] {
            let Branch { parent, fork, timeline, term, node, acked } = branch;
            tape.pair(parent, fork);
            tape.pair(timeline, term);
            tape.pair(node, acked);
        }
        for era in &mut self.eras[..self.era_count as usize] {
            let Era {
                term, node, member, timeline, from_timeline, from_len, sync_term, sync_primary, ..
            } = era;
            tape.pair(term, node);
            tape.byte(member);
            tape.pair(timeline, from_timeline);
            tape.pair(from_len, sync_term);
            tape.byte(sync_primary);
            tape.set(&mut era.set);
            tape.flags([&mut era.sync_is_current]);
        }
        for write in &mut self.writes[..self.write_count as usize] {
            let Write { if_primary, if_sync, puts_primary, puts_sync, .. } = write;
            tape.flags([if_primary, if_sync, puts_primary, puts_sync]);
            tape.pair(&mut write.term, &mut write.node);
            tape.byte(&mut write.member);
            tape.pair(&mut write.timeline, &mut write.from_timeline);
            tape.pair(&mut write.from_len, &mut write.sync_term);
            tape.byte(&mut write.sync_primary);
            tape.set(&mut write.set);
        }
    }

    pub fn pack(&self, bytes: &mut Vec<u8>) {
        bytes.clear();
        self.clone().tape(&mut Pack(bytes));
    }

    pub fn unpack(bytes: &[u8]) -> State {
        let mut state = State::default();
        state.tape(&mut Unpack(bytes, 0));
        state
    }

    /// The same moment with node `i` called `to[i]`.
    pub fn renamed(&self, to: &[u8; NODES]) -> State {
        let node = |index: u8| to.get(usize::from(index)).copied().unwrap_or(index);
        let member = |id: u8| if id < 10 { to[usize::from(id / 2)] * 2 + id % 2 } else { id };
        let set = |old: Set| {
            let bits = (0..10).filter(|id| old.has(*id)).map(|id| 1u16 << member(id));
            Set { members: bits.sum(), k: old.k }
        };
        let mut new = State {
            branches: self.branches,
            eras: self.eras,
            writes: self.writes,
            nodes: [Node::default(); NODES],
            ..*self
        };
        for from in self.nodes() {
            let mut moved = self.nodes[from];
            moved.member = member(moved.member);
            moved.upstream = node(moved.upstream);
            moved.names.set = set(moved.names.set);
            moved.senders = [Sender::default(); NODES];
            for peer in self.nodes() {
                let mut sender = self.nodes[from].senders[peer];
                if sender.link != Link::None {
                    sender.member = member(sender.member);
                    sender.names.set = set(sender.names.set);
                }
                moved.senders[usize::from(to[peer])] = sender;
            }
            new.nodes[usize::from(to[from])] = moved;
        }
        for branch in &mut new.branches[..self.branch_count as usize] {
            branch.node = node(branch.node);
        }
        for era in &mut new.eras[..self.era_count as usize] {
            (era.node, era.member) = (node(era.node), member(era.member));
            (era.sync_primary, era.set) = (member(era.sync_primary), set(era.set));
        }
        for write in &mut new.writes[..self.write_count as usize] {
            if write.puts_primary {
                (write.node, write.member) = (node(write.node), member(write.member));
            }
            if write.puts_sync {
                (write.sync_primary, write.set) = (member(write.sync_primary), set(write.set));
            }
        }
        new.writes[..self.write_count as usize].sort_unstable();
        new
    }

    /// What nobody can see any more is forgotten, so that states that differ in it alone are one.
    pub fn forget(&mut self) {
        let last = self.era_count as usize - 1;
        for index in 0..last {
            if !self.nodes().any(|node| usize::from(self.nodes[node].era) == index) {
                let Era { term, timeline, .. } = self.eras[index];
                self.eras[index] =
                    Era { term, timeline, node: 15, member: NONE, sync_primary: NONE, ..Era::default() };
            }
        }
        for index in self.nodes() {
            let node = &mut self.nodes[index];
            if node.role != Role::Primary {
                node.names = Names::default();
                node.senders = [Sender::default(); NODES];
                (node.admitted, node.applied, node.busy, node.lsn) = (false, false, false, 0);
            }
            let own = node.member == self.eras[usize::from(node.era)].member;
            // What another was in doubt about died with its era.
            node.doubt &= node.role == Role::Primary && own;
            if node.upstream == NONE {
                node.upstream_term = 0;
            }
        }
        self.branches[self.branch_count as usize..].fill(Branch::default());
        self.eras[self.era_count as usize..].fill(Era::default());
        self.writes[self.write_count as usize..].fill(Write::default());
    }

    /// What tells a node apart whatever the nodes are called.
    fn mark(&self, index: usize) -> [u8; 24] {
        let node = &self.nodes[index];
        let own = |member: u8| member < 10 && usize::from(member / 2) == index;
        let sets = |set: Set| ((set.members >> (2 * index)) & 3) as u8;
        let mut mark = [0; 24];
        mark[0] = node.role as u8 | node.era << 4;
        mark[1] = node.log.branch << 4 | node.log.len;
        mark[2] = (node.member % 2) | (u8::from(node.member == NONE) << 1);
        (mark[3], mark[4], mark[5]) = (node.promise, node.promoted, node.served);
        mark[6] = u8::from(node.upstream != NONE) | u8::from(node.doubt) << 1 | u8::from(node.unread) << 2;
        (mark[7], mark[8]) = (node.upstream_term, u8::from(node.rewound));
        for (at, branch) in self.branches().iter().enumerate() {
            mark[9] |= u8::from(usize::from(branch.node) == index) << at;
        }
        for (at, era) in self.eras[..self.era_count as usize].iter().enumerate() {
            mark[10 + at] = u8::from(usize::from(era.node) == index) | u8::from(own(era.sync_primary)) << 1;
            mark[10 + at] |= sets(era.set) << 2;
        }
        for (at, host) in self.nodes().map(|host| &self.nodes[host]).enumerate() {
            let sender = &host.senders[index];
            // The sum does not depend on the order of the hosts.
            mark[16] = mark[16].wrapping_add(sender.link as u8);
            mark[17] = mark[17].wrapping_add(sender.flush);
            mark[18] = mark[18].wrapping_add(sets(sender.names.set)).wrapping_add(sender.names.set.k << 4);
            mark[19] = mark[19].wrapping_add(sets(host.names.set));
            mark[20] = mark[20].wrapping_add(u8::from(usize::from(host.upstream) == index));
            debug_assert!(at < NODES);
        }
        for write in self.writes() {
            let winner = write.puts_primary && usize::from(write.node) == index;
            mark[21] = mark[21].wrapping_add(u8::from(winner));
            mark[22] = mark[22].wrapping_add(if write.puts_sync { sets(write.set) } else { 0 });
        }
        mark
    }

    /// The smallest of all renamings, found among those that put the nodes in the order of their marks.
    pub fn canonical(&self, bytes: &mut Vec<u8>) -> State {
        let count = self.count as usize;
        let marks: [[u8; 24]; NODES] =
            std::array::from_fn(|i| if i < count { self.mark(i) } else { [0; 24] });
        let mut order: [u8; NODES] = [0, 1, 2, 3, 4];
        order[..count].sort_by_key(|index| marks[usize::from(*index)]);
        let mut best: Option<State> = None;
        let mut candidate = Vec::with_capacity(bytes.capacity());
        each_order(&mut order, count, 0, &marks, &mut |order| {
            let mut to = [0; NODES];
            for (place, index) in order[..count].iter().enumerate() {
                to[usize::from(*index)] = place as u8;
            }
            let renamed = self.renamed(&to);
            renamed.pack(&mut candidate);
            if best.is_none() || candidate < *bytes {
                std::mem::swap(bytes, &mut candidate);
                best = Some(renamed);
            }
        });
        best.unwrap_or(*self)
    }
}

/// Calls `visit` with every order that keeps the marks sorted: only nodes with equal marks change places.
fn each_order(
    order: &mut [u8; NODES],
    count: usize,
    at: usize,
    marks: &[[u8; 24]; NODES],
    visit: &mut impl FnMut(&[u8; NODES]),
) {
    if at >= count {
        return visit(order);
    }
    for other in at..count {
        if marks[usize::from(order[other])] == marks[usize::from(order[at])] {
            order.swap(at, other);
            each_order(order, count, at + 1, marks, visit);
            order.swap(at, other);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worlds::SMALL;

    /// Some thousand states from all over a world.
    fn walked() -> Vec<State> {
        let world = crate::worlds::World { nodes: 4, members: 3, crashes: 1, late: 1, cuts: 1, ..SMALL };
        let mut rules = world.rules(None);
        let mut states = vec![world.start()];
        let mut successors = Vec::new();
        for at in 0..400 {
            successors.clear();
            rules.successors(&states[at], &mut successors);
            states.extend(successors.iter().map(|next| next.state));
        }
        states.into_iter().step_by(3).collect()
    }

    #[test]
    fn a_state_survives_its_bytes() {
        let mut bytes = Vec::new();
        let states = walked();
        assert!(states.len() > 500, "{}", states.len());
        for state in states {
            state.pack(&mut bytes);
            assert_eq!(State::unpack(&bytes), state);
        }
    }

    #[test]
    fn names_of_nodes_mean_nothing() {
        let (mut one, mut other) = (Vec::new(), Vec::new());
        for state in walked() {
            state.canonical(&mut one);
            for to in [[1, 2, 3, 0, 4], [3, 1, 0, 2, 4], [0, 3, 2, 1, 4]] {
                state.renamed(&to).canonical(&mut other);
                assert_eq!(one, other, "{state:?} renamed {to:?}");
            }
        }
    }
}
